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

_MIDDLE = np.array([0.65, 0.65, 0.65, 1.0, 0.3, 0.1])
_WIDTH = np.array([0.25, 0.25, 0.25, 1.0, 0.3, 0.1])

MOST_ACCEPTANCE = 0.99
"""Chances above it are taken as it, so that a base cost is never one of endless drafts."""


def features(time: RoundTime, acceptance: AcceptanceByPosition) -> tuple[float, ...]:
    """Return [FEATURES] of what is estimated."""
    chances, pass_s = acceptance.chances(), max(time.target.fixed_s, 1e-6)
    return (
        min(acceptance.acceptance, MOST_ACCEPTANCE),
        chances[0],
        chances[2],
        math.log1p(time.round_trip_s / pass_s),
        math.log1p((time.draft_s + time.id_s) / pass_s),
        time.target.per_position_s / pass_s,
    )


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
        """Return [N] factors of ``inputs``; never under 0.2, whatever the weights."""
        return np.maximum(0.2, 1 + np.maximum(0, read @ self.hidden + self.bias) @ self.out)

    def costs(self, known: Sequence[float], lengths: Sequence[int]) -> dict[int, float]:
        """Return the passes a token of each length, for one state's ``features``."""
        state, drafted = np.asarray(known), np.asarray(lengths, dtype=np.float64)
        costs = base_costs(state, drafted) * self.factor(inputs(state, drafted))
        return dict(zip(lengths, costs.tolist(), strict=True))

    def to_json(self) -> str:
        """Return the weights as text, to six digits."""
        return json.dumps(
            {"features": FEATURES, **{name: _rounded(getattr(self, name)) for name in ("hidden", "bias", "out")}}
        )


def from_json(text: str) -> Mlp:
    """Return the network of ``Mlp.to_json``. Raises ValueError where it is for other features or shapes."""
    told: Mapping[str, list[Any]] = json.loads(text)
    if tuple(told["features"]) != FEATURES:
        raise ValueError(f"weights for the features {told['features']}, not for {list(FEATURES)}: train them again")
    shapes = {"hidden": (len(FEATURES) + 1, HIDDEN), "bias": (HIDDEN,), "out": (HIDDEN,)}
    arrays = {name: np.asarray(told[name], dtype=np.float64) for name in shapes}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"weights {name} have the shape {arrays[name].shape}, not {shape}: train them again")
    return Mlp(**arrays)


@cache
def shipped() -> Mlp:
    """Return the network that comes with the package, trained on simulated rounds (``coordinator.policy.train``)."""
    return from_json(resources.files(__package__).joinpath("mlp.json").read_text(encoding="utf-8"))


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.6g}") for value in values] if values.ndim == 1 else [_rounded(row) for row in values]  # type: ignore[misc]
