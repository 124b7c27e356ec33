"""What an edge grants is never laxer than what was asked for, and where it is less it says why."""

from __future__ import annotations

import json

import pytest

from airdraft.core.types import Granted, HiddenProtocol, Limits, Semantic
from airdraft.wire.describe import Description
from edge_node.granting import Decision, Grant, Granting, control_ids
from edge_node.heads import HeadFile, HeadRefused
from tests.heads import DRAFTER, TARGET, head_by_gap

T, F, M = HiddenProtocol.TARGET_ONLY, HiddenProtocol.FULL_HIDDEN, HiddenProtocol.MISMATCH_FIRST
PLAIN = head_by_gap("plain")
READS_STATES = head_by_gap("reads states", state_width=8)
NO_LOSS_IS_SMALL = head_by_gap("costly", losses=(0.2, 0.3, 0.5))


def describing(template: str = "") -> Description:
    tokens = {"model": {"type": "BPE"}, "added_tokens": [{"id": 0}, {"id": 7}]}
    return Description("m", TARGET, b"k" * 32, (0,), 100, Limits(64), "fast", template, json.dumps(tokens))


def granting(*heads: HeadFile, semantic: bool = True, most_loss: float = 0.05) -> Granting:
    made = Granting(heads, semantic=semantic, most_loss=most_loss)
    made.check(TARGET)
    made.serves(describing())
    return made


def granted(made: Granting, asked: Semantic) -> Grant:
    grant = made.grant(asked)
    assert grant is not None
    assert (grant.granted.max_loss == 0) == grant.decision.exact
    assert grant.granted.max_loss <= asked.max_loss
    assert grant.granted.reason or grant.decision is Decision.AS_ASKED
    assert len(grant.granted.reason) <= 200
    return grant


def asking(protocol: HiddenProtocol = T, *, cap: float = 0.02, rule: str = "head", width: int = 0) -> Semantic:
    return Semantic(cap, rule, protocol, DRAFTER, width)


def test_who_asks_for_nothing_is_exact_and_so_is_a_tolerance_of_0() -> None:
    assert granting(PLAIN).grant(None) is None
    assert granting(PLAIN).grant(asking(cap=0.0)) is None


def test_a_wish_that_can_be_met_is() -> None:
    made = granting(READS_STATES, PLAIN)
    assert granted(made, asking()) == Grant(Granted(0.02, "head", T), Decision.AS_ASKED, 1, "plain")
    for protocol in (F, M, HiddenProtocol.MARGIN_FIRST):
        wish = asking(protocol, width=8)
        assert granted(made, wish) == Grant(Granted(0.02, "head", protocol), Decision.AS_ASKED, 0, "reads states")


def test_of_several_heads_the_one_that_was_measured_best_judges() -> None:
    heads = (head_by_gap("a", auc=0.8), head_by_gap("b", auc=0.9), head_by_gap("c", auc=0.95, losses=(0.9, 0.9, 0.9)))
    assert granted(granting(*heads), asking()).key == "b"


@pytest.mark.parametrize(
    ("heads", "asked", "words"),
    [
        ((PLAIN,), asking(F, width=8), "reads no states"),
        ((READS_STATES, PLAIN), asking(F, width=9), "reads states of 8 numbers, not 9"),
        ((READS_STATES, PLAIN), asking(M), "reads states of 8 numbers, not 0"),
        ((head_by_gap("states", state_width=8, losses=(0.3, 0.3, 0.3)), PLAIN), asking(F, width=8), "no threshold"),
    ],
)
def test_states_of_no_use_leave_target_only(heads: tuple[HeadFile, ...], asked: Semantic, words: str) -> None:
    grant = granted(granting(*heads), asked)
    assert grant.granted.protocol is T
    assert grant.decision is Decision.TARGET_ONLY
    assert grant.key == "plain"
    assert words in grant.granted.reason


@pytest.mark.parametrize(
    ("heads", "asked", "decision", "words"),
    [
        ((), asking(), Decision.NO_HEAD, "has no head"),
        ((PLAIN,), Semantic(0.02), Decision.NO_DRAFTER, "has not named its own"),
        ((PLAIN,), Semantic(0.02, drafter_digest=b"x" * 32), Decision.NO_HEAD, "no head for this drafter"),
        ((READS_STATES,), asking(), Decision.NO_HEAD, "read its states"),
        ((READS_STATES,), asking(F, width=9), Decision.NO_HEAD, "read its states"),
        ((NO_LOSS_IS_SMALL,), asking(), Decision.NO_THRESHOLD, "no threshold of head costly keeps a loss of 0.02"),
        ((PLAIN,), asking(cap=0.005), Decision.NO_THRESHOLD, "keeps a loss of 0.005"),
        ((PLAIN,), asking(rule="reflective"), Decision.NO_REFLECTION, "no chat template"),
        ((PLAIN,), asking(rule="made-up"), Decision.UNKNOWN_RULE, "head, typical, kl-judge, look-ahead"),
    ],
)
def test_what_cannot_be_met_is_exact(
    heads: tuple[HeadFile, ...], asked: Semantic, decision: Decision, words: str
) -> None:
    made = granting(*heads)
    grant = granted(made, asked)
    assert grant.decision is decision
    assert decision.exact
    assert words in grant.granted.reason


def test_a_cap_above_the_operators_is_the_operators() -> None:
    grant = granted(granting(PLAIN, most_loss=0.03), asking(cap=0.5))
    assert grant.granted.max_loss == 0.03
    assert grant.decision is Decision.LOWER_CAP
    assert "cap of 0.03 at most" in grant.granted.reason


@pytest.mark.parametrize("made", [granting(PLAIN, semantic=False), granting(PLAIN, most_loss=0.0)])
def test_an_operator_can_switch_it_off(made: Granting) -> None:
    assert granted(made, asking()).decision is Decision.SWITCHED_OFF
    assert granted(made, asking(rule="typical")).decision is Decision.SWITCHED_OFF
    assert made.modes == ("exact",)


def test_rules_without_training_need_neither_head_nor_drafter() -> None:
    made = granting()
    for rule in ("typical", "kl-judge", "look-ahead"):
        grant = granted(made, Semantic(0.02, rule))
        reason = f"no cap bounds {rule}, audits do"
        assert grant == Grant(Granted(0.02, rule, reason=reason), Decision.AS_ASKED, key=rule)
        judge = made.judge(grant, lambda: 1.0)
        assert judge.threshold > 0
    assert "typical reads no states" in granted(made, Semantic(0.02, "typical", F, b"", 8)).granted.reason


def test_only_what_can_be_had_is_announced() -> None:
    assert granting().modes == ("exact", "typical", "kl-judge", "look-ahead")
    assert granting(PLAIN).modes == ("exact", "head", "typical", "kl-judge", "look-ahead")


def test_a_judge_knows_its_tables_threshold_audits_and_control_tokens() -> None:
    made, strict = granting(PLAIN), [1.0]
    judge = made.judge(granted(made, asking()), lambda: strict[0])
    assert judge.threshold == 0.1
    strict[0] = 0.5
    assert judge.threshold == 0.05
    strict[0] = 0.0
    assert judge.threshold == 0.0
    assert not judge.may_stand(7, 5)
    assert not judge.may_stand(5, 0)
    assert judge.may_stand(5, 6)


def test_a_head_of_another_target_is_refused_in_one_line() -> None:
    made = Granting((head_by_gap("stranger", target=b"x" * 32),))
    with pytest.raises(HeadRefused, match="head stranger was trained with another target") as caught:
        made.check(TARGET)
    assert "\n" not in str(caught.value)


def test_every_token_that_a_tokenizer_keeps_apart_is_a_control_token() -> None:
    assert control_ids(json.dumps({"added_tokens": [{"id": 3, "special": True}, {"id": 9, "special": False}]})) == {
        3,
        9,
    }
    assert control_ids("") == frozenset()
