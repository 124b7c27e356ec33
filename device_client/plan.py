"""How a device goes about drafting, out of its settings."""

from __future__ import annotations

from typing import Literal

from airdraft.core.types import Plan

Schedule = Literal["auto", "sync", "pipelined"]

FRAMES = 64
"""Frames that may fly at once where only the edge's credits are to bound them."""


def plan_of(schedule: Schedule, draft_model: str, draft_length: int) -> Plan:
    """Return the plan of a session.

    Pipelined, a token goes up as soon as it is drafted, and the drafter never waits. ``auto`` is that for a model; what
    followed the text's own n-grams costs no time to write, and gains nothing by leaving early.
    """
    if draft_length and (schedule == "pipelined" or (schedule == "auto" and draft_model != "ngram")):
        return Plan(1, FRAMES)
    return Plan(draft_length)
