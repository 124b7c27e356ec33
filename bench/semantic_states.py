"""Heads of the demo pair, and states as wide as the paper's: what the paced processes of ``bench semantic`` load.

The demo drafter's states have 128 numbers. WISV's pair sends 2,048 numbers of two bytes a token, 4,096 bytes; so that a
frame weighs what it would there, a state is filled up with zeros until its row takes as much, and the head with columns
of zeros that read them. Risks and texts stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airdraft.checkpoint import DEMO_FOLDERS
from airdraft.core.drafting import Drafter, states_of
from airdraft.core.meaning.states import SCALE_BYTES
from bench.semantic_contestants import HeadKind
from edge_node.heads import HeadFile, load_head

PAPER_STATE_BYTES = 2048 * 2
WIDE = PAPER_STATE_BYTES - SCALE_BYTES
"""Numbers of a state whose int8 row is as long as the paper's in float16."""

SUFFIXES: dict[HeadKind, str] = {"target-only": "", "full": ".full", "full-no-channel": ".full-no-channel"}
KINDS: dict[str, HeadKind] = {"meaning": "target-only", "meaning-full": "full", "meaning-wide": "full"}
"""Which head an edge of the bench has, by the word that it is told."""


def demo_folder(name: str) -> Path:
    """Return the folder of one of the demo models."""
    return next(folder / name for folder in DEMO_FOLDERS if (folder / name).is_dir())


def head_path(drafter: str, kind: HeadKind) -> Path:
    """Return where a demo drafter's head is shipped."""
    return demo_folder("target").parent / "heads" / f"{drafter}{SUFFIXES[kind]}.safetensors"


def heads_of(word: str) -> list[HeadFile]:
    """Return the heads of an edge; none for an empty word. Raises HeadRefused."""
    if not word:
        return []
    head = load_head(head_path("drafter", KINDS[word]))
    return [widened(head, WIDE)] if word == "meaning-wide" else [head]


def widened(head: HeadFile, width: int) -> HeadFile:
    """Return a head for states of ``width`` numbers of which it reads the first ones as ``head`` does, and no other."""
    draft = head.tail.draft
    assert draft is not None, "a head that reads no states"
    wide = np.zeros((len(draft), width), dtype=np.float32)
    wide[:, : draft.shape[1]] = draft
    return replace(head, tail=replace(head.tail, draft=wide), manifest=replace(head.manifest, draft_width=width))


@dataclass(frozen=True, slots=True)
class Widened:
    """A drafter whose states are filled up with zeros to ``width`` numbers."""

    drafter: Drafter
    width: int

    @property
    def states(self) -> Sequence[NDArray[np.float32]] | None:
        """Return the drafter's states, filled up; None: it has none."""
        states = states_of(self.drafter)
        return None if states is None else [np.pad(state, (0, self.width - len(state))) for state in states]

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return what the drafter proposes."""
        return self.drafter.propose(path, count, cancelled)

    def learn(self, ids: Sequence[int]) -> None:
        """Let the drafter learn."""
        self.drafter.learn(ids)
