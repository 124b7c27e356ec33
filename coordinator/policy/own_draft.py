"""How many tokens an edge's own drafter writes for a pass, from how many of the last ones were accepted."""

from __future__ import annotations

from coordinator.policy.costs import PassCost, RoundCost

PRIOR_TOKENS = 4.0
"""How many judged tokens the first guess of the acceptance is worth."""

PRIOR_ACCEPTANCE = 0.5
MEMORY = 0.95
"""What a judged token counts for after one more pass."""

PROBE_PASSES = 32
"""Where no draft pays, one token is drafted every so many passes: the text may have become easier."""


class OwnDraftLength:
    """The length for one session: the one with the least seconds a token by ``RoundCost.edge_drafter_s``."""

    def __init__(self, most: int) -> None:
        """Draft at most ``most`` tokens a pass."""
        self._most = most
        self._judged, self._accepted = PRIOR_TOKENS, PRIOR_TOKENS * PRIOR_ACCEPTANCE
        self._idle_passes = 0

    @property
    def acceptance(self) -> float:
        """Return the estimated chance that one more drafted token is the target's own."""
        return self._accepted / self._judged

    def saw(self, drafted: int, accepted: int) -> None:
        """Take a pass's outcome: of ``drafted`` tokens the first ``accepted`` were right.

        Those behind a miss tell nothing.
        """
        judged = min(drafted, accepted + 1)
        self._judged = MEMORY * self._judged + judged
        self._accepted = MEMORY * self._accepted + accepted
        if self._judged < PRIOR_TOKENS:  # never so sure that one token turns it
            missing = PRIOR_TOKENS - self._judged
            self._judged, self._accepted = PRIOR_TOKENS, self._accepted + missing * self.acceptance

    def best(self, cost: PassCost | None, draft_s: float) -> int:
        """Return how many tokens to draft for the next pass.

        cost     a pass's cost line; None while it is not known, and then drafts are as long as they may be
        draft_s  one drafted token's seconds
        """
        if cost is None or not self._most:
            return self._most
        round_cost = RoundCost(0.0, draft_s, cost, min(self.acceptance, 0.999))
        best = min(range(self._most + 1), key=lambda length: round_cost.edge_drafter_s(length, draft_s))
        self._idle_passes = 0 if best else self._idle_passes + 1
        if self._idle_passes >= PROBE_PASSES:
            self._idle_passes = 0
            return 1
        return best
