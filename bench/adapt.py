"""``python -m bench adapt``: devices that plan for themselves, against every fixed setting in hindsight.

On each replayed trace every fixed setting is simulated; the three fastest are written again by real processes, beside
the edge alone and a device that plans, whose edge can do everything: go ahead of it, and draft by itself. What takes
thousands of sessions is simulated, and its figures end in ``_sim``; what too many devices do to an edge is real again.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from airdraft.link.sim_text import MatchRun
from bench import adapt_page
from bench.adapt_bars import BARS
from bench.adapt_figures import by_trace, figures
from bench.adapt_real import EDGE_ALONE, Outcome, Place, Size, matched_runs, say, write
from bench.adapt_report import report_of
from bench.adapt_sim import FixedSetting, hindsight
from bench.adapt_worlds import TRACES
from bench.figures import Result
from bench.radio_cells import Extent
from bench.radio_gate import Gate

SIZES: Mapping[Extent, Size] = {
    "quick": Size(prompts=1, repeats=2, budget_s=15.0),
    "bars": Size(prompts=7, repeats=3, budget_s=510.0),
    "full": Size(prompts=36, repeats=3, budget_s=float("inf")),
}
QUICK_TRACES = ("5g-walking",)
BEST: Mapping[Extent, int] = {"quick": 1, "bars": 3, "full": 3}
"""Fixed settings of the simulator's ranking that are written for real, the edge alone beside them."""

SIMULATED = ("adapt_sim", "adapt_steps", "adapt_mix", "adapt_facts")
OTHERS: Mapping[Extent, Sequence[str]] = {
    "quick": SIMULATED,
    "bars": (*SIMULATED, "overload"),
    "full": (*SIMULATED, "overload"),
}
"""Benches whose figures belong to this one; ``overload`` by itself takes half of a smoke test's minute."""


def contestants(trace: str, ranked: Sequence[tuple[FixedSetting, float]], best: int) -> list[Outcome]:
    """Return who writes on a trace: a device that plans, the fastest fixed settings, the edge alone."""
    settings = dict.fromkeys([*(setting for setting, _ in ranked[:best]), EDGE_ALONE])
    return [Outcome(trace, None), *(Outcome(trace, setting) for setting in settings)]


def _real(extent: Extent) -> tuple[list[Outcome], Mapping[Place, MatchRun], Gate]:
    """Search in hindsight, then let everybody write."""
    size = SIZES[extent]
    runs = matched_runs(size)
    outcomes: list[Outcome] = []
    for trace in QUICK_TRACES if extent == "quick" else TRACES:
        ranked = hindsight(trace, list(runs.values()))
        say(f"{trace}: {TRACES[trace].label}")
        say(
            ", ".join(f"{setting} {1 / s_per_token:.1f}" for setting, s_per_token in ranked[:5]) + " tokens/s simulated"
        )
        outcomes += contestants(trace, ranked, BEST[extent])
    gate = asyncio.run(write(outcomes, size, extent))
    for outcome in outcomes:
        if outcome.setting is None:
            plans = Counter(text.plan for text in outcome.texts.values()).most_common(3)
            say(f"{outcome.trace}: texts ended by {'; '.join(f'{plan} ({count})' for plan, count in plans)}")
    return outcomes, runs, gate


def _merge(result: Result, other: Result) -> None:
    """Add another bench's figures. Raises ValueError where both have one of the same name."""
    if both := result.figures.keys() & other.figures.keys():
        raise ValueError(f"two benches found {', '.join(sorted(both))}")
    result.figures |= other.figures
    result.samples |= other.samples
    result.spread |= other.spread


def run(extent: Extent, out: Path = Path("bench/out")) -> Result:
    """Measure an extent; draw it and write the page in ``out``; return the figures."""
    began_s = time.monotonic()
    outcomes, runs, gate = _real(extent)
    result = figures(outcomes, runs)
    result.figures["machine_busy_share_mean"] = round(float(np.mean(gate.busy_shares or [0.0])), 6)
    result.figures["lanes_mean"] = round(float(np.mean(gate.lane_counts or [1])), 6)
    for name in OTHERS[extent]:
        say(f"{name}, {time.monotonic() - began_s:.0f} s since the start")
        _merge(result, import_module(f"bench.{name}").run(quick=extent == "quick"))
    result.figures["bench_s"] = round(time.monotonic() - began_s, 1)
    out.mkdir(parents=True, exist_ok=True)
    report = report_of(extent, result, by_trace(outcomes))
    report.write(out)
    for path in adapt_page.write(report, out):
        say(f"wrote {path}")
    _print(result)
    return result


def _print(result: Result) -> None:
    for name, value in result.figures.items():
        low, high = result.spread.get(name, (float("nan"),) * 2)
        interval = "" if low != low else f"   {low:.4g} to {high:.4g}"
        bar = "" if name not in BARS else "   held" if BARS[name].holds(value) else "   MISSED"
        print(f"{name:<56} {value:10.4g}{interval}{bar}")


if __name__ == "__main__":
    chosen: Extent = "full" if "--full" in sys.argv else "bars" if "--bars" in sys.argv else "quick"
    print(run(chosen).as_line(extent=chosen))
