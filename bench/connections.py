"""Connections for many devices in one process: an edge takes only so many streams over one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from airdraft.wire.client import EdgeConnection
from airdraft.wire.server import STREAMS_PER_CONNECTION


@asynccontextmanager
async def connections(address: str, streams: int) -> AsyncIterator[list[EdgeConnection]]:
    """Give as many connections to one edge as so many streams at once need; theirs are taken in turn."""
    async with AsyncExitStack() as stack:
        # Half of what it takes: a stream that ended counts at the edge for a moment more, and one too many is reset.
        count = max(1, -(-2 * streams // STREAMS_PER_CONNECTION))
        yield [await stack.enter_async_context(EdgeConnection(address)) for _ in range(count)]
