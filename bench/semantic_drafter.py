"""Drafts of many texts side by side, each token with the drafter's state: a batch of its own, off the wire.

``BatchDrafter`` of the edge writes token by token through the ragged engine, which is right for a few texts and slow
for hundreds. Here every text has a place of the same size, so that a step of all of them is one plain batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from airdraft.core.acceptance_chain import SparseQ, quantise
from airdraft.core.meaning import pack_rows
from airdraft.core.types import StateKind
from edge_node.engine.target import Target

Path = tuple[int, ...]

Q_TOKENS = 8
"""Of a distribution that goes up: the likeliest ids; some 35 bytes a token."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the drafter writes after a path: its tokens, and of each its state and what else was likely there."""

    tokens: tuple[int, ...]
    rows: tuple[bytes, ...]  # a state row of each token, as it goes up
    likely: tuple[NDArray[np.int64], NDArray[np.float64]]  # ids and probabilities [n, Q_TOKENS]

    def q(self, count: int) -> tuple[SparseQ, ...]:
        """Return the distributions of the first ``count`` tokens, cut to the likeliest ids, as they go up."""
        ids, chances = self.likely
        return tuple(quantise(ids[at], chances[at] / chances[at].sum()) for at in range(count))


@dataclass(frozen=True, slots=True)
class Ask:
    """A line that is wanted."""

    place: int  # of the text, whose rows it finds there
    path: Path


class _Places(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of the batch at work: keys and values [B, heads, room, width]."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.at = torch.zeros(0)  # [B, n], which rows the next forward writes
        self.seen = 0  # how many rows attention reads

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the tensors are given."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write [B, heads, n, width]; return what attention reads."""
        assert self.keys is not None
        assert self.values is not None
        index = self.at[:, None, :, None].expand_as(key_states)
        self.keys.scatter_(2, index, key_states)
        self.values.scatter_(2, index, value_states)
        return self.keys[:, :, : self.seen], self.values[:, :, : self.seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the rows that are read; masks are made elsewhere."""
        return self.seen, 0

    def get_seq_length(self) -> int:
        """Return 0: positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return the rows of a place."""
        assert self.keys is not None
        return int(self.keys.shape[2])


class BatchedDrafter:
    """A small model that writes greedy lines for many texts at once."""

    def __init__(self, model: Target, places: int, room: int, kind: StateKind = StateKind.INT8) -> None:
        """Make ``places`` places for texts of up to ``room`` tokens, drafts included."""
        config: Any = model.model.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (places, heads, room + 1, width)  # one row past the room takes what padding writes
        self._layers = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_hidden_layers)]
        self._held: list[Path] = [()] * places
        self._model: Any = model.model
        self._vocabulary, self._room, self._kind = model.vocabulary, room, kind
        self._stops = torch.tensor(sorted(model.stop_ids))
        self.state_width = int(config.hidden_size)

    @torch.inference_mode()
    def draft(self, asks: Sequence[Ask], count: int) -> list[Line]:
        """Return up to ``count`` tokens after each path, to the first stop id; each place may be asked for once.

        A state is what the head read when it wrote the token.
        """
        places = torch.tensor([ask.place for ask in asks])
        shared = [_shared(self._held[ask.place], ask.path) for ask in asks]
        layers = [_Places(keys[places], values[places]) for keys, values in self._layers]
        cache = Cache(layers=[*layers])
        state = self._read(cache, layers, asks, shared)
        tokens, states, likely = [], [], []
        lengths = torch.tensor([len(ask.path) for ask in asks])
        going = torch.ones(len(asks), dtype=torch.bool)
        written = torch.zeros(len(asks), dtype=torch.long)
        for number in range(count):
            logits = self._model.lm_head(state)[:, : self._vocabulary].float()
            best = logits.topk(Q_TOKENS, dim=1)
            chosen = logits.argmax(dim=1)  # ties to the lowest id, as the sampler's; topk promises none
            tokens.append(chosen)
            states.append(state)
            likely.append((best.indices, (best.values - logits.logsumexp(dim=1, keepdim=True)).exp()))
            written += going
            going &= ~torch.isin(chosen, self._stops)
            if number + 1 == count or not going.any():
                break
            state = self._forward(cache, layers, chosen[:, None], (lengths + number)[:, None])[:, 0]
        for number, (keys, values) in enumerate(self._layers):
            layer = layers[number]
            assert layer.keys is not None
            assert layer.values is not None
            keys[places], values[places] = layer.keys, layer.values
        return self._lines(asks, written.tolist(), torch.stack(tokens, 1), torch.stack(states, 1), likely)

    def _read(self, cache: Cache, layers: list[_Places], asks: Sequence[Ask], shared: Sequence[int]) -> Tensor:
        """Read what the places lack of the paths; return the state [B, d] after each one's last token."""
        lacking = [ask.path[known:] for ask, known in zip(asks, shared, strict=True)]
        widest = max(map(len, lacking))
        ids = torch.tensor([[*part, *[0] * (widest - len(part))] for part in lacking])
        at = torch.tensor(
            [
                [*range(known, known + len(part)), *[self._room] * (widest - len(part))]
                for known, part in zip(shared, lacking, strict=True)
            ]
        )
        states = self._forward(cache, layers, ids, at)
        last = torch.tensor([len(part) - 1 for part in lacking])
        return states[torch.arange(len(asks)), last]

    def _forward(self, cache: Cache, layers: list[_Places], ids: Tensor, at: Tensor) -> Tensor:
        """Run ids [B, n] at positions ``at``; those at the room's end are padding. Return states [B, n, d]."""
        seen = int(at.masked_fill(at == self._room, 0).max()) + 1
        for layer in layers:
            layer.at, layer.seen = at, seen
        mask = torch.where(torch.arange(seen) <= at[:, None, :, None], 0.0, torch.finfo(torch.float32).min)
        output = self._model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True
        )
        states: Tensor = output.last_hidden_state
        return states

    def best_place(self, places: Sequence[int], path: Path) -> int:
        """Return which of these places holds most of a path."""
        return max(places, key=lambda place: _shared(self._held[place], path))

    def _lines(
        self,
        asks: Sequence[Ask],
        written: Sequence[int],
        tokens: Tensor,
        states: Tensor,
        likely: Sequence[tuple[Tensor, Tensor]],
    ) -> list[Line]:
        width = states.shape[1]
        packed = pack_rows(states.reshape(-1, self.state_width).numpy(), self._kind)
        size = len(packed) // (len(asks) * width)
        ids, chances = (torch.stack([pair[part] for pair in likely], 1).numpy() for part in (0, 1))
        lines = []
        for number, (ask, count) in enumerate(zip(asks, written, strict=True)):
            line = tuple(tokens[number, :count].tolist())
            first = number * width
            rows = tuple(packed[(first + at) * size : (first + at + 1) * size] for at in range(count))
            # The last token of a line is written, not read.
            self._held[ask.place] = (*ask.path, *line[: min(count, width - 1)])
            lines.append(Line(line, rows, (ids[number, :count], chances[number, :count].astype(np.float64))))
        return lines


def _shared(held: Path, path: Path) -> int:
    """Return how many of a path's first tokens are held; its last one is always read again."""
    most = min(len(held), len(path) - 1)
    if held[:most] == path[:most]:
        return most
    return next(index for index in range(most) if held[index] != path[index])
