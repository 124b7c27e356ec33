"""Cache rows of a device that is killed are there for the next one."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.drafting import NgramDrafter
from airdraft.core.errors import Overloaded
from airdraft.core.session import DeviceSession
from airdraft.wire.client import EdgeConnection
from device_client.generation import Generation
from tests.shapes import CONTEXT
from tests.system.loopback import Loopback, Recorder, ask, edge_on_loopback, session_for
from tests.system.test_equality import shape_target

PROMPT = (5, 6, 7)


async def waited(edge: Loopback, connection: EdgeConnection) -> tuple[DeviceSession, float]:
    """Let one session ask until there is room, as often as it is told to; return it and how long there was none."""
    session = session_for(edge, PROMPT, draft_length=0, max_tokens=20)
    began_s = time.monotonic()
    while True:
        try:
            with Generation(session, NgramDrafter(), Recorder()) as generation:
                await generation.over(connection.generate(edge.description.vocabulary))
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_s)
        else:
            return session, time.monotonic() - began_s


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
        session, seconds = await waited(edge, connection)
        await holder.wait()
    assert len(session.ids) == len(PROMPT) + 20
    print(f"free after {seconds * 1e3:.0f} ms")  # noqa: T201 (the figure, with pytest -s)
