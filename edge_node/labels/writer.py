"""Many texts of one model side by side: what the search for labels and the rehearsal of a head are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.types import Sampling, Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.sampling import choose_batch
from edge_node.engine.target import Target
from edge_node.step import Extent, Fill

GREEDY = Sampling()


@dataclass(slots=True)
class Line:
    """One text: rows of the engine, and the ids that they hold."""

    extent: Extent
    held: list[int] = field(default_factory=list)


class Reading(NamedTuple):
    """A text to read, and from which position on the model's rows are wanted; at least the last one is."""

    line: Line
    ids: Sequence[int]
    wanted_from: int


class Rows(NamedTuple):
    """What a model makes of the wanted positions."""

    logits: Tensor  # [rows, V] float32, cut to the tokenizer's size
    hidden: Tensor  # [rows, d] float32, what the LM head reads there


class Ending(NamedTuple):
    """A text to be finished, and how its tokens are chosen."""

    line: Line
    ids: Sequence[int]
    sampling: Sampling = GREEDY


class Writer:
    """One model and places for texts. A line may be asked for any text: only what it does not hold yet is computed."""

    def __init__(self, target: Target, places: int, room: int) -> None:
        """Make ``places`` lines of ``room`` tokens each; less where the model's context is shorter."""
        self.target, self.vocabulary = target, target.vocabulary
        self.room = min(room, target.context_tokens)
        rows = -(-self.room // 64) * 64
        self._engine = TargetEngine(target, places * rows)
        self._free = [Extent(at * rows, rows) for at in range(places)]

    def embed(self, ids: Tensor) -> Tensor:
        """Return the model's input embeddings [n, d] of ids [n]."""
        embeddings: Any = self.target.model.get_input_embeddings()
        rows: Tensor = embeddings(ids.to(self.target.device))
        return rows

    def new(self, like: Line | None = None, length: int = 0) -> Line:
        """Return a free line; with ``like`` one that holds that line's first ``length`` ids, as far as it has them."""
        line = Line(self._free.pop())
        if like is not None and (length := min(length, len(like.held))):
            line.held = like.held[:length]
            self._engine.fill(Fill(line.extent.first, length, like.extent.first))
        return line

    def free(self, lines: Sequence[Line]) -> None:
        """Take lines back."""
        self._free += [line.extent for line in lines]

    def read(self, readings: Sequence[Reading]) -> list[Rows]:
        """Return the rows of each reading, from its ``wanted_from`` to its end; all in one pass."""
        work = [(reading.line.extent, _span(reading)) for reading in readings]
        try:
            logits, states = self._engine.extend_with_states(work)
        except RuntimeError as error:
            raise CheckpointRefused(f"{self.target.name} shows no states to train a head on: {error}") from None
        return [Rows(rows[:, : self.vocabulary], hidden) for rows, hidden in zip(logits, states, strict=True)]

    def finish(self, endings: Sequence[Ending], most: Sequence[int]) -> list[list[int]]:
        """Return each text with what the model writes after it, to a stop id (kept) or ``most`` tokens in all."""
        texts = [list(ending.ids) for ending in endings]
        going = [at for at, text in enumerate(texts) if len(text) < most[at]]
        while going:
            rows = self.read([Reading(endings[at].line, texts[at], len(texts[at]) - 1) for at in going])
            tokens = self.choices(rows, [endings[at].sampling for at in going], [texts[at] for at in going])
            for at, token in zip(going, tokens, strict=True):
                texts[at].append(token)
            stops = self.target.stop_ids
            going = [at for at in going if texts[at][-1] not in stops and len(texts[at]) < most[at]]
        return texts

    def choices(self, rows: Sequence[Rows], samplings: Sequence[Sampling], texts: Sequence[Sequence[int]]) -> list[int]:
        """Return what is chosen after each text, whose last row is given."""
        parts = [(sampling, [len(text)], [text]) for sampling, text in zip(samplings, texts, strict=True)]
        chosen = choose_batch(torch.cat([row.logits[-1:] for row in rows]), parts, self.vocabulary, 0.0)
        tokens = []
        for one in chosen:
            if isinstance(one, ValueError):
                raise one
            tokens.append(one.tokens[0])
        return tokens


def _span(reading: Reading) -> Span:
    """Return what the line lacks of the text, and all that is wanted; the line then holds the text."""
    line, ids, wanted_from = reading
    shared = min(len(line.held), wanted_from)
    if line.held[:shared] != list(ids[:shared]):
        shared = next(at for at in range(shared) if line.held[at] != ids[at])
    line.held = list(ids)
    assert 0 <= wanted_from < len(ids) <= line.extent.rows, f"rows {wanted_from} on of {len(ids)} ids"
    return Span(shared, tuple(ids[shared:]), wanted=tuple(range(wanted_from - shared, len(ids) - shared)))
