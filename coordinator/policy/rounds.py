"""What a round of a synchronous split takes, and brings in where acceptance goes by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.costs import PassCost

LONGEST = 32
"""Tokens of a draft. At 0.9 acceptance and a pass of 30 ms the best length is 15 with a round trip of 200 ms and a
draft step of 8 ms, 22 with 300 and 4: it grows with the logarithm of the round trip (arXiv 2606.20591)."""


@dataclass(frozen=True, slots=True)
class RoundTime:
    """Draft, send, verify, answer, in turn: ``RoundCost`` without a view of the acceptance."""

    round_trip_s: float  # of frames without ids
    draft_s: float  # one drafted token
    target: PassCost
    id_s: float = 0.0  # one drafted id on its way up, by the link's rate

    @property
    def fixed_s(self) -> float:
        """Return the seconds of a round without a drafted token."""
        return self.round_trip_s + self.target.fixed_s

    @property
    def token_s(self) -> float:
        """Return the seconds that each drafted token adds."""
        return self.draft_s + self.id_s + self.target.per_position_s

    def seconds(self, draft_length: int) -> float:
        """Return the seconds of a round with so many drafted tokens."""
        return self.fixed_s + draft_length * self.token_s

    def best(self, survival: Sequence[float]) -> tuple[int, float]:
        """Return the draft length, 1 to N, of the least expected seconds a token, and those.

        survival  [N + 1]  the chance that the first n drafted tokens are all right

        A draft's n-th token adds ``token_s`` and on average survival[n] tokens. As survival falls, the first length at
        which the next token costs more than a token costs already is the best.
        """
        seconds, tokens = self.fixed_s + self.token_s, 1.0 + survival[1]
        for length in range(2, len(survival)):
            if survival[length] * seconds <= self.token_s * tokens:
                return length - 1, seconds / tokens
            seconds += self.token_s
            tokens += survival[length]
        return len(survival) - 1, seconds / tokens


@dataclass(frozen=True, slots=True)
class Drafting:
    """What a policy decides from, between two tokens of a draft."""

    time: RoundTime
    acceptance: AcceptanceByPosition
    drafted: int = 0  # tokens of this draft so far
    confidences: tuple[float, ...] = ()  # [drafted] the drafter's top probability of each; empty where it has none


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a draft."""

    drafted: int
    accepted: int  # of the first ones
    confidences: tuple[float, ...] = ()  # as in ``Drafting``
