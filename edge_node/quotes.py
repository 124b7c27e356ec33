"""What an edge tells a device of its costs, its load and its own drafter, and when it tells it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from airdraft.core.types import Commit, EdgeFrame, Opened, Pass, Quote, Work
from coordinator.policy.costs import PassCost
from coordinator.policy.price import EdgeLoad, is_news
from edge_node.sessions import Entry, Terms

TELL_S = 0.3
"""Seconds between two looks at whether a device should hear of another quote: a few times a second is often enough."""


class Quotes:
    """The quotes of one edge; what they are made of is kept true by whoever asks the engine."""

    def __init__(self, terms: Terms, clock: Callable[[], float]) -> None:
        """Quote nothing but the terms until a pass was made."""
        self.load = EdgeLoad(clock())
        self.draft_s = 0.0  # a token of the edge's own drafter, lately
        self.writing: Callable[[], int] = lambda: 1  # sessions at work; who holds them says so
        self._cost: PassCost | None = None
        self._terms, self._clock = terms, clock

    def price(self) -> float:
        """Return how many users' seconds a second of the engine costs now."""
        return self.load.price(self._clock())

    def utilisation(self) -> float:
        """Return the share of the time that the engine is at work now."""
        return self.load.utilisation(self._clock())

    @property
    def shared_cost(self) -> PassCost | None:
        """Return a pass's cost line for a session whose company drafts as many tokens as it does; None: not known.

        With n of them in a step a token more for each is n positions, a delay for all. So the edge's drafts are as long
        as gives the most tokens an edge second, and shorter the more share it.
        """
        cost, sessions = self._cost, max(1.0, self.load.step_sessions)
        if cost is None:
            return None
        return PassCost(cost.fixed_s + cost.per_position_s * (sessions - 1), cost.per_position_s * sessions)

    def stepped(self, works: Sequence[Pass], cost: PassCost | None) -> None:
        """Take the parts of a step, and what passes cost since; a prompt is soon over and no part of what steps are."""
        self._cost = cost
        writing = [len(work.span.tokens) for work in works if work.work is not Work.PREFILL]
        if writing:
            self.load.stepped(self._clock(), len(writing), sum(writing))

    def of(self, entry: Entry | None = None) -> Quote:
        """Return what holds now: for a session, or for whoever asks before there is one.

        Who shares a step is told by the sessions at work, not by those that were in steps lately: were all devices
        waited for, each would be alone in its step, and none would see that steps are fuller where nobody waits.
        """
        cost, load = self._cost or PassCost(0.0), self.load
        sessions = float(max(1, self.writing())) if load.step_sessions else 0.0
        own = self._terms.own_draft_tokens if entry is None else entry.own_length.worth
        return Quote(
            cost.fixed_s,
            cost.per_position_s,
            runs_ahead=self._terms.run_ahead,
            edge_second_price=self.price(),
            step_sessions=sessions,
            step_positions=load.step_positions * sessions / max(1.0, load.step_sessions),
            own_draft_tokens=own,
            own_draft_s=self.draft_s if own else 0.0,
            own_acceptance=entry.own_length.acceptance if own and entry is not None else 0.0,
        )

    def told(self, entry: Entry, frames: Sequence[EdgeFrame]) -> list[EdgeFrame]:
        """Return the frames to send, a quote in the first that can carry one where the device should hear of it."""
        if entry.told is not None and self._clock() < entry.told_at + TELL_S:
            return list(frames)
        answer: list[EdgeFrame] = []
        for frame in frames:
            if isinstance(frame, Opened):
                frame = replace(frame, quote=self._tell(entry))
            elif isinstance(frame, Commit) and entry.told is not None and entry.session.stop is None:
                quote, entry.told_at = self.of(entry), self._clock()
                if is_news(entry.told, quote):
                    frame, entry.told = replace(frame, quote=quote), quote
            answer.append(frame)
        return answer

    def _tell(self, entry: Entry) -> Quote:
        entry.told, entry.told_at = self.of(entry), self._clock()
        return entry.told
