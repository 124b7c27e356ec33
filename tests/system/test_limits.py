"""Limits on real sockets: who stalls is let go, who storms is held to its share, and the neighbour writes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.callers import EVERYBODY, Allowance, Caller
from airdraft.core.paths import ids_digest
from airdraft.v1 import verification_pb2 as pb
from airdraft.v1 import verification_pb2_grpc as rpc
from airdraft.wire.server import STREAMS_PER_CONNECTION
from edge_node.sessions import Terms
from edge_node.stream_watch import Patience
from edge_node.tenants import BURST_S, Tenants
from tests.shapes import CONTEXT, VOCABULARY
from tests.system.loopback import Loopback, edge_on_loopback, session_for
from tests.system.test_admission import counted
from tests.system.test_hostile_input import open_frame, prefix_frame
from tests.system.test_resume import PROMPT, TARGET, Text, expected, start

BRISK = Patience(hello_s=0.3, prefix_s=0.5, frames_s=100.0, frames_burst=50.0)
TERMS = Terms(most=600, keep_s=60)


@dataclass(slots=True)
class Names:
    """Lets everybody in by the name that they give; "storm" has an allowance of its own."""

    prefill_s: float = 0.0

    def admit(self, bearer: str, certificate: bytes) -> Caller:
        allowance = Allowance(prefill_s=self.prefill_s) if bearer == "storm" else None
        return Caller(bearer, allowance=allowance)


def named(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {name}"),)


@asynccontextmanager
async def stubs(edge: Loopback, streams: int) -> AsyncIterator[Iterator[rpc.VerificationStub]]:
    """Give a stub for each of so many streams, as few connections as may carry them."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(edge.address, options=OWN_CONNECTION))
            for _ in range(-(-streams // STREAMS_PER_CONNECTION))
        ]
        yield (rpc.VerificationStub(channels[index // STREAMS_PER_CONNECTION]) for index in range(streams))


OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


async def let_go(edge: Loopback, within_s: float) -> float:
    """Wait until the edge holds no stream; return after how long."""
    began_s = time.monotonic()
    async with asyncio.timeout(within_s):
        while edge.service.sessions.tenants.of(EVERYBODY).streams or edge.service.sessions.attached:
            await asyncio.sleep(0.02)
    return time.monotonic() - began_s


SHORT = 40


def short(edge: Loopback) -> Text:
    """Begin a text that is soon over."""
    session = session_for(edge, PROMPT, draft_length=3, max_tokens=SHORT)
    return start(edge, [edge.address], session=session)


SILENT, NO_PREFIX, DEAF = range(3)
"""Streams that never open; that promise a text; that are complete, read nothing and answer no ping."""


async def stall(edge: Loopback, stub: rpc.VerificationStub, number: int, kind: int) -> Any:
    """Begin a stream that then does nothing."""
    call: Any = stub.Generate()
    if kind != SILENT:
        await call.write(open_frame(edge, session_id=number.to_bytes(16, "big"), max_tokens=100))
    if kind == DEAF:
        await call.write(prefix_frame())
    return call


async def stalled(edge: Loopback, count: int, kinds: Sequence[int], within_s: float) -> None:
    """Let so many streams stall; they must be gone in time."""
    async with stubs(edge, count) as each:
        calls = [await stall(edge, stub, index, kinds[index % len(kinds)]) for index, stub in enumerate(each)]
        async with asyncio.timeout(10):
            while edge.service.sessions.tenants.of(EVERYBODY).streams < count:
                await asyncio.sleep(0.01)
        await let_go(edge, within_s)
        for call in calls:
            call.cancel()


async def test_streams_that_stall_are_let_go_and_one_that_works_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airdraft.wire.server.HELLO_S", BRISK.hello_s)
    async with edge_on_loopback(TARGET, terms=TERMS, patience=BRISK) as edge, asyncio.timeout(60):
        await stalled(edge, 24, [SILENT, NO_PREFIX], within_s=3.0)
        assert counted(edge, "refusals_total", code="limit_reached") >= 12
        text = start(edge, [edge.address])  # 100 tokens by a drafter that takes longer than these deadlines
        await text.running
        assert text.reader.ids == expected()
        assert text.roaming.reattached == 0


@pytest.mark.slow
async def test_five_hundred_stalled_streams_are_let_go_within_fifteen_seconds() -> None:
    async with edge_on_loopback(TARGET, terms=TERMS, pool_rows=1 << 17) as edge, asyncio.timeout(120):
        await stalled(edge, 500, [SILENT, NO_PREFIX, DEAF], within_s=15.0)
        text = start(edge, [edge.address])
        await text.running
        assert text.reader.ids == expected()


async def test_a_stream_that_promises_a_text_and_sends_none_is_told_why() -> None:
    async with (
        edge_on_loopback(TARGET, patience=BRISK) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
        asyncio.timeout(20),
    ):
        call: Any = rpc.VerificationStub(channel).Generate()
        await call.write(open_frame(edge, max_tokens=50))
        last = pb.EdgeFrame()
        with suppress(grpc.aio.AioRpcError):
            async for frame in call:
                last = frame
        assert last.refused.code == pb.REFUSAL_CODE_LIMIT_REACHED
        assert "was not here in time" in last.refused.message
        assert last.refused.retry_after_ms > 0
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_storm_of_prompts_computes_no_more_than_its_tenant_may() -> None:
    rate, prompt_tokens, names = 100.0, CONTEXT // 2, Names(100.0)
    async with (
        edge_on_loopback(TARGET, terms=TERMS, gatekeeper=names) as edge,
        asyncio.timeout(60),
    ):
        began_s, refused = time.monotonic(), list[pb.Refused]()

        async def resumes(stub: rpc.VerificationStub, number: int) -> None:
            ids = [(number * 31 + index * 7) % VOCABULARY for index in range(prompt_tokens)]
            call: Any = stub.Generate(metadata=named("storm"))
            sizes = {"prompt_length": len(ids), "length": len(ids), "digest": ids_digest(ids)}
            with suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                await call.write(open_frame(edge, **sizes))
                await call.write(prefix_frame(ids))
                async for frame in call:
                    if frame.HasField("commit"):
                        break
                    if frame.HasField("refused"):
                        refused.append(frame.refused)
            call.cancel()

        async with stubs(edge, 40) as each, asyncio.TaskGroup() as group:
            storm = [group.create_task(resumes(stub, number)) for number, stub in enumerate(each)]
            text = start(edge, [edge.address])
            await text.running
            await asyncio.wait(storm)
        took_s = time.monotonic() - began_s
        assert text.reader.ids == expected()
        computed = counted(edge, "session_positions_total", work="prefill") - len(PROMPT)
        assert prompt_tokens <= computed <= rate * (BURST_S + took_s) + prompt_tokens
        assert len(refused) >= 40 - computed / prompt_tokens - 1
        assert all(one.code == pb.REFUSAL_CODE_LIMIT_REACHED for one in refused)
        assert all(one.retry_after_ms > 0 for one in refused)


async def test_a_flood_of_frames_is_read_at_its_pace_and_the_neighbour_is_served() -> None:
    async with (
        edge_on_loopback(TARGET, terms=TERMS, patience=BRISK) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
        asyncio.timeout(60),
    ):
        table, flooded = edge.service.sessions, 0
        received = table.received

        def counting(entry: Any, frame: Any) -> Any:
            nonlocal flooded
            flooded += entry.prompt_length == 4
            return received(entry, frame)

        table.received = counting  # type: ignore[method-assign]
        call: Any = rpc.VerificationStub(channel).Generate()
        ids = [1, 2, 3, 4]
        sizes = {"prompt_length": 4, "length": 4, "digest": ids_digest(ids), "max_tokens": 50}
        await call.write(open_frame(edge, **sizes))
        await call.write(prefix_frame(ids))
        began_s, sent = time.monotonic(), 0

        async def flood() -> None:
            nonlocal sent
            while True:
                sent += 1
                await call.write(pb.DeviceFrame(ping=pb.Ping(epoch=1, number=sent, ack=True)))

        flooding = asyncio.create_task(flood())
        text = start(edge, [edge.address])
        await text.running
        took_s = time.monotonic() - began_s
        assert not flooding.done()
        flooding.cancel()
        call.cancel()
        assert text.reader.ids == expected()
        assert BRISK.frames_burst < flooded <= BRISK.frames_burst + BRISK.frames_s * (took_s + 0.5)
        assert sent > 2 * flooded, (
            sent,
            flooded,
            await call.code(),
        )  # what was not read stands in buffers of a bounded size, and then with the sender


@pytest.mark.parametrize("allowance", [Allowance(sessions=1), Allowance(prefill_s=1.0)], ids=["sessions", "prefill"])
async def test_a_device_that_is_told_to_come_back_does_and_finishes(allowance: Allowance) -> None:
    tenants = Tenants(allowance)
    async with edge_on_loopback(TARGET, terms=TERMS, tenants=tenants) as edge, asyncio.timeout(60):
        texts = [short(edge) for _ in range(2)]
        await asyncio.gather(*(text.running for text in texts))
        assert all(text.reader.ids == expected()[:SHORT] for text in texts)
        assert counted(edge, "refusals_total", code="limit_reached") >= 1
        waits = [reason for text in texts for reason in text.reader.waits]
        assert any("this tenant" in reason for reason in waits)


async def test_a_tenant_of_few_positions_writes_at_its_rate() -> None:
    rate = 15.0
    async with (
        edge_on_loopback(TARGET, terms=TERMS, tenants=Tenants(Allowance(positions_s=rate))) as edge,
        asyncio.timeout(60),
    ):
        began_s, text = time.monotonic(), short(edge)
        await text.running
        took_s = time.monotonic() - began_s
        assert text.reader.ids == expected()[:SHORT]
        used = sum(counted(edge, "session_positions_total", work=work) for work in ("verify", "decode", "run_ahead"))
        assert SHORT - 1 <= used <= rate * (BURST_S + took_s)


async def test_a_text_goes_on_over_credentials_that_end() -> None:
    class Brief:
        def admit(self, bearer: str, certificate: bytes) -> Caller:
            return Caller("a", until_s=time.time() + 0.3)

    async with edge_on_loopback(TARGET, terms=TERMS, gatekeeper=Brief()) as edge, asyncio.timeout(60):
        text = start(edge, [edge.address])
        await text.running
        assert text.reader.ids == expected()
        assert text.roaming.reattached >= 1
        assert any("fresh token" in reason for reason in text.reader.waits)


async def test_a_tenant_has_so_many_streams_and_another_has_its_own() -> None:
    async with (
        edge_on_loopback(TARGET, gatekeeper=Names(), tenants=Tenants(Allowance(streams=2))) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
        asyncio.timeout(20),
    ):
        stub = rpc.VerificationStub(channel)
        held: list[Any] = [stub.Generate(metadata=named("a")) for _ in range(2)]
        for number, call in enumerate(held):
            await call.write(open_frame(edge, session_id=bytes([number]) * 16))
            assert (await call.read()).HasField("opened")
        third: Any = stub.Generate(metadata=named("a"))
        assert (await third.read()).refused.code == pb.REFUSAL_CODE_LIMIT_REACHED
        other: Any = stub.Generate(metadata=named("b"))
        await other.write(open_frame(edge))
        assert (await other.read()).HasField("opened")
        held.pop().cancel()
        async with asyncio.timeout(5):
            while edge.service.sessions.tenants.of(Caller("a")).streams > 1:
                await asyncio.sleep(0.01)
        again: Any = stub.Generate(metadata=named("a"))
        await again.write(open_frame(edge, session_id=b"n" * 16))
        assert (await again.read()).HasField("opened")
