"""A bare HTTP/2 client that speaks gRPC as rudely as it is told to: nothing of grpc's good manners is in its way.

It keeps to flow control and answers SETTINGS and PING, since a server hangs up on who does not; whether it reads, ends
what it begins or says anything at all is up to who drives it. Source of the numbers: RFC 9113 and RFC 7541.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4
CANCEL = 8
WINDOW = 65_535
FRAME_BYTES = 16_384

GENERATE = "/airdraft.v1.Verification/Generate"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(payload: bytes) -> bytes:
    """Return a gRPC message, not compressed."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def _text(value: str) -> bytes:
    """Return a string as HPACK writes it, without Huffman's code."""
    raw = value.encode()
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, length = len(raw) - 127, b"\x7f"
    while rest >= 128:
        length += bytes((rest % 128 + 128,))
        rest //= 128
    return length + bytes((rest,)) + raw


def headers(path: str, bearer: str = "", more: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return the header block of a call: literals that nobody need remember."""
    fields = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "edge")]
    fields += [("te", "trailers"), ("content-type", "application/grpc"), *more]
    if bearer:
        fields.append(("authorization", f"Bearer {bearer}"))
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


@dataclass(slots=True)
class RudeStream:
    """One call; ``ended`` is set once the server has ended it, or the connection is gone."""

    number: int
    opened_s: float
    window: int
    ended_s: float | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    moved: asyncio.Event = field(default_factory=asyncio.Event)  # its window may have grown


class RudeConnection:
    """One connection; ``async with`` it."""

    def __init__(self, address: str, context: ssl.SSLContext | None, *, reads: bool = True) -> None:
        """Prepare; one that does not read grants the server no byte of any answer."""
        self.streams: dict[int, RudeStream] = {}
        self.heard_bytes = 0
        self._address, self._context, self._reads = address, context, reads
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._window = self._stream_window = WINDOW
        self._moved = asyncio.Event()
        self._next = 1
        self.closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        host, _, port = self._address.rpartition(":")
        reader, self._writer = await asyncio.open_connection(
            host, int(port), ssl=self._context, server_hostname="localhost" if self._context else None
        )
        settings = b"" if self._reads else INITIAL_WINDOW_SIZE.to_bytes(2, "big") + bytes(4)
        self._writer.write(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._listening = asyncio.create_task(self._listen(reader))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        assert self._listening is not None
        self._listening.cancel()
        await asyncio.wait([self._listening])
        self._writer.close()

    # ---- what it says ----

    def open(self, block: bytes) -> RudeStream:
        """Begin a call with this header block."""
        stream = RudeStream(self._next, asyncio.get_running_loop().time(), self._stream_window)
        self._next += 2
        self.streams[stream.number] = stream
        if self.closed.is_set():
            self._end(stream.number)
        else:
            self.say(frame(HEADERS, END_HEADERS, stream.number, block))
        return stream

    def reset(self, stream: RudeStream) -> None:
        """Cancel a call."""
        self.say(frame(RST_STREAM, 0, stream.number, CANCEL.to_bytes(4, "big")))
        self._end(stream.number)

    def say(self, raw: bytes) -> None:
        """Send frames as they are."""
        assert self._writer is not None
        if not self._writer.is_closing():
            self._writer.write(raw)

    async def drained(self) -> None:
        """Wait until what was said has left; does not raise where the connection is gone."""
        assert self._writer is not None
        with suppress(ConnectionError):
            await self._writer.drain()

    async def send(self, stream: RudeStream, raw: bytes) -> int:
        """Send bytes of a call as far as its windows let them; return how many left before it ended."""
        sent = 0
        while sent < len(raw) and not stream.ended.is_set():
            room = min(self._window, stream.window, FRAME_BYTES, len(raw) - sent)
            if room <= 0:
                stream.moved.clear()
                self._moved.clear()
                waits = [asyncio.create_task(event.wait()) for event in (stream.moved, self._moved, stream.ended)]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
                continue
            self.say(frame(DATA, 0, stream.number, raw[sent : sent + room]))
            self._window -= room
            stream.window -= room
            sent += room
            await self.drained()
        return sent

    # ---- what it hears ----

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                self._heard(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.closed.set()
            for number in list(self.streams):
                self._end(number)

    def _heard(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        self.heard_bytes += len(payload)
        stream = self.streams.get(number)
        if kind == SETTINGS and not flags & ACK:
            self._set(payload)
            self.say(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.say(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            grown = int.from_bytes(payload, "big")
            if stream is not None:
                stream.window += grown
                stream.moved.set()
            elif not number:
                self._window += grown
                self._moved.set()
        elif kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self._end(number)
        if kind == DATA and payload and self._reads:
            grant = len(payload).to_bytes(4, "big")
            self.say(frame(WINDOW_UPDATE, 0, 0, grant))
            if not flags & END_STREAM:
                self.say(frame(WINDOW_UPDATE, 0, number, grant))

    def _set(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            name, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if name == INITIAL_WINDOW_SIZE:
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                    stream.moved.set()
                self._stream_window = value

    def _end(self, number: int) -> None:
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.ended_s = asyncio.get_running_loop().time()
            stream.ended.set()
