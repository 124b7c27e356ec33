"""The plan: what each candidate is expected to cost decides, by the objective, and a plan that stands stays a while."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airdraft.core import types as core
from bench.cells import PASS
from coordinator.policy.costs import PassCost
from coordinator.policy.expected import Setting
from coordinator.policy.plan import FRAMES, OBJECTIVES, STICKINESS, Objective, Plan, candidates, plan

AT = Setting(0.060, 0.008, PASS, (0.8,))


def test_on_a_radio_link_the_device_drafts_on_beside_an_edge_that_goes_ahead() -> None:
    decision = plan(AT, OBJECTIVES["latency"], runs_ahead=True)
    assert decision.plan == Plan("split", 0, 1, FRAMES)
    assert decision.plan.conduct == core.Plan(1, FRAMES)


def test_where_the_edge_waits_the_edge_alone_wins_on_a_long_round_trip() -> None:
    assert plan(replace(AT, round_trip_s=0.2), OBJECTIVES["latency"], runs_ahead=False).plan == Plan("edge")
    assert plan(replace(AT, round_trip_s=0.0), OBJECTIVES["latency"], runs_ahead=False).plan.outstanding == FRAMES


def test_drafting_is_off_where_acceptance_does_not_pay_for_the_width() -> None:
    steep = replace(AT, chances=(0.3,), target=PassCost(0.043, 0.0076))
    assert plan(steep, OBJECTIVES["latency"], runs_ahead=True).plan == Plan("edge")
    assert Plan("edge").conduct == core.Plan(0)


def test_edge_seconds_ask_for_full_frames_and_device_seconds_for_none() -> None:
    thrifty = plan(AT, OBJECTIVES["edge-seconds"], runs_ahead=True)
    fast = plan(AT, OBJECTIVES["latency"], runs_ahead=True)
    edge_s = {one.plan: one.expected.edge_s for one in thrifty.weighed}
    assert edge_s[thrifty.plan] < 0.6 * edge_s[fast.plan]
    assert thrifty.plan.outstanding == 1
    assert plan(AT, OBJECTIVES["device-seconds"], runs_ahead=True).plan == Plan("edge")


def test_a_price_for_edge_seconds_moves_the_plan() -> None:
    fair = Objective(1.0, 0.1)
    assert plan(AT, fair, runs_ahead=True).plan.outstanding == FRAMES
    assert plan(AT, fair, runs_ahead=True, edge_price=20.0).plan.outstanding == 1


def test_a_narrow_uplink_asks_for_longer_frames() -> None:
    narrow = replace(AT, up_bytes_s=2000.0)
    assert plan(narrow, OBJECTIVES["latency"], runs_ahead=True).plan.frame_tokens > 1


def test_a_drafter_at_the_edge_makes_it_a_hybrid() -> None:
    both = replace(AT, own_draft_s=0.008)
    decision = plan(both, OBJECTIVES["latency"], runs_ahead=True, own_tokens=3)
    assert decision.plan.mode == "hybrid"
    far = replace(both, round_trip_s=0.4)
    assert plan(far, OBJECTIVES["latency"], runs_ahead=True, own_tokens=3).plan.mode == "edge"


def test_a_plan_that_stands_stays_until_another_is_clearly_cheaper() -> None:
    objective = OBJECTIVES["latency"]
    weighed = plan(AT, objective, runs_ahead=True).weighed
    near = [one for one in weighed[1:] if one.cost <= weighed[0].cost * (1 + STICKINESS)]
    assert near, "two candidates are close"
    assert plan(AT, objective, runs_ahead=True, current=near[0].plan).plan == near[0].plan
    assert plan(AT, objective, runs_ahead=True, current=weighed[-1].plan).plan == weighed[0].plan


@pytest.mark.parametrize("own_tokens", [0, 4])
def test_it_explains_itself(own_tokens: int) -> None:
    decision = plan(replace(AT, own_draft_s=0.008), OBJECTIVES["latency"], runs_ahead=True, own_tokens=own_tokens)
    head, *lines = decision.explained()
    assert len(lines) == len(candidates(own_tokens=own_tokens))
    assert [line.endswith("<- taken") for line in lines] == [True] + [False] * (len(lines) - 1)
    assert len(head) < 100
