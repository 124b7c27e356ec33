"""How many tokens the edge's own drafter writes for each session, from how many of them were right."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.types import Commit, EdgeFrame, Origin, Pass, Work
from coordinator.policy.costs import PassCost
from coordinator.policy.own_draft import StepDrafts
from edge_node.quotes import Quotes
from edge_node.sessions import Entry, SessionTable


class OwnLengths:
    """Chooses them for the sessions of one engine, where the edge has a drafter and its drafts adapt."""

    def __init__(self, sessions: SessionTable, quotes: Quotes) -> None:
        terms = sessions.terms
        self._sessions, self._quotes = sessions, quotes
        self._adapts = terms.own_draft_adapts
        self._most = terms.own_draft_tokens if terms.own_draft_adapts else 0
        self._step_drafts = StepDrafts(self._most)

    def passed(self, entry: Entry, work: Pass, frames: Sequence[EdgeFrame]) -> None:
        """Take what became of a pass; a session that has the engine to itself gets another length at once."""
        if not self._adapts or not (work.own or work.work in (Work.DECODE, Work.RUN_AHEAD)):
            return
        for frame in frames:
            # What hangs under a draft of the device that was wrong was not judged; side by side with the device's line
            # only its misses would count.
            judged = work.own and work.span.parents is None
            if judged and isinstance(frame, Commit) and frame.origins.count(Origin.ACCEPTED) == work.nodes - work.own:
                right = frame.origins.count(Origin.EDGE_DRAFT)
                entry.own_length.saw(work.own, right)
                self._sessions.own_drafts.saw(work.own, right)
        if self._sessions.attached < 2:
            entry.session.own_draft_tokens = entry.own_length.best(self._quotes.shared_cost, self._quotes.draft_s)

    def stepped(self, cost: PassCost | None) -> None:
        """Choose how much is drafted for each of several sessions, whom the engine makes wait for one another."""
        if not self._most or cost is None or self._sessions.attached < 2:
            return
        company = [entry for entry in self._sessions if entry.session.takes_own_drafts]
        if not company:
            return
        acceptances = [entry.own_length.acceptance for entry in company]
        others = self._sessions.attached - len(company)
        tokens, worth = self._step_drafts.choose(acceptances, cost, self._quotes.draft_s, others)
        for entry in company:
            entry.session.own_draft_tokens, entry.own_length.worth = tokens, worth
