"""Where and when a device attaches next, once a stream is lost: one path for every failure (DESIGN §3C).

Attempts are spread by full jitter (Brooker 2015, "Exponential Backoff And Jitter": a uniform draw below a bound that
doubles), so that a cell full of phones does not come back in step. The edge of before is tried first, as it holds the
cache; then the others of the list in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from airdraft.core.errors import (
    BadAck,
    BadReceipt,
    CreditsExceeded,
    Draining,
    EdgeFault,
    EdgeUnreachable,
    Forbidden,
    LimitReached,
    MalformedFrame,
    ModelMismatch,
    OutOfOrder,
    Overloaded,
    PrefixMismatch,
    SessionMismatch,
    SpecError,
    StaleEpoch,
    Superseded,
    TokenizerMismatch,
    TooLong,
    Unauthenticated,
    Unsupported,
    UnsupportedVersion,
)

FIRST_JITTER_S = 0.05
"""The first wait is drawn below this; the bound doubles with each attempt."""

LONGEST_JITTER_S = 1.0

PENDING_S = 0.25
"""An attempt that hangs is joined by the next one after this, or after three round trips (compare RFC 8305), and half
of the jitter: what hangs is more often the link than an edge that many ask."""

STRIKES = 5
"""Protocol faults in a row, without a token between them, after which the device stops to blame the link."""

UNFIT: tuple[type[SpecError], ...] = (
    Forbidden,
    ModelMismatch,
    SessionMismatch,
    TokenizerMismatch,
    TooLong,
    Unauthenticated,
    Unsupported,
    UnsupportedVersion,
)
"""What no second attempt at the same edge can mend."""

_FAULTS = (BadAck, CreditsExceeded, MalformedFrame, OutOfOrder, PrefixMismatch)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Attach to ``edge``, not before ``at``."""

    edge: str
    at: float


@dataclass(slots=True)
class _Route:
    edge: str
    not_before: float = -math.inf
    tried: bool = False  # since the loss
    doubted: bool = False  # it has refused a receipt
    unfit: SpecError | None = None


@dataclass(slots=True)
class Reattachment:
    """Chooses attempts until one holds. Times are seconds of any clock that never goes back; ``uniform`` is in [0, 1).

    ``give_up_s`` counts from the loss to the next committed token. 0 tries every edge once.
    """

    edges: Sequence[str]
    give_up_s: float
    uniform: Callable[[], float]
    current: str = field(init=False)  # the edge that is attached, or that is tried first
    _routes: dict[str, _Route] = field(init=False)
    _lost_at: float | None = None
    _tries: int = 0  # since the loss
    _turn: int = 0  # which of the routes is next
    _next_at: float = 0.0
    _strikes: int = 0
    _reason: SpecError | None = None  # why the last attempt failed

    def __post_init__(self) -> None:
        assert self.edges, "at least one edge"
        self._routes = {edge: _Route(edge) for edge in self.edges}
        self.current = self.edges[0]

    @property
    def reason(self) -> SpecError | None:
        """Return what went wrong last."""
        return self._reason

    @property
    def others(self) -> bool:
        """Return whether an edge other than the current one may be tried."""
        return any(route.unfit is None for edge, route in self._routes.items() if edge != self.current)

    @property
    def over_at(self) -> float:
        """Return when ``next`` gives up; infinite where attempts are counted and not seconds."""
        return math.inf if self._lost_at is None or self.give_up_s == 0 else self._lost_at + self.give_up_s

    def learned(self, edges: Sequence[str]) -> None:
        """Add edges that the current one named; they are tried before those of the list."""
        news = {edge: _Route(edge) for edge in edges if edge not in self._routes}
        self._routes = news | self._routes

    def begin(self, now: float) -> None:
        """Count from now on, unless a loss is already being counted."""
        if self._lost_at is not None:
            return
        self._lost_at, self._tries, self._turn, self._next_at = now, 0, 0, now
        for route in self._routes.values():
            route.tried = False

    def held(self) -> None:
        """Note that a token was committed: whatever was wrong is over."""
        self._lost_at, self._strikes, self._reason = None, 0, None

    def next(self, now: float) -> Attempt:
        """Return the attempt that is due next.

        Raises EdgeUnreachable once the time is over, and what every edge refused with where none is left to try.
        """
        assert self._lost_at is not None, "nothing is lost"
        fit = [route for route in self._ordered() if route.unfit is None and (self.give_up_s or not route.tried)]
        if not fit or now >= self.over_at:
            raise self._given_up(now)
        at = max(now, self._next_at)
        free = [route for route in fit if route.not_before <= at]
        turn = self._turn if self.give_up_s else 0  # those that were tried are not among the fit ones then
        route = free[turn % len(free)] if free else min(fit, key=lambda route: route.not_before)
        return Attempt(route.edge, max(at, route.not_before))

    def started(self, edge: str, now: float, round_trip_s: float | None) -> None:
        """Note that an attempt is under way; the next one may join it if it hangs."""
        self._routes[edge].tried = True
        self._tries += 1
        self._turn += 1
        self._next_at = now + max(PENDING_S, 3 * (round_trip_s or 0.0)) + self._jitter() / 2

    def attached(self, edge: str) -> None:
        """Note that an edge has answered; the wait is over only with the next token."""
        self.current, self._turn = edge, 0

    def failed(self, edge: str, error: SpecError, now: float) -> None:
        """Note how an attempt, or the stream that came of it, ended. Raises what no attempt anywhere can mend."""
        self.begin(now)
        self._reason = error
        route = self._routes[edge]
        self._next_at = now + self._jitter()
        if isinstance(error, Superseded):
            raise error  # a twin of this device took the session: the text is safe there
        if isinstance(error, StaleEpoch):
            route.tried, self._turn, self._next_at = False, self._index(edge), now  # the device mints above it now
        elif isinstance(error, BadReceipt) and not route.doubted:
            route.doubted, route.tried = True, False  # the device comes back without one: is it wanted at all?
            self._turn = self._index(edge)
        elif isinstance(error, (BadReceipt, *UNFIT)):
            route.unfit = error
        elif isinstance(error, (Overloaded, Draining, LimitReached)):
            route.not_before = now + max(error.retry_after_s, FIRST_JITTER_S)
        elif isinstance(error, EdgeFault):
            route.not_before = now + LONGEST_JITTER_S
        elif isinstance(error, _FAULTS):
            self._strikes += 1
            if self._strikes >= STRIKES:
                raise error

    def _jitter(self) -> float:
        return self.uniform() * min(LONGEST_JITTER_S, FIRST_JITTER_S * 2.0 ** min(self._tries, 30))

    def _ordered(self) -> list[_Route]:
        """Return the routes, the current one first."""
        first = [route for edge, route in self._routes.items() if edge == self.current]
        return first + [route for edge, route in self._routes.items() if edge != self.current]

    def _index(self, edge: str) -> int:
        return next(index for index, route in enumerate(self._ordered()) if route.edge == edge)

    def _given_up(self, now: float) -> SpecError:
        assert self._lost_at is not None
        routes = self._ordered()
        if all(route.unfit for route in routes) or (self.give_up_s == 0 and self._reason):
            return next((route.unfit for route in routes if route.unfit), None) or self._reason or EdgeUnreachable("")
        last = f"; last: {self._reason.message}" if self._reason else ""
        return EdgeUnreachable(f"no edge could go on with the text for {now - self._lost_at:.0f} s{last}")
