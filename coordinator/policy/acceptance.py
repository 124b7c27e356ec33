"""Acceptance by position in a draft: the chance that a drafted token is right, all before it being so.

Not taken to be geometric. A drafter that copies is wrong mostly and then right for long: its chances rise; one that
loses the thread has chances that fall. ``airdraft.core.session.overtaking.Odds`` counts along the text, on the device;
this counts along a draft, which begins behind the target's own token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

PRIORS: Mapping[str, float] = {"translation": 0.75, "summary": 0.65, "problems": 0.80}
"""Acceptance by task before a token is judged: translation and summary from Leviathan, Kalman, Matias 2023, arXiv
2211.17192, table 2 (T5-small for T5-XXL, temperature 0); problems from the demo pair, 0.798 of 8,823 tokens."""

USUAL_PRIOR = 0.7
"""Of a task without a figure: the middle of those that have one."""

KEPT = 0.96
"""What a round weighs when one more has come. A step of acceptance shows in the plan soon with less, and the plan is
steadier with more: see ``python -m bench.draft_lengths forgetting``."""

RECENT_ROUNDS = 6
STEP_TOKENS = 8
STEP_DEVIATIONS = 3.0
"""A step: the last rounds, of at least so many judged tokens, lie so many standard deviations of a binomial off what is
believed. Then only they are remembered. Without it a step from 0.4 to 0.9 takes as long as the old rounds last."""

PRIOR_TOKENS = 4.0
"""What the task's prior is worth, in judged tokens: 4 of 25 rounds' some 80 remembered."""

NEIGHBOUR_TOKENS = 8.0
"""What the place before is worth for the next one, in judged tokens: measured in the same way."""

_STARTS = (0, 1, 2, 3, 4, 8, 16)  # of the places: the first four tokens by themselves, then 4 on, 8 on, 16 on
PLACES = len(_STARTS)
_ENDS = (*_STARTS[1:], 1 << 30)
_EMPTY = (0.0,) * PLACES


def place(before: int) -> int:
    """Return the place of a token behind so many: places widen, as fewer drafts reach them."""
    return before if before < 4 else min(before.bit_length() + 1, PLACES - 1)


def _by_place(drafted: int, accepted: int) -> Iterator[tuple[int, int, int]]:
    """Yield place, judged and accepted tokens of a round; those behind a miss are not judged."""
    for index, (start, end) in enumerate(zip(_STARTS, _ENDS, strict=True)):
        if start > accepted or start >= drafted:
            return
        yield index, min(end, drafted, accepted + 1) - start, min(end, accepted) - start


@dataclass(frozen=True, slots=True)
class AcceptanceByPosition:
    """Beta posteriors of the chances, one a place, that forget by rounds.

    Each is shrunk toward that of the place before it; the first, toward the chance wherever in a draft; that, toward
    the task's prior.
    """

    prior: float = USUAL_PRIOR
    judged: tuple[float, ...] = _EMPTY  # [PLACES]
    accepted: tuple[float, ...] = _EMPTY  # [PLACES]
    recent: tuple[tuple[int, int], ...] = ()  # the last rounds: drafted, accepted

    @classmethod
    def of_task(cls, task: str | None = None) -> AcceptanceByPosition:
        """Return what is believed before a token is judged; a task that ``PRIORS`` lacks has the usual one."""
        return cls(PRIORS.get(task or "", USUAL_PRIOR))

    def updated(self, drafted: int, accepted: int) -> AcceptanceByPosition:
        """Return this with a round of ``drafted`` tokens of which the first ``accepted`` were right.

        Those behind a miss tell nothing; a round that judged no token changes nothing. Raises ValueError where
        ``accepted`` is not between 0 and ``drafted``.
        """
        if not 0 <= accepted <= drafted:
            raise ValueError(f"{accepted} of {drafted} drafted tokens cannot have been accepted")
        if not drafted:
            return self
        recent = (*self.recent, (drafted, accepted))[-RECENT_ROUNDS:]
        if self._stepped(recent):
            fresh = AcceptanceByPosition(self.prior)
            for round_ in recent:
                fresh = fresh._with(*round_)
            return fresh
        return replace(self._with(drafted, accepted), recent=recent)

    def _stepped(self, recent: Sequence[tuple[int, int]]) -> bool:
        """Return whether the last rounds are not of these chances."""
        judged = sum(min(drafted, accepted + 1) for drafted, accepted in recent)
        if judged < STEP_TOKENS or sum(self.judged) < STEP_TOKENS:
            return False
        chances, off, variance = self.chances(), 0.0, 0.0
        for round_ in recent:
            for index, here, right in _by_place(*round_):
                off += right - here * chances[index]
                variance += here * chances[index] * (1 - chances[index])
        return abs(off) > STEP_DEVIATIONS * math.sqrt(variance)

    def _with(self, drafted: int, accepted: int) -> AcceptanceByPosition:
        judged, right = [KEPT * old for old in self.judged], [KEPT * old for old in self.accepted]
        for index, here, accepted_here in _by_place(drafted, accepted):
            judged[index] += here
            right[index] += accepted_here
        return AcceptanceByPosition(self.prior, tuple(judged), tuple(right))

    @property
    def acceptance(self) -> float:
        """Return the chance wherever in a draft: accepted of judged tokens."""
        return (sum(self.accepted) + PRIOR_TOKENS * self.prior) / (sum(self.judged) + PRIOR_TOKENS)

    def chances(self) -> tuple[float, ...]:
        """Return the chance at each place, [PLACES]."""
        guess, chances = self.acceptance, []
        for judged, accepted in zip(self.judged, self.accepted, strict=True):
            guess = (accepted + NEIGHBOUR_TOKENS * guess) / (judged + NEIGHBOUR_TOKENS)
            chances.append(guess)
        return tuple(chances)

    def chance(self, before: int) -> float:
        """Return the chance of a token behind so many drafted ones, these being right."""
        return self.chances()[place(before)]

    def survival(self, tokens: int) -> tuple[float, ...]:
        """Return [tokens + 1]: the chance that the first n drafted tokens are all right, for n from 0."""
        chance, chances, survival = 1.0, self.chances(), [1.0]
        for start, end, here in zip(_STARTS, _ENDS, chances, strict=True):
            for _ in range(start, min(end, tokens)):
                chance *= here
                survival.append(chance)
        return tuple(survival)

    def expected_tokens(self, draft_length: int) -> float:
        """Return the mean tokens of a round, the target's own included: the sum of ``survival``.

        For equal chances this is ``RoundCost.tokens_a_round``.
        """
        return sum(self.survival(draft_length))
