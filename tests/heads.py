"""Semantic heads for tests: nothing was trained, so that each test says itself how lax its head is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from airdraft.core.meaning import HeadTail, RiskTable
from edge_node.heads import SCALAR_COUNT, HeadFile, HeadManifest

TARGET = b"t" * 32
DRAFTER = b"d" * 32

MANIFEST = HeadManifest(
    name="made",
    kind="logistic",
    features="target-only",
    supervision="calibrated",
    target_digest=TARGET.hex(),
    drafter_digest=DRAFTER.hex(),
    target_width=4,
    draft_width=0,
    has_channel=False,
    task="number",
    draft_length=8,
    labels=0,
    label_problems=0,
    rollouts=1,
    temperature=0.0,
    test_labels=0,
    auc=0.5,
    ece=0.5,
    table_problems=0,
)


def head_by_gap(
    name: str = "made",
    *,
    target: bytes = TARGET,
    drafter: bytes = DRAFTER,
    target_width: int = 4,
    state_width: int = 0,
    gaps: tuple[float, ...] = (0.0, 20.0),
    risks: tuple[float, ...] = (0.001, 0.9),
    thresholds: tuple[float, ...] = (0.01, 0.1, 0.5),
    losses: tuple[float, ...] = (0.01, 0.02, 0.5),
    auc: float = 0.5,
) -> HeadFile:
    """A head whose logit is by how many nats the target likes the drafted token less than its own.

    gaps, risks         the calibration: that logit, and the risk at it
    thresholds, losses  the risk table, upper ends
    state_width         of the drafter's states, which it reads and which change nothing but that they must be there
    """
    weights = np.zeros((1, 3 * target_width + SCALAR_COUNT), dtype=np.float32)
    weights[0, 3 * target_width : 3 * target_width + 2] = (-1.0, 1.0)  # drafted_log_p, choice_log_p
    tail = HeadTail(
        name=name,
        features="draft+target" if state_width else "target-only",
        bias=np.zeros(1, dtype=np.float32),
        out=np.ones(1, dtype=np.float32),
        out_bias=0.0,
        calibration_x=np.array(gaps),
        calibration_y=np.array(risks),
        table=RiskTable(np.array(thresholds), np.array(losses), np.array(losses) / 2),
        draft=np.zeros((1, state_width), dtype=np.float32) if state_width else None,
    )
    manifest = replace(
        MANIFEST,
        name=name,
        features=tail.features,
        target_digest=target.hex(),
        drafter_digest=drafter.hex(),
        target_width=target_width,
        draft_width=state_width,
        auc=auc,
    )
    return HeadFile(tail, weights, manifest)
