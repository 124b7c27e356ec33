"""Latency of semantic schedules: real processes over the emulated link, at a stated pace, texts paired by their number.

Lanes, pace and gate are those of ``bench radio``. Exact texts are the same under every schedule; semantic ones need
not be, since a draft that comes in time may keep its wording where a late one does not. So rates are compared, text by
text, and whether answers are right is counted beside them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from airdraft.core.types import Plan
from airdraft.link.timeline import MBIT_S
from bench.cells import PASS, Link, Models
from bench.figures import Result, ratio_of_sums
from bench.radio_cells import Extent
from bench.radio_gate import Gate
from bench.radio_lane import Errand, Lane
from bench.radio_outcome import Estimate, rate_of, rate_over_rate
from bench.radio_text import Text, TextOrder
from bench.schedules import PIPELINED
from bench.semantic_contestants import MAX_LOSS
from bench.semantic_rounds import FIRST_PROBLEM
from bench.semantic_states import WIDE
from bench.semantic_work import TELL_S, say
from models.wordproblems import check_answer, word_problem

FIRST_TEXT = 90_000
"""Of the bench's problems: the paced texts are of others than the batched ones."""

TEXTS: dict[Extent, int] = {"quick": 1, "bars": 72, "full": 400}
BUDGET_S: dict[Extent, float] = {"quick": 20.0, "bars": 540.0, "full": float("inf")}
LANES_A_CORE: dict[Extent, int] = {"quick": 1, "bars": 4, "full": 4}
MOST_LATE_S = 0.003
"""The p99 of the pacing error, above which a lane closes: ways take turns, so that what is late is late for all."""

LINK_TRIP_S = 0.05
RATES_MBIT = (20, 2)
SYNC_LENGTH = 15
"""Of the comparison of uploads: states of 16 tokens at the paper's width would not fit a frame of 64 KiB."""

EXACT_LENGTH = 5
"""Of exact sync at 50 ms: the one that favours it by the models of DESIGN §3B."""

TRIPS_MS = (30, 60, 100, 300)
DRAFT_S = Models().draft_s


@dataclass(frozen=True, slots=True)
class Way:
    """One schedule with its way to judge: what its edge does, and how its device drafts."""

    label: str
    edge: str  # as ``bench.paced_edge`` is told it
    plan: Plan
    hidden: str = ""  # which states go up; empty: an exact session
    wide: bool = False
    held_back: bool = False  # the edge's own tokens are held back for a draft of them


PIPE = Plan(1, PIPELINED)
WAYS: dict[str, Way] = {
    "edge": Way("the edge alone", "none", Plan(0)),
    "exact_sync": Way("exact, synchronous", "none", Plan(EXACT_LENGTH)),
    "exact_run_ahead": Way("exact, the edge runs ahead", "ahead", PIPE),
    "full_hidden_sync": Way("full-hidden, synchronous", "meaning-wide", Plan(SYNC_LENGTH), "full-hidden", wide=True),
    "target_only_sync": Way("target-only, synchronous", "meaning", Plan(SYNC_LENGTH), "target-only"),
    "target_only_pipelined": Way("target-only, pipelined", "meaning", PIPE, "target-only"),
    "committing": Way("target-only, the edge commits ahead", "ahead+meaning", PIPE, "target-only"),
    "provisional": Way("target-only, provisional run-ahead", "ahead+meaning", PIPE, "target-only", held_back=True),
    "hybrid": Way("target-only, both draft", "ahead+meaning+demo:4", PIPE, "target-only"),
}
DEVICE_DRAFTS = ("target_only_pipelined", "committing", "provisional")
"""Semantic schedules in which the device alone drafts: of these the best is compared with the edge alone."""


@dataclass(slots=True)
class PacedCell:
    """A way over a link, with its texts by number."""

    way: str
    link: Link
    name: str  # of the link
    texts: dict[int, Text] = field(default_factory=dict)
    right: dict[int, bool] = field(default_factory=dict)

    def errand(self, number: int, prompt: str) -> Errand:
        """Return what a lane is asked for one of its texts."""
        way = WAYS[self.way]
        trip_s = self.link.round_trip_s
        plan = way.plan
        if way.held_back:  # a draft of the position is here by then: one round trip, a pass, some tokens of the drafter
            plan = replace(plan, provisional_s=trip_s + PASS.fixed_s + 4 * DRAFT_S)
        order = TextOrder("", prompt, "demo" if plan.draft_length else "none", plan, DRAFT_S)
        if way.hidden:
            up_bytes_s = self.link.up_bytes_s if self.link.up_bytes_s < float("inf") else 100 * MBIT_S
            order = replace(order, max_loss=MAX_LOSS, hidden=way.hidden, channel=(trip_s, up_bytes_s))
        if way.wide:
            order = replace(order, state_width=WIDE)
        return Errand(way.edge, self.link, number, order)

    @property
    def rate(self) -> Estimate:
        """Return tokens per second after the first commits."""
        texts = list(self.texts.values())
        return rate_of([text.timed_tokens for text in texts], [text.seconds for text in texts])


def cells(extent: Extent) -> list[PacedCell]:
    """Return the cells of an extent."""
    made = []
    for rate in RATES_MBIT:
        link = Link(LINK_TRIP_S, up_bytes_s=rate * MBIT_S, down_bytes_s=rate * MBIT_S)
        ways = ["full_hidden_sync", "target_only_sync"]
        if rate == RATES_MBIT[0]:
            ways += ["exact_sync", "target_only_pipelined"]
        made += [PacedCell(way, link, f"{rate}mbit") for way in ways]
    for trip in TRIPS_MS[:1] if extent == "quick" else TRIPS_MS:
        ways = ["edge", "committing", "provisional", "hybrid"]
        ways += ["exact_run_ahead", "target_only_pipelined"] if trip == TRIPS_MS[0] else []
        made += [PacedCell(way, Link(trip / 1e3), f"rtt{trip}") for way in ways]
    return made


@dataclass(slots=True)
class _Work:
    made: list[PacedCell]
    prompts: list[str]
    until_s: float
    handed: int = 0
    done: int = 0

    def next(self) -> tuple[PacedCell, int] | None:
        """Return the next text to write: number after number, all cells of one before the next."""
        number, at = divmod(self.handed, len(self.made))
        if number >= len(self.prompts) or (at == 0 and time.monotonic() > self.until_s):
            return None
        self.handed += 1
        return self.made[at], number


async def _carry(lane: Lane, work: _Work, gate: Gate) -> None:
    while True:
        await gate.admitted(lane.number)
        item = work.next()
        if item is None:
            await gate.open_all()
            return
        cell, number = item
        text = await lane.run(cell.errand(number, work.prompts[number]))
        gate.late([*text.draft_late_s, *text.pass_late_s])
        cell.texts[number] = text
        work.done += 1


async def _tell(work: _Work, gate: Gate) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        say(f"{work.done} of {len(work.made) * len(work.prompts)} paced texts; {gate.open_lanes} lanes")


async def _started(lane: Lane, made: Sequence[PacedCell], prompt: str, room: asyncio.Semaphore) -> None:
    async with room:
        await lane.__aenter__()
        warm = {cell.errand(0, prompt).edge: cell for cell in made}
        for cell in warm.values():
            await lane.run(replace(cell.errand(0, prompt), link=Link()))


async def write(extent: Extent) -> tuple[list[PacedCell], Gate]:
    """Write all texts of an extent; return the cells, and how many lanes wrote."""
    made, count = cells(extent), TEXTS[extent]
    problems = [word_problem("held-out", FIRST_PROBLEM + FIRST_TEXT + number) for number in range(count + 1)]
    prompts = [problem.prompt for problem in problems]
    cores = len(os.sched_getaffinity(0))
    gate = Gate(LANES_A_CORE[extent] * cores, first=2 * cores, most_late_s=MOST_LATE_S)
    edges = list(dict.fromkeys(["none", *(WAYS[cell.way].edge for cell in made)]))
    async with AsyncExitStack() as stack:
        lanes = [Lane(number, edges) for number in range(gate.lanes)]
        room = asyncio.Semaphore(cores)
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                stack.push_async_exit(lane)
                group.create_task(_started(lane, made, prompts[-1], room))
        say(f"{gate.lanes} lanes are up")
        gate.start()
        work = _Work(made, prompts[:-1], time.monotonic() + BUDGET_S[extent])
        beside = [asyncio.create_task(gate.watch()), asyncio.create_task(_tell(work, gate))]
        try:
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(_carry(lane, work, gate))
        finally:
            for task in beside:
                task.cancel()
    _check(made, [problem.answer for problem in problems])
    return made, gate


def _check(made: Sequence[PacedCell], answers: Sequence[int]) -> None:
    from tokenizers import Tokenizer

    from bench.semantic_states import demo_folder

    tokenizer = Tokenizer.from_file(str(demo_folder("target") / "tokenizer.json"))
    for cell in made:
        for number, text in cell.texts.items():
            cell.right[number] = check_answer(tokenizer.decode(text.ids)) == answers[number]


# ---- figures ----


def ratio(over: PacedCell, under: PacedCell) -> Estimate:
    """Return the rate of one cell over that of another, on the texts that both have; texts are drawn in pairs."""
    rows = [
        (mine.timed_tokens, mine.seconds, theirs.timed_tokens, theirs.seconds)
        for number, mine in sorted(over.texts.items())
        if (theirs := under.texts.get(number)) is not None
    ]
    return ratio_of_sums(rows, rate_over_rate)


def add(result: Result, made: Sequence[PacedCell], gate: Gate) -> None:
    """Add the figures of the paced cells."""
    at = {(cell.way, cell.name): cell for cell in made if cell.texts}
    for rate in RATES_MBIT:
        name = f"target_only_latency_cut_vs_full_hidden_{rate}mbit"
        _add_cut(result, name, at["full_hidden_sync", f"{rate}mbit"], at["target_only_sync", f"{rate}mbit"])
    fast = f"{RATES_MBIT[0]}mbit"
    _add_cut(
        result,
        "target_only_pipelined_latency_cut_vs_exact_sync",
        at["exact_sync", fast],
        at["target_only_pipelined", fast],
    )
    for trip in TRIPS_MS:
        name = f"rtt{trip}"
        if ("edge", name) not in at:
            continue
        found = {way: ratio(at[way, name], at["edge", name]) for way in WAYS if way != "edge" and (way, name) in at}
        texts = len(at["edge", name].texts)
        for way, estimate in found.items():
            _add(result, f"semantic_{way}_over_edge_{name}", estimate, texts)
        best = max((way for way in DEVICE_DRAFTS if way in found), key=lambda way: found[way][0])
        _add(result, f"semantic_over_edge_{name}", found[best], texts)
    for cell in at.values():
        _add(
            result,
            f"tokens_per_s_paced_{cell.way}_{cell.name}",
            cell.rate,
            sum(len(t.ids) for t in cell.texts.values()),
        )
    _add_instrument(result, list(at.values()), gate)


def _add_cut(result: Result, name: str, slow: PacedCell, fast: PacedCell) -> None:
    """Add which share of the time a token is saved."""
    value, low, high = ratio(slow, fast)  # rate over rate: time of the fast one over time of the slow one
    _add(result, name, (1 - value, 1 - high, 1 - low), len(slow.texts.keys() & fast.texts.keys()))


def _add(result: Result, name: str, estimate: Estimate, samples: int) -> None:
    result.figures[name] = round(estimate[0], 6)
    result.spread[name] = (round(estimate[1], 6), round(estimate[2], 6))
    result.samples[name] = samples


def _add_instrument(result: Result, made: Sequence[PacedCell], gate: Gate) -> None:
    exact: dict[int, list[int]] = {}
    differing = 0
    for cell in made:
        if not WAYS[cell.way].hidden:
            for number, text in cell.texts.items():
                differing += exact.setdefault(number, text.ids) != text.ids
    semantic = [cell for cell in made if WAYS[cell.way].hidden]
    right = [known for cell in semantic for known in cell.right.values()]
    late = [late for cell in made for text in cell.texts.values() for late in (*text.draft_late_s, *text.pass_late_s)]
    result.figures["paced_exact_texts_that_differ"] = differing
    result.figures["paced_semantic_accuracy_points"] = round(100 * float(np.mean(right)), 4)
    result.samples["paced_semantic_accuracy_points"] = len(right)
    result.figures["paced_sessions_not_granted"] = sum(
        not text.granted for cell in semantic for text in cell.texts.values()
    )
    result.figures["pace_error_ms_p99"] = round(float(np.percentile(late, 99)) * 1e3, 4)
    result.samples["pace_error_ms_p99"] = len(late)
    result.figures["machine_busy_share_mean"] = round(float(np.mean(gate.busy_shares or [0.0])), 6)
    result.figures["lanes_mean"] = round(float(np.mean(gate.lane_counts or [1])), 6)
