"""The live cost line finds the line that passes follow, whatever else happens to them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.policy.cost_line import CostLine
from coordinator.policy.costs import PassCost

FLAT = PassCost(0.028, 0.00015)  # of which 64 positions cost a third more than one
STEEP = PassCost(0.043, 0.0076)
WIDTHS = (1, 2, 5, 9, 17, 40, 64)

Passes = Callable[[random.Random], int]


def mixed(chance: random.Random) -> int:
    return chance.choice(WIDTHS)


def with_prefills(chance: random.Random) -> int:
    return 512 if chance.random() < 0.05 else chance.randint(1, 40)


def feed(
    line: CostLine,
    cost: PassCost,
    passes: int,
    *,
    widths: Passes = mixed,
    noise: float = 0.03,
    outliers: float = 0.0,
    seed: int = 1,
) -> CostLine:
    """Run passes of a machine that follows ``cost``, with noise on all and some five times as slow."""
    chance = random.Random(seed)
    for _ in range(passes):
        positions = widths(chance)
        slow = 5 if chance.random() < outliers else 1
        line.add(positions, cost.seconds(positions) * math.exp(chance.gauss(0, noise)) * slow)
    return line


def worst_error(line: CostLine, cost: PassCost, widths: Sequence[int] = WIDTHS) -> float:
    """Return the greatest relative error of what the line says of passes."""
    return max(abs(line.cost.seconds(positions) / cost.seconds(positions) - 1) for positions in widths)


@pytest.mark.parametrize("cost", [FLAT, STEEP])
@pytest.mark.parametrize("widths", [mixed, with_prefills])
def test_an_exact_line_is_found_exactly(cost: PassCost, widths: Passes) -> None:
    line = feed(CostLine(), cost, 300, widths=widths, noise=0)
    assert line.samples == 300
    assert line.cost.fixed_s == pytest.approx(cost.fixed_s, rel=1e-5)
    assert line.cost.per_position_s == pytest.approx(cost.per_position_s, rel=1e-4)


@pytest.mark.parametrize("cost", [FLAT, STEEP])
@pytest.mark.parametrize("widths", [mixed, with_prefills])
@pytest.mark.parametrize(
    ("noise", "outliers", "fixed_error", "slope_error"),
    [(0.03, 0.0, 0.05, 0.12), (0.03, 0.05, 0.05, 0.12), (0.1, 0.1, 0.12, 0.35)],
)
@pytest.mark.parametrize("seed", range(5))
def test_noise_and_outliers_hide_no_line(
    cost: PassCost, widths: Passes, noise: float, outliers: float, fixed_error: float, slope_error: float, seed: int
) -> None:
    line = feed(CostLine(), cost, 400, widths=widths, noise=noise, outliers=outliers, seed=seed)
    assert line.cost.fixed_s == pytest.approx(cost.fixed_s, rel=fixed_error)
    assert line.cost.per_position_s == pytest.approx(cost.per_position_s, rel=slope_error)


@pytest.mark.parametrize("cost", [FLAT, STEEP])
@pytest.mark.parametrize("positions", WIDTHS)
@pytest.mark.parametrize("times", [0, 0.2, 5, 100])
def test_one_odd_pass_moves_the_line_by_far_less_than_a_usual_error(
    cost: PassCost, positions: int, times: float
) -> None:
    line = feed(CostLine(), cost, 200)
    before = line.cost
    line.add(positions, times * cost.seconds(positions))
    moved = max(abs(line.cost.seconds(width) / before.seconds(width) - 1) for width in WIDTHS)
    assert moved < 0.006


def test_a_slow_first_pass_is_soon_forgotten() -> None:
    """The first pass of a process compiles and allocates: here it takes twenty times as long."""
    line = CostLine()
    line.add(1, 20 * FLAT.seconds(1))
    assert worst_error(feed(line, FLAT, 30), FLAT) < 0.08


@pytest.mark.parametrize("times", [2.0, 0.5])
@pytest.mark.parametrize("outliers", [0.0, 0.05])
def test_a_change_of_pace_is_followed_within_a_hundred_passes(times: float, outliers: float) -> None:
    line = feed(CostLine(), FLAT, 2000, outliers=outliers)
    changed = PassCost(times * FLAT.fixed_s, times * FLAT.per_position_s)
    assert worst_error(feed(line, changed, 20, outliers=outliers, seed=2), changed) > 0.2
    assert worst_error(feed(line, changed, 80, outliers=outliers, seed=3), changed) < 0.08
    assert worst_error(feed(line, changed, 200, outliers=outliers, seed=4), changed) < 0.05


def test_before_the_first_pass_all_is_nought_and_after_it_the_line_is_flat() -> None:
    line = CostLine()
    assert (line.cost, line.samples) == (PassCost(0.0, 0.0), 0)
    line.add(7, 0.025)
    assert (line.cost, line.samples) == (PassCost(0.025, 0.0), 1)


def test_a_second_width_gives_the_slope() -> None:
    line = CostLine()
    for _ in range(10):
        line.add(1, 0.030)
        line.add(5, 0.034)
    assert line.cost.fixed_s == pytest.approx(0.030, rel=0.01)
    assert line.cost.per_position_s == pytest.approx(0.001, rel=0.05)


def test_a_long_time_of_one_width_leaves_the_slope_alone() -> None:
    line = feed(CostLine(), FLAT, 400)
    known = line.cost.per_position_s
    feed(line, FLAT, 20_000, widths=lambda _: 1, outliers=0.02)
    assert line.cost.per_position_s == pytest.approx(known, rel=0.2)
    assert worst_error(line, FLAT) < 0.1
    twice = PassCost(2 * FLAT.fixed_s, 2 * FLAT.per_position_s)
    feed(line, twice, 200, widths=lambda _: 1)
    assert line.cost.seconds(1) == pytest.approx(twice.seconds(1), rel=0.03)
    assert worst_error(feed(line, twice, 100), twice) < 0.05


@given(st.integers(1, 4096), st.lists(st.floats(1e-4, 10), min_size=1, max_size=60))
def test_passes_of_one_width_make_a_flat_line_among_them(positions: int, seconds: list[float]) -> None:
    line = CostLine()
    for taken_s in seconds:
        line.add(positions, taken_s)
    assert min(seconds) * 0.999999 <= line.cost.seconds(positions) <= max(seconds) * 1.000001
    assert line.cost.per_position_s * (positions - 1) <= 1e-5 * line.cost.fixed_s


@settings(max_examples=300)
@given(
    st.floats(0.5, 0.9999),
    st.lists(st.tuples(st.integers(1, 1 << 16), st.floats(0, 1e4)), min_size=1, max_size=80),
)
def test_no_coefficient_is_ever_negative_or_infinite(forgetting: float, passes: list[tuple[int, float]]) -> None:
    line = CostLine(forgetting)
    for positions, seconds in passes:
        line.add(positions, seconds)
        assert 0 <= line.cost.fixed_s < math.inf
        assert 0 <= line.cost.per_position_s < math.inf


@settings(max_examples=50)
@given(st.floats(1e-4, 1), st.floats(0, 0.2), st.lists(st.integers(1, 300), min_size=2, max_size=6, unique=True))
def test_any_line_is_found(fixed_s: float, slope: float, widths: list[int]) -> None:
    """At every width that passes had, whichever two to six those are."""
    cost = PassCost(fixed_s, slope * fixed_s)
    line = CostLine()
    for _ in range(200):
        for positions in widths:
            line.add(positions, cost.seconds(positions))
    assert worst_error(line, cost, widths) < 0.01


@settings(max_examples=50)
@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=40), st.floats(0.01, 100))
def test_the_unit_of_time_changes_nothing(seconds: list[float], unit: float) -> None:
    one, other = CostLine(), CostLine()
    for index, taken_s in enumerate(seconds):
        one.add(1 + index % 5, taken_s)
        other.add(1 + index % 5, taken_s * unit)
    assert other.cost.fixed_s == pytest.approx(one.cost.fixed_s * unit, rel=1e-6, abs=1e-9)
    assert other.cost.per_position_s == pytest.approx(one.cost.per_position_s * unit, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("positions", "seconds"), [(0, 1.0), (-1, 1.0), (1, -0.1), (1, math.nan), (1, math.inf)])
def test_what_is_no_pass_is_refused(positions: int, seconds: float) -> None:
    line = CostLine()
    with pytest.raises(ValueError, match="is none"):
        line.add(positions, seconds)
    assert line.samples == 0


@pytest.mark.parametrize("forgetting", [0.0, 1.0, 1.5, math.nan])
def test_a_forgetting_that_is_none_is_refused(forgetting: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        CostLine(forgetting)
