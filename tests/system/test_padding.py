"""Padded streams over real gRPC: the same text, one size of message each way, ends on rungs, clean refusals."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.cells import PADDING, Packer, Reader
from airdraft.core.errors import ModelMismatch
from airdraft.core.session import Committed, DeviceSession, Reattachment
from airdraft.core.types import Identity, Limits, Plan, Sampling
from airdraft.link.relay import Relay
from airdraft.v1 import verification_pb2 as pb
from airdraft.v1 import verification_pb2_grpc as rpc
from airdraft.wire.client import EdgeConnection
from bench.pad_guess import merged
from bench.pad_tap import Tap, Trace
from device_client.generation import Generation
from device_client.roaming import Roaming
from tests.shapes import VOCABULARY, greedy
from tests.system.loopback import ListedDrafter, Loopback, Recorder, ask, edge_on_loopback, session_for
from tests.system.test_equality import shape_target
from tests.system.test_hostile_input import open_frame, refused, still_answers

PROMPT = (1, 2, 3)
LENGTH = 40

CONTROL_BYTES = 60
"""HTTP/2's own frames, which answer the cells and know nothing of what is in them, are shorter than this."""


@pytest.fixture
async def edge() -> AsyncIterator[Loopback]:
    async with edge_on_loopback(shape_target("llama")) as running:
        yield running


def drafter(length: int = LENGTH) -> ListedDrafter:
    text = greedy(shape_target("llama").model, list(PROMPT), length)
    return ListedDrafter([*PROMPT, *text], VOCABULARY, error_every=5)


async def seen_of(edge: Loopback, pad: bool) -> tuple[list[int], Trace]:
    tap = Tap(edge.address)
    with tap.carrying():
        async with EdgeConnection(tap.address) as connection:
            answer = await ask(edge, connection, PROMPT, drafter(), draft_length=4, max_tokens=LENGTH, pad=pad)
    return answer.ids, tap.trace


CELLS = PADDING.up_bytes + 20, PADDING.down_bytes + 20
"""Bytes of a cell each way in its message of protobuf, gRPC and HTTP/2."""


def cells_of(trace: Trace) -> tuple[int, int]:
    """Return how many cells went up and down, having seen that nothing else did but HTTP/2's own."""
    counts = []
    for sign, cell_bytes in zip((1, -1), CELLS, strict=True):
        sizes = [size * sign for _, size in merged(trace.chunks) if size * sign > CONTROL_BYTES]
        first = next(index for index, size in enumerate(sizes) if size >= cell_bytes)  # headers come with it
        count = 1
        for size in sizes[first + 1 :]:
            cells, rest = divmod(size, cell_bytes)  # several where this machine stood still
            assert rest < CONTROL_BYTES * (cells + 1)
            count += cells
        counts.append(count)
    return counts[0], counts[1]


async def test_the_same_text_and_one_size_each_way(edge: Loopback) -> None:
    (plain, open_trace), (padded, trace) = await seen_of(edge, pad=False), await seen_of(edge, pad=True)
    assert plain == padded == greedy(shape_target("llama").model, list(PROMPT), LENGTH)
    assert cells_of(trace) == pytest.approx((PADDING.first_rung, PADDING.first_rung), abs=2)
    with pytest.raises(AssertionError):
        cells_of(open_trace)


async def test_a_refused_stream_looks_like_any_other(edge: Loopback) -> None:
    session = DeviceSession(
        secrets.token_bytes(16), Identity(b"x" * 32, edge.description.tokenizer_digest), PROMPT,
        sampling=Sampling(), stop_ids=(), max_tokens=5, limits=Limits(context_tokens=64), plan=Plan(4),
    )  # fmt: skip
    tap = Tap(edge.address)
    with tap.carrying():
        async with EdgeConnection(tap.address) as connection:
            with Generation(session, drafter(), Recorder()) as generation:
                with pytest.raises(ModelMismatch, match="another model"):
                    await generation.over(connection.generate(VOCABULARY, pad=True))
                assert connection.rest_s > PADDING.first_rung * PADDING.interval_s / 2
    assert cells_of(tap.trace) == pytest.approx((PADDING.first_rung, PADDING.first_rung), abs=2)
    await still_answers(edge)


class Quiet:
    """A user who is told nothing."""

    def __init__(self) -> None:
        self.roaming: Roaming | None = None
        self.ids: list[int] = []
        self.some = asyncio.Event()

    def committed(self, event: Committed) -> None:
        assert self.roaming is not None
        self.roaming.held()
        self.ids.extend(event.ids)
        if len(self.ids) > 20:
            self.some.set()

    def drafted(self, ahead: object) -> None: ...

    def waiting(self, reason: str) -> None: ...

    def back(self, edge: str, after_s: float) -> None: ...


async def test_a_text_goes_on_over_another_padded_stream(edge: Loopback) -> None:
    length = 120
    host, _, port = edge.address.rpartition(":")
    async with Relay(host, int(port), random=random.Random(0)) as relay:
        user = Quiet()
        user.roaming = roaming = Roaming(
            Reattachment([relay.address], 30, random.random), user, connect_s=5, pad=True, clock=time.monotonic
        )
        connection, _ = await roaming.first(lambda connection: connection.describe())
        session = session_for(edge, PROMPT, draft_length=4, max_tokens=length)
        async with asyncio.timeout(60):
            with Generation(session, drafter(length), user) as generation:
                running = asyncio.create_task(roaming.run(generation, VOCABULARY, connection))
                await user.some.wait()
                relay.cut()
                await running
            assert roaming.rest_s > 0
            await roaming.parted()
    assert user.ids == greedy(shape_target("llama").model, list(PROMPT), length)
    assert roaming.reattached == 1


def cell(data: bytes) -> pb.DeviceFrame:
    return pb.DeviceFrame(cell=pb.Cell(data=data))


async def padded_answer(edge: Loopback, *frames: pb.DeviceFrame) -> tuple[list[pb.EdgeFrame], grpc.StatusCode]:
    """Send messages; return what comes back in cells, and the status."""
    reader, answers = Reader(PADDING.down_bytes), []
    own = [("grpc.use_local_subchannel_pool", 1)]  # one connection for all would have too many streams
    async with grpc.aio.insecure_channel(edge.address, options=own) as channel, asyncio.timeout(20):
        call: Any = rpc.VerificationStub(channel).Generate()
        for frame in frames:
            await call.write(frame)
        await call.done_writing()
        async for message in call:
            assert message.ByteSize() == PADDING.down_bytes + 6
            answers += [pb.EdgeFrame.FromString(data) for data in reader.take(message.cell.data)]
        return [answer for answer in answers if not answer.HasField("ping")], await call.code()


async def test_hostile_cells_are_refused_in_cells_and_nobody_else_notices(edge: Loopback) -> None:
    chance = random.Random(7)

    def opening() -> bytes:
        packer = Packer(PADDING.up_bytes)
        packer.put(open_frame(edge).SerializeToString())
        return packer.cell()

    attacks: list[list[pb.DeviceFrame]] = [
        [cell(b"")],
        [cell(opening()[:-1])],
        [cell(opening()), open_frame(edge)],
        [cell(opening()), cell(b"\xff\xff\x7f" + bytes(PADDING.up_bytes - 3))],
        [cell(opening()), cell(b"\x09\0\0" + b"\xff" * 9 + bytes(PADDING.up_bytes - 12))],
        *([cell(chance.randbytes(PADDING.up_bytes)) for _ in range(3)] for _ in range(5)),
    ]
    answers = await asyncio.gather(*(padded_answer(edge, *attack) for attack in attacks))
    for told, status in answers:
        assert told[-1].refused.code == pb.REFUSAL_CODE_MALFORMED
        assert told[-1].refused.ends_stream
        assert status is grpc.StatusCode.OK  # a status would tell whoever watches
    refusal, status, _ = await refused(edge, open_frame(edge), cell(opening()))  # and a cell in a plain stream
    assert refusal is not None
    assert refusal.code == pb.REFUSAL_CODE_MALFORMED
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    await still_answers(edge)
    assert edge.service.sessions.attached == 0
