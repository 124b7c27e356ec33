"""How many tokens an edge's own drafter writes for a pass, from how many of the last ones were accepted."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.policy.costs import PassCost, RoundCost

PRIOR_TOKENS = 4.0
"""How many judged tokens the first guess of the acceptance is worth."""

PRIOR_ACCEPTANCE = 0.5
MEMORY_OF_ALL = 0.99
"""What a judged token of any session counts for after one more pass, for the sessions to come."""

WORTH_OF_ALL = 16.0
"""How many tokens of its own outweigh in a session what was known of all: texts differ."""

MEMORY = 0.95
"""What a judged token counts for after one more pass."""

PROBE_PASSES = 32
"""Where no draft pays, one token is drafted every so many passes: the text may have become easier."""


class OwnDraftLength:
    """The length for one session: the one with the least seconds a token by ``RoundCost.edge_drafter_s``."""

    def __init__(self, most: int, acceptance: float = PRIOR_ACCEPTANCE, judged: float = PRIOR_TOKENS) -> None:
        """Draft at most ``most`` tokens a pass; begin with an acceptance that is worth ``judged`` tokens."""
        self._most = most
        self._judged, self._accepted = judged, judged * acceptance
        self._idle_passes = 0
        self.worth = most  # how many tokens are worth to write, a try of one where none is left out

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
        self.worth = best
        self._idle_passes = 0 if best else self._idle_passes + 1
        if self._idle_passes >= PROBE_PASSES:
            self._idle_passes = 0
            return 1
        return best


class OwnDrafts:
    """What an edge's drafter was worth in its sessions of late: the next one begins with that.

    Over seven replayed links and texts of 28 tokens this is worth 3 % of an adaptive device's rate, since a session
    that begins with the first guess is over before it knows better.
    """

    def __init__(self, most: int) -> None:
        """Draft at most ``most`` tokens a pass."""
        self._most = most
        self._judged, self._accepted = PRIOR_TOKENS, PRIOR_TOKENS * PRIOR_ACCEPTANCE

    def saw(self, drafted: int, accepted: int) -> None:
        """Take a pass's outcome, of any session."""
        self._judged = MEMORY_OF_ALL * self._judged + min(drafted, accepted + 1)
        self._accepted = MEMORY_OF_ALL * self._accepted + accepted

    def begin(self) -> OwnDraftLength:
        """Return what a new session's length is chosen by."""
        return OwnDraftLength(self._most, self._accepted / self._judged, min(self._judged, WORTH_OF_ALL))


class StepDrafts:
    """One length for all sessions that share an engine's steps: it drafts for all of them at once, and then verifies.

    So each waits for the longest of them. Were every session to choose for itself, and to try again by itself where no
    draft pays, some session's try would hold all of them up in most steps: with 16 sessions, acceptance 0.4 and a
    drafted token of a quarter of a pass a token took 41 ms instead of 34 (simulated).
    """

    def __init__(self, most: int) -> None:
        """Draft at most ``most`` tokens a pass for each."""
        self._most = most
        self._idle_steps = 0

    def choose(self, acceptances: Sequence[float], cost: PassCost, draft_s: float, others: int = 0) -> tuple[int, int]:
        """Return how many tokens to draft for each before the next step, and how many are worth it.

        acceptances  [N] of the sessions' own drafts
        cost         a pass's cost line; ``draft_s``: one drafted token's seconds, for all sessions
        others       sessions that take no drafts: they wait too, for a token each
        """
        worth = min(
            range(self._most + 1), key=lambda length: _seconds_a_token(acceptances, cost, draft_s, length, others)
        )
        self._idle_steps = 0 if worth else self._idle_steps + 1
        if self._idle_steps < PROBE_PASSES or not self._most:
            return worth, worth
        self._idle_steps = 0
        return 1, 0


def _seconds_a_token(acceptances: Sequence[float], cost: PassCost, draft_s: float, length: int, others: int) -> float:
    """Return the engine's seconds for a token of any session, each of which drafts so many for a pass."""
    sessions = len(acceptances)
    tokens = others + sum(
        (1 - chance ** (length + 1)) / (1 - chance) for chance in (min(one, 0.999) for one in acceptances)
    )
    return (length * draft_s + cost.seconds(sessions * (length + 1) + others)) / tokens
