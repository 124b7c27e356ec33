"""Fixed settings of every mode on replayed traces, in virtual time: the hindsight that adaptive devices are held to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from airdraft.link import simulation
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_text import MatchRun
from airdraft.link.simulation import SimulatedText, World
from bench.adapt_planner import SimulatedEdge, Timed, adaptive
from bench.adapt_worlds import TRACES
from bench.cells import Cell, Link, Models
from bench.figures import Result, ratio_of_sums
from bench.match_runs import pair_runs, samplings
from bench.prompts import held_out
from bench.radio_link import APART_S, shapes
from bench.schedules import SCHEDULES
from bench.simulate import simulated
from coordinator.policy.plan import OBJECTIVES

DEMO = Models()


@dataclass(frozen=True, slots=True)
class FixedSetting:
    """What a device and its edge do all along, whatever the channel does."""

    schedule: str  # of bench.schedules.SCHEDULES
    draft_length: int = 0  # tokens of a synchronous frame, or of the edge's own drafter for a pass
    frame_tokens: int = 1  # of a frame where several fly

    def cell(self, link: Link, models: Models = DEMO) -> Cell:
        """Return the cell that measures it on a link."""
        return Cell(self.schedule, self.draft_length, link, models, self.frame_tokens)

    def __str__(self) -> str:
        schedule = SCHEDULES[self.schedule]
        length = f" {self.draft_length}" if self.draft_length else ""
        frames = f", frames of {self.frame_tokens}" if schedule.outstanding > 1 else ""
        return f"{self.schedule}{length}{frames}"


SETTINGS: tuple[FixedSetting, ...] = (
    FixedSetting("edge"),
    *(FixedSetting("edge-spec", length) for length in range(1, 9)),
    *(FixedSetting("sync", length) for length in range(1, 17)),
    *(FixedSetting(schedule, 1, tokens) for schedule in ("pipelined", "run-ahead") for tokens in (1, 2, 4, 8)),
    *(FixedSetting("hybrid", length) for length in range(1, 7)),
)
"""Every fixed setting of any mode that hindsight chooses from."""


def hindsight(
    trace: str, runs: Sequence[MatchRun], settings: Sequence[FixedSetting] = SETTINGS, models: Models = DEMO
) -> list[tuple[FixedSetting, float]]:
    """Return every setting with its seconds a token on a trace of ``adapt_worlds.TRACES``, the fastest first.

    Each text begins ``radio_link.APART_S`` further into the trace than the one before it. Simulated: what the ends
    spend beside models and link is left out.
    """
    cells = [(setting, setting.cell(Link(channel=trace), models)) for setting in settings]
    found = [(setting, simulated(cell, runs).s_per_token) for setting, cell in cells]
    return sorted(found, key=lambda each: each[1])


def adaptive_on(trace: str, runs: Sequence[MatchRun], steering: Timed, models: Models = DEMO) -> list[SimulatedText]:
    """Return what the texts came to with a device that plans, each begun as in ``hindsight``; it learns on and on."""
    assert models.target is not None
    link, random = Link(channel=trace), Random(Link().channel_seed)
    costs = Costs(models.draft_s, by_positions(models.target.seconds), models.draft_s)
    texts: list[SimulatedText] = []
    edge = SimulatedEdge(models.target, models.draft_s)
    for number, run in enumerate(runs):
        world = World(costs, gather=edge.rules())
        steering.since_s = number * APART_S
        texts += world.one_by_one([run], adaptive(steering, edge), simulation.Link.of(*shapes(link, number), random))
    return texts


# ---- the figures ----

PROMPTS = 40
"""Word problems, each greedy and at temperature 1: texts of a trace."""

Row = tuple[float, float, float, float]  # of a text: tokens after the first commit and seconds, planned and then fixed


def traced(trace: str, runs: Sequence[MatchRun]) -> tuple[FixedSetting, list[Row], list[Row]]:
    """Return hindsight's best setting of a trace, and each text against it and against the edge alone."""
    best = hindsight(trace, runs)[0][0]
    planned = adaptive_on(trace, runs, Timed(OBJECTIVES["latency"]))

    def rows(setting: FixedSetting) -> list[Row]:
        there = simulated(setting.cell(Link(channel=trace)), runs)
        return [
            (mine.tokens - 1, mine.seconds, tokens - 1, seconds)
            for mine, tokens, seconds in zip(planned, there.tokens, there.seconds, strict=True)
        ]

    return best, rows(best), rows(SETTINGS[0])


def _over(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratio of two rates."""
    return np.asarray(sums[..., 0] / sums[..., 1] / (sums[..., 2] / sums[..., 3]))


def run(*, quick: bool) -> Result:
    """Return how fast a device that plans is on each trace, over the best fixed setting in hindsight, all simulated."""
    result = Result("adapt-sim")
    prompts = held_out(4 if quick else PROMPTS)
    pairs = zip(*(pair_runs(prompts, samplings(degree, len(prompts), seed=1)) for degree in (0.0, 1.0)), strict=True)
    runs = [run for pair in pairs for run in pair]
    over_best: list[float] = []
    over_edge: list[float] = []
    for trace in list(TRACES)[: 2 if quick else None]:
        best, *tables = traced(trace, runs)
        for name, table, ratios in zip(("hindsight", "edge"), tables, (over_best, over_edge), strict=True):
            ratio, low, high = ratio_of_sums(table, _over)
            figure = f"adaptive_over_{name}_{trace.replace('-', '_')}_sim"
            result.figures[figure], result.spread[figure] = round(ratio, 4), (round(low, 4), round(high, 4))
            result.samples[figure] = len(table)
            ratios.append(ratio)
        print(
            f"{trace} ({TRACES[trace].label}): {over_best[-1]:.3f} of {best}, {over_edge[-1]:.2f} of the edge alone",
            file=sys.stderr,
        )
    result.figures["adaptive_over_hindsight_median_sim"] = round(float(np.median(over_best)), 4)
    result.figures["adaptive_over_hindsight_min_sim"] = round(min(over_best), 4)
    result.figures["adaptive_over_edge_min_sim"] = round(min(over_edge), 4)
    return result


if __name__ == "__main__":
    print(run(quick="--quick" in sys.argv[1:]).as_line())
