"""What all drawings of the radio bench share: looks, canvas, points with intervals, the bound, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.channel import DOTS_PER_INCH, DOWN_COLOUR, OTHER_COLOUR, STYLE, UP_COLOUR
from bench.radio_outcome import Estimate
from bench.radio_report import CellReport, Report
from bench.schedules import SCHEDULES

WIDTH_IN, HEIGHT_IN = 5.6, 4.9  # narrow, so that a phone need not shrink the words much
BOUND_COLOUR = "#111111"
COLOURS = {
    "edge": OTHER_COLOUR,
    "sync": DOWN_COLOUR,
    "pipelined": "#3f8f5b",
    "run-ahead": "#b03060",
    "hybrid": "#7b4fa3",
    "hybrid-lookup": "#b08fd0",
    "edge-spec": UP_COLOUR,
    "edge-lookup": "#8a6d1d",
}
SPARE_COLOURS = ("#2f8f9d", "#8c8c3a", "#c98a9e")
MARKERS = "so^vDPXd<>*p"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One drawing: its files' stem, its title, how to read it, its numbers for who cannot see it, and the figure."""

    stem: str
    title: str
    caption: str
    alt: str
    figure: Figure


def colour_of(schedule: str) -> str:
    """Return the colour of a schedule, the next spare one where it has none of its own."""
    others = [name for name in SCHEDULES if name not in COLOURS]
    return COLOURS[schedule] if schedule in COLOURS else SPARE_COLOURS[others.index(schedule) % len(SPARE_COLOURS)]


def marker_of(schedule: str) -> str:
    """Return the marker of a schedule, so that colour alone tells nothing."""
    return MARKERS[list(SCHEDULES).index(schedule) % len(MARKERS)]


def canvas(report: Report, title: str, x_label: str, y_label: str, height_in: float = HEIGHT_IN) -> tuple[Figure, Axes]:
    """Return an empty drawing that says that it is paced and how it is made again."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    mark = "paced: a pass and a drafted token take stated times"
    axes.set_title(f"{mark}\n{report.command}", loc="left", fontsize=8.5, color="#444444")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def legend(figure: Figure, axes: Axes) -> None:
    """Put the legend under the drawing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def schedules_of(cells: Sequence[CellReport]) -> list[str]:
    """Return the schedules of some cells, in the table's order."""
    return [name for name in SCHEDULES if any(cell.schedule == name for cell in cells)]


def greedy_demo(cells: Sequence[CellReport]) -> list[CellReport]:
    """Return the paced greedy cells of the demo pair."""
    return [cell for cell in cells if cell.paced and cell.drafter == "demo" and not cell.temperature]


def is_steady(cell: CellReport) -> bool:
    """Say whether the link does nothing but delay."""
    return cell.round_trip_ms is not None and cell.link == f"rtt{cell.round_trip_ms:g}"


def steady(cells: Sequence[CellReport]) -> list[CellReport]:
    """Return those of ``greedy_demo`` whose links do nothing but delay, shortest first."""
    return sorted(filter(is_steady, greedy_demo(cells)), key=lambda cell: cell.round_trip_ms or 0.0)


def with_intervals(
    axes: Axes,
    schedule: str,
    cells: Sequence[CellReport],
    place: Callable[[CellReport], float],
    value: Callable[[CellReport], Estimate],
    *,
    lying: bool = False,
) -> None:
    """Draw a schedule's cells as points with their intervals, joined; ``lying`` draws values to the right, unjoined."""
    values = np.array([value(cell) for cell in cells])
    spread = np.abs(values[:, 1:] - values[:, :1]).T
    places = [place(cell) for cell in cells]
    more: dict[str, Any] = {"color": colour_of(schedule), "marker": marker_of(schedule), "ms": 5, "capsize": 2}
    if lying:
        axes.errorbar(values[:, 0], places, xerr=spread, ls="", label=schedule, **more)
    else:
        axes.errorbar(places, values[:, 0], yerr=spread, label=schedule, **more)


def bound_line(axes: Axes, xs: Sequence[float], ys: Sequence[float], label: str = "clairvoyant bound") -> None:
    """Draw the bound; a single point is a dash."""
    marker = "_" if len(xs) == 1 else ""
    axes.plot(xs, ys, color=BOUND_COLOUR, ls="--", lw=1.2, marker=marker, ms=14, label=label)


def bounds_by_trip(cells: Sequence[CellReport]) -> dict[float, float]:
    """Return the bound at each round trip in ms, from the cell there with the most texts."""
    best: dict[float, CellReport] = {}
    for cell in cells:
        trip = cell.round_trip_ms
        if cell.bound is not None and trip is not None and (trip not in best or cell.texts > best[trip].texts):
            best[trip] = cell
    return {trip: cell.bound[0] for trip, cell in sorted(best.items()) if cell.bound is not None}


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """Write a drawing as SVG and PNG; return the files."""
    files = [folder / f"{drawing.stem}.svg", folder / f"{drawing.stem}.png"]
    with mpl.rc_context(STYLE):
        drawing.figure.savefig(files[0], metadata={"Date": None, "Title": drawing.title, "Description": drawing.alt})
        drawing.figure.savefig(files[1], dpi=DOTS_PER_INCH, metadata={"Title": drawing.title})
    return files
