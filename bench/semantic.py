"""``python -m bench semantic``: WISV's table on the demo pairs, and ours, which sends no state.

Length, rounds, bytes and accuracy come from batched cells: the real session cores and the real engine, hundreds of
texts side by side, off the wire. Latency comes from real processes over the emulated link, at a stated pace. All of it
is on a synthetic pair, and says nothing of any other.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from bench import semantic_batched, semantic_paced, semantic_page
from bench.figures import Result
from bench.radio_cells import Extent
from bench.semantic_bars import BARS
from bench.semantic_report import Report, report_of
from bench.semantic_work import say, workers


def run(extent: Extent, out: Path = Path("bench/out")) -> Result:
    """Measure an extent; draw it and write the page in ``out``; return the figures."""
    began_s = time.monotonic()
    result = Result("semantic")
    with workers() as carry:
        batched = semantic_batched.run(extent, carry, result)
    result.figures["batched_s"] = round(time.monotonic() - began_s, 1)
    say(f"batched cells took {result.figures['batched_s']:.0f} s")
    made, gate = asyncio.run(semantic_paced.write(extent))
    semantic_paced.add(result, made, gate)
    result.figures["bench_s"] = round(time.monotonic() - began_s, 1)
    out.mkdir(parents=True, exist_ok=True)
    report = report_of(extent, result, batched, made)
    report.write(out)
    for path in semantic_page.write(report, out):
        say(f"wrote {path}")
    _print(result, report)
    return result


def _print(result: Result, report: Report) -> None:
    for name, value in result.figures.items():
        low, high = result.spread.get(name, (float("nan"),) * 2)
        interval = "" if low != low else f"   {low:.4g} to {high:.4g}"
        bar = "" if name not in BARS else "   held" if BARS[name].holds(value) else "   MISSED"
        print(f"{name:<64} {value:10.4g}{interval}{bar}")
    for name in BARS:
        if name not in result.figures:
            print(f"{name:<64} not measured")


if __name__ == "__main__":
    chosen: Extent = "full" if "--full" in sys.argv else "bars" if "--bars" in sys.argv else "quick"
    print(run(chosen).as_line(extent=chosen))
