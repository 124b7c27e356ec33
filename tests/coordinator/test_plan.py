"""The plan: what each candidate is expected to cost decides, by the objective, and a plan that stands stays a while."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airdraft.core import types as core
from bench.cells import PASS
from coordinator.policy.costs import PassCost
from coordinator.policy.expected import Setting
from coordinator.policy.plan import (
    FRAMES,
    OBJECTIVES,
    STICKINESS,
    Objective,
    Offer,
    Plan,
    candidates,
    expected_of,
    objective_of,
    plan,
)

AT = Setting(0.060, 0.008, PASS, (0.8,))
AHEAD, WAITS = Offer(runs_ahead=True), Offer(runs_ahead=False)


def test_on_a_radio_link_the_device_drafts_on_beside_an_edge_that_goes_ahead() -> None:
    decision = plan(AT, OBJECTIVES["latency"], AHEAD)
    assert decision.plan == Plan("split", 0, 1, FRAMES)
    assert decision.plan.conduct == core.Plan(1, FRAMES)


def test_where_the_edge_waits_the_edge_alone_wins_on_a_long_round_trip() -> None:
    assert plan(replace(AT, round_trip_s=0.2), OBJECTIVES["latency"], WAITS).plan == Plan("edge")
    assert plan(replace(AT, round_trip_s=0.0), OBJECTIVES["latency"], WAITS).plan.outstanding == FRAMES


def test_drafting_is_off_where_acceptance_does_not_pay_for_the_width() -> None:
    steep = replace(AT, chances=(0.3,), target=PassCost(0.043, 0.0076))
    assert plan(steep, OBJECTIVES["latency"], AHEAD).plan == Plan("edge")
    assert Plan("edge").conduct == core.Plan(0)


def test_edge_seconds_ask_for_full_frames_and_device_seconds_for_none() -> None:
    thrifty = plan(AT, OBJECTIVES["edge-seconds"], AHEAD)
    fast = plan(AT, OBJECTIVES["latency"], AHEAD)
    edge_s = {one.plan: one.expected.edge_s for one in thrifty.weighed}
    assert edge_s[thrifty.plan] < 0.6 * edge_s[fast.plan]
    assert thrifty.plan.outstanding == 1
    assert plan(AT, OBJECTIVES["device-seconds"], AHEAD).plan == Plan("edge")


def test_a_price_for_edge_seconds_moves_the_plan() -> None:
    fair = Objective(1.0, 0.1)
    assert plan(AT, fair, AHEAD).plan.outstanding == FRAMES
    assert plan(AT, fair, Offer(runs_ahead=True, price=40.0)).plan.outstanding == 1


def test_a_narrow_uplink_asks_for_longer_frames() -> None:
    narrow = replace(AT, up_bytes_s=2000.0)
    assert plan(narrow, OBJECTIVES["latency"], AHEAD).plan.frame_tokens > 1


def test_a_drafter_at_the_edge_makes_it_a_hybrid() -> None:
    both = replace(AT, own_draft_s=0.008, round_trip_s=0.03)
    decision = plan(both, OBJECTIVES["latency"], Offer(runs_ahead=True, own_tokens=3))
    assert decision.plan.mode == "hybrid"
    far = replace(both, round_trip_s=0.4)
    assert plan(far, OBJECTIVES["latency"], Offer(runs_ahead=True, own_tokens=3)).plan.mode == "edge"


def test_a_plan_that_stands_stays_until_another_is_clearly_cheaper() -> None:
    objective, at = OBJECTIVES["latency"], replace(AT, own_draft_s=0.008)
    both = Offer(runs_ahead=True, own_tokens=3)
    weighed = plan(at, objective, both).weighed
    near = [one for one in weighed[1:] if one.cost <= weighed[0].cost * (1 + STICKINESS)]
    assert near, "two candidates are close"
    assert plan(at, objective, both, current=near[0].plan).plan == near[0].plan
    assert plan(at, objective, both, current=weighed[-1].plan).plan == weighed[0].plan


@pytest.mark.parametrize("own_tokens", [0, 4])
def test_it_explains_itself(own_tokens: int) -> None:
    setting, offer = replace(AT, own_draft_s=0.008), Offer(runs_ahead=True, own_tokens=own_tokens)
    decision = plan(setting, OBJECTIVES["latency"], offer)
    head, *lines = decision.explained()
    assert len(lines) == len(candidates(setting, offer, OBJECTIVES["latency"]))
    assert [line.endswith("<- taken") for line in lines] == [True] + [False] * (len(lines) - 1)
    assert len(head) < 120


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("price", [1.0, 8.0])
def test_the_synchronous_length_is_the_best_of_all_lengths(name: str, price: float) -> None:
    objective, offer = OBJECTIVES[name], Offer(runs_ahead=False, price=price)
    for setting in (AT, replace(AT, sharers=8.0, others=10.0), replace(AT, up_bytes_s=6250.0, round_trip_s=0.3)):
        chosen = next(one for one in candidates(setting, offer, objective) if one.way == "sync")
        costs = {
            length: objective.cost(expected_of(replace(chosen, frame_tokens=length), setting, offer), price)
            for length in range(1, 33)
        }
        assert costs[chosen.frame_tokens] <= min(costs.values()) * 1.002


def test_a_dear_edge_is_asked_for_shorter_drafts_or_none() -> None:
    """All react to the price before queues grow."""
    shared = replace(AT, sharers=16.0, others=24.0, target=PassCost(0.028, 0.0006))
    cheap, dear = (plan(shared, OBJECTIVES["latency"], Offer(True, price=price)) for price in (1.0, 200.0))
    widening = {one.plan.way: one.expected.widening_s for one in (*cheap.weighed, *dear.weighed)}
    assert widening[dear.plan.way] < widening[cheap.plan.way]
    lengths = [
        next(
            one.frame_tokens
            for one in candidates(shared, Offer(False, price=price), OBJECTIVES["latency"])
            if one.drafts
        )
        for price in (1.0, 200.0)
    ]
    assert lengths[1] < lengths[0]


def test_in_company_nobody_asks_an_edge_to_wait_that_goes_ahead() -> None:
    shared = replace(AT, sharers=4.0, others=6.0)
    assert not any(one.waits for one in candidates(shared, AHEAD, OBJECTIVES["edge-seconds"]))
    assert any(one.waits for one in candidates(AT, AHEAD, OBJECTIVES["edge-seconds"]))


def test_in_a_crowd_nobody_has_the_edge_draft_beside_its_device() -> None:
    offer = Offer(runs_ahead=True, own_tokens=3)
    few, many = (
        {one.way for one in candidates(replace(AT, sharers=sharers), offer, OBJECTIVES["latency"])}
        for sharers in (4.0, 16.0)
    )
    assert few - many == {"hybrid"}


def test_a_split_asks_the_edge_to_wait_and_a_device_that_cannot_draft_has_no_split() -> None:
    weighed = {one.plan.way: one.plan for one in plan(AT, OBJECTIVES["edge-seconds"], AHEAD).weighed}
    assert {way: one.conduct.waits for way, one in weighed.items()} == {
        "edge": False, "sync": True, "pipelined": True, "run-ahead": False,
    }  # fmt: skip
    assert [one.way for one in candidates(AT, AHEAD, OBJECTIVES["edge-seconds"], drafts=False)] == ["edge"]


def test_an_edge_whose_drafter_is_not_wanted_is_told() -> None:
    offer = Offer(runs_ahead=True, own_tokens=3)
    asked = {(one.way, one.conduct.own_draft) for one in candidates(AT, offer, OBJECTIVES["edge-seconds"])}
    assert asked == {
        ("edge", False), ("edge-draft", True), ("sync", False), ("pipelined", False), ("run-ahead", False),
        ("hybrid", True),
    }  # fmt: skip


def test_objectives_are_named_or_weighed() -> None:
    assert objective_of("edge-seconds") == OBJECTIVES["edge-seconds"]
    assert objective_of("user=1, device=0.5") == Objective(1.0, 0.0, 0.5)


@pytest.mark.parametrize("words", ["speed", "user=x", "user=-1", "user=1,user=2", "user=0", "", "tokens=1"])
def test_what_is_no_objective_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="objective"):
        objective_of(words)


def test_ways_that_took_longer_than_expected_are_taken_for_slower() -> None:
    best, second = plan(AT, OBJECTIVES["latency"], AHEAD).weighed[:2]
    slower = {best.plan.way: 1.2 * second.cost / best.cost}
    assert plan(AT, OBJECTIVES["latency"], AHEAD, errors=slower).plan == second.plan
