"""The tables of the bench's page: bars, what each schedule costs, and where a drafter at the edge is the better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench.radio_bars import BARS
from bench.radio_outcome import Estimate
from bench.radio_plots import schedules_of, steady
from bench.radio_report import CellReport, Report

INSTRUMENT = {
    "mismatches": (0.0, "texts that differ between schedules"),
    "simulator_error_max": (0.10, "simulator against processes, the worst setting, share of time per token"),
    "relay_delay_error_ms_p99": (3.0, "the emulated link's delay, off from what was asked, ms, p99"),
    "pace_error_ms_p99": (1.0, "a paced step's end, later than stated, ms, p99"),
}
"""Figures of the instrument itself: the most that each may be, and what it is."""

COST_TRIP_MS = 30.0
RATE_TRIPS_MS = (0.0, 30.0, 100.0, 300.0)


def table(columns: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table that scrolls by itself; rows are made."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def interval(estimate: Estimate) -> str:
    """Return a 95 % interval in words."""
    digits = 1 if estimate[0] >= 10 else 2
    return f"{estimate[1]:.{digits}f} to {estimate[2]:.{digits}f}"


def instrument(line: Mapping[str, Any]) -> str:
    """Return how far the instrument itself was from what it should do."""
    rows = [
        _judged(line, name, most, held=line["figures"][name] <= most, about=f"{escape(about)}<br><code>{name}</code>")
        for name, (most, about) in INSTRUMENT.items()
        if name in line["figures"]
    ]
    busy, again = line["figures"].get("machine_busy_share_mean"), line["figures"].get("texts_written_again_share")
    told = [] if busy is None else [f"The machine was {busy:.0%} busy on the mean."]
    told += [] if again is None else [f"{again:.0%} of the texts were written again, because their pace had not held."]
    return table(("figure", "value", "at most", "bar", "tokens or texts"), rows) + f"<p>{' '.join(told)}</p>"


def bars(line: Mapping[str, Any]) -> str:
    """Return the named figures beside what they have to be; nothing where none was measured."""
    rows = [
        _judged(line, name, least, held=line["figures"][name] >= least, about=f"<code>{name}</code>", spread=True)
        if name in line["figures"]
        else f'<tr><td><code>{name}</code></td><td></td><td></td><td class="number">{least:g}</td>'
        '<td class="missed">not measured</td><td></td></tr>'
        for name, least in BARS.items()
        if name in line["figures"] or line.get("extent") != "quick"
    ]
    columns = ("figure", "value", "95 %", "at least", "bar", "tokens or texts")
    return table(columns, rows) if rows else ""


def _judged(line: Mapping[str, Any], name: str, bar: float, *, held: bool, about: str, spread: bool = False) -> str:
    word, found = "held" if held else "missed", line["spread"].get(name)
    between = (
        f'<td class="number">{"" if found is None else f"{found[0]:.3g} to {found[1]:.3g}"}</td>' if spread else ""
    )
    return (
        f'<tr><td>{about}</td><td class="number">{line["figures"][name]:.3g}</td>{between}'
        f'<td class="number">{bar:g}</td><td class="{word}">{word}</td>'
        f'<td class="number">{line["samples"].get(name, "")}</td></tr>'
    )


def costs(report: Report) -> str:
    """Return what each schedule asks of edge, device and link for a token, and its rates."""
    cells = steady(report.cells)
    rows = [
        _cost_row(schedule, {cell.round_trip_ms: cell for cell in cells if cell.schedule == schedule})
        for schedule in schedules_of([cell for cell in cells if cell.round_trip_ms == COST_TRIP_MS])
    ]
    trips = (f"tokens/s at {trip:g} ms" for trip in RATE_TRIPS_MS)
    return table(("schedule", "edge, ms a token", "device, ms", "bytes up", "bytes down", *trips), rows)


def _cost_row(schedule: str, cells: Mapping[float | None, CellReport]) -> str:
    cell = cells[COST_TRIP_MS]
    numbers = [f"{cell.edge_ms:.1f}", f"{cell.device_ms:.1f}", f"{cell.bytes_up:.0f}", f"{cell.bytes_down:.0f}"]
    numbers += [f"{cells[trip].rate[0]:.1f}" if trip in cells else "" for trip in RATE_TRIPS_MS]
    columns = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f'<tr><th scope="row">{escape(schedule)}</th>{columns}</tr>'


def rivals(report: Report) -> str:
    """Say where a drafter at the edge makes one user's text faster than one on the device, and what it costs there."""
    cells = steady(report.cells)
    at = {(cell.schedule, cell.round_trip_ms): cell for cell in cells}
    trips = [
        trip for trip in dict.fromkeys(cell.round_trip_ms for cell in cells)
        if ("run-ahead", trip) in at and ("edge-spec", trip) in at
    ]  # fmt: skip
    if not trips:
        return ""
    won = [trip for trip in trips if at["edge-spec", trip].rate[0] > at["run-ahead", trip].rate[0]]
    told = [
        "With the same drafter at the edge, the edge by itself (<b>edge-spec</b>) writes one user's text faster than a "
        "device that drafts and an edge that goes ahead (<b>run-ahead</b>) "
        + (f"at round trips of {_listed(won)} ms" if won else "at no round trip")
        + f", of those measured, {_listed(trips)} ms; no link is in its way."
    ]
    both = [trip for trip in trips if ("hybrid", trip) in at]
    if both:
        ratios = {
            trip: at["hybrid", trip].rate[0] / max(at[name, trip].rate[0] for name in ("run-ahead", "edge-spec"))
            for trip in both
        }
        told.append(
            "<b>Hybrid</b>, where both draft, writes "
            + ", ".join(f"{ratio:.2f} at {trip:g} ms" for trip, ratio in ratios.items())
            + " times as fast as the better of the two."
        )
    told += [_lookup(at, trip) for trip in (COST_TRIP_MS,) if ("edge-lookup", trip) in at]
    named = [
        at[name, COST_TRIP_MS]
        for name in ("edge", "edge-spec", "run-ahead", "hybrid", "sync")
        if (name, COST_TRIP_MS) in at
    ]
    told.append(
        f"At {COST_TRIP_MS:g} ms the edge is at work "
        + ", ".join(f"{cell.edge_ms:.1f} ms a token under {escape(cell.schedule)}" for cell in named)
        + ": what a drafter at the edge wins for one user is taken from the others that it serves, while a pass that "
        "verifies a device's drafts spares it passes."
    )
    return f"<p>{' '.join(told)}</p>"


def _lookup(at: Mapping[tuple[str, float | None], CellReport], trip: float) -> str:
    lookup = at["edge-lookup", trip]
    alone = at.get(("edge", trip))
    beside = f" beside {alone.rate[0]:.1f} of the edge alone and {alone.edge_ms:.1f} ms" if alone else ""
    return (
        f"<b>Edge-lookup</b>, the text's own n-grams at the edge, asks no second model: {lookup.rate[0]:.1f} tokens a "
        f"second and {lookup.edge_ms:.1f} ms of the edge a token{beside}; these texts are short and repeat little."
    )


def _listed(trips: Sequence[float | None]) -> str:
    return ", ".join(f"{trip:g}" for trip in trips if trip is not None)
