"""One relayed connection: a socket to each end, and a lane each way between them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import cast

from airdraft.link.lane import Ending, Lane
from airdraft.link.shaping import Stream

_NO_LINGER = struct.pack("ii", 1, 0)  # a close discards what is unsent and tells the peer by RST


class Connection:
    """Two ends and two lanes; ``ended`` is set when both sockets are closed."""

    def __init__(self, up: Stream, down: Stream, clock: Callable[[], float], random: Random) -> None:
        self.ended = asyncio.Event()
        self.doomed = False  # to be reset as soon as there is a socket
        self.dead = False  # bytes vanished, so none behind them can ever be delivered
        self.client, self.server = End(self), End(self)
        self._reaching: asyncio.Task[None] | None = None  # the attempt to connect to the target
        self.up = Lane(up, self.client, clock, random)
        self.down = Lane(down, self.server, clock, random)
        self.client.outgoing = self.server.incoming = self.up
        self.server.outgoing = self.client.incoming = self.down

    @property
    def lanes(self) -> tuple[Lane, Lane]:
        return self.up, self.down

    def reset(self) -> None:
        """Tell both ends by RST, at once."""
        self._give_up()
        self.client.reset()
        self.server.reset()

    def bury(self) -> None:
        """Deliver nothing more, whatever comes; neither end is told."""
        self.dead = True
        for lane in self.lanes:
            lane.swallow()
        self.end_changed()

    def reach(self, attempt: asyncio.Task[None]) -> None:
        """Be reaching for the target, until the attempt is done."""
        self._reaching = attempt
        attempt.add_done_callback(self._reached)

    def end_changed(self) -> None:
        """See whether anybody is left to tell or to hear anything."""
        if self.dead and self.client.silent and (self.server.silent or self.server.transport is None):
            self.reset()
        if not self.client.gone:
            return
        if self.server.transport is None:
            self._give_up()
        if self.server.gone or (self.server.transport is None and self._reaching is None):
            for lane in self.lanes:
                lane.close()
            self.ended.set()

    def _reached(self, attempt: asyncio.Task[None]) -> None:
        self._reaching = None
        self.end_changed()

    def _give_up(self) -> None:
        self.doomed = True
        if self._reaching is not None:
            self._reaching.cancel()


class End(asyncio.Protocol):
    """One socket: what it reads goes out by one lane, what the other lane brings is written to it."""

    incoming: Lane
    outgoing: Lane

    def __init__(self, connection: Connection) -> None:
        self.transport: asyncio.Transport | None = None
        self.gone = False
        self._connection = connection
        self._eof_read = False
        self._eof_written = False
        self._reset = False

    @property
    def silent(self) -> bool:
        """Return whether nothing more will come from here."""
        return self._eof_read or self.gone

    # ---- asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._connection.doomed:
            self.reset()
        else:
            self.incoming.reach(self)

    def data_received(self, data: bytes) -> None:
        self.outgoing.offer(data)

    def eof_received(self) -> bool:
        self._eof_read = True
        self.outgoing.offer(Ending.EOF)
        self._connection.end_changed()
        return not self._eof_written

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.incoming.close()
        if exc is not None and not self._reset:
            self.outgoing.offer(Ending.RESET)
        self._connection.end_changed()

    def pause_writing(self) -> None:
        self.incoming.writable(False)

    def resume_writing(self) -> None:
        self.incoming.writable(True)

    # ---- the lanes call ----

    def pause(self) -> None:
        if self.transport is not None and not self._eof_read:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self._eof_read:
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def end(self, ending: Ending) -> None:
        if ending is Ending.RESET:
            self.reset()
        elif self.transport is not None:
            self._eof_written = True
            with suppress(OSError):  # the peer has gone, and asyncio has not told us yet
                self.transport.write_eof()
            if self._eof_read:
                self.transport.close()

    def reset(self) -> None:
        """Close at once; the peer hears of it by RST."""
        if self.transport is None or self.gone or self._reset:
            return
        self._reset = True
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()
