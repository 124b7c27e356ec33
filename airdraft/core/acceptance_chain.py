"""What an acceptance rule judges: a chain of draft tokens, the target's distributions and the drafter's, and chance.

Distributions are sparse: ids with positive or zero probability, all others have none. A target row is what is left
after top-k, top-p and min-p, or the whole vocabulary (``Distribution.dense``). A drafter's row is what the draft token
was really sampled from: on a device that is ``SparseQ``, the form that goes on the wire, and never what it was made of.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUM_TOLERANCE = 1e-9
"""How far a distribution's sum may be from 1."""

WEIGHT_TOTAL = 65_535
"""What the weights of a ``SparseQ`` add up to: the most that a uint16 holds, so that certainty fits."""


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """Probabilities of the ids that may come next.

    ids            [N]  ascending
    probabilities  [N]  from 0, adding up to 1

    Raises ValueError where that does not hold.
    """

    ids: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.ids.shape != self.probabilities.shape or not self.ids.size:
            raise ValueError(f"{self.ids.shape} ids for {self.probabilities.shape} probabilities")
        if self.ids[0] < 0 or (np.diff(self.ids) <= 0).any():
            raise ValueError("ids of a distribution must ascend from 0 or more, each once")
        total = self.probabilities.sum()
        if not (self.probabilities >= 0).all() or not abs(total - 1) <= SUM_TOLERANCE:
            raise ValueError(f"probabilities must be 0 or more and add up to 1, not {total}")

    @classmethod
    def dense(cls, row: ArrayLike) -> Distribution:
        """Return the distribution over ids 0 to V-1 with probabilities ``row`` [V]."""
        probabilities = np.asarray(row, dtype=np.float64)
        return cls(np.arange(probabilities.size), probabilities)

    def probability(self, token: int) -> float:
        """Return the probability of ``token``, 0 for an id not held."""
        index = int(np.searchsorted(self.ids, token))
        held = index < self.ids.size and self.ids[index] == token
        return float(self.probabilities[index]) if held else 0.0

    def entropy(self) -> float:
        """Return the entropy in nats."""
        positive = self.probabilities[self.probabilities > 0]
        return float(-(positive * np.log(positive)).sum())

    def draw(self, uniform: float) -> int:
        """Return the id that ``uniform`` in [0, 1) falls on."""
        return draw(self.ids, self.probabilities, uniform)


def residual(target: Distribution, draft: Distribution, scale: float = 1.0) -> NDArray[np.float64]:
    """Return max(scale * p - q, 0) at the target's ids, [N], not normalised; elsewhere it is 0."""
    left = scale * target.probabilities
    at = np.searchsorted(target.ids, draft.ids).clip(max=target.ids.size - 1)
    held = target.ids[at] == draft.ids
    left[at[held]] -= draft.probabilities[held]
    return np.maximum(left, 0.0)


def draw(ids: NDArray[np.int64], weights: NDArray[np.float64], uniform: float) -> int:
    """Return the id that ``uniform`` falls on where each takes its share of [0, 1), in order of ids.

    ids      [N]  ascending
    weights  [N]  from 0, of any sum above 0; an id of weight 0 is never returned
    """
    ends = np.cumsum(weights)
    below = min(uniform * ends[-1], np.nextafter(ends[-1], 0.0))  # a product of tiny numbers may round up to the end
    return int(ids[np.searchsorted(ends, below, side="right")])


@dataclass(frozen=True, slots=True)
class SparseQ:
    """A drafter's distribution as integers: what goes on the wire and what a device samples from are one.

    ids      ascending
    weights  one for each id, 1 to 65,535, adding up to 65,535: the probability is weight / 65,535

    An entry takes at most 6 bytes as varints, 3 for the step from the id before it (below 2^21) and 3 for the weight.
    Raises ValueError where the ids or weights are none of this.
    """

    ids: tuple[int, ...]
    weights: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.weights):
            raise ValueError(f"{len(self.ids)} ids for {len(self.weights)} weights")
        if any(later <= earlier for earlier, later in zip((-1, *self.ids), self.ids, strict=False)):
            raise ValueError("ids of q must ascend from 0 or more, each once")
        if any(weight < 1 for weight in self.weights) or sum(self.weights) != WEIGHT_TOTAL:
            raise ValueError(f"weights of q must be 1 or more and add up to {WEIGHT_TOTAL}, not {sum(self.weights)}")

    def probabilities(self) -> NDArray[np.float64]:
        """Return the probability of each id, [K]."""
        return np.asarray(self.weights, dtype=np.float64) / WEIGHT_TOTAL

    def distribution(self) -> Distribution:
        """Return this q as the rules take it."""
        return Distribution(np.asarray(self.ids, dtype=np.int64), self.probabilities())

    def sample(self, uniform: float) -> int:
        """Return the id that ``uniform`` in [0, 1) falls on; exact but for the uniform's own grain, 2^-53."""
        ends = list(accumulate(self.weights))
        return self.ids[bisect_right(ends, int(uniform * WEIGHT_TOTAL))]


def quantise(ids: ArrayLike, q: ArrayLike) -> SparseQ:
    """Round a distribution to weights by largest remainders; what rounds to no weight is dropped.

    ids  [K]  each once, in any order
    q    [K]  their probabilities, already truncated and adding up to 1

    No probability moves by 1 / 65,535 or more. Raises ValueError for a q that is no distribution.
    """
    order = np.argsort(np.asarray(ids, dtype=np.int64), kind="stable")
    row = np.asarray(q, dtype=np.float64)
    if row.shape != order.shape:
        raise ValueError(f"{order.shape} ids for {row.shape} probabilities")
    row = row[order]
    # A float32 softmax adds up to 1 only to 1e-6 or so; what is sent adds up exactly.
    if not (row >= 0).all() or not abs(row.sum() - 1) <= 1e-4:
        raise ValueError(f"q must be 0 or more and add up to 1, not {row.sum()}")
    shares = row * (WEIGHT_TOTAL / row.sum())
    weights = np.floor(shares).astype(np.int64)
    short = WEIGHT_TOTAL - int(weights.sum())
    weights[np.argsort(weights - shares, kind="stable")[:short]] += 1
    sorted_ids = np.asarray(ids, dtype=np.int64)[order]
    if (np.diff(sorted_ids) == 0).any():  # here, because a duplicate of weight 0 would go unseen
        raise ValueError("q names an id twice")
    kept = weights > 0
    return SparseQ(tuple(sorted_ids[kept].tolist()), tuple(weights[kept].tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Draft tokens to judge, and what both models say of them.

    tokens  n draft tokens
    target  p, n + 1 rows: ``target[i]`` follows the first i draft tokens
    draft   q, n rows: ``draft[i]`` is what ``tokens[i]`` was sampled from; empty for rules that need no q

    Raises ValueError where lengths differ or a token has no probability in its own q.
    """

    tokens: tuple[int, ...]
    target: tuple[Distribution, ...]
    draft: tuple[Distribution, ...] = ()

    def __post_init__(self) -> None:
        if len(self.target) != len(self.tokens) + 1:
            raise ValueError(f"{len(self.tokens)} draft tokens need one more target row, not {len(self.target)}")
        if self.draft:
            for token, q in zip(self.tokens, self.draft, strict=True):
                if q.probability(token) <= 0:
                    raise ValueError(f"draft token {token} has no probability in the q it was sampled from")


@dataclass(frozen=True, slots=True, eq=False)
class Uniforms:
    """All the chance of one judgement, each in [0, 1), independent of the draft.

    accept  [n]      decides whether a draft token is accepted
    draw    [n + 1]  picks the token that the target adds, by inverse CDF in order of ids; a rule uses the one of the
                     position that it adds at (``exact`` those of all positions up to there)

    Raises ValueError where one is outside [0, 1) or the lengths do not fit each other.
    """

    accept: NDArray[np.float64]
    draw: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.draw.shape != (self.accept.size + 1,) or self.accept.ndim != 1:
            raise ValueError(f"{self.accept.shape} uniforms to accept with need one more to draw with")
        for uniforms in (self.accept, self.draw):
            if not ((uniforms >= 0) & (uniforms < 1)).all():
                raise ValueError("uniforms must be in [0, 1)")
