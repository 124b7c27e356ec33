"""The plan: who drafts, how far and in what frames, by what each way is expected to cost (DESIGN §7).

The edge quotes, the device decides: every candidate's expected seconds a token, edge seconds and device seconds
(``expected``) are weighed by the objective, and the cheapest is taken, if it is cheaper than the plan that stands by
more than what estimates wobble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from airdraft.core import types as core
from coordinator.policy.expected import Expected, Setting, edge_alone, pipelined, synchronous

Mode = Literal["split", "edge", "hybrid", "device"]

FRAMES = 64
"""Frames that may fly at once where only the edge's credits are to bound them."""

STICKINESS = 0.03
"""By what share another plan must be cheaper than the one that stands: estimates of a steady channel wobble by less."""

SYNCHRONOUS_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
FRAME_TOKENS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Objective:
    """What a second of each is worth; only their ratios matter."""

    user: float = 1.0
    edge: float = 0.0  # times the price in the edge's quote
    device: float = 0.0

    def cost(self, expected: Expected, edge_price: float = 1.0) -> float:
        """Return what a token costs, in seconds of the user's."""
        return self.user * expected.seconds + self.edge * edge_price * expected.edge_s + self.device * expected.device_s


OBJECTIVES: Mapping[str, Objective] = {
    # A little of the other two decides between ways that are as fast, so that nobody works for nothing.
    "latency": Objective(1.0, 0.02, 0.01),
    "edge-seconds": Objective(0.2, 1.0, 0.01),
    "device-seconds": Objective(0.2, 0.02, 1.0),
}


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

    @property
    def conduct(self) -> core.Plan:
        """Return how the device's session core drafts by it."""
        if self.mode in ("edge", "device"):
            return core.Plan(0)
        return core.Plan(self.frame_tokens, self.outstanding)

    def __str__(self) -> str:
        if self.mode in ("edge", "device"):
            return self.mode
        if self.outstanding == 1:
            return f"{self.mode}, frames of {self.frame_tokens}, one at a time"
        return f"{self.mode}, frames of {self.frame_tokens}, without waiting"


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
        lines = [f"{'plan':<36} {'user ms':>8} {'edge ms':>8} {'device ms':>10} {'bytes up':>9} {'cost':>8}"]
        for one in self.weighed:
            mark = "  <- taken" if one.plan == self.plan else ""
            its = one.expected
            lines.append(
                f"{one.plan!s:<36} {its.seconds * 1e3:>8.1f} {its.edge_s * 1e3:>8.1f} {its.device_s * 1e3:>10.1f} "
                f"{its.bytes_up:>9.1f} {one.cost * 1e3:>8.2f}{mark}"
            )
        return lines


def candidates(*, own_tokens: int = 0) -> list[Plan]:
    """Return the plans there are; ``own_tokens``: what the edge's own drafter writes for a pass, 0 without one."""
    plans = [Plan("edge")]
    plans += [Plan("split", length, length) for length in SYNCHRONOUS_LENGTHS]
    mode: Mode = "hybrid" if own_tokens else "split"
    return plans + [Plan(mode, own_tokens, tokens, FRAMES) for tokens in FRAME_TOKENS]


def expected_of(plan: Plan, setting: Setting, *, runs_ahead: bool, own_tokens: int = 0) -> Expected:
    """Return what a token is expected to cost by a plan; an edge that has a drafter uses it where no device drafts."""
    if plan.mode == "device":
        return Expected(setting.draft_s, 0.0, setting.draft_s, 0.0)
    if plan.mode == "edge":
        return min((edge_alone(setting, tokens) for tokens in {0, own_tokens}), key=lambda expected: expected.seconds)
    if plan.outstanding == 1:
        return synchronous(setting, plan.frame_tokens)
    return pipelined(setting, plan.frame_tokens, run_ahead=runs_ahead, own_tokens=own_tokens if runs_ahead else 0)


def plan(
    setting: Setting,
    objective: Objective,
    *,
    runs_ahead: bool,
    own_tokens: int = 0,
    edge_price: float = 1.0,
    current: Plan | None = None,
    among: Sequence[Plan] | None = None,
) -> Decision:
    """Return the cheapest plan, or the one that stands where none is clearly cheaper.

    runs_ahead  the edge goes ahead of a device whose draft has not come
    own_tokens  what the edge's own drafter writes for a pass; 0: it has none
    edge_price  of an edge second, as quoted
    current     the plan that stands
    among       the candidates; None: all there are
    """
    plans = list(among) if among is not None else candidates(own_tokens=own_tokens)
    if current is not None and current not in plans:
        plans.append(current)
    weighed = sorted(
        (
            Weighed(one, expected, objective.cost(expected, edge_price))
            for one in plans
            for expected in [expected_of(one, setting, runs_ahead=runs_ahead, own_tokens=own_tokens)]
        ),
        key=lambda one: one.cost,
    )
    best = weighed[0]
    for one in weighed:
        if one.plan == current and one.cost <= best.cost * (1 + STICKINESS):
            return Decision(one.plan, tuple(weighed))
    return Decision(best.plan, tuple(weighed))
