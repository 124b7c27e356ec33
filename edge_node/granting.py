"""What an edge grants of a wish for acceptance by meaning, and why less than was asked (DESIGN §6).

A device asks for a cap, a rule and a protocol. What it gets is never laxer: where the edge lacks what the wish needs,
it grants the next stricter thing that it has, and at last ``exact``, each with a reason that the device can show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from airdraft.core.meaning import RULES, MeaningJudge, Need
from airdraft.core.types import Granted, HiddenProtocol, Semantic
from airdraft.wire.describe import EXACT, Description
from edge_node.heads import HeadFile, HeadRefused
from edge_node.reflective import cannot_reflect

NOT_LOADED = "the model is still loading"


class Decision(StrEnum):
    """What became of a wish: a closed set, for a metric's label."""

    AS_ASKED = "as_asked"
    LOWER_CAP = "lower_cap"
    TARGET_ONLY = "target_only"  # the states that the device offers are of no use here
    SWITCHED_OFF = "switched_off"  # this, and all that follow, are exact
    UNKNOWN_RULE = "unknown_rule"
    NO_REFLECTION = "no_reflection"
    NO_DRAFTER = "no_drafter"
    NO_HEAD = "no_head"
    NO_THRESHOLD = "no_threshold"

    @property
    def exact(self) -> bool:
        """Return whether nothing is accepted by meaning."""
        return self not in (Decision.AS_ASKED, Decision.LOWER_CAP, Decision.TARGET_ONLY)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one session gets: what its device is told, and what judges its tokens."""

    granted: Granted
    decision: Decision
    head: int = -1  # of the heads that the engine was given; -1: none
    key: str = ""  # what audits of its tokens tell about: a head's name, or a rule's


class Granting:
    """Decides over wishes, with the heads that this edge holds."""

    def __init__(
        self,
        heads: Sequence[HeadFile] = (),
        *,
        semantic: bool = True,
        most_loss: float = 0.05,
        reflects: bool = False,
    ) -> None:
        """Hold ``heads`` in the order in which the engine was given them.

        semantic   False refuses every wish
        most_loss  the cap on caps
        reflects   the engine keeps rows for asking the model about drafts
        """
        self._heads = tuple(heads)
        self._semantic, self._most_loss, self._reflects = semantic and most_loss > 0, most_loss, reflects
        self._no_reflection = NOT_LOADED
        self._control: frozenset[int] = frozenset()
        self._vocabulary = 2

    @property
    def heads(self) -> tuple[HeadFile, ...]:
        """Return the heads that are held."""
        return self._heads

    @property
    def modes(self) -> tuple[str, ...]:
        """Return the names of what a session may be granted: ``exact`` and rules."""
        return (EXACT, *(rule for rule in RULES if self._semantic and self._lacks(rule) is None))

    def check(self, model_digest: bytes) -> None:
        """Raise HeadRefused where a head was trained with another target than the one that is served."""
        for head in self._heads:
            if head.manifest.target_digest != model_digest.hex():
                raise HeadRefused(
                    f"head {head.tail.name} was trained with another target than the model that is served; train one "
                    "for this model (edge_node train-head), or leave it out"
                )

    def serves(self, description: Description) -> None:
        """Take what the model brings: its size, whether it can be asked, and which tokens are no text of its own."""
        self._vocabulary = description.vocabulary
        self._control = frozenset(description.stop_ids) | control_ids(description.tokenizer_json)
        self._no_reflection = cannot_reflect(description.chat_template, description.tokenizer_json)
        if not self._no_reflection and not self._reflects:
            self._no_reflection = "this edge keeps no rows to ask the model by; its operator can (--reflect)"

    def check_of(self, key: str) -> str:
        """Return the check that a head's labels were made by; empty for a rule without training."""
        return next((head.manifest.task for head in self._heads if head.tail.name == key), "")

    def grant(self, asked: Semantic | None) -> Grant | None:
        """Return what a session gets; None where it asks for nothing, which is ``exact``."""
        if asked is None or asked.max_loss <= 0:
            return None
        if not self._semantic:
            return _exact(Decision.SWITCHED_OFF, "this edge accepts nothing by meaning")
        if asked.rule not in RULES:
            return _exact(Decision.UNKNOWN_RULE, f"this edge has the rules {', '.join(self.modes[1:])}")
        lacks = self._lacks(asked.rule)
        if lacks is not None:
            return lacks
        return self._by_head(asked) if Need.HEAD in RULES[asked.rule].needs else self._by_rule(asked)

    def judge(self, grant: Grant, strictness: Callable[[], float]) -> MeaningJudge:
        """Return what judges the tokens of a session with this grant, which is not exact."""
        return MeaningJudge(
            grant.granted,
            RULES[grant.granted.rule],
            self._heads[grant.head].tail if grant.head >= 0 else None,
            vocabulary=self._vocabulary,
            control_ids=self._control,
            strictness=strictness,
        )

    def _lacks(self, rule: str) -> Grant | None:
        """Return the refusal of a rule that this edge cannot follow for any session, None where it can."""
        needs = RULES[rule].needs
        if Need.HEAD in needs and not self._heads:
            return _exact(Decision.NO_HEAD, "this edge has no head")
        if Need.INSTRUCT in needs and self._no_reflection:
            return _exact(Decision.NO_REFLECTION, f"this model cannot be asked about drafts: {self._no_reflection}")
        return None

    def _by_rule(self, asked: Semantic) -> Grant:
        notes, decision = self._capped(asked)
        protocol = asked.protocol
        if protocol is not HiddenProtocol.TARGET_ONLY:
            protocol, decision = HiddenProtocol.TARGET_ONLY, Decision.TARGET_ONLY
            notes.append(f"{asked.rule} reads no states")
        notes.append(f"no cap bounds {asked.rule}, audits do")
        granted = Granted(self._cap(asked), asked.rule, protocol, "; ".join(notes))
        return Grant(granted, decision, key=asked.rule)

    def _by_head(self, asked: Semantic) -> Grant:
        if not asked.drafter_digest:
            return _exact(Decision.NO_DRAFTER, "a head knows one drafter, and this device has not named its own")
        own = [
            index
            for index, head in enumerate(self._heads)
            if head.manifest.drafter_digest == asked.drafter_digest.hex()
        ]
        if not own:
            return _exact(Decision.NO_HEAD, "this edge has no head for this drafter")
        refusal = _exact(Decision.NO_HEAD, "the heads here for this drafter read its states, which were not offered")
        wants_states = asked.protocol is not HiddenProtocol.TARGET_ONLY
        own.sort(key=lambda index: -self._heads[index].manifest.auc)  # where several would do, the one that knows best
        with_states = [index for index in own if self._width(index)]
        fitting = [index for index in with_states if wants_states and self._width(index) == asked.state_width]
        for index in (*fitting, *(index for index in own if not self._width(index))):
            tail = self._heads[index].tail
            if tail.table.threshold(self._cap(asked)) <= 0:
                refusal = _exact(
                    Decision.NO_THRESHOLD,
                    f"no threshold of head {tail.name} keeps a loss of {self._cap(asked):g}",
                )
                continue
            notes, decision = self._capped(asked)
            protocol = asked.protocol
            if wants_states and index not in fitting:
                protocol, decision = HiddenProtocol.TARGET_ONLY, Decision.TARGET_ONLY
                notes.append(self._why_no_states(asked, with_states))
            granted = Granted(self._cap(asked), asked.rule, protocol, "; ".join(notes))
            return Grant(granted, decision, index, tail.name)
        return refusal

    def _why_no_states(self, asked: Semantic, with_states: Sequence[int]) -> str:
        if not with_states:
            return "the head here for this drafter reads no states"
        widths = sorted({self._width(index) for index in with_states})
        if asked.state_width not in widths:
            return f"the head here reads states of {' or '.join(map(str, widths))} numbers, not {asked.state_width}"
        return "the head that reads states has no threshold for this cap"

    def _width(self, index: int) -> int:
        draft = self._heads[index].tail.draft
        return 0 if draft is None else int(draft.shape[1])

    def _cap(self, asked: Semantic) -> float:
        return min(asked.max_loss, self._most_loss)

    def _capped(self, asked: Semantic) -> tuple[list[str], Decision]:
        if asked.max_loss <= self._most_loss:
            return [], Decision.AS_ASKED
        return [f"this edge grants a cap of {self._most_loss:g} at most"], Decision.LOWER_CAP


def _exact(decision: Decision, reason: str) -> Grant:
    return Grant(Granted(reason=reason), decision)


def control_ids(tokenizer_json: str) -> frozenset[int]:
    """Return the ids of the tokens that a tokenizer keeps apart from text: ends, roles, calls of tools."""
    added = json.loads(tokenizer_json).get("added_tokens", ()) if tokenizer_json else ()
    return frozenset(int(token["id"]) for token in added)
