"""The faults of a soak: links, edges and devices fail at random moments, each for a while."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from random import Random
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM, Signals

from airdraft.link.relay import Refusal
from bench.soak_devices import LEAST_TOKENS, Device
from bench.soak_processes import Edge, Record, Road

_INTERRUPTED = 130  # exit code of the device client


class Storm:
    """Lets things fail at random moments, each for a while."""

    def __init__(
        self, edges: Sequence[Edge], devices: Sequence[Device], roads: Sequence[Road], record: Record, random: Random
    ) -> None:
        self._edges, self._devices, self._roads, self._record, self._random = edges, devices, roads, record, random
        self._long_outage_s = 30.0

    async def run(self, pause_s: float, long_outage_s: float, until_s: float) -> None:
        """Begin faults until the time is over, and wait until the last is mended."""
        self._long_outage_s = long_outage_s
        kinds, weights = zip(*self._kinds().items(), strict=True)
        async with asyncio.TaskGroup() as group:
            while self._record.now_s < until_s:
                await asyncio.sleep(self._random.expovariate(1 / pause_s))
                group.create_task(self._random.choices(kinds, weights)[0]())

    def _kinds(self) -> dict[Callable[[], Coroutine[None, None, None]], float]:
        return {
            self._cut: 14, self._black_hole: 12, self._outage: 12, self._refuse: 7, self._slices: 6, self._delay: 9,
            self._kill_edge: 3, self._drain_edge: 3, self._freeze_edge: 6,
            self._kill_device: 12, self._freeze_device: 8, self._interrupt_device: 4,
        }  # fmt: skip

    # links

    def _some_roads(self) -> list[Road]:
        """Return one road, all of a device, all to an edge, or all."""
        one = self._random.choice(self._roads)
        reach = self._random.choices(("road", "device", "edge", "all"), (4, 4, 2, 1))[0]
        return [
            road
            for road in self._roads
            if reach == "all"
            or road is one
            or (reach == "device" and road.device == one.device)
            or (reach == "edge" and road.edge == one.edge)
        ]

    @contextmanager
    def _on_roads(self, kind: str, detail: str = "") -> Iterator[list[Road]]:
        roads = self._some_roads()
        names = ", ".join(f"{'all' if road.device is None else road.device}>{road.edge}" for road in roads)
        devices = [road.device for road in roads if road.device is not None]
        everybody = len(devices) < len(roads)  # a road that all may take is among them
        with self._record.fault(kind, () if everybody else devices, f"{detail} on {names}"):
            yield roads

    async def _cut(self) -> None:
        with self._on_roads("cut") as roads:
            for road in roads:
                road.relay.cut()

    async def _black_hole(self) -> None:
        up, down = self._random.choice(((True, True), (True, False), (False, True)))
        seconds = self._random.uniform(0.3, 6)
        with self._on_roads("black_hole", f"up {up} down {down} {seconds:.1f} s") as roads:
            for road in roads:
                road.relay.black_hole(up=up, down=down)
            await asyncio.sleep(seconds)
            for road in roads:
                road.relay.restore()

    async def _outage(self) -> None:
        seconds = self._long_outage_s if self._random.random() < 0.1 else self._random.uniform(0.5, 2.5)
        with self._on_roads("outage", f"{seconds:.1f} s") as roads:
            for road in roads:
                road.relay.outage(seconds)
            await asyncio.sleep(seconds)

    async def _refuse(self) -> None:
        how, hard = self._random.choice(list(Refusal)), self._random.random() < 0.6
        with self._on_roads("refuse", f"{how.name} hard {hard}") as roads:
            for road in roads:
                road.relay.refuse(how)
                if hard:
                    road.relay.cut()
            await asyncio.sleep(self._random.uniform(0.5, 5))
            for road in roads:
                road.relay.admit()

    async def _slices(self) -> None:
        with self._on_roads("slices") as roads:
            for road in roads:
                road.relay.slice(self._random.choice((1, 3, 20)))
            await asyncio.sleep(self._random.uniform(1, 5))
            for road in roads:
                road.relay.slice(None)

    async def _delay(self) -> None:
        one_way_s, jitter_s = self._random.uniform(0.005, 0.2), self._random.choice((0.0, 0.02, 0.2))
        with self._on_roads("delay", f"{one_way_s:.3f} s, jitter {jitter_s}") as roads:
            for road in roads:
                road.weather.one_way_s, road.weather.jitter_s = one_way_s, jitter_s
            await asyncio.sleep(self._random.uniform(2, 10))
            for road in roads:
                road.weather.one_way_s = road.weather.jitter_s = 0.0

    # edges

    @asynccontextmanager
    async def _an_edge(self, kind: str) -> AsyncIterator[Edge | None]:
        """Give an edge that no other fault has, None where there is none."""
        free = [edge for edge in self._edges if not edge.busy.locked()]
        if not free:
            yield None
            return
        edge = self._random.choice(free)
        async with edge.busy:
            with self._record.fault(kind, detail=f"edge {edge.index}"):
                yield edge

    async def _kill_edge(self) -> None:
        await self._end_edge("kill_edge", SIGKILL, -SIGKILL)

    async def _drain_edge(self) -> None:
        await self._end_edge("drain_edge", SIGTERM, 0)

    async def _end_edge(self, kind: str, number: Signals, code: int) -> None:
        """End one; mostly while the other is there, since a start takes long where all cores are busy."""
        if any(not edge.listening.is_set() for edge in self._edges) and self._random.random() < 0.8:
            return
        async with self._an_edge(kind) as edge:
            if edge is not None:
                await edge.ends(number, code, self._random.choice((0.0, 0.0, 2.0)))

    async def _freeze_edge(self) -> None:
        async with self._an_edge("freeze_edge") as edge:
            if edge is not None:
                edge.signal(SIGSTOP)
                await asyncio.sleep(self._random.uniform(0.5, 5))
                edge.signal(SIGCONT)

    # devices

    async def _kill_device(self) -> None:
        self._end_device("kill_device", SIGKILL, -SIGKILL, self._random.choice((0, 1, 1, 1)))

    async def _interrupt_device(self) -> None:
        self._end_device("interrupt_device", SIGINT, _INTERRUPTED, LEAST_TOKENS)

    def _end_device(self, kind: str, number: Signals, code: int, least_tokens: int) -> None:
        device, process = self._a_device(least_tokens)
        if device is not None and process is not None and code not in device.allowed:
            device.allowed.add(code)
            with self._record.fault(kind, [device.index]), suppress(ProcessLookupError):
                process.send_signal(number)

    async def _freeze_device(self) -> None:
        device, process = self._a_device()
        if device is not None and process is not None:
            with self._record.fault("freeze_device", [device.index]), suppress(ProcessLookupError):
                process.send_signal(SIGSTOP)
                await asyncio.sleep(self._random.uniform(0.5, 5))
                process.send_signal(SIGCONT)

    def _a_device(self, least_tokens: int = 0) -> tuple[Device | None, Process | None]:
        """Return one that runs and still has so many tokens to bring."""
        running = [
            device
            for device in self._devices
            if device.process is not None and device.process.returncode is None and device.left_tokens >= least_tokens
        ]
        device = self._random.choice(running) if running else None
        return device, None if device is None else device.process
