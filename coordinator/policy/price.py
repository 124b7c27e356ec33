"""What a second of an edge costs its users: how busy its engine is, the price in its quote, and when a quote is news.

The price counts users' seconds, after Pigou (The Economics of Welfare, 1920, part II, chapter IX): whoever has the
engine work a second longer waits that second, and so does everybody else who has a use for the engine meanwhile. With
w(t) other users who wait at the time t, 0 while the engine is idle, it is

    price = 1 + the mean of w(t), where what is s seconds past weighs exp(-s / FORGET_S).

The others are those in the step at work but one (a step ends for all of its sessions at once), those with work for the
next one, and those that wait for a place at this edge: a session that takes a second longer frees its place as much
later. An engine that one user has to itself costs 1 a second, however busy it is.
"""

from __future__ import annotations

import math

from airdraft.core.types import Quote

FORGET_S = 1.0
"""Over about so long the means are taken: long against a step, short against a text."""

NOTICEABLE = 0.15
"""By what share a number of a quote must have changed to be told again: estimates of a steady load wobble by less."""

WIDE = 16
"""Positions of the pass whose seconds say whether a cost line has changed: a slope alone may be next to nothing."""


class EdgeLoad:
    """What an engine does and who waits for it, told event by event; every time is in seconds of one clock."""

    def __init__(self, now_s: float = 0.0, forget_s: float = FORGET_S) -> None:
        """Begin idle; what was ``forget_s`` ago weighs 1 / e."""
        self._forget_s = forget_s
        self._at_s = now_s  # up to when the means are taken
        self._busy = False
        self._users = 0  # with a use for the engine
        self._queued = 0  # that wait for a place
        self._busy_mean = self._others_mean = 0.0
        self._stepped_s: float | None = None
        self._step_sessions = self._step_positions = 0.0

    # ---- events ----

    def began(self, now_s: float, users: int, queued: int = 0) -> None:
        """A step or a draft begins; ``users`` are in it or have work for the next one, ``queued`` wait for a place."""
        self._advance(now_s)
        self._busy, self._users, self._queued = True, users, queued

    def joined(self, now_s: float) -> None:
        """One more user has work for the engine."""
        if self._busy:
            self._advance(now_s)
            self._users += 1

    def ended(self, now_s: float) -> None:
        """The engine is free."""
        self._advance(now_s)
        self._busy, self._users = False, 0

    def stepped(self, now_s: float, sessions: int, positions: int) -> None:
        """Take what was in a step that ended: so many sessions that write, and the positions that were theirs."""
        if self._stepped_s is None:
            self._step_sessions, self._step_positions = float(sessions), float(positions)
        else:
            learnt = 1 - self._kept(now_s - self._stepped_s)
            self._step_sessions += learnt * (sessions - self._step_sessions)
            self._step_positions += learnt * (positions - self._step_positions)
        self._stepped_s = now_s

    # ---- what came of them ----

    def utilisation(self, now_s: float) -> float:
        """Return the share of the time lately that the engine was at work, 0 to 1."""
        return self._mean(self._busy_mean, float(self._busy), now_s)

    def price(self, now_s: float) -> float:
        """Return how many users' seconds a second of this edge costs, at least 1."""
        return 1 + self._mean(self._others_mean, self._others, now_s)

    @property
    def step_sessions(self) -> float:
        """Return how many sessions shared a step lately; 0 before the first."""
        return self._step_sessions

    @property
    def step_positions(self) -> float:
        """Return how many positions those had in a step; 0 before the first."""
        return self._step_positions

    @property
    def _others(self) -> float:
        return max(0, self._users - 1) + self._queued if self._busy else 0.0

    def _kept(self, seconds: float) -> float:
        return math.exp(-max(0.0, seconds) / self._forget_s)

    def _mean(self, mean: float, level: float, now_s: float) -> float:
        return level + (mean - level) * self._kept(now_s - self._at_s)

    def _advance(self, now_s: float) -> None:
        self._busy_mean, self._others_mean, self._at_s = (
            self._mean(self._busy_mean, float(self._busy), now_s),
            self._mean(self._others_mean, self._others, now_s),
            max(now_s, self._at_s),
        )


def is_news(told: Quote, now: Quote) -> bool:
    """Return whether a device should hear of a quote that has heard of another one."""
    if (told.runs_ahead, told.own_draft_tokens) != (now.runs_ahead, now.own_draft_tokens):
        return True
    return any(abs(a - b) > NOTICEABLE * max(a, b) for a, b in zip(_numbers(told), _numbers(now), strict=True))


def _numbers(quote: Quote) -> tuple[float, ...]:
    """Return what a plan is weighed by."""
    wide_s = quote.fixed_s + (WIDE - 1) * quote.per_position_s
    own = (quote.own_draft_s, quote.own_acceptance) if quote.own_draft_tokens else ()
    return (quote.fixed_s, wide_s, quote.edge_second_price, quote.step_sessions, quote.step_positions, *own)
