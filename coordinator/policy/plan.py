"""The plan: who drafts, how far and in what frames, by what each way is expected to cost (DESIGN §7).

The edge quotes, the device decides: every candidate's expected seconds a token, edge seconds and device seconds
(``expected``) are weighed by the objective, and the cheapest is taken, if it is cheaper than the plan that stands by
more than what estimates wobble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from airdraft.core import types as core
from coordinator.policy.costs import PassCost
from coordinator.policy.expected import (
    FRAME_BYTES,
    ID_BYTES,
    Expected,
    Setting,
    edge_alone,
    pipelined,
    survival,
    synchronous,
)
from coordinator.policy.provisional import provisional, provisional_s
from coordinator.policy.rounds import LONGEST, RoundTime

Mode = Literal["split", "edge", "hybrid", "device"]
Way = Literal["edge", "edge-draft", "sync", "pipelined", "run-ahead", "provisional", "hybrid", "device"]

FRAMES = 64
"""Frames that may fly at once where only the edge's credits are to bound them."""

STICKINESS = 0.03
"""By what share another plan must be cheaper than the one that stands: estimates of a steady channel wobble by less."""

FRAME_TOKENS = (1, 2, 4, 8)

FREE_S = 0.001
"""A drafter that takes less for a token has a whole frame at once: n-grams, not models."""

FREE_LENGTHS = (2, 4, 8)
"""Of its frames, where the edge goes ahead: one at a time, since all that it could say would widen every pass."""

SAVES = 0.1
"""What an edge second must weigh, of a user's, before it is worth looking at ways in which an edge waits that would go
ahead: they save its seconds, and are no faster."""

COMPANY = 1.5
"""With so many sessions a step nobody asks an edge to wait that goes ahead: steps run all the same, for the others, and
emptier. With 16 sessions, acceptance 0.6 and 60 ms a token then costs 3.6 ms of the edge instead of 2.0 (simulated)."""

CROWD = 8.0
"""With so many sessions a step nobody has an edge draft beside its device: somebody's line is always short, so that all
wait for the edge's drafter in every step. With 16, acceptance 0.9 and 10 ms a token then takes 19 ms, not 16."""

HELD_ALIKE = (0.8, 1.5)
"""A deadline of provisional tokens stands while it is between so many times the one that is right now: too short a one
commits what a draft would have replaced, too long a one shows only on a link that stands still."""

FRAME_S = 0.0005
"""What sending and reading a frame costs both ends: a drafter that is faster than that shares frames."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a second of each is worth; only their ratios matter."""

    user: float = 1.0
    edge: float = 0.0
    device: float = 0.0

    def cost(self, expected: Expected, edge_price: float = 1.0) -> float:
        """Return what a token costs, in weighted seconds.

        ``edge_price`` is the edge's quote: the users that a second of it keeps waiting, this one included. A session
        pays its share of the edge's seconds at that price, and the others' waits for the positions that it adds to
        their steps as if they were its own user's: so all react before queues grow.
        """
        waits_s = expected.seconds + (edge_price - 1) * expected.widening_s
        return self.user * waits_s + self.edge * edge_price * expected.edge_s + self.device * expected.device_s


OBJECTIVES: Mapping[str, Objective] = {
    # A little of the other two decides between ways that are as fast, so that nobody works for nothing.
    "latency": Objective(1.0, 0.02, 0.01),
    "edge-seconds": Objective(0.2, 1.0, 0.01),
    "device-seconds": Objective(0.2, 0.02, 1.0),
}


def objective_of(words: str) -> Objective:
    """Return an objective by name, or of weights like ``user=1,edge=0.5,device=0.1``; what is not named weighs 0.

    Raises ValueError where it is neither.
    """
    if words in OBJECTIVES:
        return OBJECTIVES[words]
    weights: dict[str, float] = {}
    for part in words.split(","):
        name, _, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if name.strip() not in ("user", "edge", "device") or not 0 <= weight < 1e6 or name.strip() in weights:
            known = ", ".join(OBJECTIVES)
            raise ValueError(f"objective {words} is none of {known}, nor weights like user=1,edge=0.5,device=0.1")
        weights[name.strip()] = weight
    if not any(weights.values()):
        raise ValueError(f"objective {words} weighs nothing; give a weight above 0")
    return Objective(weights.get("user", 0.0), weights.get("edge", 0.0), weights.get("device", 0.0))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the device does, and asks the edge for."""

    mode: Mode
    draft_length: int = 0  # tokens of a synchronous frame, or that the edge's own drafter fills a line up to
    frame_tokens: int = 0
    outstanding: int = 1
    siblings: int = 0
    tolerance: float = 0.0
    pad: bool = False
    waits: bool = False  # the edge is asked not to go ahead of the device
    own_draft: bool = True  # the edge's own drafter may write
    provisional_s: float = 0.0  # the edge holds its own tokens so long for the device's drafts of them; 0: not at all

    @property
    def drafts(self) -> bool:
        """Return whether the device drafts for an edge."""
        return self.mode in ("split", "hybrid")

    @property
    def way(self) -> Way:
        """Return what kind of plan it is, whatever its lengths."""
        if self.mode == "edge":
            return "edge-draft" if self.draft_length else "edge"
        if self.mode == "split":
            if not self.waits:
                return "provisional" if self.provisional_s else "run-ahead"
            return "sync" if self.outstanding == 1 else "pipelined"
        return self.mode

    @property
    def conduct(self) -> core.Plan:
        """Return how the device's session core drafts by it."""
        if not self.drafts:
            return core.Plan(0, own_draft=self.own_draft)
        return core.Plan(
            self.frame_tokens,
            self.outstanding,
            waits=self.waits,
            own_draft=self.own_draft,
            provisional_s=self.provisional_s,
        )

    def __str__(self) -> str:
        if not self.drafts:
            own = f", its drafts of {self.draft_length}" if self.mode == "edge" and self.draft_length else ""
            return self.mode + own
        pace = "one at a time" if self.outstanding == 1 else "without waiting"
        edge = "waits" if self.waits else "goes ahead"
        if self.provisional_s:
            edge = f"holds {self.provisional_s * 1e3:.0f} ms"
        return f"{self.mode}, frames of {self.frame_tokens}, {pace}, the edge {edge}"


@dataclass(frozen=True, slots=True)
class Offer:
    """What an edge offers beside verifying."""

    runs_ahead: bool  # it goes ahead of a device whose draft has not come
    own_tokens: int = 0  # that its own drafter writes for a pass; 0: it has none, or none that pays
    price: float = 1.0  # of an edge second, as quoted
    by_meaning: bool = False  # it lets drafted tokens stand that are as good as the target's own


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate and what it is expected to cost."""

    plan: Plan
    expected: Expected
    cost: float


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and all that was weighed for it, the cheapest first."""

    plan: Plan
    weighed: tuple[Weighed, ...]

    def explained(self) -> list[str]:
        """Return a table of the candidates, milliseconds a token."""
        lines = [f"{'plan':<60} {'user ms':>8} {'edge ms':>8} {'device ms':>10} {'bytes up':>9} {'cost':>8}"]
        for one in self.weighed:
            mark = "  <- taken" if one.plan == self.plan else ""
            its = one.expected
            lines.append(
                f"{one.plan!s:<60} {its.seconds * 1e3:>8.1f} {its.edge_s * 1e3:>8.1f} {its.device_s * 1e3:>10.1f} "
                f"{its.bytes_up:>9.1f} {one.cost * 1e3:>8.2f}{mark}"
            )
        return lines


def candidates(setting: Setting, offer: Offer, objective: Objective, *, drafts: bool = True) -> list[Plan]:
    """Return the plans that are weighed: of each way the one whose lengths are best; ``drafts``: the device can."""
    own = offer.own_tokens
    plans = [Plan("edge", own_draft=not own)]
    if own:
        plans.append(Plan("edge", own))
    if not drafts:
        return plans
    if setting.draft_s < FREE_S:
        flights = [(tokens, 1) for tokens in FREE_LENGTHS]
    else:
        flights = [(frame_tokens(setting), FRAMES)]
    saves = objective.edge * offer.price >= SAVES * objective.user
    if not offer.runs_ahead or (saves and setting.sharers < COMPANY):
        length = synchronous_length(setting, offer, objective)
        plans.append(Plan("split", length, length, waits=True, own_draft=not own))
        if flights[0][1] > 1:
            plans.append(Plan("split", 0, *flights[0], waits=True, own_draft=not own))
    for tokens, outstanding in flights if offer.runs_ahead else ():
        plans.append(Plan("split", 0, tokens, outstanding, own_draft=not own))
        if offer.by_meaning:
            held_s = provisional_s(setting, tokens)
            plans.append(Plan("split", 0, tokens, outstanding, own_draft=not own, provisional_s=held_s))
        if own and setting.sharers < CROWD:
            plans.append(Plan("hybrid", own, tokens, outstanding))
    return plans


def frame_tokens(setting: Setting) -> int:
    """Return the tokens of a pipelined frame: as few as the uplink and the ends can take at the drafter's pace.

    What waits for company in a frame comes later than it could.
    """

    def step_s(tokens: int) -> float:
        return (FRAME_S + FRAME_BYTES / setting.up_bytes_s) / tokens + ID_BYTES / setting.up_bytes_s

    return next((tokens for tokens in FRAME_TOKENS if step_s(tokens) <= setting.draft_s), FRAME_TOKENS[-1])


def synchronous_length(setting: Setting, offer: Offer, objective: Objective) -> int:
    """Return the best draft length of the synchronous split: its weighted cost is a line in the length, too."""
    user, edge = objective.user, objective.edge * offer.price
    target = setting.target
    still_s = setting.round_trip_s + setting.turn_s + FRAME_BYTES / setting.up_bytes_s
    shared_s = setting.share_s(1)
    fixed = user * (still_s + setting.pass_s(1)) + edge * shared_s
    id_s, position_s = ID_BYTES / setting.up_bytes_s, target.per_position_s
    token = (user + objective.device) * setting.draft_s + user * id_s
    token += (user * offer.price + edge) * position_s
    # In weighted seconds, so that the round's own optimum is the objective's.
    return RoundTime(fixed, token, PassCost(0.0)).best(survival(setting.chances, LONGEST))[0]


def expected_of(plan: Plan, setting: Setting, offer: Offer) -> Expected:
    """Return what a token is expected to cost by a plan."""
    frame, frames, ahead = plan.frame_tokens, plan.outstanding, offer.runs_ahead
    match plan.way:
        case "device":
            return Expected(setting.draft_s, 0.0, setting.draft_s, 0.0)
        case "edge" | "edge-draft":
            return edge_alone(setting, plan.draft_length)
        case "sync":
            return synchronous(setting, frame)
        case "pipelined":
            return pipelined(setting, frame, frames, run_ahead=False)
        case "run-ahead":
            return pipelined(setting, frame, frames, run_ahead=ahead)
        case "provisional":
            if ahead and plan.provisional_s >= setting.round_trip_s:
                return provisional(setting, frame, frames)
            return pipelined(setting, frame, frames, run_ahead=ahead)  # its tokens go out before a draft is there
        case "hybrid":
            return pipelined(setting, frame, frames, run_ahead=ahead, own_tokens=plan.draft_length if ahead else 0)


def plan(
    setting: Setting,
    objective: Objective,
    offer: Offer,
    *,
    current: Plan | None = None,
    among: Sequence[Plan] | None = None,
    errors: Mapping[Way, float] | None = None,
) -> Decision:
    """Return the cheapest plan, or the one that stands where none is clearly cheaper.

    current  the plan that stands
    among    the candidates; None: all there are
    errors   by what factor each way took longer than expected, as far as that is known
    """
    plans = list(among) if among is not None else candidates(setting, offer, objective)
    if current is not None and current.provisional_s:
        plans = [_steadied(one, current) for one in plans]
        current = next((one for one in plans if one.provisional_s and _alike(one, current)), current)
    if current is not None and current not in plans and current.way in {one.way for one in plans}:
        plans.append(current)  # of other lengths; a way that is no longer there cannot stand
    factors = errors or {}
    weighed: list[Weighed] = []
    for candidate in plans:
        expected, factor = expected_of(candidate, setting, offer), factors.get(candidate.way, 1.0)
        if factor != 1.0:
            expected = expected._replace(seconds=expected.seconds * factor)
        weighed.append(Weighed(candidate, expected, objective.cost(expected, offer.price)))
    weighed.sort(key=lambda one: one.cost)
    best = weighed[0]
    for one in weighed:
        if one.plan == current and one.cost <= best.cost * (1 + STICKINESS):
            return Decision(one.plan, tuple(weighed))
    return Decision(best.plan, tuple(weighed))


def _alike(one: Plan, other: Plan) -> bool:
    """Return whether two plans differ in nothing but how long the edge holds its tokens."""
    return replace(one, provisional_s=other.provisional_s) == other


def _steadied(one: Plan, current: Plan) -> Plan:
    """Return a candidate with the deadline that stands, where that is about as long: each change is told the edge."""
    least, most = HELD_ALIKE
    fits = one.provisional_s and least * one.provisional_s <= current.provisional_s <= most * one.provisional_s
    return current if fits and _alike(one, current) else one
