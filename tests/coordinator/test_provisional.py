"""What provisional run-ahead is expected to cost, its deadline, and what a miss costs: by hand, and by their course."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from airdraft.core import types as core
from airdraft.core.types import Commit, Granted, Limits, Opened, Origin, Quote, Timing
from bench.cells import PASS
from coordinator.policy.expected import Setting, chances_ahead, edge_alone, pipelined
from coordinator.policy.plan import FRAMES, HELD_ALIKE, OBJECTIVES, Offer, Plan, candidates, expected_of, plan
from coordinator.policy.planner import Planner
from coordinator.policy.provisional import miss_s, provisional, provisional_s
from coordinator.policy.steering import Steering
from tests.core.worlds import make_device

ROUND_TRIPS_S = (0.0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3)
AT = Setting(0.060, 0.008, PASS, (0.9,), harmless=0.5)
MEANING = Offer(runs_ahead=True, by_meaning=True)
LATENCY = OBJECTIVES["latency"]


# ---- the model ----


def test_drafts_that_are_never_right_cost_no_user_anything() -> None:
    """What the edge decodes until the first draft is judged goes out with its verdict."""
    poor = replace(AT, chances=(0.0,), harmless=0.0, round_trip_s=0.2)
    assert provisional(poor).seconds == pytest.approx(edge_alone(poor).seconds, rel=0.01)


def test_drafts_that_are_all_right_come_at_the_drafters_pace() -> None:
    sure = replace(AT, chances=(1.0,), harmless=0.0)
    assert provisional(sure).seconds == pytest.approx(AT.draft_s, rel=0.1)


def test_a_drafter_as_slow_as_a_pass_is_followed_all_along() -> None:
    """It never overtakes: every harmful wording is found where the edge was ahead."""
    slow = replace(AT, draft_s=PASS.seconds(1), harmless=0.0)
    assert provisional(slow).seconds <= edge_alone(slow).seconds * 1.02


@pytest.mark.parametrize("harmless", [0.0, 0.3, 0.5, 0.8])
def test_a_longer_round_trip_never_helps(harmless: float) -> None:
    seconds = [provisional(replace(AT, round_trip_s=trip, harmless=harmless)).seconds for trip in ROUND_TRIPS_S]
    assert all(near <= far * 1.02 for near, far in itertools.pairwise(seconds))


def test_what_is_another_wording_now_and_then_is_worth_holding_for_on_a_radio_link_and_not_far_off() -> None:
    gains = {
        trip: pipelined(at, run_ahead=True).seconds / provisional(at).seconds
        for trip in ROUND_TRIPS_S
        for at in [replace(AT, round_trip_s=trip)]
    }
    assert min(gains[0.03], gains[0.06]) > 1.005
    assert gains[0.3] < 1.0


def test_where_nothing_stands_by_meaning_an_edge_that_commits_is_not_slower() -> None:
    exact = replace(AT, chances=(0.8,), harmless=0.0, round_trip_s=0.2)
    assert pipelined(exact, run_ahead=True).seconds < provisional(exact).seconds


def test_ahead_of_the_device_only_the_targets_own_words_count() -> None:
    chances = chances_ahead(replace(AT, round_trip_s=0.1), 1)
    behind = 5  # the least n with n 30 >= 100 + (n + 1) 8
    assert chances[:behind] == pytest.approx((0.8,) * behind)
    assert chances[behind:] == (0.9,)
    never = replace(AT, draft_s=0.031)
    assert chances_ahead(never, 1) == pytest.approx((0.8,))


# ---- the deadline, and a miss ----


def test_a_token_is_held_for_a_slow_round_trip_and_what_comes_on_top() -> None:
    steady = provisional_s(AT, 1)
    assert steady == pytest.approx(0.060 + 0.008 + PASS.seconds(1))
    assert provisional_s(AT, 4) == pytest.approx(steady + 3 * 0.008)
    assert provisional_s(replace(AT, late_round_trip_s=0.2), 1) == pytest.approx(steady + 0.14)
    assert provisional_s(replace(AT, late_round_trip_s=0.01), 1) == steady


@pytest.mark.parametrize("frame_tokens", [1, 4, 16])
def test_what_a_miss_costs_rises_with_the_round_trip(frame_tokens: int) -> None:
    costs = [miss_s(replace(AT, round_trip_s=trip), frame_tokens) for trip in ROUND_TRIPS_S]
    assert costs == sorted(costs)
    assert costs[-1] - costs[0] == pytest.approx(0.3)
    assert costs[0] == pytest.approx(frame_tokens * 0.008 + PASS.seconds(frame_tokens + 1))


def test_no_miss_costs_anything_where_nothing_is_drafted() -> None:
    assert miss_s(AT, 0) == 0.0


# ---- the plan ----


def test_only_where_tokens_may_stand_by_meaning_are_they_held_back() -> None:
    assert not [one for one in candidates(AT, Offer(runs_ahead=True), LATENCY) if one.provisional_s]
    assert not [one for one in candidates(AT, Offer(runs_ahead=False, by_meaning=True), LATENCY) if one.provisional_s]
    (held,) = [one for one in candidates(AT, MEANING, LATENCY) if one.provisional_s]
    assert held.way == "provisional"
    assert held.conduct == core.Plan(1, FRAMES, provisional_s=provisional_s(AT, 1))
    assert "holds 98 ms" in str(held)


@pytest.mark.parametrize(("round_trip_s", "way"), [(0.03, "provisional"), (0.06, "provisional"), (0.3, "run-ahead")])
def test_the_plan_holds_back_on_a_near_edge_and_commits_at_once_far_off(round_trip_s: float, way: str) -> None:
    assert plan(replace(AT, round_trip_s=round_trip_s), LATENCY, MEANING).plan.way == way


def test_a_deadline_that_is_over_before_a_draft_can_come_is_worth_no_more_than_none() -> None:
    held = Plan("split", 0, 1, FRAMES, provisional_s=0.01)
    committing = replace(held, provisional_s=0.0)
    assert expected_of(held, AT, MEANING) == expected_of(committing, AT, MEANING)


def test_a_deadline_stands_while_it_is_about_right_and_moves_with_the_channel() -> None:
    first = plan(AT, LATENCY, MEANING).plan
    assert first.way == "provisional"
    near = replace(AT, round_trip_s=0.07)
    assert plan(near, LATENCY, MEANING, current=first).plan == first
    far = replace(AT, round_trip_s=0.12)
    moved = plan(far, LATENCY, MEANING, current=first).plan
    if moved.way == "provisional":
        assert moved.provisional_s == provisional_s(far, 1)
    assert provisional_s(far, 1) * HELD_ALIKE[0] > first.provisional_s


# ---- a session ----


def steering(granted: Granted) -> Steering:
    made = Steering(Planner(LATENCY, Plan("split", 0, 1, FRAMES)))
    made.begins()
    made.sent(make_device().attach(1, with_prefix=True)[0], 200, 0.0)  # type: ignore[arg-type]
    quote = Quote(PASS.fixed_s, PASS.per_position_s, runs_ahead=True)
    made.drafted(10, 0.08, 0.03)
    made.received(Opened(1, 0, 4, Limits(100), quote, granted), make_device().tally, 0.06)
    return made


def commit(*origins: Origin) -> Commit:
    ids = tuple(range(len(origins)))
    return Commit(1, 4, ids, 4 + len(ids), bytes(8), 0, origins, timing=Timing(0.0, 0.03))


def test_a_session_learns_by_its_origins_what_stands() -> None:
    made, tally = steering(Granted(0.01, "head")), make_device().tally
    for round_ in range(60):
        tally.stretches.append((0, 3, 8, 14)[round_ % 4])
        tally.missed += 1
        made.received(commit(Origin.ACCEPTED, Origin.MEANING, Origin.MEANING, Origin.RECOVERED), tally, 1 + round_ / 10)
    setting = made.planner.setting()
    assert setting is not None
    assert setting.harmless == pytest.approx(2 / 3, abs=0.05)
    assert made.planner.plan.way == "provisional"
    assert made.conduct.provisional_s > 0
    explained = made.planner.explained()
    assert "by meaning: 1.00% of answers may get worse" in explained[2]
    assert any("holds" in line and "taken" in line for line in explained)
    assert made.channel[0] == pytest.approx(0.06 + 0.008 + PASS.seconds(2), rel=0.1)
    assert made.channel[1] == pytest.approx(0.06, rel=0.1)
    assert made.channel[2] is None


def test_what_the_edge_never_judged_is_counted_as_such() -> None:
    made, tally = steering(Granted(0.01, "head")), make_device().tally
    tally.missed = 1
    made.received(commit(Origin.RUN_AHEAD), tally, 1.0)
    known = made.planner.estimates.harmless
    assert (known.stood, known.replaced, known.unjudged) == (0, 0, 1)


def test_an_exact_session_plans_as_ever() -> None:
    made, tally = steering(Granted()), make_device().tally
    tally.missed = 1
    made.received(commit(Origin.RECOVERED), tally, 1.0)
    setting = made.planner.setting()
    assert setting is not None
    assert setting.harmless == 0.0
    assert not made.planner.offer().by_meaning
    assert not any("by meaning" in line for line in made.planner.explained())
