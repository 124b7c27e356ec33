"""The share of misses that stand by meaning: what is counted, and what an edge that went ahead never judged."""

from __future__ import annotations

from random import Random

import pytest

from coordinator.policy.costs import PassCost
from coordinator.policy.expected import Setting
from coordinator.policy.harmless import MOST_SHARE, PRIOR_SHARE, HarmlessShare, Misses


def test_it_begins_with_the_prior() -> None:
    assert HarmlessShare().share == PRIOR_SHARE
    assert HarmlessShare().lifted(0.7) == 0.7


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_it_learns_the_share_of_what_was_judged(share: float) -> None:
    chance, known = Random(1), HarmlessShare()
    for _ in range(400):
        known = known.updated(Misses(1) if chance.random() < share else Misses(replaced=1))
    assert known.share == pytest.approx(share, abs=0.12)
    assert known.share < 1


def test_it_never_says_that_all_stand() -> None:
    known = HarmlessShare()
    for _ in range(10_000):
        known = known.updated(Misses(1))
    assert known.share <= MOST_SHARE


def test_an_old_share_is_forgotten() -> None:
    known = HarmlessShare().updated(Misses(stood=0, replaced=300))
    for _ in range(200):
        known = known.updated(Misses(1))
    assert known.share > 0.8


def test_what_was_never_judged_would_have_stood_as_often_as_what_was() -> None:
    """Exact chance .8, half of the misses harmless; the edge had gone ahead of half of the drafts."""
    chance, known, right, seen = Random(2), HarmlessShare(), 0, 0
    for _ in range(20_000):
        matches, harmless, judged = chance.random() < 0.8, chance.random() < 0.5, chance.random() < 0.5
        seen += 1
        right += matches or (judged and harmless)
        if not matches:
            known = known.updated(Misses(judged and harmless, judged and not harmless, not judged))
    assert right / seen == pytest.approx(0.85, abs=0.02)
    assert known.lifted(right / seen) == pytest.approx(0.9, abs=0.02)


def test_counts_are_counts() -> None:
    with pytest.raises(ValueError, match="cannot have been seen"):
        HarmlessShare().updated(Misses(-1))


def test_the_exact_chance_follows_from_the_share() -> None:
    at = Setting(0.1, 0.008, PassCost(0.03), (0.9, 0.5, 0.95), harmless=0.5)
    assert at.exact(0) == pytest.approx(0.8)
    assert at.exact(1) == 0.0
    assert at.exact(7) == pytest.approx(0.9)
