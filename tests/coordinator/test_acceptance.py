"""Acceptance by position: counted as it was, shrunk where little is known, forgotten."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.policy.acceptance import PLACES, PRIORS, USUAL_PRIOR, AcceptanceByPosition, place
from coordinator.policy.costs import PassCost, RoundCost


def fed(chances: list[float], rounds: int, length: int, seed: int = 1) -> AcceptanceByPosition:
    chance, known = random.Random(seed), AcceptanceByPosition()
    for _ in range(rounds):
        accepted = next((index for index in range(length) if chance.random() >= chances[index]), length)
        known = known.updated(length, accepted)
    return known


def test_places_cover_all_positions_without_a_gap() -> None:
    places = [place(before) for before in range(100)]
    assert places[:17] == [0, 1, 2, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 6]
    assert set(places[16:]) == {PLACES - 1}


@given(st.integers(1, 40), st.data())
def test_a_round_counts_at_each_place_what_was_judged_there(drafted: int, data: st.DataObject) -> None:
    accepted = data.draw(st.integers(0, drafted))
    known = AcceptanceByPosition().updated(drafted, accepted)
    judged, right = [0] * PLACES, [0] * PLACES
    for position in range(min(drafted, accepted + 1)):
        judged[place(position)] += 1
        right[place(position)] += position < accepted
    assert known.judged == tuple(judged)
    assert known.accepted == tuple(right)


@given(st.lists(st.tuples(st.integers(0, 32), st.floats(0, 1)), max_size=60), st.integers(0, 40))
def test_survival_is_the_product_of_chances_and_its_sum_the_tokens(
    rounds: list[tuple[int, float]], tokens: int
) -> None:
    known = AcceptanceByPosition()
    for drafted, share in rounds:
        known = known.updated(drafted, int(share * drafted))
    survival = known.survival(tokens)
    assert len(survival) == tokens + 1
    assert survival[0] == 1
    assert all(after <= before for before, after in pairwise(survival))
    assert survival[-1] == pytest.approx(math.prod(known.chance(before) for before in range(tokens)))
    assert known.expected_tokens(tokens) == pytest.approx(sum(survival))


def test_before_a_token_is_judged_all_chances_are_the_prior() -> None:
    known = AcceptanceByPosition.of_task("translation")
    assert known.chances() == pytest.approx([PRIORS["translation"]] * PLACES)
    assert AcceptanceByPosition.of_task("whatever").acceptance == USUAL_PRIOR
    cost = RoundCost(0.06, 0.008, PassCost(0.03), PRIORS["translation"])
    assert known.expected_tokens(9) == pytest.approx(cost.tokens_a_round(9))


def test_chances_that_rise_and_fall_are_told_apart() -> None:
    rising = fed([0.4, 0.7, 0.9] + [0.95] * 13, 400, 16)
    falling = fed([0.95, 0.9, 0.8] + [0.6] * 13, 400, 16)
    assert rising.chances()[0] < 0.55 < 0.8 < rising.chances()[4]
    assert falling.chances()[0] > 0.85 > 0.75 > falling.chances()[4]


def test_a_place_that_no_draft_reached_is_believed_to_be_like_the_one_before() -> None:
    known = fed([0.5, 0.9, 0.9], 200, 3)
    assert known.chances()[3] == pytest.approx(known.chances()[2])
    assert known.chances()[6] == pytest.approx(known.chances()[2])
    assert known.chances()[2] > known.chances()[0]


def test_a_step_is_followed() -> None:
    known = fed([0.9] * 8, 300, 8)
    for _ in range(60):
        known = known.updated(8, 0)
    assert known.chance(0) < 0.2


def test_what_cannot_be_is_refused_and_an_empty_round_changes_nothing() -> None:
    known = AcceptanceByPosition()
    for drafted, accepted in ((2, 3), (2, -1)):
        with pytest.raises(ValueError, match="cannot have been accepted"):
            known.updated(drafted, accepted)
    assert known.updated(0, 0) is known
