"""Adaptive devices and fixed settings on replayed traces: real processes over the emulated link, at a stated pace.

A *passage* is one device's life on a trace: text after text, each meeting the trace a few seconds after the one before,
word problems in turn greedy and at temperature 1. Every contestant makes the same passages: same prompts, seeds, misses
of the drafter and moments of the trace. What an adaptive device has learnt goes with it from text to text, whichever
lane writes the next one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from airdraft.core.types import Sampling
from airdraft.link.sim_text import MatchRun
from bench.adapt_sim import FixedSetting
from bench.cells import Link, Models
from bench.prompts import held_out
from bench.radio_cells import Extent, edge_draft
from bench.radio_gate import Gate
from bench.radio_lane import Errand, Lane
from bench.radio_text import MAX_TOKENS, Text, TextOrder
from bench.schedules import SCHEDULES

ADAPTIVE = "adaptive"
EDGE_ALONE = FixedSetting("edge")
ADAPTIVE_EDGE = "ahead+demo:8+adapts"
"""What the edge of an adaptive device does beside verifying: everything that it can, and by its own estimates."""

OBJECTIVE = "latency"
TEMPERATURES = (0.0, 1.0)
"""Texts of a passage take turns: the same prompt by each."""

LANES_A_CORE: dict[Extent, int] = {"quick": 1, "bars": 4, "full": 4}
MOST_LATE_S = 0.003
"""The p99 of the pacing error, above which a lane closes: twice that of the radio bench. Contestants take turns, so
that what is late is late for all of them alike; and a text whose own pace did not hold is written again here too."""

TELL_S = 30.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is written."""

    prompts: int  # of a passage; as many texts by each temperature
    repeats: int  # of each text: passages of a contestant on a trace
    budget_s: float  # what is not written by then is left out

    @property
    def texts(self) -> int:
        """Return the texts of a passage."""
        return self.prompts * len(TEMPERATURES)


@dataclass(frozen=True, slots=True)
class Place:
    """One text of a passage."""

    repeat: int
    number: int  # of the prompt
    temperature: float
    moment: int  # of the trace's course

    @property
    def seed(self) -> int:
        """Return the seed by which the text is chosen: of the prompt, the same in every repeat."""
        return self.number if self.temperature else 0


def places(size: Size) -> list[Place]:
    """Return all texts of a contestant on a trace, in the order of the trace's course."""
    texts = [
        (repeat, number, degree)
        for repeat in range(size.repeats)
        for number in range(size.prompts)
        for degree in TEMPERATURES
    ]
    return [Place(*text, moment) for moment, text in enumerate(texts)]


@dataclass(slots=True)
class Outcome:
    """What one contestant came to on one trace."""

    trace: str
    setting: FixedSetting | None  # None: the device plans
    texts: dict[Place, Text] = field(default_factory=dict)

    @property
    def contestant(self) -> str:
        """Return who it is, in words."""
        return ADAPTIVE if self.setting is None else str(self.setting)

    @property
    def edge(self) -> str:
        """Return what its edge does beside verifying, as ``bench.paced_edge`` is told it."""
        return ADAPTIVE_EDGE if self.setting is None else edge_draft(self.setting.cell(Link()))

    def errand(self, place: Place, prompt: str, memory: str) -> Errand:
        """Return what a lane is asked for one of its texts; ``memory`` is what the text before left."""
        models = Models()
        order = TextOrder(
            "", prompt, "demo", draft_s=models.draft_s, temperature=place.temperature, seed=place.seed, memory=memory
        )
        if self.setting is None:
            order = replace(order, objective=OBJECTIVE)
        else:
            schedule = SCHEDULES[self.setting.schedule]
            plan = schedule.plan(self.setting.draft_length, self.setting.frame_tokens)
            order = replace(order, plan=plan, drafter="demo" if schedule.device_drafts else "none")
        return Errand(self.edge, Link(channel=self.trace), place.moment, order)


@dataclass(slots=True)
class Passage:
    """What is left of one device's life, and what it knows."""

    outcome: Outcome
    left: list[Place]
    written: int = 0
    memory: str = ""
    at_work: bool = False

    @property
    def due(self) -> tuple[int, int]:
        """Return when its next text's turn is: all contestants meet the same places at about the same time.

        Where time is up before all is written, passages are shorter, not fewer.
        """
        return self.written, self.left[0].repeat


class Work:
    """Texts to be written: of passages that no lane is at the next text of the one that is furthest behind."""

    def __init__(self, outcomes: Sequence[Outcome], size: Size, until_s: float) -> None:
        """Hand texts out until ``until_s`` by ``time.monotonic``."""
        self.total = len(outcomes) * size.repeats * size.texts
        self.done = 0
        self._until_s = until_s
        self._passages = list(_passages(outcomes, size))

    def next(self) -> Passage | None:
        """Return the passage whose next text is to be written, or None where there is none to write now."""
        idle = [passage for passage in self._passages if passage.left and not passage.at_work]
        if not idle or time.monotonic() > self._until_s:
            return None
        passage = min(idle, key=lambda one: one.due)
        passage.at_work = True
        return passage

    def written(self, passage: Passage, text: Text) -> None:
        """Take the text that was due."""
        passage.outcome.texts[passage.left.pop(0)] = text
        passage.memory, text.memory = text.memory, ""
        passage.at_work = False
        passage.written += 1
        self.done += 1


def _passages(outcomes: Sequence[Outcome], size: Size) -> Iterator[Passage]:
    for repeat in range(size.repeats):
        for outcome in outcomes:
            yield Passage(outcome, [place for place in places(size) if place.repeat == repeat])


def matched_runs(size: Size) -> dict[Place, MatchRun]:
    """Return what the target writes at every place, and where the drafter would have been right."""
    from bench.match_runs import Pair

    pair, prompts = Pair(), held_out(size.prompts)
    known: dict[tuple[int, float], MatchRun] = {}
    for place in places(size):
        if (place.number, place.temperature) not in known:
            sampling = Sampling(temperature=place.temperature, seed=place.seed)
            known[place.number, place.temperature] = pair.run(prompts[place.number], sampling, MAX_TOKENS)
    return {place: known[place.number, place.temperature] for place in places(size)}


# ---- on lanes ----


def say(message: str) -> None:
    """Tell whoever waits for the bench."""
    print(f"adapt: {message}", file=sys.stderr, flush=True)


async def _carry(lane: Lane, work: Work, gate: Gate, prompts: Sequence[str]) -> None:
    """Let a lane write until all is written."""
    while True:
        await gate.admitted(lane.number)
        passage = work.next()
        if passage is None:
            await gate.open_all()
            return
        place = passage.left[0]
        text = await lane.run(passage.outcome.errand(place, prompts[place.number], passage.memory))
        gate.late([*text.draft_late_s, *text.pass_late_s])
        work.written(passage, text)


async def _tell(work: Work, gate: Gate) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        busy = gate.busy_shares[-1] if gate.busy_shares else 0.0
        say(f"{work.done} of {work.total} texts; {gate.open_lanes} lanes; the machine is {busy:.0%} busy")


async def _started(lane: Lane, prompt: str, room: asyncio.Semaphore) -> None:
    """Start a lane and write texts that count nowhere: models are loaded. Two processes load on two cores at a time.

    All edges of a lane have one target and one drafter, so that two of them are enough.
    """
    async with room:
        await lane.__aenter__()
        for setting in (None, EDGE_ALONE):
            errand = Outcome("", setting).errand(Place(0, 0, 0.0, 0), prompt, "")
            await lane.run(replace(errand, link=Link()))


async def write(outcomes: Sequence[Outcome], size: Size, extent: Extent) -> Gate:
    """Let every contestant make its passages; return how many lanes ran beside one another, and how busy it was."""
    *prompts, warm_up = held_out(size.prompts + 1)
    cores = len(os.sched_getaffinity(0))
    gate = Gate(LANES_A_CORE[extent] * cores, first=2 * cores, most_late_s=MOST_LATE_S)
    edges = list(dict.fromkeys(["none", ADAPTIVE_EDGE, *(outcome.edge for outcome in outcomes)]))
    async with AsyncExitStack() as stack:
        lanes = [Lane(number, edges) for number in range(gate.lanes)]
        room = asyncio.Semaphore(cores)
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                stack.push_async_exit(lane)
                group.create_task(_started(lane, warm_up, room))
        say(f"{gate.lanes} lanes are up")
        gate.start()
        work = Work(outcomes, size, time.monotonic() + size.budget_s)
        beside = [asyncio.create_task(gate.watch()), asyncio.create_task(_tell(work, gate))]
        try:
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(_carry(lane, work, gate, prompts))
        finally:
            for task in beside:
                task.cancel()
    return gate
