"""Opens and drops streams at an edge in this process, and prints as JSON what is left of them."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

from airdraft.core.types import Open, Prefix
from airdraft.wire.client import EdgeConnection
from edge_node.sessions import Terms
from tests.shapes import VOCABULARY
from tests.system.loopback import Loopback, edge_on_loopback, session_for
from tests.system.test_equality import shape_target

WARM_UP = 1000


def resident_mb() -> float:
    """Return what the process holds; what is free in the allocator's pools goes back first."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc has none to give back
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def drop(edge: Loopback, connection: EdgeConnection, count: int) -> None:
    """Open so many streams, each with a prompt, and drop them at the edge's first word; wait until it forgets."""
    for _ in range(count):
        session = session_for(edge, (5, 6, 7), draft_length=3, max_tokens=100)
        stream = connection.generate(VOCABULARY)
        for output in session.attach(1, with_prefix=True):
            assert isinstance(output, (Open, Prefix))
            await stream.send(output)
        async for _frame in stream:
            break
        stream.cancel()
    while len(edge.service.sessions):
        await asyncio.sleep(0.01)


async def main(count: int) -> None:
    async with (
        edge_on_loopback(shape_target("llama"), terms=Terms(most=64, keep_s=0.05)) as edge,
        EdgeConnection(edge.address) as connection,
    ):
        await drop(edge, connection, WARM_UP)
        before_mb, before_descriptors, before_tasks = resident_mb(), descriptors(), len(asyncio.all_tasks())
        await drop(edge, connection, count)
        left = {
            "streams": count,
            "sessions": len(edge.service.sessions),
            "kv_rows": edge.service.sessions.pool.reserved_rows,
            "more_tasks": len(asyncio.all_tasks()) - before_tasks,
            "more_descriptors": descriptors() - before_descriptors,
            "more_mb": round(resident_mb() - before_mb, 2),
        }
    print(json.dumps(left))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
