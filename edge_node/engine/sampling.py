"""The sampler on torch tensors: the batched twin of ``airdraft.core.sampling``, on any device.

The choices are those of the reference, row by row. Scores have the same bits: float64, one rounding an operation, and
divisors as tensors, because torch multiplies by the reciprocal of a Python number on CUDA. Only exp and log may differ
in the last bit, which moves a choice where two candidates are that near.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from airdraft.core.noise import FOLDS, GOLDEN, LAST_FOLD, draw_key
from airdraft.core.sampling import ONE, check, penalised, truncates
from airdraft.core.types import Sampling

_NUCLEUS = 1024  # candidates sorted for top-p before all are


def choose_rows(logits: Tensor, sampling: Sampling, vocabulary: int, paths: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the token after each row.

    logits      [rows, V]  float32, V at least ``vocabulary``
    vocabulary  size of the tokenizer: ids at or above it are padding
    paths       of each row every id before the token: prompt, committed, draft ancestors

    Raises ValueError as ``airdraft.core.sampling.choose`` does.
    """
    check(sampling)
    if len(paths) != len(logits) or logits.shape[1] < vocabulary:
        raise ValueError(f"{len(paths)} paths and {vocabulary} ids for logits {list(logits.shape)}")
    if not len(logits):
        return ()
    known = logits[:, :vocabulary]
    if sampling.temperature == 0 and not penalised(sampling):
        tokens = known.argmax(dim=1, keepdim=True)  # torch gives the first of equals, and a NaN before any number
        _demand_finite(known.gather(1, tokens))
        return tuple(tokens[:, 0].tolist())
    _demand_finite(known.amax(dim=1))
    scores = known.double()
    if penalised(sampling):
        _penalise(scores, sampling, paths)
    if sampling.temperature != 0:
        scores /= _scalar(sampling.temperature, scores)
        _truncate(scores, sampling)
        _add_noise(scores, sampling, [len(path) for path in paths])
    return tuple(scores.argmax(dim=1).tolist())


def gumbel(keys: Tensor, ids: Tensor) -> Tensor:
    """Return the noise of ``airdraft.core.noise`` for draw keys and ids, int64 tensors that broadcast."""
    uniforms = _shift(_mix(keys + ids * _signed(GOLDEN)), 12).double() * 2.0**-52 + 2.0**-53
    return uniforms.log_().neg_().log_().neg_()


def keys_of(seed: int, positions: Sequence[int], device: torch.device) -> Tensor:
    """Return the draw key of each position, as the int64 of the same bits."""
    return torch.tensor([_signed(draw_key(seed, position)) for position in positions], device=device)


def _demand_finite(greatest: Tensor) -> None:
    if not greatest.isfinite().all():
        raise ValueError("the greatest logit of a row is no finite number")


def _penalise(scores: Tensor, sampling: Sampling, paths: Sequence[Sequence[int]]) -> None:
    rows, vocabulary = scores.shape
    owners = np.repeat(np.arange(rows), [len(path) for path in paths])
    ids = np.concatenate([np.asarray(path, dtype=np.int64) for path in paths])
    inside = (ids >= 0) & (ids < vocabulary)
    cells = torch.from_numpy((owners * vocabulary + ids)[inside]).to(scores.device)
    counts = torch.zeros(scores.numel(), dtype=torch.int64, device=scores.device)
    counts.scatter_add_(0, cells, torch.ones_like(cells))
    (seen,) = counts.nonzero(as_tuple=True)
    flat = scores.view(-1)
    values = flat[seen]
    repetition = _scalar(sampling.repetition_penalty, scores)
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= sampling.presence_penalty
    values -= sampling.frequency_penalty * counts[seen].double()
    flat[seen] = values


def _truncate(scores: Tensor, sampling: Sampling) -> None:
    """Set the scores of all that top-k, top-p and min-p leave out to minus infinity."""
    if 0 < sampling.top_k < scores.shape[1]:
        boundary = scores.topk(sampling.top_k, dim=1).values[:, -1:]
        scores.masked_fill_(~_first_of_equals(scores, boundary, sampling.top_k), -math.inf)
    greatest = scores.amax(dim=1, keepdim=True)
    if sampling.top_p < 1:
        scores.masked_fill_(~_nucleus(scores, greatest, sampling), -math.inf)
    if sampling.min_p > 0:
        scores.masked_fill_(scores < greatest + math.log(sampling.min_p), -math.inf)


def _nucleus(scores: Tensor, greatest: Tensor, sampling: Sampling) -> Tensor:
    weights = ((scores - greatest).exp_() * ONE).long()
    total = weights.sum(dim=1, keepdim=True)
    target = (total.double() * sampling.top_p).ceil_().long().minimum(total).clamp_(min=1)
    sorted_count = min(sampling.top_k or _NUCLEUS, _NUCLEUS, scores.shape[1])
    ordered = weights.topk(sorted_count, dim=1).values
    mass = ordered.cumsum(dim=1)
    if (mass[:, -1:] < target).any():
        ordered = weights.sort(dim=1, descending=True).values
        mass = ordered.cumsum(dim=1)
    at = (mass < target).sum(dim=1, keepdim=True)
    return _first_of_equals(weights, ordered.gather(1, at), at + 1)


def _first_of_equals(values: Tensor, boundary: Tensor, count: Tensor | int) -> Tensor:
    """Mark each row's ``count`` greatest, of which ``boundary`` is the least; of those equal to it, the first ones."""
    above, equal = values > boundary, values == boundary
    return above | (equal & (equal.cumsum(dim=1) <= count - above.sum(dim=1, keepdim=True)))


def _add_noise(scores: Tensor, sampling: Sampling, positions: Sequence[int]) -> None:
    keys = keys_of(sampling.seed, positions, scores.device)
    if truncates(sampling, scores.shape[1]):
        rows, ids = (scores > -math.inf).nonzero(as_tuple=True)
        scores[rows, ids] += gumbel(keys[rows], ids)
    else:
        scores += gumbel(keys[:, None], torch.arange(scores.shape[1], device=scores.device))


def _scalar(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def _signed(word: int) -> int:
    """Return the int64 with the bits of an unsigned word."""
    return word - (1 << 64) if word >> 63 else word


def _shift(word: Tensor, by: int) -> Tensor:
    """Shift right, filling with zeros: torch has int64 alone, whose own shift copies the sign."""
    return (word >> by) & ((1 << (64 - by)) - 1)


def _mix(word: Tensor) -> Tensor:
    for fold, factor in FOLDS:
        word = (word ^ _shift(word, fold)) * _signed(factor)  # int64 products wrap
    return word ^ _shift(word, LAST_FOLD)
