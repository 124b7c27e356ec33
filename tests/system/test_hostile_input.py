"""What does not fit is refused clearly, and the session beside it does not notice."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import grpc
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.drafting import NgramDrafter
from airdraft.core.errors import ModelMismatch
from airdraft.core.paths import ids_digest, root_hash
from airdraft.core.session import DeviceSession
from airdraft.core.types import SAMPLER_VERSION, Identity, Limits, Plan, Sampling
from airdraft.v1 import verification_pb2 as pb
from airdraft.v1 import verification_pb2_grpc as rpc
from airdraft.wire.client import EdgeConnection
from device_client.generation import Generation
from edge_node.sessions import Terms
from tests.shapes import VOCABULARY, greedy
from tests.system.loopback import ListedDrafter, Loopback, Recorder, ask, edge_on_loopback
from tests.system.test_equality import shape_target

PROMPT = (1, 2, 3)


@pytest.fixture
async def edge() -> AsyncIterator[Loopback]:
    async with edge_on_loopback(shape_target("llama")) as running:
        yield running


def open_frame(edge: Loopback, **changes: object) -> pb.DeviceFrame:
    identity = edge.description.identity
    fields: dict[str, object] = {
        "protocol_version": 1,
        "session_id": secrets.token_bytes(16),
        "epoch": 1,
        "identity": pb.Identity(
            model_digest=identity.model_digest,
            tokenizer_digest=identity.tokenizer_digest,
            sampler_version=identity.sampler_version,
        ),
        "max_tokens": 10,
        "prompt_length": 3,
        "length": 3,
        "digest": ids_digest(PROMPT),
        "prefix_start": 0,
    }
    return pb.DeviceFrame(open=pb.Open(**(fields | changes)))  # type: ignore[arg-type]


def prefix_frame(ids: Sequence[int] = PROMPT, start: int = 0) -> pb.DeviceFrame:
    return pb.DeviceFrame(prefix=pb.Prefix(epoch=1, start=start, ids=ids))


def draft_frame(edge: Loopback, **changes: object) -> pb.DeviceFrame:
    root = int.from_bytes(root_hash(edge.description.identity), "little")
    fields: dict[str, object] = {"epoch": 1, "seq": 1, "acked": 3, "base_hash": root, "ids": [1, 2]}
    return pb.DeviceFrame(draft=pb.Draft(**(fields | changes)))  # type: ignore[arg-type]


async def refused(edge: Loopback, *frames: pb.DeviceFrame | bytes) -> tuple[pb.Refused | None, grpc.StatusCode, str]:
    """Send frames, raw bytes as they are; return the refusal and the status that the edge answers with."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        call: Any = channel.stream_stream(
            "/airdraft.v1.Verification/Generate",
            request_serializer=lambda frame: frame if isinstance(frame, bytes) else frame.SerializeToString(),
            response_deserializer=pb.EdgeFrame.FromString,
        )()

        async def write() -> None:
            with suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                for frame in frames:
                    await call.write(frame)
                await call.done_writing()

        refusal = None
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            writing = group.create_task(write())
            with suppress(grpc.aio.AioRpcError):
                async for answer in call:
                    if answer.HasField("refused"):
                        refusal = answer.refused
            writing.cancel()
        return refusal, await call.code(), await call.details()


Refusal = pb.RefusalCode
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


def cases(edge: Loopback) -> dict[str, tuple[list[pb.DeviceFrame | bytes], int, grpc.StatusCode, str]]:
    """Each hostile stream with the refusal, the status and the field or word that must come back."""
    prefix = prefix_frame()
    wrong = pb.Identity(model_digest=b"x" * 32, tokenizer_digest=b"t" * 32, sampler_version=SAMPLER_VERSION)
    foreign = pb.Identity(
        model_digest=edge.description.model_digest, tokenizer_digest=b"x" * 32, sampler_version=SAMPLER_VERSION
    )
    failed = grpc.StatusCode.FAILED_PRECONDITION
    return {
        "id outside the vocabulary": (
            [open_frame(edge), prefix, draft_frame(edge, ids=[VOCABULARY])],
            Refusal.REFUSAL_CODE_MALFORMED, INVALID, "ids"),
        "prompt outside the vocabulary": (
            [open_frame(edge), prefix_frame([2**32 - 1] * 3)], Refusal.REFUSAL_CODE_MALFORMED, INVALID, "ids"),
        "negative length": (
            [open_frame(edge, length=2**32 - 5)], Refusal.REFUSAL_CODE_MALFORMED, INVALID, "length"),
        "negative tokens": (
            [open_frame(edge, max_tokens=2**32 - 1)], Refusal.REFUSAL_CODE_MALFORMED, INVALID, "max_tokens"),
        "prompt past the context": (
            [open_frame(edge, prompt_length=10_000_000, length=10_000_000)],
            Refusal.REFUSAL_CODE_TOO_LONG, grpc.StatusCode.OUT_OF_RANGE, "max_tokens"),
        "wrong model": ([open_frame(edge, identity=wrong)], Refusal.REFUSAL_CODE_MODEL_MISMATCH, failed, "model"),
        "wrong tokenizer": (
            [open_frame(edge, identity=foreign)], Refusal.REFUSAL_CODE_TOKENIZER_MISMATCH, failed, "tokenizer"),
        "wrong version": (
            [open_frame(edge, protocol_version=99)], Refusal.REFUSAL_CODE_UNSUPPORTED_VERSION, failed, "version"),
        "top-p above one": (
            [open_frame(edge, sampling=pb.Sampling(temperature=0.7, top_p=1.5))],
            Refusal.REFUSAL_CODE_MALFORMED, INVALID, "top_p"),
        "wrong digest": (
            [open_frame(edge, digest=b"x" * 32), prefix],
            Refusal.REFUSAL_CODE_PREFIX_MISMATCH, grpc.StatusCode.DATA_LOSS, "digest"),
        "longer prefix than promised": (
            [open_frame(edge), prefix_frame([1, 2, 3, 4])], Refusal.REFUSAL_CODE_MALFORMED, INVALID, "ids"),
        "gapped sequence": (
            [open_frame(edge), prefix, draft_frame(edge, seq=5)], Refusal.REFUSAL_CODE_OUT_OF_ORDER, INVALID, "seq"),
        "ack past the end": (
            [open_frame(edge), prefix, draft_frame(edge, acked=2**20)], Refusal.REFUSAL_CODE_BAD_ACK, INVALID, "acked"),
        "not opened": ([prefix], Refusal.REFUSAL_CODE_MALFORMED, INVALID, "open"),
        "opened twice": ([open_frame(edge), open_frame(edge)], Refusal.REFUSAL_CODE_MALFORMED, INVALID, "open"),
        "nothing in the frame": (
            [open_frame(edge), pb.DeviceFrame()], Refusal.REFUSAL_CODE_MALFORMED, INVALID, "frame"),
    }  # fmt: skip


async def test_a_clear_refusal_and_the_neighbour_unchanged(edge: Loopback) -> None:
    target = shape_target("llama")
    expected = greedy(target.model, list(PROMPT), 150)
    attacks = cases(edge)
    assert len(attacks) == 16
    stop = asyncio.Event()

    async def neighbour() -> int:
        answers = 0
        async with EdgeConnection(edge.address) as connection:
            while not stop.is_set():
                drafter = ListedDrafter([*PROMPT, *expected], VOCABULARY, error_every=5)
                answer = await ask(edge, connection, PROMPT, drafter, draft_length=4, max_tokens=150)
                assert answer.ids == expected
                answers += 1
        return answers

    async with asyncio.TaskGroup() as group:
        beside = group.create_task(neighbour())
        for name, (frames, code, status, word) in attacks.items():
            refusal, answered, details = await refused(edge, *frames)
            assert answered is status, name
            assert refusal is not None, name
            assert refusal.code == code, name
            assert word in refusal.field, name
            assert details == refusal.message, name
            assert refusal.message, name
            assert "\n" not in refusal.message, name
            assert refusal.ends_stream, name
        stop.set()
    assert beside.result() > 0
    assert len(edge.service.sessions) <= len(attacks)
    assert edge.service.sessions.attached == 0


async def test_bytes_that_are_no_frame(edge: Loopback) -> None:
    good = open_frame(edge).SerializeToString()
    for data in (b"\xff" * 40, good[: len(good) // 2]):
        refusal, status, _ = await refused(edge, data)
        assert refusal is not None
        assert refusal.code == Refusal.REFUSAL_CODE_MALFORMED
        assert status is INVALID
    await still_answers(edge)


async def test_ten_megabytes_in_one_message(edge: Loopback) -> None:
    huge = prefix_frame([1] * 2_500_000)
    assert huge.ByteSize() > 10_000_000
    _, status, details = await refused(edge, open_frame(edge), huge)
    assert status is EXHAUSTED
    assert "larger than max" in details
    await still_answers(edge)


async def test_ten_megabytes_in_allowed_pieces(edge: Loopback) -> None:
    """More ids than ``Open`` promised end the stream at the first that is too many."""
    pieces = [prefix_frame([1] * 4000, start=start) for start in range(0, 2_500_000, 4000)]
    refusal, status, _ = await refused(edge, open_frame(edge), *pieces)
    assert status is grpc.StatusCode.OUT_OF_RANGE
    assert refusal is not None
    assert refusal.field == "ids"
    assert all(entry.session.committed_length < 200 for entry in edge.service.sessions)
    await still_answers(edge)


async def still_answers(edge: Loopback) -> None:
    target = shape_target("llama")
    expected = greedy(target.model, list(PROMPT), 10)
    async with EdgeConnection(edge.address) as connection:
        drafter = ListedDrafter([*PROMPT, *expected], VOCABULARY)
        assert (await ask(edge, connection, PROMPT, drafter, draft_length=3, max_tokens=10)).ids == expected


async def test_sessions_beyond_the_most_are_told_when_to_come_back() -> None:
    async with (
        edge_on_loopback(shape_target("llama"), terms=Terms(most=2, keep_s=60)) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        stub = rpc.VerificationStub(channel)
        held = []
        for number in range(2):
            call = stub.Generate()
            await call.write(open_frame(edge, session_id=bytes([number]) * 16))
            assert (await call.read()).HasField("opened")
            held.append(call)
        refusal, status, _ = await refused(edge, open_frame(edge, session_id=b"z" * 16))
        assert refusal is not None
        assert refusal.code == Refusal.REFUSAL_CODE_RETRY_LATER
        assert refusal.retry_after_ms > 0
        assert status is grpc.StatusCode.UNAVAILABLE
        await leaves(edge, held.pop())
        held.append(stub.Generate())  # the place is kept for the one that was refused
        await held[-1].write(open_frame(edge, session_id=b"z" * 16))
        assert (await held[-1].read()).HasField("opened")
        await leaves(edge, held.pop())
        await still_answers(edge)


async def leaves(edge: Loopback, call: Any) -> None:
    """Let a device vanish, and the edge notice."""
    before = edge.service.sessions.attached
    call.cancel()
    async with asyncio.timeout(10):
        while edge.service.sessions.attached == before:
            await asyncio.sleep(0)


async def told(call: Any) -> Any:
    """The next frame that is no sign of life."""
    while (frame := await call.read()).HasField("ping"):
        pass
    return frame


async def test_a_newer_stream_supersedes_the_older_one(edge: Loopback) -> None:
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = rpc.VerificationStub(channel)
        older, session_id = stub.Generate(), b"s" * 16
        await older.write(open_frame(edge, session_id=session_id))
        await older.write(prefix_frame())
        assert (await told(older)).HasField("opened")
        assert (await told(older)).commit.base == 3
        newer = stub.Generate()
        await newer.write(open_frame(edge, session_id=session_id, epoch=2))
        opened = await told(newer)
        assert opened.opened.committed_length == 4
        assert opened.opened.epoch == 2
        missed = await told(newer)
        assert missed.commit.base == 3  # what this device never acked comes again
        assert len(missed.commit.ids) == 1
        last = await told(older)
        assert last.refused.code == Refusal.REFUSAL_CODE_SUPERSEDED
        assert last.refused.highest_epoch == 2
        refusal, status, _ = await refused(edge, open_frame(edge, session_id=session_id, epoch=2))
        assert refusal is not None
        assert refusal.code == Refusal.REFUSAL_CODE_STALE_EPOCH
        assert refusal.highest_epoch == 2
        assert status is grpc.StatusCode.ABORTED
        newer.cancel()


async def test_a_device_learns_why_it_was_refused_while_it_still_sends_its_prompt(edge: Loopback) -> None:
    """Eight megabytes of prompt are on their way when the edge says no."""
    stranger = Identity(b"x" * 32, edge.description.tokenizer_digest)
    session = DeviceSession(
        secrets.token_bytes(16), stranger, [1] * 2_000_000,
        sampling=Sampling(), stop_ids=(), max_tokens=5, limits=Limits(context_tokens=3_000_000), plan=Plan(4),
    )  # fmt: skip
    async with EdgeConnection(edge.address) as connection, asyncio.timeout(30):
        with (
            Generation(session, NgramDrafter(), Recorder()) as generation,
            pytest.raises(ModelMismatch, match="another model"),
        ):
            await generation.over(connection.generate(VOCABULARY))
