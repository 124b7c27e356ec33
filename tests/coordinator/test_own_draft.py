"""How long an edge drafts for itself: as long as it pays, by what was accepted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.policy.costs import PassCost
from coordinator.policy.own_draft import PROBE_PASSES, OwnDraftLength, OwnDrafts, StepDrafts

FLAT = PassCost(0.030, 0.0003)  # a GPU: a position costs a hundredth of a pass
STEEP = PassCost(0.025, 0.015)  # a CPU: a second position costs more than half a pass


def after(accepted: list[int], drafted: int = 4, most: int = 8) -> OwnDraftLength:
    length = OwnDraftLength(most)
    for count in accepted:
        length.saw(drafted, count)
    return length


def test_a_good_drafter_is_used_to_the_full_where_positions_are_cheap() -> None:
    assert after([4] * 30).best(FLAT, 0.0) == 8
    assert after([4] * 30).best(None, 0.0) == 8


def test_a_bad_one_is_left_alone_where_they_are_not_and_tried_again_now_and_then() -> None:
    length = after([0] * 30)
    assert length.best(FLAT, 0.0) > 0
    tried = [length.best(STEEP, 0.0) for _ in range(3 * PROBE_PASSES)]
    assert set(tried) == {0, 1}
    assert tried.count(1) == 3


def test_a_text_that_becomes_easy_is_found_out() -> None:
    length = after([0] * 100)
    assert length.best(STEEP, 0.0) == 0
    for _ in range(60):
        length.saw(1, 1)
    assert length.best(STEEP, 0.0) > 0


def test_slow_tokens_are_drafted_in_shorter_runs() -> None:
    assert after([2] * 30).best(FLAT, 0.008) < after([2] * 30).best(FLAT, 0.0)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=200), st.floats(1e-4, 1), st.floats(0, 1))
def test_the_estimate_is_a_share_and_the_length_within_bounds(
    rounds: list[tuple[int, int]], fixed_s: float, per_position_s: float
) -> None:
    length = OwnDraftLength(6)
    for drafted, accepted in rounds:
        length.saw(drafted, min(drafted, accepted))
    assert 0 <= length.acceptance <= 1
    assert 0 <= length.best(PassCost(fixed_s, per_position_s), 0.001) <= 6


def test_a_new_session_begins_with_what_was_known_of_all() -> None:
    known = OwnDrafts(8)
    assert known.begin().best(FLAT, 0.008) == OwnDraftLength(8).best(FLAT, 0.008)
    for _ in range(50):
        known.saw(4, 0)
    assert known.begin().best(FLAT, 0.008) == 0
    text = known.begin()
    for _ in range(20):
        text.saw(1, 1)
    assert text.best(FLAT, 0.008) > 0, "this one is easier"


def test_a_session_alone_is_drafted_for_as_by_itself() -> None:
    for count in (0, 1, 3, 4):
        own = after([count] * 30)
        assert StepDrafts(8).choose([own.acceptance], FLAT, 0.004) == (own.best(FLAT, 0.004),) * 2


def test_sessions_in_company_draft_alike_and_try_again_at_the_same_time() -> None:
    steps = StepDrafts(8)
    chosen = [steps.choose([0.2] * 16, FLAT, 0.008) for _ in range(3 * PROBE_PASSES)]
    assert {worth for _, worth in chosen} == {0}
    assert [tokens for tokens, _ in chosen].count(1) == 3
    assert steps.choose([0.9] * 16, FLAT, 0.008)[0] > 0


def test_the_more_share_a_step_of_dear_positions_the_less_is_drafted_for_each() -> None:
    dear = PassCost(0.030, 0.003)
    lengths = [StepDrafts(8).choose([0.8] * sessions, dear, 0.002)[0] for sessions in (1, 4, 16)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_less_is_drafted_where_many_wait_who_take_no_drafts() -> None:
    lengths = [StepDrafts(8).choose([0.8, 0.8], FLAT, 0.006, others)[0] for others in (0, 2, 30)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 0
    assert lengths[-1] == 0


def test_an_edge_without_a_drafter_chooses_nothing() -> None:
    assert [StepDrafts(0).choose([0.5, 0.5], FLAT, 0.0) for _ in range(2 * PROBE_PASSES)] == [(0, 0)] * 2 * PROBE_PASSES
