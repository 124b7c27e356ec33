"""``python -m bench.semantic_sim``: schedules of semantic sessions in virtual time, the session cores as they are.

All that it prints is simulated. Texts of matches by chance: a token is the drafter's own with the exact chance, another
wording of it that is as good with what is left to the semantic one, and else a miss. After another wording the text is
taken to go on with the same matches, which is an approximation (``airdraft.link.sim_text``); the judge never errs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import numpy as np

from airdraft.core.types import Plan
from airdraft.link.shaping import Constant, Shape
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_meaning import ASKED
from airdraft.link.sim_text import MatchRun
from airdraft.link.simulation import Conduct, Link, SimulatedText, World
from bench.adapt_planner import SimulatedEdge, Timed, adaptive
from bench.cells import PASS
from bench.schedules import PIPELINED
from coordinator.policy import plan as policy
from coordinator.policy.expected import Expected, Setting, edge_alone, pipelined, synchronous
from coordinator.policy.provisional import provisional, provisional_s

DRAFT_S = 0.008
EXACT, SEMANTIC = 0.80, 0.90
"""The chances that a drafted token is the target's own, and that it stands."""

ROUND_TRIPS_MS = (0, 10, 30, 60, 100, 200, 300)
LENGTHS = range(2, 25, 2)
"""Of synchronous frames, of which the best counts."""

BARS = {30: 1.8, 60: 1.55, 100: 1.33, 300: 1.0}
"""Of the best semantic schedule over the edge alone."""


def meaning_runs(exact: float, semantic: float, texts: int, tokens: int, seed: int) -> list[MatchRun]:
    """Return texts whose tokens are, each by itself, the drafter's own, harmless misses or harmful ones."""
    chance, ids = np.random.default_rng(seed), tuple(range(1, tokens + 1))
    runs: list[MatchRun] = []
    for _ in range(texts):
        drawn = chance.random(tokens)
        harmless = (drawn >= exact) & (drawn < semantic)
        runs.append(MatchRun(ids, tuple((drawn < exact).tolist()), harmless=tuple(harmless.tolist())))
    return runs


@dataclass(frozen=True, slots=True)
class Schedule:
    """One way to write a semantic text, and its model."""

    conduct: Callable[[Setting], Conduct]
    model: Callable[[Setting], Expected] | None = None


def setting_of(round_trip_s: float, exact: float = EXACT, semantic: float = SEMANTIC) -> Setting:
    """Return what the models need of a cell."""
    return Setting(round_trip_s, DRAFT_S, PASS, (semantic,), harmless=(semantic - exact) / (1 - exact))


def _held(setting: Setting, *, frame_tokens: int = 1) -> Conduct:
    plan = Plan(frame_tokens, PIPELINED, provisional_s=provisional_s(setting, frame_tokens))
    return Conduct(plan, run_ahead=True, semantic=ASKED)


def _sync(setting: Setting, *, length: int) -> Conduct:
    return Conduct(Plan(length), semantic=ASKED)


SCHEDULES: dict[str, Schedule] = {
    "edge": Schedule(lambda setting: Conduct(Plan(0)), edge_alone),
    "exact": Schedule(lambda setting: Conduct(Plan(1, PIPELINED), run_ahead=True)),
    "pipelined": Schedule(
        lambda setting: Conduct(Plan(1, PIPELINED), semantic=ASKED), partial(pipelined, run_ahead=False)
    ),
    "run-ahead": Schedule(
        lambda setting: Conduct(Plan(1, PIPELINED), run_ahead=True, semantic=ASKED), partial(pipelined, run_ahead=True)
    ),
    "provisional": Schedule(_held, provisional),
    **{
        f"sync-{length}": Schedule(partial(_sync, length=length), partial(synchronous, draft_length=length))
        for length in LENGTHS
    },
}
"""By name; *exact* is run-ahead in an exact session."""


def texts_of(conduct: Conduct, round_trip_s: float, runs: Sequence[MatchRun]) -> list[SimulatedText]:
    """Return the texts one after the other, each in a world of its own."""
    way = Shape(Constant(round_trip_s / 2))
    costs, texts = Costs(DRAFT_S, by_positions(PASS.seconds)), list[SimulatedText]()
    for run in runs:
        texts += World(costs).one_by_one([run], conduct, Link.of(way, way, Random(1)))
    return texts


def tokens_per_s(texts: Sequence[SimulatedText]) -> float:
    """Return tokens after the first of each text, over the seconds that they took."""
    return sum(text.tokens - 1 for text in texts) / sum(text.seconds for text in texts)


def simulate(schedule: str, round_trip_s: float, runs: Sequence[MatchRun]) -> float:
    """Return tokens a second of one of ``SCHEDULES``, or of a device that plans by itself, *auto*."""
    if schedule == "auto":
        return planned(round_trip_s, runs)[0]
    if schedule == "sync":
        return max(simulate(f"sync-{length}", round_trip_s, runs) for length in LENGTHS)
    return tokens_per_s(texts_of(SCHEDULES[schedule].conduct(setting_of(round_trip_s)), round_trip_s, runs))


def planned(round_trip_s: float, runs: Sequence[MatchRun]) -> tuple[float, str]:
    """Return tokens a second of a device that plans, and its last plan's way."""
    edge, steering = SimulatedEdge(PASS, DRAFT_S, own_tokens=0), Timed(policy.OBJECTIVES["latency"])
    way, texts = Shape(Constant(round_trip_s / 2)), list[SimulatedText]()
    for run in runs:
        world = World(Costs(DRAFT_S, by_positions(PASS.seconds)), gather=edge.rules())
        conduct = replace(adaptive(steering, edge), semantic=ASKED)
        texts += world.one_by_one([run], conduct, Link.of(way, way, Random(1)))
        steering.since_s += world.agenda.now
    return tokens_per_s(texts), steering.planner.plan.way


def main(texts: int = 20, tokens: int = 1000) -> None:
    """Print tokens a second of each schedule, by round trip, and how far the models are off."""
    runs = meaning_runs(EXACT, SEMANTIC, texts, tokens, seed=1)
    names = ("edge", "exact", "sync", "pipelined", "run-ahead", "provisional")
    print("RTT ms " + "".join(f"{name:>14}" for name in names) + f"{'auto':>14}  best/edge")
    for rtt_ms in ROUND_TRIPS_MS:
        rates = {name: simulate(name, rtt_ms / 1000, runs) for name in names}
        auto, way = planned(rtt_ms / 1000, runs)
        best = max(rate for name, rate in rates.items() if name != "exact") / rates["edge"]
        bar = f" (bar {BARS[rtt_ms]})" if rtt_ms in BARS else ""
        cells = "".join(f"{rates[name]:8.1f}{_error(name, rtt_ms, rates[name]):>6}" for name in names)
        print(f"{rtt_ms:6d} {cells}{auto:8.1f}  {best:.2f}{bar}, {way}")


def _error(name: str, rtt_ms: int, rate: float) -> str:
    schedule = SCHEDULES.get(name)
    if schedule is None or schedule.model is None:
        return ""
    return f"{1 / schedule.model(setting_of(rtt_ms / 1000)).seconds / rate - 1:+.0%}"


if __name__ == "__main__":
    main()
