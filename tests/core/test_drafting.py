"""The n-gram drafter proposes what followed last time, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.drafting import NgramDrafter


def never() -> bool:
    return False


def test_it_goes_on_as_the_longest_suffix_did_the_last_time() -> None:
    drafter = NgramDrafter()
    drafter.learn([1, 2, 3, 4, 9, 2, 3, 5, 6, 1, 2, 3])
    path = [1, 2, 3, 4, 9, 2, 3, 5, 6, 1, 2, 3]
    assert drafter.propose(path, 3, never) == [4, 9, 2]  # 1 2 3 stood at the start, longer than the later 2 3
    assert drafter.propose([*path, 5], 2, never) == [6, 1]  # 2 3 5 stood once; of the path, 5 is drafted only
    assert drafter.propose([*path, 77], 2, never) == []
    assert drafter.propose(path, 100, never) == [4, 9, 2, 3, 5, 6, 1, 2, 3]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 8))
def test_it_agrees_with_a_search_of_the_whole_text(ids: list[int], count: int) -> None:
    drafter = NgramDrafter()
    drafter.learn(ids[: len(ids) // 2])
    drafter.learn(ids[len(ids) // 2 :])
    expected: list[int] = []
    for width in (3, 2, 1):
        starts = [at for at in range(len(ids) - width) if ids[at : at + width] == ids[-width:] and len(ids) > width]
        if starts:
            expected = ids[starts[-1] + width :][:count]
            break
    assert drafter.propose(ids, count, never) == expected
