"""The engine: runs spans of many sessions through the target."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from airdraft.core.types import Span
from edge_node.engine.kv import SessionCache
from edge_node.engine.masks import SpanMasks, attention_kinds
from edge_node.engine.target import Target


class TargetEngine:
    """Computes what the target makes of each span; knows nothing of sessions but their caches.

    One forward a span for now. Not for several threads at a time.
    """

    def __init__(self, target: Target) -> None:
        model = target.model
        config = model.config.get_text_config(decoder=True)
        self._model = model
        self._kinds = attention_kinds(config, target.name)
        self._context_tokens = target.context_tokens
        self._device = model.device
        self._masks = SpanMasks(self._kinds, target.context_tokens, model.dtype, model.device)
        self._head_slices = "logits_to_keep" in inspect.signature(model.forward).parameters

    def open(self) -> SessionCache:
        """Return the empty cache of a new session; it takes memory as it fills."""
        return SessionCache(self._kinds.layers, self._context_tokens)

    @torch.inference_mode()
    def extend(self, work: Sequence[tuple[SessionCache, Span]]) -> list[Tensor]:
        """Run each span on its session's cache; return the float32 logits [len(wanted), V] of its wanted rows.

        Asserts that a span starts within the rows that its cache holds and ends within the context.
        """
        return [self._run(cache, span) for cache, span in work]

    def _run(self, cache: SessionCache, span: Span) -> Tensor:
        count = len(span.tokens)
        assert 0 < count <= self._context_tokens - span.start, f"{count} tokens from {span.start} on"
        cache.begin(span.start, span.gather)
        mask, positions = self._masks.of(span)
        rows = _kept(span.wanted, count, self._device)
        output = self._model(
            input_ids=torch.tensor([span.tokens], device=self._device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": rows} if self._head_slices else {}),
        )
        cache.finish(count)
        logits: Tensor = output.logits[0]
        if not self._head_slices:
            logits = logits[-rows:] if isinstance(rows, int) else logits[rows]
        return logits.float()


def _kept(wanted: tuple[int, ...], count: int, device: torch.device) -> int | Tensor:
    """Return what the head shall compute: the last so many rows where that is what is wanted, else their indices."""
    if wanted and wanted == tuple(range(count - len(wanted), count)):
        return len(wanted)
    return torch.tensor(wanted, dtype=torch.long, device=device)
