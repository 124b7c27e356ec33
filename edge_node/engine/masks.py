"""Attention masks of a span: each node sees the rows before the span, itself and its ancestors in the span.

Masks are additive and of the model's dtype. A boolean 4-D mask is silently wrong under transformers' eager attention;
this form is right under eager and sdpa alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.types import Span

_BAND_ROWS = 32

Mask = Tensor | dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class AttentionKinds:
    """How a model's layers attend.

    windows  sliding window in tokens of each kind of layer, by transformers' name for it; None where all is seen
    layers   number of layers
    """

    windows: Mapping[str, int | None]
    layers: int


def attention_kinds(config: PretrainedConfig, name: str) -> AttentionKinds:
    """Read from a text model's configuration how its layers attend, by transformers' own reading of it.

    Raises CheckpointRefused where a layer keeps anything but plain keys and values.
    """
    layer_types = getattr(config, "layer_types", None)
    layers = DynamicCache(config=config).layers
    windows: dict[str, int | None] = {}
    for index, layer in enumerate(layers):
        kind = layer_types[index] if layer_types else ""
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or kind == "chunked_attention":
            raise CheckpointRefused(
                f"{name} has layers of kind {kind or type(layer).__name__}, whose state cannot be rolled back yet; "
                "choose a model with plain or sliding-window attention"
            )
        window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        if windows.setdefault(kind, window) != window:
            raise CheckpointRefused(f"{name} has sliding windows of several widths; choose another model")
    return AttentionKinds(windows, len(layers))


class SpanMasks:
    """Makes the masks of one model; those of short chains are views of a band that is made once."""

    def __init__(self, kinds: AttentionKinds, context_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        self._windows = kinds.windows
        self._context_tokens = context_tokens
        self._device = device
        self._lowest = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=device)
        self._zero = torch.zeros((), dtype=dtype, device=device)
        self._positions = torch.arange(context_tokens, device=device)[None]
        self._bands = {window: self._band(window) for window in set(kinds.windows.values())}

    def of(self, span: Span) -> tuple[Mask, Tensor]:
        """Return the mask [1, 1, n, start + n], by kind of layer where there are several, and position ids [1, n].

        A node's position is ``start`` plus its depth, so siblings share one. Windows are measured in positions along
        a node's path, never in rows.
        """
        if span.parents is None:
            end = span.start + len(span.tokens)
            return self._by_kind({w: self._chain(span, w) for w in self._bands}), self._positions[:, span.start : end]
        sees, depths = _ancestry(span.parents)
        rows = np.concatenate([np.arange(span.start), span.start + depths])
        masks = {window: self._tree(span.start, sees, rows, window) for window in self._bands}
        return self._by_kind(masks), torch.from_numpy(rows[span.start :]).to(self._device)[None]

    def _by_kind(self, masks: Mapping[int | None, Tensor]) -> Mask:
        # One kind of layer: any model takes a tensor. Several: transformers' forward takes a mask for each by name.
        if len(self._windows) == 1:
            return next(iter(masks.values()))
        return {kind: masks[window] for kind, window in self._windows.items()}

    def _additive(self, seen: Tensor) -> Tensor:
        return torch.where(seen, self._zero, self._lowest)

    def _band(self, window: int | None) -> Tensor:
        """Return the chain mask of the latest possible start; whether row i sees row j depends on j - i alone."""
        return self._made(self._context_tokens, _BAND_ROWS, window)

    def _made(self, start: int, count: int, window: int | None) -> Tensor:
        ahead = torch.arange(start + count, device=self._device)[None] - torch.arange(
            start, start + count, device=self._device
        ).unsqueeze(1)
        seen = ahead <= 0
        if window is not None:
            seen &= ahead > -window
        return self._additive(seen)[None, None]

    def _chain(self, span: Span, window: int | None) -> Tensor:
        count = len(span.tokens)
        if count > _BAND_ROWS:
            return self._made(span.start, count, window)
        first = self._context_tokens - span.start
        return self._bands[window].narrow(2, 0, count).narrow(3, first, span.start + count)

    def _tree(self, start: int, sees: np.ndarray, rows: np.ndarray, window: int | None) -> Tensor:
        seen = np.ones((len(sees), len(rows)), dtype=np.bool_)
        seen[:, start:] = sees
        if window is not None:
            seen &= rows[None] > rows[start:, None] - window  # transformers' sliding_window_overlay
        return self._additive(torch.from_numpy(seen).to(self._device))[None, None]


def _ancestry(parents: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return which nodes are a node's own path, [n, n] bool, and each node's depth, [n]."""
    sees = np.eye(len(parents), dtype=np.bool_)
    depths = np.zeros(len(parents), dtype=np.int64)
    for node, parent in enumerate(parents):
        assert -1 <= parent < node, f"node {node} has parent {parent}: parents come first"
        if parent >= 0:
            sees[node] |= sees[parent]
            depths[node] = depths[parent] + 1
    return sees, depths
