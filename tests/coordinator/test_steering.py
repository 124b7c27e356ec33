"""Frames to samples: the round trip by what the edge says of its passes, stretches, drafts, and plans that follow."""

from __future__ import annotations

import pytest

from airdraft.core.session import Tally
from airdraft.core.types import Commit, Draft, Limits, NeedHidden, Open, Opened, Origin, Quote, Timing
from coordinator.policy.plan import FRAMES, OBJECTIVES, Plan
from coordinator.policy.planner import Planner
from coordinator.policy.steering import MOST_UNTOLD, Steering
from tests.core.worlds import make_device

TRIP_S = 0.05
PASS_S = 0.03


def opening() -> Open:
    opened = make_device().attach(1, with_prefix=True)[0]
    assert isinstance(opened, Open)
    return opened


def steering(quote: Quote | None = None) -> Steering:
    """Return one whose stream has been opened, after one round trip."""
    made = Steering(Planner(OBJECTIVES["latency"], Plan("split", 0, 1, FRAMES)))
    made.begins()
    made.sent(opening(), 200, 0.0)
    made.received(Opened(1, 0, 4, Limits(100), quote or Quote(PASS_S, 0.0003, runs_ahead=True)), Tally(), TRIP_S)
    return made


def draft(seq: int) -> Draft:
    return Draft(1, seq, 4, 4, bytes(8), (1,))


def commit(last_seq: int, queue_s: float = 0.0, quote: Quote | None = None) -> Commit:
    timing = Timing(queue_s, PASS_S)
    return Commit(1, 4, (1,), 5, bytes(8), last_seq, (Origin.ACCEPTED,), timing=timing, quote=quote)


def median_s(made: Steering) -> float:
    found = made.planner.estimates.round_trip.median_s
    assert found is not None
    return found


def test_the_answer_to_open_is_a_round_trip() -> None:
    assert median_s(steering()) == pytest.approx(TRIP_S)


def test_a_commit_tells_the_round_trip_of_the_frame_that_it_was_first_to_know() -> None:
    made = steering()
    for round_ in range(1, 12):
        began = float(round_)
        made.sent(draft(2 * round_), 40, began)
        made.sent(draft(2 * round_ + 1), 40, began + 0.008)  # came while the pass was at work
        made.received(commit(2 * round_, queue_s=0.004), Tally(), began + 0.070 + PASS_S + 0.004)
    assert median_s(made) == pytest.approx(0.070, rel=0.02)


def test_a_wait_that_the_frame_did_not_have_is_not_taken_off() -> None:
    """An edge that goes ahead had work waiting since its last pass; a frame waits for no longer than to the next."""
    made = steering()
    for round_ in range(1, 12):
        began = float(round_)
        made.sent(draft(2 * round_), 40, began)
        made.sent(draft(2 * round_ + 1), 40, began + 0.008)
        made.received(commit(2 * round_, queue_s=0.5), Tally(), began + 0.070 + PASS_S + 0.004)
    assert median_s(made) == pytest.approx(0.070, rel=0.02)


def test_a_frame_that_may_have_lain_there_for_a_pass_tells_nothing() -> None:
    made = steering()
    made.sent(draft(1), 40, 1.0)
    made.received(commit(1), Tally(), 3.0)
    assert median_s(made) == pytest.approx(TRIP_S)


def test_the_same_frame_is_not_told_of_twice() -> None:
    made = steering()
    for seq in (1, 2):
        made.sent(draft(seq), 40, 1.0)
    made.received(commit(1), Tally(), 1.0 + TRIP_S + PASS_S)
    before = made.planner.estimates.round_trip
    made.received(commit(1), Tally(), 2.0)
    assert made.planner.estimates.round_trip == before


def test_a_commit_that_waited_for_states_tells_no_round_trip() -> None:
    made = steering()
    for seq in range(1, 12):
        began = float(seq)
        made.sent(draft(2 * seq), 40, began)
        made.sent(draft(2 * seq + 1), 40, began + 0.008)
        made.received(NeedHidden(1, (bytes(8),)), Tally(), began + TRIP_S + PASS_S)
        made.received(commit(2 * seq), Tally(), began + 2 * TRIP_S + PASS_S)
    assert median_s(made) == pytest.approx(TRIP_S)
    made.sent(draft(90), 40, 20.0)
    made.sent(draft(91), 40, 20.008)
    before = made.planner.estimates.round_trip
    made.received(commit(90), Tally(), 20.0 + TRIP_S + PASS_S)
    assert made.planner.estimates.round_trip != before  # the next one does again


def test_stretches_are_judged_once_each() -> None:
    made, tally = steering(), Tally()
    for index in range(30):
        tally.stretches.append(3)
        made.received(commit(0), tally, 1.0 + index)
    accepted = made.planner.estimates.acceptance
    assert sum(accepted.judged) == pytest.approx(4 * sum(0.96**age for age in range(30)), rel=0.01)
    assert accepted.acceptance == pytest.approx(0.75, abs=0.02)


def test_a_better_plan_is_returned_once_and_the_next_session_begins_with_it() -> None:
    waits = Quote(PASS_S, 0.0003, runs_ahead=False)
    made = steering(waits)
    made.drafted(4, 0.032, 1.0)
    plans = [made.received(commit(0), Tally(), 1.0 + index) for index in range(3)]
    assert [plan is not None for plan in plans] == [True, False, False]
    assert made.conduct == plans[0]
    made.begins()
    assert made.conduct == plans[0]
    assert made.planner.history == [(0, made.planner.plan)]


def test_a_new_quote_in_a_commit_is_planned_by() -> None:
    made = steering()
    made.drafted(4, 0.032, 1.0)
    made.received(commit(0), Tally(), 1.0)
    assert made.planner.plan.way == "run-ahead"
    made.received(commit(0, quote=Quote(PASS_S, 0.0003, runs_ahead=False)), Tally(), 2.0)
    assert made.planner.plan.way in ("edge", "pipelined")


def test_a_ping_is_a_round_trip_too() -> None:
    made = steering()
    for index in range(12):
        made.pinged(0.2, 10.0 + index)
    assert median_s(made) == pytest.approx(0.2)


def test_opening_again_forgets_frames_of_the_stream_before() -> None:
    made = steering()
    made.sent(draft(1), 40, 1.0)
    made.sent(opening(), 200, 2.0)
    made.received(commit(1), Tally(), 9.0)
    assert median_s(made) == pytest.approx(TRIP_S)


def test_a_device_that_sends_nothing_asks_for_the_round_trip_once_at_a_time() -> None:
    made = steering()
    assert not made.wants_ping
    for index in range(MOST_UNTOLD):
        assert not made.wants_ping
        made.received(commit(0), Tally(), 1.0 + index)
    assert made.wants_ping
    made.pings()
    made.received(commit(0), Tally(), 9.0)
    assert not made.wants_ping, "one is on its way"
    made.pinged(0.05, 9.1)
    assert not made.wants_ping
    for index in range(MOST_UNTOLD):
        made.received(commit(0), Tally(), 10.0 + index)
    assert made.wants_ping


def test_frames_that_are_answered_make_pings_needless() -> None:
    made = steering()
    for round_ in range(1, 12):
        for seq in (2 * round_, 2 * round_ + 1):
            made.sent(draft(seq), 40, float(round_))
        made.received(commit(2 * round_), Tally(), round_ + TRIP_S + PASS_S)
        assert not made.wants_ping


def test_the_answer_to_another_open_is_no_round_trip() -> None:
    made = steering()
    made.received(Opened(2, 0, 4, Limits(100), None), Tally(), 60.0)
    assert median_s(made) == pytest.approx(TRIP_S)
