"""Padded streams: frames cut into cells of one size, and when such a stream may end.

A cell is a piece of a stream of bytes. In that stream a frame stands behind its length, three bytes, low end first; a
length of 0 says that the rest of the cell is zeros, and so is what is left of a cell where no length fits. Two lengths
that no frame has end the stream of frames: whoever said one of them sends nothing but zeros from there on.

Everybody uses the same numbers: devices that chose their own would be told apart by them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from airdraft.core.errors import MalformedFrame
from airdraft.core.types import MAX_FRAME_BYTES

LENGTH_BYTES = 3


class Ending(IntEnum):
    """How a direction's frames ended; the values stand where a length would."""

    FINISHED = 0xFFFFFE  # nothing more is to be said
    DROPPED = 0xFFFFFF  # whoever sent it has left, and hears nothing more either


@dataclass(frozen=True, slots=True)
class Padding:
    """How a padded stream looks from outside, whatever is said in it."""

    up_bytes: int = 256  # of a cell's data, device to edge
    down_bytes: int = 1024  # edge to device
    interval_s: float = 0.04  # between two cells of a direction; 0: a cell leaves when there is something to say
    first_rung: int = 64  # cells of a direction after which a stream may end; then after twice as many, and so on

    def rung(self, cells: int) -> int:
        """Return after how many cells a stream may end that has sent so many of a direction."""
        if not self.interval_s:
            return cells  # nothing would come to fill it up
        rung = self.first_rung
        while rung < cells:
            rung *= 2
        return rung


PADDING = Padding()
"""What every device and every edge uses: one anonymity set."""


class Packer:
    """Frames in, cells out; with nothing to say a cell is zeros."""

    def __init__(self, cell_bytes: int) -> None:
        if cell_bytes <= LENGTH_BYTES:
            raise ValueError(f"a cell of {cell_bytes} bytes holds no frame")
        self.ending: Ending | None = None
        self.waiting_bytes = 0
        self._cell_bytes = cell_bytes
        self._frames: deque[bytes] = deque()  # each behind its length; the first may have been begun
        self._cut = 0  # bytes of the first one that are on their way

    @property
    def done(self) -> bool:
        """Return whether the frames have ended and are all on their way."""
        return self.ending is not None and not self._frames

    def put(self, frame: bytes) -> None:
        """Queue a frame of 1 to MAX_FRAME_BYTES bytes. Raises ValueError past that, or after the end."""
        if self.ending is not None:
            raise ValueError("the frames have ended")
        if not 0 < len(frame) <= MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(frame)} bytes does not go in cells, at most {MAX_FRAME_BYTES} do")
        self._queue(len(frame).to_bytes(LENGTH_BYTES, "little") + frame)

    def end(self, ending: Ending) -> None:
        """Let the frames end behind those that wait. The first ending stands; ``DROPPED`` gives up what waits whole."""
        if self.ending is not None:
            return
        if ending is Ending.DROPPED:
            begun = list(self._frames)[:1] if self._cut else []
            self._frames = deque(begun)
            self.waiting_bytes = sum(len(frame) - self._cut for frame in begun)
        self.ending = ending
        self._queue(ending.to_bytes(LENGTH_BYTES, "little"))

    def cell(self) -> bytes:
        """Return the next cell's data."""
        data = bytearray()
        while self._frames and (room := self._cell_bytes - len(data)):
            if not self._cut and room < LENGTH_BYTES:
                break
            first = self._frames[0]
            piece = first[self._cut : self._cut + room]
            data += piece
            self._cut += len(piece)
            if self._cut == len(first):
                self._frames.popleft()
                self._cut = 0
        self.waiting_bytes -= len(data)
        return bytes(data).ljust(self._cell_bytes, b"\0")

    def _queue(self, item: bytes) -> None:
        self._frames.append(item)
        self.waiting_bytes += len(item)


class Reader:
    """Cells in, frames out; what is no cell of this stream raises MalformedFrame."""

    def __init__(self, cell_bytes: int) -> None:
        self.ending: Ending | None = None
        self._cell_bytes = cell_bytes
        self._frame = bytearray()
        self._lacks = 0  # bytes of the frame that has begun

    def take(self, data: bytes) -> list[bytes]:
        """Return the frames that this cell completes. Raises MalformedFrame."""
        if len(data) != self._cell_bytes:
            raise MalformedFrame(
                f"data: a cell of {len(data)} bytes, this direction's have {self._cell_bytes}; update one end",
                field="data",
            )
        frames: list[bytes] = []
        at = 0
        while at < len(data):
            if not self._lacks:
                length = int.from_bytes(data[at : at + LENGTH_BYTES], "little")
                if not length or self.ending is not None or len(data) - at < LENGTH_BYTES:
                    if data.count(0, at) != len(data) - at:
                        raise MalformedFrame("data: something stands where padding should", field="data")
                    break
                at += LENGTH_BYTES
                self._begin(length)
                continue
            piece = data[at : at + self._lacks]
            self._frame += piece
            self._lacks -= len(piece)
            at += len(piece)
            if not self._lacks:
                frames.append(bytes(self._frame))
                self._frame.clear()
        return frames

    def _begin(self, length: int) -> None:
        if length in (Ending.FINISHED, Ending.DROPPED):
            self.ending = Ending(length)
        elif length > MAX_FRAME_BYTES:
            raise MalformedFrame(f"data: a frame of {length} bytes, at most {MAX_FRAME_BYTES} allowed", field="data")
        else:
            self._lacks = length
