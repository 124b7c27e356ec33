"""Which cells the radio bench measures, and how much of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from airdraft.link.channels import CHANNELS
from airdraft.link.timeline import MBIT_S
from bench.cells import PASS, Cell, Link, Models
from bench.radio_link import usual
from bench.schedules import SCHEDULES

Extent = Literal["quick", "bars", "full"]

TEXTS = 145
"""Of a named figure: word problems have 28 tokens or so, which makes more than 4,000."""

DRAWN_TEXTS = 40
"""Of a cell that only a drawing needs."""

ROUND_TRIPS_MS = (0, 10, 30, 60, 100, 200, 300)
RATES = {"1 Mbit/s": MBIT_S, "50 kbit/s": 0.05 * MBIT_S}
JITTERS_MS = (10, 30)
ACCEPTANCES = ("noisy:0.3", "noisy:0.5", "noisy:0.8", "noisy:0.9")
NATIVE_LENGTH = 4  # at most, where the models' own pace is not known beforehand
DEMO = Models()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A cell, how many texts of it, and whether the simulator must reproduce it."""

    cell: Cell
    texts: int = TEXTS
    simulated: bool = False


def at(round_trip_ms: float, *, jitter_ms: float = 0.0, bytes_s: float = math.inf) -> Link:
    """Return a link of so many milliseconds, with one rate both ways."""
    return Link(round_trip_ms / 1e3, jitter_ms / 1e3, bytes_s, bytes_s)


def cell_of(schedule: str, link: Link, models: Models = DEMO) -> Cell:
    """Return a cell in which the schedule has the draft length that favours it most."""
    steady = Cell(schedule, 0, usual(link), replace(models, target=models.target or PASS))
    length = SCHEDULES[schedule].best_length(steady.cost)
    return Cell(schedule, length if models.target else min(length, NATIVE_LENGTH), link, models)


def name_of(cell: Cell) -> str:
    """Return a cell's name, fit for a figure: schedule, models where they are not the demo pair's, link."""
    link, models = cell.link, cell.models
    parts = [cell.schedule.replace("-", "_")]
    parts += [] if models.drafter == "demo" else [models.drafter.replace(":", "").replace("0.", "")]
    parts += ["sampled"] if models.temperature else []
    return "_".join([*parts, link_name(link)])


def link_name(link: Link) -> str:
    """Return a link's name, fit for a figure."""
    if link.channel is not None:
        return link.channel.rpartition("/")[2].replace("-", "_")
    name = f"rtt{link.round_trip_s * 1e3:g}"
    name += f"_jitter{link.jitter_s * 1e3:g}" if link.jitter_s else ""
    return name + (f"_{link.up_bytes_s / MBIT_S * 1e3:g}kbit" if link.up_bytes_s < math.inf else "")


def paced(extent: Extent) -> list[Wanted]:
    """Return the paced cells of an extent."""
    if extent == "quick":
        return [Wanted(cell_of(schedule, at(30)), 4) for schedule in SCHEDULES]
    return _bars() if extent == "bars" else _full()


def native(extent: Extent) -> list[Wanted]:
    """Return the cells in which the models keep their own pace; they are measured one at a time."""
    if extent != "full":
        return []
    own = Models(target=None)
    return [Wanted(cell_of(schedule, at(trip), own)) for schedule in SCHEDULES for trip in (0, 30, 100)]


def _bars() -> list[Wanted]:
    lte = Link(channel="markov-lte")
    simulated = [
        *(cell_of("sync", at(trip)) for trip in (0, 30, 60, 100, 200)),
        *(cell_of("edge", at(trip)) for trip in (0, 60)),
        *(cell_of("edge-spec", at(trip)) for trip in (0, 60)),
        cell_of("sync", at(30), Models("noisy:0.5")),
        cell_of("sync", at(60, jitter_ms=10)),
        cell_of("sync", lte),
    ]
    others = [cell_of(schedule, at(30)) for schedule in ("edge", "edge-spec", "edge-lookup")]
    drawn = [
        *(cell_of(schedule, link) for schedule in ("edge", "edge-spec") for link in (at(100), at(200), lte)),
        *(cell_of("sync", at(30), Models(drafter)) for drafter in ("noisy:0.3", "noisy:0.8", "noisy:0.9")),
    ]
    return [
        *(Wanted(cell, simulated=True) for cell in simulated),
        *map(Wanted, others),
        *(Wanted(cell, DRAWN_TEXTS) for cell in drawn),
    ]


def _full() -> list[Wanted]:
    cells = [wanted.cell for wanted in _bars()]
    models = [Models(), Models(temperature=1.0), *map(Models, ACCEPTANCES)]
    links = [at(60, bytes_s=rate) for rate in RATES.values()]
    links += [at(trip, jitter_ms=jitter) for trip in (30, 60) for jitter in JITTERS_MS]
    links += [Link(channel=name) for name in CHANNELS]
    for schedule in SCHEDULES:
        pairs = models if schedule in ("sync", "edge-spec") else models[:2]  # who else drafts does not ask the pair
        cells += [cell_of(schedule, at(trip), pair) for trip in ROUND_TRIPS_MS for pair in pairs]
    cells += [cell_of(schedule, link) for schedule in SCHEDULES for link in links]
    simulated = {wanted.cell for wanted in _bars() if wanted.simulated}
    return [Wanted(cell, simulated=cell in simulated) for cell in dict.fromkeys(cells)]


def edge_draft(cell: Cell) -> str:
    """Return what an edge of this cell drafts: ``none``, or drafter and length."""
    kind = SCHEDULES[cell.schedule].edge_drafter
    if kind == "none":
        return kind
    return f"{'ngram' if kind == 'ngram' else cell.models.drafter}:{cell.draft_length}"


def edge_drafts(cells: Sequence[Wanted]) -> list[str]:
    """Return all that the edges of these cells draft; ``none`` is always there."""
    return list(dict.fromkeys(["none", *(edge_draft(wanted.cell) for wanted in cells)]))
