"""The price of an edge second counts who waits meanwhile; a quote is told again where that would change a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.types import Quote
from coordinator.policy.price import FORGET_S, NOTICEABLE, EdgeLoad, is_news

LONG_S = 20 * FORGET_S
QUOTE = Quote(0.03, 0.0003, True, 2.0, 4.0, 6.0, 3, 0.001, 0.6)


def worked(load: EdgeLoad, users: int, step_s: float, pause_s: float, seconds: float, queued: int = 0) -> float:
    """Let steps of so many users follow one another; return when the last pause ended."""
    now_s = 0.0
    while now_s < seconds:
        load.began(now_s, users, queued)
        load.ended(now_s + step_s)
        now_s += step_s + pause_s
    return now_s


def test_a_user_alone_pays_for_itself_however_busy_the_engine_is() -> None:
    load = EdgeLoad()
    now_s = worked(load, 1, 0.03, 0.0, LONG_S)
    assert load.price(now_s) == 1
    assert load.utilisation(now_s) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("users", [2, 4, 64])
def test_users_of_an_engine_that_never_rests_pay_for_one_another(users: int) -> None:
    load = EdgeLoad()
    now_s = worked(load, users, 0.03, 0.0, LONG_S)
    assert load.price(now_s) == pytest.approx(users, rel=1e-6)


def test_nobody_waits_for_an_engine_that_is_idle() -> None:
    load = EdgeLoad()
    now_s = worked(load, 5, 0.01, 0.03, LONG_S)
    assert load.utilisation(now_s) == pytest.approx(0.25, abs=0.01)
    assert load.price(now_s) == pytest.approx(1 + 0.25 * 4, abs=0.05)
    assert load.price(now_s + LONG_S) == pytest.approx(1)
    assert load.utilisation(now_s + LONG_S) == pytest.approx(0, abs=1e-6)


def test_who_waits_for_a_place_counts_while_the_engine_works() -> None:
    load = EdgeLoad()
    now_s = worked(load, 2, 0.03, 0.0, LONG_S, queued=7)
    assert load.price(now_s) == pytest.approx(1 + 1 + 7, rel=1e-6)
    load.ended(now_s)
    assert load.price(now_s + LONG_S) == pytest.approx(1)


def test_who_comes_during_a_step_waits_from_then_on() -> None:
    load = EdgeLoad(forget_s=1e9)  # a plain mean
    load.began(0.0, 1)
    load.joined(0.75)
    load.ended(1.0)
    load.joined(1.5)  # for a free engine nobody waits
    exact = 1 + 0.25 * 1 / 1.0
    assert (load.price(1.0) - 1) * 1e9 == pytest.approx(exact - 1, rel=1e-3)


def test_asking_changes_nothing() -> None:
    load, other = EdgeLoad(), EdgeLoad()
    for one, asks in ((load, True), (other, False)):
        now_s = 0.0
        for users in (1, 3, 2):
            one.began(now_s, users)
            if asks:
                one.price(now_s + 0.01)
                one.utilisation(now_s + 5.0)
            one.ended(now_s + 0.03)
            now_s += 0.05
    assert load.price(1.0) == other.price(1.0)


def test_means_of_a_step_follow_the_load_within_some_seconds() -> None:
    load = EdgeLoad()
    assert (load.step_sessions, load.step_positions) == (0, 0)
    load.stepped(0.03, 2, 6)
    assert (load.step_sessions, load.step_positions) == (2, 6)
    for step in range(1, 200):
        load.stepped(0.03 + step * 0.03, 16, 40)
    assert load.step_sessions == pytest.approx(16, rel=0.02)
    assert load.step_positions == pytest.approx(40, rel=0.02)


def test_a_clock_that_is_read_in_another_order_goes_not_back() -> None:
    load = EdgeLoad(10.0)
    load.began(11.0, 4)
    load.ended(10.5)
    assert 1 <= load.price(10.2) <= 4


def test_a_quote_is_news_where_it_has_changed_noticeably_or_in_kind() -> None:
    assert not is_news(QUOTE, QUOTE)
    for name in ("edge_second_price", "step_sessions", "step_positions", "own_draft_s", "own_acceptance"):
        value = getattr(QUOTE, name)
        assert not is_news(QUOTE, replace(QUOTE, **{name: value * (1 + 0.9 * NOTICEABLE)}))
        assert is_news(QUOTE, replace(QUOTE, **{name: value * (1 + 1.3 * NOTICEABLE)}))
        assert is_news(replace(QUOTE, **{name: value * (1 + 1.3 * NOTICEABLE)}), QUOTE)
    assert is_news(QUOTE, replace(QUOTE, fixed_s=0.04))
    assert is_news(QUOTE, replace(QUOTE, own_draft_tokens=0))
    assert is_news(QUOTE, replace(QUOTE, runs_ahead=False))
    assert is_news(Quote(), replace(Quote(), step_sessions=1.0))


def test_a_slope_that_is_next_to_nothing_may_wobble() -> None:
    assert not is_news(QUOTE, replace(QUOTE, per_position_s=QUOTE.per_position_s * 2))
    assert is_news(QUOTE, replace(QUOTE, per_position_s=0.003))


def test_a_drafter_that_writes_nothing_is_no_news() -> None:
    off = replace(QUOTE, own_draft_tokens=0)
    assert not is_news(off, replace(off, own_draft_s=0.1, own_acceptance=0.1))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0, 0.1), st.floats(0, 0.1), st.integers(0, 5)), max_size=40),
    st.floats(0, 10),
)
def test_whatever_happens_price_and_utilisation_are_in_their_ranges(
    steps: list[tuple[int, float, float, int]], later_s: float
) -> None:
    load, now_s, most = EdgeLoad(), 0.0, 1
    for users, step_s, pause_s, queued in steps:
        load.began(now_s, users, queued)
        now_s += step_s
        load.ended(now_s)
        now_s += pause_s
        most = max(most, users + queued)
    assert 1 <= load.price(now_s + later_s) <= most + 1e-9
    assert 0 <= load.utilisation(now_s + later_s) <= 1
