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
from coordinator.policy.mlp import LengthCosts, Mlp, features, shipped
from coordinator.policy.rounds import LONGEST, Drafting, Outcome, RoundTime

CONFIDENT = 0.6
"""Kangaroo's threshold for the drafter's top probability (arXiv 2404.18911, section 4)."""

USUAL_LENGTH = 4
"""Of drafts in the field's engines, where nothing is known (so SpecKV, arXiv 2605.02888)."""

ARMS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
"""Lengths between which a bandit and a network choose: between two of them the cost differs by less than 2 %."""

BANDIT_KEPT = 0.95
"""What a round weighs when one more has come: with 0.97 a step of acceptance takes up to 62 rounds instead of 39
(``python -m bench.draft_lengths curiosity``)."""

BELIEVED_ROUNDS = 8.0
"""What the model's word for a stretch is worth. With 2 the mean cost over 27 steady worlds is 1.1 % above the best
fixed length's, with 8 0.8 %, with 16 0.7 %; but the more it is worth, the longer lasts what is wrong with it."""

CURIOSITY = 0.3
"""UCB's b. From 0 to 0.6 the mean cost falls from 1.1 to 0.8 % above the best fixed length's, and from 2.4 to 1.7 % in
the worst of those worlds (``python -m bench.draft_lengths curiosity``)."""


class DraftLength(Protocol):
    """A policy. ``copy.copy`` of one is a snapshot: ``saw`` puts new values in place of old ones and changes none."""

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
    far, S_A its tokens, T_k its rounds; sums, since a mean of ratios is another number. Here arms learn from one
    another: a draft is a chain of stretches, each from one arm's length to the next one's, and as in a combinatorial
    semi-bandit (Kveton et al. 2015, arXiv 1410.0949) each is weighed by itself. With s_k a round's seconds at the round
    trip of now and g_i the tokens that stretch i brings in,

        index(k) = s_k / (1 + sum over i <= k of g_i (1 + b sqrt(log t / T_i)))
        g_i = (G_i + B m_i g_(i-1) / m_(i-1)) / T_i,    T_i = rounds that drafted all of it + B

    G_i is what those rounds brought in, B is ``BELIEVED_ROUNDS``, m_i the acceptance by position's word: where a
    stretch brings in more than that says, so will the next one, as far as it is not tried. A round counts for the
    stretches that it drafted, with no tokens behind a miss; not for later ones, or those would be told of misses alone.
    Delay-aware: what rounds cost is known, so a step of the channel leaves nothing to be learnt again. Sums forget,
    also those that nothing is told of, so that these are tried again (Garivier, Moulines 2008, arXiv 0805.3415). Costs
    fall and then rise with the length: only the best arm so far and its neighbours are weighed (Combes, Proutiere 2014,
    arXiv 1405.5096).
    """

    def __init__(self, curiosity: float = CURIOSITY, kept: float = BANDIT_KEPT) -> None:
        """Begin with the model's word alone."""
        self._curiosity, self._kept = curiosity, kept
        self._rounds, self._tokens = (0.0,) * len(ARMS), (0.0,) * len(ARMS)  # told, of each stretch
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
        tokens = hoped = before = as_believed = 1.0
        for arm, told, gained in zip(ARMS, self._rounds, self._tokens, strict=True):
            rounds, seconds = told + BELIEVED_ROUNDS, now.time.seconds(arm)
            word, before = believed[arm] - before, believed[arm]
            gain = (gained + BELIEVED_ROUNDS * as_believed * word) / rounds
            as_believed = gain / word if word else as_believed
            tokens += gain
            hoped += gain * (1 + hope / math.sqrt(rounds))
            means.append(seconds / tokens)
            indices.append(seconds / hoped)
        return means, indices

    def saw(self, outcome: Outcome) -> None:
        """Count a round for every stretch of which it drafted all."""
        if not outcome.drafted:
            return
        kept, told = self._kept, [arm <= outcome.drafted for arm in ARMS]
        gains = [max(0, min(outcome.accepted, arm) - before) for before, arm in itertools.pairwise((0, *ARMS))]
        self._all = kept * self._all + 1
        self._rounds = tuple(kept * rounds + here for rounds, here in zip(self._rounds, told, strict=True))
        self._tokens = tuple(
            kept * tokens + here * gain for tokens, here, gain in zip(self._tokens, told, gains, strict=True)
        )


class Network:
    """The length of the least seconds a token by a small network; ``coordinator train-draft-length`` trains it.

    After SpecKV, Shukla 2026, arXiv 2605.02888: one hidden layer of 16, asked once for each length. There it says how
    many tokens a length brings in; here how far its seconds a token lie from those of equal chances
    (``coordinator.policy.mlp``).
    """

    def __init__(self, mlp: Mlp | None = None) -> None:
        """Decide by ``mlp``; None: the one that comes with the package."""
        self._costs = LengthCosts(mlp or shipped(), ARMS)
        self._chosen = 0

    def length(self, now: Drafting) -> int:
        """Return the best of ``ARMS``; the same all through a draft."""
        if not now.drafted:
            costs = self._costs(features(now.time, now.acceptance))
            self._chosen = ARMS[costs.index(min(costs))]
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
