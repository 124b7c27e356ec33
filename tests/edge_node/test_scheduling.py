"""Who joins a step: order of the work, fairness between tenants, and nobody held back for more than a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.session import Wish
from airdraft.core.types import Work
from coordinator.policy.costs import PassCost
from edge_node.answers import Answers
from edge_node.scheduling import MOST_HELD, Turns, Waiting, gathered_by, held_until, worth_verifying

URGENT = (Work.VERIFY, Work.DECODE)


def one(who: str, work: Work, positions: int, since: float = 0.0, tenant: str = "") -> Waiting[str]:
    return Waiting(who, tenant, Wish(work, positions), since)


def test_verification_and_decoding_come_before_prefill_and_running_ahead_comes_last() -> None:
    waiting = [
        one("ahead", Work.RUN_AHEAD, 1),
        one("prompt", Work.PREFILL, 300),
        one("next", Work.DECODE, 1),
        one("draft", Work.VERIFY, 6),
    ]
    assert Turns[str](64).choose(waiting) == [("next", 1), ("draft", 6), ("prompt", 57)]
    assert Turns[str](512).choose(waiting)[-1] == ("ahead", 1)


def test_a_prefill_that_others_wait_for_is_kept_narrow_and_one_alone_is_not() -> None:
    prompt = one("prompt", Work.PREFILL, 900)
    turns = Turns[str](512)
    assert turns.choose([prompt, one("draft", Work.VERIFY, 5)], prefill_positions=32) == [("draft", 5), ("prompt", 32)]
    assert turns.choose([prompt], prefill_positions=32) == [("prompt", 512)]
    assert turns.choose([prompt, one("ahead", Work.RUN_AHEAD, 1)], prefill_positions=32)[0] == ("prompt", 512)


def test_drafts_without_end_leave_a_share_to_prefill() -> None:
    drafts = [one(f"draft {index}", Work.VERIFY, 65, since=index) for index in range(20)]
    chosen = dict(Turns[str](512).choose([*drafts, one("prompt", Work.PREFILL, 4000)]))
    assert chosen["prompt"] == 128
    assert sum(chosen.values()) == 512


def test_the_longest_wait_goes_first_within_a_tenant() -> None:
    waiting = [one("late", Work.VERIFY, 5, since=2.0), one("early", Work.VERIFY, 5, since=1.0)]
    assert Turns[str](5).choose(waiting) == [("early", 5)]


def test_a_tenant_with_many_sessions_gets_no_more_than_one_with_few() -> None:
    turns, given_positions = Turns[str](60), Counter[str]()
    crowd = [one(f"a{index}", Work.VERIFY, 10, tenant="a") for index in range(30)]
    few = [one(f"b{index}", Work.VERIFY, 10, tenant="b") for index in range(3)]
    for step in range(40):
        for who, positions in turns.choose([replace(it, since_s=float(step)) for it in [*crowd, *few]]):
            given_positions[who[0]] += positions
    assert given_positions["a"] == given_positions["b"] == 1200


def test_nobody_saves_up_turns_while_away() -> None:
    turns = Turns[str](10)
    busy = [one("a", Work.VERIFY, 10, tenant="a"), one("c", Work.VERIFY, 10, tenant="c")]
    for _ in range(100):
        turns.choose(busy)
    chosen = Counter(who for _ in range(30) for who, _ in turns.choose([*busy, one("b", Work.VERIFY, 10, tenant="b")]))
    assert chosen == {"a": 10, "b": 10, "c": 10}


def test_a_heavy_tenant_that_steps_out_for_a_moment_still_waits_its_turn() -> None:
    turns = Turns[str](10)
    light = one("b", Work.VERIFY, 1, tenant="b")
    turns.choose([one("a", Work.PREFILL, 10, tenant="a")])
    for _ in range(3):
        turns.choose([light])
    assert turns.choose([one("a", Work.VERIFY, 10, tenant="a"), replace(light, wish=Wish(Work.VERIFY, 10))]) == [
        ("b", 10)
    ]


wishes = st.builds(
    Waiting,
    st.integers(0, 10**6),
    st.sampled_from(["a", "b", "c"]),
    st.builds(Wish, st.sampled_from(Work), st.integers(1, 80)),
    st.floats(0, 100),
)


@given(st.lists(st.lists(wishes, max_size=20, unique_by=lambda it: it.who), max_size=8), st.integers(1, 200), st.data())
def test_every_step_is_within_its_room_and_wastes_none(
    steps: list[list[Waiting[int]]], positions: int, data: st.DataObject
) -> None:
    turns = Turns[int](positions)
    for waiting in steps:
        bound = data.draw(st.none() | st.integers(1, 50))
        chosen = dict(turns.choose(waiting, bound))
        asked = {it.who: it.wish for it in waiting}
        assert all(0 < given <= asked[who].positions for who, given in chosen.items())
        total = sum(chosen.values())
        assert total <= positions
        if bound is None:
            assert total == min(positions, sum(wish.positions for wish in asked.values()))
        if any(wish.work in URGENT for wish in asked.values()):
            assert any(asked[who].work in URGENT for who in chosen)
        if any(wish.work is Work.PREFILL for wish in asked.values()) and positions > 1:
            assert any(asked[who].work is Work.PREFILL for who in chosen)


# ---- gathering ----


def test_one_draft_waits_for_many_and_many_do_not_wait_for_one() -> None:
    due = [0.004 + index * 0.0005 for index in range(15)]
    assert gathered_by(0.0, 0.0, 1, due, 0.028) == due[-1]
    assert gathered_by(0.0, 0.0, 15, [0.004], 0.028) == 0.0
    assert gathered_by(0.0, 0.0, 15, [0.0005], 0.028) == 0.0005


def test_nobody_waits_for_a_slow_device_or_for_one_that_is_late() -> None:
    assert gathered_by(0.0, 0.0, 1, [0.015], 0.028) == 0.0
    assert gathered_by(0.0, 0.0, 1, [0.010, 0.5], 0.028) == 0.010
    assert gathered_by(0.010, 0.0, 1, [0.009], 0.028) == 0.010
    assert gathered_by(0.0, 0.0, 1, [], 0.028) == 0.0


@given(
    st.integers(1, 64), st.lists(st.floats(0, 1), max_size=64), st.floats(1e-4, 1), st.floats(0, 0.5), st.floats(0, 0.5)
)
def test_a_wait_is_never_longer_than_half_a_step_from_its_beginning(
    ready: int, due: list[float], fixed_s: float, began_s: float, waited_s: float
) -> None:
    now_s = began_s + waited_s
    until_s = gathered_by(now_s, began_s, ready, due, fixed_s)
    assert until_s == now_s or now_s < until_s <= began_s + fixed_s / 2


def test_an_answer_is_due_when_a_device_usually_answers() -> None:
    answers = Answers()
    assert answers.due is None
    for round_s in range(50):
        answers.owed_since = float(round_s)
        answers.came(round_s + 0.010)
        answers.came(round_s + 0.5)  # a second frame of the same draft tells nothing
    answers.owed_since = 100.0
    assert answers.due is not None
    assert abs(answers.due - 100.010) < 1e-6
    answers.came(100.030)
    answers.owed_since = 200.0
    assert 200.012 < answers.due < 200.030


# ---- edges that go ahead ----


def test_the_poorest_session_sets_the_pace() -> None:
    assert held_until(1.0, 1.0, [1.030, 1.010, 1.020], 0.028) == 1.010
    assert held_until(1.0, 1.0, [1.030, 0.990], 0.028) == 1.0
    assert held_until(1.0, 1.0, [1.030, None], 0.028) == 1.0  # one that cannot wait
    assert held_until(1.0, 1.0, [], 0.028) == 1.0
    assert held_until(1.050, 1.0, [9.0], 0.028) == 1.0 + MOST_HELD * 0.028  # from when it could have begun


drafts = st.lists(st.tuples(st.integers(0, 6), st.floats(0.01, 0.99)), min_size=1, max_size=5)


@given(drafts, st.floats(1e-3, 0.1), st.floats(0, 0.01))
def test_a_step_takes_the_nodes_that_make_most_tokens_a_second(
    offered: list[tuple[int, float]], fixed_s: float, per_position_s: float
) -> None:
    cost = PassCost(fixed_s, per_position_s)

    def rate(taken: Sequence[int]) -> float:
        tokens = sum(
            chance**depth for (_, chance), nodes in zip(offered, taken, strict=True) for depth in range(nodes + 1)
        )
        return tokens / cost.seconds(len(offered) + sum(taken))

    best = max(rate(taken) for taken in product(*(range(nodes + 1) for nodes, _ in offered)))
    assert rate(worth_verifying(offered, cost)) == pytest.approx(best, rel=1e-9)


def test_without_a_price_a_position_every_node_is_verified() -> None:
    assert worth_verifying([(7, 0.1), (64, 0.9), (0, 0.5)], PassCost(0.03)) == [7, 64, 0]
