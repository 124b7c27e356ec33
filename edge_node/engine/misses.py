"""Drafts that the target would not have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_node.step import Item


@dataclass(frozen=True, slots=True)
class Miss:
    """A draft that is not the target's choice after its parent, in an item of a step."""

    item: int
    node: int  # among the item's drafts
    parent: int  # row of the item's logits after the parent
    own: int  # row after the node itself
    drafted: int
    choice: int  # the target's, in its place


def misses_of(number: int, item: Item, choices: Sequence[int]) -> list[Miss]:
    """Return the drafts of item ``number`` to tell evidence of: both its parent's row and its own are wanted."""
    span, judged = item.span, item.judged
    if judged is None:
        return []
    row_of = {index: row for row, index in enumerate(span.wanted)}
    first = len(span.tokens) - judged.nodes
    found: list[Miss] = []
    for index in range(first, len(span.tokens) - judged.own):
        parent = row_of.get(index - 1 if span.parents is None else span.parents[index])
        own = row_of.get(index)
        if parent is not None and own is not None and choices[parent] != span.tokens[index]:
            found.append(Miss(number, index - first, parent, own, span.tokens[index], choices[parent]))
    return found
