"""Padded streams on gRPC: cells of one size leave at one pace, both ways, from the first message to a rung.

What is said in them is ``airdraft.core.cells``' business; when it is said, nobody sees. The frames in the cells are the
same messages that a plain stream has, so that both ends above this module know no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError

from airdraft.core.cells import LENGTH_BYTES, PADDING, Ending, Packer, Padding, Reader
from airdraft.core.errors import MalformedFrame, SpecError, Unsupported
from airdraft.v1 import verification_pb2 as pb

BACKLOG_BYTES = 64 * 1024
"""What may wait for cells before whoever has more to say waits too."""

PENDING_BYTES = 64 * 1024
"""Frames that may wait for whoever reads them, in bytes; past it cells stay where they are."""

SIGN_S = 0.25
"""A cell is a sign of life; so long after the last frame it is passed on as one, an answer to no ping."""

SILENT_S = 5.0
"""A padded stream whose frames are over does not wait longer for a peer of whom no cells come."""

ANSWER_CELLS = 25
"""How many cells later a device may notice that an edge has no more to say."""

T = TypeVar("T")


async def ticks(
    start: float, interval: float, clock: Callable[[], float], sleep: Callable[[float], Awaitable[object]]
) -> AsyncIterator[None]:
    """Give the moments ``start + n * interval``, in seconds of ``clock``; one that was missed is left out."""
    number = 0
    while True:
        await sleep(max(0.0, start + number * interval - clock()))
        yield
        number = max(number, int((clock() - start) / interval)) + 1


class _Frames(Generic[T]):
    """What came in cells, for whoever reads frames: parsed, in order, then an end."""

    def __init__(self, cell_bytes: int, parse: Callable[[bytes], T], sign: Callable[[], T | None]) -> None:
        self.heard_at = self._told_at = asyncio.get_running_loop().time()
        self.over = asyncio.Event()  # no more frames will come
        self.dropped = False
        self._unread: asyncio.Queue[tuple[T | Exception | None, int]] = asyncio.Queue()
        self._unread_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._reader = Reader(cell_bytes)
        self._parse, self._sign = parse, sign

    async def take(self, data: bytes) -> None:
        """Take a cell; waits while too many frames are unread. What is malformed is the last that is read."""
        self.heard_at = now = asyncio.get_running_loop().time()
        if self.over.is_set():
            return
        try:
            for frame in self._reader.take(data):
                self.put(self._parse(frame), len(frame))
        except DecodeError:
            self.end(MalformedFrame("frame: these bytes are no frame", field="frame"))
        except SpecError as error:
            self.end(error)
        if self._reader.ending is not None:
            self.dropped = self._reader.ending is Ending.DROPPED
            self.end()
        elif now - self._told_at >= SIGN_S and (sign := self._sign()) is not None:
            self.put(sign)
        while not self.over.is_set() and self._unread_bytes >= PENDING_BYTES:
            self._room.clear()
            await self._room.wait()

    def put(self, frame: T, frame_bytes: int = LENGTH_BYTES) -> None:
        """Let a frame be read."""
        self._told_at = self.heard_at
        self._unread_bytes += frame_bytes
        self._unread.put_nowait((frame, frame_bytes))

    def end(self, error: Exception | None = None) -> None:
        """Let nothing more be read but what waits, then ``error`` if there is one."""
        if not self.over.is_set():
            self.over.set()
            self._room.set()
            self._unread.put_nowait((error, 0))

    @property
    def silent_s(self) -> float:
        """Return for how long no cell has come."""
        return asyncio.get_running_loop().time() - self.heard_at

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            frame, frame_bytes = await self._unread.get()
            self._unread_bytes -= frame_bytes
            self._room.set()
            if isinstance(frame, Exception):
                raise frame
            if frame is None:
                return
            yield frame


class _Cells:
    """One direction of one stream on its way out."""

    def __init__(self, cell_bytes: int, interval_s: float, write: Callable[[bytes], Awaitable[object]]) -> None:
        self.packer = Packer(cell_bytes)
        self.sent = 0
        self._interval_s, self._write = interval_s, write
        self._room, self._more = asyncio.Event(), asyncio.Event()

    async def put(self, frame: bytes) -> None:
        """Queue a frame; waits while much is waiting. Raises ValueError after the end."""
        self.packer.put(frame)
        self._more.set()
        while self.packer.waiting_bytes > BACKLOG_BYTES and self.packer.ending is None:
            self._room.clear()
            await self._room.wait()

    def end(self, ending: Ending) -> None:
        """Let the frames end."""
        self.packer.end(ending)
        self._room.set()
        self._more.set()

    async def run(self, start: float, over: Callable[[], bool]) -> None:
        """Send cells from ``start`` on, in seconds of the loop's clock, until it is ``over`` after one of them."""
        async for _ in self._moments(start):
            data = self.packer.cell()
            self.sent += 1
            self._room.set()
            await self._write(data)
            if over():
                return

    async def _moments(self, start: float) -> AsyncIterator[None]:
        """Give the moments of cells: by the clock, or where there is no interval whenever something waits."""
        if self._interval_s:
            async for _ in ticks(start, self._interval_s, asyncio.get_running_loop().time, asyncio.sleep):
                yield
        while True:
            while not self.packer.waiting_bytes:
                self._more.clear()
                await self._more.wait()
            yield


# ---- the device ----


class PaddedCall:
    """A ``Generate`` call in cells; to whoever holds it, a call like any other.

    Cells leave from the first write on. The call outlives its holder: what ends it lets it go on, empty, to its next
    rung. ``parted`` waits for that.
    """

    def __init__(
        self, call: grpc.aio.StreamStreamCall[pb.DeviceFrame, pb.EdgeFrame], padding: Padding = PADDING
    ) -> None:
        self._call, self._padding = call, padding
        self._epoch = 0
        self._frames = _Frames(padding.down_bytes, pb.EdgeFrame.FromString, self._sign_of_life)
        self._cells = _Cells(padding.up_bytes, padding.interval_s, self._write)
        self._running: asyncio.Task[None] | None = None
        self._received = 0

    @property
    def rest_s(self) -> float:
        """Return how long the cells still go on, if nothing more is said; 0 where they have ended."""
        if self._running is None or self._running.done():
            return 0.0
        sent = self._cells.sent
        return (self._padding.rung(sent) - sent) * self._padding.interval_s

    async def write(self, message: pb.DeviceFrame) -> None:
        """Let a message go out in cells. Raises asyncio.InvalidStateError after the end."""
        if self._running is None:
            self._epoch = message.open.epoch
            self._running = asyncio.create_task(self._run())
        elif self._running.done():
            raise asyncio.InvalidStateError("the padded stream has ended")
        try:
            await self._cells.put(message.SerializeToString())
        except ValueError as error:
            raise asyncio.InvalidStateError(str(error)) from None

    async def done_writing(self) -> None:
        """Say that nothing more will be written."""
        self._cells.end(Ending.FINISHED)

    async def code(self) -> None:
        """Wait until the edge has no more to say."""
        await self._frames.over.wait()

    def cancel(self) -> bool:
        """Leave; the cells go on, unless nobody takes them."""
        if self._running is None or self._frames.silent_s > 2 * SIGN_S:
            return self.drop()
        self._cells.end(Ending.DROPPED)
        self._frames.end()
        return True

    def drop(self) -> bool:
        """Give the call up at once."""
        return self._call.cancel()

    async def parted(self) -> None:
        """Wait for the rung, and for the end of the call."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def __aiter__(self) -> AsyncIterator[pb.EdgeFrame]:
        async for message in self._frames:
            yield message

    async def _run(self) -> None:
        start = asyncio.get_running_loop().time()
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._send(start))
        try:
            await asyncio.wait([reading])
        finally:
            self._call.cancel()  # nothing where it has ended
            reading.cancel()
            writing.cancel()
            self._cells.end(Ending.DROPPED)
            self._frames.end()
            await asyncio.wait([reading, writing])

    async def _send(self, start: float) -> None:
        with suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):  # reading tells why
            await self._cells.run(start, self._is_over)
            await self._call.done_writing()
            await asyncio.sleep(SILENT_S)
            self._call.cancel()

    async def _read(self) -> None:
        try:
            async for message in self._call:
                if message.HasField("refused") and not self._received:
                    self._frames.put(message)  # at the door, before the edge has seen what kind of stream it is
                elif not message.HasField("cell"):
                    self._frames.end(MalformedFrame("a padded stream has nothing but cells", field="cell"))
                else:
                    self._received += 1
                    await self._frames.take(message.cell.data)
            self._frames.end()
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            self._frames.end(error if isinstance(error, grpc.aio.AioRpcError) else None)

    async def _write(self, data: bytes) -> None:
        await self._call.write(pb.DeviceFrame(cell=pb.Cell(data=data)))

    def _is_over(self) -> bool:
        """Say whether the stream may end with the cell just sent."""
        cells = self._cells
        if not cells.packer.done:
            return False
        if self._frames.silent_s > SILENT_S:
            self._call.cancel()
        return cells.sent == self._padding.rung(cells.sent)

    def _sign_of_life(self) -> pb.EdgeFrame:
        return pb.EdgeFrame(ping=pb.Ping(epoch=self._epoch, number=0, ack=True))


# ---- the edge ----


class PaddedAnswer:
    """The edge's end of a stream whose first message was a cell."""

    def __init__(
        self,
        messages: AsyncIterator[pb.DeviceFrame],
        write: Callable[[pb.EdgeFrame], Awaitable[object]],
        padding: Padding = PADDING,
    ) -> None:
        """Begin; ``messages`` starts with the first cell, ``write`` sends one of ours."""
        self._messages, self._padding = messages, padding
        self._write_message = write
        self._epoch = 0
        self._frames = _Frames(padding.up_bytes, self._parse, self._sign_of_life)
        self._cells = _Cells(padding.down_bytes, padding.interval_s, self._write)
        self._received = 0
        self._closed = False  # the device has said that no more cells come
        self._last = 0  # cells after which the stream ends, whatever the device does; 0: not yet

    async def run(
        self,
        serve: Callable[
            [AsyncIterator[pb.DeviceFrame], Callable[[pb.EdgeFrame], Awaitable[object]]], Coroutine[Any, Any, None]
        ],
    ) -> None:
        """Let ``serve`` answer what comes in cells by what goes out in cells; return when the stream may end."""
        start = asyncio.get_running_loop().time() + self._padding.interval_s / 2
        serving = asyncio.create_task(serve(aiter(self._frames), self._put))
        reading = asyncio.create_task(self._read(serving))
        writing = asyncio.create_task(self._cells.run(start, self._is_over))
        tasks = [serving, reading, writing]
        try:
            await asyncio.wait([serving, writing], return_when=asyncio.FIRST_COMPLETED)
            self._cells.end(Ending.FINISHED)
            self._frames.end()
            await self._rest(writing)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _rest(self, writing: asyncio.Task[None]) -> None:
        """Wait until the stream may end: as long as it takes, unless the device is silent or takes no cells."""
        sent, interval_s = self._cells.sent, self._padding.interval_s
        self._last = self._padding.rung(sent + ANSWER_CELLS) + ANSWER_CELLS
        with suppress(TimeoutError):
            async with asyncio.timeout((self._last - sent) * interval_s + SILENT_S):
                while not writing.done() and self._frames.silent_s < SILENT_S:
                    await asyncio.wait([writing], timeout=SIGN_S)

    async def _read(self, serving: asyncio.Task[None]) -> None:
        with suppress(DecodeError):
            async for message in self._messages:
                self._received += 1
                if not message.HasField("cell"):
                    self._frames.end(MalformedFrame("a padded stream has nothing but cells", field="cell"))
                else:
                    await self._frames.take(message.cell.data)
                if self._frames.dropped:
                    serving.cancel()
        self._closed = True
        self._frames.end()

    async def _put(self, message: pb.EdgeFrame) -> None:
        with suppress(ValueError):  # after the end nobody hears it
            await self._cells.put(message.SerializeToString())

    async def _write(self, data: bytes) -> None:
        await self._write_message(pb.EdgeFrame(cell=pb.Cell(data=data)))

    def _is_over(self) -> bool:
        """Say whether the stream may end with the cell just sent: where the device ended it, or at the last."""
        if not self._last or not self._cells.packer.done:
            return False
        if not self._padding.interval_s:
            return True
        sent = self._cells.sent
        return (self._closed and sent >= self._received) or sent >= self._last

    def _parse(self, data: bytes) -> pb.DeviceFrame:
        message = pb.DeviceFrame.FromString(data)
        if message.WhichOneof("frame") == "open":
            self._epoch = message.open.epoch
            if message.open.rows:
                raise Unsupported(
                    "a padded stream has no room for the target's rows; do not ask for them", field="rows"
                )
        return message

    def _sign_of_life(self) -> pb.DeviceFrame | None:
        """Return what says that the device lives; nothing before its ``Open``."""
        return pb.DeviceFrame(ping=pb.Ping(epoch=self._epoch, number=0, ack=True)) if self._epoch else None
