"""Padded streams on the loop: regular ticks, cells of one size, ends on rungs, and the same frames as ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from airdraft.core.cells import Ending, Packer, Padding, Reader
from airdraft.core.errors import MalformedFrame, Unsupported
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.padding import PaddedAnswer, PaddedCall, ticks

QUICK = Padding(up_bytes=32, down_bytes=48, interval_s=0.01, first_rung=8)
FINISH = pb.DeviceFrame(finish=pb.Finish(epoch=3, length=7))
OPEN = pb.DeviceFrame(open=pb.Open(epoch=3, session_id=b"s" * 16))
DRAIN = pb.EdgeFrame(drain=pb.Drain(epoch=3, edges=["192.0.2.1:50051"] * 9))

Write = Callable[[pb.EdgeFrame], Awaitable[object]]


# ---- the pace ----


async def test_ticks_stand_on_their_grid_and_a_late_one_is_not_made_up() -> None:
    now = [100.0]
    asked: list[float] = []
    came: list[float] = []
    work = iter([0.0, 0.4, 1.0, 2.7, 0.0, 0.0])

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        now[0] += seconds + 0.01  # a timer is never early

    async for _ in ticks(100.5, 1.0, lambda: now[0], sleep):
        came.append(round(now[0], 6))
        spent = next(work, None)
        if spent is None:
            break
        now[0] += spent
    assert came == [100.51, 101.51, 102.51, 104.51, 107.51, 108.51, 109.51]
    assert all(seconds >= 0 for seconds in asked)


# ---- a call and its answer, joined by two queues ----


@dataclass
class Wire:
    """A call whose messages are handed over in this process, and written down."""

    up: list[pb.DeviceFrame] = field(default_factory=list)
    down: list[pb.EdgeFrame] = field(default_factory=list)
    up_queue: asyncio.Queue[pb.DeviceFrame | None] = field(default_factory=asyncio.Queue)
    down_queue: asyncio.Queue[pb.EdgeFrame | None] = field(default_factory=asyncio.Queue)
    first: asyncio.Event = field(default_factory=asyncio.Event)  # the edge has sent something

    async def write(self, message: pb.DeviceFrame) -> None:
        self.up.append(message)
        self.up_queue.put_nowait(message)

    async def done_writing(self) -> None:
        self.up_queue.put_nowait(None)

    def cancel(self) -> bool:
        self.down_queue.put_nowait(None)
        return True

    async def __aiter__(self) -> AsyncIterator[pb.EdgeFrame]:
        while (message := await self.down_queue.get()) is not None:
            yield message

    async def messages(self) -> AsyncIterator[pb.DeviceFrame]:
        while (message := await self.up_queue.get()) is not None:
            yield message

    async def answer(self, message: pb.EdgeFrame) -> None:
        self.down.append(message)
        self.first.set()
        self.down_queue.put_nowait(message)

    async def served(self, serve: Callable[[AsyncIterator[pb.DeviceFrame], Write], Any]) -> None:
        try:
            await PaddedAnswer(self.messages(), self.answer, QUICK).run(serve)
        finally:
            self.down_queue.put_nowait(None)


def joined() -> tuple[Wire, PaddedCall]:
    wire = Wire()
    call: Any = wire
    return wire, PaddedCall(call, QUICK)


async def test_frames_arrive_whole_and_the_stream_ends_on_a_rung() -> None:
    wire, call = joined()
    heard: list[pb.DeviceFrame] = []

    async def serve(frames: AsyncIterator[pb.DeviceFrame], write: Write) -> None:
        async for frame in frames:
            heard.append(frame)
            if frame == OPEN:
                await write(DRAIN)

    answers: list[pb.EdgeFrame] = []
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        edge = group.create_task(wire.served(serve))
        await call.write(OPEN)
        async for answer in call:
            answers.append(answer)
            await call.write(FINISH)
            await call.done_writing()
            await call.code()
        assert call.rest_s > 0  # the text is over, and the stream is not
        assert not edge.done()
        await call.parted()
    assert heard == [OPEN, FINISH]
    assert answers == [DRAIN]
    assert call.rest_s == 0
    assert len(wire.up) in (8, 16, 32, 64)
    assert abs(len(wire.down) - len(wire.up)) <= 2
    assert {message.ByteSize() for message in wire.up} == {wire.up[0].ByteSize()}
    assert {message.ByteSize() for message in wire.down} == {wire.down[0].ByteSize()}
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(FINISH)


async def test_an_edge_that_ends_first_is_heard_and_left_on_a_rung() -> None:
    wire, call = joined()

    async def serve(frames: AsyncIterator[pb.DeviceFrame], write: Write) -> None:
        await write(DRAIN)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(wire.served(serve))
        await call.write(OPEN)
        assert [answer async for answer in call] == [DRAIN]
        call.cancel()
        await call.parted()
    assert len(wire.up) in (8, 16, 32, 64)
    assert abs(len(wire.down) - len(wire.up)) <= 2


async def test_who_leaves_is_noticed_at_once_and_the_cells_go_on() -> None:
    wire, call = joined()
    left = asyncio.Event()

    async def serve(frames: AsyncIterator[pb.DeviceFrame], write: Write) -> None:
        try:
            async for _ in frames:
                pass
        finally:
            left.set()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        edge = group.create_task(wire.served(serve))
        await call.write(OPEN)
        await wire.first.wait()
        call.cancel()
        await left.wait()
        assert not edge.done()
        assert [answer async for answer in call] == []
        await call.parted()
    assert len(wire.up) in (8, 16, 32, 64)


async def test_silence_of_frames_is_filled_with_signs_of_life() -> None:
    """A long frame, or a queue of them, must not look like a peer that is gone."""
    wire, call = joined()
    heard: list[pb.DeviceFrame] = []

    async def serve(frames: AsyncIterator[pb.DeviceFrame], write: Write) -> None:
        async for frame in frames:
            heard.append(frame)  # noqa: PERF401 (each as it comes)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(wire.served(serve))
        await call.write(OPEN)
        async for answer in call:
            sign = answer.ping
            if len(heard) > 1:
                break
        call.cancel()
        await call.parted()
    assert (sign.epoch, sign.number, sign.ack) == (3, 0, True)
    assert heard[1].ping == sign


# ---- who does not keep to it ----


def cell(data: bytes) -> pb.DeviceFrame:
    return pb.DeviceFrame(cell=pb.Cell(data=data))


def packed(*messages: bytes) -> list[pb.DeviceFrame]:
    packer = Packer(QUICK.up_bytes)
    for message in messages:
        packer.put(message)
    cells = []
    while packer.waiting_bytes:
        cells.append(cell(packer.cell()))
    return cells


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([cell(bytes(QUICK.up_bytes - 1))], MalformedFrame),
        ([cell(b"\xff\xff\x7f" + bytes(QUICK.up_bytes - 3))], MalformedFrame),
        ([cell(bytes(QUICK.up_bytes)), FINISH], MalformedFrame),
        (packed(b"\xff" * 9), MalformedFrame),
        (packed(pb.DeviceFrame(open=pb.Open(epoch=1, rows=True)).SerializeToString()), Unsupported),
    ],
)
async def test_a_device_that_breaks_the_rules_is_told_in_cells(
    messages: list[pb.DeviceFrame], error: type[Exception]
) -> None:
    wire = Wire()
    caught: list[Exception] = []

    async def serve(frames: AsyncIterator[pb.DeviceFrame], write: Write) -> None:
        try:
            async for _ in frames:
                pass
        except (MalformedFrame, Unsupported) as refused:
            caught.append(refused)
            await write(DRAIN)

    for message in messages:
        await wire.write(message)
    await wire.done_writing()
    async with asyncio.timeout(10):
        await wire.served(serve)
    assert [type(refused) for refused in caught] == [error]
    reader = Reader(QUICK.down_bytes)
    told = [frame for message in wire.down for frame in reader.take(message.cell.data)]
    assert told == [DRAIN.SerializeToString()]
    assert reader.ending is Ending.FINISHED


async def test_a_device_that_never_ends_its_stream_does_not_hold_the_edge() -> None:
    wire = Wire()

    async def serve(frames: AsyncIterator[pb.DeviceFrame], write: Write) -> None:
        async for _ in frames:
            return

    async def cells_for_ever() -> None:
        while True:
            await wire.write(cell(bytes(QUICK.up_bytes)))
            await asyncio.sleep(QUICK.interval_s)

    async with asyncio.timeout(10):
        for message in packed(OPEN.SerializeToString()):
            await wire.write(message)
        hostile = asyncio.create_task(cells_for_ever())
        await wire.served(serve)
        hostile.cancel()
    assert len(wire.down) <= 64 + 25


async def test_a_bug_behind_the_stream_is_not_hidden() -> None:
    wire = Wire()

    async def serve(frames: AsyncIterator[pb.DeviceFrame], write: Write) -> None:
        raise ZeroDivisionError

    await wire.done_writing()
    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError):
            await wire.served(serve)
