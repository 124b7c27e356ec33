"""How soon a device that plans has the right plan after a step of the channel or of acceptance. All is simulated.

The cores run as they are, with the planner of a real device and the quotes of a real edge; what is counted is not the
time that they took but the plan after each answer: its expected cost under the true parameters
(``coordinator.policy.expected``) over that of the best of all plans, mean of the seeds.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from airdraft.core import types as core
from airdraft.core.session.device import Tally
from airdraft.core.types import Commit, EdgeFrame
from airdraft.link.shaping import Constant, Shape
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_text import MatchRun
from airdraft.link.simulation import ENDLESS, Link, World
from airdraft.link.timeline import MBIT_S
from bench.adapt_planner import OWN_TOKENS, SimulatedEdge, Timed, adaptive
from bench.cells import PASS, Models
from bench.draft_lengths import within
from bench.figures import Result
from coordinator.policy.costs import RoundCost
from coordinator.policy.expected import Setting
from coordinator.policy.plan import FRAME_TOKENS, FRAMES, OBJECTIVES, Decision, Offer, Plan, expected_of
from coordinator.policy.rounds import LONGEST

DRAFT_S = Models().draft_s
SEEDS = 200
JITTER = 0.15
"""The most that both directions add, as a share of the shorter round trip, uniform."""

STEP_S = 2.0
"""When the channel changes; by then a device has had some 60 answers."""

STEP_TOKENS = 120
"""After how many tokens acceptance changes."""

CHANNEL_ROUNDS, ACCEPTANCE_ROUNDS = 20, 100
"""For how long a device is watched."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a device has to find out, and what its edge can do."""

    round_trip_ms: float
    acceptance: float
    up_bytes_s: float = 10 * MBIT_S
    full: bool = True  # the edge goes ahead and has a drafter like the device's; else it only verifies

    @property
    def setting(self) -> Setting:
        """Return it as plans are weighed by it."""
        return Setting(
            self.round_trip_ms / 1000,
            DRAFT_S,
            PASS,
            (self.acceptance,),
            own_draft_s=DRAFT_S,
            up_bytes_s=self.up_bytes_s,
            live_nodes=ENDLESS.live_nodes,
        )

    @property
    def own_tokens(self) -> int:
        """Return how many tokens the edge's own drafter writes once it knows its acceptance."""
        cost = RoundCost(0.0, DRAFT_S, PASS, self.acceptance)
        return min(range(9), key=lambda length: cost.edge_drafter_s(length, DRAFT_S)) if self.full else 0

    @property
    def offer(self) -> Offer:
        """Return what the edge can do."""
        return Offer(self.full, self.own_tokens)

    def cost(self, plan: Plan) -> float:
        """Return what a plan costs in truth; how much the edge drafts is the edge's to adapt."""
        if plan.way in ("edge-draft", "hybrid"):
            plan = replace(plan, draft_length=self.own_tokens)
        return LATENCY.cost(expected_of(plan, self.setting, self.offer))

    def best_cost(self) -> float:
        """Return the cost of the best of all plans, of every mode and length."""
        return min(map(self.cost, self.plans()))

    def plans(self) -> list[Plan]:
        """Return every plan that there is."""
        waits = self.full
        plans = [Plan("edge", own_draft=False), *(Plan("split", n, n, waits=waits) for n in range(1, LONGEST + 1))]
        plans += [Plan("split", 0, tokens, FRAMES, waits=waits) for tokens in FRAME_TOKENS]
        if self.full:
            plans += [Plan("edge", self.own_tokens)] if self.own_tokens else []
            plans += [Plan("split", 0, tokens, FRAMES, own_draft=False) for tokens in FRAME_TOKENS]
            plans += [Plan("hybrid", self.own_tokens, tokens, FRAMES) for tokens in FRAME_TOKENS if self.own_tokens]
        return plans


LATENCY = OBJECTIVES["latency"]

Step = tuple[Truth, Truth]

CHANNEL_STEPS: dict[str, Step] = {
    "R 20 -> 200": (Truth(20, 0.8), Truth(200, 0.8)),
    "R 200 -> 20": (Truth(200, 0.8), Truth(20, 0.8)),
    "R 60 -> 90": (Truth(60, 0.8), Truth(60 * 1.5, 0.8)),
    "up 10 Mbit/s -> 50 kbit/s": (Truth(60, 0.8), Truth(60, 0.8, 0.05 * MBIT_S)),
}

ACCEPTANCE_STEPS: dict[str, Step] = {
    "a .9 -> .4, R 60": (Truth(60, 0.9), Truth(60, 0.4)),
    "a .4 -> .9, R 60": (Truth(60, 0.4), Truth(60, 0.9)),
    "a .5 -> .8, R 20": (Truth(20, 0.5), Truth(20, 0.8)),
}


@dataclass(frozen=True, slots=True)
class Stepped:
    """Conditions that change once."""

    before: Constant
    after: Constant
    at_s: float

    def _now(self, at_s: float) -> Constant:
        return self.before if at_s < self.at_s else self.after

    def rate_bytes_s(self, at_s: float) -> float:
        return self._now(at_s).bytes_s

    def delay_s(self, at_s: float) -> float:
        return self._now(at_s).one_way_s

    def steady_until_s(self, at_s: float) -> float:
        return self.at_s if at_s < self.at_s else float("inf")


class Observed(Timed):
    """Notes the plan behind every commit, and the processor's seconds of what led to it."""

    def __init__(self) -> None:
        super().__init__(LATENCY)
        self.plans: list[tuple[float, int, Plan]] = []  # when, the length of the text, the plan from then on
        self.cpu_s: list[tuple[float, float]] = []  # of each decision, and with the estimates that it follows from
        self._decide, self._decided_s = self.planner.decide, 0.0
        self.planner.decide = self._timed  # type: ignore[method-assign]

    def _timed(self) -> Decision | None:
        began_ns = time.thread_time_ns()
        decision = self._decide()
        self._decided_s = (time.thread_time_ns() - began_ns) / 1e9
        return decision

    def received(self, frame: EdgeFrame, tally: Tally, at_s: float) -> core.Plan | None:
        """Take a frame, and note what came of it."""
        began_ns = time.thread_time_ns()
        plan = super().received(frame, tally, at_s)
        self.cpu_s.append((self._decided_s, (time.thread_time_ns() - began_ns) / 1e9))
        if isinstance(frame, Commit):
            self.plans.append((at_s, tally.committed, self.planner.plan))
        return plan


def observed(before: Truth, after: Truth, seed: int, rounds: int) -> tuple[list[Plan], list[tuple[float, float]]]:
    """Return [rounds + 1] the plan at a step and after each answer since, and processor seconds a decision."""
    chance, steering = Random(seed), Observed()
    channel = before.acceptance == after.acceptance
    tokens = STEP_TOKENS + 4 * rounds if not channel else int(STEP_S / 0.010) + 6 * rounds
    turned = tokens if channel else STEP_TOKENS
    matched = tuple(chance.random() < (before if index < turned else after).acceptance for index in range(tokens))
    run = MatchRun(tuple(range(1, tokens + 1)), matched)
    edge = SimulatedEdge(PASS, DRAFT_S, OWN_TOKENS if after.full else 0, run_ahead=after.full)
    world = World(Costs(DRAFT_S, by_positions(PASS.seconds), DRAFT_S), gather=edge.rules())
    world.one_by_one([run], adaptive(steering, edge), _link(before, after, chance))
    since = [plan for at_s, length, plan in steering.plans if (at_s >= STEP_S if channel else length > STEP_TOKENS)]
    since = since[: rounds + 1]
    return since + [since[-1]] * (rounds + 1 - len(since)), steering.cpu_s


def _link(before: Truth, after: Truth, chance: Random) -> Link:
    def way(up: bool) -> Shape:
        ends = [
            Constant(truth.round_trip_ms / 2000, truth.up_bytes_s if up else 10 * MBIT_S) for truth in (before, after)
        ]
        shorter_s = min(before.round_trip_ms, after.round_trip_ms) / 1000
        return Shape(Stepped(ends[0], ends[1], STEP_S), jitter_s=JITTER * shorter_s / 2)

    return Link.of(way(True), way(False), chance)


def after_step(step: Step, rounds: int, seeds: int) -> tuple[list[float], list[tuple[float, float]]]:
    """Return [rounds + 1] the mean true cost over the best's after so many answers, and seconds a decision."""
    before, after = step
    best, costs, cpu_s = after.best_cost(), np.zeros(rounds + 1), []
    known: dict[Plan, float] = {}
    for seed in range(seeds):
        plans, spent_s = observed(before, after, seed, rounds)
        cpu_s += spent_s
        for plan in plans:
            if plan not in known:
                known[plan] = after.cost(plan) / best
        costs += [known[plan] for plan in plans]
    return (costs / seeds).tolist(), cpu_s


def _add(result: Result, kind: str, steps: dict[str, Step], rounds: int, seeds: int) -> list[tuple[float, float]]:
    """Add the rounds of the slowest step of a kind, and return the seconds of every decision."""
    slowest, cpu_s = 0, []
    for name, step in steps.items():
        costs, spent_s = after_step(step, rounds, seeds)
        found = within(costs)
        cpu_s += spent_s
        slowest = max(slowest, rounds + 1 if found is None else found)
        shown = ", ".join(f"{at}: {costs[at]:.3f}" for at in (0, 5, 10, 20, 40, 60, 80, 100) if at < len(costs))
        print(f"{name:<28} within 5 % after {found}; {shown}", file=sys.stderr, flush=True)
    result.figures[f"rounds_to_adapt_{kind}_max"] = slowest
    result.samples[f"rounds_to_adapt_{kind}_max"] = seeds
    return cpu_s


def run(*, quick: bool) -> Result:
    """Return the rounds until the mean cost stays within 5 % of the best, and the processor's time of a decision."""
    result, seeds = Result("adapt-steps"), 4 if quick else SEEDS
    cpu_s = _add(result, "channel", CHANNEL_STEPS, CHANNEL_ROUNDS, seeds)
    cpu_s += _add(result, "acceptance", ACCEPTANCE_STEPS, ACCEPTANCE_ROUNDS, seeds)
    for name, spent_s in zip(("decision", "decision_and_estimates"), zip(*cpu_s, strict=True), strict=True):
        result.figures[f"{name}_cpu_ms_p99"] = round(float(np.percentile(spent_s, 99)) * 1e3, 4)
        result.samples[f"{name}_cpu_ms_p99"] = len(cpu_s)
    return result


if __name__ == "__main__":
    print(run(quick="--quick" in sys.argv[1:]).as_line())
