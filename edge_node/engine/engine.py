"""The engine: runs spans of many sessions through the target, all of them at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from airdraft.core.types import Span
from edge_node.engine.arena import ArenaCache
from edge_node.engine.attention import make_ragged
from edge_node.engine.item_faults import depths_of
from edge_node.engine.masks import SpanMasks, attention_kinds
from edge_node.engine.packing import Forward, Packing, WidePacking
from edge_node.engine.strict import (
    BLOCK_ROWS,
    CPU_LADDERS,
    GPU_LADDERS,
    PROBE_ROWS,
    PROBE_TOKENS,
    Ladder,
    StrictPacking,
    numerics_digest,
    proven,
)
from edge_node.engine.target import Target
from edge_node.step import Extent, Fill

Run = Callable[[Forward], tuple[Tensor, ...]]
"""Runs a forward; each tensor has a row for each that is wanted, padding after them."""

_STRICT_POISON = 100.0
"""Strict reads unwritten rows out of sight of every query, where any number will do and NaN would not."""


class TargetEngine:
    """Computes what the target makes of each span, on rows that the front has given to sessions.

    Knows nothing of sessions. Not for several threads at a time.
    """

    def __init__(
        self,
        target: Target,
        rows: int,
        *,
        profile: str = "fast",
        kv_dtype: str = "auto",
        poison: bool = False,
        together: bool | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        """Begin with ``rows`` rows for all sessions, none written; memory is taken at the first pass.

        profile   ``fast``, or ``strict``: the same bits whatever runs beside; extents are cleared before use
        kv_dtype  of the rows: ``auto``, as the model computes them, or ``int8``
        poison    rows that are nobody's or unwritten hold what would show if it were read; for tests
        together  attend to spans of a like shape in one call; as the device likes it where None
        ladder    of ``strict``; what agrees here where None

        Raises CheckpointRefused where the target cannot keep a strict promise here.
        """
        if profile not in ("fast", "strict"):
            raise ValueError(f"profile is fast or strict, not {profile}")
        model = target.model
        kinds = attention_kinds(model.config.get_text_config(decoder=True), target.name)
        self.rows, self.context_tokens = rows, target.context_tokens
        self.positions = 0  # asked for so far
        self.computed = 0  # that the model's layers computed so far, padding included
        self.profile, self.ladder = profile, ladder
        self._target, self._model, self._device = target, model, model.device
        self._base = make_ragged(model)
        self._head_slices = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._nowhere = torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=model.device)  # where a mask would stand
        self._kv_dtype = kv_dtype
        value = (torch.nan if profile == "fast" else _STRICT_POISON) if poison else 0.0
        self._cache = ArenaCache(kinds.layers, rows, kv_dtype, value)
        self._packing = self._packing_of(kinds.windows, together)

    @property
    def numerics(self) -> str:
        """Return the name of the bits that this engine gives."""
        return numerics_digest(self._target, self.profile, self._kv_dtype, self.ladder)

    @property
    def row_bytes(self) -> int:
        """Return what a position takes in all layers; 0 before the first pass."""
        return self._cache.row_bytes

    @torch.inference_mode()
    def extend(self, work: Sequence[tuple[Extent, Span]]) -> list[Tensor]:
        """Run all spans in one pass; return the float32 logits [len(wanted), V] of each one's wanted rows.

        Of each session one span at most. Rows are written from a span's start on, and none before it but those that
        ``gather`` moves there; how many of them are valid is the caller's book. Asserts, before anything runs, that
        each span fits its extent and the context, and that no two share rows. After a pass that raised, gathered rows
        have moved and what stood from the starts on is lost.
        """
        return [logits for (logits,) in self._passed(work, lambda forward: (self._run(forward),))]

    @torch.inference_mode()
    def extend_with_states(self, work: Sequence[tuple[Extent, Span]]) -> tuple[list[Tensor], list[Tensor]]:
        """As ``extend``; beside the logits return what the LM head made them of, float32 [len(wanted), d] each.

        Raises RuntimeError where the model's head is no layer that can be watched.
        """
        with _head_inputs(self._model) as seen:
            passed = self._passed(work, lambda forward: (self._run(forward), _state_of(seen, self._kept(forward))))
        return [logits for logits, _ in passed], [states for _, states in passed]

    def fill(self, fill: Fill) -> None:
        """Copy rows, or clear them."""
        if fill.source is None:
            self._cache.clear(fill.target, fill.rows)
        else:
            self._cache.copy(fill.source, fill.target, fill.rows)

    def poison_rows(self, first: int, rows: int) -> None:
        """Spoil rows that nobody may read again, for tests."""
        self._cache.spoil(first, rows, torch.nan)

    def _passed(self, work: Sequence[tuple[Extent, Span]], run: Run) -> list[tuple[Tensor, ...]]:
        """Run all spans; return of each what ``run`` makes of its wanted rows."""
        self._check(work)
        self._gather(work)
        parts: list[list[tuple[Tensor, ...]]] = [[] for _ in work]
        for forward in self._packing.forwards(work) if work else ():
            made = run(forward)
            at = 0
            for index, count in forward.wanted:
                parts[index].append(tuple(rows.narrow(0, at, count) for rows in made))
                at += count
        self.positions += sum(len(span.tokens) for _, span in work)
        return [part[0] if len(part) == 1 else tuple(map(torch.cat, zip(*part, strict=True))) for part in parts]

    def _packing_of(self, windows: tuple[int | None, ...], together: bool | None) -> Packing:
        model, target, compact = self._model, self._target, self._cache.compact
        masks = partial(SpanMasks, windows, self.context_tokens, model.dtype, self._device)
        if self.profile == "fast":
            grouped = self._device.type != "cpu" if together is None else together
            causal = self._base == "sdpa"
            return WidePacking(masks(), windows, self._device, causal=causal, compact=compact, together=grouped)
        if self.ladder is None:
            ladders = CPU_LADDERS if self._device.type == "cpu" else GPU_LADDERS
            self.ladder = proven(target.name, ladders, target.vocabulary, self._on)
        wide = masks(band_rows=self.ladder.groups[-1], past_end=BLOCK_ROWS)
        scratch = self._cache.scratch
        return StrictPacking(wide, windows, self._device, ladder=self.ladder, compact=compact, scratch=scratch)

    def _on(self, ladder: Ladder) -> TargetEngine:
        target = replace(self._target, context_tokens=max(PROBE_TOKENS, self.context_tokens))
        return TargetEngine(target, PROBE_ROWS, profile="strict", kv_dtype=self._kv_dtype, ladder=ladder)

    def _check(self, work: Sequence[tuple[Extent, Span]]) -> None:
        free = 0
        for extent, span in sorted(work, key=_first) if len(work) > 1 else work:
            count, start = len(span.tokens), span.start
            assert free <= extent.first, f"rows from {extent.first} on are another item's too"
            free = extent.first + extent.rows
            assert free <= self.rows, f"rows {extent.first} to {free} of a pool of {self.rows}"
            assert 0 <= start < start + count <= extent.rows, f"{count} tokens from {start} on in {extent.rows} rows"
            deepest = start + (count - 1 if span.parents is None else max(depths_of(span)))
            assert deepest < self.context_tokens, f"position {deepest} in a context of {self.context_tokens}"
            if span.gather:
                assert len(span.gather) <= start, f"{len(span.gather)} rows do not fit before {start}"
                assert all(0 <= row < extent.rows for row in span.gather), f"rows {span.gather} of {extent.rows}"

    def _gather(self, work: Sequence[tuple[Extent, Span]]) -> None:
        sources: list[int] = []
        targets: list[int] = []
        for extent, span in work:
            if span.gather:
                sources += [extent.first + row for row in span.gather]
                end = extent.first + span.start
                targets += range(end - len(span.gather), end)
        if sources:
            self._cache.move(sources, targets)

    def _run(self, forward: Forward) -> Tensor:
        """Return the float32 logits [wanted and padding, V]."""
        inputs = forward.inputs
        self._cache.begin(inputs[2], forward.reads)
        output = self._model(
            input_ids=inputs[0:1],
            attention_mask=self._nowhere,
            position_ids=inputs[1:2],
            past_key_values=self._cache,
            use_cache=True,
            ragged=forward.ragged,
            **({"logits_to_keep": forward.heads} if self._head_slices else {}),
        )
        self.computed += forward.computed
        logits: Tensor = output.logits[0]
        return logits[self._kept(forward)].float()

    def _kept(self, forward: Forward) -> slice | Tensor:
        """Return which of the head's rows are wanted: all of them where the model itself leaves the others out."""
        if self._head_slices:
            return slice(None)
        return slice(-forward.heads, None) if isinstance(forward.heads, int) else forward.heads


@contextmanager
def _head_inputs(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collect what goes into the model's LM head, [1, rows, d] a forward."""
    seen: list[Tensor] = []
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise RuntimeError("the model names no LM head, so its states are unknown")
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _state_of(seen: list[Tensor], kept: slice | Tensor) -> Tensor:
    """Return the float32 states [wanted and padding, d] of the forward that has just run."""
    if len(seen) != 1:
        raise RuntimeError(f"the model's LM head ran {len(seen)} times in one forward, so its states are unknown")
    return seen.pop()[0][kept].float()


def _first(item: tuple[Extent, Span]) -> int:
    return item[0].first
