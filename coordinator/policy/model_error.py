"""By what factor each way of working took longer than its model says: what the model leaves out, learnt as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.policy.plan import Way

BELIEVED_TOKENS = 512.0
"""What the model's word is worth. A text of 256 tokens has a pace that is some 4 % off by chance alone; a correction
that came sooner would follow the text and not the model's error."""

KEPT = 0.998
"""What a token's time weighs when another token has come: the last 500."""

LEAST, MOST = 0.67, 1.5
"""A factor outside comes of something else than the model: an outage, a user who stopped the process."""

MOST_LATE = 2.0
"""In expected times: what a commit may take and still count in full. A link that stands still does so in any plan."""


@dataclass(frozen=True, slots=True)
class ModelError:
    """By way, tokens seen and the times they took in units of what was expected: sums, for a ratio of them."""

    tokens: Mapping[Way, float] = field(default_factory=dict)
    times: Mapping[Way, float] = field(default_factory=dict)

    def updated(self, way: Way, tokens: int, seconds: float, expected_s: float) -> ModelError:
        """Return this with ``tokens`` that took ``seconds`` in all, where ``expected_s`` > 0 was expected of each."""
        kept = KEPT**tokens  # of all ways: what one was found to be long ago is no reason never to try it again
        took = min(seconds / expected_s, MOST_LATE * tokens)
        known = {name: kept * count for name, count in self.tokens.items()}
        times = {name: kept * time for name, time in self.times.items()}
        return ModelError(
            {**known, way: known.get(way, 0.0) + tokens},
            {**times, way: times.get(way, 0.0) + took},
        )

    def factors(self) -> dict[Way, float]:
        """Return the factor of each way that was ever gone; it begins at 1."""
        return {
            way: min(MOST, max(LEAST, (self.times[way] + BELIEVED_TOKENS) / (tokens + BELIEVED_TOKENS)))
            for way, tokens in self.tokens.items()
        }
