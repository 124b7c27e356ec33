"""Both ends of relayed connections, in words short enough for tests."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

from airdraft.link.relay import Relay
from airdraft.link.shaping import Shape

EVENTUALLY_S = 30.0


class Peer:
    """One end of a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hears(self, count: int) -> bytes:
        async with asyncio.timeout(EVENTUALLY_S):
            return await self.reader.readexactly(count)

    async def hears_all(self) -> bytes:
        async with asyncio.timeout(EVENTUALLY_S):
            return await self.reader.read()

    async def is_reset(self) -> bool:
        try:
            await self.hears_all()
        except ConnectionResetError:
            return True
        return False

    def resets(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closes(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


class Target:
    """A server that hands its connections to the test; ``peers`` in the order they came."""

    def __init__(self) -> None:
        self.port = 0
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self.all: list[Peer] = []

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.all.append(peer)
        self.peers.put_nowait(peer)

    async def next(self) -> Peer:
        async with asyncio.timeout(EVENTUALLY_S):
            return await self.peers.get()

    @asynccontextmanager
    async def serves(self) -> AsyncIterator[Target]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for peer in self.all:
                await peer.closes()


Dial = Callable[[Relay], Awaitable[Peer]]


def relay_to(target: Target, up: Shape | None = None, down: Shape | None = None) -> Relay:
    return Relay("127.0.0.1", target.port, random=Random(1), up=up, down=down)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(EVENTUALLY_S):
        while not condition():  # noqa: ASYNC110 (its owner tells nobody)
            await asyncio.sleep(0)


async def pair(relay: Relay, target: Target, dial: Dial) -> tuple[Peer, Peer]:
    """Return both ends of a connection that has carried a byte each way."""
    client = await dial(relay)
    server = await target.next()
    await client.says(b"?")
    assert await server.hears(1) == b"?"
    await server.says(b"!")
    assert await client.hears(1) == b"!"
    return client, server
