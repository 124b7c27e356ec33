"""How many of the tokens that are not the target's own stand by meaning, as a device sees it by their origins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

KEPT = 0.98
"""What a miss weighs when one more has come: the last 50, some 500 tokens."""

PRIOR_SHARE = 0.5
PRIOR_MISSES = 8.0
"""Before one is judged: of the demo pair's misses 73 of 100 were harmless, of which a head lets a part stand."""

MOST_SHARE = 0.95


class Misses(NamedTuple):
    """Drafted tokens that were not the target's own, since the last sample."""

    stood: int = 0  # by meaning
    replaced: int = 0  # judged, and the target's own came in their place
    unjudged: int = 0  # the edge had committed its own token before it knew of the draft


@dataclass(frozen=True, slots=True)
class HarmlessShare:
    """Counts of misses by what became of them, older ones forgotten."""

    stood: float = 0.0
    replaced: float = 0.0
    unjudged: float = 0.0

    def updated(self, misses: Misses) -> HarmlessShare:
        """Return this with more misses. Raises ValueError where a count is negative."""
        if min(misses) < 0:
            raise ValueError(f"{misses} cannot have been seen")
        kept = KEPT ** sum(misses)
        return HarmlessShare(
            kept * self.stood + misses.stood,
            kept * self.replaced + misses.replaced,
            kept * self.unjudged + misses.unjudged,
        )

    @property
    def share(self) -> float:
        """Return which share of misses stand where they are judged, in [0, ``MOST_SHARE``]."""
        judged = self.stood + self.replaced
        return min(MOST_SHARE, (self.stood + PRIOR_SHARE * PRIOR_MISSES) / (judged + PRIOR_MISSES))

    def lifted(self, chance: float) -> float:
        """Return the chance that a drafted token stands, where each is judged.

        chance  that it was the committed one, as it came about: an edge that went ahead had judged only a part

        Of the (1 - c) that were contradicted, u were never judged; h of those would have stood: c + (1 - c) u h.
        """
        contradicted = self.replaced + self.unjudged
        if not contradicted:
            return chance
        return chance + (1 - chance) * self.unjudged / contradicted * self.share
