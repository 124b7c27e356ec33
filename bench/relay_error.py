"""``python -m bench relay``: how far the relay is from the link it was asked to be.

Frames and bulk go from one process through the relay to another and back; every process stamps with the same clock.
What a stamp should have been is what the pure arithmetic says of the same moments. So the error holds everything that
the relay adds: its timers, its loop, two more sockets, and the two ends' own waking up.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from airdraft.link.relay import Relay
from airdraft.link.shaping import Air, Conditions, Constant, Sampled, Shape, Stream
from bench.figures import Result, interval_95
from bench.relay_probe import FRAME_BYTES

WARM_UP = 10
"""Frames at the start that do not count."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A link to ask for, and how often frames cross it."""

    name: str
    up: Conditions
    down: Conditions
    gap_s: float = 0.004


def _sawtooth_s(at_s: float) -> float:
    return 0.01 + 0.02 * (at_s * 2 % 1.0)


def _steps_bytes_s(at_s: float) -> float:
    return (4e5, 2e6, 1e5, 8e5)[int(at_s * 20) % 4]


SETTINGS = (
    Setting("bare", Constant(), Constant()),
    Setting("2 ms", Constant(0.002), Constant(0.002)),
    Setting("12 / 7.3 ms", Constant(0.012), Constant(0.0073)),
    Setting("80 ms", Constant(0.08), Constant(0.08)),
    Setting("10 ms, 1 Mbit/s", Constant(0.01, 125e3), Constant(0.01, 125e3)),
    Setting("sawtooth 10-30 ms", Sampled(lambda _: math.inf, _sawtooth_s), Sampled(lambda _: math.inf, _sawtooth_s)),
    Setting("20 ms, 2000 frames/s", Constant(0.02), Constant(0.02), gap_s=0.0005),
)
RATES: dict[str, Conditions] = {
    "1 Mbit/s": Constant(0.01, 125e3),
    "10 Mbit/s": Constant(0.01, 1.25e6),
    "100 Mbit/s": Constant(0.01, 12.5e6),
    "steps 0.8-16 Mbit/s": Sampled(_steps_bytes_s, lambda _: 0.01, 0.05),
}


class Ends:
    """The near and the far end of what is measured."""

    def __init__(self, near: Process, far_port: int) -> None:
        self.far_port = far_port
        self._near = near

    async def ask(self, **order: Any) -> Any:
        """Let the near end do something; return what it found."""
        assert self._near.stdin is not None
        assert self._near.stdout is not None
        self._near.stdin.write(json.dumps(order).encode() + b"\n")
        return json.loads(await self._near.stdout.readuntil())


@asynccontextmanager
async def _two_ends() -> AsyncIterator[Ends]:
    def start(core: int) -> Any:
        command = [sys.executable, "-m", "bench.relay_probe", str(core)]
        return asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=2**24)

    processes: list[Process] = [await start(core) for core in range(2)]
    ports = [int(await process.stdout.readline()) for process in processes if process.stdout is not None]
    try:
        yield Ends(processes[1], ports[0])
    finally:
        for process in processes:
            process.kill()
            await process.communicate()


def _late_ms(shape: Shape, sent_s: Sequence[float], arrived_s: Sequence[float]) -> list[float]:
    """Return by how much each frame was later than the link alone would have it."""
    stream = Stream(shape, Air(shape.conditions), Random(0))
    pairs = zip(sent_s, arrived_s, strict=True)
    return [(arrived - stream.arrival_s(sent, FRAME_BYTES)) * 1000 for sent, arrived in pairs][WARM_UP:]


async def _delay_errors_ms(ends: Ends, setting: Setting, frames: int) -> list[float]:
    up, down = Shape(setting.up), Shape(setting.down)
    async with Relay("127.0.0.1", ends.far_port, up=up, down=down, random=Random(0)) as relay:
        began_s = time.monotonic() - relay.now_s
        times = await ends.ask(port=relay.port, purpose="e", count=frames + WARM_UP, gap_s=setting.gap_s)
    sent, there, back = (np.array(times).T - began_s).tolist()
    return _late_ms(up, sent, there) + _late_ms(down, there, back)


async def _rate_error_share(ends: Ends, conditions: Conditions, way: str, seconds: float) -> float:
    """Return by what share bulk was faster (above 0) or slower than asked, between its first and last byte."""
    count = int(seconds * conditions.rate_bytes_s(0.0))
    shape = Shape(conditions)
    async with Relay("127.0.0.1", ends.far_port, up=shape, down=shape, random=Random(0)) as relay:
        began_s = time.monotonic() - relay.now_s
        first_s, first_bytes, last_s = await ends.ask(port=relay.port, purpose=way, count=count)
    left_s: float = first_s - began_s - conditions.delay_s(0.0)
    asked_s = Air(conditions).leaves_s(left_s, count - int(first_bytes)) - left_s
    return asked_s / float(last_s - first_s) - 1


async def _measure(quick: bool) -> tuple[dict[str, list[float]], dict[str, float]]:
    delays: dict[str, list[float]] = {}
    rates: dict[str, float] = {}
    async with _two_ends() as ends:
        for setting in SETTINGS:
            delays[setting.name] = await _delay_errors_ms(ends, setting, 50 if quick else 350)
        for name, conditions in RATES.items():
            for way in "ud":
                share = await _rate_error_share(ends, conditions, way, 0.2 if quick else 1.0)
                rates[f"{name} {'up' if way == 'u' else 'down'}"] = share
    return delays, rates


def _p99(sample: np.ndarray[Any, Any]) -> float:
    return float(np.percentile(sample, 99))


def _add(result: Result, name: str, errors: Sequence[float]) -> None:
    result.figures[name] = round(_p99(np.array(errors)), 6)
    result.samples[name] = len(errors)
    low, high = interval_95(errors, _p99)
    result.spread[name] = (round(low, 6), round(high, 6))


def run(*, quick: bool) -> Result:
    """Measure every setting; print them; return the figures."""
    delays, rates = asyncio.run(_measure(quick))
    for name, errors in delays.items():
        print(f"{name:<24} {np.median(errors):7.3f} ms late (median)  {_p99(np.abs(errors)):7.3f} ms off (p99)")
    for name, share in rates.items():
        print(f"{name:<24} {share * 100:+7.2f} %")
    pooled = [abs(error) for errors in delays.values() for error in errors]
    off = list(rates.values())
    result = Result("relay")
    result.add_median("relay_delay_error_ms_median", pooled)
    _add(result, "relay_delay_error_ms_p99", pooled)
    _add(result, "relay_bare_error_ms_p99", np.abs(delays["bare"]).tolist())  # sockets and processes, no delay asked
    result.figures["relay_rate_error_share_max"] = round(max(map(abs, off)), 6)
    result.samples["relay_rate_error_share_max"] = len(off)
    result.spread["relay_rate_error_share_max"] = (round(min(off), 6), round(max(off), 6))
    return result
