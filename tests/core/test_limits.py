"""A token bucket gives what it promises in every window of time, and no clock and no number makes it give more."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.limits import LEAST_WAIT_S, TokenBucket

rates = st.floats(1e-3, 1e6)
bursts = st.floats(1e-3, 1e6)
amounts = st.floats(0, 1e6) | st.integers(0, 10**6)
steps = st.floats(0, 1e3) | st.sampled_from([0.0, 1e-9, 1e-6, 1e9])
NANOSECOND = Fraction(1, 10**9)


def test_what_is_there_is_given_and_what_is_not_is_waited_for() -> None:
    bucket = TokenBucket(10.0, 5.0)
    assert bucket.take(5, 0.0) == 0.0
    assert bucket.take(1, 0.0) == 0.1
    assert bucket.take(1, 0.05) == 0.05
    assert bucket.take(1, 0.1) == 0.0
    assert bucket.take(6, 100.0) == math.inf  # it is never there
    assert bucket.take(5, 100.0) == 0.0


def test_a_debt_is_paid_before_anything_is_given() -> None:
    bucket = TokenBucket(10.0, 5.0)
    bucket.charge(25, 0.0)
    assert bucket.level(0.0) == -20.0
    assert bucket.wait_s(0.0) == 2.0
    assert bucket.wait_s(0.0, 5) == 2.5
    assert bucket.wait_s(0.0, 500) == 2.5  # as long as until it is full
    assert bucket.take(1, 2.0) == 0.1
    assert bucket.wait_s(2.0) == 0.0
    bucket.give(3, 2.0)
    assert bucket.take(3, 2.0) == 0.0
    bucket.give(300, 2.0)
    assert bucket.full(2.0)
    assert bucket.level(2.0) == 5.0


def test_a_new_allowance_keeps_what_was_used() -> None:
    bucket = TokenBucket(1.0, 10.0)
    bucket.set(2.0, 20.0)  # nothing was used yet: all of the new burst is there
    assert bucket.take(20, 0.0) == 0.0
    bucket.set(100.0, 5.0)
    assert bucket.take(1, 0.0) == 0.01
    assert bucket.level(1.0) == 5.0
    bucket.set(1.0, 2.0)
    assert bucket.level(1.0) == 2.0


def test_a_clock_that_is_no_clock_fills_nothing() -> None:
    bucket = TokenBucket(1.0, 10.0)
    assert bucket.take(10, 100.0) == 0.0
    for now_s in (math.nan, math.inf, -math.inf, -1e300, 0.0, 100.0):
        assert bucket.take(1, now_s) > 0
        assert bucket.level(now_s) == 0.0
    assert bucket.take(1, 101.0) == 0.0  # and it goes on where the clock does
    assert bucket.level(1e300) == 10.0  # a jump however far fills it once


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0])
def test_what_is_no_amount_is_refused_and_changes_nothing(bad: float) -> None:
    bucket = TokenBucket(1.0, 10.0)
    for use in (bucket.take, bucket.charge, bucket.give):
        with pytest.raises(ValueError, match="an amount is a number from 0 on"):
            use(bad, 0.0)
    with pytest.raises(ValueError, match="a rate and a burst above 0"):
        TokenBucket(bad, 1.0)
    with pytest.raises(ValueError, match="a rate and a burst above 0"):
        bucket.set(1.0, bad)
    assert bucket.take(10, 0.0) == 0.0
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(0.0, 1.0)


@given(rates, bursts, st.lists(st.tuples(steps, amounts), min_size=1, max_size=40))
def test_no_window_gives_more_than_the_burst_and_its_time(
    rate: float, burst: float, asked: list[tuple[float, float]]
) -> None:
    bucket, now_s = TokenBucket(rate, burst), 0.0
    given_at: list[tuple[float, Fraction]] = []
    for step_s, amount in asked:
        now_s += step_s
        if bucket.take(amount, now_s) == 0.0:
            given_at.append((now_s, Fraction(amount)))
    for first in range(len(given_at)):
        total = Fraction(0)
        for at_s, taken in given_at[first:]:
            total += taken
            # The clock's readings are taken to the nanosecond, and a float of seconds knows no more than its last bit.
            window = Fraction(at_s) - Fraction(given_at[first][0]) + NANOSECOND + 2 * Fraction(math.ulp(at_s))
            assert total <= Fraction(burst) + Fraction(1, 10**15) + Fraction(rate) * window


@given(rates, bursts, st.lists(st.tuples(steps, amounts), min_size=1, max_size=40))
def test_who_charges_only_without_a_debt_is_over_by_one_charge_at_most(
    rate: float, burst: float, asked: list[tuple[float, float]]
) -> None:
    bucket, now_s, begun_s, charged, last = TokenBucket(rate, burst), 0.0, None, Fraction(0), Fraction(0)
    for step_s, amount in asked:
        now_s += step_s
        begun_s = now_s if begun_s is None else begun_s
        if bucket.wait_s(now_s) > 0:
            assert bucket.level(now_s) < 0
            continue
        bucket.charge(amount, now_s)
        charged, last = charged + Fraction(amount), Fraction(amount)
        window = Fraction(now_s) - Fraction(begun_s) + NANOSECOND + 2 * Fraction(math.ulp(now_s))
        assert charged - last <= Fraction(burst) + Fraction(1, 10**12) + Fraction(rate) * window


@given(rates, bursts, st.floats(0, 1e6), amounts)
def test_after_the_wait_it_is_there(rate: float, burst: float, now_s: float, amount: float) -> None:
    bucket = TokenBucket(rate, burst)
    assert bucket.take(burst, now_s) == 0.0
    wait_s = bucket.take(amount, now_s)
    if wait_s == math.inf:
        assert amount > burst
        return
    for _ in range(4):  # a float of seconds may round a wait down by its last bit
        if wait_s == 0.0:
            break
        assert wait_s >= LEAST_WAIT_S
        now_s += wait_s
        wait_s = bucket.take(amount, now_s)
    assert wait_s == 0.0
