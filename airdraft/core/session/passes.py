"""Passes of one session: which positions a forward takes, and what its choices commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airdraft.core.acceptance import ROOT, Ending, Walk, exact_walk
from airdraft.core.paths import Node
from airdraft.core.types import Pass, Span, Work

PREFILL_POSITIONS = 512
"""Widest span of a prefill: a long prompt must not hold other sessions' passes back for long."""

PASS_NODES = 64
"""Most draft nodes in one pass; what is left over is verified by the next.

A session's cache never holds more rows than this many past the text's last position.
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a session would do in the next step: the kind of work, and how many positions it has a use for."""

    work: Work
    positions: int


def verifying_span(ids: Sequence[int], start: int, nodes: Sequence[Node], gather: tuple[int, ...]) -> Span:
    """Return the span of what the cache lacks of the committed ``ids``, from ``start`` on, then the nodes.

    The rows of the last committed token and of all nodes are wanted.
    """
    lacking = ids[start:]
    first = len(lacking)
    index_of = {node.path_hash: first + index for index, node in enumerate(nodes)}
    parents = [index_of.get(node.parent_hash, first - 1) for node in nodes]
    tokens = (*lacking, *(node.token for node in nodes))
    chain = all(parent == first + index - 1 for index, parent in enumerate(parents))
    wanted = tuple(range(first - 1, len(tokens)))
    return Span(start, tokens, None if chain else (*range(-1, first - 1), *parents), wanted=wanted, gather=gather)


def walked(done: Pass, choices: Sequence[int], ending: Ending) -> Walk:
    """Return what the target's choices, one for each wanted row, make of a verified span."""
    span, count = done.span, done.nodes
    first = len(span.tokens) - count
    children: dict[int, list[int]] = {}
    for index in range(count):
        parent = first + index - 1 if span.parents is None else span.parents[first + index]
        children.setdefault(parent - first if parent >= first else ROOT, []).append(index)
    return exact_walk(
        span.tokens[first:], children, dict(zip(range(ROOT, count), choices, strict=True)), done.base, ending
    )
