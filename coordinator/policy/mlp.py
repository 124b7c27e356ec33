"""A small network that says what a draft length costs, from what is estimated: how it is asked, and kept.

It says by what factor the seconds a token of a length differ from those of equal chances at every position
(``RoundCost.split_s``): where it was taught nothing it says 1, and the length is that model's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.rounds import RoundTime

Array = NDArray[np.float64]

FEATURES = ("acceptance", "first", "later", "round_trip", "draft", "per_position")
"""Acceptance wherever in a draft, at its first position and at its third; round trip and draft step in passes, as
log(1 + x); what a further position costs, in passes."""

HIDDEN = 16
"""Units of the one hidden layer, as SpecKV has (arXiv 2605.02888)."""

_SHAPES = {"hidden": (len(FEATURES) + 1, HIDDEN), "bias": (HIDDEN,), "out": (HIDDEN,)}

_MIDDLE = np.array([0.65, 0.65, 0.65, 1.0, 0.3, 0.1])
_WIDTH = np.array([0.25, 0.25, 0.25, 1.0, 0.3, 0.1])

LEAST_FACTOR = 0.2
"""Whatever the weights, a cost is above 0."""

MOST_ACCEPTANCE = 0.99
"""Chances above it are taken as it, so that a base cost is never one of endless drafts."""


def features(time: RoundTime, acceptance: AcceptanceByPosition) -> tuple[float, ...]:
    """Return [FEATURES] of what is estimated."""
    chances = acceptance.chances()
    return (
        min(acceptance.acceptance, MOST_ACCEPTANCE),
        chances[0],
        chances[2],
        math.log1p(passes_of(time, time.round_trip_s)),
        math.log1p(passes_of(time, time.draft_s + time.id_s)),
        passes_of(time, time.target.per_position_s),
    )


def passes_of(time: RoundTime, seconds: float) -> float:
    """Return seconds in passes of one position; no pass counts as shorter than a microsecond."""
    return seconds / max(time.target.fixed_s, 1e-6)


def base_costs(known: Array, lengths: Array) -> Array:
    """Return [N] passes a token of synchronous rounds with one chance for all positions.

    known    [N, FEATURES] or [FEATURES]
    lengths  [N]           draft lengths

    ``RoundCost.split_s`` in passes, for many at once.
    """
    chance, round_trip = known[..., 0], np.expm1(known[..., 3])
    token = np.expm1(known[..., 4]) + known[..., 5]
    return (1 + round_trip + lengths * token) * (1 - chance) / (1 - chance ** (lengths + 1))


def inputs(known: Array, lengths: Array) -> Array:
    """Return [N, FEATURES + 1]: what the network reads, about -1 to 1; shapes as in ``base_costs``."""
    read = np.empty((len(lengths), len(FEATURES) + 1))
    read[:, :-1] = (known - _MIDDLE) / _WIDTH
    read[:, -1] = (np.log2(lengths) - 2.5) / 2.5
    return read


@dataclass(frozen=True, slots=True)
class Mlp:
    """Weights: factor = 1 + out . max(0, hidden x + bias)."""

    hidden: Array  # [FEATURES + 1, HIDDEN]
    bias: Array  # [HIDDEN]
    out: Array  # [HIDDEN]

    def factor(self, read: Array) -> Array:
        """Return [N] factors of ``inputs``."""
        return np.maximum(LEAST_FACTOR, 1 + np.maximum(0, read @ self.hidden + self.bias) @ self.out)

    def to_json(self) -> str:
        """Return the weights as text, to six digits."""
        return json.dumps(
            {"features": FEATURES, **{name: _rounded(getattr(self, name)) for name in ("hidden", "bias", "out")}}
        )


class LengthCosts:
    """A network asked again and again of the same lengths: what it makes of these is worked out once."""

    def __init__(self, mlp: Mlp, lengths: Sequence[int]) -> None:
        """Ask ``mlp`` of ``lengths``."""
        known = len(FEATURES)
        read = inputs(np.zeros(known), np.asarray(lengths, dtype=np.float64))
        self._lengths, self._mlp = tuple(lengths), mlp
        self._of_lengths = np.outer(read[:, known], mlp.hidden[known]) + mlp.bias  # [N, HIDDEN]

    def __call__(self, known: Sequence[float]) -> list[float]:
        """Return [N] the passes a token of each length, for one state's ``features``: base costs times factors."""
        units = ((np.array(known) - _MIDDLE) / _WIDTH) @ self._mlp.hidden[:-1] + self._of_lengths
        factors = 1 + np.maximum(units, 0, out=units) @ self._mlp.out
        chance, _, _, round_trip, draft, per_position = known
        fixed, token = math.exp(round_trip), math.expm1(draft) + per_position
        return [
            max(LEAST_FACTOR, factor) * (fixed + length * token) * (1 - chance) / (1 - chance ** (length + 1))
            for length, factor in zip(self._lengths, factors.tolist(), strict=True)
        ]


def from_json(text: str) -> Mlp:
    """Return the network of ``Mlp.to_json``. Raises ValueError where it is none, or for other features or shapes."""
    try:
        told: Mapping[str, Any] = json.loads(text)
        trained_for, arrays = list(told["features"]), {name: np.asarray(told[name], np.float64) for name in _SHAPES}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"these are not weights of a draft-length network: {type(error).__name__}: {error}") from None
    if trained_for != list(FEATURES):
        raise ValueError(f"weights for the features {trained_for}, not for {list(FEATURES)}: train them again")
    for name, shape in _SHAPES.items():
        if arrays[name].shape != shape:
            raise ValueError(f"weights {name} have the shape {arrays[name].shape}, not {shape}: train them again")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"weights {name} are not all finite: train them again")
    return Mlp(**arrays)


@cache
def shipped() -> Mlp:
    """Return the network that comes with the package, trained on simulated rounds (``coordinator.policy.train``)."""
    return from_json(resources.files(__package__).joinpath("mlp.json").read_text(encoding="utf-8"))


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.6g}") for value in values] if values.ndim == 1 else [_rounded(row) for row in values]  # type: ignore[misc]
