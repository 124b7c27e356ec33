"""Models of time per token (DESIGN §3B). They are models, not bounds: a bench draws them beside what it measures.

They hold for drafted tokens that match independently and equally often, a steady text (what it costs to begin is left
out), a constant round trip, and an edge and a device that do nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class PassCost:
    """An edge's cost line: what one forward pass takes for n positions."""

    fixed_s: float  # a pass of one position
    per_position_s: float = 0.0  # each further one

    def seconds(self, positions: int) -> float:
        """Return the seconds of a pass of ``positions`` >= 1."""
        return self.fixed_s + self.per_position_s * (positions - 1)


@dataclass(frozen=True, slots=True)
class RoundCost:
    """What the schedules' models need of a channel and of both ends."""

    round_trip_s: float
    draft_s: float  # one drafted token
    target: PassCost
    acceptance: float  # chance that one more drafted token is the target's own, in [0, 1]

    def tokens_a_round(self, draft_length: int) -> float:
        """Return the mean tokens that a verification commits, (1 - a^(n+1)) / (1 - a), the target's own included.

        Source: Leviathan, Kalman, Matias 2023, arXiv 2211.17192, equation 1.
        """
        if self.acceptance == 1:
            return draft_length + 1.0
        return (1 - self.acceptance ** (draft_length + 1)) / (1 - self.acceptance)

    def split_s(self, draft_length: int) -> float:
        """Return the seconds a token of the synchronous split: draft, send, verify, answer, in turn."""
        verify_s = self.target.seconds(draft_length + 1)
        return (draft_length * self.draft_s + self.round_trip_s + verify_s) / self.tokens_a_round(draft_length)

    def edge_alone_s(self) -> float:
        """Return the seconds a token of the edge decoding by itself and streaming; the round trip is paid once."""
        return self.target.seconds(1)

    def at_the_edge(self, draft_s: float) -> RoundCost:
        """Return the cost where the same drafter runs on the edge: no round trip, and ``draft_s`` a drafted token."""
        return replace(self, round_trip_s=0.0, draft_s=draft_s)

    def edge_drafter_s(self, draft_length: int, draft_s: float) -> float:
        """Return the seconds a token of an edge that drafts ``draft_length`` tokens, ``draft_s`` each, then verifies.

        Exact in this model's world: drafts and passes take turns on one machine. An n-gram drafter has ``draft_s`` 0.
        """
        return self.at_the_edge(draft_s).split_s(draft_length)

    def pipelined_s(self) -> float:
        """Return the seconds a token of a device that drafts on while its tokens are verified: d + (1 - a) (R + t).

        Valid where drafts are the bottleneck between two misses: a further position costs the edge less than a draft
        costs the device. Optimistic, most of all at short round trips: every pass counts as one position wide, and none
        waits for the one before.
        """
        return self.draft_s + (1 - self.acceptance) * (self.round_trip_s + self.edge_alone_s())

    def overtaking_tokens(self) -> float:
        """Return n*, the tokens after a miss that the edge emits before drafts overtake it: R / (t - d), rounded up.

        Infinite where a draft takes as long as a pass or longer: the device never overtakes.
        """
        gain_s = self.edge_alone_s() - self.draft_s
        if gain_s <= 0:
            return math.inf
        return math.ceil(self.round_trip_s / gain_s - 1e-9)  # a whole quotient may come out a hair above itself

    def run_ahead_s(self) -> float:
        """Return the seconds a token of a pipelined split whose edge decodes on while drafts are in the air.

        (1 - a^n*) t + a^n* (d + (1 - a) t): the edge's own pace for n* tokens, then the pipelined split's without its
        round trip. Valid where drafts pay at all, d < a t; elsewhere the edge alone is faster than this says. Rough
        below some 50 ms: too optimistic near a round trip of 0 and, since n* is whole and a pass may verify several
        drafts, a few percent too slow just above it, where it may even exceed ``pipelined_s``.
        """
        ahead = self.overtaking_tokens()
        if math.isinf(ahead):
            return self.edge_alone_s()
        by_edge = 1 - math.pow(self.acceptance, ahead)
        drafted_s = self.draft_s + (1 - self.acceptance) * self.edge_alone_s()
        return by_edge * self.edge_alone_s() + (1 - by_edge) * drafted_s


def best_draft_length(cost: RoundCost, longest: int = 32) -> int:
    """Return the draft length, 1 to ``longest``, at which the synchronous split is fastest."""
    return min(range(1, longest + 1), key=cost.split_s)


def best_lockstep_length(cost: RoundCost, longest: int = 64) -> int:
    """Return the draft length of a device and an edge in lockstep: what it drafts while a frame is verified.

    Source: PEARL, arXiv 2408.11850, section 4.2: the window lasts as long as the target's pass; here the round trip
    stands between. A little less than that is better, by simulation, since a miss may come before the window's end.
    """
    if cost.draft_s <= 0:
        return longest
    return max(1, min(longest, math.ceil(0.9 * (cost.round_trip_s + cost.edge_alone_s()) / cost.draft_s)))
