"""Cache rows of a device that is killed are there for the next one."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.drafting import NgramDrafter
from airdraft.core.errors import Overloaded
from airdraft.wire.client import EdgeConnection
from tests.shapes import CONTEXT
from tests.system.loopback import Answer, Loopback, ask, edge_on_loopback
from tests.system.test_equality import shape_target

PROMPT = (5, 6, 7)


async def waited(edge: Loopback, connection: EdgeConnection) -> tuple[Answer, float]:
    """Ask until there is room; return the answer and how long there was none."""
    began_s = time.monotonic()
    while True:
        try:
            answer = await ask(edge, connection, PROMPT, NgramDrafter(), draft_length=0, max_tokens=20)
        except Overloaded:
            await asyncio.sleep(0.01)
        else:
            return answer, time.monotonic() - began_s


async def test_a_killed_client_frees_its_rows() -> None:
    """Every row is one session's, whose process is killed; nobody tells the edge but the broken connection."""
    async with (
        edge_on_loopback(shape_target("llama"), pool_rows=256) as edge,
        EdgeConnection(edge.address) as connection,
    ):
        holder = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.system.held_stream", edge.address, str(CONTEXT - len(PROMPT))),
            stdout=asyncio.subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"holding\n"
        with pytest.raises(Overloaded, match="the memory of this edge is in use"):
            await ask(edge, connection, PROMPT, NgramDrafter(), draft_length=0, max_tokens=20)
        holder.kill()
        answer, seconds = await waited(edge, connection)
        await holder.wait()
    assert len(answer.ids) == 20
    print(f"free after {seconds * 1e3:.0f} ms")  # noqa: T201 (the figure, with pytest -s)
