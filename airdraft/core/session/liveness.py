"""Whether the other end is still there, judged by what is heard of it and not by a socket.

A radio link can swallow everything for minutes while both sockets look healthy. So each end pings the other when it has
heard nothing for a while, and counts it as gone once it was silent for the greater of ``SILENCE_S`` and four smoothed
round trips (DESIGN §4; the limit is an end's own, nothing is negotiated).
"""

from __future__ import annotations

from typing import Literal

SILENCE_S = 1.0
"""No peer is counted as gone before this, however short the round trip."""

ROUND_TRIPS = 4
"""How many smoothed round trips a peer may be silent."""

PATIENCE_S = 5.0
"""How long a peer may be silent before any round trip is known."""

_SHARE = 1 / 8  # weight of a new sample: RFC 6298
_PINGS = 3  # a silence is asked into twice before it is judged
_REFRESH_S = 10.0  # a busy stream needs no pings to know that it lives, but some to know its round trip

Verdict = Literal["well", "ping", "gone"]


class Liveness:
    """One end's view of the other on one stream. Times are seconds of any clock that never goes back."""

    def __init__(self, now: float, *, round_trip_s: float | None = None, patience_s: float = PATIENCE_S) -> None:
        """Begin to listen; ``round_trip_s`` is what an earlier stream over the same link knew."""
        self.round_trip_s = round_trip_s
        self.sample_s: float | None = None  # of the last answer; None: it told nothing
        self._patience_s = patience_s
        self._heard = self._looked = now
        self._pinged = -_REFRESH_S + now  # the first look pings
        self._number = 0
        self._flying: dict[int, float] = {}  # pings without an answer yet, by number

    @property
    def limit_s(self) -> float:
        """Return how long the peer may be silent."""
        if self.round_trip_s is None:
            return self._patience_s
        return max(SILENCE_S, ROUND_TRIPS * self.round_trip_s)

    @property
    def ping_number(self) -> int:
        """Return the number that the ping due now shall carry."""
        return self._number

    def heard(self, now: float) -> None:
        """Note that something came from the peer."""
        self._heard = now

    def acked(self, number: int, now: float) -> None:
        """Note the answer to a ping: one sample of the round trip. An answer to no ping is no sample."""
        sent, self.sample_s = self._flying.pop(number, None), None
        if sent is None or not 0 <= now - sent <= self.limit_s:
            return  # later than the limit is what a stopped process or a stalled link made of it
        self.sample_s = sample = now - sent
        known = self.round_trip_s
        self.round_trip_s = sample if known is None else known + _SHARE * (sample - known)

    def look(self, now: float) -> Verdict:
        """Judge at ``now``; call it at ``next_look``. With "ping" a ping of ``ping_number`` is due at once."""
        if now - self._looked > self.limit_s:
            # This end was stopped, or its clock jumped: what came meanwhile is unread. Ask before judging.
            self._heard = max(self._heard, now - self.limit_s * (1 - 1 / _PINGS))
        self._looked = now
        if now >= self._gone_at:
            return "gone"
        if now >= self._ping_at:
            self.ask(now)
            return "ping"
        return "well"

    def ask(self, now: float) -> int:
        """Return the number that a ping sent now carries: it is due, or somebody wants to know the round trip."""
        self._pinged = now
        self._number += 1
        self._flying = {number: at for number, at in self._flying.items() if now - at < self.limit_s}
        self._flying[self._number] = now
        return self._number

    @property
    def next_look(self) -> float:
        """Return when to look again, if nothing is heard until then."""
        return min(self._gone_at, self._ping_at)

    @property
    def _gone_at(self) -> float:
        return self._heard + self.limit_s

    @property
    def _ping_at(self) -> float:
        return min(max(self._heard, self._pinged) + self.limit_s / _PINGS, self._pinged + _REFRESH_S)
