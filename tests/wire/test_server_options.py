"""What a server's options do, each seen at work: connections that waste its room are closed, and nothing else is.

Times are shortened, so that no test waits long; what they are in service stands in ``SERVER_OPTIONS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from airdraft.wire.server import MAX_METADATA_BYTES, SERVER_OPTIONS, STREAMS_PER_CONNECTION

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
METHOD = "/t.T/M"
OWN = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return an HTTP/2 frame of no stream."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + bytes(4) + payload


class Service:
    """One method that answers at once, or when it may."""

    def __init__(self) -> None:
        self.open, self.most, self.changed = 0, 0, asyncio.Condition()
        self.may_end = asyncio.Event()

    async def method(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer the first message; those that say hold are answered again at the end."""
        self.open += 1
        self.most = max(self.most, self.open)
        async with self.changed:
            self.changed.notify_all()
        message = await anext(requests)
        yield message
        if message == b"hold":
            await self.may_end.wait()
        self.open -= 1


@asynccontextmanager
async def serving(service: Service | None = None, **changes: int) -> AsyncIterator[int]:
    """Serve with the options of an edge but for some; give the port."""
    options: Mapping[str, int] = dict(SERVER_OPTIONS) | {f"grpc.{name}": value for name, value in changes.items()}
    assert len(options) == len(SERVER_OPTIONS), "an option that an edge does not set"
    server = grpc.aio.server(options=list(options.items()))
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler((service or Service()).method)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", {"M": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(30):
            yield port
    finally:
        await server.stop(grace=0)


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the other end closes."""
    heard = b""
    with suppress(ConnectionResetError):
        while more := await reader.read(1 << 16):
            heard += more
    return heard


def kinds(heard: bytes) -> list[int]:
    """Return the kinds of the HTTP/2 frames."""
    found = []
    while heard:
        found.append(heard[3])
        heard = heard[9 + int.from_bytes(heard[:3]) :]
    return found


async def answer(port: int, metadata: tuple[tuple[str, str], ...] = (), message: bytes = b"x") -> bytes:
    """Return the answer to one call on a channel of its own."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN) as channel:
        asked: Any = channel.stream_stream(METHOD)
        answers = [answer async for answer in asked(iter([message]), metadata=metadata)]
    return b"".join(answers)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n", PREFACE[:10]])
async def test_a_connection_that_does_not_begin_is_closed(said: bytes) -> None:
    async with serving(server_handshake_timeout_ms=300) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        await until_closed(reader)
        writer.close()
        assert await answer(port) == b"x"


async def test_a_connection_that_nothing_runs_over_is_closed() -> None:
    service = Service()
    async with (
        serving(service, max_connection_idle_ms=300) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN) as channel,
    ):
        asked: Any = channel.stream_stream(METHOD)
        held = asked(iter([b"hold"]))
        assert await held.read() == b"hold"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + frame(SETTINGS))
        assert GOAWAY in kinds(await until_closed(reader))
        writer.close()
        service.may_end.set()  # a stream that was as silent, over its own connection, was not disturbed
        assert await held.read() is grpc.aio.EOF
        assert await held.code() is grpc.StatusCode.OK


async def test_a_storm_of_pings_ends_its_connection() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PREFACE + frame(SETTINGS) + frame(PING, b"12345678") * 100)
        assert b"too_many_pings" in await until_closed(reader)
        writer.close()
        assert await answer(port) == b"x"


async def test_a_connection_carries_so_many_streams_at_once() -> None:
    service = Service()
    async with serving(service) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN) as channel:
        asked: Any = channel.stream_stream(METHOD)
        calls = [asked(iter([b"hold"])) for _ in range(STREAMS_PER_CONNECTION + 5)]
        async with service.changed:
            await service.changed.wait_for(lambda: service.open == STREAMS_PER_CONNECTION)
        assert await answer(port) == b"x"  # over another connection
        assert service.open == STREAMS_PER_CONNECTION
        for call in calls:
            call.cancel()
    assert service.most == STREAMS_PER_CONNECTION + 1


async def test_headers_past_their_bound_are_refused() -> None:
    async with serving() as port:
        assert await answer(port, (("authorization", "x" * 4096),)) == b"x"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await answer(port, (("authorization", "x" * (MAX_METADATA_BYTES + 1)),))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await answer(port) == b"x"


async def test_messages_past_their_bound_are_refused() -> None:
    most = dict(SERVER_OPTIONS)["grpc.max_receive_message_length"]
    async with serving() as port:
        assert await answer(port, message=b"x" * most) == b"x" * most
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await answer(port, message=b"x" * (most + 1))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
