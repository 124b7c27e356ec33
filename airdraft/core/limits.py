"""How much one may use in a time: a token bucket (the leaky bucket as a meter of ITU-T I.371), in whole numbers.

A bucket holds ``burst`` at most and fills by ``rate`` a second. Levels are integers, of 1e-15 of a unit, and times are
integers, of nanoseconds: nothing is lost to rounding, however long nobody looked and however often somebody did.
"""

from __future__ import annotations

import math

_PER_UNIT = 10**15
_RATE_STEPS = 10**6
"""A rate is a whole number of millionths a second, so that a nanosecond fills in a whole number of 1e-15."""

_NANOSECONDS = 10**9

LEAST_WAIT_S = 1e-6
"""No wait is shorter: a timer that rounds down to no time at all would ask for ever."""


class TokenBucket:
    """What is left of an allowance; full to begin with. Times are seconds of any clock.

    A clock that goes back, or says what is no number, counts as one that stands still.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        """Fill by ``rate`` a second up to ``burst``. Raises ValueError where either is not a number above 0."""
        self._at: int | None = None  # when the level was what it is; None: nobody has looked yet
        self._rate = self._burst = 0
        self.set(rate, burst)
        self._level = self._burst

    def set(self, rate: float, burst: float) -> None:
        """Change the allowance from now on; what is there stays, up to the new burst. Raises ValueError."""
        if not (0 < rate < math.inf and 0 < burst < math.inf):
            raise ValueError(f"a bucket needs a rate and a burst above 0, not {rate} and {burst}")
        full = self._at is None
        self._rate = max(1, int(rate * _RATE_STEPS))
        self._burst = max(1, _units(burst))
        self._level = self._burst if full else min(self._level, self._burst)

    def take(self, amount: float, now_s: float) -> float:
        """Take an amount if all of it is there, and return 0; else take nothing, and return when to ask again.

        Infinity for more than the burst: it will never be there. Raises ValueError for less than 0 and for no number.
        """
        wanted = _amount(amount)
        self._fill(now_s)
        if wanted <= self._level:
            self._level -= wanted
            return 0.0
        return math.inf if wanted > self._burst else self._until(wanted)

    def charge(self, amount: float, now_s: float) -> None:
        """Take an amount, there or not; what was not there is a debt. Raises ValueError as ``take`` does."""
        wanted = _amount(amount)
        self._fill(now_s)
        self._level -= wanted

    def give(self, amount: float, now_s: float) -> None:
        """Give back what was taken and not used, up to the burst. Raises ValueError as ``take`` does."""
        returned = _amount(amount)
        self._fill(now_s)
        self._level = min(self._burst, self._level + returned)

    def wait_s(self, now_s: float, amount: float = 0.0) -> float:
        """Return the seconds until so much is there and no debt; 0 where it is. Past the burst, until it is full."""
        self._fill(now_s)
        wanted = min(_amount(amount), self._burst)
        return 0.0 if wanted <= self._level else self._until(wanted)

    def level(self, now_s: float) -> float:
        """Return what is there, rounded down; below 0 it is a debt."""
        self._fill(now_s)
        level = self._level / _PER_UNIT
        return level if int(level * _PER_UNIT) <= self._level else math.nextafter(level, -math.inf)

    def full(self, now_s: float) -> bool:
        """Return whether it holds all that it can: one that was never used is as good."""
        self._fill(now_s)
        return self._level == self._burst

    def _fill(self, now_s: float) -> None:
        if not math.isfinite(now_s):
            return
        whole = math.floor(now_s)
        now = whole * _NANOSECONDS + int((now_s - whole) * _NANOSECONDS)
        if self._at is not None and now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now if self._at is None else max(self._at, now)

    def _until(self, wanted: int) -> float:
        return max(LEAST_WAIT_S, -(-(wanted - self._level) // self._rate) / _NANOSECONDS)


def _amount(amount: float) -> int:
    if not 0 <= amount < math.inf:
        raise ValueError(f"an amount is a number from 0 on, not {amount}")
    return _units(amount)


def _units(amount: float) -> int:
    return amount * _PER_UNIT if isinstance(amount, int) else math.ceil(amount * _PER_UNIT)
