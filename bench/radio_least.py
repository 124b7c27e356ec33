"""Running ahead against the edge alone where a paced run would take hours: every link and drafter, in virtual time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from airdraft.link.channels import CHANNELS
from airdraft.link.sim_text import MatchRun
from bench.cells import Link, Models
from bench.figures import Result, ratio_of_sums
from bench.match_runs import noisy
from bench.radio_bars import of
from bench.radio_cells import ACCEPTANCES, ROUND_TRIPS_MS, at, cell_of, link_name
from bench.radio_outcome import Outcome, rate_over_rate
from bench.simulate import simulated

FIGURE = "run_ahead_over_edge_min_sim"
TEXTS = 24
JITTERS_MS = (0, 10)

LINKS = [
    *(at(trip, jitter_ms=jitter) for trip in ROUND_TRIPS_MS for jitter in JITTERS_MS),
    *(Link(channel=name, channel_seed=seed) for name in CHANNELS for seed in (1, 2)),
]

Rows = list[tuple[float, float, float, float]]
"""Of each text tokens and seconds of the one schedule, then of the other."""


def add_least(result: Result, outcomes: Sequence[Outcome]) -> None:
    """Add the least ratio of running ahead to the edge alone, on the texts that were measured, over all links.

    Drafters are the demo pair's, greedy and sampled, and noisy copies of the target with each of ``ACCEPTANCES``; what
    processes add to a pass is not in it. Needs the steady cells of run-ahead, adds nothing where there are none.
    """
    texts = _texts(outcomes)
    if not texts:
        return
    work = [(name, link, runs) for link in LINKS for name, runs in texts.items()]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as workers:
        rows = dict(
            zip(
                [(name, f"{link_name(link)}, seed {link.channel_seed}") for name, link, _ in work],
                workers.map(_compared, work),
                strict=True,
            )
        )
    found = {key: ratio_of_sums(each, rate_over_rate) for key, each in rows.items()}
    worst = min(found, key=lambda key: found[key][0])
    value, *spread = (round(number, 6) for number in found[worst])
    result.figures[FIGURE], result.spread[FIGURE] = value, (spread[0], spread[1])
    result.samples[FIGURE] = len(found)
    print(f"run-ahead over the edge alone, simulated: least of {len(found)} settings {value:.3f}, {' on '.join(worst)}")


def _texts(outcomes: Sequence[Outcome]) -> dict[str, list[MatchRun]]:
    """Return texts by drafter: the same ones, with other misses."""
    measured = of(outcomes, "run-ahead", at(30))
    runs = {
        "demo, sampled" if outcome.wanted.cell.models.temperature else "demo": outcome.runs()[:TEXTS]
        for outcome in measured
    }
    if "demo" in runs:
        for seed, drafter in enumerate(ACCEPTANCES):
            runs[drafter] = noisy(runs["demo"], Models(drafter).acceptance, seed)
    return runs


def _compared(work: tuple[str, Link, list[MatchRun]]) -> Rows:
    """Return how long each text takes with the edge ahead, and by the edge alone."""
    name, link, runs = work
    models = Models(name) if name.startswith("noisy") else Models()
    ahead, alone = (simulated(cell_of(schedule, link, models), runs) for schedule in ("run-ahead", "edge"))
    return [
        (tokens - 1, mine_s, tokens - 1, theirs_s)
        for tokens, mine_s, theirs_s in zip(ahead.tokens, ahead.seconds, alone.seconds, strict=True)
    ]
