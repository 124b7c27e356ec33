"""The named ratios of the radio bench: each of a schedule's rate to another's on the same texts, greedy and sampled.

Both temperatures together are a figure; each by itself stands beside it, as ``_greedy`` and ``_sampled``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bench.cells import Link
from bench.figures import Result
from bench.radio_cells import ROUND_TRIPS_MS, at, link_name, name_of
from bench.radio_outcome import Estimate, Outcome, ratio_of, ratio_to_bound
from bench.schedules import SCHEDULES

AT_LEAST: dict[str, tuple[float, ...]] = {
    "run_ahead_over_edge": (1.80, 1.60, 1.42, 1.25, 1.13, 1.02, 0.99),
    "run_ahead_over_clairvoyant": (0.76, 0.79, 0.85, 0.89, 0.93, 0.96, 0.97),
    "best_over_sync": (1.15, 1.20, 1.30, 1.45, 1.70, 2.3, 2.9),
    "pipelined_over_pearl": (1.04, 1.08, 1.17, 1.27, 1.35, 1.5, 1.55),
    "hybrid_over_best": (0.99, 1.02, 1.02, 0.99, 0.98, 0.98, 0.98),
}
"""What each ratio has to be at each of ``ROUND_TRIPS_MS``."""

BARS: dict[str, float] = {
    **{
        f"{name}_rtt{trip:g}": bar
        for name, bars in AT_LEAST.items()
        for trip, bar in zip(ROUND_TRIPS_MS, bars, strict=True)
    },
    "run_ahead_over_proactive_rtt30": 1.15,
    "run_ahead_over_proactive_rtt60": 1.30,
    "run_ahead_over_proactive_rtt100": 1.55,
    "run_ahead_over_edge_min": 0.97,
    "run_ahead_over_edge_min_sim": 0.97,
    "equal_text": 1.0,
    "capacity_16_rtt30": 1.8,
    "capacity_16_rtt100": 1.25,
    "capacity_64_rtt30": 1.35,
    "capacity_64_rtt100": 1.17,
    **{f"capacity_slowest_{sessions}_rtt{trip}": 1.0 for sessions in (16, 64) for trip in (30, 100)},
}
"""The least that each named figure may be."""

BEST = "run-ahead"
"""Whose ratio to sync is ``best_over_sync``: the best of the schedules in which the device alone drafts."""

RIVALS = ("run-ahead", "edge-spec")
"""The better of them, on the texts at hand, is what the hybrid is compared with."""

Ratio = Callable[[Sequence[Outcome]], Estimate | None]


def of(outcomes: Sequence[Outcome], schedule: str, link: Link, drafter: str = "demo") -> list[Outcome]:
    """Return the cells of a schedule on a link, greedy and sampled, that have texts."""
    return [
        outcome
        for outcome in outcomes
        if outcome.texts
        and (outcome.wanted.cell.schedule, outcome.wanted.cell.link) == (schedule, link)
        and outcome.wanted.cell.models.drafter == drafter
    ]


def add_ratio(result: Result, name: str, over: Sequence[Outcome], ratio: Ratio) -> None:
    """Add a ratio of the cells ``over`` together, and where they are greedy and sampled ones, of each by itself."""
    _add(result, name, over, ratio)
    for word, sampled in (("greedy", False), ("sampled", True)):
        some = [outcome for outcome in over if (outcome.wanted.cell.models.temperature > 0) == sampled]
        if 0 < len(some) < len(over):
            _add(result, f"{name}_{word}", some, ratio)


def _add(result: Result, name: str, over: Sequence[Outcome], ratio: Ratio) -> None:
    estimate = ratio(over)
    if estimate is not None:
        value, *spread = (round(number, 6) for number in estimate)
        result.figures[name], result.spread[name] = value, (spread[0], spread[1])
        result.samples[name] = sum(outcome.tokens for outcome in over)


def add_named(result: Result, outcomes: Sequence[Outcome]) -> None:
    """Add the named ratios at every round trip that was measured."""
    for trip in ROUND_TRIPS_MS:
        cells = {schedule: of(outcomes, schedule, at(trip)) for schedule in SCHEDULES}

        def add(name: str, over: str, under: str, cells: dict[str, list[Outcome]] = cells, trip: float = trip) -> None:
            add_ratio(result, f"{name}_{link_name(at(trip))}", cells[over], partial(ratio_of, under=cells[under]))

        add_ratio(result, f"run_ahead_over_clairvoyant_{link_name(at(trip))}", cells["run-ahead"], ratio_to_bound)
        add("best_over_sync", BEST, "sync")
        add("hybrid_over_sync", "hybrid", "sync")
        add("pipelined_over_pearl", "pipelined", "pearl")
        add("run_ahead_over_proactive", "run-ahead", "proactive")
        add("run_ahead_over_edge_spec", "run-ahead", "edge-spec")
        rivals = [cells[rival] for rival in RIVALS]
        add_ratio(result, f"hybrid_over_best_{link_name(at(trip))}", cells["hybrid"], partial(ratio_to_best, rivals))


def ratio_to_best(rivals: Sequence[Sequence[Outcome]], over: Sequence[Outcome]) -> Estimate | None:
    """Return the ratio to that rival which is the fastest on the texts at hand."""
    found = [ratio_of(over, rival) for rival in rivals]
    return min((one for one in found if one is not None), default=None)


def add_over_edge(result: Result, outcomes: Sequence[Outcome]) -> None:
    """Add how each schedule compares with the edge alone on the same link, and the least that running ahead came to."""
    least: list[tuple[float, str]] = []
    for cells in _groups(outcomes):
        cell, end = cells[0].wanted.cell, link_name(cells[0].wanted.cell.link)
        if cell.schedule == "edge":
            continue
        name = name_of(cell).replace("_sampled", "").removesuffix(f"_{end}") + f"_over_edge_{end}"
        edge = of(outcomes, "edge", cell.link)  # whose drafter is better, it does not ask
        add_ratio(result, name, cells, partial(ratio_of, under=edge))
        if cell.schedule == "run-ahead" and name in result.figures:
            least.append((result.figures[name], name))
    if least:
        _, worst = min(least)
        for kept in (result.figures, result.spread, result.samples):
            kept["run_ahead_over_edge_min"] = kept[worst]  # type: ignore[assignment]


def _groups(outcomes: Sequence[Outcome]) -> Iterator[list[Outcome]]:
    """Return cells that differ in nothing but their temperature together."""
    seen: set[tuple[object, ...]] = set()
    for outcome in outcomes:
        cell = outcome.wanted.cell
        key = cell.schedule, cell.link, cell.models.drafter
        if key not in seen:
            seen.add(key)
            if cells := of(outcomes, *key):
                yield cells
