"""The clairvoyant bound: exact against every schedule, under every schedule that knows less."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.link.bound import ClairvoyantBound

Policy = Callable[[int, float], int | None]  # drafts there, seconds until the next -> drafts to verify; None waits


def line(fixed_s: float, share: float) -> Callable[[int], float]:
    return lambda positions: fixed_s * (1 + share * (positions - 1))


def paced(rtt_ms: float) -> ClairvoyantBound:
    return ClairvoyantBound(rtt_ms / 1000, 0.008, line(0.030, 0.01))


bounds = st.builds(
    ClairvoyantBound,
    round_trip_s=st.floats(0, 0.3),
    draft_s=st.floats(0.0005, 0.06),
    pass_s=st.builds(line, st.floats(0.001, 0.1), st.floats(0, 0.5)),
)
runs = st.lists(st.booleans(), max_size=40)


# ---- every schedule ----


def quickest(bound: ClairvoyantBound, matches: int, emitted: int = 0, now: float = 0.0) -> float:
    """Try every sequence of passes and waits of one stretch; passes may also verify drafts that miss, for nothing."""
    if emitted == matches + 1:
        return now
    arrivals = [bound.round_trip_s + (index + 1) * bound.draft_s for index in range(matches + 2)]
    ends = []
    for drafts in count():
        if drafts and (emitted + drafts > len(arrivals) or arrivals[emitted + drafts - 1] > now):
            break
        after = min(emitted + drafts, matches) + 1
        ends.append(quickest(bound, matches, after, now + bound.pass_s(drafts + 1)))
    ends += [quickest(bound, matches, emitted, arrival) for arrival in arrivals if arrival > now][:1]
    return min(ends)


@given(bounds, st.integers(0, 4))
def test_the_least_of_all_schedules(bound: ClairvoyantBound, matches: int) -> None:
    assert bound.stretches_s(matches)[-1] == pytest.approx(quickest(bound, matches))


@pytest.mark.parametrize("rtt_ms", [0, 10, 30, 60, 100])
def test_the_least_of_all_schedules_of_longer_stretches(rtt_ms: float) -> None:
    assert paced(rtt_ms).stretches_s(6) == pytest.approx([quickest(paced(rtt_ms), matches) for matches in range(7)])


def test_worked_by_hand() -> None:
    """Passes of 30, 30.3, 30.6, ... ms; drafts there at 8, 16, 24, 32 ms, or a round trip of 30 ms later."""
    assert paced(0).stretches_s(4) * 1000 == pytest.approx([30, 8 + 30.3, 16 + 30.6, 24 + 30.9, 32 + 30.9])
    # Five tokens: the edge emits one itself while the drafts come in. At 30 ms it does so from the second on.
    assert paced(30).stretches_s(3) * 1000 == pytest.approx([30, 60, 46 + 30.3, 54 + 30.6])
    assert paced(1000).stretches_s(5) * 1000 == pytest.approx([30, 60, 90, 120, 150, 180])


# ---- schedules that know only what has arrived ----


def simulate(bound: ClairvoyantBound, matched: Sequence[bool], policy: Policy, *, cut_steps: bool = True) -> float:
    """Play a run at the edge: it sees arrivals, not matches; the device drafts on until it hears of a miss.

    Without ``cut_steps`` the device ends the step under way before it begins anew.
    """
    way_s, clock, position = bound.round_trip_s / 2, 0.0, 0
    begun, first = way_s, 0  # when the device began its line, and at which position
    while position < len(matched):
        arrivals = (begun + way_s + (1 + index - first) * bound.draft_s for index in range(position, len(matched)))
        arrived, next_s = 0, math.inf
        for arrival in arrivals:
            if arrival > clock:
                next_s = arrival
                break
            arrived += 1
        verify = policy(arrived, next_s - clock)
        if verify is None:
            clock = next_s
            continue
        clock += bound.pass_s(verify + 1)
        drafts = [*matched[position : position + verify], False]
        position += drafts.index(False)
        if position < len(matched) and not matched[position]:
            steps = (clock + way_s - begun) / bound.draft_s
            begun = clock + way_s if cut_steps else begun + max(0, math.ceil(steps)) * bound.draft_s
            first = position + 1
        position += 1
    return clock


def edge_alone(arrived: int, wait_s: float) -> int | None:
    return 0


def holding(patience_s: float) -> Policy:
    """Verify what is there; without a draft wait for one that comes soon enough, else run ahead."""
    return lambda arrived, wait_s: arrived if arrived or wait_s > patience_s or math.isinf(wait_s) else None


def synchronous_s(bound: ClairvoyantBound, matched: Sequence[bool], length: int) -> float:
    """Draft ``length`` tokens, send them, verify, answer; in turn."""
    total, position = 0.0, 0
    while position < len(matched):
        total += bound.round_trip_s + length * bound.draft_s + bound.pass_s(length + 1)
        position += [*matched[position : position + length], False].index(False) + 1
    return total


pipelined, run_ahead = holding(math.inf), holding(0)


@given(bounds, runs)
def test_no_simple_schedule_is_faster(bound: ClairvoyantBound, matched: list[bool]) -> None:
    least_s = bound.run_s(matched) * (1 - 1e-9)
    for policy in (edge_alone, pipelined, run_ahead, holding(bound.draft_s)):
        assert least_s <= simulate(bound, matched, policy)
        assert least_s <= simulate(bound, matched, policy, cut_steps=False)
    assert least_s <= min(synchronous_s(bound, matched, length) for length in (1, 2, 5, 12))


@given(bounds, runs, st.randoms(use_true_random=False))
def test_no_schedule_at_all_is_faster(bound: ClairvoyantBound, matched: list[bool], chance: random.Random) -> None:
    def whim(arrived: int, wait_s: float) -> int | None:
        return None if math.isfinite(wait_s) and chance.random() < 0.5 else chance.randint(0, arrived)

    assert bound.run_s(matched) <= simulate(bound, matched, whim) * (1 + 1e-9)


@given(bounds, runs)
def test_never_above_the_edge_alone(bound: ClairvoyantBound, matched: list[bool]) -> None:
    assert bound.run_s(matched) <= len(matched) * bound.pass_s(1) * (1 + 1e-9)


@given(bounds, st.integers(0, 60))
def test_a_drafter_slower_than_the_edge_leaves_the_edge_alone(bound: ClairvoyantBound, matches: int) -> None:
    slow = replace(bound, draft_s=bound.pass_s(1) * 1.001)
    assert slow.stretches_s(matches)[-1] == pytest.approx((matches + 1) * bound.pass_s(1))


# ---- the figures of the notes ----


@pytest.mark.parametrize(
    ("rtt_ms", "tokens_per_s"), [(0, 80.0), (10, 71.0), (30, 58.9), (60, 49.1), (100, 42.5), (200, 36.1), (300, 34.3)]
)
def test_independent_matches_of_the_notes(rtt_ms: float, tokens_per_s: float) -> None:
    """An independent programme on a run of 40 000 tokens, four in five of which matched; here the exact mean."""
    matches = np.arange(200)
    mean_s = (0.2 * 0.8**matches * paced(rtt_ms).stretches_s(199)).sum()
    assert 1 / 0.2 / mean_s == pytest.approx(tokens_per_s, rel=0.01)


@pytest.mark.parametrize(
    ("rtt_ms", "pipelined_rate", "run_ahead_rate", "longest", "synchronous_rate"),
    [(0, 64.1, 64.3, 3, 53.7), (30, 45.6, 51.8, 5, 36.3), (100, 27.9, 40.4, 7, 22.1), (300, 13.2, 34.1, 11, 11.1)],
)
def test_the_simulator_above_is_no_straw_man(
    rtt_ms: float, pipelined_rate: float, run_ahead_rate: float, longest: int, synchronous_rate: float
) -> None:
    """It is as quick as another event simulation of the same schedules, whose rates these are."""
    matched = (np.random.default_rng(3).random(20_000) < 0.8).tolist()
    rates = [
        len(matched) / simulate(paced(rtt_ms), matched, pipelined, cut_steps=False),
        len(matched) / simulate(paced(rtt_ms), matched, run_ahead, cut_steps=False),
        len(matched) / synchronous_s(paced(rtt_ms), matched, longest),
    ]
    assert rates == pytest.approx([pipelined_rate, run_ahead_rate, synchronous_rate], rel=0.03)


# ---- its shape ----


@given(bounds, runs, st.floats(0, 0.2), st.floats(1, 3), st.floats(1, 3))
def test_higher_costs_never_lower_it(
    bound: ClairvoyantBound, matched: list[bool], later_s: float, slower_draft: float, slower_pass: float
) -> None:
    least_s = bound.run_s(matched) * (1 - 1e-9)
    assert least_s <= replace(bound, round_trip_s=bound.round_trip_s + later_s).run_s(matched)
    assert least_s <= replace(bound, draft_s=bound.draft_s * slower_draft).run_s(matched)
    assert least_s <= replace(bound, pass_s=lambda positions: slower_pass * bound.pass_s(positions)).run_s(matched)


@given(bounds, runs, st.integers(0, 39))
def test_one_more_match_never_raises_it(bound: ClairvoyantBound, matched: list[bool], where: int) -> None:
    better = [hit or index == where for index, hit in enumerate(matched)]
    assert bound.run_s(better) <= bound.run_s(matched) * (1 + 1e-9)


@given(bounds, st.lists(st.integers(0, 9), max_size=8))
def test_a_run_is_the_sum_of_its_stretches(bound: ClairvoyantBound, lengths: list[int]) -> None:
    matched = np.array([hit for matches in lengths for hit in [True] * matches + [False]], dtype=np.bool_)
    assert bound.run_s(matched) == pytest.approx(bound.stretches_s(9)[lengths].sum())


def test_the_end_of_a_text_needs_no_miss() -> None:
    """The last pass emits the last token without a draft for it, whether the device would have matched or not."""
    assert paced(0).run_s([]) == 0.0
    assert paced(0).run_s([True]) == pytest.approx(0.030)
    assert paced(0).run_s([False, True, True]) == paced(0).run_s([False, True, False]) == pytest.approx(0.0683)


@given(bounds, st.integers(0, 4), st.floats(0, 1))
def test_a_head_start_is_the_first_stretch_s_alone(bound: ClairvoyantBound, matches: int, head_s: float) -> None:
    stretch = [True] * matches + [False]
    first_s = quickest(replace(bound, round_trip_s=bound.round_trip_s - head_s), matches)
    assert bound.run_s(stretch, head_s) == pytest.approx(first_s)
    assert bound.run_s([*stretch, *stretch], head_s) == pytest.approx(first_s + bound.run_s(stretch))


def test_refuses_passes_that_wider_are_quicker() -> None:
    with pytest.raises(ValueError, match="less time"):
        ClairvoyantBound(0.0, 0.008, line(0.030, -0.01)).stretches_s(3)
