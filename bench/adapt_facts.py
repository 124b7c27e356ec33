"""What radio facts add to a plan: round trips forecast with them and without, on the recordings that hold both.

Every second of a recording a plan is made for the round trip that is forecast, and weighed with the one that the
recording's next ping shows. Nothing is transmitted: rates are those of ``coordinator.policy.expected``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from airdraft.link.radio_facts import RecordedSecond
from bench.adapt_steps import LATENCY, Truth
from bench.figures import Result, ratio_of_sums
from bench.radio_facts import BLOCK_S, recordings
from coordinator.policy.plan import Plan, plan
from coordinator.policy.radio import LinkForecast, LinkSample

ACCEPTANCE = 0.8
EDGES = {"full": True, "plain": False}
"""An edge that goes ahead and drafts itself, and one that only verifies, where the round trip decides more."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The plans of one second, and what a token would have taken by each."""

    at_s: float
    without_s: float
    with_s: float
    differ: bool


def chosen(seconds: Sequence[RecordedSecond], *, full: bool) -> list[Chosen]:
    """Return what would have been planned in each second between two pings, with facts and without."""
    forecasts = [LinkForecast(), LinkForecast()]
    plans: list[Plan | None] = [None, None]
    truths = _next_pings(seconds)
    found: list[Chosen] = []
    for second, truth_s in zip(seconds, truths, strict=True):
        if truth_s is not None and all(forecast.round_trip_s.next() is not None for forecast in forecasts):
            truth = Truth(truth_s * 1e3, ACCEPTANCE, full=full)
            for index, forecast in enumerate(forecasts):
                believed = replace(truth.setting, round_trip_s=forecast.round_trip_s.next() or 0.0)
                plans[index] = plan(believed, LATENCY, truth.offer, current=plans[index]).plan
            costs = [truth.cost(each) for each in plans if each is not None]
            found.append(Chosen(second.at_s, costs[0], costs[1], plans[0] != plans[1]))
        without = LinkSample(round_trip_s=second.round_trip_s)
        forecasts = [forecasts[0].updated(without), forecasts[1].updated(replace(without, facts=second.facts))]
    return found


def _next_pings(seconds: Sequence[RecordedSecond]) -> list[float | None]:
    """Return for each second the round trip that the next ping after it shows; None after the last."""
    newest: float | None = None
    answers: list[float | None] = []
    for second in reversed(seconds):
        answers.append(newest)
        newest = newest if second.round_trip_s is None else second.round_trip_s
    return answers[::-1]


def run(*, quick: bool) -> Result:
    """Return by what share facts make a token cheaper, and in how many seconds they change the plan."""
    result = Result("adapt-facts")
    recorded = recordings()
    if not recorded:
        print("no recordings with radio facts (set AIRDRAFT_DATA): nothing to compare", file=sys.stderr)
    for edge, full in EDGES.items():
        rows: dict[tuple[str, int], np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        for name, seconds in recorded.items():
            for one in chosen([each for each in seconds if not quick or each.at_s < 300], full=full):
                row = rows.setdefault((name, int(one.at_s // BLOCK_S)), np.zeros(4))
                row += (one.without_s, one.with_s, one.differ, 1.0)
        if rows:
            _add(result, edge, [tuple(row.tolist()) for row in rows.values()])
    return result


def _add(result: Result, edge: str, rows: Sequence[tuple[float, ...]]) -> None:
    gain, low, high = ratio_of_sums(rows, lambda sums: sums[..., 0] / sums[..., 1] - 1)
    differ, count = (float(value) for value in np.sum(rows, axis=0)[2:])
    name = "adaptive_facts_gain_sim" if edge == "full" else f"adaptive_facts_gain_{edge}_edge_sim"
    result.figures[name], result.spread[name] = round(gain, 5), (round(low, 5), round(high, 5))
    result.figures[f"facts_change_plan_share_{edge}_edge_sim"] = round(differ / count, 4)
    result.samples[name] = int(count)
    print(
        f"{edge} edge: facts change {differ / count:.1%} of {count:.0f} plans; {gain:+.3%} [{low:+.3%}, {high:+.3%}]",
        file=sys.stderr,
    )


if __name__ == "__main__":
    print(run(quick="--quick" in sys.argv[1:]).as_line())
