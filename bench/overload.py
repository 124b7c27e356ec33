"""More devices than an edge has places for: what those it admits notice of the others, and whether anybody starves.

The real service over gRPC, its queue to an engine's process that keeps a stated pace, and devices whose drafter and
link are timers (``bench.capacity_devices``). Each writes one text after the other. Who is told to come back later does
so when told to, with the same session. First as many devices as there are places, then twice as many; and, by how
many devices share the edge, how much of the text is written ahead of them and how long the drafts are that it verifies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np

from airdraft.core.errors import Overloaded
from airdraft.core.session import DeviceSession
from airdraft.core.types import Origin, Plan
from airdraft.link.sim_text import MatchRun
from airdraft.wire.client import EdgeConnection
from bench.capacity import ACCEPTANCE, RuleDrafter, passes_of
from bench.capacity_devices import Pace, TimedDevice
from bench.capacity_engine import VOCABULARY, written
from bench.capacity_sim import DRAFT_S
from bench.connections import connections
from bench.engine_devices import greedy_session
from bench.engine_paced import SHARED, STEEP, PacedPass
from bench.engine_paced_edge import paced_edge
from bench.engine_texts import OTHER_CORE, on_core
from bench.figures import Result
from coordinator.policy.costs import PassCost

ONE_WAY_S = 0.015
TOKENS = 48
"""Of a text."""

PLACES = 32
LOADS = (1, 4, 16, 32, 64)
FRAME_TOKENS = 4
"""One process can take the frames of 64 devices if each carries so many tokens."""

LINES = {"": SHARED, "steep_": STEEP}
"""Engines by the cost of a position: next to nothing beside the fixed part, and a sixth of it."""


@dataclass(frozen=True, slots=True)
class Size:
    """Seconds; what happens while devices are still beginning is left out."""

    load_s: float
    full_s: float
    overload_s: float
    begin_s: float
    places: int
    loads: dict[str, tuple[int, ...]]  # by line


QUICK = Size(2.0, 4.0, 6.0, 1.0, 8, {"": (1, 8)})
BARS = Size(6.0, 20.0, 30.0, 3.0, PLACES, {"": LOADS, "steep_": LOADS[:3]})


@dataclass(slots=True)
class Text:
    """One text and the way to it; times are the loop's, 0 where it did not come so far."""

    device: int
    wanted_s: float
    refusals: int = 0
    admitted_s: float = 0.0  # when the attempt began that was not refused
    ended_s: float = 0.0
    session: DeviceSession | None = None

    @property
    def token_s(self) -> float:
        """Return the seconds a token, from the attempt that was admitted."""
        return (self.ended_s - self.admitted_s) / TOKENS


@dataclass(slots=True)
class Fleet:
    """Devices that write one text after the other at one edge."""

    address: str
    devices: int
    seconds: float
    chance: Random
    texts: list[Text] = field(default_factory=list)

    async def write(self) -> float:
        """Write for as long as stated; return when that began.

        Texts that were begun are ended, and nobody waits for a place any longer.
        """
        async with connections(self.address, self.devices) as over:
            description = await over[0].describe()
            began_s = asyncio.get_running_loop().time()
            until_s = began_s + self.seconds
            async with asyncio.TaskGroup() as group:
                for device in range(self.devices):
                    run, start_s = self._run(), self.chance.random() * 0.5
                    connection = over[device % len(over)]
                    group.create_task(self._device(device, connection, description.vocabulary, run, start_s, until_s))
            return began_s

    async def _device(
        self, device: int, connection: EdgeConnection, vocabulary: int, run: MatchRun, start_s: float, until_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        pace, description = Pace(DRAFT_S, ONE_WAY_S, Plan(FRAME_TOKENS, 64)), await connection.describe()
        await asyncio.sleep(start_s)
        while loop.time() < until_s:
            text = Text(device, loop.time())
            self.texts.append(text)
            session = greedy_session(run.prompt, description, TOKENS, pace.plan)
            while loop.time() < until_s:
                began_s = loop.time()
                try:
                    heard = await TimedDevice(session, RuleDrafter(run), pace).write(connection.generate(vocabulary))
                except Overloaded as error:
                    text.refusals += 1
                    await asyncio.sleep(error.retry_after_s)
                    continue
                if tuple(heard.ids) != run.ids:
                    raise RuntimeError("a text is not the target's own")
                text.admitted_s, text.ended_s, text.session = began_s, heard.arrivals_s[-1], session
                break

    def _run(self) -> MatchRun:
        """Return a device's text, each token matched with the stated chance."""
        prompt = (self.chance.randrange(VOCABULARY),)
        matched = tuple(self.chance.random() < ACCEPTANCE for _ in range(TOKENS))
        return MatchRun(written(prompt, TOKENS), matched, prompt)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was wanted from when all devices had begun until none began anew."""

    texts: Sequence[Text]
    since_s: float
    until_s: float

    @property
    def token_s(self) -> list[float]:
        """Return the seconds a token of each text that came."""
        return [text.token_s for text in self.texts if text.ended_s]

    @property
    def waits_s(self) -> list[float]:
        """Return how long each text waited for a place, those that got none included."""
        return [(text.admitted_s or self.until_s) - text.wanted_s for text in self.texts]

    @property
    def texts_per_s(self) -> float:
        """Return the rate at which texts ended."""
        return sum(0 < text.ended_s <= self.until_s for text in self.texts) / (self.until_s - self.since_s)


def measured(address: str, devices: int, seconds: float, begin_s: float) -> Stretch:
    """Let a fleet write; return what became of the texts that were wanted ``begin_s`` after the first or later."""
    fleet = Fleet(address, devices, seconds, Random(devices))
    began_s = asyncio.run(fleet.write())
    since_s = began_s + begin_s
    return Stretch([text for text in fleet.texts if text.wanted_s >= since_s], since_s, began_s + seconds)


# ---- figures ----


def add_load(result: Result, name: str, texts: Sequence[Text], passes: Sequence[PacedPass]) -> None:
    """Add what so many devices' text is made of, and what their passes verified."""
    sessions = [text.session for text in texts if text.session is not None]
    tokens = sum(session.tally.committed for session in sessions)
    ahead = sum(session.tally.by_origin[Origin.RUN_AHEAD] for session in sessions)
    joined, positions = sum(one.sessions for one in passes), sum(one.positions for one in passes)
    prices = [session.quote.edge_second_price for session in sessions if session.quote is not None]
    figures = {
        "ahead_share": ahead / tokens,
        "draft_width": (positions - joined) / joined,
        "price": float(np.mean(prices)),
        "token_ms": float(np.mean([text.token_s for text in texts if text.ended_s])) * 1e3,
    }
    for part, value in figures.items():
        result.figures[f"overload_{part}_{name}"] = round(value, 4)
        result.samples[f"overload_{part}_{name}"] = tokens


def add_overload(result: Result, full: Stretch, over: Stretch, devices: int) -> None:
    """Add what those that are admitted at twice the load lose, and how long the others wait."""
    full_s, over_s = (float(np.percentile(stretch.token_s, 95)) for stretch in (full, over))
    counts = [sum(text.device == device for text in over.texts if text.ended_s) for device in range(devices)]
    mean_wait_s = float(np.mean(over.waits_s))
    figures = {
        "p95_over_full": over_s / full_s,
        "p95_ms_full": full_s * 1e3,
        "p95_ms_twice": over_s * 1e3,
        "starved": counts.count(0),
        "least_texts_over_mean": min(counts) / float(np.mean(counts)),
        "longest_wait_over_mean": max(over.waits_s) / mean_wait_s,
        "mean_wait_s": mean_wait_s,
        "refusals_a_text": float(np.mean([text.refusals for text in over.texts if text.ended_s])),
        "texts_over_full": over.texts_per_s / full.texts_per_s,
    }
    for part, value in figures.items():
        result.figures[f"overload_{part}"] = round(value, 4)
        result.samples[f"overload_{part}"] = len(over.token_s)
    result.spread["overload_p95_over_full"] = _ratio_of_p95(over.token_s, full.token_s)


def _ratio_of_p95(above: Sequence[float], below: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the ratio; the seed is fixed."""
    chance, ratios = np.random.default_rng(0), []
    for _ in range(resamples):
        drawn = [np.percentile(chance.choice(values, len(values)), 95) for values in (above, below)]
        ratios.append(drawn[0] / drawn[1])
    low, high = np.percentile(ratios, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


# ---- all of it ----


def _loads(result: Result, size: Size, kind: str, line: PassCost) -> None:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "passes.log"
        with (
            paced_edge(Path(folder), log, line, "bench.capacity_engine", ahead="speed") as address,
            on_core(OTHER_CORE),
        ):
            for devices in size.loads[kind]:
                before = len(passes_of(log))
                written = measured(address, devices, size.load_s, 0.0)
                add_load(result, f"{kind}{devices}", written.texts, passes_of(log)[before:])


def _overload(result: Result, size: Size) -> None:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "passes.log"
        with (
            paced_edge(
                Path(folder), log, SHARED, "bench.capacity_engine", ahead="speed", sessions=size.places
            ) as address,
            on_core(OTHER_CORE),
        ):
            full = measured(address, size.places, size.full_s, size.begin_s)
            over = measured(address, 2 * size.places, size.overload_s, size.begin_s)
            add_overload(result, full, over, 2 * size.places)


def run(*, quick: bool) -> Result:
    """Measure, in some two and a half minutes, or with ``quick`` in half a minute; print the figures; return them."""
    result, size = Result("overload"), QUICK if quick else BARS
    _overload(result, size)
    for kind in size.loads:
        _loads(result, size, kind, LINES[kind])
    for name, value in result.figures.items():
        print(f"{name:<48} {value:10.4g}")
    return result
