"""More devices than places, over real sockets: each is told when to come back, does so, and gets its text."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.drafting import NgramDrafter
from airdraft.core.errors import Overloaded
from airdraft.core.types import Quote
from airdraft.wire.client import EdgeConnection
from device_client.generation import Generation
from edge_node.sessions import Terms
from tests.system.loopback import Loopback, Recorder, ask, edge_on_loopback, session_for
from tests.system.test_resume import PROMPT, TARGET, expected, start

DEVICES = 4


def counted(edge: Loopback, name: str, **labels: str) -> float:
    metrics = edge.service.sessions.metrics
    value = metrics.registry.get_sample_value(f"airdraft:{name}", {"model_name": metrics.model_name} | labels)
    assert value is not None
    return value


async def test_devices_share_a_single_place_one_after_the_other() -> None:
    async with edge_on_loopback(TARGET, terms=Terms(most=1, keep_s=60)) as edge, asyncio.timeout(60):
        texts = [start(edge, [edge.address]) for _ in range(DEVICES)]
        await asyncio.gather(*(text.running for text in texts))
        for text in texts:
            assert text.reader.ids == expected()
        refused = counted(edge, "refusals_total", code="retry_later")
        assert counted(edge, "admission_seconds_count") == DEVICES
        assert counted(edge, "admission_lost_turns_total") == 0
        assert counted(edge, "admission_waiting") == 0
        waited_s = counted(edge, "admission_seconds_sum")
    # Whoever does not come first is refused; all of them together at the rate that they were told, no faster.
    assert DEVICES - 1 <= refused <= 2 + waited_s / 0.1
    reasons = [reason for text in texts for reason in text.reader.waits]
    assert any("every place at this edge is taken; 1 before you in line; try again in" in reason for reason in reasons)


async def test_a_place_that_falls_free_is_kept_for_who_waits() -> None:
    async with (
        edge_on_loopback(TARGET, terms=Terms(most=1, keep_s=60)) as edge,
        EdgeConnection(edge.address) as connection,
        asyncio.timeout(60),
    ):
        holder = start(edge, [edge.address])
        await holder.reader.has_read(1)
        waiting = session_for(edge, PROMPT, draft_length=0, max_tokens=5)
        with pytest.raises(Overloaded) as refused, Generation(waiting, NgramDrafter(), Recorder()) as generation:
            await generation.over(connection.generate(edge.description.vocabulary))
        assert refused.value.retry_after_s > 0
        await holder.running
        with pytest.raises(Overloaded, match="1 before you in line"):
            await ask(edge, connection, PROMPT, NgramDrafter(), draft_length=0, max_tokens=5)
        recorder = Recorder()
        with Generation(waiting, NgramDrafter(), recorder) as generation:
            await generation.over(connection.generate(edge.description.vocabulary))
        assert recorder.ids == expected()[:5]


async def test_a_quote_tells_of_the_load_while_a_text_is_written() -> None:
    """A session that had the edge to itself hears within its text that it has company: by a commit."""
    async with (
        edge_on_loopback(TARGET, terms=Terms(most=8, keep_s=60)) as edge,
        EdgeConnection(edge.address) as connection,
        asyncio.timeout(60),
    ):
        first = start(edge, [edge.address])
        await first.reader.has_read(1)
        early, later = first.session.quote, list[Quote]()

        async def keeps_writing(number: int) -> None:
            while not first.running.done():
                prompt = (*PROMPT, 20 + number)
                await ask(edge, connection, prompt, NgramDrafter(), draft_length=0, max_tokens=10)
                later.extend([first.session.quote] if first.session.quote else [])

        await asyncio.gather(*(keeps_writing(number) for number in range(6)))
    assert early is not None
    assert max(quote.step_sessions for quote in later) > early.step_sessions + 1
    assert max(quote.edge_second_price for quote in later) > early.edge_second_price + 1
