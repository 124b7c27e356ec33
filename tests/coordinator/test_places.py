"""When a place falls free follows from how long sessions stay; how many there are, from what each is promised."""

from __future__ import annotations

from random import Random
from statistics import mean

import pytest

from coordinator.policy.costs import PassCost
from coordinator.policy.places import LEAST_WAIT_S, MOST_WAIT_S, Stays, places

COST = PassCost(0.030, 0.0005)


def lived(draw: list[float], sessions: int) -> tuple[Stays, float, list[float]]:
    """Let places be taken again as soon as they fall free; return the estimate, the time, and when the next ones end.

    ``draw`` are the stays, in the order of their beginnings.
    """
    stays, now_s = Stays(), 0.0
    ends = sorted(draw[:sessions])
    stays.held(0.0, sessions)
    for stay_s in draw[sessions:]:
        now_s = ends.pop(0)
        stays.held(now_s, sessions - 1)
        stays.held(now_s, sessions)
        ends = sorted([*ends, now_s + stay_s])
    return stays, now_s, ends


@pytest.mark.parametrize("kind", ["without a memory", "of one length"])
@pytest.mark.parametrize("before", [0, 5, 20])
def test_the_wait_that_is_told_is_right_in_the_mean(kind: str, before: int) -> None:
    told: list[float] = []
    came: list[float] = []
    for seed in range(60):
        chance = Random(seed)
        first = [chance.random() * 4.0 for _ in range(24)]  # began at random times
        later = [chance.expovariate(1 / 4.0) if kind == "without a memory" else 4.0 for _ in range(300 + before)]
        stays, now_s, _ = lived([*first, *later[:300]], 24)
        told.append(stays.wait_s(now_s, before))
        came.append(lived([*first, *later], 24)[2][0] - now_s)  # those before it have taken the places before
    assert mean(told) == pytest.approx(mean(came), rel=0.25)


def test_a_change_of_stays_is_learnt() -> None:
    chance = Random(1)
    stays, now_s, _ = lived([chance.expovariate(1.0) for _ in range(200)], 8)
    assert stays.stay_s(now_s) == pytest.approx(1.0, rel=0.5)
    stays, now_s, _ = lived([chance.expovariate(1.0) for _ in range(200)] + [10.0] * 400, 8)
    assert stays.stay_s(now_s) == pytest.approx(10.0, rel=0.25)


def test_before_a_stay_has_ended_the_wait_is_as_long_as_nothing_has_happened() -> None:
    stays = Stays()
    stays.held(100.0, 4)
    assert stays.wait_s(100.0, 0) == LEAST_WAIT_S
    assert stays.wait_s(103.0, 0) == pytest.approx(3.0)
    assert stays.wait_s(103.0, 1) == pytest.approx(6.0)
    assert stays.wait_s(1e6, 9) == MOST_WAIT_S


def test_an_edge_without_sessions_keeps_nobody_long() -> None:
    assert Stays().wait_s(5.0, 0) == LEAST_WAIT_S


def test_idle_time_is_nobodys_stay() -> None:
    stays = Stays()
    stays.held(0.0, 2)
    stays.held(2.0, 0)
    stays.held(1000.0, 1)
    assert stays.stay_s(1000.0) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    ("least_rate", "count"),
    [(0.0, 64), (40.0, 1), (33.0, 1), (30.0, 7), (20.0, 41), (10.0, 64), (1 / COST.seconds(12), 12)],
)
def test_places_are_as_many_as_get_the_promised_rate(least_rate: float, count: int) -> None:
    assert places(64, least_rate, COST) == count
    if 1 < count < 64:
        assert 1 / COST.seconds(count) >= least_rate * (1 - 1e-9)
        assert 1 / COST.seconds(count + 1) < least_rate


def test_nothing_is_promised_before_a_pass_was_made_or_by_a_flat_line() -> None:
    assert places(8, 30.0, None) == 8
    assert places(8, 30.0, PassCost(0.03)) == 8
    assert places(8, 40.0, PassCost(0.03)) == 1
