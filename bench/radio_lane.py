"""One lane of the radio bench: an edge process, a device process, and for each text a relay between them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from types import TracebackType
from typing import Self

from airdraft.link.relay import Relay
from bench.cells import Cell, Link
from bench.figures import REPOSITORY
from bench.processes import ONE_THREAD, EdgeFailed
from bench.radio_cells import edge_draft
from bench.radio_link import shapes
from bench.radio_text import Matches, MatchOrder, Text, TextOrder, matches_of, order_line, text_of
from bench.schedules import SCHEDULES

START_S = 180.0
TEXT_S = 120.0
MOST_RUNS = 3
"""How often a text is written at most, until its pace has held."""

PACE_SHARE = 0.02
"""Of a text's seconds, that paced steps together may end late by."""

LINE_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Errand:
    """One text to be written by a lane: at which of its edges, over which link from which moment on, and what."""

    edge: str  # what it does beside verifying, as ``bench.paced_edge`` is told it
    link: Link
    moment: int  # of the link's course, as ``bench.radio_link.shapes`` counts them
    order: TextOrder  # its edge is the lane's to fill in


class Lane:
    """Writes one text at a time; use it as a context."""

    def __init__(self, number: int, drafts: Sequence[str], *, native: bool = False) -> None:
        """Let edges draft as ``drafts`` says; edge and device keep to a core each, where there are several."""
        self.number = number
        self._drafts, self._native = drafts, native
        self._edge: Process | None = None
        self._device: Process | None = None
        self._edges: dict[str, tuple[str, int]] = {}  # by draft

    async def __aenter__(self) -> Self:
        arguments = [word for draft in self._drafts for word in ("--edge-draft", draft)]
        arguments += ["--native"] if self._native else []
        try:
            async with asyncio.timeout(START_S):
                self._edge = await _start("bench.paced_edge", self.number, *arguments)
                while (words := (await _answer(self._edge)).split()) != ["ready"]:
                    host, _, port = words[2].partition(":")
                    self._edges[words[1]] = host, int(port)
                met = "{}:{}".format(*self._edges["none"])
                self._device = await _start("bench.paced_device", self.number + 1, met)
                await _answer(self._device)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        for process in (self._device, self._edge):
            if process is None:
                continue
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def write(self, cell: Cell, number: int, prompt: str) -> Text:
        """Return the ``number``-th text of a cell."""
        return await self.run(Errand(edge_draft(cell), cell.link, number, _order(cell, number, prompt)))

    async def run(self, errand: Errand) -> Text:
        """Return a text; where its pace did not hold, written again, the best run of some."""
        best: Text | None = None
        for run in range(1, MOST_RUNS + 1):
            text = await self._run(errand)
            if best is None or late_share(text) < late_share(best):
                best = text
            best.runs = run
            if late_share(best) <= PACE_SHARE:
                break
        assert best is not None
        return best

    async def _run(self, errand: Errand) -> Text:
        assert self._edge is not None
        host, port = self._edges[errand.edge]
        up, down = shapes(errand.link, errand.moment)
        async with Relay(host, port, up=up, down=down, random=Random(errand.moment)) as relay:
            text = text_of(await self._order(replace(errand.order, edge=relay.address)))
            text.link_bytes = relay.carried_bytes
        done = json.loads(await _ask(self._edge, "\n"))
        text.pass_late_s, text.edge_s = done["late_s"], done["edge_s"]
        return text

    async def match(self, order: MatchOrder) -> Matches:
        """Return which tokens of a text a drafter would have drafted."""
        return matches_of(await self._order(order))

    async def _order(self, order: TextOrder | MatchOrder) -> str:
        assert self._device is not None
        async with asyncio.timeout(TEXT_S):
            return await _ask(self._device, order_line(order))


def late_share(text: Text) -> float:
    """Return by what share of its seconds a text's paced steps ended late."""
    return (sum(text.draft_late_s) + sum(text.pass_late_s)) / max(text.arrivals_s[-1], 1e-9)


def _order(cell: Cell, number: int, prompt: str) -> TextOrder:
    schedule, models = SCHEDULES[cell.schedule], cell.models
    return TextOrder(
        "",
        prompt,
        drafter=models.drafter if schedule.device_drafts else "none",
        plan=schedule.plan(cell.draft_length, cell.frame_tokens),
        draft_s=None if models.target is None else models.draft_s,
        temperature=models.temperature,
        seed=number if models.temperature else 0,
    )


async def _start(module: str, core: int, *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments, "--core", str(core)),
        stdin=PIPE,
        stdout=PIPE,
        limit=LINE_BYTES,
        env=os.environ | ONE_THREAD,
        cwd=REPOSITORY,
    )


async def _ask(process: Process, line: str) -> str:
    assert process.stdin is not None
    process.stdin.write(line.encode())
    return await _answer(process)


async def _answer(process: Process) -> str:
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    if not line:
        raise EdgeFailed("a process of the bench ended; its message stands above")
    return line
