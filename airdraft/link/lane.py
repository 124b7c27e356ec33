"""One direction of one relayed connection: pieces of its byte stream wait here for their time.

A lane knows when its pieces are due (``Stream``) and how much it may hold; it knows no socket beyond two ports.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from random import Random
from typing import NamedTuple, Protocol

from airdraft.link.alarm import Alarm
from airdraft.link.shaping import NEVER, Passage, Stream

_WRITE_BYTES = 65_536


class Ending(Enum):
    """How a byte stream ends."""

    EOF = auto()
    RESET = auto()


Content = bytes | Ending


class Source(Protocol):
    """The socket that a lane is fed from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Sink(Protocol):
    """The socket that a lane delivers to."""

    def write(self, data: bytes) -> None: ...

    def end(self, ending: Ending) -> None: ...


class _Piece(NamedTuple):
    passage: Passage
    content: Content

    @property
    def size_bytes(self) -> int:
        return _size_bytes(self.content)


class Lane:
    """Takes bytes from its source, delivers them to its sink when they are due, holds the source back when full."""

    def __init__(self, stream: Stream, source: Source, clock: Callable[[], float], random: Random) -> None:
        self.delivered_bytes = 0
        self.slice_bytes: int | None = None  # write random pieces of 1 to so many bytes, one a turn of the loop
        self._stream = stream
        self._source = source
        self._clock = clock
        self._random = random
        self._sink: Sink | None = None
        self._writable = False
        self._swallows = False
        self._held_at_s = math.inf  # since when nothing moves
        self._pieces: deque[_Piece] = deque()  # under way or waiting, in order
        self._leaving: deque[tuple[float, int]] = deque()  # those that wait, by the time they leave
        self._queued_bytes = 0
        self._held_bytes = 0
        self._full = False
        self._alarm = Alarm(self._rang)
        self._alarm_at_s = math.inf

    # ---- the two ends ----

    def reach(self, sink: Sink) -> None:
        """Deliver to this socket from now on."""
        self._sink = sink
        self.writable(True)

    def writable(self, writable: bool) -> None:
        """Go on writing, or wait: the sink's buffer is full."""
        self._writable = writable
        if writable:
            self._move()

    def offer(self, content: Content) -> None:
        """Take bytes or an ending from the source."""
        if self._swallows:
            return
        now = self._clock()
        for part in self._parts(content, now):
            self._append(part, now)
        self._move()

    def close(self) -> None:
        """Forget everything, take and deliver nothing more; may be called twice."""
        self.swallow()
        self._alarm.close()

    # ---- faults ----

    def swallow(self) -> None:
        """Lose what is under way and whatever comes, for good."""
        self._swallows = True
        self._clear()
        self._pace()

    def hold(self, at_s: float) -> None:
        """Let nothing move from now on; what comes waits."""
        self._held_at_s = min(self._held_at_s, at_s)

    def release(self, at_s: float) -> None:
        """Let it move again: what was under way arrives now or when it is due, what waited is sent now."""
        held_at_s, self._held_at_s = self._held_at_s, math.inf
        pieces = list(self._pieces)
        self._clear()
        self._stream.restart(at_s)
        for passage, content in pieces:
            if passage.leaves_s > held_at_s:
                self._append(content, at_s)
            else:
                late = Passage(passage.leaves_s, max(passage.arrives_s, at_s))
                self._keep(_Piece(late, content))
                self._stream.restart(late.arrives_s)
        self._move()

    # ---- within ----

    def _parts(self, content: Content, now: float) -> list[Content]:
        if isinstance(content, Ending):
            return [content]
        if self.slice_bytes is None:
            size = self._stream.piece_bytes(now)
            return [content[start : start + size] for start in range(0, len(content), size)]
        parts: list[Content] = []
        start = 0
        while start < len(content):
            end = start + self._random.randint(1, self.slice_bytes)
            parts.append(content[start:end])
            start = end
        return parts

    def _append(self, content: Content, now: float) -> None:
        held = self._held_at_s < math.inf
        self._keep(_Piece(NEVER if held else self._stream.passage(now, _size_bytes(content)), content))

    def _keep(self, piece: _Piece) -> None:
        self._pieces.append(piece)
        self._leaving.append((piece.passage.leaves_s, piece.size_bytes))
        self._queued_bytes += piece.size_bytes
        self._held_bytes += piece.size_bytes

    def _clear(self) -> None:
        self._pieces.clear()
        self._leaving.clear()
        self._queued_bytes = self._held_bytes = 0

    def _move(self) -> None:
        """Deliver what is due, let the source go on or wait, set the alarm for what comes next."""
        if self._held_at_s == math.inf:
            now = self._clock()
            while self._leaving and self._leaving[0][0] <= now:
                self._queued_bytes -= self._leaving.popleft()[1]
            self._deliver(now)
        self._pace()
        self._set_alarm()

    def _deliver(self, now: float) -> None:
        while self._sink is not None and self._writable and self._pieces and self._pieces[0].passage.arrives_s <= now:
            piece = self._pieces.popleft()
            if isinstance(piece.content, Ending):
                self._sink.end(piece.content)
                continue
            data = piece.content if self.slice_bytes else self._join(piece.content, now)
            self._held_bytes -= len(data)
            self.delivered_bytes += len(data)
            self._sink.write(data)
            if self.slice_bytes:
                break  # the alarm rings at once, in the loop's next turn

    def _join(self, data: bytes, now: float) -> bytes:
        """Return the data and what else is due, up to a handy size: one system call is cheaper than many."""
        joined, size = [data], len(data)
        while self._pieces and size < _WRITE_BYTES and self._pieces[0].passage.arrives_s <= now:
            content = self._pieces[0].content
            if isinstance(content, Ending):
                break
            joined.append(content)
            size += len(content)
            self._pieces.popleft()
        return data if len(joined) == 1 else b"".join(joined)

    def _pace(self) -> None:
        shape = self._stream.shape
        full = self._queued_bytes >= shape.queue_bytes or self._held_bytes >= shape.window_bytes
        if full != self._full:
            self._full = full
            (self._source.pause if full else self._source.resume)()

    def _set_alarm(self) -> None:
        next_s = math.inf
        if self._held_at_s == math.inf:
            if self._pieces and self._writable:
                next_s = self._pieces[0].passage.arrives_s
            if self._full and self._leaving:
                next_s = min(next_s, self._leaving[0][0])
        if next_s != self._alarm_at_s:
            self._alarm_at_s = next_s
            self._alarm.set(next_s - self._clock())

    def _rang(self) -> None:
        self._alarm_at_s = math.inf
        self._move()


def _size_bytes(content: Content) -> int:
    return 0 if isinstance(content, Ending) else len(content)
