"""One text over whatever edges and streams it takes: connect, attach, and after any failure the same again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from airdraft.core.errors import Draining, EdgeUnreachable, SpecError
from airdraft.core.session import Reattachment
from airdraft.core.types import Drain, Limits
from airdraft.wire.access import OPEN, Access
from airdraft.wire.client import EdgeConnection, Traffic
from airdraft.wire.describe import Description
from device_client.generation import Generation

T = TypeVar("T")

MOST_PENDING = 6
"""Connections that may be on their way up at once; past it the oldest is given up."""


class Notice(Protocol):
    """Whoever is told what the device waits for."""

    def waiting(self, reason: str) -> None:
        """The text stands still, for this reason; it is kept."""
        ...

    def back(self, edge: str, after_s: float) -> None:
        """The text goes on."""
        ...


class Connecting:
    """Gets a connection to one of several edges: attempts that hang are joined by the next ones, and the first wins."""

    def __init__(
        self, edges: Reattachment, notice: Notice, connect_s: float, clock: Callable[[], float], access: Access = OPEN
    ) -> None:
        self._edges, self._notice, self._connect_s, self._clock = edges, notice, connect_s, clock
        self._access = access
        self._pending: dict[asyncio.Task[EdgeConnection], str] = {}

    async def first(self, round_trip_s: float | None) -> EdgeConnection:
        """Return the first connection that stands. Raises what ``Reattachment`` gives up with."""
        try:
            while True:
                attempt = self._edges.next(self._clock()) if self._may_try() else None
                now = self._clock()
                if attempt is not None and attempt.at <= now:
                    self._start(attempt.edge, now, round_trip_s)
                    continue
                won = await self._wait(None if attempt is None else min(attempt.at, self._edges.over_at) - now)
                if won is not None:
                    return won
        finally:
            await self._drop()

    def _may_try(self) -> bool:
        """Every edge that is tried once is waited for; those that are tried again and again are not."""
        return not self._pending or self._edges.give_up_s > 0

    def _start(self, edge: str, now: float, round_trip_s: float | None) -> None:
        if len(self._pending) > 1 and self._edges.give_up_s > 0:  # one that hangs may be a long round trip
            self._notice.waiting(f"edge {next(reversed(self._pending.values()))} does not answer")
        self._edges.started(edge, now, round_trip_s)
        self._pending[asyncio.create_task(self._connect(edge))] = edge
        if len(self._pending) > MOST_PENDING:
            next(iter(self._pending)).cancel()

    async def _connect(self, edge: str) -> EdgeConnection:
        connection = EdgeConnection(edge, self._access)
        try:
            async with asyncio.timeout(self._connect_s):
                await connection.ready()
        except TimeoutError:
            await connection.close()
            raise EdgeUnreachable(
                f"edge {edge} did not answer in time; check the link, or wait longer (--connect-seconds)"
            ) from None
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _wait(self, seconds: float | None) -> EdgeConnection | None:
        if not self._pending:
            await asyncio.sleep(max(0.0, seconds or 0.0))
            return None
        timeout = None if seconds is None else max(0.0, seconds)
        done, _ = await asyncio.wait(self._pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        won: EdgeConnection | None = None
        for task in done:
            edge = self._pending.pop(task)
            if task.cancelled():
                continue
            error = task.exception()
            if isinstance(error, SpecError):
                self._edges.failed(edge, error, self._clock())
                if self._edges.give_up_s > 0:
                    self._notice.waiting(error.message)
            elif won is None:
                won = task.result()
            else:
                await task.result().close()
        return won

    async def _drop(self) -> None:
        """Give up what is still pending."""
        for task in self._pending:
            task.cancel()
        for outcome in await asyncio.gather(*self._pending, return_exceptions=True):
            if isinstance(outcome, EdgeConnection):
                await outcome.close()
        self._pending.clear()


class Roaming:
    """Carries a generation to its end."""

    def __init__(
        self,
        edges: Reattachment,
        notice: Notice,
        *,
        connect_s: float,
        pad: bool = False,
        access: Access = OPEN,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare: ``edges`` are chosen among by their own rules, each has ``connect_s`` to answer, met by ``access``.

        With ``pad`` streams are padded; those that were left go on to their rungs while the text goes on elsewhere.
        """
        self.edges, self.traffic = edges, Traffic()
        self.reattached = 0  # streams after the first
        self._notice, self._connect_s, self._clock = notice, connect_s, clock
        self._pad = pad
        self._parting: list[asyncio.Task[None]] = []  # connections whose padded stream goes on without us
        self._rests_until = 0.0
        self._connecting = Connecting(edges, notice, connect_s, clock, access)
        self._known: dict[str, Limits] = {}
        self._last: str | None = None  # the edge whose limits the session has
        self._lost_at: float | None = None

    def met(self, edge: str, description: Description) -> None:
        """Take note of what an edge has said of itself, so that it is not asked again."""
        self._known[edge] = description.limits

    def may_leave(self, drain: Drain) -> bool:
        """Say whether a draining edge can be left for another, one that it names for instance."""
        self.edges.learned(drain.edges)
        return self.edges.others

    async def first(self, meet: Callable[[EdgeConnection], Awaitable[T]]) -> tuple[EdgeConnection, T]:
        """Return a connection to the first edge that ``meet`` succeeds with, and what that returned.

        Raises what ``Reattachment`` gives up with.
        """
        self.edges.begin(self._clock())
        while True:
            connection = await self._connecting.first(None)
            try:
                met = await meet(connection)
                self.edges.held()  # whatever comes before the first stream is no loss
                return connection, met
            except SpecError as error:
                await connection.close()
                self.edges.failed(connection.address, error, self._clock())
            except BaseException:
                await connection.close()
                raise

    async def run(self, generation: Generation, vocabulary: int, first: EdgeConnection) -> None:
        """Go on until the text is over, over ``first`` to begin with; it is closed like every other.

        Raises what no further attempt can mend, or that of the last one when the time to re-attach is over.
        """
        connection = first
        while True:
            try:
                await self._over(generation, connection, vocabulary)
                return
            except SpecError as error:
                self._lost(connection.address, error)
            finally:
                await self._part(connection)
            connection = await self._connecting.first(generation.round_trip_s)

    async def _over(self, generation: Generation, connection: EdgeConnection, vocabulary: int) -> None:
        edge = connection.address
        if edge not in self._known:
            self.met(edge, await connection.describe(timeout_s=self._connect_s))
        limits = None if edge == self._last else self._known[edge]
        self._last = edge
        await generation.over(connection.generate(vocabulary, self.traffic, pad=self._pad), limits=limits)

    async def _part(self, connection: EdgeConnection) -> None:
        """Close a connection; one with a padded stream closes beside what comes next."""
        task = asyncio.current_task()
        if not connection.rest_s or task is None or task.cancelling():
            await connection.close()
            return
        self._rests_until = max(self._rests_until, self._clock() + connection.rest_s)
        self._parting.append(asyncio.create_task(connection.close()))

    @property
    def rest_s(self) -> float:
        """Return how long ``parted`` will wait, about."""
        return max(0.0, self._rests_until - self._clock()) if self._parting else 0.0

    async def parted(self) -> None:
        """Wait until the padded streams that were left have come to their rungs."""
        await asyncio.gather(*self._parting)
        self._parting.clear()

    def _lost(self, edge: str, error: SpecError) -> None:
        now = self._clock()
        self._lost_at = now if self._lost_at is None else self._lost_at
        self.edges.failed(edge, error, now)
        self.reattached += 1
        if not isinstance(error, Draining):  # moving house is no loss
            self._notice.waiting(error.message)

    def held(self) -> None:
        """Take note that text came: the wait is over, and this edge is the one to come back to."""
        if self._last is not None:
            self.edges.attached(self._last)
        self.edges.held()
        if self._lost_at is not None:
            self._notice.back(self.edges.current, self._clock() - self._lost_at)
            self._lost_at = None
