"""From a head's output to a chance, and how far that chance can be believed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEAST_GAP = 1e-6
_ONE_SIDED = 0.05


class Calibration(NamedTuple):
    """A piecewise linear map from logits to risks."""

    x: NDArray[np.float64]  # [K] ascending
    y: NDArray[np.float64]  # [K] never falling

    def risks(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the risk of each logit [n]."""
        risks: NDArray[np.float64] = np.interp(logits, self.x, self.y)
        return risks


def isotonic(logits: NDArray[np.floating], harms: NDArray[np.floating]) -> Calibration:
    """Fit risks to logits [n] and harms [n] in [0, 1]: the never falling map of the least squared error.

    By pooling adjacent violators. A pool's risk is shrunk towards a half as if one more label of that harm had been
    seen: a pool without harm is no proof that there is none. Between the means of the pools the map is linear.
    """
    order = np.argsort(logits, kind="stable")
    pools: list[list[float]] = []  # count, sum of logits, sum of harms
    for logit, harm in zip(logits[order].tolist(), harms[order].tolist(), strict=True):
        pools.append([1.0, logit, harm])
        while len(pools) > 1 and pools[-2][2] * pools[-1][0] >= pools[-1][2] * pools[-2][0]:
            last = pools.pop()
            pools[-1] = [mine + its for mine, its in zip(pools[-1], last, strict=True)]
    table = np.array(pools)
    x = table[:, 1] / table[:, 0]
    y = np.maximum.accumulate((table[:, 2] + 0.5) / (table[:, 0] + 1))
    apart = np.concatenate([[True], np.diff(x) > _LEAST_GAP])
    return Calibration(x[apart], y[apart])


def calibration_error(risks: NDArray[np.floating], harms: NDArray[np.floating], bins: int = 10) -> float:
    """Return the expected calibration error: |mean risk - mean harm| over bins of equal count, weighed by count."""
    order = np.argsort(risks, kind="stable")
    parts = zip(np.array_split(risks[order], bins), np.array_split(harms[order], bins), strict=True)
    error = sum(len(risk) * abs(float(risk.mean()) - float(harm.mean())) for risk, harm in parts if len(risk))
    return error / len(risks)


def ranking(scores: NDArray[np.floating], harmful: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: how often a harmful swap has the greater score; ties count a half.

    0.5 where all swaps are of one kind.
    """
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    many, few = int(harmful.sum()), int((~harmful).sum())
    if not many or not few:
        return 0.5
    return float((ranks[harmful].sum() - many * (many + 1) / 2) / (many * few))


def upper95(worse: int, count: int) -> float:
    """Return the upper end of the one-sided 95 % interval of a share, of which ``worse`` of ``count`` were seen.

    Clopper and Pearson's: the chance at which so few, or fewer, are seen with 5 %. Never too low, whatever the true
    share; with none seen it is 1 - 0.05^(1/count), about 3 / count.
    """
    if worse >= count:
        return 1.0
    low, high = worse / count, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(worse, count, middle) > _ONE_SIDED else (low, middle)
    return high


def _at_most(worse: int, count: int, share: float) -> float:
    """Return the chance of ``worse`` or fewer of ``count`` at a share in (0, 1)."""
    if not 0 < share < 1:
        return float(share <= 0)
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(share) + (count - k) * math.log1p(-share)
        for k in range(worse + 1)
    ]  # fmt: skip
    return float(np.exp(np.logaddexp.reduce(logs)))
