"""Draft lengths: each policy's formula against brute force, and the one interface of all."""

from __future__ import annotations

import copy
import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.confidence import Calibration
from coordinator.policy.costs import PassCost, RoundCost
from coordinator.policy.draft_length import (
    ARMS,
    BELIEVED_ROUNDS,
    POLICIES,
    Bandit,
    Confidence,
    Fixed,
    MaxGoodput,
    SpecDecPlusPlus,
)
from coordinator.policy.rounds import LONGEST, Drafting, Outcome, RoundTime

TIME = RoundTime(0.06, 0.008, PassCost(0.03, 0.0003), 0.0001)

times = st.builds(
    RoundTime,
    st.floats(0, 0.5),
    st.floats(0.0005, 0.05),
    st.builds(PassCost, st.floats(0.001, 0.1), st.floats(0, 0.005)),
    st.floats(0, 0.001),
)
chances = st.lists(st.floats(0, 1), min_size=LONGEST, max_size=LONGEST)


def survival_of(positions: list[float]) -> tuple[float, ...]:
    return tuple(itertools.accumulate(positions, lambda alive, chance: alive * chance, initial=1.0))


def judged(rounds: list[tuple[int, int]]) -> AcceptanceByPosition:
    known = AcceptanceByPosition()
    for drafted, accepted in rounds:
        known = known.updated(drafted, accepted)
    return known


def drafting(time: RoundTime = TIME, *confidences: float) -> Drafting:
    return Drafting(time, AcceptanceByPosition(), len(confidences), confidences)


@given(times, chances)
def test_the_best_length_is_the_one_that_brute_force_finds(time: RoundTime, positions: list[float]) -> None:
    survival = survival_of(positions)

    def cost(length: int) -> float:
        return time.seconds(length) / sum(survival[: length + 1])

    best, seconds = time.best(survival)
    assert seconds == pytest.approx(cost(best))
    assert seconds == pytest.approx(min(map(cost, range(1, LONGEST + 1))))


@given(times, st.floats(0, 0.99), st.integers(1, LONGEST))
def test_with_equal_chances_a_round_is_the_models_of_the_costs(time: RoundTime, chance: float, length: int) -> None:
    cost = RoundCost(time.round_trip_s, time.draft_s + time.id_s, time.target, chance)
    survival = survival_of([chance] * LONGEST)
    assert time.seconds(length) / sum(survival[: length + 1]) == pytest.approx(cost.split_s(length))


@pytest.mark.parametrize("name", POLICIES)
@given(times, st.lists(st.tuples(st.integers(1, LONGEST), st.floats(0, 1)), max_size=20), st.data())
def test_every_policy_keeps_to_the_two_verbs(
    name: str, time: RoundTime, rounds: list[tuple[int, float]], data: st.DataObject
) -> None:
    policy, known = POLICIES[name](), AcceptanceByPosition()
    for most, share in [*rounds, (LONGEST, 1.0)]:
        now = Drafting(time, known)
        while now.drafted < most and policy.length(now) > now.drafted:
            sure = data.draw(st.floats(0, 1)) if len(rounds) < 3 else 0.7
            now = replace(now, drafted=now.drafted + 1, confidences=(*now.confidences, sure))
            assert 1 <= policy.length(now) <= LONGEST
        assert now.drafted >= 1
        accepted = int(share * now.drafted)
        known = known.updated(now.drafted, accepted)
        policy.saw(Outcome(now.drafted, accepted, now.confidences))


@pytest.mark.parametrize("name", POLICIES)
def test_a_drafter_without_confidences_is_told_of_lengths_all_the_same(name: str) -> None:
    policy = POLICIES[name]()
    now = drafting()
    while policy.length(now) > now.drafted:
        now = replace(now, drafted=now.drafted + 1)
    assert 1 <= now.drafted <= LONGEST


@pytest.mark.parametrize("name", POLICIES)
def test_a_copy_is_a_snapshot(name: str) -> None:
    taught, untaught = POLICIES[name](), POLICIES[name]()
    snapshot = copy.copy(taught)
    for _ in range(100):
        taught.saw(Outcome(8, 0, (0.9,) * 8))
    for time in (TIME, replace(TIME, round_trip_s=0.3)):
        for confidences in ((), (0.95,), (0.95, 0.95)):
            assert snapshot.length(drafting(time, *confidences)) == untaught.length(drafting(time, *confidences))


def test_fixed_is_fixed() -> None:
    assert Fixed(7).length(drafting()) == 7
    with pytest.raises(ValueError, match="is not 1 to"):
        Fixed(0)


def test_confidence_stops_behind_the_first_doubt() -> None:
    policy = Confidence(0.6)
    assert policy.length(drafting(TIME, 0.9, 0.61)) == 3
    assert policy.length(drafting(TIME, 0.9, 0.6)) == 2


@given(times, st.lists(st.tuples(st.integers(1, 16), st.floats(0, 1)), max_size=30))
def test_max_goodput_is_the_best_by_what_is_known(time: RoundTime, rounds: list[tuple[int, float]]) -> None:
    known = judged([(drafted, int(share * drafted)) for drafted, share in rounds])
    chosen = MaxGoodput().length(Drafting(time, known))
    costs = [time.seconds(length) / known.expected_tokens(length) for length in range(1, LONGEST + 1)]
    assert costs[chosen - 1] == pytest.approx(min(costs))


# ---- SpecDec++ ----


def test_the_threshold_rises_with_the_round_trip() -> None:
    limits = []
    for round_trip_s in (0.0, 0.03, 0.1, 0.3, 1.0):
        policy, time = SpecDecPlusPlus(), replace(TIME, round_trip_s=round_trip_s)
        policy.length(drafting(time))
        limits.append(policy.threshold(time))
    assert limits == sorted(limits)
    assert limits[0] < 0.65 < 0.95 < limits[-1] < 1


def test_where_chances_are_certain_one_token_ahead_finds_the_best_stop() -> None:
    """Confidences that are the chances, taken at the drafter's word: the stop is that of ``best``."""
    for chance, round_trip_s in itertools.product((0.5, 0.7, 0.9), (0.0, 0.06, 0.2)):
        time, known = replace(TIME, round_trip_s=round_trip_s), AcceptanceByPosition(prior=chance)
        policy, now = SpecDecPlusPlus(), Drafting(time, known)
        while policy.length(now) > now.drafted:
            now = replace(now, drafted=now.drafted + 1, confidences=(*now.confidences, chance))
        assert now.drafted == time.best(survival_of([chance] * LONGEST))[0]


def test_stopping_one_token_ahead_is_optimal_for_a_priced_token() -> None:
    """Against all stopping rules of a short draft: chances low or high by a coin, known once a token is drafted."""
    low, high, price_s, deepest = 0.3, 0.95, 0.03, 6
    cost_s, mean = 0.012, (0.3 + 0.95) / 2

    def value(alive: float, left: int) -> float:
        """Return the best gain from here on, by dynamic programming."""
        if not left:
            return 0.0
        on = -cost_s + sum(0.5 * (price_s * alive * next_ + value(alive * next_, left - 1)) for next_ in (low, high))
        return max(0.0, on)

    def one_ahead(alive: float, left: int) -> float:
        if not left or 1 - alive * mean >= 1 - cost_s / price_s:
            return 0.0
        return -cost_s + sum(
            0.5 * (price_s * alive * next_ + one_ahead(alive * next_, left - 1)) for next_ in (low, high)
        )

    assert value(1.0, deepest) > 0
    assert one_ahead(1.0, deepest) == pytest.approx(value(1.0, deepest))


def test_a_doubtful_token_ends_a_draft_and_a_sure_one_does_not() -> None:
    policy = SpecDecPlusPlus()
    policy.length(drafting())
    assert policy.length(drafting(TIME, 0.99, 0.98)) == 3
    assert policy.length(drafting(TIME, 0.99, 0.05)) == 2


def test_confidences_are_worth_what_they_turned_out_to_be() -> None:
    calibration, chance = Calibration(), random.Random(4)
    assert calibration.chance(0.9) == pytest.approx(0.9)
    for _ in range(300):
        right = chance.random() < 0.5
        calibration = calibration.updated(Outcome(1, int(right), (0.95,)))
    assert calibration.chance(0.95) == pytest.approx(0.5, abs=0.15)
    assert calibration.chance(0.45) == pytest.approx(0.45)
    assert calibration.updated(Outcome(3, 1)) is calibration
    behind_a_miss = Calibration().updated(Outcome(3, 0, (0.55, 0.15, 0.25)))
    assert sum(behind_a_miss.judged) == 1


# ---- the bandit ----


def bandit_after(outcomes: list[tuple[int, int]], curiosity: float) -> Bandit:
    policy = Bandit(curiosity, kept=1.0)
    for drafted, accepted in outcomes:
        policy.saw(Outcome(drafted, accepted))
    return policy


def test_a_bandits_indices_are_those_of_its_formula_at_the_round_trip_of_now() -> None:
    outcomes = [(4, 4), (4, 0), (8, 5), (2, 2)] * 3
    policy, known = bandit_after(outcomes, 0.5), AcceptanceByPosition()
    for time in (TIME, replace(TIME, round_trip_s=0.3)):
        means, indices = policy.weighed(Drafting(time, known))
        tokens = hoped = ratio = 1.0
        for arm, (shorter, length) in enumerate(itertools.pairwise((0, *ARMS))):
            told = [accepted for drafted, accepted in outcomes if length <= drafted]
            gained = sum(sum(shorter < token <= accepted for token in range(1, length + 1)) for accepted in told)
            believed = known.expected_tokens(length) - known.expected_tokens(shorter)
            rounds = len(told) + BELIEVED_ROUNDS
            gain = (gained + BELIEVED_ROUNDS * believed * ratio) / rounds
            ratio = gain / believed
            tokens += gain
            hoped += gain * (1 + 0.5 * math.sqrt(math.log(1 + len(outcomes)) / rounds))
            assert means[arm] == pytest.approx(time.seconds(length) / tokens)
            assert indices[arm] == pytest.approx(time.seconds(length) / hoped)


def test_a_bandit_begins_with_the_model_and_mends_it() -> None:
    """The model says 0.9 all along; from the fifth token on all are wrong."""
    policy, now = Bandit(), Drafting(replace(TIME, round_trip_s=0.2), AcceptanceByPosition(prior=0.9))
    first = policy.length(now)
    assert first >= 12
    for _ in range(60):
        policy.saw(Outcome(policy.length(now), min(policy.length(now), 4)))
    assert policy.length(now) <= 6


def test_a_bandit_tries_longer_drafts_again() -> None:
    """For a while three tokens at most are right, then all are: what was learnt of longer ones must not last."""
    policy, now = Bandit(), Drafting(TIME, AcceptanceByPosition(prior=0.9))
    lengths = []
    for index in range(200):
        lengths.append(policy.length(now))
        policy.saw(Outcome(lengths[-1], lengths[-1] if index >= 100 else min(lengths[-1], 3)))
    assert lengths[99] <= 4
    assert lengths[-1] >= 12
