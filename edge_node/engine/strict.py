"""The profile ``strict``: a position's logits have the same bits whatever it is computed beside.

A product of matrices adds in an order that depends on its shape, and never on what stands in the other rows. So every
forward has a number of rows from a short ladder, shown at load to agree bit for bit; attention reads whole blocks of
rows up to the one with the query's position, for groups of queries whose sizes agree as well; and a branch of a tree is
attended as the chain that it would be: rows at their positions, siblings out of sight.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import torch
import transformers
from torch import Tensor

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.types import Span
from edge_node.engine.attention import RaggedPass, Reach, View
from edge_node.engine.masks import SpanMasks
from edge_node.engine.packed_linear import PackedLinear
from edge_node.engine.packing import Columns, Forward, Work, compact_rows
from edge_node.engine.target import Target
from edge_node.step import Extent, Fill

BLOCK_ROWS = 64
"""Attention of a position reads a multiple of so many rows, which an extent must have."""

Piece = tuple[int, int, int]
"""Index in the work, and the nodes from and to."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The sizes that may be computed, ascending: rows of a forward, and queries of one call of attention."""

    rungs: tuple[int, ...]
    groups: tuple[int, ...]


CPU_LADDERS = (Ladder((1, 2, 4, 8, 16, 32, 64), (4, 8, 16, 32)), Ladder((8, 16, 32, 64), (8,)))
GPU_LADDERS = (Ladder((8, 16, 32, 64, 128, 256, 512), (8,)),)
"""What is tried, in this order. A CPU's rungs end where wider forwards are no faster by the row."""


class StrictPacking:
    """Forwards of a few fixed sizes."""

    def __init__(
        self,
        masks: SpanMasks,
        windows: tuple[int | None, ...],
        device: torch.device,
        *,
        ladder: Ladder,
        compact: bool,
        scratch: int,
    ) -> None:
        """Pack for a model on ``device``; padding writes row ``scratch``."""
        self._masks, self._windows, self._device = masks, windows, device
        self._kinds = tuple(dict.fromkeys(windows))
        self._ladder, self._compact, self._scratch = ladder, compact, scratch

    def forwards(self, work: Work) -> Iterator[Forward]:
        """Return as many forwards as the greatest rung asks for; a span's nodes stay in their order."""
        for extent, _ in work:
            assert extent.rows % BLOCK_ROWS == 0, f"{extent.rows} rows are no multiple of {BLOCK_ROWS}"
        for pieces in _cut(work, self._ladder.rungs[-1]):
            yield self._forward(work, pieces)

    def _forward(self, work: Work, pieces: list[Piece]) -> Forward:
        columns, firsts = Columns(), []
        for index, begin, end in pieces:
            firsts.append(len(columns.ids))
            columns.add(index, *work[index], begin, end)
        columns.pad(self._rung(len(columns.ids)) - len(columns.ids), self._scratch)
        bases, reads = [work[index][0].first for index, _, _ in pieces], None
        if self._compact:
            extents = [work[index][0] for index, _, _ in pieces]
            bases, reads = compact_rows([(extent.first, extent.rows) for extent in extents], self._device)
        ragged = self._ragged(work, pieces, firsts, bases, len(columns.ids))
        return Forward(columns.inputs(self._device), ragged, self._heads(columns), columns.wanted, reads)

    def _rung(self, count: int) -> int:
        return next(rung for rung in self._ladder.rungs if rung >= count)

    def _heads(self, columns: Columns) -> Tensor:
        heads = columns.heads
        padding = self._rung(len(heads)) - len(heads) if heads else 0
        return torch.tensor([*heads, *[0] * padding], dtype=torch.long, device=self._device)

    def _ragged(
        self, work: Work, pieces: list[Piece], firsts: list[int], bases: list[int], computed: int
    ) -> RaggedPass:
        reaches: list[Reach] = []
        order: list[int] = []
        back = [0] * computed  # what padding gets back is nobody's
        for (index, begin, end), first, base in zip(pieces, firsts, bases, strict=True):
            extent, span = work[index]
            for nodes, path in _lines(span, begin, end):
                depth = nodes[0] if path is None else path.index(nodes[0])
                rows = None if path is None else self._as_chain(extent, span, base, path)
                for at, count, size in self._groups(span.start + depth, len(nodes)):
                    group = [first + node - begin for node in nodes[at : at + count]]
                    reaches.append(Reach(len(order), size, self._views(span.start + depth + at, size, base, rows)))
                    for offset, place in enumerate(group):
                        back[place] = len(order) + offset
                    order += group + group[:1] * (size - count)
        indices = (torch.tensor(index, device=self._device) for index in (order, back))
        return RaggedPass(reaches, self._windows, *indices)

    def _groups(self, position: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Return where each group of queries begins, how many it has and is padded to; none crosses into a block."""
        at = 0
        while at < count:
            room = BLOCK_ROWS - (position + at) % BLOCK_ROWS
            own = min(count - at, room, self._ladder.groups[-1])
            yield at, own, next(group for group in self._ladder.groups if group >= own)
            at += own

    def _as_chain(self, extent: Extent, span: Span, base: int, path: Sequence[int]) -> Tensor:
        """Return the extent's rows with those of a branch at their positions."""
        rows = torch.arange(base, base + extent.rows)
        rows[span.start : span.start + len(path)] = torch.tensor(path) + (base + span.start)
        return rows.to(self._device)

    def _views(self, position: int, size: int, base: int, rows: Tensor | None) -> dict[int | None, View]:
        """Return what a group of queries sees; which rows it reads depends on the block of its position alone."""
        block = position // BLOCK_ROWS * BLOCK_ROWS
        views = {}
        for window in self._kinds:
            low = 0 if window is None else max(0, block + 1 - window) // BLOCK_ROWS * BLOCK_ROWS
            high = block + BLOCK_ROWS
            mask = self._masks.chain(position, size, window, high)[..., low:]
            views[window] = View((base + low, high - low) if rows is None else rows[low:high], mask)
        return views


def _cut(work: Work, most: int) -> Iterator[list[Piece]]:
    """Cut work into runs of at most ``most`` positions."""
    pieces: list[Piece] = []
    room = most
    for index, (_, span) in enumerate(work):
        begin = 0
        while begin < len(span.tokens):
            end = min(len(span.tokens), begin + room)
            pieces.append((index, begin, end))
            room, begin = room - (end - begin), end
            if room == 0:
                yield pieces
                pieces, room = [], most
    if pieces:
        yield pieces


def _lines(span: Span, begin: int, end: int) -> Iterator[tuple[Sequence[int], list[int] | None]]:
    """Return nodes that stand in one line, each once, and the branch they belong to; None where rows are positions."""
    if span.parents is None:
        yield range(begin, end), None
        return
    done: set[int] = set()
    for leaf in sorted(set(range(len(span.tokens))) - set(span.parents)):
        path = _path(leaf, span.parents)
        nodes = [node for node in path if begin <= node < end and node not in done]
        if nodes:
            done.update(nodes)
            yield nodes, None if path == list(range(len(path))) else path


def _path(node: int, parents: Sequence[int]) -> list[int]:
    path = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


class Engine(Protocol):
    """What a ladder is tried on."""

    @property
    def context_tokens(self) -> int:
        """Return how many positions a text may have."""
        ...

    def extend(self, work: Work) -> list[Tensor]:
        """Run spans; return the logits of their wanted rows."""
        ...

    def fill(self, fill: Fill) -> None:
        """Copy rows."""
        ...


_TEXT = 24
_STARTS = (0, 500)  # the second where kernels add in several parts
_ROWS = 9 * BLOCK_ROWS
PROBE_ROWS, PROBE_TOKENS = 5 * _ROWS, _TEXT
"""What ``proven`` needs of an engine's pool, and of its context at least."""


def proven(name: str, ladders: Sequence[Ladder], vocabulary: int, engine_of: Callable[[Ladder], Engine]) -> Ladder:
    """Return the first ladder that gives a position the same bits everywhere, with the largest party of its rungs.

    Raises CheckpointRefused where there is none.
    """
    ids = tuple((7 * index + 3) % vocabulary for index in range(_TEXT))
    for ladder in ladders:
        parties: dict[bytes, list[int]] = defaultdict(list)
        for rung in ladder.rungs:
            engine = engine_of(Ladder((rung,), ladder.groups))
            starts = [start for start in _STARTS if start + _TEXT <= engine.context_tokens]
            bits = [_bits(engine, ids, start) for start in starts]
            if None in bits:
                break
            parties[b"".join(filter(None, bits))].append(rung)
        else:
            party = max(parties.values(), key=lambda rungs: (len(rungs), rungs[-1]))
            return Ladder(tuple(party), ladder.groups)
    raise CheckpointRefused(
        f"{name} gives a position other bits beside others, in forwards of {rung} rows; use --profile fast here"
    )


def _bits(engine: Engine, ids: tuple[int, ...], start: int) -> bytes | None:
    """Return the bits of a text's logits as a prefill; None where parts of it get others in a crowd.

    Before the text stands a text that is repeated, so that there is something to attend to.
    """
    text, one, chain, tree, stranger = (Extent(place * _ROWS, _ROWS) for place in range(5))
    if start:
        engine.extend([(text, Span(0, ids))])
    for held in range(_TEXT, start, _TEXT):
        engine.fill(Fill(text.first + held, min(_TEXT, start - held), source=text.first))
    (whole,) = engine.extend([(text, Span(start, ids, wanted=tuple(range(_TEXT))))])
    for extent in (one, chain, tree):
        engine.fill(Fill(extent.first, start + _TEXT, source=text.first))
    branches = (ids[-3], ids[0], ids[-2], ids[-1], ids[1])
    crowd = [
        (stranger, Span(start, ids[3:0:-1])),
        (one, Span(start + 12, ids[12:13], wanted=(0,))),
        (tree, Span(start + _TEXT - 3, branches, parents=(-1, 0, 0, 2, 1), wanted=(0, 2, 3))),
        (chain, Span(start + _TEXT - 5, ids[-5:], wanted=(0, 1, 2, 3, 4))),
    ]
    got = torch.cat(engine.extend(crowd)[1:])
    expected = torch.cat([whole[12:13], whole[-3:], whole[-5:]])
    return _bytes_of(whole) if _bytes_of(got) == _bytes_of(expected) else None


def _bytes_of(logits: Tensor) -> bytes:
    return blake2b(logits.cpu().numpy().tobytes()).digest()


def numerics_digest(target: Target, profile: str, kv_dtype: str = "auto", ladder: Ladder | None = None) -> str:
    """Return a name for the bits that an engine gives: another name, and a near tie may fall otherwise.

    Such as ``strict/float32/cpu/`` and 12 hex digits, over all that the bits are known to depend on.
    """
    device = target.device
    attention = str(target.model.config._attn_implementation).removeprefix("ragged_")
    facts = [
        profile,
        target.dtype,
        kv_dtype,
        attention,
        _machine(device),
        torch.__version__,
        transformers.__version__,
        str(ladder),
        f"{sum(isinstance(layer, PackedLinear) for layer in target.model.modules())} packed",
    ]
    if profile == "strict" and device.type == "cpu":
        facts.append(f"{torch.get_num_threads()} threads")
    parts = [profile, target.dtype, *(["int8"] if kv_dtype == "int8" else []), device.type]
    return "/".join([*parts, blake2b("\n".join(facts).encode(), digest_size=6).hexdigest()])


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
