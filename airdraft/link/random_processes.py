"""Random processes that the synthetic channels share, sampled every step_s.

Each draws from a generator of its own, in order: a longer series begins with the shorter one of the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from airdraft.link.timeline import Series


def smoothed(values: Series, step_s: float, time_s: float) -> Series:
    """Return the exponential moving average, [T], of values [T], with time constant ``time_s``."""
    kept = math.exp(-step_s / time_s)
    return np.array(list(accumulate(values.tolist(), lambda past, value: kept * past + (1 - kept) * value)))


def gauss_markov(chance: np.random.Generator, count: int, step_s: float, time_s: float) -> Series:
    """Return a stationary Gaussian process, [T]: mean 0, deviation 1, correlation exp(-lag / time_s)."""
    kept = math.exp(-step_s / time_s)
    fresh = math.sqrt(1 - kept * kept)
    noise = chance.standard_normal(count).tolist()
    return np.array(list(accumulate(noise, lambda past, value: kept * past + fresh * value)))


def lognormal(gaussian: Series, mean: float, deviation: float) -> Series:
    """Return positive values, [T], of that mean and standard deviation from a unit Gaussian process [T]."""
    variance = math.log1p((deviation / mean) ** 2)
    return np.asarray(mean * np.exp(math.sqrt(variance) * gaussian - variance / 2))


def dwelling(
    chance: np.random.Generator,
    count: int,
    step_s: float,
    *,
    dwell_s: Sequence[float],
    jump: Sequence[Sequence[float]],
    start: int = 0,
) -> NDArray[np.int64]:
    """Return the states, [T], of a Markov process in continuous time.

    dwell_s  [S]     mean time in a state, exponentially distributed
    jump     [S, S]  chance of each next state, given the one left
    """
    states, ends = [], []
    state, now = start, 0.0
    while now < count * step_s:
        now += float(chance.exponential(dwell_s[state]))
        states.append(state)
        ends.append(now)
        state = int(chance.choice(len(dwell_s), p=jump[state]))
    return np.array(states, dtype=np.int64)[np.searchsorted(ends, np.arange(count) * step_s, side="right")]


def neighbouring(states: int) -> list[list[float]]:
    """Return jump chances, [S, S], of a chain that moves to either neighbour alike, and back from its ends."""
    table = np.zeros((states, states))
    for state in range(states):
        near = [other for other in (state - 1, state + 1) if 0 <= other < states]
        table[state, near] = 1 / len(near)
    return [[float(value) for value in row] for row in table]


def repetitions(chance: np.random.Generator, count: int, error: float | Series) -> Series:
    """Return how often each of T blocks is sent again, [T], where one is lost with probability ``error``, in [0, 1).

    ``error`` is a scalar or [T]. One uniform number a block, whatever the error: P(N >= n) = error ** n.
    """
    errors = np.clip(error, 1e-300, None)
    return np.asarray(np.floor(np.log1p(-chance.random(count)) / np.log(errors)), dtype=np.float64)
