"""The sequential test behind audits: quiet while claims hold, quick when they do not, slow to forgive."""

from __future__ import annotations

import math
from random import Random

import pytest

from airdraft.core.meaning import AuditTest
from airdraft.core.meaning.audit import CLEAN_AUDITS, FLOOR, MOST_CLEAN_AUDITS, ODDS, log_ratio


def fed(test: AuditTest, chance: Random, audits: int, *, claimed: float, true: float) -> AuditTest:
    for _ in range(audits):
        test.audited(claimed, harmful=chance.random() < true)
    return test


def test_one_outcome_weighs_what_its_likelihoods_say() -> None:
    # odds of 0.2 are 0.25, three times that 0.75, a chance of 3/7
    assert ODDS == 3
    assert log_ratio(0.2, harmful=True) == pytest.approx(math.log(3 / 7 / 0.2))
    assert log_ratio(0.2, harmful=False) == pytest.approx(math.log(4 / 7 / 0.8))
    assert 0.2 * math.exp(log_ratio(0.2, harmful=True)) + 0.8 * math.exp(
        log_ratio(0.2, harmful=False)
    ) == pytest.approx(1)
    assert math.isfinite(log_ratio(0.0, harmful=True))
    assert math.isfinite(log_ratio(1.0, harmful=False))


def test_claims_that_hold_hardly_ever_alarm() -> None:
    alarms = sum(fed(AuditTest(), Random(seed), 400, claimed=0.03, true=0.03).alarms > 0 for seed in range(200))
    assert alarms <= 20


@pytest.mark.parametrize(("true", "within"), [(0.15, 120), (0.3, 50)])
def test_a_shift_is_met_at_once(true: float, within: int) -> None:
    for seed in range(50):
        chance = Random(seed)
        test = fed(AuditTest(), chance, 1000, claimed=0.03, true=0.01)
        assert test.strictness == 1
        before = test.audits
        while test.strictness == 1:
            fed(test, chance, 1, claimed=0.03, true=true)
        assert test.audits - before <= within


def strictnesses(*, claimed: float, harmful_of: int) -> list[float]:
    """Return what one audit in so many that is harmful makes of the strictness, down to nothing."""
    test = AuditTest()
    seen = [1.0]
    while test.strictness > 0:
        if test.audited(claimed, harmful=test.audits % harmful_of == 0) != seen[-1]:
            seen.append(test.strictness)
    return seen


def test_it_tightens_by_what_it_saw_and_by_half_at_least() -> None:
    assert strictnesses(claimed=0.02, harmful_of=1) == [1.0, pytest.approx(0.02), 0.0]
    assert strictnesses(claimed=0.5, harmful_of=1) == [2.0**-step for step in range(7)] + [0.0]
    first = strictnesses(claimed=0.02, harmful_of=4)[1]  # ten times what is claimed and more
    assert 0.05 <= first <= 0.1


def test_an_old_clean_record_does_not_soften_an_alarm() -> None:
    fresh, old = AuditTest(), fed(AuditTest(), Random(0), 3000, claimed=0.02, true=0.0)
    for test in (fresh, old):
        while test.strictness == 1:
            test.audited(0.02, harmful=True)
    assert old.strictness == fresh.strictness


def test_it_loosens_after_a_clean_window_and_never_past_the_table() -> None:
    test = AuditTest()
    while test.strictness > 0:
        test.audited(0.02, harmful=True)
    for _ in range(CLEAN_AUDITS - 1):
        assert test.audited(0.02, harmful=False) == 0.0
    assert test.audited(0.02, harmful=False) == FLOOR
    for _ in range(6 * CLEAN_AUDITS):
        test.audited(0.02, harmful=False)
    assert test.strictness == 1.0
    fed(test, Random(0), 3 * CLEAN_AUDITS, claimed=0.02, true=0.0)
    assert test.strictness == 1.0  # never laxer than the table


def test_who_was_forgiven_too_soon_waits_twice_as_long() -> None:
    test = AuditTest()
    waits = []
    for _ in range(7):
        while test.strictness == 1:
            test.audited(0.5, harmful=True)
        waits.append(0)
        while test.strictness < 1:
            test.audited(0.02, harmful=False)
            waits[-1] += 1
    assert waits == [min(CLEAN_AUDITS * 2**turn, MOST_CLEAN_AUDITS) for turn in range(7)]


@pytest.mark.parametrize("risk", [-0.1, 1.1, math.nan])
def test_a_claim_that_is_no_chance_is_refused(risk: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        AuditTest().audited(risk, harmful=False)
