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

TEXTS = 72
"""Of a cell of a named figure, greedy and at temperature 1 each: 4,000 tokens together, 28 or so a word problem."""

DRAWN_TEXTS = 10
"""Of a cell that a minimum needs, or a curve."""

FEW_TEXTS = 5
"""Of a cell that stands in a drawing beside others and hardly varies."""

ROUND_TRIPS_MS = (0, 10, 30, 60, 100, 200, 300)
RATES = {"1 Mbit/s": MBIT_S, "50 kbit/s": 0.05 * MBIT_S}
JITTERS_MS = (10, 30)
ACCEPTANCES = ("noisy:0.3", "noisy:0.5", "noisy:0.8", "noisy:0.9")
NATIVE_LENGTH = 4  # at most, where the models' own pace is not known beforehand
DEMO, SAMPLED = Models(), Models(temperature=1.0)
CONTESTANTS = ("edge", "sync", "pipelined", "run-ahead", "hybrid", "pearl", "edge-spec")
"""Schedules that a named figure compares at every round trip."""

OTHERS = ("proactive", "dssd", "hybrid-lookup", "edge-lookup")
PROACTIVE_TRIPS_MS = (30, 60, 100)
"""Where run-ahead is compared with the proactive schedule: below, the two hardly differ."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A cell, how many texts of it, and whether the simulator must reproduce it."""

    cell: Cell
    texts: int = TEXTS
    simulated: bool = False


def at(round_trip_ms: float, *, jitter_ms: float = 0.0, bytes_s: float = math.inf) -> Link:
    """Return a link of so many milliseconds, with one rate both ways."""
    return Link(round_trip_ms / 1e3, jitter_ms / 1e3, bytes_s, bytes_s)


ROUGH = [
    *(at(trip, jitter_ms=10) for trip in (30, 60, 100)),
    *(Link(channel=name) for name in CHANNELS if name != "constant"),
]
"""Links that do more than delay."""


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
        texts = {DEMO: 2, SAMPLED: 1}
        return [Wanted(cell_of(schedule, at(30), some), texts[some]) for schedule in SCHEDULES for some in texts]
    return _bars() if extent == "bars" else _full()


def native(extent: Extent) -> list[Wanted]:
    """Return the cells in which the models keep their own pace; they are measured one at a time."""
    if extent != "full":
        return []
    own = Models(target=None)
    return [Wanted(cell_of(schedule, at(trip), own)) for schedule in SCHEDULES for trip in (0, 30, 100)]


def _bars() -> list[Wanted]:
    """Return the cells of the named figures, then those of minimum and drawings; the first of its kind counts."""
    pairs = [
        *((schedule, at(trip)) for trip in ROUND_TRIPS_MS for schedule in CONTESTANTS),
        *(("proactive", at(trip)) for trip in PROACTIVE_TRIPS_MS),
    ]
    named = [Wanted(cell_of(schedule, link, models)) for schedule, link in pairs for models in (DEMO, SAMPLED)]
    drawn = [
        *(cell_of(schedule, at(trip)) for schedule in OTHERS for trip in ROUND_TRIPS_MS),
        *(cell_of(schedule, link) for schedule in ("edge", "run-ahead", "sync") for link in ROUGH),
        *(cell_of("run-ahead", at(trip), Models(drafter)) for drafter in ACCEPTANCES for trip in (30, 200)),
        *(cell_of("sync", at(30), Models(drafter)) for drafter in ACCEPTANCES),
    ]
    beside = [
        *(cell_of(schedule, link) for schedule in ("edge-spec", "edge-lookup") for link in ROUGH),
        *(cell_of("edge-spec", at(30), Models(drafter)) for drafter in ACCEPTANCES),
    ]
    drawings = [Wanted(cell, texts) for texts, some in ((FEW_TEXTS, beside), (DRAWN_TEXTS, drawn)) for cell in some]
    cells = {wanted.cell: wanted for wanted in [*drawings, *named]}
    tested = set(_simulated())
    return [replace(wanted, simulated=wanted.cell in tested) for wanted in cells.values()]


def _simulated() -> list[Cell]:
    """Return the cells that the simulator must reproduce; it is fitted on others."""
    return [
        *(cell_of("sync", at(trip)) for trip in (0, 30, 60, 100, 200)),
        *(cell_of(schedule, at(trip)) for schedule in ("edge", "edge-spec") for trip in (0, 60)),
        *(cell_of("run-ahead", at(trip)) for trip in (0, 30, 100)),
        *(cell_of(schedule, at(30)) for schedule in ("pipelined", "pearl", "hybrid")),
        cell_of("sync", at(30), Models("noisy:0.5")),
        cell_of("sync", at(60, jitter_ms=10)),
        cell_of("sync", Link(channel="markov-lte")),
    ]


def _full() -> list[Wanted]:
    cells = [wanted.cell for wanted in _bars()]
    models = [DEMO, SAMPLED, *map(Models, ACCEPTANCES)]
    links = [at(60, bytes_s=rate) for rate in RATES.values()]
    links += [at(trip, jitter_ms=jitter) for trip in (30, 60) for jitter in JITTERS_MS]
    links += [Link(channel=name) for name in CHANNELS]
    for schedule in SCHEDULES:
        pairs = models[:2] if schedule in ("edge", "edge-lookup") else models  # whom no pair of models matters to
        cells += [cell_of(schedule, at(trip), pair) for trip in ROUND_TRIPS_MS for pair in pairs]
    cells += [cell_of(schedule, link) for schedule in SCHEDULES for link in links]
    tested = set(_simulated())
    return [Wanted(cell, simulated=cell in tested) for cell in dict.fromkeys(cells)]


def edge_draft(cell: Cell) -> str:
    """Return what an edge of this cell does beside verifying, as ``bench.paced_edge`` is told it."""
    schedule = SCHEDULES[cell.schedule]
    words = (["ahead"] if schedule.run_ahead else []) + ([] if schedule.bonus else ["no-bonus"])
    if schedule.edge_drafter != "none":
        drafter = "ngram" if schedule.edge_drafter == "ngram" else cell.models.drafter
        words.append(f"{drafter}:{schedule.own_length(cell.draft_length)}")
    return "+".join(words) or "none"


def edge_drafts(cells: Sequence[Wanted]) -> list[str]:
    """Return all that the edges of these cells draft; ``none`` is always there."""
    return list(dict.fromkeys(["none", *(edge_draft(wanted.cell) for wanted in cells)]))
