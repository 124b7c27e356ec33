"""Models of time per token (DESIGN §3B). They are models, not bounds: a bench draws them beside what it measures."""

from __future__ import annotations

from dataclasses import dataclass


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


def best_draft_length(cost: RoundCost, longest: int = 32) -> int:
    """Return the draft length, 1 to ``longest``, at which the synchronous split is fastest."""
    return min(range(1, longest + 1), key=cost.split_s)
