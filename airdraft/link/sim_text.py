"""A text that is known in advance, with a drafter and a target that follow it: what a simulation feeds the cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airdraft.core.types import Span

MISSED = (1 << 32) - 1
"""What the drafter writes where it misses, and after that: an id that no text holds."""

ELSEWHERE = (1 << 32) - 2
"""What the target chooses off the text, where nothing is committed: neither in a text nor ever drafted."""


@dataclass(frozen=True, slots=True)
class MatchRun:
    """One text and where the drafter would have written it: all that schedules, but for costs, differ in.

    ids         [N]  the target's own answer, the end of the text included
    matched     [N]  whether the drafter, given the prompt and all ids before, drafts this one
    prompt      ids that come before; at least one
    stop_ids    ids that end a text; none but the last of ``ids`` is one
    max_tokens  what the device asks for; None: N, and the text ends there
    """

    ids: tuple[int, ...]
    matched: tuple[bool, ...]
    prompt: tuple[int, ...] = (0,)
    stop_ids: tuple[int, ...] = ()
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.matched) or not self.ids or not self.prompt:
            raise ValueError("a run has a prompt, at least one id, and for each id whether it was matched")
        if max(*self.ids, *self.prompt) >= ELSEWHERE:
            raise ValueError(f"ids are below {ELSEWHERE}")
        if set(self.stop_ids) & set(self.ids[:-1]):
            raise ValueError("only the last id of a text may end it")
        if len(self.ids) > self.most or (len(self.ids) < self.most and self.ids[-1] not in self.stop_ids):
            raise ValueError("a text ends with a stop id or with the most tokens asked for")

    @property
    def most(self) -> int:
        """Return the most tokens that the device asks for."""
        return len(self.ids) if self.max_tokens is None else self.max_tokens

    @property
    def text(self) -> tuple[int, ...]:
        """Return prompt and answer."""
        return (*self.prompt, *self.ids)


class MatchDrafter:
    """Drafts as a run of matches says; off the text it misses always."""

    def __init__(self, run: MatchRun) -> None:
        self._text = run.text
        first = len(run.prompt)
        self._drafts = [id if right else MISSED for id, right in zip(run.ids, run.matched, strict=True)]
        self._first = first

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return ``count`` tokens after ``path``; what they cost and when they are void is the simulation's to say."""
        at = len(path) - self._first
        if at < 0 or tuple(path) != self._text[: len(path)]:
            return [MISSED] * count
        tokens = self._drafts[at : at + count]
        if MISSED in tokens:
            del tokens[tokens.index(MISSED) :]
        return tokens + [MISSED] * (count - len(tokens))

    def learn(self, ids: Sequence[int]) -> None:
        """Do nothing: the path says it all."""


class TextRows:
    """The target of one known text: a cache of ids in place of keys and values, read row by row.

    A core that miscounts its rows gets wrong choices here, as it would on a real engine.
    """

    def __init__(self, run: MatchRun) -> None:
        self._text = (*run.text, ELSEWHERE)
        self._rows: list[int] = []
        self._true = 0  # so many rows from the first on are the text's

    def extend(self, span: Span) -> tuple[int, ...]:
        """Run one span; return the choice after each wanted row. Raises IndexError on missing rows."""
        self._cut(span)
        parents = range(-1, len(span.tokens) - 1) if span.parents is None else span.parents
        depths: list[int] = []  # of each token: the length of its path where that is the text's, else 0
        start = span.start if self._true == span.start else -1
        for token, parent in zip(span.tokens, parents, strict=True):
            length = start if parent < 0 else depths[parent]
            depths.append(length + 1 if length >= 0 and token == self._text[length] else -1)
        self._rows += span.tokens
        return tuple(self._text[depths[row]] if depths[row] >= 0 else ELSEWHERE for row in span.wanted)

    def _cut(self, span: Span) -> None:
        """Roll back to where the span starts, its gather done, and see how far the rows are the text's."""
        rows, text = self._rows, self._text
        first = span.start - len(span.gather)
        if span.gather:
            rows[first:] = [rows[row] for row in span.gather]
        if span.start > len(rows):
            raise IndexError(f"a span starts at {span.start}, the cache holds {len(rows)} rows")
        del rows[span.start :]
        true = min(self._true, first)
        while true < len(rows) and rows[true] == text[true]:
            true += 1
        self._true = true
