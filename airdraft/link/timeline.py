"""What a channel is: rate and delay of two directions, and radio facts, sampled on a grid that repeats when it ends.

Repeating, not holding the last sample, is what keeps a recording that ends in an outage from being out for ever. Time
is counted from the channel's start. A delay may fall faster than time passes; a link that carries a stream of bytes
keeps their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.core.radio_facts import RadioFacts

Series = NDArray[np.float64]

MBIT_S = 125_000.0  # bytes per second in a megabit per second
_ON_GRID = 1e-6  # of a step: a time computed as a product of floats belongs to the step it names


def steps_in(duration_s: float, step_s: float) -> int:
    """Return how many samples, T, cover a duration; at least one. Raises ValueError unless both are positive."""
    if not (0 < step_s < math.inf and 0 < duration_s < math.inf):
        raise ValueError(f"a channel lasts a positive time in positive steps, not {duration_s} s in {step_s} s")
    return max(1, round(duration_s / step_s))


def _sample(at_s: float, step_s: float, count: int) -> int:
    return _step(at_s, step_s) % count


def _step(at_s: float, step_s: float) -> int:
    return math.floor(at_s / step_s + _ON_GRID)


def _frozen(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    copy = np.array(array, dtype=dtype)
    copy.setflags(write=False)
    return copy


def _freeze(owner: object, step_s: float, dtypes: dict[str, type[np.generic]]) -> None:
    """Replace the named fields by read-only copies. Raises ValueError unless they are [T], T > 0, and step_s > 0."""
    if not 0 < step_s < math.inf:
        raise ValueError(f"step_s is {step_s}, not a positive time")
    for name, dtype in dtypes.items():
        object.__setattr__(owner, name, _frozen(getattr(owner, name), dtype))
    shapes = {getattr(owner, name).shape for name in dtypes}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] == 0:
        raise ValueError(f"{', '.join(dtypes)} must be of one length [T], T > 0")


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """One direction of a link over time; what ``airdraft.link.shaping`` calls its conditions.

    rates_bytes_s  [T]  what the link carries; 0 while it is out
    delays_s       [T]  what a byte takes once it is on its way, jitter included; waiting for the rate comes on top
    """

    step_s: float
    rates_bytes_s: Series
    delays_s: Series
    _steady_steps: NDArray[np.int64] = field(init=False, repr=False)  # [T], 0 where nothing changes any more

    def __post_init__(self) -> None:
        _freeze(self, self.step_s, {"rates_bytes_s": np.float64, "delays_s": np.float64})
        for values in (self.rates_bytes_s, self.delays_s):
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise ValueError("rates and delays are finite and never negative")
        object.__setattr__(self, "_steady_steps", _steady_steps(self.rates_bytes_s, self.delays_s))

    @property
    def duration_s(self) -> float:
        """Return the time after which the direction repeats."""
        return len(self.rates_bytes_s) * self.step_s

    def rate_bytes_s(self, at_s: float) -> float:
        """Return the rate at a time; 0 during an outage."""
        return float(self.rates_bytes_s[_sample(at_s, self.step_s, len(self.rates_bytes_s))])

    def delay_s(self, at_s: float) -> float:
        """Return the one-way delay of what is sent at a time."""
        return float(self.delays_s[_sample(at_s, self.step_s, len(self.delays_s))])

    def steady_until_s(self, at_s: float) -> float:
        """Return up to when rate and delay stay as they are at a time; inf where they stay so, or out, for good."""
        steady = int(self._steady_steps[_sample(at_s, self.step_s, len(self._steady_steps))])
        return (_step(at_s, self.step_s) + steady) * self.step_s if steady else math.inf

    def out(self, at_s: float) -> bool:
        """Tell whether nothing gets through at a time."""
        return self.rate_bytes_s(at_s) == 0

    def jitter_s(self, at_s: float, window_s: float = 1.0) -> float:
        """Return the standard deviation of the delay over the window that ends at a time, in this repetition."""
        last = _sample(at_s, self.step_s, len(self.delays_s))
        first = max(0, last + 1 - steps_in(window_s, self.step_s))
        return float(np.std(self.delays_s[first : last + 1]))

    @property
    def mean_rate_bytes_s(self) -> float:
        """Return the mean rate, outages included."""
        return float(np.mean(self.rates_bytes_s))

    @property
    def outage_share(self) -> float:
        """Return the share of time that the direction is out."""
        return float(np.mean(self.rates_bytes_s == 0))

    def outages_s(self) -> list[tuple[float, float]]:
        """Return the outages of one repetition as (start, end), in order."""
        out = np.concatenate(([False], self.rates_bytes_s == 0, [False]))
        starts, ends = np.flatnonzero(out[1:] & ~out[:-1]), np.flatnonzero(out[:-1] & ~out[1:])
        return [(float(start) * self.step_s, float(end) * self.step_s) for start, end in zip(starts, ends, strict=True)]


def _steady_steps(rates: Series, delays: Series) -> NDArray[np.int64]:
    """Return how many steps each sample, [T], stays as it is, over the end too; 0 for ever."""
    changes = np.flatnonzero((np.roll(rates, -1) != rates) | (np.roll(delays, -1) != delays))
    if not len(changes) or not rates.any():
        return np.zeros(len(rates), dtype=np.int64)
    after = np.append(changes, changes[0] + len(rates))
    here = np.arange(len(rates))
    return np.asarray(after[np.searchsorted(after, here)] - here + 1, dtype=np.int64)


NO_CELL = -1


@dataclass(frozen=True, slots=True, eq=False)
class Radio:
    """Radio facts over time, each [T]: NaN, and NO_CELL, where unknown."""

    step_s: float
    rsrp_dbm: Series
    rsrq_db: Series
    sinr_db: Series
    neighbour_rsrp_dbm: Series
    cell: NDArray[np.int64]
    speed_m_s: Series

    def __post_init__(self) -> None:
        numbers = ("rsrp_dbm", "rsrq_db", "sinr_db", "neighbour_rsrp_dbm", "speed_m_s")
        _freeze(self, self.step_s, {**dict.fromkeys(numbers, np.float64), "cell": np.int64})

    def at(self, at_s: float) -> RadioFacts:
        """Return the facts at a time."""
        index = _sample(at_s, self.step_s, len(self.cell))
        cell = int(self.cell[index])
        return RadioFacts(
            when_s=at_s,
            rsrp_dbm=_known(self.rsrp_dbm[index]),
            rsrq_db=_known(self.rsrq_db[index]),
            sinr_db=_known(self.sinr_db[index]),
            neighbour_rsrp_dbm=_known(self.neighbour_rsrp_dbm[index]),
            cell=None if cell == NO_CELL else cell,
            speed_m_s=_known(self.speed_m_s[index]),
        )

    def hand_overs_s(self) -> list[float]:
        """Return the times of one repetition at which the serving cell becomes another known cell."""
        before, after = self.cell[:-1], self.cell[1:]
        changed = (before != after) & (before != NO_CELL) & (after != NO_CELL)
        return [float(index + 1) * self.step_s for index in np.flatnonzero(changed)]


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """A link between a device and an edge: the same function of time for the same seed, or for the same recording.

    ``assumed`` says in words what did not come from the recording but from its loader's caller.
    """

    name: str
    up: Direction
    down: Direction
    radio: Radio | None = None
    seed: int | None = None
    assumed: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Return the time after which the longer direction repeats."""
        return max(self.up.duration_s, self.down.duration_s)

    def round_trip_s(self, at_s: float) -> float:
        """Return both delays together, as they stand at a time."""
        return self.up.delay_s(at_s) + self.down.delay_s(at_s)


Constructor = Callable[[int, float], Channel]  # of a seed and a duration in seconds
