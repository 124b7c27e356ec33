"""Risk tables: how many answers a threshold on risk has cost on problems that neither labels nor thresholds saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class RiskTable:
    """What was lost where every drafted token up to a threshold on risk was accepted.

    thresholds    [T]  above 0, at most 1, ascending, each once
    loss_upper95  [T]  upper end of the 95 % interval of the share of answers that became worse
    loss_mean     [T]  that share

    Raises ValueError where that does not hold.
    """

    thresholds: NDArray[np.float64]
    loss_upper95: NDArray[np.float64]
    loss_mean: NDArray[np.float64]

    def __post_init__(self) -> None:
        for values in (self.thresholds, self.loss_upper95, self.loss_mean):
            if values.ndim != 1 or values.shape != self.thresholds.shape or not values.size:
                raise ValueError("a risk table has as many thresholds as losses, and at least one")
            if not np.isfinite(values).all():
                raise ValueError("a number of a risk table is not finite")
        if self.thresholds[0] <= 0 or self.thresholds[-1] > 1 or (np.diff(self.thresholds) <= 0).any():
            raise ValueError("thresholds of a risk table ascend from above 0 to at most 1")

    def threshold(self, cap: float) -> float:
        """Return the greatest threshold up to which no loss may have passed ``cap``; 0.0 where there is none.

        The losses are taken as never falling while the threshold rises: where one of a lower threshold is greater, it
        was bad luck there or good luck here.
        """
        if not cap > 0:
            return 0.0
        kept = np.maximum.accumulate(self.loss_upper95) <= cap
        return float(self.thresholds[kept][-1]) if kept.any() else 0.0
