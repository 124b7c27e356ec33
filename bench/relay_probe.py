"""The two ends that ``bench.relay_error`` measures between, each a process of its own with plain blocking sockets.

``python -m bench.relay_probe CORE`` is either: it listens, prints its port and serves what is asked on each connection,
as the far end; and it obeys orders on stdin, a line of JSON each, and answers with a line, as the near end. Times are
of CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from struct import Struct
from typing import Any

from bench.processes import pin

FRAME_BYTES = 44  # as a draft of four
_STAMPS = Struct("<dd")  # when it was sent, when it was at the far end
_ORDER = Struct("<cQ")  # what a connection is for, and how many bytes
_REST = bytes(FRAME_BYTES - _STAMPS.size)


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _echo(link: socket.socket, count: int) -> None:
    """Stamp every frame with its arrival and send it back."""
    pending = b""
    while count:
        pending += link.recv(65_536)
        arrived_s = time.monotonic()
        while len(pending) >= FRAME_BYTES:
            sent_s, _ = _STAMPS.unpack_from(pending)
            link.sendall(_STAMPS.pack(sent_s, arrived_s) + _REST)
            pending, count = pending[FRAME_BYTES:], count - 1


def _drain(link: socket.socket, count: int) -> list[float]:
    """Read so many bytes; return when the first came, how many came with it, when the last came."""
    first_bytes = left = 0
    first_s = now = 0.0
    left = count
    while left:
        size = len(link.recv(65_536))
        now = time.monotonic()
        if left == count:
            first_s, first_bytes = now, size
        left -= size
    return [first_s, first_bytes, now]


def _serve(link: socket.socket) -> None:
    with link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        purpose, count = _ORDER.unpack(_exactly(link, _ORDER.size))
        if purpose == b"e":
            _echo(link, count)
        elif purpose == b"u":
            link.sendall(json.dumps(_drain(link, count)).encode())
        else:
            link.sendall(bytes(count))


def _listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        threading.Thread(target=_obey, daemon=True).start()
        while True:
            threading.Thread(target=_serve, args=(server.accept()[0],), daemon=True).start()


def _send_frames(link: socket.socket, count: int, gap_s: float) -> None:
    chance = random.Random(0)
    for _ in range(count):
        time.sleep(chance.uniform(0.5, 1.5) * gap_s)
        link.sendall(_STAMPS.pack(time.monotonic(), 0.0) + _REST)


def _frames(link: socket.socket, count: int, gap_s: float) -> list[tuple[float, float, float]]:
    """Return for each frame when it was sent, when it was at the far end and when it was back."""
    link.sendall(_ORDER.pack(b"e", count + 1) + bytes(FRAME_BYTES))
    _exactly(link, FRAME_BYTES)  # the connection's handshake is over when it is back
    sender = threading.Thread(target=_send_frames, args=(link, count, gap_s))
    sender.start()
    times: list[tuple[float, float, float]] = []
    pending = b""
    while len(times) < count:
        pending += link.recv(65_536)
        now = time.monotonic()
        while len(pending) >= FRAME_BYTES:
            times.append((*_STAMPS.unpack_from(pending), now))
            pending = pending[FRAME_BYTES:]
    sender.join()
    return times


def _bulk(link: socket.socket, purpose: str, count: int) -> Any:
    link.sendall(_ORDER.pack(purpose.encode(), count))
    if purpose == "d":
        return _drain(link, count)
    link.sendall(bytes(count))
    return json.loads(link.makefile().readline())


def _obey() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        with socket.create_connection(("127.0.0.1", order["port"])) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if order["purpose"] == "e":
                found: Any = _frames(link, order["count"], order["gap_s"])
            else:
                found = _bulk(link, order["purpose"], order["count"])
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    pin(int(sys.argv[1]))
    _listen()
