"""Rules that say of a drafted token that the target would not have chosen how risky it is to let it stand.

``head`` is trained (``airdraft.core.meaning.head``); the others are published rules that need no training. These know
no degrees: what they accept has ``UNTRAINED_RISK``, the rest is strict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.core.meaning.head import STRICT, Channel, HeadTail
from airdraft.core.types import Evidence

UNTRAINED_RISK = 0.02
"""What accepting a token is taken to risk by a rule that was not trained: nobody has measured it here.

Typical acceptance at 0.09 cost a demo pair 5.5 points of accuracy at some three swaps an answer.
"""


class Need(Enum):
    """What a rule cannot do without."""

    HEAD = "a head that was trained for this pair"
    Q = "what the drafter sampled from"
    INSTRUCT = "a target that follows instructions"


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a rule may read beside the evidence.

    vocabulary  ids of the tokenizer
    confirmed   how many drafted tokens under this one, one after the other, are the target's own choices
    state       [d]  the drafter's state of the token, where it came up
    """

    vocabulary: int
    confirmed: int = 0
    tail: HeadTail | None = None
    state: NDArray[np.float32] | None = None
    channel: Channel = field(default_factory=Channel)


class Rule(Protocol):
    """An entry of the table: a pure function of what is known of a token."""

    @property
    def needs(self) -> frozenset[Need]:
        """Return what it cannot do without."""
        ...

    def __call__(self, evidence: Evidence, context: Context) -> float:
        """Return the chance, in [0, 1], that accepting makes the answer worse; 1.0 is strict."""
        ...


def _verdict(*, harmless: bool) -> float:
    return UNTRAINED_RISK if harmless else STRICT


@dataclass(frozen=True, slots=True)
class Head:
    """Ask the trained head."""

    needs: frozenset[Need] = frozenset({Need.HEAD})

    def __call__(self, evidence: Evidence, context: Context) -> float:
        """Return the head's risk; strict without a head, or where the engine sent no partial of its width."""
        tail = context.tail
        if tail is None or len(evidence.partial) != tail.width:
            return STRICT
        return tail.risk(evidence.partial, context.state, context.channel)


@dataclass(frozen=True, slots=True)
class Typical:
    """Accept d where p(d) > min(epsilon, delta exp(-H(p))).

    Source: Medusa, Cai et al. 2024, arXiv 2401.10774, section 3.3.2, with its code's settings.
    """

    epsilon: float = 0.09
    delta: float = 0.3
    needs: frozenset[Need] = frozenset()

    def __call__(self, evidence: Evidence, context: Context) -> float:
        """Return the verdict; see ``Rule``."""
        bar = min(self.epsilon, self.delta * math.exp(-evidence.entropy))
        return _verdict(harmless=math.exp(evidence.drafted_log_p) > bar)


@dataclass(frozen=True, slots=True)
class KlJudge:
    """Be strict where max p > ``sure``, else accept where KL(p || q) < ``tau`` nats.

    The paper tunes tau for each pair of models.

    Source: JuDi, arXiv 2601.04766.
    """

    sure: float = 0.9
    tau: float = 0.5
    needs: frozenset[Need] = frozenset({Need.Q})

    def __call__(self, evidence: Evidence, context: Context) -> float:
        """Return the verdict; see ``Rule``."""
        if evidence.kl is None:
            return STRICT
        return _verdict(harmless=math.exp(evidence.max_log_p) <= self.sure and evidence.kl < self.tau)


@dataclass(frozen=True, slots=True)
class LookAhead:
    """Accept where H(p) / log V > ``entropy`` and the ``window`` drafted tokens under it are the target's own choices.

    Where the draft ends sooner there is nothing to look at, and the rule is strict.

    Source: FLy, arXiv 2511.22972.
    """

    entropy: float = 0.3
    window: int = 6
    needs: frozenset[Need] = frozenset()

    def __call__(self, evidence: Evidence, context: Context) -> float:
        """Return the verdict; see ``Rule``."""
        open_minded = evidence.entropy > self.entropy * math.log(context.vocabulary)
        return _verdict(harmless=open_minded and context.confirmed >= self.window)


@dataclass(frozen=True, slots=True)
class Reflective:
    """Accept where the target, asked to look at the draft again, comes to prefer the drafted token.

    With logits l of the plain row and l' of the row that was read after a prompt to reflect, the token is accepted
    where (1 - weight) l + weight l' is greater for it than for the target's first choice; that is, with
    ``Evidence.reflected`` the difference of l' between the two, where (1 - weight) (log p(d) - log p(c)) + weight
    reflected > 0.

    Source: Think Before You Accept, Wang et al. 2025, arXiv 2505.18629.
    """

    weight: float = 0.5
    needs: frozenset[Need] = frozenset({Need.INSTRUCT})

    def __call__(self, evidence: Evidence, context: Context) -> float:
        """Return the verdict; see ``Rule``."""
        if evidence.reflected is None:
            return STRICT
        plain = evidence.drafted_log_p - evidence.choice_log_p
        return _verdict(harmless=(1 - self.weight) * plain + self.weight * evidence.reflected > 0)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "head": Head(),
        "typical": Typical(),
        "kl-judge": KlJudge(),
        "look-ahead": LookAhead(),
        "reflective": Reflective(),
    }
)
"""The rules by name."""
