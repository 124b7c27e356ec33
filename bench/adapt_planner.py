"""A device that plans and the edge that quotes to it, for the simulator: the planner and the rules of the real ones."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core import types as core
from airdraft.core.session import EdgeSession
from airdraft.core.session.device import Tally
from airdraft.core.types import Commit, DeviceFrame, EdgeFrame, Origin, Pass, Quote, Work
from airdraft.link.sim_text import MatchDrafter
from airdraft.link.simulation import Conduct
from bench.capacity_sim import StepRules
from coordinator.policy.costs import PassCost
from coordinator.policy.own_draft import OwnDrafts, StepDrafts
from coordinator.policy.plan import FRAMES, Objective, Plan
from coordinator.policy.planner import Planner
from coordinator.policy.price import EdgeLoad, is_news
from coordinator.policy.steering import Steering

OWN_TOKENS = 8
"""What an edge's own drafter writes for a pass at most."""

START = Plan("split", 0, 1, FRAMES)
"""What a device does until it knows enough to plan, unless its own seconds are dear: it drafts without waiting."""

TELL_S = 0.3
"""Between two looks at whether a device should hear of another quote, as ``edge_node.quotes`` has it."""


class SimulatedEdge:
    """An edge that quotes and has a drafter of its own, as ``edge_node`` goes about it; the cost line is known to it.

    It outlives worlds, and so remembers over sessions what its drafts were worth.
    """

    def __init__(self, line: PassCost, draft_s: float, own_tokens: int = OWN_TOKENS, *, run_ahead: bool = True) -> None:
        """``own_tokens``: what its drafter writes for a pass at most, ``draft_s`` a token; 0: it has none."""
        self.line, self.draft_s, self.own_tokens, self.run_ahead = line, draft_s, own_tokens, run_ahead
        self.load = EdgeLoad()
        self.own_drafts = OwnDrafts(own_tokens)
        self.sessions: list[EdgeTerms] = []
        self._step_drafts = StepDrafts(own_tokens)

    def rules(self) -> StepRules:
        """Return how its steps are put together in a new world, whose engine is idle at 0 s."""
        rules = StepRules(self.line, on_settled=self.choose_own_lengths)
        rules.company.thrifty = False  # as an edge is by default
        self.load = rules.load
        return rules

    @property
    def attached(self) -> int:
        """Return how many sessions have a device."""
        self.sessions = [terms for terms in self.sessions if not terms.session.finished]
        return len(self.sessions)

    @property
    def shared_cost(self) -> PassCost:
        """Return a pass's cost line as ``edge_node.quotes`` has it for a session whose company drafts as much."""
        sessions = max(1.0, self.load.step_sessions)
        fixed_s = self.line.fixed_s + self.line.per_position_s * (sessions - 1)
        return PassCost(fixed_s, self.line.per_position_s * sessions)

    def choose_own_lengths(self) -> None:
        """Choose how much is drafted for each of several sessions, as ``edge_node.stepping`` does."""
        if not self.own_tokens or self.attached < 2:
            return
        company = [terms for terms in self.sessions if terms.session.takes_own_drafts]
        if not company:
            return
        acceptances = [terms.own_length.acceptance for terms in company]
        others = len(self.sessions) - len(company)
        tokens, worth = self._step_drafts.choose(acceptances, self.line, self.draft_s, others)
        for terms in company:
            terms.session.own_draft_tokens, terms.own_length.worth = tokens, worth


class EdgeTerms:
    """One session's quotes and own drafts."""

    session: EdgeSession

    def __init__(self, edge: SimulatedEdge) -> None:
        """Begin with what the edge knows of its drafter."""
        self._edge = edge
        self.own_length = edge.own_drafts.begin()
        self._told: Quote | None = None
        self._told_s = 0.0

    def begins(self, session: EdgeSession) -> None:
        """Take the session's core, and say how much is drafted for its first pass."""
        self.session = session
        self._edge.sessions.append(self)
        session.own_draft_tokens = self._best()

    def _best(self) -> int:
        return self.own_length.best(self._edge.shared_cost, self._edge.draft_s)

    def quote(self, now_s: float, *, opened: bool) -> Quote | None:
        """Return a quote where the device should hear of it."""
        if not opened and self._told is not None and now_s < self._told_s + TELL_S:
            return None
        quote, edge, load, own = self._told, self._edge, self._edge.load, self.own_length.worth
        sessions = float(max(1, edge.attached)) if load.step_sessions else 0.0
        now = Quote(
            edge.line.fixed_s,
            edge.line.per_position_s,
            runs_ahead=edge.run_ahead,
            edge_second_price=load.price(now_s),
            step_sessions=sessions,
            step_positions=load.step_positions * sessions / max(1.0, load.step_sessions),
            own_draft_tokens=own,
            own_draft_s=edge.draft_s if own else 0.0,
            own_acceptance=self.own_length.acceptance if own else 0.0,
        )
        self._told_s = now_s
        if quote is not None and not opened and not is_news(quote, now):
            return None
        self._told = now
        return now

    def passed(self, work: Pass, frames: Sequence[EdgeFrame]) -> None:
        """Learn from a pass as ``edge_node.stepping`` does, and choose anew where no company has a say in it."""
        if not (work.own or work.work in (Work.DECODE, Work.RUN_AHEAD)):
            return
        for frame in frames:
            judged = work.own and work.span.parents is None
            if judged and isinstance(frame, Commit) and frame.origins.count(Origin.ACCEPTED) == work.nodes - work.own:
                right = frame.origins.count(Origin.EDGE_DRAFT)
                self.own_length.saw(work.own, right)
                self._edge.own_drafts.saw(work.own, right)
        if self._edge.attached < 2:
            self.session.own_draft_tokens = self._best()


class Timed(Steering):
    """Steers one device's sessions, though the world of each begins at 0 s: time goes on from one to the next."""

    def __init__(self, objective: Objective) -> None:
        start = Plan("edge") if objective.device > objective.user else START  # as ``device_client.plan`` has it
        super().__init__(Planner(objective, start, drafts=True))
        self.since_s = 0.0
        """When the world of the session at work began."""

    def sent(self, frame: DeviceFrame, size_bytes: int, at_s: float) -> None:
        super().sent(frame, size_bytes, self.since_s + at_s)

    def drafted(self, tokens: int, seconds: float, at_s: float) -> None:
        super().drafted(tokens, seconds, self.since_s + at_s)

    def pinged(self, round_trip_s: float | None, at_s: float) -> None:
        super().pinged(round_trip_s, self.since_s + at_s)

    def received(self, frame: EdgeFrame, tally: Tally, at_s: float) -> core.Plan | None:
        return super().received(frame, tally, self.since_s + at_s)


def adaptive(steering: Steering, edge: SimulatedEdge) -> Conduct:
    """Return how a device that plans and its edge go about a text."""
    return Conduct(
        steering.conduct,
        own_draft_tokens=edge.own_tokens,
        own_drafter=MatchDrafter,
        run_ahead=edge.run_ahead,
        overtaking=True,
        steering=steering,
        terms=lambda world, run: EdgeTerms(edge),
    )
