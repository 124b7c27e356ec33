"""Many devices on one edge in virtual time: the cores, and the rules by which an edge node puts its steps together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from airdraft.core.session import Company, Wish
from airdraft.core.types import Plan, Work
from airdraft.link.shaping import Constant, Shape
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import GatheringEngine, Session, by_positions
from airdraft.link.sim_text import MatchRun
from airdraft.link.simulation import Conduct, Link, World
from coordinator.policy.costs import PassCost
from coordinator.policy.price import EdgeLoad
from edge_node.scheduling import held_until, worth_verifying

DRAFT_S = 0.008
STAGGER_S = 0.2
"""Devices begin by chance within so long of one another."""


@dataclass(slots=True)
class StepRules:
    """An edge node's rules of a step, for a simulated engine; ``holds`` False begins each as soon as it can."""

    line: PassCost
    holds: bool = True
    company: Company = field(default_factory=Company)
    load: EdgeLoad = field(default_factory=EdgeLoad)
    on_settled: Callable[[], object] = lambda: None

    def begins_s(
        self, now_s: float, free_s: float, step_s: float, ready: Sequence[tuple[Session, Wish]], sessions: int
    ) -> float:
        """Return when the step begins."""
        self.company.sessions, self.company.plain_s = sessions, self.line.seconds(sessions)
        if not self.holds or sessions == 1 or any(wish.work is Work.PREFILL for _, wish in ready):
            return now_s
        by_s = [session.run_ahead.begins_by(step_s) if session.run_ahead else None for session, _ in ready]
        return held_until(now_s, free_s, by_s, self.line.fixed_s)

    def positions(self, ready: Sequence[tuple[Session, Wish]]) -> list[int]:
        """Return how many positions each gets."""
        drafting = [(index, session, wish) for index, (session, wish) in enumerate(ready) if wish.work is Work.VERIFY]
        granted = [wish.positions for _, wish in ready]
        drafts = [
            (wish.positions - 1, session.run_ahead.acceptance if session.run_ahead else 1.0)
            for _, session, wish in drafting
        ]
        for (index, _, _), nodes in zip(drafting, worth_verifying(drafts, self.line), strict=True):
            granted[index] = 1 + nodes
        return granted

    def began(self, now_s: float, sessions: int) -> None:
        """Note that the engine is busy."""
        self.load.began(now_s, sessions)

    def joined(self, now_s: float) -> None:
        """Note that one more has work."""
        self.load.joined(now_s)

    def ended(self, now_s: float, sessions: int, positions: int) -> None:
        """Note that the engine is free."""
        self.load.ended(now_s)
        if sessions:
            self.load.stepped(now_s, sessions, positions)

    def settled(self) -> None:
        """Note that all sessions have taken a step."""
        self.on_settled()


@dataclass(frozen=True, slots=True)
class Share:
    """What a fleet came to while all of it was at it, against an edge alone with the same devices."""

    sessions: int
    seconds: float
    tokens: int
    busy_s: float
    slowest_tokens: int
    steps: int
    line: PassCost
    pieces: tuple[tuple[float, float], ...] = ()  # tokens and busy seconds, stretch by stretch

    @property
    def plain_tokens_per_s(self) -> float:
        """Return the rate of an edge alone whose every step holds a token of every session."""
        return self.sessions / self.line.seconds(self.sessions)

    @property
    def over_plain(self) -> float:
        """Return committed tokens per busy edge-second over those of the edge alone."""
        return self.tokens / self.busy_s / self.plain_tokens_per_s

    @property
    def wall_over_plain(self) -> float:
        """Return committed tokens per second over those of the edge alone."""
        return self.tokens / self.seconds / self.plain_tokens_per_s

    @property
    def slowest_over_plain(self) -> float:
        """Return the slowest session's rate over one at the edge alone."""
        return self.slowest_tokens / self.seconds * self.line.seconds(self.sessions)


def simulated(
    runs: Sequence[MatchRun],
    round_trip_s: float,
    line: PassCost,
    *,
    plan: Plan,
    holds: bool = True,
    seed: int = 1,
) -> Share:
    """Let a device for each run write over one edge that goes ahead; devices begin staggered by chance."""
    chance = Random(seed)
    starts = [chance.random() * STAGGER_S for _ in runs]
    way = Shape(Constant(round_trip_s / 2))
    world = World(Costs(DRAFT_S, by_positions(line.seconds)), gather=StepRules(line, holds))
    texts = world.fleet(runs, starts, Conduct(plan, run_ahead=True), lambda _: Link.of(way, way, chance))
    since_s = max(text.arrivals[0][0] for text in texts)
    until_s = min(text.arrivals[-1][0] for text in texts)
    tokens = [sum(count for when, count in text.arrivals if since_s < when <= until_s) for text in texts]
    assert isinstance(world.engine, GatheringEngine)
    ended = [(at_s + step_s + round_trip_s / 2, step_s) for at_s, step_s, _, _ in world.engine.log]
    steps = [step_s for when, step_s in ended if since_s < when <= until_s]
    return Share(len(runs), until_s - since_s, sum(tokens), sum(steps), min(tokens), len(steps), line)
