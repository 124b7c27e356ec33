"""How far to draft: the policies of the field and ours, one table, two verbs. A policy is one session's, and learns.

``length`` is asked before each token of a draft and answers how long this draft is to be, as far as that is known now:
as long as it says more than is drafted, another token is drafted. A policy that looks at no confidences may be asked
once a round. ``saw`` tells what became of the draft. Lengths are 1 to ``LONGEST``; whether to draft at all is the
plan's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Protocol

from coordinator.policy.confidence import Calibration
from coordinator.policy.mlp import Mlp, features, shipped
from coordinator.policy.rounds import LONGEST, Drafting, Outcome, RoundTime

CONFIDENT = 0.6
"""Kangaroo's threshold for the drafter's top probability (arXiv 2404.18911, section 4)."""

USUAL_LENGTH = 4
"""Of drafts in the field's engines, where nothing is known (so SpecKV, arXiv 2605.02888)."""

ARMS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
"""Lengths between which a bandit and a network choose: between two of them the cost differs by less than 2 %."""

BANDIT_KEPT = 0.95
"""What a round weighs when one more has come: with 0.97 a step of acceptance takes some 90 rounds instead of 66."""

BELIEVED_ROUNDS = 4.0
"""What the model's word for an arm is worth. With a fixed first guess in its place the mean cost over 27 steady worlds
was 2.6 % above the best fixed length's, instead of 0.9 %, and steps took up to 116 rounds."""

CURIOSITY = 0.1
"""UCB's b, in rounds' seconds. With 0 or 0.3 the mean cost is 1.2 to 1.3 % above the best fixed length's; with 0.1 it
is 0.9 %, and 2.3 % in the worst world (``python -m bench.draft_lengths curiosity``)."""


class DraftLength(Protocol):
    """A policy."""

    def length(self, now: Drafting) -> int:
        """Return how long this draft is to be, 1 to ``LONGEST``."""
        ...

    def saw(self, outcome: Outcome) -> None:
        """Learn from a draft that was judged."""
        ...


class Fixed:
    """The same length always: Leviathan, Kalman, Matias 2023, arXiv 2211.17192."""

    def __init__(self, length: int = USUAL_LENGTH) -> None:
        """Draft ``length`` tokens. Raises ValueError unless that is 1 to ``LONGEST``."""
        if not 1 <= length <= LONGEST:
            raise ValueError(f"draft length {length} is not 1 to {LONGEST}")
        self._length = length

    def length(self, now: Drafting) -> int:
        """Return the length."""
        return self._length

    def saw(self, outcome: Outcome) -> None:
        """Learn nothing."""


class Confidence:
    """Stop behind the first token of which the drafter is not sure: its top probability is ``threshold`` or less.

    Source: Kangaroo, Liu et al. 2024, arXiv 2404.18911, section 3.2. It knows no cost: at any round trip the same.
    Without confidences it is ``fixed``.
    """

    def __init__(self, threshold: float = CONFIDENT) -> None:
        """Stop at a probability of ``threshold`` or less."""
        self._threshold = threshold

    def length(self, now: Drafting) -> int:
        """Return the tokens drafted, or one more."""
        if now.drafted and len(now.confidences) < now.drafted:
            return USUAL_LENGTH
        return now.drafted if now.drafted and now.confidences[-1] <= self._threshold else _one_more(now)

    def saw(self, outcome: Outcome) -> None:
        """Learn nothing."""


class SpecDecPlusPlus:
    """Stop when the chance of at least one rejection passes a threshold that holds the price of the round trip.

    Source: SpecDec++, Huang, Guo, Wang 2024, arXiv 2405.19715, theorem 3.1: with c1 a drafted token's cost and c2 a
    round's own, stop where P(a rejection among those drafted) >= (c2 + D) / (c1 + c2 + D), D what a rejected token
    costs further on. Here all that follows a round is priced by the mean cost of a token, v seconds. One more token
    costs ``token_s`` and brings in S tokens on average, S the chance that it and all before it are right; so stop where

        1 - S >= 1 - token_s / v,    v = min over n of (fixed_s + n token_s) / (1 + S_1 + ... + S_n)

    with the round trip in ``fixed_s``. As S never rises along a draft, to look one token ahead is optimal for a true v
    (the monotone case of Chow and Robbins 1961), whatever the confidences. That v is a fixed length's errs on the long
    side by as much as stopping by confidence saves.

    S is the product of the drafted tokens' chances, by their confidences as they have turned out so far
    (``Calibration``), and of the next one's, by its position: its confidence is known only once it is drafted. The
    paper trains a head on the drafter's states instead. Without confidences positions alone decide: ``max-goodput``.
    """

    def __init__(self) -> None:
        """Begin with the drafter's word for its confidences."""
        self._calibration = Calibration()
        self._price_s = 0.0  # v

    def length(self, now: Drafting) -> int:
        """Return the tokens drafted, or one more; all at once where there are no confidences."""
        if not now.drafted:
            _, self._price_s = now.time.best(now.acceptance.survival(LONGEST))
            return 1
        if len(now.confidences) < now.drafted:
            return now.time.best(now.acceptance.survival(LONGEST))[0]
        alive = math.prod(self._calibration.chance(confidence) for confidence in now.confidences)
        alive *= now.acceptance.chance(now.drafted)
        return now.drafted if 1 - alive >= self.threshold(now.time) else _one_more(now)

    def threshold(self, time: RoundTime) -> float:
        """Return what the chance of a rejection, the next token's included, may not reach."""
        return 1 - time.token_s / self._price_s

    def saw(self, outcome: Outcome) -> None:
        """Learn what confidences are worth."""
        self._calibration = self._calibration.updated(outcome)


class MaxGoodput:
    """The length of the most expected tokens a second, by the cost line and the acceptance by position.

    n* = argmax (1 + S_1 + ... + S_n) / (fixed_s + n token_s), S_n the chance that the first n are right. Source:
    SmartSpec, Liu et al. 2024, arXiv 2406.14066 (there a batch's, with one acceptance for all positions).
    """

    def length(self, now: Drafting) -> int:
        """Return the best length; the same all through a draft."""
        return now.time.best(now.acceptance.survival(LONGEST))[0]

    def saw(self, outcome: Outcome) -> None:
        """Learn nothing: the estimates do."""


class Bandit:
    """Optimism over lengths, on a ratio of sums: the arm of the least index. It mends what the model gets wrong.

    After UCB-SpecStop, arXiv 2606.20591: index(k) = (S_N(k) - b sqrt(T_k log t)) / S_A(k), with S_N an arm's cost so
    far, S_A its tokens, T_k its rounds; sums, since a mean of ratios is another number. Here each arm begins with
    ``BELIEVED_ROUNDS`` rounds of as many tokens as the acceptance by position says. Delay-aware: what rounds cost is
    known, so S_N(k) = T_k * seconds(k) at the round trip of now, b is in such seconds, and a step of the channel leaves
    nothing to be learnt again. A round of n tokens tells what every shorter one would have brought in, and counts for
    those arms too; not for longer ones, even where a miss came, or those would only be told of misses. Sums forget,
    also of arms that nothing is told of, so that these are tried again (Garivier, Moulines 2008, arXiv 0805.3415).
    Costs fall and then rise with the length: only the best arm so far and its neighbours are weighed (Combes, Proutiere
    2014, arXiv 1405.5096).
    """

    def __init__(self, curiosity: float = CURIOSITY, kept: float = BANDIT_KEPT) -> None:
        """Begin with the model's word alone."""
        self._curiosity, self._kept = curiosity, kept
        self._rounds, self._tokens = [0.0] * len(ARMS), [0.0] * len(ARMS)  # told, of each arm
        self._all = 0.0
        self._chosen = ARMS[0]

    def length(self, now: Drafting) -> int:
        """Return the arm of the least index; it changes with rounds alone."""
        if not now.drafted:
            means, indices = self.weighed(now)
            best = means.index(min(means))
            near = range(max(0, best - 1), min(len(ARMS), best + 2))
            self._chosen = ARMS[min(near, key=indices.__getitem__)]
        return self._chosen

    def weighed(self, now: Drafting) -> tuple[list[float], list[float]]:
        """Return [ARMS] the seconds a token of each arm as far as is known, and [ARMS] its index: what it may be."""
        believed = list(itertools.accumulate(now.acceptance.survival(LONGEST)))
        hope = self._curiosity * math.sqrt(math.log(1 + self._all))
        means, indices = [], []
        for arm, told, tokens in zip(ARMS, self._rounds, self._tokens, strict=True):
            rounds = told + BELIEVED_ROUNDS
            each_s = now.time.seconds(arm) / (tokens + BELIEVED_ROUNDS * believed[arm])
            means.append(each_s * rounds)
            indices.append(each_s * (rounds - hope * math.sqrt(rounds)))
        return means, indices

    def saw(self, outcome: Outcome) -> None:
        """Count a round for every arm that it tells of."""
        if not outcome.drafted:
            return
        self._all = self._kept * self._all + 1
        for index, arm in enumerate(ARMS):
            told = arm <= outcome.drafted
            self._rounds[index] = self._kept * self._rounds[index] + told
            self._tokens[index] = self._kept * self._tokens[index] + told * (min(outcome.accepted, arm) + 1)


class Network:
    """The length of the least seconds a token by a small network, trained from logs by ``coordinator.policy.train``.

    After SpecKV, Shukla 2026, arXiv 2605.02888: one hidden layer of 16, asked once for each length. There it says how
    many tokens a length brings in; here how far its seconds a token lie from those of equal chances
    (``coordinator.policy.mlp``).
    """

    def __init__(self, mlp: Mlp | None = None) -> None:
        """Decide by ``mlp``; None: the one that comes with the package."""
        self._mlp = mlp or shipped()
        self._chosen = 0

    def length(self, now: Drafting) -> int:
        """Return the best of ``ARMS``; the same all through a draft."""
        if not now.drafted:
            known = features(now.time, now.acceptance)
            self._chosen = min(ARMS, key=self._mlp.costs(known, ARMS).__getitem__)
        return self._chosen

    def saw(self, outcome: Outcome) -> None:
        """Learn nothing: training does."""


def _one_more(now: Drafting) -> int:
    return min(now.drafted + 1, LONGEST)


POLICIES: Mapping[str, Callable[[], DraftLength]] = {
    "fixed": Fixed,
    "confidence": Confidence,
    "specdec++": SpecDecPlusPlus,
    "max-goodput": MaxGoodput,
    "bandit": Bandit,
    "mlp": Network,
}
"""The policies by name; called, each gives one session's."""
