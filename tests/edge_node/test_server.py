"""The edge's process around its service: health while loading, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import grpc
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from grpc_health.v1 import health_pb2, health_pb2_grpc

from airdraft.core.errors import EdgeUnreachable
from airdraft.wire.client import EdgeConnection
from edge_node import server
from edge_node.config import EdgeSettings, is_loopback
from edge_node.engine.loading import load_target


async def test_an_edge_that_loads_is_not_serving(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    may_load = threading.Event()
    load = load_target

    def slow(*arguments: Any, **options: Any) -> Any:
        may_load.wait(30)
        return load(*arguments, **options)

    monkeypatch.setattr(server, "load_target", slow)
    said: list[str] = []
    listening: asyncio.Queue[str] = asyncio.Queue()
    settings = EdgeSettings(port=unused_tcp_port)
    running = asyncio.create_task(server.serve(settings, said.append, listening.put_nowait))
    address = f"127.0.0.1:{unused_tcp_port}"
    async with asyncio.timeout(60), grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="airdraft.v1.Verification")
        answer = await health.Check(request, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        async with EdgeConnection(address) as connection:
            with pytest.raises(EdgeUnreachable, match="still loading; try again soon"):
                await connection.describe()
        may_load.set()
        assert await listening.get() == address
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert said[0] == "loading demo"
    assert said[-1] == "draining"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")),
        *((host, False) for host in ("0.0.0.0", "10.1.2.3", "::", "example.org")),
    ],
)
def test_only_loopback_is_open_without_asking(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    if not expected:
        with pytest.raises(ValueError, match="add --insecure"):
            EdgeSettings(host=host)
    assert EdgeSettings(host=host, insecure=True).host == host
