"""The judge of one session: which drafted tokens may stand though the target would have chosen others (DESIGN §6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airdraft.core.meaning.head import STRICT, Channel, HeadTail
from airdraft.core.meaning.rules import UNTRAINED_RISK, Context, Need, Rule
from airdraft.core.types import Evidence, Granted, Report

WRONG_S = 10.0
"""What an answer that became worse is taken to cost: a token may stand where its share of that is less than a miss.

It sets how strict a session is on a good channel, where a miss costs little; how lax it may be the cap says.
"""


@dataclass(frozen=True, slots=True)
class Swap:
    """A drafted token that was judged in place of the target's own, where the table's threshold let it stand."""

    position: int  # of the token, absolute
    drafted: int
    chosen: int  # the target's own
    risk: float
    stood: bool  # else strictness or price forbade it: an audit may still tell whether it would have been harmless


def _as_claimed() -> float:
    return 1.0


class MeaningJudge:
    """What a session was granted, what it has spent of it, and the verdict on each token."""

    def __init__(
        self,
        granted: Granted,
        rule: Rule,
        tail: HeadTail | None = None,
        *,
        vocabulary: int,
        control_ids: frozenset[int] = frozenset(),
        strictness: Callable[[], float] = _as_claimed,
        wrong_s: float = WRONG_S,
    ) -> None:
        """Begin with nothing spent.

        rule         of ``RULES``, by the name in ``granted``; one that needs a head gets it as ``tail``
        control_ids  stop ids, control and tool-call tokens: never by meaning, neither drafted nor in place of one
        strictness   what audits have made of the thresholds, in [0, 1]; asked anew for each pass

        Raises ValueError where the rule needs a head and there is none.
        """
        if Need.HEAD in rule.needs and tail is None:
            raise ValueError(f"the rule {granted.rule!r} needs a head")
        self.granted = granted
        self.spent = 0.0  # chance that meaning has made the answer worse so far
        self.channel = Channel()
        self._rule, self._tail, self._vocabulary, self._control_ids = rule, tail, vocabulary, control_ids
        self._strictness, self._wrong_s = strictness, wrong_s
        self._miss_s: float | None = None
        if not granted.max_loss > 0:
            self.most = 0.0  # the greatest risk that the cap allows
        elif Need.HEAD in rule.needs:
            assert tail is not None
            self.most = tail.table.threshold(granted.max_loss)
        else:
            self.most = UNTRAINED_RISK

    @property
    def threshold(self) -> float:
        """Return the greatest risk with which a token may stand now; 0: none may."""
        most = self.most
        if self._miss_s is not None:
            most = min(most, self._miss_s / self._wrong_s)
        strictness = self._strictness()
        return most * min(1.0, strictness) if strictness > 0 else 0.0

    @property
    def reads_states(self) -> bool:
        """Return whether the head is strict where the drafter's state of a token is not there."""
        return self._tail is not None and self._tail.draft is not None

    @property
    def reads_q(self) -> bool:
        """Return whether the rule has a use for what drafts were sampled from."""
        return Need.Q in self._rule.needs

    def attached(self) -> None:
        """A new stream: what the device reported on the last one no longer holds."""
        self._miss_s, self.channel = None, Channel()

    def reported(self, report: Report) -> None:
        """Take what a device says of its channel; a number that cannot be is not known."""
        self._miss_s = _sane(report.miss_s)
        self.channel = Channel(_sane(report.round_trip_s), _sane(report.up_bytes_s))

    def may_stand(self, drafted: int, choice: int) -> bool:
        """Say whether ``drafted`` may ever stand in place of the target's ``choice``: no control token is either."""
        return drafted not in self._control_ids and choice not in self._control_ids

    def risk(self, evidence: Evidence, *, confirmed: int = 0, state: NDArray[np.float32] | None = None) -> float:
        """Return the risk of letting a token stand; 1.0 where the evidence is no evidence.

        confirmed  how many drafted tokens under it, one after the other, are the target's own choices
        state      [d]  the drafter's state of it, where it came up
        """
        told = (evidence.drafted_log_p, evidence.choice_log_p, evidence.entropy, evidence.max_log_p)
        if not all(math.isfinite(value) for value in told):
            return STRICT
        risk = self._rule(evidence, Context(self._vocabulary, confirmed, self._tail, state, self.channel))
        return risk if 0 <= risk <= 1 else STRICT

    def spend(self, risk: float) -> None:
        """Count a token that was let stand: the chances add up as independent ones do."""
        self.spent = 1 - (1 - self.spent) * (1 - risk)


def _sane(told: float | None) -> float | None:
    return told if told is not None and math.isfinite(told) and told >= 0 else None
