"""``python -m bench resume``: how long a text stands still after each kind of loss.

Measured at the device, from the fault (of an outage: from its end) to the first committed token that a later stream
brings to whoever watches. The devices are the real client without a terminal, many on one event loop on one core; each
has a relay of its own there. The edges are processes of their own on another core (``bench.stub_edge``): the real
service around a model that costs next to nothing and whose text can be checked. A prompt has 512 tokens.

    warm              the connection is reset; the same edge still holds the cache
    killed            kill -9 of the edge under ten texts at once; another edge replays the whole prefix
    black_hole_same   what was sent vanishes, both sockets stay open; a new connection to the same edge works
    black_hole_other  the same, but nothing ever passes that way again: another edge replays
    outage            nothing passes for 30 s, connections opened meanwhile never work either; then the link is back

The relay adds no delay: over a real link connecting, HTTP/2's and the session's first words cost a
few round trips more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from airdraft.core.errors import SpecError
from airdraft.core.session import Committed, DeviceSession, Reattachment
from airdraft.core.types import Plan, Sampling, StopReason
from airdraft.link.relay import Relay
from airdraft.wire.client import EdgeConnection
from bench.figures import Result, interval_95
from bench.processes import pin
from bench.stub_edge import DESCRIPTION, VOCABULARY, ScriptedDrafter, StubEdge, stub_edge, stub_text
from device_client.config import DeviceSettings
from device_client.generation import Generation
from device_client.roaming import Roaming

KINDS = ("warm", "killed", "black_hole_same", "black_hole_other", "outage")
PROMPT_TOKENS = 512
TEXT_TOKENS = 96
DRAFT_LENGTH = 4
ERROR_EVERY = 5  # the drafter's errors: every so many positions
FAULT_COMMITS = (3, 8)  # the fault comes after so many commits
ROUND_S = 0.01  # and up to so much later: at any point of a round
OVERDUE_S = 30.0  # a text that stands still for longer is lost
UNDER_ONE_EDGE = 10  # texts that a kill meets at once

clock = time.perf_counter


@dataclass(frozen=True, slots=True)
class Stall:
    """What one fault did to one text."""

    total_s: float
    detect_s: float  # to the device's knowing that its stream is gone
    wait_s: float  # then to the start of the attempt that led back: jitter, attempts elsewhere
    connect_s: float  # then to a connection that stands, to an edge that has described itself
    commit_s: float  # then to text: open, replay, queue, pass
    right: bool  # the text is the stub's own


class _Traced(Reattachment):
    """The rules of re-attaching, and when what of them was used."""

    def __init__(self, edges: Sequence[str], give_up_s: float, uniform: Callable[[], float]) -> None:
        super().__init__(edges, give_up_s, uniform)
        self.failures: list[float] = []
        self.starts: list[tuple[str, float]] = []

    def failed(self, edge: str, error: SpecError, now: float) -> None:
        self.failures.append(now)
        super().failed(edge, error, now)

    def started(self, edge: str, now: float, round_trip_s: float | None) -> None:
        self.starts.append((edge, now))
        super().started(edge, now, round_trip_s)


class _Diary:
    """Tells nobody what a text waits for, and keeps nothing of it but when an edge that had described itself got it."""

    def __init__(self) -> None:
        self.attachments: list[float] = []

    def attaching(self, epoch: int) -> None:
        """Note when."""
        self.attachments.append(clock())

    def committed(self, base: int, ids: Sequence[int], receipt: bytes, stop: StopReason | None) -> None:
        """Keep nothing."""

    def waiting(self, reason: str) -> None:
        """Say nothing."""

    def back(self, edge: str, after_s: float) -> None:
        """Say nothing."""


class _Device:
    """One text with its device; ``write`` it, and make a fault once it is ``under_way``."""

    def __init__(self, edges: Sequence[str], chance: Random) -> None:
        prompt = [chance.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)]
        self._text = stub_text(prompt, TEXT_TOKENS)
        self._edges = _Traced(edges, DeviceSettings().reconnect_seconds, chance.random)
        self._diary = _Diary()
        self._roaming = Roaming(self._edges, self._diary, connect_s=DeviceSettings().connect_seconds, clock=clock)
        self._session = DeviceSession(
            secrets.token_bytes(16),
            DESCRIPTION.identity,
            prompt,
            sampling=Sampling(),
            stop_ids=DESCRIPTION.stop_ids,
            max_tokens=TEXT_TOKENS,
            limits=DESCRIPTION.limits,
            plan=Plan(DRAFT_LENGTH),
        )
        self._drafter = ScriptedDrafter([*prompt, *self._text], ERROR_EVERY)
        self._until_fault = chance.randint(*FAULT_COMMITS)
        self._commits: list[float] = []
        self.under_way = asyncio.Event()

    def committed(self, event: Committed) -> None:
        """Take text: this is where a user would see it."""
        self._roaming.held()
        if event.ids:
            self._commits.append(clock())
        if len(self._commits) == self._until_fault:
            self.under_way.set()

    def drafted(self, ahead: Sequence[int]) -> None:
        """Show nothing."""

    async def write(self) -> None:
        """Let the text be written to its end, over whatever edges and streams it takes."""
        with Generation(
            self._session, self._drafter, self, self._diary, may_leave=self._roaming.may_leave, clock=clock
        ) as generation:
            await self._roaming.run(generation, VOCABULARY, EdgeConnection(self._edges.edges[0]))

    def stall(self, since: float) -> Stall | None:
        """Return how the text got over a fault at ``since``; None where it had ended before."""
        attached = next((at for at in self._diary.attachments if at >= since), None)
        if attached is None:
            return None
        back = next(at for at in self._commits if at >= attached)  # what was read before and shown late does not count
        lost = max(since, self._edges.failures[0])
        last_at = max(at for at in self._diary.attachments if at <= back)
        edge = self._edges.current
        starts = (at for name, at in self._edges.starts if name == edge and lost <= at <= last_at)
        start = next(starts, lost)  # an attempt that was just beginning when an outage ended gets through
        right = list(self._session.ids[PROMPT_TOKENS:]) == self._text
        return Stall(back - since, lost - since, start - lost, last_at - start, back - last_at, right)


# ---- trials ----


@dataclass(frozen=True, slots=True)
class _Fault:
    """What happens to a link: ``first``, after a while ``then``, from which on the text should go on."""

    then: Callable[[Relay], None]
    first: Callable[[Relay], None] = lambda relay: None
    after_s: float = 0.0


def _lose_connections(relay: Relay) -> None:
    relay.black_hole()
    relay.restore()  # new connections pass, those of before never again


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    trials: int  # of each kind
    outage_s: float
    outages_at_once: int  # they wait for nothing most of the time


QUICK = Extent(trials=10, outage_s=5.0, outages_at_once=10)
BARS = Extent(trials=300, outage_s=30.0, outages_at_once=50)

AT_ONCE = 8
"""Texts under way at once: most of those over a black hole stand still, so that few share the edge's passes."""

EVERY_S = 0.25
"""At least so long from one text's beginning to the next one's; a text without a fault lasts half as long."""


class Trials:
    """Runs texts through faults, and keeps what came of each."""

    def __init__(self, extent: Extent) -> None:
        self.stalls: dict[str, list[Stall]] = {kind: [] for kind in KINDS}
        self.lost = 0
        self._extent = extent

    async def run(self, kind: str, survivor: str, other: str) -> None:
        """Try one kind of loss, with two edges that stay."""
        extent = self._extent
        match kind:
            case "warm":
                await self._staggered(kind, _Fault(Relay.cut), [survivor])
            case "killed":
                await self._killed(survivor)
            case "black_hole_same":
                await self._staggered(kind, _Fault(_lose_connections), [survivor])
            case "black_hole_other":
                await self._staggered(kind, _Fault(Relay.black_hole), [survivor, other])
            case "outage":
                outage = _Fault(Relay.restore, first=Relay.black_hole, after_s=extent.outage_s)
                await self._staggered(kind, outage, [survivor], extent.outages_at_once)

    async def _staggered(self, kind: str, fault: _Fault, edges: Sequence[str], at_once: int = AT_ONCE) -> None:
        """Begin text after text, so that each meets its fault at a time of its own."""
        free = asyncio.Semaphore(at_once)

        async def one(chance: Random) -> None:
            try:
                await self._alone(kind, fault, edges, chance)
            finally:
                free.release()

        async with asyncio.TaskGroup() as group:
            for number in range(self._extent.trials):
                await free.acquire()
                group.create_task(one(Random(f"{kind} {number}")))
                await asyncio.sleep(EVERY_S)

    async def _alone(self, kind: str, fault: _Fault, edges: Sequence[str], chance: Random) -> None:
        """Let one text meet a fault of the relay before its first edge; the others are reached directly."""
        host, _, port = edges[0].rpartition(":")
        async with Relay(host, int(port), random=chance) as relay:

            async def strike() -> float:
                fault.first(relay)
                await asyncio.sleep(fault.after_s)
                since = clock()
                fault.then(relay)
                return since

            await self._through(kind, [_Device([relay.address, *edges[1:]], chance)], strike, chance)

    async def _killed(self, survivor: str) -> None:
        """Kill edge after edge, each under some texts."""
        kind, count = "killed", self._extent.trials
        for first in range(0, count, UNDER_ONE_EDGE):
            chances = [Random(f"{kind} {number}") for number in range(first, min(first + UNDER_ONE_EDGE, count))]
            async with stub_edge() as victim:

                async def strike(victim: StubEdge = victim) -> float:
                    since = clock()
                    victim.process.kill()
                    return since

                devices = [_Device([victim.address, survivor], chance) for chance in chances]
                await self._through(kind, devices, strike, chances[0])

    async def _through(
        self, kind: str, devices: Sequence[_Device], strike: Callable[[], Awaitable[float]], chance: Random
    ) -> None:
        """Let the devices write, strike at any point of a round, and note what each came to."""
        writing = [asyncio.create_task(device.write()) for device in devices]
        since = float("inf")
        try:
            async with asyncio.timeout(OVERDUE_S):
                await asyncio.gather(*(device.under_way.wait() for device in devices))
            await asyncio.sleep(chance.uniform(0.0, ROUND_S))
            since = await strike()
            await asyncio.wait(writing, timeout=OVERDUE_S)
        except TimeoutError:
            print(f"{kind}: a text did not get under way", file=sys.stderr)
        finally:
            for task in writing:
                task.cancel()
            outcomes = await asyncio.gather(*writing, return_exceptions=True)
        for device, outcome in zip(devices, outcomes, strict=True):
            self._note(kind, device.stall(since) if outcome is None else outcome)

    def _note(self, kind: str, outcome: Stall | BaseException | None) -> None:
        if isinstance(outcome, Stall):
            self.stalls[kind].append(outcome)
        elif outcome is not None:  # a text that had ended before its fault says nothing
            self.lost += 1
            print(f"{kind}: a text was lost: {outcome!r}", file=sys.stderr)


async def measure(extent: Extent) -> Trials:
    """Try every kind of loss. Raises EdgeFailed."""
    trials = Trials(extent)
    async with stub_edge() as survivor, stub_edge() as other:
        for kind in KINDS:
            await trials.run(kind, survivor.address, other.address)
    return trials


# ---- figures ----


def p99(values: np.ndarray[Any, Any]) -> float:
    """Return the 99th percentile."""
    return float(np.percentile(values, 99))


def figures(trials: Trials) -> Result:
    """Return the figures: of the two ways out of a black hole the worse one is the bar's."""
    result = Result("resume")
    for kind, stalls in trials.stalls.items():
        factor, unit = (1000.0, "ms") if kind == "warm" else (1.0, "s")
        seconds = [stall.total_s * factor for stall in stalls]
        result.add_median(f"{kind}_median_{unit}", seconds)
        _add_p99(result, f"{kind}_p99_{unit}", seconds)
    worse = max(("black_hole_same_p99_s", "black_hole_other_p99_s"), key=lambda name: result.figures[name])
    result.figures["black_hole_p99_s"] = result.figures[worse]
    result.samples["black_hole_p99_s"] = result.samples[worse]
    result.spread["black_hole_p99_s"] = result.spread[worse]
    result.figures["mismatches"] = sum(not stall.right for stalls in trials.stalls.values() for stall in stalls)
    result.figures["lost"] = trials.lost
    return result


def _add_p99(result: Result, name: str, values: Sequence[float]) -> None:
    result.figures[name] = round(p99(np.asarray(values)), 6)
    result.samples[name] = len(values)
    low, high = interval_95(values, p99)
    result.spread[name] = round(low, 6), round(high, 6)


def _table(trials: Trials) -> None:
    """Print milliseconds: the whole stall, then the median and the 99th percentile of each of its parts."""
    parts = [field.name for field in dataclasses.fields(Stall) if field.name not in ("total_s", "right")]
    heads = ["median", "p95", "p99", "max", *(f"{part.removesuffix('_s')} 50/99" for part in parts)]
    print(f"{'ms':<18}{'texts':>6}" + "".join(f"{head:>15}" for head in heads))
    for kind, stalls in trials.stalls.items():
        total = [stall.total_s * 1000 for stall in stalls]
        cells = [f"{value:.0f}" for value in np.percentile(total, [50, 95, 99, 100])]
        for part in parts:
            middle, high = np.percentile([getattr(stall, part) * 1000 for stall in stalls], [50, 99])
            cells.append(f"{middle:.0f} / {high:.0f}")
        print(f"{kind:<18}{len(stalls):>6}" + "".join(f"{cell:>15}" for cell in cells))


def run(*, quick: bool) -> Result:
    """Measure; print where the time goes; return the figures."""
    pin(1)
    trials = asyncio.run(measure(QUICK if quick else BARS))
    _table(trials)
    return figures(trials)
