"""The part of a semantic head that the front computes: from what the engine made of the target's state to a risk.

A head is a logistic regression or a two-layer MLP over the target's features, and where it was trained so over the
drafter's state and the channel (WISV, arXiv 2604.17701). The first layer is linear, so that its target part can be made
where the target's states are: the engine sends the sum, [H], and the rest is added here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airdraft.core.meaning.risk import RiskTable

Features = Literal["target-only", "draft+target"]
Activation = Literal["identity", "relu"]

STRICT = 1.0
"""The risk of a token of which too little is known."""

CHANNEL_REACH = 2.0
"""How many standard deviations from the training's mean a channel may be said to be: beyond them nothing was measured.

A risk table of a head with a channel part is measured at the corner of this square where the mean risk is least. For a
logistic head no report is laxer than that; of an MLP another corner may be, for single tokens (with the demo's heads
fewer than one in a thousand more stand if each token is told the corner that suits it).
"""

_LEAST = 1e-9  # seconds, bytes a second: a logarithm needs something


@dataclass(frozen=True, slots=True)
class Channel:
    """The device's link as its last report told it; None is not known."""

    round_trip_s: float | None = None
    up_bytes_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class HeadTail:
    """A head without its target part.

    features       what it was trained on
    bias           [H]
    draft          [H, d]  of the drafter's state; None: it reads none
    channel        [H, 2]  of log(round trip in s) and log(bytes a second up), standardised; None: it reads none
    out            [H]
    calibration_x  [K]  logits, ascending
    calibration_y  [K]  risk at each, never falling, in [0, 1]; linear between, constant beyond

    Raises ValueError where a shape is another, a number not finite, or the calibration falls.
    """

    name: str
    features: Features
    bias: NDArray[np.float32]
    out: NDArray[np.float32]
    out_bias: float
    calibration_x: NDArray[np.float64]
    calibration_y: NDArray[np.float64]
    table: RiskTable
    activation: Activation = "identity"
    draft: NDArray[np.float32] | None = None
    channel: NDArray[np.float32] | None = None
    channel_mean: NDArray[np.float32] = field(default_factory=lambda: np.zeros(2, dtype=np.float32))
    channel_scale: NDArray[np.float32] = field(default_factory=lambda: np.ones(2, dtype=np.float32))

    def __post_init__(self) -> None:
        width = self.width
        if self.features not in ("target-only", "draft+target") or self.activation not in ("identity", "relu"):
            raise ValueError(f"no head has the features {self.features!r} and the activation {self.activation!r}")
        if (self.draft is not None) != (self.features == "draft+target"):
            raise ValueError("a head has a draft part where its features are 'draft+target', and only there")
        if self.bias.shape != (width,) or self.out.shape != (width,) or not width:
            raise ValueError(f"bias {self.bias.shape} and output weights {self.out.shape} are of no one width")
        if self.draft is not None and (self.draft.ndim != 2 or len(self.draft) != width or not self.draft.shape[1]):
            raise ValueError(f"a draft part of {self.draft.shape} does not fit a width of {width}")
        if self.channel is not None and self.channel.shape != (width, 2):
            raise ValueError(f"a channel part of {self.channel.shape} does not fit a width of {width}")
        if self.channel_mean.shape != (2,) or self.channel_scale.shape != (2,) or not (self.channel_scale > 0).all():
            raise ValueError("a channel is standardised by two means and two scales above 0")
        points = self.calibration_x, self.calibration_y
        if points[0].ndim != 1 or points[0].shape != points[1].shape or not points[0].size:
            raise ValueError("a calibration has as many logits as risks, and at least one")
        parts = (self.bias, self.out, self.channel_mean, self.channel_scale, *points, self.draft, self.channel)
        if not all(part is None or np.isfinite(part).all() for part in parts) or not math.isfinite(self.out_bias):
            raise ValueError("a number of the head is not finite")
        if (np.diff(points[0]) <= 0).any() or (np.diff(points[1]) < 0).any():
            raise ValueError("a calibration's logits ascend, and its risks never fall")
        if points[1][0] < 0 or points[1][-1] > 1:
            raise ValueError("a calibration's risks lie between 0 and 1")

    @property
    def width(self) -> int:
        """Return H, the width of the first layer and of a partial."""
        return self.bias.size

    @property
    def state_width(self) -> int:
        """Return d, how many numbers the drafter's states have; 0 where the head reads none."""
        return 0 if self.draft is None else self.draft.shape[1]

    def logit(self, partial: ArrayLike, state: ArrayLike | None = None, channel: Channel | None = None) -> float:
        """Return the head's uncalibrated output, which may be not finite where what it is given is not.

        partial  [H]  the first layer's target part
        state    [d]  the drafter's state of the token; only read where the head has a draft part

        Raises ValueError for another shape, or where a draft part has no state.
        """
        hidden = np.asarray(partial, dtype=np.float64)
        if hidden.shape != (self.width,):
            raise ValueError(f"a partial of {hidden.shape} for a head of width {self.width}")
        hidden = hidden + self.bias
        if self.draft is not None:
            row = np.asarray(state if state is not None else (), dtype=np.float64)
            if row.shape != (self.state_width,):
                raise ValueError(f"a state of {row.shape} for a head that reads {self.state_width} numbers")
            hidden = hidden + self.draft.astype(np.float64) @ row
        if self.channel is not None:
            hidden = hidden + self.channel.astype(np.float64) @ self._standardised(channel or Channel())
        if self.activation == "relu":
            hidden = np.maximum(hidden, 0.0)  # keeps NaN
        return float(hidden @ self.out.astype(np.float64) + self.out_bias)

    def risk(self, partial: ArrayLike, state: ArrayLike | None = None, channel: Channel | None = None) -> float:
        """Return the chance, in [0, 1], that accepting the drafted token makes the answer worse.

        1.0 where the head reads a state that is not there, and where what it is given is not finite or has another
        shape.
        """
        parts = [(np.asarray(partial), self.width)]
        if self.draft is not None:
            parts.append((np.asarray(() if state is None else state), self.state_width))
        if any(part.shape != (width,) or not np.isfinite(part).all() for part, width in parts):
            return STRICT
        with np.errstate(over="ignore", invalid="ignore"):
            logit = self.logit(partial, state, channel)
        return self.calibrated(logit)

    def calibrated(self, logit: float) -> float:
        """Return the risk that a logit stands for; 1.0 where it is not finite."""
        if not math.isfinite(logit):
            return STRICT
        return float(np.interp(logit, self.calibration_x, self.calibration_y))

    def _standardised(self, channel: Channel) -> NDArray[np.float64]:
        """Return what the channel part reads, [2]; 0, the mean, for what is not known."""
        told = (channel.round_trip_s, channel.up_bytes_s)
        known = np.array([math.log(max(value, _LEAST)) if value is not None else np.nan for value in told])
        inputs = (known - self.channel_mean) / self.channel_scale
        clipped: NDArray[np.float64] = np.clip(np.nan_to_num(inputs, nan=0.0), -CHANNEL_REACH, CHANNEL_REACH)
        return clipped
