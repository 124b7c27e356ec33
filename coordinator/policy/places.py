"""When a place at an edge will be free, from how long sessions have kept theirs, and how many places there are.

If sessions leave at a rate of r a second for each of the n that have a place, the first k of them leave after about
k / (n r) seconds: exactly for stays without a memory, nearly so for stays of one length that began at random. The rate
is the number of leavings over the session-seconds in which they came about (the maximum of the likelihood where stays
have no memory, sessions that are still there included), the older ones forgotten.
"""

from __future__ import annotations

from coordinator.policy.costs import PassCost

MEMORY = 0.98
"""What a stay that ended weighs when the next one has ended."""

LEAST_WAIT_S = 0.1
"""Nobody is asked to come back sooner: an attempt costs both ends something."""

MOST_WAIT_S = 30.0
"""Nor later: a place that falls free sooner than expected must not stand empty for long."""


class Stays:
    """How long sessions keep a place lately; every time is in seconds of one clock."""

    def __init__(self) -> None:
        """Begin with nobody in a place."""
        self._at_s: float | None = None
        self._held = 0
        self._seconds = 0.0  # that sessions had places for
        self._ended = 0.0  # stays that ended meanwhile

    def held(self, now_s: float, sessions: int) -> None:
        """So many sessions have a place from now on; each one fewer is a stay that ended."""
        self._seconds = self._until(now_s)
        self._at_s = now_s
        for _ in range(self._held - sessions):
            self._seconds, self._ended = MEMORY * self._seconds, MEMORY * self._ended + 1
        self._held = sessions

    def stay_s(self, now_s: float) -> float:
        """Return how long a stay lasts; before the first has ended, all that was stayed so far."""
        return self._until(now_s) / max(1.0, self._ended)

    def wait_s(self, now_s: float, before: int) -> float:
        """Return after about how long there is a place for one with ``before`` others before it."""
        expected_s = (before + 1) * self.stay_s(now_s) / max(1, self._held)
        return max(LEAST_WAIT_S, min(MOST_WAIT_S, expected_s))

    def _until(self, now_s: float) -> float:
        return self._seconds + (0.0 if self._at_s is None else self._held * max(0.0, now_s - self._at_s))


def places(most: int, least_rate: float, cost: PassCost | None) -> int:
    """Return how many sessions an edge has a place for, at least one.

    most        it may hold
    least_rate  tokens a second that each must get of steps with a token of every session; 0 asks for nothing
    cost        what steps cost; None while that is not known
    """
    if least_rate <= 0 or cost is None:
        return most
    spare_s = 1 / least_rate - cost.fixed_s
    if spare_s < 0:
        return 1
    if cost.per_position_s <= 0:
        return most
    return max(1, min(most, 1 + int(spare_s / cost.per_position_s + 1e-9)))
