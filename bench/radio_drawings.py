"""The drawings of the radio bench: rates, ratios, one text, drafters, rough links, the simulator; the bound in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from bench.cells import DEMO_ACCEPTANCE, PASS, Models
from bench.channel import STYLE
from bench.radio_plots import (
    BOUND_COLOUR,
    Drawing,
    bound_line,
    bounds_by_trip,
    canvas,
    colour_of,
    greedy_demo,
    is_steady,
    legend,
    marker_of,
    schedules_of,
    steady,
    with_intervals,
)
from bench.radio_report import CellReport, Report
from coordinator.policy.costs import RoundCost, best_draft_length

NAMED_TRIP_MS = 30.0


def drawings(report: Report) -> list[Drawing]:
    """Return every drawing that the report has cells for."""
    with mpl.rc_context(STYLE):
        made = [draw(report) for draw in (_rates, _ratios, _text, _drafters, _links, _simulator)]
    return [drawing for drawing in made if drawing is not None]


def _trip(cell: CellReport) -> float:
    return cell.round_trip_ms or 0.0


def _rates(report: Report) -> Drawing | None:
    cells = steady(report.cells)
    if not cells:
        return None
    title = "Tokens per second over the round trip"
    figure, axes = canvas(report, title, "Round trip (ms)", "Tokens per second")
    for schedule in schedules_of(cells):
        with_intervals(axes, schedule, _of(cells, schedule), _trip, lambda cell: cell.rate)
    bounds = bounds_by_trip(cells)
    bound_line(axes, list(bounds), list(bounds.values()), "clairvoyant bound (device drafts)")
    _formulas(axes, cells)
    axes.set_ylim(bottom=0)
    legend(figure, axes)
    told = "; ".join(
        f"{schedule} " + ", ".join(f"{cell.rate[0]:.1f} at {_trip(cell):g} ms" for cell in _of(cells, schedule))
        for schedule in schedules_of(cells)
    )
    bounded = ", ".join(f"{bound:.1f} at {trip:g} ms" for trip, bound in bounds.items())
    return Drawing(
        "radio-rates",
        title,
        "Whiskers are 95 % intervals. Dotted: the formulas for the acceptance met, without what real processes add.",
        f"{title}, paced: {told}; bound {bounded}.",
        figure,
    )


def _of(cells: Sequence[CellReport], schedule: str) -> list[CellReport]:
    return [cell for cell in cells if cell.schedule == schedule]


def _formulas(axes: Axes, cells: Sequence[CellReport]) -> None:
    """Draw the models of time per token for the acceptance that was met, thin: they know no overheads."""
    met = [cell.acceptance for cell in cells if cell.acceptance is not None]
    base = RoundCost(0.0, Models().draft_s, PASS, float(np.mean(met)) if met else DEMO_ACCEPTANCE)
    trips = np.linspace(0, max(map(_trip, cells)), 61)
    costs = [replace(base, round_trip_s=float(trip) / 1e3) for trip in trips]
    lines = {
        "edge": [1 / cost.edge_alone_s() for cost in costs],
        "sync": [1 / cost.split_s(best_draft_length(cost)) for cost in costs],
        "edge-spec": [1 / cost.edge_drafter_s(best_draft_length(base), base.draft_s) for cost in costs],
    }
    for number, (schedule, line) in enumerate(lines.items()):
        axes.plot(
            trips, line, color=colour_of(schedule), ls=":", lw=1, label="" if number else "formulas, no overheads"
        )


def _ratios(report: Report) -> Drawing | None:
    cells = [cell for cell in steady(report.cells) if cell.over_edge is not None]
    if not cells:
        return None
    title = "How many times as fast as the edge alone"
    figure, axes = canvas(report, title, "Round trip (ms)", "Rate over that of the edge alone")
    for schedule in schedules_of(cells):
        with_intervals(axes, schedule, _of(cells, schedule), _trip, lambda cell: cell.over_edge or (math.nan,) * 3)
    edges = {_trip(cell): cell.rate[0] for cell in _of(steady(report.cells), "edge")}
    bounds = {trip: bound / edges[trip] for trip, bound in bounds_by_trip(cells).items() if trip in edges}
    bound_line(axes, list(bounds), list(bounds.values()), "clairvoyant bound (device drafts)")
    axes.axhline(1, color=colour_of("edge"), lw=1, label="edge alone")
    axes.set_ylim(bottom=0)
    legend(figure, axes)
    told = "; ".join(
        f"{cell.schedule} {cell.over_edge[0]:.2f} at {_trip(cell):g} ms" for cell in cells if cell.over_edge
    )
    return Drawing(
        "radio-ratios",
        title,
        "Each text against the same text of the edge alone; above 1 the schedule pays.",
        f"{title}, paced, with 95 % intervals: {told}.",
        figure,
    )


def _text(report: Report) -> Drawing | None:
    cells = [cell for cell in steady(report.cells) if cell.round_trip_ms == NAMED_TRIP_MS and cell.stairs]
    if not cells:
        return None
    title = f"One text as it appears, {NAMED_TRIP_MS:g} ms of round trip"
    figure, axes = canvas(report, title, "Time since the prompt was sent (s)", "Tokens shown")
    for schedule in schedules_of(cells):
        times, counts = zip(*_of(cells, schedule)[0].stairs[0], strict=True)
        axes.step([0, *times], [0, *counts], where="post", color=colour_of(schedule), lw=1.6, label=schedule)
        axes.plot(times[-1], counts[-1], marker_of(schedule), color=colour_of(schedule), ms=6)
    first_s, most = min(cell.stairs[0][0][0] for cell in cells), cells[0].stairs[0][-1][1]
    last_s = first_s + (most - 1) / bounds_by_trip(cells)[NAMED_TRIP_MS]
    bound_line(axes, [first_s, last_s], [1, most], "clairvoyant bound (mean of texts)")
    legend(figure, axes)
    told = "; ".join(f"{cell.schedule} ends after {cell.stairs[0][-1][0]:.2f} s" for cell in cells)
    return Drawing(
        "radio-text",
        title,
        "Every step is a commit that arrives; wide steps are waits for the link.",
        f"{title}, paced: {told}.",
        figure,
    )


def _drafters(report: Report) -> Drawing | None:
    """Draw rates over acceptance: the demo pair and noisy copies of the target."""
    cells = [cell for cell in report.cells if cell.paced and is_steady(cell) and cell.round_trip_ms == NAMED_TRIP_MS]
    edges = [cell for cell in cells if cell.schedule == "edge"]
    lookups = [cell for cell in cells if cell.schedule == "edge-lookup"]
    cells = [cell for cell in cells if cell.schedule in ("sync", "run-ahead", "edge-spec") and not cell.temperature]
    if len({cell.drafter for cell in cells}) < 2:
        return None
    cells.sort(key=lambda cell: cell.acceptance or 0.0)
    title = f"What a better drafter brings, {NAMED_TRIP_MS:g} ms"
    figure, axes = canvas(report, title, "Acceptance met (share of tokens)", "Tokens per second")
    for schedule in schedules_of(cells):
        with_intervals(
            axes, schedule, _of(cells, schedule), lambda cell: cell.acceptance or 0.0, lambda cell: cell.rate
        )
    bounded = [cell for cell in _of(cells, "sync") if cell.bound is not None]
    heights = [cell.bound[0] for cell in bounded if cell.bound]
    bound_line(axes, [cell.acceptance or 0.0 for cell in bounded], heights, "clairvoyant bound (device drafts)")
    for flat in (edges[:1], lookups[:1]):  # who asks no model to draft
        for cell in flat:
            axes.axhline(cell.rate[0], color=colour_of(cell.schedule), lw=1, label=cell.schedule)
    axes.set_ylim(bottom=0)
    legend(figure, axes)
    told = "; ".join(f"{cell.schedule} {cell.rate[0]:.1f} at {cell.acceptance or 0.0:.2f}" for cell in cells)
    return Drawing(
        "radio-drafters",
        title,
        "The demo pair beside noisy copies of the target, whose acceptance is a setting.",
        f"{title}, paced, tokens per second: {told}.",
        figure,
    )


def _links(report: Report) -> Drawing | None:
    cells = [cell for cell in greedy_demo(report.cells) if not is_steady(cell)]
    if not cells:
        return None
    title = "Links that jitter, fade and break"
    links, names = list(dict.fromkeys(cell.link_label for cell in cells)), schedules_of(cells)
    figure, axes = canvas(report, title, "Tokens per second", "", height_in=2.2 + 0.7 * len(links))
    for row, schedule in enumerate(names):
        shift = (row - (len(names) - 1) / 2) * min(0.18, 0.8 / len(names))

        def place(cell: CellReport, shift: float = shift) -> float:
            return links.index(cell.link_label) + shift

        with_intervals(axes, schedule, _of(cells, schedule), place, lambda cell: cell.rate, lying=True)
    bounds = {cell.link_label: cell.bound[0] for cell in cells if cell.bound and cell.schedule == "sync"}
    for number, (link, bound) in enumerate(bounds.items()):
        row = links.index(link)
        label = "" if number else "clairvoyant bound, shortest round trip"
        axes.plot([bound, bound], [row - 0.35, row + 0.35], color=BOUND_COLOUR, ls="--", lw=1.2, label=label)
    axes.set_yticks(range(len(links)), links)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    legend(figure, axes)
    told = "; ".join(f"{cell.schedule} {cell.rate[0]:.1f} on {cell.link_label}" for cell in cells)
    return Drawing(
        "radio-links",
        title,
        "The bound knows only the link's shortest round trip, so it is far off where delays vary much.",
        f"{title}, paced, tokens per second: {told}.",
        figure,
    )


def _simulator(report: Report) -> Drawing | None:
    cells = [cell for cell in report.cells if cell.simulated is not None]
    if not cells:
        return None
    title = "The simulator against the processes"
    figure, axes = canvas(report, title, "Measured, paced (tokens per second)", "Simulated (tokens per second)")
    bounded = [cell for cell in cells if cell.schedule == "sync" and cell.bound is not None]
    bounds = [cell.bound[0] for cell in bounded if cell.bound]
    most = 1.1 * max(*bounds, *(max(cell.rate[0], cell.simulated or 0.0) for cell in cells))
    axes.fill_between([0, most], [0, 0.9 * most], [0, 1.1 * most], color="#e3eaf1", lw=0, label="within 10 %")
    for schedule in schedules_of(cells):
        xs, ys = zip(*((cell.rate[0], cell.simulated) for cell in _of(cells, schedule)), strict=True)
        axes.plot(xs, ys, marker_of(schedule), color=colour_of(schedule), label=schedule)
    axes.plot(
        [cell.rate[0] for cell in bounded], bounds, "_", color=BOUND_COLOUR, ms=9, label="clairvoyant bound of sync"
    )
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)
    legend(figure, axes)
    offs = {cell.name: abs((cell.simulated or 0.0) / cell.rate[0] - 1) for cell in cells}
    worst = max(offs, key=offs.__getitem__)
    return Drawing(
        "radio-simulator",
        title,
        "The session cores in virtual time, overheads fitted on other cells than these.",
        f"{title}: {len(cells)} settings; the worst, {worst}, {offs[worst]:.1%} off.",
        figure,
    )
