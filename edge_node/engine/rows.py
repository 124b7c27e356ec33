"""The target's row where a draft was missed, for a device that draws the replacement itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from airdraft.core.rows import TargetRow
from airdraft.core.types import Span
from edge_node.engine.sampling import Chosen, Part
from edge_node.step import Item

Choose = Callable[[Tensor, Sequence[Part], int, float], Sequence[Chosen | ValueError]]
"""How the logits [rows of all parts, V] become tokens, given vocabulary and near-tie distance: ``choose_batch``."""


def missed_at(span: Span, choices: Sequence[int]) -> int | None:
    """Return which wanted row the walk along the target's choices leaves the drafts at; None where it misses none.

    ``choices`` stand after the wanted rows, the first of which is the last committed token's, the others all drafts.
    """
    if not span.wanted:
        return None
    choice_at = dict(zip(span.wanted, choices, strict=True))
    node, missed = span.wanted[0], False
    for index in range(node + 1, len(span.tokens)):
        parent = index - 1 if span.parents is None else span.parents[index]
        if parent != node:
            continue
        missed = span.tokens[index] != choice_at[node]
        if not missed:
            node = index
    return span.wanted.index(node) if missed else None


def missed_rows(
    items: Sequence[Item], logits: Sequence[Tensor], parts: Sequence[Part], chosen: Sequence[Chosen | ValueError],
    vocabulary: int, choose: Choose,
) -> list[TargetRow | None]:  # fmt: skip
    """Return, for each item that asks for it, the row of its first missed draft.

    In float16, half the bytes, where that gives the same token.

    logits  [wanted rows, V] of each item
    parts   what ``chosen`` was chosen for
    """
    rows: list[TargetRow | None] = [None] * len(items)
    found: list[tuple[int, int, int]] = []  # item, wanted row, choice
    for index, (item, one) in enumerate(zip(items, chosen, strict=True)):
        if item.row and isinstance(one, Chosen) and (at := missed_at(item.span, one.tokens)) is not None:
            found.append((index, at, one.tokens[at]))
    if not found:
        return rows
    full = torch.stack([logits[index][at, :vocabulary] for index, at, _ in found])
    half = full.half()
    drawn = choose(half.float(), [_one_of(parts[index], at) for index, at, _ in found], vocabulary, 0.0)
    for (index, _, token), again, whole, rounded in zip(found, drawn, full.cpu(), half.cpu(), strict=True):
        same = isinstance(again, Chosen) and again.tokens == (token,)
        rows[index] = TargetRow.of((rounded if same else whole).numpy())
    return rows


def _one_of(part: Part, at: int) -> Part:
    sampling, positions, paths = part
    return sampling, [positions[at]], None if paths is None else [paths[at]]
