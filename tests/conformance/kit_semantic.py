"""What the kit's files hold of semantic sessions: wishes, grants, states, and what an edge judges by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.meaning import RULES, HeadTail, MeaningJudge, RiskTable
from airdraft.core.types import Evidence, Granted, HiddenProtocol, Semantic, StateKind
from airdraft.v1 import verification_pb2 as pb

Json = dict[str, Any]


def semantic_json(semantic: Semantic) -> Json:
    """Return what a device asks for as the kit holds it."""
    return asdict(semantic) | {
        "protocol": pb.HiddenProtocol.Name(int(semantic.protocol)),
        "drafter_digest": semantic.drafter_digest.hex(),
        "state_kind": pb.StateKind.Name(int(semantic.state_kind)),
    }


def semantic_of(content: Json | None) -> Semantic | None:
    """Return what a device asks for; None where its setup has nothing of it."""
    if content is None:
        return None
    told = {
        "protocol": HiddenProtocol(pb.HiddenProtocol.Value(content["protocol"])),
        "drafter_digest": bytes.fromhex(content["drafter_digest"]),
        "state_kind": StateKind(pb.StateKind.Value(content["state_kind"])),
    }
    return Semantic(**(content | told))


def granted_json(granted: Granted) -> Json:
    """Return what an edge grants as the kit holds it."""
    return asdict(granted) | {"protocol": pb.HiddenProtocol.Name(int(granted.protocol))}


def granted_of(content: Json) -> Granted:
    """Return what an edge grants."""
    return Granted(**(content | {"protocol": HiddenProtocol(pb.HiddenProtocol.Value(content["protocol"]))}))


# ---- what a drafter tells ----


def told_json(states: Sequence[Sequence[float]] | None, q: Sequence[SparseQ]) -> Json:
    """Return what a drafter tells of its tokens as the kit holds it; what is not told is left out."""
    told: Json = {} if states is None else {"states": [list(row) for row in states]}
    return told | ({"q": [asdict(one) for one in q]} if q else {})


def states_of(content: Json) -> NDArray[np.float32] | None:
    """Return the states [n, w] that a drafter tells, None where it tells none."""
    return np.array(content["states"], np.float32) if "states" in content else None


def q_of(content: Json) -> tuple[SparseQ, ...]:
    """Return what a drafter says that it chose its tokens from."""
    return tuple(SparseQ(tuple(one["ids"]), tuple(one["weights"])) for one in content.get("q", ()))


# ---- what an edge judges by ----

_ARRAYS = ("bias", "draft", "channel", "out", "channel_mean", "channel_scale")


def head_json(tail: HeadTail) -> Json:
    """Return the part of a head that stands at the front of an edge as the kit holds it."""
    told: Json = {}
    for field in fields(HeadTail):
        value = getattr(tail, field.name)
        if isinstance(value, RiskTable):
            told[field.name] = {name: getattr(value, name).tolist() for name in value.__slots__}
        else:
            told[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
    return told


def _head_of(content: Json) -> HeadTail:
    arrays = {name: np.array(value, np.float32) for name, value in content.items() if name in _ARRAYS and value}
    curve = {name: np.array(content[name], np.float64) for name in ("calibration_x", "calibration_y")}
    table = RiskTable(**{name: np.array(value, np.float64) for name, value in content["table"].items()})
    return HeadTail(**(content | arrays | curve | {"table": table}))


def judge_json(granted: Granted, tail: HeadTail | None = None, control_ids: Sequence[int] = ()) -> Json:
    """Return what judges a session's tokens as the kit holds it."""
    told: Json = {"granted": granted_json(granted), "control_ids": list(control_ids)}
    return told | ({} if tail is None else {"head": head_json(tail)})


def judge_of(content: Json, vocabulary: int) -> MeaningJudge:
    """Return what judges a session's tokens."""
    granted = granted_of(content["granted"])
    tail = _head_of(content["head"]) if "head" in content else None
    control_ids = frozenset(content["control_ids"])
    return MeaningJudge(granted, RULES[granted.rule], tail, vocabulary=vocabulary, control_ids=control_ids)


def evidence_json(evidence: Sequence[Evidence]) -> list[Json]:
    """Return what the target tells of drafted tokens as the kit holds it, without what it does not tell."""
    usual = asdict(Evidence(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    optional = ("kl", "partial", "reflected")
    return [
        {name: value for name, value in asdict(one).items() if name not in optional or value != usual[name]}
        for one in evidence
    ]


def evidence_of(content: Sequence[Json]) -> tuple[Evidence, ...]:
    """Return what the target tells of drafted tokens."""
    return tuple(Evidence(**(one | {"partial": tuple(one.get("partial", ()))})) for one in content)


class Clock:
    """An edge's seconds: what the last event said."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now_s
