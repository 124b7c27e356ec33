"""A text that is known in advance, with a drafter and a target that follow it: what a simulation feeds the cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airdraft.core.types import Evidence, Span

MISSED = (1 << 32) - 1
"""What the drafter writes where it misses, and after that: an id that no text holds."""

ELSEWHERE = (1 << 32) - 2
"""What the target chooses off the text, where nothing is committed: neither in a text nor ever drafted."""

WORDING = (1 << 32) - 3
"""What the drafter writes where its token is another wording of the target's."""

HARMLESS, HARMFUL = -1.0, 1.0
"""What stands for a head's first layer in the evidence: whoever judges reads a position's class there."""


@dataclass(frozen=True, slots=True)
class MatchRun:
    """One text and where the drafter would have written it: all that schedules, but for costs, differ in.

    ids         [N]  the target's own answer, the end of the text included
    matched     [N]  whether the drafter, given the prompt and all ids before, drafts this one
    prompt      ids that come before; at least one
    stop_ids    ids that end a text; none but the last of ``ids`` is one
    max_tokens  what the device asks for; None: N, and the text ends there
    harmless    [N]  whether what the drafter writes instead, where it does not match, is as good; (): nowhere

    Whichever of two wordings is taken, the text goes on with the same ids and the same matches after them. That is an
    approximation: a model goes on from its own wording otherwise, and with other matches.
    """

    ids: tuple[int, ...]
    matched: tuple[bool, ...]
    prompt: tuple[int, ...] = (0,)
    stop_ids: tuple[int, ...] = ()
    max_tokens: int | None = None
    harmless: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if self.harmless and len(self.harmless) != len(self.ids):
            raise ValueError("a run says of each id whether another wording of it is harmless, or of none")
        if len(self.ids) != len(self.matched) or not self.ids or not self.prompt:
            raise ValueError("a run has a prompt, at least one id, and for each id whether it was matched")
        if max(*self.ids, *self.prompt) >= WORDING:
            raise ValueError(f"ids are below {WORDING}")
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

    @property
    def drafts(self) -> tuple[int, ...]:
        """Return what the drafter writes at each position of the answer, all before it standing."""
        harmless = self.harmless or (False,) * len(self.ids)
        each = zip(self.ids, self.matched, harmless, strict=True)
        return tuple([id if right else WORDING if as_good else MISSED for id, right, as_good in each])

    def stands(self, ids: Sequence[int], start: int = 0) -> bool:
        """Say whether ids are prompt and answer from ``start`` on, as far as they go, in one wording or the other."""
        text, first = self.text, len(self.prompt)
        if start + len(ids) > len(text):
            return False
        return all(
            mine == theirs or (mine == WORDING and at >= first and bool(self.harmless) and self.harmless[at - first])
            for at, (mine, theirs) in enumerate(zip(ids, text[start:], strict=False), start)
        )


class MatchDrafter:
    """Drafts as a run of matches says; off the text it misses always."""

    def __init__(self, run: MatchRun) -> None:
        self._run, self._text = run, run.text
        self._drafts = run.drafts
        self._first = len(run.prompt)
        self._stood: tuple[int, ...] = ()  # the last path that stood

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return ``count`` tokens after ``path``; what they cost and when they are void is the simulation's to say."""
        at = len(path) - self._first
        if at < 0 or not self._stands(tuple(path)):
            return [MISSED] * count
        tokens = list(self._drafts[at : at + count])
        if MISSED in tokens:
            del tokens[tokens.index(MISSED) :]
        return tokens + [MISSED] * (count - len(tokens))

    def _stands(self, path: tuple[int, ...]) -> bool:
        """Say whether a path stands; all but what is new of it was mostly looked at before."""
        if path == self._text[: len(path)]:
            return True
        known = len(self._stood) if path[: len(self._stood)] == self._stood else 0
        if not self._run.stands(path[known:], known):
            return False
        self._stood = path
        return True

    def learn(self, ids: Sequence[int]) -> None:
        """Do nothing: the path says it all."""


class TextRows:
    """The target of one known text: a cache of ids in place of keys and values, read row by row.

    A core that miscounts its rows gets wrong choices here, as it would on a real engine.
    """

    def __init__(self, run: MatchRun) -> None:
        self._text = (*run.text, ELSEWHERE)
        as_good = (*(False for _ in run.prompt), *(run.harmless or (False,) * len(run.ids)), False)
        self._as_good = as_good  # another wording stands here
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
            depths.append(length + 1 if length >= 0 and self._stands(token, length) else -1)
        self._rows += span.tokens
        return tuple(self._text[depths[row]] if depths[row] >= 0 else ELSEWHERE for row in span.wanted)

    def evidence(self, span: Span, nodes: int, choices: Sequence[int]) -> tuple[Evidence, ...]:
        """Return what is told of the draft ``nodes`` of a span that are not the choice after their parent.

        choices  after each wanted row, as ``extend`` gives them
        """
        told: list[Evidence] = []
        choice_after, first = dict(zip(span.wanted, choices, strict=True)), len(span.tokens) - nodes
        for node in range(nodes):
            parent = first + node - 1 if span.parents is None else span.parents[first + node]
            token, choice = span.tokens[first + node], choice_after[parent]
            if token != choice:
                right = token == WORDING and choice != ELSEWHERE
                told.append(Evidence(node, -1.0, -1.0, 1.0, -1.0, 1.0, -1.0, partial=(HARMLESS if right else HARMFUL,)))
        return tuple(told)

    def _stands(self, token: int, length: int) -> bool:
        return token == self._text[length] or (token == WORDING and self._as_good[length])

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
        while true < len(rows) and true < len(text) and self._stands(rows[true], true):
            true += 1
        self._true = true
