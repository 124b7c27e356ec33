"""Asks the target to look at drafts again, away from their session.

A copy of the session's rows stands in rows that no session owns. After them the draft is written, then a turn of the
chat template that asks for it once more, then the draft again: what the target would write in its place now, having
read what it is about to judge, is the second opinion. One pass answers for all sessions that fit.

Source: Think Before You Accept, Wang et al. 2025, arXiv 2505.18629.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from airdraft.core.types import Span
from edge_node.engine.misses import Miss
from edge_node.step import Extent, Fill, Item

GRAIN = 64
"""Extents are multiples of so many rows."""


class Engine(Protocol):
    """What computes the second opinion: ``TargetEngine``."""

    @property
    def context_tokens(self) -> int:
        """Return how many positions a text may have."""
        ...

    def extend(self, work: Sequence[tuple[Extent, Span]]) -> list[Tensor]:
        """Run all spans in one pass; return the float32 logits [len(wanted), V] of each one's wanted rows."""
        ...

    def fill(self, fill: Fill) -> None:
        """Copy rows."""
        ...


@dataclass(frozen=True, slots=True)
class _Question:
    """One session's draft to look at again; ``row_of`` has the row of the answer at each node of the line."""

    source: int  # the session's first row
    span: Span
    row_of: Mapping[int, int]
    misses: list[Miss]

    @property
    def rows(self) -> int:
        """Return how many rows it takes."""
        return -(-(self.span.start + len(self.span.tokens)) // GRAIN) * GRAIN


class Reflection:
    """Second opinions of the target."""

    def __init__(self, engine: Engine, scratch: Extent, asking: Sequence[int]) -> None:
        """Ask by the ids of ``edge_node.reflective.asking_ids``, in rows of the engine that are nobody's."""
        self._engine, self._scratch, self._asking = engine, scratch, tuple(asking)

    def reflected(self, items: Sequence[Item], misses: Sequence[Miss]) -> dict[Miss, float]:
        """Return log p'(drafted) - log p'(choice) of misses of items that ask for it, p' the second opinion.

        Of those on a draft's first line, the first child each time, as far as context and scratch rows go. The items'
        rows must hold the pass that missed them.
        """
        found: dict[Miss, float] = {}
        for questions in self._together(self._questions(items, misses)):
            work, first = [], self._scratch.first
            for question in questions:
                self._engine.fill(Fill(first, question.span.start, source=question.source))
                work.append((Extent(first, question.rows), question.span))
                first += question.rows
            for question, logits in zip(questions, self._engine.extend(work), strict=True):
                asked = question.misses
                rows = [question.row_of[miss.node] for miss in asked]
                ratio = logits[rows, [miss.drafted for miss in asked]] - logits[rows, [miss.choice for miss in asked]]
                found |= dict(zip(asked, ratio.tolist(), strict=True))
        return found

    def _questions(self, items: Sequence[Item], misses: Sequence[Miss]) -> Iterator[_Question]:
        of: dict[int, list[Miss]] = defaultdict(list)
        for miss in misses:
            of[miss.item].append(miss)
        for number, own in of.items():
            question = self._question(items[number], own)
            if question is not None:
                yield question

    def _question(self, item: Item, misses: Sequence[Miss]) -> _Question | None:
        span, judged = item.span, item.judged
        if judged is None or not judged.reflect:
            return None
        first = len(span.tokens) - judged.nodes
        line = _first_line(span, first, len(span.tokens) - judged.own)
        asked = [miss for miss in misses if miss.node + first in line]
        held, count = span.start + first, len(line)
        draft = [span.tokens[index] for index in line]
        tokens = (*draft, *self._asking, *draft)
        if not asked or held == 0 or held + len(tokens) > self._engine.context_tokens:
            return None
        answers = count + len(self._asking) - 1  # the row that the first token of the second draft follows
        wanted = tuple(range(answers, answers + count))
        row_of = {index - first: row for row, index in enumerate(line)}
        return _Question(item.extent.first, Span(held, tokens, wanted=wanted), row_of, asked)

    def _together(self, questions: Iterator[_Question]) -> Iterator[list[_Question]]:
        """Return questions in groups that fit the scratch rows."""
        group: list[_Question] = []
        room = self._scratch.rows
        for question in questions:
            if question.rows > self._scratch.rows:
                continue
            if question.rows > room:
                yield group
                group, room = [], self._scratch.rows
            group.append(question)
            room -= question.rows
        if group:
            yield group


def _first_line(span: Span, first: int, end: int) -> list[int]:
    """Return the drafts of a span from ``first`` to before ``end`` that a walk along first children meets."""
    if span.parents is None:
        return list(range(first, end))
    line: list[int] = []
    node = first - 1
    for index in range(first, end):
        if span.parents[index] == node:
            line.append(index)
            node = index
    return line
