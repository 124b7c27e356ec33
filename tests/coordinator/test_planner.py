"""One device's planning: it waits until it knows enough, keeps to what stands, and looks again where nothing drafts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.types import Quote
from coordinator.policy.estimates import Drafted, Judged, Sample, Transfer
from coordinator.policy.model_error import BELIEVED_TOKENS, MOST, ModelError
from coordinator.policy.plan import FRAMES, OBJECTIVES, Objective, Plan
from coordinator.policy.planner import OPENING_COMMITS, PROBE_COMMITS, PROBE_EVERY_TOKENS, Planner

START = Plan("split", 0, 1, FRAMES)
QUOTE = Quote(0.030, 0.0003, runs_ahead=True, edge_second_price=1.0)


def planner(round_trip_s: float = 0.06, start: Plan = START, quote: Quote = QUOTE) -> Planner:
    made = Planner(OBJECTIVES["latency"], start)
    made.quoted(quote)
    for at_s in range(8):
        made.sampled(Sample(float(at_s), round_trip_s, drafted=Drafted(1, 0.008)))
    return made


def poor(made: Planner, rounds: int = 60) -> None:
    """Let nothing that is drafted be right."""
    for index in range(rounds):
        made.sampled(Sample(10.0 + index / 10, judged=Judged(1, 0)))


def test_it_keeps_its_first_plan_until_it_knows_enough() -> None:
    made = Planner(OBJECTIVES["latency"], START)
    made.quoted(QUOTE)
    assert made.decide() is None
    made.sampled(Sample(0.0, 0.06))
    assert made.decide() is None
    assert made.plan == START
    assert "too little is known" in made.explained()[-1]
    made.sampled(Sample(0.1, drafted=Drafted(4, 0.032)))
    assert made.decide() is not None
    assert made.explained()[-1].startswith("edge") or "split" in made.explained()[-1]


def test_drafting_ends_where_nothing_is_accepted_and_is_tried_again_now_and_then() -> None:
    made = planner(quote=Quote(0.030, 0.003, runs_ahead=False))
    poor(made)
    made.decide()
    assert made.plan.way == "edge"
    for token in range(PROBE_EVERY_TOKENS - 1):
        made.committed(1, 0.03, at_s=20.0 + token, right=0)
        made.decide()
        assert not made.plan.drafts
    made.committed(1, 0.03, at_s=90.0, right=0)
    made.decide()
    assert made.plan.drafts
    for index in range(PROBE_COMMITS):
        made.committed(1, 0.03, at_s=91.0 + index, right=0)
        made.decide()
    assert not made.plan.drafts, "nothing came of it"
    later = 0
    while not made.plan.drafts:
        made.committed(1, 0.03, at_s=100.0 + later, right=0)
        made.decide()
        later += 1
    assert PROBE_EVERY_TOKENS < later <= 2 * PROBE_EVERY_TOKENS, "the wait has doubled"


def test_a_probe_that_is_right_throughout_brings_drafting_back() -> None:
    made = planner(round_trip_s=0.0, quote=Quote(0.030, 0.003, runs_ahead=False))
    poor(made)
    made.decide()
    right = 0
    for token in range(2000):
        right = right + 1 if made.plan.drafts else right
        made.committed(1, 0.03, at_s=20.0 + token, right=right)
        made.decide()
    assert made.plan.drafts


def test_a_step_of_the_round_trip_changes_the_plan_of_an_edge_that_waits() -> None:
    made = planner(0.0, quote=Quote(0.030, 0.0003, runs_ahead=False))
    made.decide()
    before = made.plan
    assert before.way == "pipelined"
    for at_s in range(10):
        made.sampled(Sample(20.0 + at_s, 0.3))
        made.decide()
    assert made.plan.way == "edge"
    assert [plan.way for _, plan in made.history] == ["run-ahead", "pipelined", "edge"]


def test_company_makes_passes_longer_and_shares_them() -> None:
    alone, shared = planner().setting(), planner(quote=Quote(0.03, 0.0003, True, 9.0, 8.0, 16.0)).setting()
    assert alone is not None
    assert shared is not None
    assert shared.pass_s(2) == pytest.approx(alone.pass_s(2) + 14 * 0.0003)
    assert shared.share_s(2) == pytest.approx((0.03 - 0.0003) / 8 + 2 * 0.0003)
    assert alone.turn_s == 0
    assert 0 < shared.turn_s < shared.pass_s(1)


def test_a_device_that_cannot_draft_leaves_all_to_the_edge() -> None:
    made = Planner(OBJECTIVES["latency"], Plan("edge"))
    made.quoted(QUOTE)
    made.sampled(Sample(0.0, 0.06))
    made.decide()
    assert made.plan.way == "edge"


def test_what_is_not_weighed_stays_as_it_began() -> None:
    made = planner(start=Plan("split", 0, 1, FRAMES, pad=True))
    for _ in range(3):
        made.decide()
    assert made.plan.pad
    assert len(made.history) <= 2, "a padded plan that stands is the same plan"


def test_a_narrow_uplink_is_known_from_frames_of_two_sizes() -> None:
    made = planner()
    for index in range(8):
        size = 40 if index % 2 else 240
        made.sampled(Sample(20.0 + index, 0.06 + size / 6250, up=Transfer(size, 0.06 + size / 6250)))
    setting = made.setting()
    assert setting is not None
    assert setting.up_bytes_s == pytest.approx(6250, rel=0.05)


def test_the_models_error_is_learnt_slowly_and_within_bounds() -> None:
    assert ModelError().factors() == {}
    slow = ModelError()
    for _ in range(40):
        slow = slow.updated("sync", 4, 4 * 0.04, 0.02)
    assert 1.1 < slow.factors()["sync"] < 1.4
    for _ in range(2000):
        slow = slow.updated("sync", 4, 4 * 0.2, 0.02)
    assert MOST - 0.01 < slow.factors()["sync"] <= MOST
    fair = ModelError().updated("edge", 10, 10 * 0.03, 0.03)
    assert fair.factors()["edge"] == pytest.approx(1.0)
    assert ModelError().updated("edge", 1, 60.0, 0.03).factors()["edge"] < 1 + 4 / BELIEVED_TOKENS


def test_estimates_of_an_earlier_session_are_taken_over() -> None:
    known = planner().estimates
    made = Planner(OBJECTIVES["latency"], START, estimates=known)
    made.quoted(QUOTE)
    assert made.decide() is not None
    fresh = Planner(OBJECTIVES["latency"], START)
    fresh.quoted(QUOTE)
    assert fresh.decide() is None


def test_a_text_begins_drafting_beside_an_edge_that_goes_ahead_whatever_the_last_one_came_to() -> None:
    made = planner(quote=Quote(0.030, 0.003, runs_ahead=True))
    made.objective = Objective(1.0, 0.0, 0.3)  # a device that is careful with its battery
    poor(made)
    made.decide()
    assert not made.plan.drafts
    made.begins()
    assert made.plan == START
    for commit in range(8):
        assert made.plan.drafts == (commit < OPENING_COMMITS), "its first stretch tells of its acceptance"
        made.committed(1, 0.03, at_s=20.0 + commit, right=0)
        made.decide()
    waits = planner(quote=Quote(0.030, 0.003, runs_ahead=False))
    poor(waits)
    waits.decide()
    waits.begins()
    assert not waits.plan.drafts, "an edge that waits would have to be waited for"


def test_a_way_that_was_slow_once_is_forgiven_while_others_are_gone() -> None:
    errors = ModelError()
    for _ in range(100):
        errors = errors.updated("hybrid", 4, 4 * 0.03, 0.02)
    before = errors.factors()["hybrid"]
    for _ in range(300):
        errors = errors.updated("edge", 4, 4 * 0.03, 0.03)
    assert 1 < errors.factors()["hybrid"] < 1 + (before - 1) / 3


quotes = st.builds(
    Quote,
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.booleans(),
    st.floats(0, 1e6),
    st.floats(0, 1e6, width=32),
    st.floats(0, 1e6, width=32),
    st.integers(0, 10**6),
    st.floats(0, 1e6, width=32),
    st.floats(0, 1, width=32),
)


@given(quotes, st.floats(0, 100), st.sampled_from(list(OBJECTIVES)))
def test_whatever_an_edge_quotes_a_plan_is_made(quote: Quote, round_trip_s: float, objective: str) -> None:
    """What passes the wire's checks may still be nonsense, or a lie: it costs the device a bad plan at most."""
    made = planner(round_trip_s, quote=quote)
    made.objective = OBJECTIVES[objective]
    for tokens in range(20):
        made.committed(1, 0.03, at_s=20.0 + tokens, right=0)
        made.decide()
        assert made.plan.conduct.draft_length <= 32
    assert made.explained()
