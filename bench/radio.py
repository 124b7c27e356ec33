"""``python -m bench radio``: every schedule on the same axes, real processes over the emulated link, at a stated pace.

Cells are paired: a text's number names its prompt, its seed, the drafter's misses and the moment at which it meets the
link, in every schedule. Texts of all cells take turns on several lanes, each an edge process, a device process and a
relay between them; how many lanes are open follows the machine's load and the pacing error. A text whose pace did not
hold is written again. What is measured so is called *paced*. Native cells run alone, one at a time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench import page, relay_error
from bench.capacity import capacity
from bench.cells import Link
from bench.figures import Result
from bench.prompts import held_out
from bench.radio_cells import Extent, Wanted, edge_draft, edge_drafts, native, paced
from bench.radio_figures import add_relay_error, add_simulated, figures
from bench.radio_gate import Gate
from bench.radio_lane import Lane
from bench.radio_least import add_least
from bench.radio_outcome import Outcome
from bench.radio_report import report_of

LANES_A_CORE: dict[Extent, int] = {"quick": 1, "bars": 5, "full": 5}
BUDGET_S: dict[Extent, float] = {"quick": 30.0, "bars": 840.0, "full": float("inf")}
"""Seconds of writing paced texts; what is not written by then is left out, the same numbers of every cell."""

TELL_S = 30.0


@dataclass(slots=True)
class Work:
    """Texts to write, cell by cell in turn, number after number; lanes take the next one."""

    outcomes: list[Outcome]
    prompts: list[str]
    until_s: float  # by time.monotonic()
    total: int = 0
    done: int = 0
    _left: Iterator[tuple[Outcome, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(outcome.wanted.texts for outcome in self.outcomes)
        self._left = self._order()

    def _order(self) -> Iterator[tuple[Outcome, int]]:
        for number in range(max((outcome.wanted.texts for outcome in self.outcomes), default=0)):
            if time.monotonic() > self.until_s:
                return
            for outcome in self.outcomes:
                if number < outcome.wanted.texts:
                    yield outcome, number

    def next(self) -> tuple[Outcome, int] | None:
        """Return the next text to write, or None where there is none."""
        return next(self._left, None)


async def _carry(lane: Lane, work: Work, gate: Gate) -> None:
    """Let a lane write until all is written."""
    while True:
        await gate.admitted(lane.number)
        item = work.next()
        if item is None:
            await gate.open_all()
            return
        outcome, number = item
        text = await lane.write(outcome.wanted.cell, number, work.prompts[number])
        gate.late([*text.draft_late_s, *text.pass_late_s])
        outcome.texts[number] = text
        work.done += 1


async def _tell(work: Work, gate: Gate) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        busy = gate.busy_shares[-1] if gate.busy_shares else 0.0
        _say(f"{work.done} of {work.total} texts; {gate.open_lanes} lanes; the machine is {busy:.0%} busy")


def _say(message: str) -> None:
    print(f"radio: {message}", file=sys.stderr, flush=True)


async def _warm_up(lane: Lane, wanted: Sequence[Wanted], prompt: str) -> None:
    """Write a text with each edge and each drafter, that counts nowhere: models are loaded, caches filled."""
    cells = {(edge_draft(entry.cell), entry.cell.models.drafter): entry.cell for entry in wanted}
    for cell in cells.values():
        await lane.write(replace(cell, link=Link()), 0, prompt)


async def _started(lane: Lane, wanted: Sequence[Wanted], prompt: str, room: asyncio.Semaphore) -> None:
    """Start a lane; two processes load on two cores at a time."""
    async with room:
        await lane.__aenter__()
        await _warm_up(lane, wanted, prompt)


async def _match(lane: Lane, outcomes: Sequence[Outcome], prompts: Sequence[str]) -> None:
    """Fill in where each cell's drafter would have been right; cells with the same texts and drafter share it."""
    known: dict[object, object] = {}
    for outcome in outcomes:
        for number in outcome.numbers:
            order = outcome.match_order(number, prompts[number])
            if order not in known:
                known[order] = await lane.match(order)
            outcome.matches[number] = known[order]  # type: ignore[assignment]


async def _paced(extent: Extent) -> tuple[list[Outcome], Gate]:
    wanted = paced(extent)
    outcomes = [Outcome(entry) for entry in wanted]
    *prompts, warm_up = held_out(max(entry.texts for entry in wanted) + 1)
    cores = len(os.sched_getaffinity(0))
    gate = Gate(LANES_A_CORE[extent] * cores, first=2 * cores)
    async with AsyncExitStack() as stack:
        lanes = [Lane(number, edge_drafts(wanted)) for number in range(gate.lanes)]
        room = asyncio.Semaphore(cores)
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                stack.push_async_exit(lane)
                group.create_task(_started(lane, wanted, warm_up, room))
        _say(f"{gate.lanes} lanes are up")
        gate.start()
        work = Work(outcomes, prompts, time.monotonic() + BUDGET_S[extent])
        beside = [asyncio.create_task(gate.watch()), asyncio.create_task(_tell(work, gate))]
        try:
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(_carry(lane, work, gate))
        finally:
            for task in beside:
                task.cancel()
        await _match(lanes[0], outcomes, prompts)
    return outcomes, gate


async def _native(wanted: Sequence[Wanted]) -> list[Outcome]:
    """Measure cells one at a time, edge and device on a core each, nothing beside them."""
    if not wanted:
        return []
    outcomes = [Outcome(entry) for entry in wanted]
    *prompts, warm_up = held_out(max(entry.texts for entry in wanted) + 1)
    async with Lane(0, edge_drafts(wanted), native=True) as lane:
        await _warm_up(lane, wanted, warm_up)
        for outcome in outcomes:
            for number in range(outcome.wanted.texts):
                outcome.texts[number] = await lane.write(outcome.wanted.cell, number, prompts[number])
    return outcomes


def run(extent: Extent, out: Path = Path("bench/out")) -> Result:
    """Measure the cells of an extent; draw them and write the page in ``out``; return the figures."""
    began_s = time.monotonic()
    relay = relay_error.run(quick=True) if extent != "quick" else None
    outcomes, gate = asyncio.run(_paced(extent))
    own_pace = asyncio.run(_native(native(extent)))
    result = figures(outcomes, own_pace)
    simulated = add_simulated(result, outcomes)
    if extent != "quick":
        add_least(result, outcomes)
    if extent != "quick":
        capacity(result, quick=False)
    if relay is not None:
        add_relay_error(result, relay)
    result.figures["machine_busy_share_mean"] = round(float(np.mean(gate.busy_shares or [0.0])), 6)
    result.figures["lanes_mean"] = round(float(np.mean(gate.lane_counts or [1])), 6)
    result.figures["bench_s"] = round(time.monotonic() - began_s, 1)
    out.mkdir(parents=True, exist_ok=True)
    report = report_of(extent, result, outcomes, own_pace, simulated)
    report.write(out)
    for path in page.write(report, out):
        _say(f"wrote {path}")
    _print(result, simulated)
    return result


def _print(result: Result, simulated: dict[str, tuple[float, float]]) -> None:
    for name, value in result.figures.items():
        low, high = result.spread.get(name, (float("nan"),) * 2)
        interval = "" if low != low else f"   {low:.4g} to {high:.4g}"
        print(f"{name:<50} {value:10.4g}{interval}")
    for name, (real, made) in simulated.items():
        print(f"{name:<32} {real * 1e3:8.2f} ms a token, simulated {made * 1e3:8.2f}, {made / real - 1:+.1%}")


if __name__ == "__main__":
    chosen: Extent = "full" if "--full" in sys.argv else "bars" if "--bars" in sys.argv else "quick"
    print(run(chosen).as_line(extent=chosen))
