"""How a device goes about drafting, out of its settings."""

from __future__ import annotations

from typing import Literal

from airdraft.core import types as core
from coordinator.policy.plan import FRAMES, Plan, objective_of
from coordinator.policy.planner import Planner
from coordinator.policy.steering import Steering

Schedule = Literal["auto", "sync", "pipelined"]


def start_of(schedule: Schedule, draft_model: str, draft_length: int) -> Plan:
    """Return the plan that a session begins with; all but ``auto`` keep it.

    Pipelined, a token goes up as soon as it is drafted, and the drafter never waits. ``auto`` begins so with a model;
    what followed the text's own n-grams costs no time to write, and gains nothing by leaving early. ``sync`` asks the
    edge to wait too: one that goes ahead would have overtaken nearly every frame.
    """
    if not draft_length:
        return Plan("edge")
    if schedule == "pipelined" or (schedule == "auto" and draft_model != "ngram"):
        return Plan("split", 0, 1, FRAMES)
    return Plan("split", draft_length, draft_length, waits=schedule == "sync")


def plan_of(schedule: Schedule, draft_model: str, draft_length: int) -> core.Plan:
    """Return how a session begins to draft."""
    return start_of(schedule, draft_model, draft_length).conduct


def steering_of(schedule: Schedule, draft_model: str, draft_length: int, objective: str) -> Steering:
    """Return what makes the plans of a device's sessions, or where the settings have made one keeps to it.

    Raises ValueError where the objective is none.
    """
    weights, start = objective_of(objective), start_of(schedule, draft_model, draft_length)
    keeps = schedule != "auto" or not draft_length
    if not keeps and weights.device > weights.user:
        start = Plan("edge")  # drafting has to be worth it first
    return Steering(Planner(weights, start, drafts=bool(draft_length), keeps=keeps))
