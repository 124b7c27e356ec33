"""An edge's cost line, learned from its passes: seconds = fixed + per position * (positions - 1).

Recursive least squares with exponential forgetting, on relative errors: a prefill of 500 positions does not outshout a
hundred passes of two. One slow pass moves the line by no more than a usual error does (Huber's weight); many on the
same side of the line are a change of pace, and the passes before it are forgotten faster.
"""

from __future__ import annotations

import math

from coordinator.policy.costs import PassCost

FIRST_ERROR = 0.5
"""The usual relative error before any is known: the second pass may be off by this much and still count in full."""

LEAST_ERROR = 0.005
"""No machine's passes are more alike; a line that fits exactly must not take every later pass for an outlier."""

LEAST_S = 1e-6
"""No pass is shorter; what a coarse clock calls 0 must not outweigh all others."""

OUTLIER = 2.0
"""In usual errors: what lies further off counts as if it lay here."""

GROWTH = 3.0
"""In usual errors: what a single pass can be worth in the mean that is the usual error."""

ERROR_MEMORY = 0.9
"""Of the usual error and of the side that errors fall on: what is kept when another pass has come."""

USUAL_SIDE = 0.5
"""How far to one side errors fall by chance alone, where 1 is: all of them, by a usual error or more."""

HASTE = 20.0
"""By this much faster is forgotten, times how far beyond ``USUAL_SIDE`` errors fall to one side."""


class CostLine:
    """What passes cost lately; both coefficients are never negative."""

    def __init__(self, forgetting: float = 0.99) -> None:
        """Begin without a pass; ``forgetting``, in (0, 1), is what a pass still weighs when the next has come."""
        if not 0 < forgetting < 1:
            raise ValueError(f"forgetting {forgetting} is not between 0 and 1")
        self.samples = 0
        self._forgetting = forgetting
        self._fixed_s = self._per_position_s = 0.0
        self._ff = self._fp = self._pp = 0.0  # what is known of the two: the matrix of the least squares
        self._usual_error = FIRST_ERROR
        self._side = 0.0

    @property
    def cost(self) -> PassCost:
        """Return the line; all 0 before the first pass, and flat until passes of two widths have come."""
        return PassCost(self._fixed_s, self._per_position_s)

    def add(self, positions: int, seconds: float) -> None:
        """Learn from a pass of ``positions`` >= 1. Raises ValueError where it is none."""
        if positions < 1 or not 0 <= seconds < math.inf:
            raise ValueError(f"a pass of {positions} positions and {seconds} s is none")
        self.samples += 1
        if self.samples == 1:
            self._fixed_s = seconds
        predicted_s = self.cost.seconds(positions)
        scale = 1 / max(predicted_s, seconds, LEAST_S)
        error = (seconds - predicted_s) * scale  # between -1 and 1
        limit = OUTLIER * self._usual_error
        weight = limit / abs(error) if abs(error) > limit else 1.0
        self._learn(scale, scale * (positions - 1), error, weight)
        if self.samples > 1:
            self._judge(error)

    def _learn(self, f: float, p: float, error: float, weight: float) -> None:
        """Take one row of the least squares: (f, p) times the coefficients leaves ``error``."""
        kept = self._kept()
        self._ff = kept * self._ff + weight * f * f
        self._fp = kept * self._fp + weight * f * p
        self._pp = kept * self._pp + weight * p * p
        # The slope is known no worse than from widths one position apart: passes of a single width, which say nothing
        # of it, then leave it alone.
        self._pp = max(self._pp, self._fp * self._fp / self._ff + self._ff)
        step = weight * error / (self._ff * self._pp - self._fp * self._fp)
        self._fixed_s += step * (self._pp * f - self._fp * p)
        self._per_position_s += step * (self._ff * p - self._fp * f)
        self._clamp()

    def _kept(self) -> float:
        """How much of what is known outlasts this pass; less at first, since a model's first passes are its slowest."""
        one_sided = max(0.0, abs(self._side) - USUAL_SIDE)
        return min(math.pow(self._forgetting, 1 + HASTE * one_sided), 1 - 1 / self.samples)

    def _judge(self, error: float) -> None:
        """Take an error into the usual one, and into which side errors fall on."""
        learnt = 1 - ERROR_MEMORY
        self._side += learnt * (max(-1.0, min(1.0, error / self._usual_error)) - self._side)
        usual = self._usual_error + learnt * (min(abs(error), GROWTH * self._usual_error) - self._usual_error)
        self._usual_error = max(usual, LEAST_ERROR)

    def _clamp(self) -> None:
        """Move to the nearest line without a negative coefficient, near in what is known."""
        if self._per_position_s < 0:
            self._fixed_s += self._fp / self._ff * self._per_position_s
            self._per_position_s = 0.0
        if self._fixed_s < 0:
            self._per_position_s = max(0.0, self._per_position_s + self._fp / self._pp * self._fixed_s)
            self._fixed_s = 0.0
