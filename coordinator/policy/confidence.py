"""What a drafter's confidence is worth: how often tokens of that confidence turned out right."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.policy.rounds import Outcome

BINS = 10
"""Of equal width: the chance within one differs by some 0.1, a token's own noise by more."""

PRIOR_TOKENS = 4.0
"""Judged tokens that a drafter's own word is worth: where its top probability is c, a target like it agrees with about
that chance."""

KEPT = 0.98
"""What a bin remembers of itself with each judged token that falls into it: the last 50."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A Beta posterior for each bin of the drafter's top probability."""

    judged: tuple[float, ...] = (0.0,) * BINS  # [BINS]
    right: tuple[float, ...] = (0.0,) * BINS  # [BINS]

    def updated(self, outcome: Outcome) -> Calibration:
        """Return this with a draft's tokens up to its first miss; without confidences nothing changes."""
        if not outcome.confidences:
            return self
        judged, right = list(self.judged), list(self.right)
        for index, confidence in enumerate(outcome.confidences[: outcome.accepted + 1]):
            here = _bin(confidence)
            judged[here] = KEPT * judged[here] + 1
            right[here] = KEPT * right[here] + (index < outcome.accepted)
        return Calibration(tuple(judged), tuple(right))

    def chance(self, confidence: float) -> float:
        """Return the chance that a token of this confidence is right."""
        here = _bin(confidence)
        return (self.right[here] + PRIOR_TOKENS * confidence) / (self.judged[here] + PRIOR_TOKENS)


def _bin(confidence: float) -> int:
    return max(0, min(BINS - 1, int(confidence * BINS)))
