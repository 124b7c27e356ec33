"""How a step's spans become forwards: which ids stand in them, and which queries look at which rows.

``WidePacking`` puts all spans into one forward of their natural size. How it attends to them is its only choice: one by
one over views of their rows, or those of a like shape together over copies, which pays where a launch costs more than
a copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from airdraft.core.types import Span
from edge_node.engine.attention import RaggedPass, Reach, View
from edge_node.engine.item_faults import depths_of
from edge_node.engine.masks import SpanMasks
from edge_node.step import Extent

Work = Sequence[tuple[Extent, Span]]

_TOGETHER_QUERIES = 32  # spans that are wider fill a call of their own
_TOGETHER_ROWS = 64


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward of the model over N positions.

    inputs  [3, N]  ids, positions, and the row of the arena that each writes
    reads   what a compact cache hands over
    heads   positions that go through the head: an index, or how many of the last
    wanted  of whom those are: index in the work and how many, in order; what the head computes past them is padding
    """

    inputs: Tensor
    ragged: RaggedPass
    heads: Tensor | int
    wanted: list[tuple[int, int]]
    reads: Tensor | None = None

    @property
    def computed(self) -> int:
        """Return N."""
        return self.inputs.shape[1]


class Packing(Protocol):
    """Turns work into forwards."""

    def forwards(self, work: Work) -> Iterable[Forward]:
        """Return forwards that together run each span once."""
        ...


@dataclass(slots=True)
class Columns:
    """The positions of a forward as they are gathered."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    wanted: list[tuple[int, int]] = field(default_factory=list)

    def add(self, index: int, extent: Extent, span: Span, begin: int, end: int) -> None:
        """Append the nodes ``begin`` to ``end`` of the span of work number ``index``."""
        at = len(self.ids)
        row = extent.first + span.start
        self.rows += range(row + begin, row + end)
        if end - begin == len(span.tokens):
            self.ids += span.tokens
            mine: Sequence[int] = span.wanted
        else:
            assert list(span.wanted) == sorted(span.wanted), f"rows {span.wanted} of a span that is cut"
            self.ids += span.tokens[begin:end]
            mine = [node for node in span.wanted if begin <= node < end]
        if span.parents is None:
            self.positions += range(span.start + begin, span.start + end)
        else:
            self.positions += [span.start + depth for depth in depths_of(span)[begin:end]]
        self.heads += [at + node - begin for node in mine]
        self.wanted.append((index, len(mine)))

    def pad(self, count: int, row: int) -> None:
        """Append ``count`` positions that write ``row`` and are nobody's."""
        self.ids += [0] * count
        self.positions += [0] * count
        self.rows += [row] * count

    def inputs(self, device: torch.device) -> Tensor:
        """Return [3, N]."""
        return torch.tensor([self.ids, self.positions, self.rows], device=device)


class WidePacking:
    """All spans in one forward, as wide as they are."""

    def __init__(
        self,
        masks: SpanMasks,
        windows: tuple[int | None, ...],
        device: torch.device,
        *,
        causal: bool,
        compact: bool,
        together: bool,
    ) -> None:
        """Pack for a model on ``device``.

        causal    the base attends causally where it gets no mask
        compact   the cache hands over the rows that a pass reads, and not its arena
        together  attend to spans of a like shape in one call
        """
        self._masks, self._windows, self._device = masks, windows, device
        self._kinds = tuple(dict.fromkeys(windows))
        self._causal, self._compact, self._together = causal, compact, together

    def forwards(self, work: Work) -> list[Forward]:
        """Return one forward."""
        columns = Columns()
        firsts = []
        for index, (extent, span) in enumerate(work):
            firsts.append(len(columns.ids))
            columns.add(index, extent, span, 0, len(span.tokens))
        bases, reads = self._bases(work)
        ragged = self._grouped(work, firsts, bases) if self._together else None
        if ragged is None:
            reaches = [
                self._apart(span, first, base) for (_, span), first, base in zip(work, firsts, bases, strict=True)
            ]
            ragged = RaggedPass(reaches, self._windows)
        return [Forward(columns.inputs(self._device), ragged, self._heads(columns), columns.wanted, reads)]

    def _bases(self, work: Work) -> tuple[list[int], Tensor | None]:
        """Return where each session's row 0 lies in what the cache hands over, and what it shall hand over."""
        if not self._compact:
            return [extent.first for extent, _ in work], None
        return compact_rows([(extent.first, span.start + len(span.tokens)) for extent, span in work], self._device)

    def _heads(self, columns: Columns) -> Tensor | int:
        """Return which positions the head computes: a number where they are the last ones."""
        heads, end = columns.heads, len(columns.ids)
        if heads and heads == list(range(end - len(heads), end)):
            return len(heads)
        return torch.tensor(heads, dtype=torch.long, device=self._device)

    def _apart(self, span: Span, first: int, base: int) -> Reach:
        count, end = len(span.tokens), span.start + len(span.tokens)
        made: Mapping[int | None, Tensor] | None = None
        views: dict[int | None, View] = {}
        for window in self._kinds:
            low = 0 if window is None else max(0, span.start + 1 - window)
            mask = None
            if not self._sees_all(span, window):
                made = made or self._masks.of(span)
                mask = made[window][..., low:] if low else made[window]
            views[window] = View((base + low, end - low), mask)
        return Reach(first, count, views)

    def _sees_all(self, span: Span, window: int | None) -> bool:
        """Say whether attention needs no mask once the rows before the window are left out."""
        count = len(span.tokens)
        if count == 1:
            return True
        return self._causal and span.start == 0 and span.parents is None and (window is None or count <= window)

    def _grouped(self, work: Work, firsts: list[int], bases: list[int]) -> RaggedPass | None:
        """Return a pass that attends to spans of a like shape together; None where there are none."""
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, (_, span) in enumerate(work):
            alike[_shape(span) or (0, index)].append(index)
        if len(alike) == len(work):
            return None
        reaches: list[Reach] = []
        order: list[int] = []
        back = [0] * sum(len(span.tokens) for _, span in work)
        for (width, rows), members in alike.items():
            if len(members) == 1:
                (index,) = members
                width = len(work[index][1].tokens)
                reaches.append(self._apart(work[index][1], len(order), bases[index]))
            else:
                views = self._shared([(work[index][1], bases[index]) for index in members], width, rows)
                reaches.append(Reach(len(order), width * len(members), views, batch=len(members)))
            for index in members:
                first, count = firsts[index], len(work[index][1].tokens)
                back[first : first + count] = range(len(order), len(order) + count)
                order += [*range(first, first + count), *[first] * (width - count)]
        indices = (torch.tensor(index, device=self._device) for index in (order, back))
        return RaggedPass(reaches, self._windows, *indices)

    def _shared(self, members: list[tuple[Span, int]], width: int, rows: int) -> dict[int | None, View]:
        """Return the views of spans padded to ``width`` queries and ``rows`` rows; the padding is rows of their own."""
        last = torch.tensor([[span.start + len(span.tokens) - 1] for span, _ in members])
        taken = torch.tensor([[base] for _, base in members]) + torch.arange(rows).minimum(last)
        taken = taken.flatten().to(self._device)
        made = [self._masks.of(span) for span, _ in members]
        return {window: View(taken, self._stacked([m[window] for m in made], width, rows)) for window in self._kinds}

    def _stacked(self, masks: list[Tensor], width: int, rows: int) -> Tensor:
        like = masks[0]
        stacked = like.new_full((len(masks), 1, width, rows), torch.finfo(like.dtype).min)
        stacked[:, :, :, 0] = 0
        for one, mask in zip(stacked, masks, strict=True):
            one[:, : mask.shape[2], : mask.shape[3]] = mask[0]
        return stacked


def compact_rows(stretches: Sequence[tuple[int, int]], device: torch.device) -> tuple[list[int], Tensor]:
    """Return where each stretch (first, count) begins once they stand side by side, and their rows."""
    ends = accumulate((count for _, count in stretches), initial=0)
    rows = [torch.arange(first, first + count) for first, count in stretches]
    return list(ends)[:-1], torch.cat(rows).to(device)


def _shape(span: Span) -> tuple[int, int] | None:
    """Return the queries and rows that a span is padded to; None where it is wide enough to stand alone."""
    count = len(span.tokens)
    if count > _TOGETHER_QUERIES:
        return None
    return 1 << (count - 1).bit_length(), -(-(span.start + count) // _TOGETHER_ROWS) * _TOGETHER_ROWS
