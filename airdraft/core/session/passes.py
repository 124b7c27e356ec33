"""Passes of one session: which positions a forward takes, and what its choices commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from airdraft.core.acceptance import ROOT, Ending, Walk, exact_walk, meaning_walk
from airdraft.core.paths import Node, next_hash
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


def verifying_span(lacking: Sequence[int], start: int, nodes: Sequence[Node], gather: tuple[int, ...]) -> Span:
    """Return the span of what the cache lacks of the text, ``lacking``, from ``start`` on, then the nodes.

    The rows of the text's last token and of all nodes are wanted.
    """
    first = len(lacking)
    index_of = {node.path_hash: first + index for index, node in enumerate(nodes)}
    parents = [index_of.get(node.parent_hash, first - 1) for node in nodes]
    tokens = (*lacking, *(node.token for node in nodes))
    chain = all(parent == first + index - 1 for index, parent in enumerate(parents))
    wanted = tuple(range(first - 1, len(tokens)))
    return Span(start, tokens, None if chain else (*range(-1, first - 1), *parents), wanted=wanted, gather=gather)


@dataclass(frozen=True)
class Verified:
    """A pass's draft nodes and the target's choices; a node is its index, ``ROOT`` the text's end before the pass.

    theirs  the first so many nodes are the device's, the others the edge's own
    """

    base: int
    base_hash: bytes
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    choices: Mapping[int, int]
    theirs: int

    @classmethod
    def of(cls, done: Pass, choices: Sequence[int]) -> Verified:
        """Take a pass and the choice after each of its wanted rows."""
        span, count = done.span, done.nodes
        first = len(span.tokens) - count
        above = range(first - 1, len(span.tokens) - 1) if span.parents is None else span.parents[first:]
        parents = tuple(max(ROOT, parent - first) for parent in above)
        by_node = dict(zip(range(ROOT, count), choices, strict=True))
        return cls(done.base, done.base_hash, span.tokens[first:], parents, by_node, count - done.own)

    @cached_property
    def children(self) -> dict[int, list[int]]:
        """Return the children of each node that has any, in order."""
        children: dict[int, list[int]] = {}
        for index, parent in enumerate(self.parents):
            children.setdefault(parent, []).append(index)
        return children

    @cached_property
    def path_hashes(self) -> list[bytes]:
        """Return the path hash of each node."""
        hashes: list[bytes] = []
        for token, parent in zip(self.tokens, self.parents, strict=True):
            hashes.append(next_hash(self.base_hash if parent == ROOT else hashes[parent], token))
        return hashes

    @cached_property
    def device_children(self) -> dict[int, list[int]]:
        """Return ``children`` without the edge's own nodes."""
        offered = {parent: [one for one in all_of if one < self.theirs] for parent, all_of in self.children.items()}
        return {parent: theirs for parent, theirs in offered.items() if theirs}

    def chosen(self, node: int, *, alone: bool = False) -> int | None:
        """Return the child of ``node`` that is the target's choice, None where there is none.

        ``alone`` as in a walk.
        """
        children = self.device_children if alone else self.children
        return next((one for one in children.get(node, ()) if self.tokens[one] == self.choices[node]), None)

    def confirmed(self, node: int) -> int:
        """Return how many nodes under this one, one after the other, are the target's choices."""
        count = 0
        below = self.chosen(node)
        while below is not None:
            count, below = count + 1, self.chosen(below)
        return count

    def walk(self, ending: Ending, harmless: Callable[[int], bool] | None = None, *, alone: bool = False) -> Walk:
        """Return what the pass commits; ``harmless`` as in ``meaning_walk``, ``alone``: by the device's nodes alone."""
        children = self.device_children if alone else self.children
        if harmless is None:
            return exact_walk(self.tokens, children, self.choices, self.base, ending)
        return meaning_walk(self.tokens, children, self.choices, self.base, ending, harmless)


def walked(done: Pass, choices: Sequence[int], ending: Ending) -> Walk:
    """Return what the target's choices, one for each wanted row, make of a verified span."""
    return Verified.of(done, choices).walk(ending)
