"""Keys and values of one session: rows that a span writes at its start, rolled back by setting a length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_FIRST_ROWS = 64


class SessionCache(Cache):
    """What a session holds in each layer of the model; hand it to the model as ``past_key_values``.

    ``begin`` names where the next forward writes, ``finish`` makes its rows count. All layers keep every row, those
    with a sliding window too: the mask enforces the window, and any length can be rolled back to. That is right but not
    the smallest; DESIGN §5 wants window + widest draft.
    """

    def __init__(self, layers: int, context_tokens: int) -> None:
        self.rows = 0  # valid rows: the path that later spans may build on, draft branches included
        self.start = 0  # where the forward that runs now writes
        super().__init__(layers=[_Rows(self, context_tokens) for _ in range(layers)])

    def begin(self, start: int, gather: Sequence[int]) -> None:
        """Make ``start`` rows valid, after moving rows ``gather`` to just before it; the others are forgotten.

        Until ``finish`` the cache counts ``start`` rows, so a forward that fails leaves a valid, shorter cache.
        """
        if gather:
            self._gather(gather, start)
        assert 0 <= start <= self.rows, f"span starts at {start}, the cache holds {self.rows} rows"
        self.rows = self.start = start

    def finish(self, count: int) -> None:
        """Count the ``count`` rows that the forward wrote."""
        self.rows = self.start + count

    def _gather(self, rows: Sequence[int], start: int) -> None:
        first = start - len(rows)
        assert first >= 0, f"{len(rows)} rows do not fit before {start}"
        assert all(0 <= row < self.rows for row in rows), f"rows {rows} of {self.rows}"
        index = torch.tensor(rows)
        for layer in self.layers:
            assert isinstance(layer, _Rows)
            layer.move(index, first)
        self.rows = start


class _Rows(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer: keys and values [1, heads, capacity, head width], grown by doubling up to the context."""

    is_sliding = False

    def __init__(self, session: SessionCache, context_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session
        self._context_tokens = context_tokens
        self._capacity = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the span's rows [1, heads, n, width] at its start; return views of all rows up to its end."""
        start, count = self._session.start, key_states.shape[-2]
        end = start + count
        if end > self._capacity:
            self._grow(key_states, value_states, end)
        keys, values = self._held()
        keys.narrow(2, start, count).copy_(key_states)
        values.narrow(2, start, count).copy_(value_states)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def move(self, index: Tensor, first: int) -> None:
        """Copy the rows ``index`` [k] to ``first`` and on; they are read before any is written."""
        if self._capacity == 0:
            return  # a layer that reads another's rows holds none
        for tensor in self._held():
            tensor.narrow(2, first, len(index)).copy_(tensor.index_select(2, index.to(tensor.device)))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many rows a forward of ``query_length`` positions sees, and that the first of them is row 0."""
        return self._session.start + query_length, 0

    def get_seq_length(self) -> int:
        """Return the rows before the forward that runs now."""
        return self._session.start

    def get_max_length(self) -> int:
        """Return the context in tokens."""
        return self._context_tokens

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the first rows."""
        self._grow(key_states, value_states, 1)

    def _held(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _grow(self, key_states: Tensor, value_states: Tensor, rows: int) -> None:
        assert rows <= self._context_tokens, f"{rows} rows in a context of {self._context_tokens}"
        capacity = max(_FIRST_ROWS, self._capacity)
        while capacity < rows:
            capacity *= 2
        capacity = min(capacity, self._context_tokens)
        self.keys = _grown(self.keys, key_states, capacity, self._session.start)
        self.values = _grown(self.values, value_states, capacity, self._session.start)
        self._capacity = capacity
        self.is_initialized = True


def _grown(old: Tensor | None, like: Tensor, capacity: int, keep: int) -> Tensor:
    """Return room for ``capacity`` rows of the kind of ``like``, with the first ``keep`` rows of ``old``."""
    batch, heads, _, width = like.shape
    # Zeros, not what memory happens to hold: a masked row still enters a product, and NaN times zero is NaN.
    grown = like.new_zeros((batch, heads, capacity, width))
    if old is not None and keep:
        grown.narrow(2, 0, keep).copy_(old.narrow(2, 0, keep))
    return grown
