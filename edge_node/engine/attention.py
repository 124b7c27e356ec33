"""Attention of one ragged pass: every span looks at its own session's rows, in one forward over all of them.

Everything else in a model treats positions one by one, so that spans of many sessions stand side by side in one row of
ids; attention alone must know whose they are. transformers calls an attention function by name; the ones registered
here hand each span to the function that the model would have used, and are that function outside a ragged pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

_BASES = ("sdpa", "eager")
_PREFIX = "ragged_"
_FEW = 32  # up to so many, queries that share keys are stacked rather than keys repeated

Attend = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, slots=True)
class View:
    """Rows that queries look at, of those that the cache hands over, and what they see there.

    ``rows`` is (first, count), or an index [batch * count]. ``mask`` is additive, [batch, 1, queries, count]; None
    where every query sees all, or where a span from position 0 on is causal.
    """

    rows: tuple[int, int] | Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class Reach:
    """One call of attention: ``batch`` runs of queries, equally long, side by side from ``first`` on."""

    first: int
    count: int  # of all runs together
    views: Mapping[int | None, View]  # by the layer's window
    batch: int = 1


@dataclass(frozen=True, slots=True)
class RaggedPass:
    """Who looks where.

    windows  of each layer
    order    [M] puts queries as the reaches want them, padding included; None where they stand so
    back     [N] takes their results back
    """

    reaches: list[Reach]
    windows: tuple[int | None, ...]
    order: Tensor | None = None
    back: Tensor | None = None

    def attend(
        self, base: Attend, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
    ) -> Tensor:
        """Return [1, N, heads, width] for queries [1, heads, N, width] and what the cache handed over."""
        window = self.windows[module.layer_idx]  # type: ignore[index]
        if self.order is not None:
            query = query.index_select(2, self.order)
        results = []
        for reach in self.reaches:
            view = reach.views[window]
            asked = _runs(query.narrow(2, reach.first, reach.count), reach.batch)
            keys, values = (_seen(tensor, view.rows, reach.batch) for tensor in (key, value))
            result = _attended(base, module, asked, keys, values, view.mask, options)
            results.append(result if reach.batch == 1 else result.flatten(0, 1)[None])
        whole = results[0] if len(results) == 1 else torch.cat(results, dim=1)
        return whole if self.back is None else whole.index_select(1, self.back)


def make_ragged(model: PreTrainedModel) -> str:
    """Let a model attend raggedly where a pass says so; return the base that it was loaded with, sdpa or eager.

    Raises ValueError where the model takes no attention function by name.
    """
    named = str(model.config._attn_implementation)
    base = named.removeprefix(_PREFIX)
    if base not in _BASES:
        raise ValueError(f"attention by {base}")
    if named != base:
        return base
    if not model._can_set_attn_implementation():  # asked first, because transformers only warns
        raise ValueError("its attention cannot be set by name")
    _register()
    model.set_attn_implementation(_PREFIX + base)
    return base


def _register() -> None:
    for base in _BASES:
        AttentionInterface.register(_PREFIX + base, _RAGGED[base])
        AttentionMaskInterface.register(_PREFIX + base, ALL_MASK_ATTENTION_FUNCTIONS[base])


def _ragged(kind: str) -> Attend:
    """Return the attention that goes session by session in a ragged pass, and is the model's own outside of one."""

    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        ragged: RaggedPass | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        base = _base(type(module).__module__, kind)
        if ragged is None:
            return base(module, query, key, value, attention_mask, **options)
        return ragged.attend(base, module, query, key, value, options), None

    return attend


_RAGGED: dict[str, Attend] = {kind: _ragged(kind) for kind in _BASES}


@lru_cache
def _base(modelling: str, name: str) -> Attend:
    """Return what a layer of this modelling file would have called: a file may have its own."""
    file: Any = sys.modules[modelling]
    base: Attend = file.eager_attention_forward if name == "eager" else file.ALL_ATTENTION_FUNCTIONS[name]
    return base


def _runs(states: Tensor, batch: int) -> Tensor:
    """Return [1, heads, batch * n, width] as [batch, heads, n, width]."""
    if batch == 1:
        return states
    _, heads, count, width = states.shape
    return states.view(heads, batch, count // batch, width).transpose(0, 1)


def _seen(arena: Tensor, rows: tuple[int, int] | Tensor, batch: int) -> Tensor:
    """Return rows of [1, heads, rows, width] as [batch, heads, count, width]."""
    if isinstance(rows, tuple):
        return arena.narrow(2, *rows)
    return _runs(arena.index_select(2, rows), batch)


def _attended(
    base: Attend,
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """Return [batch, n, heads, width]."""
    count = query.shape[2]
    if base is sdpa_attention_forward and _plain(options) and (count == 1 or (mask is not None and count <= _FEW)):
        return _stacked(query, key, value, mask, options.get("scaling"))
    return base(module, query, key, value, mask, **options)[0]


def _plain(options: dict[str, Any]) -> bool:
    return options.get("softcap") is None and options.get("position_bias") is None


def _stacked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Attend with the queries of all heads that share keys in one stack: keys and values are never repeated."""
    batch, heads, count, width = query.shape
    shared = key.shape[1]
    if heads != shared:
        query = query.reshape(batch, shared, heads // shared * count, width)
        if mask is not None:
            mask = mask.expand(-1, heads // shared, -1, -1).flatten(1, 2)[:, None]
    result = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return result.reshape(batch, heads, count, -1).transpose(1, 2)
