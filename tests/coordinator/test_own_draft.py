"""How long an edge drafts for itself: as long as it pays, by what was accepted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.policy.costs import PassCost
from coordinator.policy.own_draft import PROBE_PASSES, OwnDraftLength

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
