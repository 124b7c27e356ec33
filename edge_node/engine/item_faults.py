"""What can be wrong with one session's part of a step, seen before anything runs.

A wrong id costs more than its own session once it is on a GPU: an index out of range there ends the whole process.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from airdraft.core.types import Span
from edge_node.step import Item


def fault_of(item: Item, vocabulary: int, rows: int, context_tokens: int) -> str:
    """Say in one line what is wrong with an item; nothing where it may run.

    vocabulary      ids at or above it are none
    rows            of the whole pool
    context_tokens  positions that the model has
    """
    return (
        _extent_fault(item, rows)
        or _token_fault(item.span, vocabulary)
        or _tree_fault(item.span)
        or _gather_fault(item)
        or _length_fault(item, context_tokens)
        or _judged_fault(item)
    )


def overlapping(items: Sequence[Item]) -> set[int]:
    """Return the indices of items whose rows are another item's as well: neither may run."""
    found: set[int] = set()
    end, owner = 0, -1  # the furthest row so far, and whose it is
    for index in sorted(range(len(items)), key=lambda index: items[index].extent.first):
        extent = items[index].extent
        if extent.first < end:
            found |= {owner, index}
        if extent.first + extent.rows > end:
            end, owner = extent.first + extent.rows, index
    return found


def depths_of(span: Span) -> Sequence[int]:
    """Return how many nodes of the span lie above each of its nodes."""
    if span.parents is None:
        return range(len(span.tokens))
    depths: list[int] = []
    for parent in span.parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def _extent_fault(item: Item, rows: int) -> str:
    extent, span = item.extent, item.span
    if extent.first < 0 or extent.first + extent.rows > rows:
        return f"rows {extent.first} to {extent.first + extent.rows} of a pool of {rows}"
    if span.start < 0 or span.start + len(span.tokens) > extent.rows:
        return f"{len(span.tokens)} tokens from {span.start} on in an extent of {extent.rows} rows"
    return ""


def _token_fault(span: Span, vocabulary: int) -> str:
    if not span.tokens:
        return "a span without tokens"
    if min(span.tokens) < 0 or max(span.tokens) >= vocabulary:
        return f"an id outside the vocabulary of {vocabulary}"
    if span.wanted and not (min(span.wanted) >= 0 and max(span.wanted) < len(span.tokens)):
        return f"a wanted row outside the {len(span.tokens)} of the span"
    return ""


def _tree_fault(span: Span) -> str:
    if span.parents is None:
        return ""
    if len(span.parents) != len(span.tokens):
        return f"{len(span.parents)} parents for {len(span.tokens)} tokens"
    if any(not -1 <= parent < node for node, parent in enumerate(span.parents)):
        return "a node whose parent does not come before it"
    return ""


def _gather_fault(item: Item) -> str:
    """Rows only move towards the beginning, in their order: so they can be moved one after another."""
    gather, first = item.span.gather, item.span.start - len(item.span.gather)
    if not gather:
        return ""
    ascending = all(before < after for before, after in pairwise(gather))
    if first < 0 or not ascending or gather[0] < first or gather[-1] >= item.extent.rows:
        return f"rows {gather[0]} to {gather[-1]} cannot become those from {first} on"
    return ""


def _length_fault(item: Item, context_tokens: int) -> str:
    deepest = item.span.start + max(depths_of(item.span))
    return f"position {deepest} in a context of {context_tokens}" if deepest >= context_tokens else ""


def _judged_fault(item: Item) -> str:
    judged, count = item.judged, len(item.span.tokens)
    if judged is None or 0 <= judged.own <= judged.nodes <= count:
        return ""
    return f"{judged.nodes} drafts, {judged.own} of them the edge's own, in a span of {count} tokens"
