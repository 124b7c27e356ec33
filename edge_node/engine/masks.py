"""Attention masks of a span: each node sees the rows before the span, itself and its ancestors in the span.

Masks are additive and of the model's dtype. A boolean 4-D mask is silently wrong under transformers' eager attention;
this form is right under eager and sdpa alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.types import Span

BAND_ROWS = 32


@dataclass(frozen=True, slots=True)
class AttentionKinds:
    """How a model's layers attend.

    windows  sliding window in tokens of each layer that attends; None where all is seen
    layers   number of layers that store keys and values of their own
    """

    windows: tuple[int | None, ...]
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
    own = [windows[kind] for kind in layer_types] if layer_types else [windows[""]] * len(layers)
    return AttentionKinds(tuple(own), len(layers))


class SpanMasks:
    """Makes the masks of one model; those of short chains are views of a band that is made once."""

    def __init__(
        self,
        windows: Iterable[int | None],
        context_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        band_rows: int = BAND_ROWS,
        past_end: int = BAND_ROWS,
    ) -> None:
        """Serve chains of up to ``band_rows`` positions from a band, ``past_end`` rows past the context at most."""
        self._windows = frozenset(windows)
        self._context_tokens = context_tokens
        self._device = device
        self._lowest = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=device)
        self._zero = torch.zeros((), dtype=dtype, device=device)
        # The mask of the latest possible start; whether row i sees row j depends on j - i alone.
        width = context_tokens + past_end
        self._bands = {window: self._made(context_tokens, band_rows, width, window) for window in self._windows}

    def of(self, span: Span) -> dict[int | None, Tensor]:
        """Return by window the mask [1, 1, n, start + n].

        Windows are measured in positions along a node's path, never in rows.
        """
        if span.parents is None:
            return {window: self.chain(span.start, len(span.tokens), window) for window in self._windows}
        sees, depths = _ancestry(span.parents)
        positions = np.concatenate([np.arange(span.start), span.start + depths])
        return {window: self._tree(span.start, sees, positions, window) for window in self._windows}

    def chain(self, start: int, count: int, window: int | None, rows: int | None = None) -> Tensor:
        """Return the mask [1, 1, count, rows] of ``count`` positions in a row; without ``rows`` it ends with them."""
        width = start + count if rows is None else rows
        band, first = self._bands[window], self._context_tokens - start
        if count > band.shape[2] or first + width > band.shape[3]:
            return self._made(start, count, width, window)
        return band.narrow(2, 0, count).narrow(3, first, width)

    def _additive(self, seen: Tensor) -> Tensor:
        return torch.where(seen, self._zero, self._lowest)

    def _made(self, start: int, count: int, width: int, window: int | None) -> Tensor:
        rows = torch.arange(start, start + count, device=self._device)
        ahead = torch.arange(width, device=self._device)[None] - rows[:, None]
        seen = ahead <= 0
        if window is not None:
            seen &= ahead > -window
        return self._additive(seen)[None, None]

    def _tree(self, start: int, sees: np.ndarray, positions: np.ndarray, window: int | None) -> Tensor:
        seen = np.ones((len(sees), len(positions)), dtype=np.bool_)
        seen[:, start:] = sees
        if window is not None:
            seen &= positions[None] > positions[start:, None] - window  # transformers' sliding_window_overlay
        return self._additive(torch.from_numpy(seen).to(self._device))[None, None]


def _ancestry(parents: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return which nodes are a node's own path, [n, n] bool, and each node's depth, [n]."""
    sees = np.eye(len(parents), dtype=np.bool_)
    depths = np.zeros(len(parents), dtype=np.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            sees[node] |= sees[parent]
            depths[node] = depths[parent] + 1
    return sees, depths
