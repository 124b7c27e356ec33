"""A TCP relay that is a radio link: it shapes what passes and fails on command. No root, no kernel module.

    async with Relay("127.0.0.1", 50051, up=Shape(Constant(0.02)), down=Shape(), random=Random(1)) as relay:
        ...  # connect to relay.address
        relay.outage(1.5)

Up is the direction from who connects. Every command acts at once. Conditions are read in seconds since the start. What
the kernel buffers at both sockets comes on top of what a ``Shape`` lets wait.

The kernel completes the caller's handshake by itself. So that connecting costs what it would on the link, the caller's
first bytes leave one round trip after it was accepted, the target's after that trip and the way up.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from enum import Enum, auto
from random import Random
from types import TracebackType
from typing import Self

from airdraft.link.connection import Connection
from airdraft.link.lane import Lane
from airdraft.link.shaping import Air, Shape, Stream

_LOOPBACK = "127.0.0.1"


class Refusal(Enum):
    """What meets those who connect while the relay takes nobody."""

    CLOSED = auto()  # the port does not listen
    RESET = auto()  # accepted, then reset


class Relay:
    """Listens on a free port of 127.0.0.1 and carries every connection to a target over one emulated link."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        random: Random,
        up: Shape | None = None,
        down: Shape | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = ""
        self._target = (host, port)
        self._up, self._down = up or Shape(), down or Shape()
        self._airs = Air(self._up.conditions), Air(self._down.conditions)
        self._random = random
        self._clock = clock
        self._began_s = 0.0
        self._connections: dict[Connection, None] = {}  # in the order they came
        self._carried_bytes = (0, 0)  # by connections that have ended
        self._tasks = asyncio.TaskGroup()
        self._moving = asyncio.Event()
        self._resume: asyncio.TimerHandle | None = None
        self._vanishing = (False, False)
        self._refusal: Refusal | None = None
        self._slice_bytes: int | None = None
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        self._reserved = _bound(0)  # keeps the port ours while nobody listens
        self.address = f"{_LOOPBACK}:{self.port}"
        self._began_s = self._clock()
        self._moving.set()
        await self._tasks.__aenter__()
        self.admit()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.refuse()
            self._forget_resume()
            self.cut()
            for connection in list(self._connections):
                await connection.ended.wait()
        finally:
            if self._reserved is not None:
                self._reserved.close()
            stopped = isinstance(error, asyncio.CancelledError)  # maybe by the group, for a task of ours that failed
            await (
                self._tasks.__aexit__(kind, error, traceback) if stopped else self._tasks.__aexit__(None, None, None)
            )

    @property
    def port(self) -> int:
        assert self._reserved is not None, "the relay has not started"
        port: int = self._reserved.getsockname()[1]
        return port

    @property
    def now_s(self) -> float:
        """Return the seconds since the start: the time in which conditions are read."""
        return self._clock() - self._began_s

    @property
    def connections(self) -> int:
        """Return how many connections are open, those included that are dead and do not know it."""
        return len(self._connections)

    @property
    def carried_bytes(self) -> tuple[int, int]:
        """Return how many bytes were delivered so far, up and down."""
        up, down = self._carried_bytes
        lanes = [connection.lanes for connection in self._connections]
        return up + sum(pair[0].delivered_bytes for pair in lanes), down + sum(
            pair[1].delivered_bytes for pair in lanes
        )

    # ---- faults ----

    def cut(self) -> None:
        """Reset every connection at both ends, now."""
        for connection in list(self._connections):
            connection.reset()

    def stop(self) -> None:
        """Let nothing move until ``resume``; what is sent meanwhile arrives then, new connections wait unserved."""
        self._forget_resume()
        self._moving.clear()
        for lane in self._lanes():
            lane.hold(self.now_s)

    def resume(self) -> None:
        """Let everything move again."""
        self._forget_resume()
        if self._moving.is_set():
            return
        self._moving.set()
        now = self.now_s
        for air in self._airs:
            air.restart(now)
        for lane in self._lanes():
            lane.release(now)

    def outage(self, seconds: float) -> None:
        """Stop now, resume after so long."""
        self.stop()
        self._resume = asyncio.get_running_loop().call_later(seconds, self.resume)

    def black_hole(self, *, up: bool = True, down: bool = True) -> None:
        """Lose every byte that way until ``restore``, those under way included; connections stay open at both ends.

        Who connects meanwhile never reaches the target.
        """
        self._vanishing = (self._vanishing[0] or up, self._vanishing[1] or down)
        for connection in self._connections:
            for lane, vanishing in zip(connection.lanes, self._vanishing, strict=True):
                if vanishing:
                    lane.swallow()

    def restore(self) -> None:
        """Carry new connections again. Those that saw the black hole never deliver another byte, and are not told."""
        if any(self._vanishing):
            self._vanishing = (False, False)
            for connection in list(self._connections):
                connection.bury()

    def refuse(self, how: Refusal = Refusal.CLOSED) -> None:
        """Take no new connections until ``admit``; those that are there stay."""
        self._refusal = how
        if how is Refusal.CLOSED and self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def admit(self) -> None:
        """Take new connections, on the same port as ever."""
        self._refusal = None
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.setblocking(False)
            self._listener.listen(1024)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def retarget(self, host: str, port: int) -> None:
        """Carry connections that are not yet through to another target: the device has walked to another edge."""
        self._target = (host, port)

    def slice(self, most_bytes: int | None) -> None:
        """Write bytes in random pieces of 1 to so many, or as they come (None)."""
        if most_bytes is not None and most_bytes < 1:
            raise ValueError("a slice has at least one byte")
        self._slice_bytes = most_bytes
        for lane in self._lanes():
            lane.slice_bytes = most_bytes

    # ---- connections ----

    def _lanes(self) -> list[Lane]:
        return [lane for connection in self._connections for lane in connection.lanes]

    def _accept(self, listener: socket.socket) -> None:
        try:
            caller, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # the caller has given up
            return
        connection = self._new_connection()
        self._connections[connection] = None
        self._tasks.create_task(self._carry(connection, caller))

    def _new_connection(self) -> Connection:
        now = self.now_s
        way_up, way_down = (air.conditions.delay_s(now) for air in self._airs)
        trip = now + way_up + way_down
        connection = Connection(
            Stream(self._up, self._airs[0], self._random, trip),
            Stream(self._down, self._airs[1], self._random, trip + way_up),
            lambda: self.now_s,
            self._random,
        )
        for lane in connection.lanes:
            lane.slice_bytes = self._slice_bytes
            if not self._moving.is_set():
                lane.hold(now)
        if self._refusal is not None:
            connection.doomed = True
        elif any(self._vanishing):
            connection.bury()
        return connection

    async def _carry(self, connection: Connection, caller: socket.socket) -> None:
        """Own a connection from its acceptance to its end."""
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection.client, caller)
        if not (connection.doomed or connection.dead):
            connection.reach(self._tasks.create_task(self._reach(connection)))
        await connection.ended.wait()
        del self._connections[connection]
        up, down = self._carried_bytes
        self._carried_bytes = up + connection.up.delivered_bytes, down + connection.down.delivered_bytes

    async def _reach(self, connection: Connection) -> None:
        await self._moving.wait()
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection.server, *self._target)
        except OSError:
            connection.reset()

    # ---- the rest ----

    def _forget_resume(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((_LOOPBACK, port))
    return bound
