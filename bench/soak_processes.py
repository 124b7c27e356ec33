"""What a soak runs and what it notes: edge nodes as processes, roads to them, faults, logs."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import Signals
from typing import Any

from airdraft.link.relay import Relay
from airdraft.link.shaping import Sampled, Shape
from bench.figures import REPOSITORY
from bench.processes import ONE_THREAD, EdgeFailed

START_S = 90.0
"""How long an edge may take to start on a busy machine."""

# A child dies with this process, however it ends: asked of Linux by the child itself, before it runs the program.
_CHILD = "import ctypes, runpy, sys; ctypes.CDLL(None).prctl(1, 9); del sys.argv[0]; " + (
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


@dataclass(slots=True, eq=False)
class Fault:
    """What failed, for whom, from when until when; nobody means everybody."""

    kind: str
    since_s: float
    devices: tuple[int, ...]
    detail: str
    until_s: float = float("inf")

    def hits(self, device: int, since_s: float, until_s: float) -> bool:
        concerned = not self.devices or device in self.devices
        return concerned and self.since_s <= until_s and self.until_s >= since_s


@dataclass(slots=True)
class Record:
    """All that happened: faults, and what was found wrong."""

    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    gaps: list[tuple[float, int, float]] = field(default_factory=list)  # seconds, device, when it ended
    began_s: float = field(default_factory=time.monotonic)

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began_s

    @contextmanager
    def fault(self, kind: str, devices: Sequence[int] = (), detail: str = "") -> Iterator[None]:
        """Note a fault that lasts as long as the block."""
        fault = Fault(kind, self.now_s, tuple(devices), detail)
        self.faults.append(fault)
        try:
            yield
        finally:
            fault.until_s = self.now_s

    def failed_callback(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Count what a callback of this process raised: the relays' own faults."""
        self.counts["relay_errors"] += 1
        if self.counts["relay_errors"] == 1:
            loop.default_exception_handler(context)

    def hitting(self, device: int, since_s: float, until_s: float) -> list[Fault]:
        return [fault for fault in self.faults if fault.hits(device, since_s, until_s)]


# ---- processes ----


class Log:
    """What a process and its successors write to standard error, each line with its second of the soak."""

    def __init__(self, path: Path, record: Record) -> None:
        self.path, self._record = path, record
        self.waits_since_s = float("inf")  # when the device said last that it has lost its edge

    def tail(self, lines: int = 25) -> str:
        return "\n".join(self.path.read_text().splitlines()[-lines:]) if self.path.exists() else ""

    def note(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{self._record.now_s:9.3f} {line}\n")

    @asynccontextmanager
    async def program(self, *words: str, cache: Path) -> AsyncIterator[Process]:
        """Run ``python -m`` with these words as long as the block lasts, at most."""
        self.note(" ".join(words))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRDRAFT_")}
        more = {"HF_HUB_OFFLINE": "1", "PYTHONFAULTHANDLER": "1", "XDG_CACHE_HOME": str(cache), **ONE_THREAD}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CHILD, *words,
            stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment | more, cwd=REPOSITORY,
        )  # fmt: skip
        reading = asyncio.create_task(self._read(process))
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await reading
            self.note(f"ended with {await process.wait()}")

    async def _read(self, process: Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self.note(line.decode(errors="replace").rstrip("\n"))
            if b"reconnecting (" in line:
                self.waits_since_s = self._record.now_s


# ---- edges ----


class Edge:
    """One edge node as a process that is started anew whenever it ends, on a port that stays its own."""

    def __init__(self, index: int, folder: Path, record: Record, options: Sequence[str]) -> None:
        self.index, self.port = index, _free_port()
        self.busy = asyncio.Lock()  # held by the fault that has it
        self.listening = asyncio.Event()
        self.expected = 0  # the exit code that the fault at work leads to
        self.pause_s = 0.0  # before it is started anew
        self.options = list(options)
        self._folder, self._record = folder, record
        self._log = Log(folder / f"edge-{index}.log", record)
        self._process: Process | None = None

    async def run(self) -> None:
        """Serve until cancelled. Raises EdgeFailed."""
        while True:
            words = ("edge_node", "serve", "--port", str(self.port), *self.options)
            async with self._log.program(*words, cache=self._folder) as process:
                assert process.stdout is not None
                async with asyncio.timeout(START_S):
                    line = await process.stdout.readline()
                if not line.startswith(b"listening "):
                    raise EdgeFailed(f"edge {self.index} did not start:\n{self._log.tail()}")
                self._process = process
                self.listening.set()
                code = await process.wait()
                self.listening.clear()
            if code != self.expected:
                self._record.counts["edge_faults"] += 1
                print(f"\nEDGE {self.index}: exit code {code}, not {self.expected}\n{self._log.tail()}", flush=True)
            await asyncio.sleep(self.pause_s)

    def signal(self, number: Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def ends(self, number: Signals, code: int, pause_s: float) -> None:
        """End it by a signal; return when it listens again."""
        self.expected, self.pause_s = code, pause_s
        self.listening.clear()
        self.signal(number)
        async with asyncio.timeout(2 * START_S):
            await self.listening.wait()


def _free_port() -> int:
    """Return a port that no outgoing connection takes while its edge is down."""
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chance = Random()
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", chance.randrange(1024, least) if least > 2048 else 0))
            return int(probe.getsockname()[1])


# ---- links ----


@dataclass(slots=True)
class Weather:
    """The delay of a road at this moment."""

    random: Random
    one_way_s: float = 0.0
    jitter_s: float = 0.0

    def delay_s(self, at_s: float) -> float:
        return self.one_way_s + self.random.random() * self.jitter_s


@dataclass(frozen=True, slots=True)
class Road:
    """A relay to one edge: a device's own, or (None) the one that all take from an edge that drains."""

    device: int | None
    edge: int
    relay: Relay
    weather: Weather


@asynccontextmanager
async def road(device: int | None, edge: Edge, random: Random) -> AsyncIterator[Road]:
    weather = Weather(random)
    shape = Shape(Sampled(lambda _: float("inf"), weather.delay_s))
    async with Relay("127.0.0.1", edge.port, random=random, up=shape, down=shape) as relay:
        yield Road(device, edge.index, relay, weather)
