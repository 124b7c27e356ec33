"""The schedules that the bench compares: one table; a schedule is settings of the same code, never other code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airdraft.core.types import Plan
from coordinator.policy.costs import RoundCost, best_draft_length, best_lockstep_length

PIPELINED = 64
"""Frames in flight where only credits bound them."""

EdgeDrafter = Literal["none", "model", "ngram"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Who drafts, and how."""

    about: str
    device_drafts: bool = False
    outstanding: int = 1  # frames of the device in flight at once
    ahead: int = 0  # frames that it drafts past those
    first_alone: bool = False  # its first token after a miss goes up at once
    edge_drafter: EdgeDrafter = "none"
    run_ahead: bool = False  # the edge goes ahead of a device whose draft has not come
    bonus: bool = True  # the edge commits its own token after a draft that was right
    split: bool = False  # chances go up with the drafts, and a row of the target's comes down with a miss

    def plan(self, draft_length: int, frame_tokens: int = 1) -> Plan:
        """Return what the device does by this schedule; ``draft_length`` and ``frame_tokens`` are a cell's."""
        if not self.device_drafts:
            return Plan(0)
        length = frame_tokens if self.outstanding > 1 else draft_length
        return Plan(length, self.outstanding, self.ahead, self.first_alone, self.split)

    def own_length(self, draft_length: int) -> int:
        """Return how many tokens the edge's own drafter writes for a pass."""
        return draft_length if self.edge_drafter != "none" else 0

    def best_length(self, cost: RoundCost) -> int:
        """Return the draft length that favours this schedule at these costs; 0 where nobody drafts by length.

        Where both ends draft it is the edge's.
        """
        if self.edge_drafter == "model":
            return best_draft_length(cost.at_the_edge(cost.draft_s))
        if self.edge_drafter == "ngram":
            return 4
        if not self.device_drafts:
            return 0
        if self.first_alone:
            return best_lockstep_length(cost)
        if self.ahead:
            return max(1, best_draft_length(cost) - 2)  # what is drafted past a frame goes up with the next one
        return 1 if self.outstanding > 1 else best_draft_length(cost)


SCHEDULES: dict[str, Schedule] = {
    "edge": Schedule("the edge decodes alone and streams; the device reads"),
    "sync": Schedule("the device drafts a frame, sends it and waits for the answer", device_drafts=True),
    "pipelined": Schedule(
        "the device drafts on while its frames fly, and the edge waits for them",
        device_drafts=True,
        outstanding=PIPELINED,
    ),
    "run-ahead": Schedule(
        "the device drafts on, and the edge goes ahead where no draft has come",
        device_drafts=True,
        outstanding=PIPELINED,
        run_ahead=True,
    ),
    "hybrid": Schedule(
        "both draft with the same small model; the edge verifies both lines, and its own where no draft has come",
        device_drafts=True,
        outstanding=PIPELINED,
        edge_drafter="model",
        run_ahead=True,
    ),
    "hybrid-lookup": Schedule(
        "the device drafts on, and the edge adds what followed the text's own n-grams",
        device_drafts=True,
        outstanding=PIPELINED,
        edge_drafter="ngram",
        run_ahead=True,
    ),
    "pearl": Schedule(
        "PEARL: a frame is drafted while the one before is verified; after a miss its first token goes up at once",
        device_drafts=True,
        ahead=1,
        first_alone=True,
        bonus=False,
    ),
    "proactive": Schedule(
        "SpecEdge: while a frame is verified, the device guesses the token after it and drafts on from there",
        device_drafts=True,
        ahead=6,
    ),
    "dssd": Schedule(
        "DSSD: a chance goes up with each drafted token, and after a miss the device draws from a row that comes down",
        device_drafts=True,
        split=True,
    ),
    "edge-spec": Schedule("the edge drafts with the same small model and verifies by itself", edge_drafter="model"),
    "edge-lookup": Schedule("the edge drafts what followed the text's own n-grams", edge_drafter="ngram"),
}
