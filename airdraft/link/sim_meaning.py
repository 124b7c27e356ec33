"""Sessions with meaning in a simulation: what is asked, what is granted, and a head that knows each place's class."""

from __future__ import annotations

import numpy as np

from airdraft.core.meaning import RULES, HeadTail, MeaningJudge, RiskTable
from airdraft.core.types import Granted, Open, Semantic
from airdraft.link.sim_text import HARMFUL, HARMLESS

VOCABULARY = 1 << 32
"""A simulated text's ids are any that go into a frame."""

ASKED = Semantic(0.01)
"""What a simulated device asks for: the cap bounds nothing here, since the simulated head never errs."""

_RISK = 1e-6  # of a harmless token; a harmful one's is 1


def _head() -> HeadTail:
    """Return the head whose first layer is the class itself: a harmless one stands at any threshold, no other does."""
    table = RiskTable(np.array([_RISK]), np.array([0.0]), np.array([0.0]))
    return HeadTail(
        name="classes",
        features="target-only",
        bias=np.zeros(1, np.float32),
        out=np.ones(1, np.float32),
        out_bias=0.0,
        calibration_x=np.array([HARMLESS, HARMFUL]),
        calibration_y=np.array([0.0, 1.0]),
        table=table,
    )


def granted(opened: Open) -> tuple[Granted, MeaningJudge | None]:
    """Return what an edge of a simulation grants of what a device asks, and who judges."""
    asked = opened.semantic
    if asked is None:
        return Granted(), None
    grant = Granted(asked.max_loss, asked.rule)
    judge = MeaningJudge(
        grant,
        RULES["head"],
        _head(),
        vocabulary=VOCABULARY,
        control_ids=frozenset(opened.stop_ids),
    )
    return grant, judge
