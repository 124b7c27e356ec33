"""The sampler on torch tensors: the batched twin of ``airdraft.core.sampling``, on any device, for many sessions.

The choices are those of the reference, row by row. Scores have the same bits: float64, one rounding an operation, and
divisors as tensors, because torch multiplies by the reciprocal of a Python number on CUDA. Only exp and log may differ
in the last bit, which moves a choice where two candidates are that near.

A near tie is a row whose choice could be another if every logit moved by at most ``tie``. None is missed; of those
named a few could not turn after all, because each candidate is taken to move as suits it best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from airdraft.core.noise import FOLDS, GOLDEN, LAST_FOLD, draw_key
from airdraft.core.sampling import check, penalised, truncates
from airdraft.core.types import Sampling
from edge_node.engine.choices import contest, leaders, scalar

_ROUNDING = 1 + 2.0**-10  # float64 moves a score by far less than 2^-10 of what a float32 logit can move it by
_CELLS = 1 << 24  # scores that are computed at a time
_CPU_CELLS = 1 << 18  # so that they stay in a cache

Paths = Sequence[Sequence[int]]

Part = tuple[Sampling, Sequence[int], Paths | None]
"""One session's rows: its settings; of each row the position of the token that is chosen; and of each row every id
before that token (prompt, committed, draft ancestors), or None for all where no penalty reads them."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The token after each of a part's rows, and the indices of those rows that are near ties."""

    tokens: tuple[int, ...]
    near_ties: tuple[int, ...] = ()


class _Draw(NamedTuple):
    """One choice among many that are made alike."""

    row: int  # of the logits
    seed: int
    position: int
    path: Sequence[int]


def choose_rows(logits: Tensor, sampling: Sampling, vocabulary: int, paths: Paths) -> tuple[int, ...]:
    """Return the token after each row.

    logits      [rows, V]  float32, V at least ``vocabulary``
    vocabulary  size of the tokenizer: ids at or above it are padding
    paths       of each row every id before the token: prompt, committed, draft ancestors

    Raises ValueError as ``airdraft.core.sampling.choose`` does.
    """
    (chosen,) = choose_batch(logits, [(sampling, [len(path) for path in paths], paths)], vocabulary, 0)
    if isinstance(chosen, ValueError):
        raise chosen
    return chosen.tokens


def choose_batch(logits: Tensor, parts: Sequence[Part], vocabulary: int, tie: float) -> list[Chosen | ValueError]:
    """Return what is chosen for each part, or why it has no choice: a bad row or setting harms its own part alone.

    logits      [rows of all parts, one part after the other, V]  float32, V at least ``vocabulary``
    vocabulary  size of the tokenizer: ids at or above it are padding
    tie         how far a logit may be from its true value; 0 names no near ties

    Raises ValueError where the parts do not make up the rows.
    """
    rows = sum(len(positions) for _, positions, _ in parts)
    if rows != len(logits) or logits.shape[1] < vocabulary:
        raise ValueError(f"{rows} positions or paths and {vocabulary} ids for logits {list(logits.shape)}")
    known = logits[:, :vocabulary]
    finite = known.amax(dim=1).isfinite().tolist() if rows else []
    flaws: list[ValueError | None] = []
    alike: dict[tuple[float, ...], tuple[Sampling, list[_Draw]]] = {}
    first = 0
    for part in parts:
        end = first + len(part[1])
        flaws.append(_flaw(part, finite[first:end]))
        if flaws[-1] is None and part[1]:
            alike.setdefault(_kind(part[0]), (part[0], []))[1].extend(_draws(part, first))
        first = end
    tokens, near = [0] * rows, [False] * rows
    for sampling, draws in alike.values():
        for piece in _pieces(draws, sampling, known):
            for draw, token, close in zip(piece, *_choose_alike(known, sampling, piece, tie), strict=True):
                tokens[draw.row], near[draw.row] = token, close
    return _by_part(parts, flaws, tokens, near)


def gumbel(keys: Tensor, ids: Tensor) -> Tensor:
    """Return the noise of ``airdraft.core.noise`` for draw keys and ids, int64 tensors that broadcast."""
    uniforms = _shift(_mix(keys + ids * _signed(GOLDEN)), 12).double() * 2.0**-52 + 2.0**-53
    return uniforms.log_().neg_().log_().neg_()


def keys_of(draws: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Return the draw key of each seed and position, as the int64 of the same bits."""
    return torch.tensor([_signed(draw_key(seed, position)) for seed, position in draws], device=device)


def _flaw(part: Part, finite: Sequence[bool]) -> ValueError | None:
    sampling, positions, paths = part
    try:
        check(sampling)
    except ValueError as error:
        return error
    if penalised(sampling) and (paths is None or len(paths) != len(positions)):
        return ValueError(f"penalties read {len(positions)} paths, not {None if paths is None else len(paths)}")
    if not all(finite):
        return ValueError("the greatest logit of a row is no finite number")
    return None


def _kind(sampling: Sampling) -> tuple[float, ...]:
    """Return the settings that decide how a row is computed: all but the seed; at temperature 0 nothing is cut off."""
    cuts = () if sampling.temperature == 0 else (sampling.top_k, sampling.top_p, sampling.min_p)
    penalties = sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty
    return (sampling.temperature, *penalties, *cuts)


def _draws(part: Part, first: int) -> Iterator[_Draw]:
    sampling, positions, paths = part
    for at, position in enumerate(positions):
        yield _Draw(first + at, sampling.seed, position, paths[at] if paths else ())


def _pieces(draws: Sequence[_Draw], sampling: Sampling, known: Tensor) -> Iterator[Sequence[_Draw]]:
    """Cut the draws to as many at a time as their scores may take; an argmax alone has no scores."""
    if sampling.temperature == 0 and not penalised(sampling):
        return iter([draws])
    size = max(1, (_CPU_CELLS if known.device.type == "cpu" else _CELLS) // known.shape[1])
    return (draws[at : at + size] for at in range(0, len(draws), size))


def _by_part(
    parts: Sequence[Part], flaws: Sequence[ValueError | None], tokens: Sequence[int], near: Sequence[bool]
) -> list[Chosen | ValueError]:
    outcomes: list[Chosen | ValueError] = []
    first = 0
    for (_, positions, _), flaw in zip(parts, flaws, strict=True):
        end = first + len(positions)
        close = tuple(at for at, is_near in enumerate(near[first:end]) if is_near)
        outcomes.append(flaw or Chosen(tuple(tokens[first:end]), close))
        first = end
    return outcomes


def _choose_alike(
    known: Tensor, sampling: Sampling, draws: Sequence[_Draw], tie: float
) -> tuple[Sequence[int], Sequence[bool]]:
    """Return the token of each draw, all of them with settings that are equal but for the seed, and the near ties."""
    picked = _picked(known, [draw.row for draw in draws])
    if sampling.temperature == 0 and not penalised(sampling):
        return _as_lists(*leaders(picked, 2 * tie * _ROUNDING))
    scores = picked.double()
    if penalised(sampling):
        _penalise(scores, sampling, [draw.path for draw in draws])
    drift = _drift(sampling, tie)
    if sampling.temperature == 0:
        return _as_lists(*leaders(scores, drift))
    if sampling.temperature != 1:
        scores /= scalar(sampling.temperature, scores)
    keys = keys_of([(draw.seed, draw.position) for draw in draws], scores.device)
    if truncates(sampling, scores.shape[1]):
        return _as_lists(*contest(scores, sampling, drift, lambda rows, ids: gumbel(keys[rows], ids)))
    scores += gumbel(keys[:, None], torch.arange(scores.shape[1], device=scores.device))
    return _as_lists(*leaders(scores, drift))


def _picked(known: Tensor, rows: Sequence[int]) -> Tensor:
    if rows[-1] - rows[0] == len(rows) - 1:
        return known[rows[0] : rows[-1] + 1]
    return known[torch.tensor(rows, device=known.device)]


def _as_lists(tokens: Tensor, near: Tensor | None) -> tuple[Sequence[int], Sequence[bool]]:
    return tokens.tolist(), [False] * len(tokens) if near is None else near.tolist()


def _drift(sampling: Sampling, tie: float) -> float:
    """Return by how much two scores can move against each other; 0 where near ties are not asked for."""
    if tie == 0:
        return 0.0
    steepest = max(1.0, sampling.repetition_penalty, 1 / sampling.repetition_penalty)
    return 2 * tie * steepest * _ROUNDING / (sampling.temperature or 1.0) + 2.0**-36


def _penalise(scores: Tensor, sampling: Sampling, paths: Paths) -> None:
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
    repetition = scalar(sampling.repetition_penalty, scores)
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= sampling.presence_penalty
    values -= sampling.frequency_penalty * counts[seen].double()
    flat[seen] = values


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
