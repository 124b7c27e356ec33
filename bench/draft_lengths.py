"""Draft-length policies on simulated rounds: ``python -m bench.draft_lengths table``, and more by ``--help``.

Every figure is a ratio to the best *fixed* length of the same world, found by trying all with the true chances: below
1 is possible for a policy that stops by confidence. Simulated; no model and no link is run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from bench.draft_worlds import SHAPES, Run, World, world
from coordinator.policy import acceptance as acceptance_module
from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.draft_length import ARMS, POLICIES, Bandit, DraftLength, MaxGoodput
from coordinator.policy.estimates import Drafted, Estimates, Judged, Passed, Sample, Transfer
from coordinator.policy.rounds import Drafting, Outcome
from coordinator.policy.train import log_line

ROUND_TRIPS_MS = (0, 10, 30, 60, 100, 200)
ACCEPTANCES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ROUNDS = 200
SEEDS = 2
WARM_ROUNDS = 60  # before a step


def over_best(make: Callable[[], DraftLength], where: World, rounds: int = ROUNDS, seeds: int = SEEDS) -> float:
    """Return a policy's seconds a token over the best fixed length's, its learning included; ratio of sums."""
    seconds = tokens = 0.0
    for seed in range(seeds):
        for done in Run(make(), where, seed).rounds(rounds):
            seconds += done.seconds
            tokens += done.outcome.accepted + 1
    return seconds / tokens / where.best_cost


def table(names: Sequence[str] = tuple(POLICIES)) -> None:
    """Print each policy's cost over the best fixed length's, by round trip and acceptance, mean of the shapes."""
    for name in names:
        make = POLICIES[name]
        print(f"\n{name}: rows R ms, columns acceptance {ACCEPTANCES}")
        everything = []
        for round_trip_ms in ROUND_TRIPS_MS:
            row = [
                [over_best(make, world(round_trip_ms, acceptance, shape)) for shape in SHAPES]
                for acceptance in ACCEPTANCES
            ]
            everything += row
            print(f"{round_trip_ms:>5}  " + "  ".join(f"{np.mean(cell):.3f}" for cell in row), flush=True)
        flat = np.array(everything)
        by_shape = ", ".join(f"{shape} {flat[:, at].mean():.3f}" for at, shape in enumerate(SHAPES))
        print(f"  mean {flat.mean():.3f}, worst {flat.max():.3f}; {by_shape}", flush=True)


def after_step(make: Callable[[], DraftLength], before: World, after: World, seed: int, rounds: int) -> list[float]:
    """Return [rounds + 1] the true cost, over the best's, of what would be drafted so many rounds after a change.

    All is estimated, from noisy samples. For policies that look at no confidences.
    """
    run, costs = Run(make(), before, seed), []
    list(run.rounds(WARM_ROUNDS))
    run.world = after
    for _ in range(rounds + 1):
        costs.append(after.cost(run.policy.length(run.known())) / after.best_cost)
        list(run.rounds(1))
    return costs


STEPS: dict[str, tuple[World, World]] = {
    "R 20 -> 200": (world(20, 0.8), world(200, 0.8)),
    "R 200 -> 20": (world(200, 0.8), world(20, 0.8)),
    "R 60 -> 90": (world(60, 0.8), world(90, 0.8)),
    "a .9 -> .5, R 60": (world(60, 0.9), world(60, 0.5)),
    "a .5 -> .9, R 60": (world(60, 0.5), world(60, 0.9)),
    "a .4 -> .9, R 100": (world(100, 0.4), world(100, 0.9)),
    "a .9 -> .4, R 10": (world(10, 0.9), world(10, 0.4)),
    "a .9 -> .4, R 100": (world(100, 0.9), world(100, 0.4)),
}


def within(costs: Sequence[float], limit: float = 1.05) -> int | None:
    """Return the first index from which all costs stay below the limit; None where the last one is not."""
    above = [index for index, cost in enumerate(costs) if cost > limit]
    first = above[-1] + 1 if above else 0
    return first if first < len(costs) else None


def steps(names: Sequence[str] = ("max-goodput", "mlp", "bandit"), seeds: int = 200) -> None:
    """Print the rounds until the mean true cost stays within 5 %, and what it is after 0, 5, 10, 40 and 80 rounds."""
    for name in names:
        for step, pair in STEPS.items():
            run, rounds = (after_step, 20) if step.startswith("R") else (known_costs, 120)
            costs = np.mean([run(POLICIES[name], *pair, seed, rounds) for seed in range(seeds)], axis=0)
            shown = ", ".join(f"{at}: {costs[at]:.3f}" for at in (0, 5, 10, 40, 80) if at < len(costs))
            print(f"{name:>12}  {step:<18} within 5 % after {within(costs)}; {shown}", flush=True)


def known_costs(make: Callable[[], DraftLength], before: World, after: World, seed: int, rounds: int) -> list[float]:
    """Return [rounds] what ``after_step`` does where costs are known for certain, and acceptance alone is estimated."""
    policy, known, chance = make(), AcceptanceByPosition(), np.random.default_rng(seed)
    costs = []
    for index in range(WARM_ROUNDS + rounds):
        here = after if index >= WARM_ROUNDS else before
        length = policy.length(Drafting(here.time, known))
        accepted = int(np.searchsorted(-np.array(here.survival[1 : length + 1]), -chance.random()))
        known = known.updated(length, accepted)
        policy.saw(Outcome(length, accepted))
        costs.append(here.cost(length) / here.best_cost)
    return costs[WARM_ROUNDS:]


def weighed(what: str, make: Callable[[], DraftLength], seeds: int = 40) -> None:
    """Print a policy's cost in steady worlds, and the rounds within 5 % after each step of acceptance."""
    worlds = [world(r, a, shape) for r in (10, 60, 200) for a in (0.5, 0.7, 0.9) for shape in SHAPES]
    steady = [np.mean([known_costs(make, where, where, seed, 200) for seed in range(2)]) for where in worlds]
    slowest = []
    for step, pair in STEPS.items():
        if step.startswith("a"):
            slowest.append(within(np.mean([known_costs(make, *pair, seed, 100) for seed in range(seeds)], axis=0)))
    print(f"{what}: {np.mean(steady):.4f}, worst {max(steady):.3f}; steps {slowest}", flush=True)


def forgetting() -> None:
    """Print what the acceptance's memories of rounds and of neighbours do to ``max-goodput``."""
    usual = acceptance_module.KEPT, acceptance_module.NEIGHBOUR_TOKENS
    for kept, near in [(k, usual[1]) for k in (0.9, 0.94, 0.96, 0.98, 0.99)] + [
        (usual[0], n) for n in (2.0, 4.0, 32.0)
    ]:
        acceptance_module.KEPT, acceptance_module.NEIGHBOUR_TOKENS = kept, near
        weighed(f"kept {kept}, neighbour {near}", MaxGoodput)
    acceptance_module.KEPT, acceptance_module.NEIGHBOUR_TOKENS = usual


def curiosity() -> None:
    """Print what a bandit's curiosity and memory do to it."""
    for beta in (0.0, 0.1, 0.3, 0.6):
        for kept in (0.95, 0.97):
            weighed(f"beta {beta}, kept {kept}", lambda beta=beta, kept=kept: Bandit(beta, kept))  # type: ignore[misc]


class AtRandom:
    """Drafts of any length of ``ARMS``, so that a log tells of all."""

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)
        self._length = 1

    def length(self, now: Drafting) -> int:
        """Return a length that stays through a draft."""
        if not now.drafted:
            self._length = int(self._chance.choice(ARMS))
        return self._length

    def saw(self, outcome: Outcome) -> None:
        """Learn nothing."""


def log(path: str, worlds: int = 1000, rounds: int = 80, seed: int = 7) -> None:
    """Write a log of simulated rounds: worlds at random, not those of the table, half of them changing half way."""
    chance = np.random.default_rng(seed)

    def anywhere() -> World:
        draft_ms, pass_ms = float(chance.uniform(1, 25)), float(chance.uniform(10, 60))
        place = world(float(chance.gamma(1, 80)), float(chance.uniform(0.3, 0.95)), str(chance.choice(SHAPES)))
        line = type(place.time.target)(pass_ms / 1000, pass_ms / 1000 * float(chance.uniform(0, 0.1)))
        return World(type(place.time)(place.time.round_trip_s, draft_ms / 1000, line), place.chances)

    with open(path, "w", encoding="utf-8") as file:
        for index in range(worlds):
            run = Run(AtRandom(index), anywhere(), index)
            for half in range(2):
                for done in run.rounds(rounds // 2):
                    file.write(log_line(done.before, done.outcome, done.seconds) + "\n")
                if not half and index % 2:
                    run.world = anywhere()


def cpu(rounds: int = 3000) -> None:
    """Print thread CPU seconds: one update of all estimates with every part of a sample, and one decision after it."""
    chance = np.random.default_rng(0)
    for name, make in POLICIES.items():
        policy, estimates = make(), Estimates()
        updates, decisions = [], []
        for index in range(rounds):
            drafted = int(chance.integers(1, 12))
            accepted = int(chance.integers(0, drafted + 1))
            trip_s = 0.06 * float(chance.lognormal(0, 0.2))
            up, down = Transfer(34 + 4 * drafted, trip_s / 2), Transfer(42 + 5 * accepted, trip_s / 2)
            sample = Sample(
                0.1 * index, trip_s, up, down, False, Drafted(drafted, 0.008 * drafted), Passed(drafted + 1, 0.03),
                Judged(drafted, accepted),
            )  # fmt: skip
            began = time.thread_time_ns()
            estimates = estimates.updated(sample)
            known = estimates.round_time()
            middle = time.thread_time_ns()
            assert known is not None
            confidences = tuple(chance.random(drafted).tolist())
            first = Drafting(known, estimates.acceptance)
            later = Drafting(known, estimates.acceptance, drafted, confidences)
            begin = time.thread_time_ns()
            policy.length(first)
            policy.length(later)
            decisions.append(time.thread_time_ns() - begin)
            updates.append(middle - began)
            policy.saw(Outcome(drafted, accepted, confidences))
        both = np.array(updates) + np.array(decisions)
        shown = "; ".join(
            f"{what} p50 {np.percentile(took, 50) / 1000:.0f} p99 {np.percentile(took, 99) / 1000:.0f} us"
            for what, took in (("update", updates), ("decision", decisions), ("both", both))
        )
        print(f"{name:>12}  {shown}", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.draft_lengths", description=__doc__)
    parser.add_argument("what", choices=("table", "steps", "forgetting", "curiosity", "cpu", "log"))
    parser.add_argument("path", nargs="?", help="of the log")
    parser.add_argument(
        "--policy", action="append", choices=tuple(POLICIES), help="of table and steps; may be repeated"
    )
    chosen = parser.parse_args()
    if chosen.what == "log":
        if chosen.path is None:
            parser.error("log needs the path to write to")
        log(chosen.path)
        return
    if chosen.what in ("table", "steps"):
        shown = {"table": table, "steps": steps}[chosen.what]
        shown(*([chosen.policy] if chosen.policy else []))
        return
    {"forgetting": forgetting, "curiosity": curiosity, "cpu": cpu}[chosen.what]()


if __name__ == "__main__":
    main()
