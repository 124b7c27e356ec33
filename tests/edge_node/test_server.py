"""The edge's process around its service: health while loading, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import grpc
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from airdraft.core.addresses import is_loopback
from airdraft.core.errors import EdgeUnreachable
from airdraft.core.session import Committed, DeviceSession, Lost, Output
from airdraft.core.types import Drain, Plan, Sampling
from airdraft.wire.client import EdgeConnection
from edge_node import server
from edge_node.config import EdgeSettings
from edge_node.engine_messages import Load, Loaded
from edge_node.engine_process import EngineProcess


async def test_an_edge_that_loads_is_not_serving(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    may_load = asyncio.Event()

    class SlowEngine(EngineProcess):
        async def start(self, load: Load) -> Loaded:
            await may_load.wait()
            return await super().start(load)

    monkeypatch.setattr(server, "EngineProcess", SlowEngine)
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


async def test_texts_outlive_their_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is killed in mid-text: the edge says that it is not serving, starts another, and the text goes on."""
    engines: list[EngineProcess] = []

    class KnownEngine(EngineProcess):
        async def start(self, load: Load) -> Loaded:
            engines.append(self)
            return await super().start(load)

    monkeypatch.setattr(server, "EngineProcess", KnownEngine)
    said: list[str] = []
    listening: asyncio.Queue[str] = asyncio.Queue()
    running = asyncio.create_task(server.serve(EdgeSettings(port=0), said.append, listening.put_nowait))
    async with asyncio.timeout(100):
        address = await listening.get()
        expected = await _answer(address, lambda count: None)

        def kill(count: int) -> None:
            if count == 10:
                pid = engines[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)

        assert await _answer(address, kill) == expected
        os.kill(os.getpid(), signal.SIGTERM)
        await running
    assert len(expected) == 60
    assert any("killed by SIGKILL" in line for line in said)


async def test_what_an_edge_counts_is_read_over_http() -> None:
    said: list[str] = []
    listening: asyncio.Queue[str] = asyncio.Queue()
    settings = EdgeSettings(port=0, metrics_port=0, edge_draft_model="none")
    running = asyncio.create_task(server.serve(settings, said.append, listening.put_nowait))
    async with asyncio.timeout(100):
        address = await listening.get()
        (where,) = [line.removeprefix("metrics on ") for line in said if line.startswith("metrics on ")]
        await _answer(address, lambda count: None)
        found = _samples(await asyncio.to_thread(_page, where))
        assert found["airdraft:generation_tokens_total"] == 60
        assert found["airdraft:prompt_tokens_total"] == 40
        assert found["airdraft:passes_total"] == 60
        assert found["airdraft:pass_positions_total"] == found["airdraft:pass_computed_positions_total"] == 99
        assert found["airdraft:time_to_first_token_seconds_count"] == 1
        assert found["airdraft:cost_line_fixed_seconds"] > 0
        async with EdgeConnection(address) as connection:
            quote = (await connection.describe()).quote
        assert quote is not None
        assert quote.fixed_s == pytest.approx(found["airdraft:cost_line_fixed_seconds"])
        os.kill(os.getpid(), signal.SIGTERM)
        await running


def _page(where: str) -> str:
    with urlopen(where, timeout=30) as answer:
        page: str = answer.read().decode()
        return page


def _samples(page: str) -> dict[str, float]:
    return {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}


async def _answer(address: str, seen: Callable[[int], None]) -> list[int]:
    """Let the edge write a text alone; ``seen`` gets how many tokens have come."""
    ids: list[int] = []
    async with EdgeConnection(address) as connection:
        described = await connection.describe()
        session = DeviceSession(
            os.urandom(16),
            described.identity,
            tuple(range(5, 45)),
            sampling=Sampling(temperature=1.0, seed=3),
            stop_ids=(),
            max_tokens=60,
            limits=described.limits,
            plan=Plan(0),
        )
        stream = connection.generate(described.vocabulary)

        async def say(outputs: list[Output]) -> None:
            for output in outputs:
                if isinstance(output, Committed):
                    ids.extend(output.ids)
                    seen(len(ids))
                else:
                    assert not isinstance(output, (Lost, Drain))
                    await stream.send(output)

        await say(session.attach(1, with_prefix=True))
        async for frame in stream:
            await say(session.received(frame))
            if session.ended:
                break
        stream.cancel()
    return ids


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
