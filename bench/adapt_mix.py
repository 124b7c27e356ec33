"""Adaptive devices against fixed settings over a mix of worlds: load, acceptance, uplink, round trip, objective.

All is simulated: the cores, an edge whose steps all sessions share (``bench.capacity_sim.StepRules``), and devices that
either keep one setting or plan for themselves. A world's cost of a setting is what its objective says of the seconds
measured: the user's, the edge's and the device's for a token. The best fixed setting is the one with the least mean,
over all worlds and objectives, of its cost over the cost of that world's best.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

import numpy as np
from numpy.typing import NDArray

from airdraft.link.shaping import Constant, Shape
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import GatheringEngine, by_positions
from airdraft.link.sim_text import MatchDrafter, MatchRun
from airdraft.link.simulation import Conduct, Link, SimulatedText, World
from airdraft.link.timeline import MBIT_S
from bench.adapt_planner import OWN_TOKENS, SimulatedEdge, Timed, adaptive
from bench.adapt_sim import SETTINGS, FixedSetting
from bench.capacity_sim import STAGGER_S, StepRules
from bench.cells import PASS
from bench.figures import Result, interval_95
from bench.match_runs import iid_runs
from bench.schedules import SCHEDULES
from coordinator.policy.costs import PassCost
from coordinator.policy.expected import Expected
from coordinator.policy.plan import OBJECTIVES, Objective

DRAFT_S = 0.008
DOWN_BYTES_S = 10 * MBIT_S
FAST_UP, SLOW_UP = 10 * MBIT_S, 0.05 * MBIT_S

MIX_SETTINGS: tuple[FixedSetting, ...] = (
    FixedSetting("edge"),
    *(FixedSetting("edge-spec", length) for length in (2, 4)),
    *(FixedSetting("sync", length) for length in (1, 2, 4, 8)),
    *(FixedSetting(schedule, 1, tokens) for schedule in ("pipelined", "run-ahead") for tokens in (1, 4)),
    *(FixedSetting("hybrid", length) for length in (2, 4)),
)
"""Fixed settings that stand for all of a mode's."""


@dataclass(frozen=True, slots=True)
class Place:
    """One world of the mix."""

    sessions: int
    acceptance: float  # of all texts of the place: a kind of prompt
    round_trip_ms: int
    up_bytes_s: float = FAST_UP
    drafter: bool = True  # the edge has one of its own, as fast and as good as the devices'

    def __str__(self) -> str:
        slow = ", 50 kbit/s up" if self.up_bytes_s < FAST_UP else ""
        without = "" if self.drafter else ", no drafter at the edge"
        return f"{self.sessions:2} sessions, acceptance {self.acceptance}, {self.round_trip_ms:3} ms{slow}{without}"

    def texts(self, tokens: int | None = None, seed: int = 1) -> list[MatchRun]:
        """Return a text for each session."""
        return iid_runs(self.acceptance, self.sessions, tokens or TOKENS[self.sessions], seed)


TOKENS = {1: 400, 4: 200, 16: 100, 64: 50}
"""Of a text, by load: a place with many sessions tells as much in less."""

PLACES: tuple[Place, ...] = tuple(
    Place(sessions, acceptance, trip_ms, FAST_UP if (load // 2 + index) % 2 == 0 else SLOW_UP, (load + index) % 2 == 0)
    for load, sessions in enumerate(TOKENS)
    for index, (acceptance, trip_ms) in enumerate(product((0.4, 0.6, 0.9), (10, 60, 200)))
)
"""The mix: every acceptance meets every round trip at every load; every other uplink is slow, and every other edge has
a drafter of its own, in such turns that each meets each."""


def _rules(line: PassCost) -> StepRules:
    rules = StepRules(line)
    rules.company.thrifty = False  # as an edge is by default
    return rules


def simulated(place: Place, runs: Sequence[MatchRun], conduct: Callable[[int], Conduct], rules: StepRules) -> Expected:
    """Return what a token came to while all devices were at it; ``conduct`` is each device's and its edge's.

    Devices begin by chance within ``STAGGER_S``. Bytes are left out.
    """
    return spent(place, *written(place, runs, conduct, rules))


def written(
    place: Place, runs: Sequence[MatchRun], conduct: Callable[[int], Conduct], rules: StepRules
) -> tuple[list[SimulatedText], GatheringEngine]:
    """Return the texts, written side by side, and the engine that they shared."""
    chance = Random(1)
    starts = [chance.random() * STAGGER_S for _ in runs]
    way_s = place.round_trip_ms / 2000
    up, down = Shape(Constant(way_s, place.up_bytes_s)), Shape(Constant(way_s, DOWN_BYTES_S))
    world = World(Costs(DRAFT_S, by_positions(rules.line.seconds), DRAFT_S), gather=rules)
    texts = world.fleet(runs, starts, conduct, lambda _: Link.of(up, down, chance))
    assert isinstance(world.engine, GatheringEngine)
    return texts, world.engine


def spent(place: Place, texts: Sequence[SimulatedText], engine: GatheringEngine) -> Expected:
    """Return what a token came to from when the last device had begun until the first one had ended."""
    steps = [(at_s + step_s + place.round_trip_ms / 2000, step_s) for at_s, step_s, _, _ in engine.log]
    since_s, until_s = max(text.arrivals[0][0] for text in texts), min(text.arrivals[-1][0] for text in texts)
    tokens = sum(count for text in texts for when, count in text.arrivals if since_s < when <= until_s)
    busy_s = sum(step_s for when, step_s in steps if since_s < when <= until_s)
    device_s = sum(text.draft_s for text in texts) / sum(text.tokens for text in texts)
    return Expected((until_s - since_s) * len(texts) / tokens, busy_s / tokens, device_s, 0.0)


def fixed(place: Place, runs: Sequence[MatchRun], setting: FixedSetting, line: PassCost = PASS) -> Expected:
    """Return what a token came to where every device keeps a setting."""
    schedule = SCHEDULES[setting.schedule]
    conduct = Conduct(
        schedule.plan(setting.draft_length, setting.frame_tokens),
        own_draft_tokens=schedule.own_length(setting.draft_length) if place.drafter else 0,
        own_drafter=MatchDrafter,
        run_ahead=schedule.run_ahead,
        overtaking=schedule.run_ahead,
    )
    return simulated(place, runs, lambda _: conduct, _rules(line))


def planned(place: Place, runs: Sequence[MatchRun], objective: Objective, line: PassCost = PASS) -> Expected:
    """Return what a token came to where every device plans.

    Devices and edge have been there for a text: it is what they learnt by then that is measured, not how they learn it.
    """
    steering = [Timed(objective) for _ in runs]
    edge = SimulatedEdge(line, DRAFT_S, OWN_TOKENS if place.drafter else 0)

    def conduct(index: int) -> Conduct:
        return adaptive(steering[index], edge)

    before, _ = written(place, place.texts(len(runs[0].ids), seed=2), conduct, edge.rules())
    for each in steering:
        each.since_s = max(text.arrivals[-1][0] for text in before)
    return simulated(place, runs, conduct, edge.rules())


# ---- the mix ----


@dataclass(frozen=True, slots=True)
class Found:
    """What one place came to."""

    place: Place
    fixed: Mapping[FixedSetting, Expected]
    adaptive: Mapping[str, Expected]  # by objective

    def ratios(self, objective: str) -> dict[FixedSetting | None, float]:
        """Return each setting's cost over the best one's; None is the device that plans."""
        weights = OBJECTIVES[objective]
        costs = {setting: weights.cost(spent) for setting, spent in self.fixed.items()}
        best = min(costs.values())
        ratios: dict[FixedSetting | None, float] = {setting: cost / best for setting, cost in costs.items()}
        ratios[None] = weights.cost(self.adaptive[objective]) / best
        return ratios


def found_at(place: Place) -> Found:
    """Return what a place comes to with every setting, and with devices that plan for each objective."""
    runs = place.texts()
    return Found(
        place,
        {setting: fixed(place, runs, setting) for setting in MIX_SETTINGS},
        {name: planned(place, runs, objective) for name, objective in OBJECTIVES.items()},
    )


def _mean(values: Iterable[float]) -> float:
    """Return the geometric mean."""
    return float(np.exp(np.mean(np.log(list(values)))))


def add_mix(result: Result, found: Sequence[Found], name: str = "mix", suffix: str = "_sim") -> None:
    """Add how much less devices that plan cost than the best fixed setting.

    Also the ceiling, by how much the fixed setting that is best in each place and for each objective is better than the
    best one for all, and what devices that plan reach of it. They may pass it: a plan need be no fixed setting.
    """
    rows = [one.ratios(objective) for one in found for objective in OBJECTIVES]
    means = {setting: _mean(row[setting] for row in rows) for setting in MIX_SETTINGS}
    best = min(means, key=lambda setting: means[setting])
    planned_logs = np.log([row[None] for row in rows])
    gains = np.log([row[best] for row in rows]) - planned_logs
    _add(result, f"adaptive_over_best_fixed_{name}{suffix}", gains)
    _add(result, f"adaptive_over_ceiling_{name}_sim", -planned_logs)
    result.figures[f"{name}_ceiling_sim"] = round(means[best], 4)
    say(f"{name}: best fixed {best}, {means[best]:.3f} of the best of each; planned {_mean(np.exp(planned_logs)):.3f}")


def _add(result: Result, figure: str, logs: Sequence[float] | NDArray[np.float64]) -> None:
    """Add the geometric mean of ratios, given as logarithms, with its interval from drawing them again."""
    result.figures[figure] = round(float(np.exp(np.mean(logs))), 4)
    low, high = interval_95(np.asarray(logs).tolist(), lambda drawn: float(np.exp(drawn.mean())))
    result.spread[figure], result.samples[figure] = (round(low, 4), round(high, 4)), len(logs)


def say(message: str) -> None:
    """Tell whoever waits for the bench."""
    print(f"adapt: {message}", file=sys.stderr, flush=True)


# ---- edge seconds against time ----


def add_cut(result: Result, found: Sequence[Found], name: str = "") -> None:
    """Add by what share the objective edge-seconds cuts the edge's seconds a token, and what it costs in time.

    Against devices that plan for latency; and against the edge alone, which no device can make faster or cheaper.
    """
    edge = next(setting for setting in MIX_SETTINGS if setting.schedule == "edge")
    for over, label in ((None, ""), (edge, "_over_edge_alone")):
        pairs = [
            (one.adaptive["edge-seconds"], one.adaptive["latency"] if over is None else one.fixed[over])
            for one in found
        ]
        slower = [float(np.log(saving.seconds / other.seconds)) for saving, other in pairs]
        kept = [float(np.log(saving.edge_s / other.edge_s)) for saving, other in pairs]
        _add(result, f"edge_seconds_latency_cost{label}{name}", slower)
        low, high = interval_95(kept, lambda drawn: 1 - float(np.exp(drawn.mean())))
        figure = f"edge_seconds_cut{label}{name}"
        result.figures[figure], result.samples[figure] = round(1 - float(np.exp(np.mean(kept))), 4), len(kept)
        result.spread[figure] = (round(low, 4), round(high, 4))


WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Of an edge second in the objectives of the frontier, where the user's second is 1."""

SLOWER = 1.03
"""How much more time the frontier allows."""


def add_frontier(result: Result, place: Place) -> None:
    """Add the largest cut of edge seconds for at most 3 % more time: of fixed settings, and of devices that plan."""
    runs = place.texts()
    every = {str(setting): fixed(place, runs, setting) for setting in SETTINGS}
    fast = planned(place, runs, OBJECTIVES["latency"])
    by_weight = {weight: planned(place, runs, Objective(1.0, weight, 0.01)) for weight in WEIGHTS}
    name = f"{place.sessions}_sessions_rtt{place.round_trip_ms}_acceptance{place.acceptance * 100:.0f}"
    quickest = min(spent.seconds for spent in every.values())
    for kind, spents, limit_s, base_s in (
        ("fixed", list(every.values()), quickest, min(every.values(), key=lambda spent: spent.seconds).edge_s),
        ("adaptive", [fast, *by_weight.values()], fast.seconds, fast.edge_s),
    ):
        least_s = min(spent.edge_s for spent in spents if spent.seconds <= SLOWER * limit_s)
        result.figures[f"edge_seconds_cut_within_3_percent_{kind}_{name}_sim"] = round(1 - least_s / base_s, 4)
    swept = ", ".join(
        f"{weight}: {spent.seconds / fast.seconds - 1:+.0%} time {spent.edge_s / fast.edge_s - 1:+.0%} edge"
        for weight, spent in by_weight.items()
    )
    say(f"frontier, {place}: {swept}")


FRONTIER = tuple(Place(1, acceptance, trip) for acceptance in (0.6, 0.9) for trip in (10, 60, 200))


# ---- all of it ----


def run(*, quick: bool) -> Result:
    """Return the figures of the mix, of edge seconds against time, and of the frontier."""
    result = Result("adapt-mix")
    found: list[Found] = []
    for place in PLACES:
        if not quick or place.sessions <= 4:
            found.append(found_at(place))
            shown = ", ".join(f"{name} {found[-1].ratios(name)[None]:.2f}" for name in OBJECTIVES)
            say(f"{place}: planned over the best fixed setting, {shown}")
    add_mix(result, found, suffix="")
    add_cut(result, found)
    for kind, drafter in (("edges_with_a_drafter", True), ("edges_without_a_drafter", False)):
        add_mix(result, [one for one in found if one.place.drafter == drafter], f"mix_{kind}")
    for sessions in dict.fromkeys(one.place.sessions for one in found):
        there = [one for one in found if one.place.sessions == sessions]
        add_mix(result, there, f"mix_{sessions}_sessions")
        add_cut(result, there, f"_{sessions}_sessions_sim")
    for place in FRONTIER[:1] if quick else FRONTIER:
        add_frontier(result, place)
    return result


if __name__ == "__main__":
    print(run(quick="--quick" in sys.argv[1:]).as_line())
