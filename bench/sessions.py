"""``python -m bench sessions``: 200 devices over mTLS at three rounds a second each, and what cancelled streams leave.

The edge is the process that is served, TLS 1.3, a client certificate and a key for each of 20 tenants, on one core; its
model is a stub whose passes cost next to nothing, so that what is measured is the service. The devices are real clients
in two processes on the other core, each with a connection of its own. A round goes from a draft's hand-over to the
commit that answers it; what happens while they connect and in the warm-up is told apart.

Then streams are cancelled at any moment, at the same edge: what its process holds once nobody is there, garbage
collected and free memory given back to the system (``malloc_trim``), is compared with what it held after the first
of them, whose rows and buffers every edge that was ever busy holds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.door import Door, door
from bench.figures import REPOSITORY, Result, interval_95
from bench.processes import ONE_THREAD
from bench.sessions_devices import Orders
from bench.stub_edge import PASS_S, POSITION_S
from bench.stub_server import KIB, Held, StubServer, stub_server

TENANTS = 20
PROCESSES = 2
ROUNDS_S = 3.0
RESUME_S = 3.0
"""How long this edge keeps a session without a stream, so that it can be seen to forget them."""

SETTLE_S = 20.0
KV_TOKENS = 1 << 17


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    sessions: int
    connecting_s: float
    warm_s: float
    seconds: float
    warm_cancelled: int
    cancelled: int


QUICK = Size(40, 1.0, 1.0, 6.0, 200, 400)
BARS = Size(200, 4.0, 6.0, 75.0, 3000, 10_000)


async def _process(module: str, *words: str) -> Any:
    """Run a process of the bench; return what it ends with."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *words),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | ONE_THREAD,
        cwd=REPOSITORY,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{module} failed; its message stands above")
    return json.loads(output)


async def paced(edge: StubServer, entrance: Door, size: Size) -> tuple[list[dict[str, Any]], float]:
    """Let the devices write at their pace; return what they tell, and the front's share of its core meanwhile."""
    tickets = tuple(ticket.word for ticket in entrance.tickets)
    orders = [
        Orders(
            edge.address,
            tickets[index * TENANTS // PROCESSES : (index + 1) * TENANTS // PROCESSES],
            size.sessions // PROCESSES,
            size.connecting_s,
            size.warm_s,
            size.seconds,
            ROUNDS_S,
            text_tokens=200,
            seed=index,
        )
        for index in range(PROCESSES)
    ]
    before_s, began_s = edge.front_s, time.perf_counter()
    told = await asyncio.gather(*(_process("bench.sessions_devices", json.dumps(asdict(one))) for one in orders))
    return list(told), (edge.front_s - before_s) / (time.perf_counter() - began_s)


async def settled(edge: StubServer, baseline: Held | None = None) -> Held:
    """Return what the edge holds once nobody is there, and it has forgotten them."""
    until_s = time.perf_counter() + RESUME_S + SETTLE_S
    while True:
        await asyncio.sleep(1.0)
        held = await edge.held()
        quiet = not (held.sessions or held.attached or held.reserved_rows)
        if baseline is not None:
            quiet = quiet and held.tasks <= baseline.tasks and held.descriptors <= baseline.descriptors
        if quiet or time.perf_counter() > until_s:
            await asyncio.sleep(1.0)
            return await edge.held()


async def cancelled(edge: StubServer, entrance: Door, count: int, seed: int) -> Mapping[str, int]:
    """Cancel streams; return how many of each kind."""
    words = [edge.address, str(count), str(seed), *(ticket.word for ticket in entrance.tickets)]
    did: Mapping[str, int] = await _process("bench.sessions_cancelled", *words)
    return did


async def measure(size: Size) -> Result:
    """Measure both. Raises EdgeFailed."""
    result = Result("sessions")
    with TemporaryDirectory() as name:
        folder = Path(name)
        entrance = door(folder, TENANTS)
        settings = {
            **entrance.settings,
            "model": "stub",
            "max_sessions": max(256, size.sessions + 56),
            "max_context": 1024,
            "kv_tokens": KV_TOKENS,
            "resume_seconds": RESUME_S,
        }
        async with stub_server(settings, pass_s=PASS_S, position_s=POSITION_S, log=folder / "edge.log") as edge:
            first = await edge.held()
            told, share = await paced(edge, entrance, size)
            add_rounds(result, told, size, share)
            await cancelled(edge, entrance, size.warm_cancelled, seed=1)
            before = await settled(edge, first)
            did = await cancelled(edge, entrance, size.cancelled, seed=2)
            after = await settled(edge, before)
            add_leak(result, first, before, after, did)
    return result


def add_rounds(result: Result, told: Sequence[Mapping[str, Any]], size: Size, front_share: float) -> None:
    """Add what the devices tell."""
    rounds = [second * 1e3 for one in told for second in one["rounds_s"]]
    errors = [error for one in told for error in one["errors"]]
    for error in sorted(set(errors)):
        print(f"{errors.count(error)} times: {error}", file=sys.stderr)
    for name, values in (
        ("", rounds),
        ("warm_", [second * 1e3 for one in told for second in one["warm_rounds_s"]]),
        ("connect_", [second * 1e3 for one in told for second in one["connects_s"]]),
    ):
        for share in (50, 95, 99):
            key = f"{name}p{share}_ms"
            result.figures[key] = round(float(np.percentile(values, share)), 3)
            result.samples[key] = len(values)
    low, high = interval_95(rounds, lambda sample: float(np.percentile(sample, 99)), 200)
    result.spread["p99_ms"] = round(low, 3), round(high, 3)
    result.figures |= {
        "errors": len(errors),
        "sessions": sum(len(one["connects_s"]) for one in told),
        "rounds": len(rounds),
        "rounds_a_second": round(len(rounds) / size.seconds, 2),
        "rounds_begun_late": sum(one["late"] for one in told),
        "texts": sum(one["texts"] for one in told),
        "front_share": round(front_share, 3),
    }
    result.samples["errors"] = len(rounds)


def add_leak(result: Result, first: Held, before: Held, after: Held, did: Mapping[str, int]) -> None:
    """Add what the cancelled streams left, over what was there before them."""
    result.figures |= {
        "leak_mb": round((after.rss_kib - before.rss_kib) * KIB / 1e6, 3),
        "leaked_tasks": after.tasks - before.tasks,
        "leaked_descriptors": after.descriptors - before.descriptors,
        "leaked_sessions": after.sessions - first.sessions,
        "leaked_rows": after.reserved_rows - first.reserved_rows,
        "rss_fresh_mb": round(first.rss_kib * KIB / 1e6, 3),
        "rss_busy_mb": round(before.rss_kib * KIB / 1e6, 3),
    }
    made = sum(count for name, count in did.items() if name not in ("refused", "too_late"))
    result.figures |= {f"cancelled_{name}": count for name, count in did.items()} | {"cancelled": made}
    result.samples["leak_mb"] = made


def run(*, quick: bool) -> Result:
    """Measure; print the figures; return them."""
    result = asyncio.run(measure(QUICK if quick else BARS))
    for name, value in result.figures.items():
        print(f"{name:<28} {value:12.3f}")
    return result
