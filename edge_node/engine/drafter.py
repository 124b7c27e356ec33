"""A drafter at the edge: a small model beside the target, or the n-grams of the text itself.

It writes for devices that idle, with the target's own noise; the next pass verifies it like any draft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from airdraft.checkpoint import CheckpointRefused, Role
from airdraft.core.drafting import Drafter, NgramDrafter
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import Sampling, Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target
from edge_node.engine.runner import EdgeDrafter
from edge_node.engine.sampling import choose_batch
from edge_node.engine.target import Target
from edge_node.step import DraftItem, Extent

NewDrafter = Callable[[Sampling], Drafter]
"""Makes the drafter of one session."""


@dataclass(slots=True)
class _Told:
    """A session's own drafter, and the path that it was told."""

    drafter: Drafter
    path: tuple[int, ...] = ()


class SessionDrafters:
    """Drafters that each write for one session, one after the other."""

    def __init__(self, new: NewDrafter) -> None:
        """Make each session's drafter by ``new``, when it is first asked for."""
        self._new = new
        self._sessions: dict[int, _Told] = {}

    def draft(self, items: Sequence[DraftItem]) -> list[tuple[int, ...]]:
        """Return what each session's drafter writes."""
        return [self._draft(item) for item in items]

    def forget(self, sessions: Iterable[int]) -> None:
        """Drop these sessions' drafters."""
        for session in sessions:
            self._sessions.pop(session, None)

    def _draft(self, item: DraftItem) -> tuple[int, ...]:
        told = self._sessions.get(item.session)
        if told is None or told.path != item.ids[: len(told.path)]:
            told = self._sessions[item.session] = _Told(self._new(item.sampling))
        told.drafter.learn(item.ids[len(told.path) :])
        told.path = item.ids
        return tuple(told.drafter.propose(item.ids, item.count, lambda: False))


@dataclass(slots=True)
class _Line:
    """One session in a batch of drafts."""

    extent: Extent
    path: tuple[int, ...] = ()
    held: list[int] = field(default_factory=list)  # ids whose rows the engine holds, drafted ones among them
    written: list[int] = field(default_factory=list)

    def span(self) -> Span:
        """Return what the engine lacks of the path and of what is written; the last row is wanted."""
        whole = [*self.path, *self.written]
        shared = min(len(self.held), len(whole) - 1)
        if self.held[:shared] != whole[:shared]:
            shared = next(index for index in range(shared) if self.held[index] != whole[index])
        self.held = whole
        return Span(shared, tuple(whole[shared:]), wanted=(len(whole) - 1 - shared,))


class BatchDrafter:
    """A small model that writes for many sessions side by side: a pass for each drafted token of all of them."""

    def __init__(self, engine: TargetEngine, vocabulary: int) -> None:
        """Draft with an engine whose pool is this drafter's own: places of a whole context, as many as fit."""
        self._engine, self._vocabulary = engine, vocabulary
        rows = -(-engine.context_tokens // 64) * 64
        self._free = [Extent(first, rows) for first in range(0, engine.rows - rows + 1, rows)]
        self._places = len(self._free)
        assert self._places, f"{engine.rows} rows hold no text of {engine.context_tokens} tokens"
        self._lines: dict[int, _Line] = {}  # the least recently asked first

    def draft(self, items: Sequence[DraftItem]) -> list[tuple[int, ...]]:
        """Return what the model writes for each session; fewer tokens at the end of its context."""
        written: list[tuple[int, ...]] = []
        for first in range(0, len(items), self._places):
            written += self._side_by_side(items[first : first + self._places])
        return written

    def forget(self, sessions: Iterable[int]) -> None:
        """Give these sessions' places to others."""
        for session in sessions:
            if (line := self._lines.pop(session, None)) is not None:
                self._free.append(line.extent)

    def _side_by_side(self, items: Sequence[DraftItem]) -> list[tuple[int, ...]]:
        lines = [self._told(item) for item in items]
        for number in range(max(item.count for item in items)):
            self._write([(line, item) for line, item in zip(lines, items, strict=True) if number < item.count])
        return [tuple(line.written) for line in lines]

    def _told(self, item: DraftItem) -> _Line:
        line = self._lines.pop(item.session, None) or _Line(self._place())
        self._lines[item.session] = line
        line.path, line.written = item.ids, []
        return line

    def _place(self) -> Extent:
        if not self._free:
            self.forget([next(iter(self._lines))])
        return self._free.pop()

    def _write(self, wanted: Sequence[tuple[_Line, DraftItem]]) -> None:
        room = self._engine.context_tokens
        work = [(line, item) for line, item in wanted if len(line.path) + len(line.written) < room]
        if not work:
            return
        logits = self._engine.extend([(line.extent, line.span()) for line, _ in work])
        for (line, item), row in zip(work, logits, strict=True):
            whole = [*line.path, *line.written]
            (chosen,) = choose_batch(row, [(item.sampling, [len(whole)], [whole])], self._vocabulary, 0.0)
            if isinstance(chosen, ValueError):
                raise chosen
            line.written.append(chosen.tokens[0])


class EngineDrafter:
    """One session's drafter on an engine of its own."""

    def __init__(self, engine: TargetEngine, vocabulary: int, sampling: Sampling) -> None:
        self._batch = BatchDrafter(engine, vocabulary)
        self._sampling = sampling

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return up to ``count`` tokens after ``path``; fewer at the end of the model's context or once cancelled."""
        written: list[int] = []
        while len(written) < count and not cancelled():
            (tokens,) = self._batch.draft([DraftItem(0, self._sampling, (*path, *written), 1)])
            if not tokens:
                break
            written += tokens
        return written

    def learn(self, ids: Sequence[int]) -> None:
        """Do nothing: what was committed comes back in the next path."""


def new_drafter(name: str, target: Target, *, device: str, dtype: str) -> NewDrafter:
    """Return what makes a drafter for each session alone; otherwise as ``load_drafter``."""
    if name == "ngram":
        return lambda sampling: NgramDrafter()
    small = _load_small(name, target, device=device, dtype=dtype)
    rows = -(-small.context_tokens // 64) * 64
    return lambda sampling: EngineDrafter(TargetEngine(small, rows), target.vocabulary, sampling)


def load_drafter(
    name: str, target: Target, *, device: str, dtype: str, sessions: int = 64, manifest: str | None = None
) -> EdgeDrafter:
    """Return a drafter for many sessions: ``ngram``, ``demo``, a folder or a hub id.

    A model has places for ``sessions``; beyond them the one that was asked the longest ago loses its rows. Where there
    is the text of a ``manifest``, nothing else of it is read.

    Raises CheckpointRefused where the model cannot be loaded or has another tokenizer than the target.
    """
    if name == "ngram":
        return SessionDrafters(new_drafter(name, target, device=device, dtype=dtype))
    small = _load_small(name, target, device=device, dtype=dtype, manifest=manifest)
    rows = -(-small.context_tokens // 64) * 64
    return BatchDrafter(TargetEngine(small, sessions * rows), target.vocabulary)


def _load_small(name: str, target: Target, *, device: str, dtype: str, manifest: str | None = None) -> Target:
    room = target.context_tokens
    small = load_target(name, device=device, dtype=dtype, max_context=room, role=Role.DRAFTER, manifest=manifest)
    if tokenizer_digest(small.tokenizer_json) != tokenizer_digest(target.tokenizer_json):
        raise CheckpointRefused(f"{name} and {target.name} have different tokenizers; choose a drafter of its family")
    return small
