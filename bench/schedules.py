"""The schedules that the bench compares: one table; a schedule is settings of the same code, never other code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coordinator.policy.costs import RoundCost, best_draft_length

EdgeDrafter = Literal["none", "model", "ngram"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Who drafts, and how."""

    about: str
    device_drafts: bool = False
    outstanding: int = 1  # frames of the device in flight at once
    edge_drafter: EdgeDrafter = "none"

    def best_length(self, cost: RoundCost) -> int:
        """Return the draft length that favours this schedule at these costs; 0 where nobody drafts by length."""
        if self.device_drafts:
            return best_draft_length(cost)
        if self.edge_drafter == "model":
            return best_draft_length(cost.at_the_edge(cost.draft_s))
        return 4 if self.edge_drafter == "ngram" else 0


SCHEDULES: dict[str, Schedule] = {
    "edge": Schedule("the edge decodes alone and streams; the device reads"),
    "sync": Schedule("the device drafts a frame, sends it and waits for the answer", device_drafts=True),
    "edge-spec": Schedule("the edge drafts with the same small model and verifies by itself", edge_drafter="model"),
    "edge-lookup": Schedule("the edge drafts what followed the text's own n-grams", edge_drafter="ngram"),
}
