"""All that a device or an edge estimates, and what follows for a round. Values; ``updated`` gives the next one."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.channel import Loss, Rates, Recent, RoundTrip
from coordinator.policy.cost_line import CostLine
from coordinator.policy.costs import PassCost
from coordinator.policy.harmless import HarmlessShare, Misses
from coordinator.policy.rounds import RoundTime

ID_BYTES = 4
"""Of a drafted id on its way up (``Draft.ids``)."""

FRAME_BYTES = 34
"""Of a ``Draft`` without ids, and what a link carries before it (``airdraft.link.sim_costs``)."""


class Transfer(NamedTuple):
    """A frame's way over the link in one direction."""

    size_bytes: int
    seconds: float  # how late it came; all of a direction may be off by the same amount


class Drafted(NamedTuple):
    """A run of the drafter, what it had to read first left out."""

    tokens: int
    seconds: float


class Passed(NamedTuple):
    """A pass of the target."""

    positions: int
    seconds: float


class Judged(NamedTuple):
    """A round's outcome: of so many drafted tokens, in one line, the first so many were right."""

    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen by ``at_s``, any clock's seconds; None is not seen."""

    at_s: float
    round_trip_s: float | None = None  # from a frame's leaving to its answer, less what the edge took
    up: Transfer | None = None
    down: Transfer | None = None
    lost: bool | None = None
    drafted: Drafted | None = None
    passed: Passed | None = None
    judged: Judged | None = None
    misses: Misses | None = None  # of a semantic session


@dataclass(frozen=True, slots=True)
class DraftStep:
    """Seconds of a drafted token: the median of late, since a phone's other work comes as spikes."""

    recent: Recent = field(default_factory=Recent)

    def updated(self, tokens: int, seconds: float, at_s: float) -> DraftStep:
        """Return this with a run of ``tokens`` >= 1. Raises ValueError where it is none."""
        if tokens < 1 or seconds < 0:
            raise ValueError(f"{tokens} tokens drafted in {seconds} s are none")
        return DraftStep(self.recent.updated(seconds / tokens, at_s))

    @property
    def step_s(self) -> float | None:
        """Return the usual seconds of a token; None before the first."""
        return self.recent.quantile(0.5)


@dataclass(frozen=True, slots=True)
class PassLine:
    """An edge's passes, fixed + per position: ``CostLine`` as a value."""

    line: CostLine = field(default_factory=CostLine)  # never changed here

    def updated(self, positions: int, seconds: float) -> PassLine:
        """Return this with a pass. Raises ValueError where it is none."""
        line = copy.copy(self.line)
        line.add(positions, seconds)
        return PassLine(line)

    @property
    def cost(self) -> PassCost | None:
        """Return the line; None before the first pass."""
        return self.line.cost if self.line.samples else None


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is believed now of the channel, both ends and the drafter."""

    round_trip: RoundTrip = field(default_factory=RoundTrip)  # of frames without a byte, as far as rates are known
    rates: Rates = field(default_factory=Rates)
    loss: Loss = field(default_factory=Loss)
    draft: DraftStep = field(default_factory=DraftStep)
    passes: PassLine = field(default_factory=PassLine)
    acceptance: AcceptanceByPosition = field(default_factory=AcceptanceByPosition)
    harmless: HarmlessShare = field(default_factory=HarmlessShare)

    def updated(self, sample: Sample) -> Estimates:
        """Return these with a sample. Raises ValueError where a part of it cannot have been."""
        rates, round_trip = self.rates, self.round_trip
        if sample.up or sample.down:
            rates = rates.updated(sample.up, sample.down)
        if sample.round_trip_s is not None:
            net_s = max(0.0, sample.round_trip_s - _serialisation_s(rates, sample))
            round_trip = round_trip.updated(net_s, sample.at_s)
        # Made anew at once: ``replace`` for each part takes as long as all the rest, many times a round.
        return Estimates(
            round_trip,
            rates,
            self.loss if sample.lost is None else self.loss.updated(lost=sample.lost),
            self.draft.updated(*sample.drafted, sample.at_s) if sample.drafted else self.draft,
            self.passes.updated(*sample.passed) if sample.passed else self.passes,
            self.acceptance.updated(*sample.judged) if sample.judged else self.acceptance,
            self.harmless.updated(sample.misses) if sample.misses else self.harmless,
        )

    def round_time(self, quoted: PassCost | None = None, quantile: float = 0.5) -> RoundTime | None:
        """Return what a synchronous round takes; None while the round trip, the drafter or the pass is not known.

        quoted    the edge's own cost line, where it told one: it sees all passes, this end only its own
        quantile  of the round trip; above 0.5 is cautious
        """
        round_trip_s, draft_s = self.round_trip.quantile_s(quantile), self.draft.step_s
        target = quoted or self.passes.cost
        if round_trip_s is None or draft_s is None or target is None:
            return None
        frames_s = FRAME_BYTES * (self.rates.up.byte_s + self.rates.down.byte_s)
        return RoundTime(round_trip_s + frames_s, draft_s, target, ID_BYTES * self.rates.up.byte_s)


def _serialisation_s(rates: Rates, sample: Sample) -> float:
    """Return what a round trip's frames took for their sizes."""
    up_s = sample.up.size_bytes * rates.up.byte_s if sample.up else 0.0
    return up_s + (sample.down.size_bytes * rates.down.byte_s if sample.down else 0.0)
