"""Each rule against an example worked by hand, and the judge that asks it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.meaning import (
    RULES,
    STRICT,
    UNTRAINED_RISK,
    WRONG_S,
    Channel,
    Context,
    HeadTail,
    MeaningJudge,
    Need,
    RiskTable,
)
from airdraft.core.meaning.rules import KlJudge, LookAhead, Reflective, Typical
from airdraft.core.types import Evidence, Granted, Report

ENTROPY = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 2 * 0.1 * math.log(0.1))  # of p = .5, .3, .1, .1
CONTEXT = Context(4)


def evidence(p: float = 0.3, *, most: float = 0.5, entropy: float = ENTROPY, kl: float | None = None) -> Evidence:
    """Of a token with probability ``p`` in that distribution."""
    return Evidence(0, math.log(p), math.log(most), entropy, math.log(most), 1.0, -0.5, kl)


def test_typical_sets_its_bar_by_the_entropy() -> None:
    assert pytest.approx(1.168, abs=1e-3) == ENTROPY
    # min(0.09, 0.3 exp(-1.168)) = min(0.09, 0.0933) = 0.09
    assert Typical()(evidence(0.1), CONTEXT) == UNTRAINED_RISK
    assert Typical()(evidence(0.089), CONTEXT) == STRICT
    # min(0.5, 0.3 exp(-1.168)) = 0.0933
    loose = Typical(epsilon=0.5)
    assert loose(evidence(0.094), CONTEXT) == UNTRAINED_RISK
    assert loose(evidence(0.093), CONTEXT) == STRICT
    # a certain target: 0.3 exp(0) = 0.3, and 0.09 is less
    assert Typical()(evidence(0.1, entropy=0.0), CONTEXT) == UNTRAINED_RISK


def test_the_kl_judge_is_strict_where_the_target_is_sure_or_nothing_was_told() -> None:
    assert KlJudge(tau=0.5)(evidence(kl=0.49), CONTEXT) == UNTRAINED_RISK
    assert KlJudge(tau=0.5)(evidence(kl=0.5), CONTEXT) == STRICT
    assert KlJudge(tau=0.5)(evidence(kl=None), CONTEXT) == STRICT
    assert KlJudge(tau=0.5)(evidence(most=0.91, kl=0.1), CONTEXT) == STRICT
    assert KlJudge(tau=0.5)(evidence(most=0.89, kl=0.1), CONTEXT) == UNTRAINED_RISK
    assert KlJudge(tau=0.5)(evidence(kl=math.nan), CONTEXT) == STRICT


def test_look_ahead_needs_an_open_minded_target_and_six_that_agree() -> None:
    rule = LookAhead()
    # 1.168 / log 4 = 0.843 > 0.3; 1.168 / log 50,000 = 0.108
    assert rule(evidence(), Context(4, confirmed=6)) == UNTRAINED_RISK
    assert rule(evidence(), Context(4, confirmed=5)) == STRICT
    assert rule(evidence(), Context(50_000, confirmed=6)) == STRICT
    assert LookAhead(entropy=0.1)(evidence(), Context(50_000, confirmed=6)) == UNTRAINED_RISK


def test_reflective_adds_the_second_look_to_the_first() -> None:
    # log 0.3 - log 0.5 = -0.511: at equal weights the second look must say more than 0.511
    assert Reflective()(replace(evidence(), reflected=0.52), CONTEXT) == UNTRAINED_RISK
    assert Reflective()(replace(evidence(), reflected=0.51), CONTEXT) == STRICT
    assert Reflective(weight=0.8)(replace(evidence(), reflected=0.13), CONTEXT) == UNTRAINED_RISK
    assert Reflective()(evidence(), CONTEXT) == STRICT


TABLE = RiskTable(np.array([0.05, 0.1, 0.2]), np.array([0.004, 0.01, 0.05]), np.zeros(3))
TAIL = HeadTail(  # its risk is the partial itself
    "plain",
    "target-only",
    np.zeros(1, np.float32),
    np.ones(1, np.float32),
    0.0,
    np.array([0.0, 1.0]),
    np.array([0.0, 1.0]),
    TABLE,
)


def headed(risk: float) -> Evidence:
    return replace(evidence(), partial=(risk,))


def test_the_head_is_asked_by_its_partial_alone() -> None:
    rule = RULES["head"]
    assert rule(headed(0.25), Context(4, tail=TAIL)) == pytest.approx(0.25)
    assert rule(headed(0.25), CONTEXT) == STRICT
    assert rule(evidence(), Context(4, tail=TAIL)) == STRICT  # no partial
    assert rule(replace(evidence(), partial=(0.1, 0.1)), Context(4, tail=TAIL)) == STRICT


def test_the_table_names_every_rule_and_what_it_needs() -> None:
    assert {name: set(rule.needs) for name, rule in RULES.items()} == {
        "head": {Need.HEAD},
        "typical": set(),
        "kl-judge": {Need.Q},
        "look-ahead": set(),
        "reflective": {Need.INSTRUCT},
    }


# ---- the judge ----


def a_judge(cap: float = 0.01, rule: str = "head", strictness: float = 1.0) -> MeaningJudge:
    return MeaningJudge(
        Granted(cap, rule),
        RULES[rule],
        TAIL,
        vocabulary=4,
        control_ids=frozenset({7}),
        strictness=lambda: strictness,
    )


def test_the_cap_chooses_the_threshold_and_only_strictness_and_price_move_it_down() -> None:
    assert a_judge(0.01).threshold == 0.1
    assert a_judge(0.05).threshold == 0.2
    assert a_judge(0.003).threshold == a_judge(0.0).threshold == 0.0
    assert a_judge(0.01, strictness=0.5).threshold == 0.05
    assert a_judge(0.01, strictness=0.0).threshold == 0.0
    assert a_judge(0.01, strictness=5.0).threshold == 0.1  # never laxer
    priced = a_judge(0.01)
    priced.reported(Report(1, miss_s=0.03))
    assert priced.threshold == pytest.approx(0.03 / WRONG_S)
    priced.reported(Report(1, miss_s=1e9))
    assert priced.threshold == 0.1
    priced.reported(Report(1, miss_s=0.0))
    assert priced.threshold == 0.0
    priced.attached()
    assert priced.threshold == 0.1
    assert a_judge(0.0, "typical").threshold == 0.0
    assert a_judge(0.01, "typical").threshold == UNTRAINED_RISK


@given(st.floats() | st.none(), st.floats() | st.none(), st.floats() | st.none(), st.floats(), st.floats(0, 1))
def test_nothing_that_is_reported_makes_a_judge_laxer_than_its_cap(
    miss_s: float | None, round_trip_s: float | None, up_bytes_s: float | None, strictness: float, risk: float
) -> None:
    judge = a_judge(0.01, strictness=strictness)
    judge.reported(Report(1, miss_s=miss_s, round_trip_s=round_trip_s, up_bytes_s=up_bytes_s))
    assert 0 <= judge.threshold <= 0.1
    assert judge.risk(headed(risk)) == pytest.approx(a_judge().risk(headed(risk)))
    for told in (judge.channel.round_trip_s, judge.channel.up_bytes_s):
        assert told is None or (math.isfinite(told) and told >= 0)


def test_evidence_that_is_none_is_strict_and_control_tokens_never_stand() -> None:
    judge = a_judge(rule="typical")
    assert judge.risk(evidence()) == UNTRAINED_RISK
    for bad in (math.nan, math.inf):
        assert judge.risk(replace(evidence(), drafted_log_p=bad)) == STRICT
        assert judge.risk(replace(evidence(), entropy=-bad)) == STRICT
    assert judge.may_stand(1, 2)
    assert not judge.may_stand(7, 2)
    assert not judge.may_stand(2, 7)


def test_what_is_spent_adds_up_as_independent_chances_do() -> None:
    judge = a_judge()
    for risk in (0.1, 0.2, 0.0):
        judge.spend(risk)
    assert judge.spent == pytest.approx(1 - 0.9 * 0.8)


def test_a_rule_that_needs_a_head_is_nothing_without() -> None:
    with pytest.raises(ValueError, match="needs a head"):
        MeaningJudge(Granted(0.01, "head"), RULES["head"], vocabulary=4)
    assert Channel() == Channel(None, None)
