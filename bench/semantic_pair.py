"""A pair of models in one process, as ``bench semantic`` runs it: target engine, drafter, heads, and their judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from tokenizers import Tokenizer

from airdraft.checkpoint import Role
from airdraft.core.meaning import HeadTail, MeaningJudge, RiskTable
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import Granted, Identity
from bench.semantic_contestants import HeadKind, Setting
from bench.semantic_drafter import BatchedDrafter
from bench.semantic_states import SUFFIXES, demo_folder, head_path
from edge_node.engine.engine import TargetEngine
from edge_node.engine.judging import judge_of
from edge_node.engine.loading import load_target
from edge_node.engine.runner import StepRunner
from edge_node.heads import HeadFile, load_head
from edge_node.step import Extent

EXTENT_ROWS = 192
"""Rows of a text: the longest prompt of the demo problems, the longest answer, and no draft past that."""

ROOM = EXTENT_ROWS


class Pair:
    """The demo target with one of its drafters."""

    def __init__(self, drafter: str = "drafter", places: int = 256, *, profile: str = "fast", heads: str = "") -> None:
        """Load both with room for ``places`` texts; ``heads`` are another drafter's than its own."""
        torch.set_num_threads(1)
        target = load_target("demo", device="cpu", max_context=ROOM)
        small = load_target(str(demo_folder(drafter)), device="cpu", max_context=ROOM, role=Role.DRAFTER)
        self.name, self.target, self.small, self.places = drafter, target, small, places
        self.room, self.vocabulary, self.stop_ids = ROOM, target.vocabulary, target.stop_ids
        self.identity = Identity(target.model_digest, tokenizer_digest(target.tokenizer_json))
        self.tokenizer = Tokenizer.from_str(target.tokenizer_json)
        self.extents = [Extent(number * EXTENT_ROWS, EXTENT_ROWS) for number in range(places)]
        self.engine = TargetEngine(target, places * EXTENT_ROWS, profile=profile)
        self.drafter = BatchedDrafter(small, places, ROOM)
        self.state_width = self.drafter.state_width
        paths = {kind: head_path(heads or drafter, kind) for kind in SUFFIXES}
        self.heads: dict[HeadKind, HeadFile] = {kind: load_head(path) for kind, path in paths.items() if path.exists()}
        self._order = list(self.heads)
        judge = judge_of(target, list(self.heads.values()))
        self.runner = StepRunner(self.engine, target.vocabulary, judge=judge)

    def tail(self, setting: Setting) -> HeadTail | None:
        """Return the head that judges, with its risk table or the setting's threshold in its place."""
        if not setting.head_kind:
            return None
        tail = self.heads[setting.head_kind].tail
        if setting.threshold is None:
            return tail
        return replace(tail, table=RiskTable(np.array([setting.threshold]), np.zeros(1), np.zeros(1)))

    def judge(
        self, setting: Setting, tail: HeadTail | None = None, strictness: Callable[[], float] | None = None
    ) -> MeaningJudge:
        """Return the judge of a new session; by the setting's head where no other ``tail`` is given."""
        granted = Granted(setting.max_loss, setting.who.rule, setting.who.protocol)
        return MeaningJudge(
            granted,
            setting.judging_rule,
            tail or self.tail(setting),
            vocabulary=self.vocabulary,
            control_ids=frozenset(self.stop_ids),
            strictness=strictness or _as_claimed,
        )

    def head_index(self, setting: Setting) -> int:
        """Return which of the runner's heads makes the partial; -1: none."""
        return self._order.index(setting.head_kind) if setting.head_kind else -1


def _as_claimed() -> float:
    return 1.0
