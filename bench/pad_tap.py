"""What somebody sees who taps the line: when how many bytes went which way, by the kernel's own clock.

A proxy stands between device and edge. Its sockets tell of every read when its last segment arrived, so that the
record has no jitter of the proxy's own; times are better than most taps of a radio link would have.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_SO_TIMESTAMPNS = 35  # Linux, 64-bit: a struct timespec comes along with what is read
_READ_BYTES = 1 << 16


@dataclass(slots=True)
class Trace:
    """One connection: (seconds, bytes) of each segment, bytes below 0 for those from the edge."""

    chunks: list[tuple[float, int]] = field(default_factory=list)


class Tap:
    """Carries connections to an edge, a thread each way; ``trace`` is the newest one's."""

    def __init__(self, edge: str) -> None:
        host, _, port = edge.rpartition(":")
        self._edge = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._carried: list[tuple[socket.socket, socket.socket, threading.Thread]] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.trace = Trace()

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Take connections as long as the block lasts."""
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield
        finally:
            _shut(self._listener)
            thread.join()
            self._listener.close()
            for device, edge, carrying in self._carried:
                _shut(device, edge)
                carrying.join()

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            edge = socket.create_connection(self._edge)
            for end in (device, edge):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self.trace = trace = Trace()
            carrying = threading.Thread(target=_both, args=(device, edge, trace), daemon=True)
            carrying.start()
            self._carried.append((device, edge, carrying))


def _both(device: socket.socket, edge: socket.socket, trace: Trace) -> None:
    with device, edge:
        down = threading.Thread(target=_carry, args=(edge, device, -1, trace), daemon=True)
        down.start()
        _carry(device, edge, 1, trace)
        down.join()


def _carry(source: socket.socket, sink: socket.socket, sign: int, trace: Trace) -> None:
    with suppress(OSError):  # a reset: the other way hears of it too
        while True:
            data, told, _, _ = source.recvmsg(_READ_BYTES, 64)
            if not data:
                break
            trace.chunks.append((_arrived(told), sign * len(data)))
            sink.sendall(data)
    _shut(source, sink)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _arrived(told: Sequence[tuple[int, int, bytes]]) -> float:
    """Return when a segment came, seconds since 1970; the kernel does not stamp what came before it was asked to."""
    if not told:
        return time.time()
    seconds, nanoseconds = struct.unpack("qq", told[0][2])
    return float(seconds + nanoseconds / 1e9)
