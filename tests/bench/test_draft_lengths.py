"""Draft-length policies in simulated worlds: hardly dearer than the best fixed length, and soon so after a step."""

from __future__ import annotations

import numpy as np
import pytest

from bench.draft_lengths import STEPS, after_step, known_costs, over_best
from bench.draft_worlds import SHAPES, Run, chances, world
from coordinator.policy.draft_length import POLICIES, Fixed
from coordinator.policy.rounds import LONGEST

GRID = [world(r, a, shape) for r in (0, 60, 200) for a in (0.5, 0.8) for shape in SHAPES]


@pytest.mark.parametrize("shape", SHAPES)
def test_chances_have_their_mean_and_shape(shape: str) -> None:
    curve = chances(0.7, shape)
    assert len(curve) == LONGEST
    assert np.mean(curve[:8]) == pytest.approx(0.7)
    assert np.sign(curve[7] - curve[0]) == {"flat": 0, "falling": -1, "rising": 1}[shape]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_worlds_costs_are_those_of_its_rounds(shape: str) -> None:
    place = world(60, 0.8, shape)
    assert over_best(lambda: Fixed(6), place, rounds=3000, seeds=1) == pytest.approx(
        place.cost(6) / place.best_cost, rel=0.03
    )


def test_a_run_is_the_same_for_the_same_seed() -> None:
    place = world(60, 0.8)
    first, second, other = (
        [done.seconds for done in Run(POLICIES["specdec++"](), place, seed).rounds(20)] for seed in (1, 1, 2)
    )
    assert first == second != other


@pytest.mark.parametrize(
    ("name", "mean", "worst"), [("max-goodput", 1.02, 1.06), ("bandit", 1.03, 1.08), ("mlp", 1.03, 1.09)]
)
def test_models_come_near_the_best_fixed_length_everywhere(name: str, mean: float, worst: float) -> None:
    costs = [np.mean([known_costs(POLICIES[name], where, where, seed, 200) for seed in range(4)]) for where in GRID]
    assert np.mean(costs) < mean
    assert max(costs) < worst


def test_a_stop_that_holds_the_round_trips_price_beats_the_best_fixed_length() -> None:
    costs = [over_best(POLICIES["specdec++"], where, rounds=300, seeds=1) for where in GRID]
    assert np.mean(costs) < 0.99


@pytest.mark.parametrize("name", ["max-goodput", "bandit", "mlp"])
@pytest.mark.parametrize("step", [step for step in STEPS if step.startswith("R")])
def test_ten_rounds_after_a_step_of_the_channel_the_plan_is_within_five_percent(step: str, name: str) -> None:
    costs = np.mean([after_step(POLICIES[name], *STEPS[step], seed, 14) for seed in range(30)], axis=0)
    assert max(costs[10:]) < 1.05


@pytest.mark.parametrize("name", ["max-goodput", "bandit", "mlp"])
@pytest.mark.parametrize("step", [step for step in STEPS if step.startswith("a")])
def test_eighty_rounds_after_a_step_of_acceptance_the_plan_is_within_five_percent(step: str, name: str) -> None:
    costs = np.mean([known_costs(POLICIES[name], *STEPS[step], seed, 100) for seed in range(60)], axis=0)
    assert max(costs[80:]) < 1.05
    assert costs[0] > 1.05
