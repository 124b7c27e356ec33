"""What a device that plans has learnt, as text, so that another process of a bench goes on with it."""

from __future__ import annotations

import json
from typing import Any, TypedDict

import msgspec

from airdraft.core.types import Granted, Quote
from coordinator.policy.cost_line import CostLine
from coordinator.policy.estimates import Estimates
from coordinator.policy.expected import Setting
from coordinator.policy.model_error import ModelError
from coordinator.policy.plan import Decision, Objective, Plan
from coordinator.policy.planner import Planner


class _Planner(TypedDict):
    """Everything that a planner is made of, by its own names."""

    objective: Objective
    plan: Plan
    estimates: Estimates
    errors: ModelError
    quote: Quote | None
    granted: Granted
    decision: Decision | None
    _seen: Setting | None
    live_nodes: int
    history: list[tuple[int, Plan]]
    _tokens: int
    _start: Plan
    _keeps: bool
    _drafts: bool
    _expected_s: float | None
    _switched: bool
    _unjudged: int
    _probe_every: int
    _probing: int
    _probed: int


def memory_of(planner: Planner) -> str:
    """Return a planner as text."""
    return json.dumps(msgspec.to_builtins(vars(planner), enc_hook=vars))


def planner_of(memory: str) -> Planner:
    """Return the planner of a text. Raises ValueError where it is none."""
    known = msgspec.convert(json.loads(memory), _Planner, dec_hook=_cost_line)
    planner = Planner(known["objective"], known["_start"])
    assert vars(planner).keys() == known.keys(), "a planner has become another: tell _Planner"
    vars(planner).update(known)
    return planner


def _cost_line(kind: type, known: Any) -> CostLine:
    assert kind is CostLine, f"{kind} is told by nobody"
    line = CostLine()
    if not isinstance(known, dict) or known.keys() != vars(line).keys():
        raise ValueError("no cost line")
    vars(line).update(known)
    return line
