"""Logits to a token: the target's choice on the edge, the drafter's guess on the device, by one rule.

Sampler ``gumbel-splitmix64-1`` (DESIGN §3A): the token at absolute position i is the lowest id that maximises
``logit / T + G(seed, i, id)`` over the candidates that survive, in this order: rows at or above the tokenizer's size,
which some models carry as padding, fall out, and with them logits of minus infinity; repetition, presence and frequency
penalty; temperature; top-k; top-p; min-p. At temperature 0 it is the lowest id with the greatest penalised logit.

Scores are float64 from float32 logits, every operation rounded on its own. What truncates first looks at float32, where
a row is cheap to scan, but only to leave out what cannot matter; each decision is that of the rule in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from airdraft.core.noise import draw_key, gumbel_of, words
from airdraft.core.types import Sampling

Ids = NDArray[np.int64]
Scores = NDArray[np.float64]

ONE = 2.0**40  # the weight of the likeliest token, in top-p's integers

_FINITE = np.finfo(np.float32)
_COLUMN = 64
_PIECE = 1 << 13  # candidates whose hashes stay in a core's cache
_DEPTHS = (6.0, 10.0, 14.0)  # how far under the greatest score, less log(1 - top_p), top-p looks before it weighs all


def check(sampling: Sampling) -> None:
    """Raise ValueError where a setting is out of its range, naming it."""
    for name, good, range_in_words in (
        ("temperature", sampling.temperature == 0 or 1e-9 <= sampling.temperature <= 1e9, "0 or from 1e-9 to 1e9"),
        ("seed", 0 <= sampling.seed < 1 << 64, "at least 0 and below 2^64"),
        ("top_k", sampling.top_k >= 0, "at least 0"),
        ("top_p", 0 <= sampling.top_p <= 1, "from 0 to 1"),
        ("min_p", 0 <= sampling.min_p <= 1, "from 0 to 1"),
        ("repetition_penalty", 1e-3 <= sampling.repetition_penalty <= 1e3, "from 0.001 to 1000"),
        ("presence_penalty", -100 <= sampling.presence_penalty <= 100, "from -100 to 100"),
        ("frequency_penalty", -100 <= sampling.frequency_penalty <= 100, "from -100 to 100"),
    ):
        if not good:
            raise ValueError(f"{name} must be {range_in_words}, not {getattr(sampling, name)}")


def truncates(sampling: Sampling, vocabulary: int) -> bool:
    """Say whether top-k, top-p or min-p can leave a candidate out."""
    return 0 < sampling.top_k < vocabulary or sampling.top_p < 1 or sampling.min_p > 0


def penalised(sampling: Sampling) -> bool:
    """Say whether the tokens of the path matter."""
    return (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0)


def choose(logits: NDArray[np.float32], sampling: Sampling, vocabulary: int, path: Sequence[int]) -> int:
    """Return the token at position ``len(path)``.

    logits      [V]  float32, V at least ``vocabulary``
    vocabulary  size of the tokenizer: ids at or above it are padding
    path        every id before it: prompt, committed, draft ancestors

    Raises ValueError where a logit is NaN or infinite, where all are minus infinity, where a setting is out of range.
    """
    if sampling.temperature == 0 and not penalised(sampling):
        check(sampling)
        token = int(np.argmax(logits[:vocabulary]))  # numpy gives the first of equals, and a NaN before any number
        if not math.isfinite(logits[token]):
            raise ValueError(f"the greatest logit is {logits[token]}")
        return token
    position = len(path)
    if sampling.temperature != 0 and not truncates(sampling, vocabulary):
        check(sampling)
        return _coupled(_row(logits, sampling, vocabulary, path).pieces(), sampling.seed, position)
    ids, scores = survivors(logits, sampling, vocabulary, path)
    return coupled_choice(ids, scores, sampling.seed, position)


def coupled_choice(ids: Ids, scores: Scores, seed: int, position: int) -> int:
    """Return the candidate that wins at a position (Daliri, Musco, Suresh 2024, arXiv 2408.07978).

    ids     [N]  the candidates
    scores  [N]  their logits / temperature
    """
    if len(ids) == 1:
        return int(ids[0])
    starts = range(0, len(ids), _PIECE)
    return _coupled(((ids[at : at + _PIECE], scores[at : at + _PIECE]) for at in starts), seed, position)


def _coupled(pieces: Iterable[tuple[Ids, Scores]], seed: int, position: int) -> int:
    """Return the winner among pieces of ascending ids; a piece may repeat candidates of another.

    A candidate needs its logarithms only if it can still win: -log(u) >= 1 - u, so noise of g takes u >= 1 - exp(-g).
    """
    key, best, winner = draw_key(seed, position), -math.inf, -1
    for ids, scores in pieces:
        if not len(ids):
            continue
        word = words(key, ids)
        if winner >= 0:
            greatest = float(scores.max())
            gap = best - greatest - (abs(best) + abs(greatest) + 1) * 2.0**-40  # far more than rounding can move
            if gap > 0:
                least = max(0, int(-math.expm1(-gap) * 2.0**64) - (1 << 24))
                (near,) = (word >= np.uint64(least)).nonzero()
                if not len(near):
                    continue
                ids, scores, word = ids[near], scores[near], word[near]
        total = gumbel_of(word)
        total += scores
        at = int(total.argmax())
        value, token = float(total[at]), int(ids[at])
        if winner < 0 or value > best or (value == best and token < winner):
            best, winner = value, token
    return winner


def probabilities(
    logits: NDArray[np.float32], sampling: Sampling, vocabulary: int, path: Sequence[int]
) -> tuple[Ids, Scores]:
    """Return the survivors, ascending, and the probability of each, both [N]: what ``choose`` draws from."""
    ids, scores = survivors(logits, sampling, vocabulary, path)
    weights = np.exp(scores - scores.max())
    return ids, weights / weights.sum()


def survivors(
    logits: NDArray[np.float32], sampling: Sampling, vocabulary: int, path: Sequence[int]
) -> tuple[Ids, Scores]:
    """Return the candidates that are left, ascending, and their penalised and tempered logits, both [N].

    At temperature 0 that is the argmax alone, with its penalised logit. Arguments and errors are those of ``choose``.
    """
    check(sampling)
    row = _row(logits, sampling, vocabulary, path)
    if sampling.temperature == 0:
        ids, scores = row.at_least(row.greatest)
        at = int(scores.argmax())
        return ids[at : at + 1], scores[at : at + 1]
    if 0 < sampling.top_k < vocabulary:
        ids, scores = _top_k(row, sampling.top_k)
        ids, scores = _top_p(ids, scores, sampling.top_p)
    elif sampling.top_p < 1:
        ids, scores = _top_p_of_all(row, sampling.top_p)
    elif sampling.min_p > 0:  # the bound is loose; the rule follows
        depth = sampling.temperature * -math.log(sampling.min_p)
        ids, scores = row.at_least(row.greatest - depth - 1e-6 * (depth + abs(row.greatest)))
    else:
        ids, scores = row.all()
    if sampling.min_p > 0:
        kept = scores >= scores.max() + math.log(sampling.min_p)
        ids, scores = ids[kept], scores[kept]
    return ids, scores


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of logits with its penalties."""

    known: NDArray[np.float32]  # [vocabulary], minus infinity where penalised
    ids: Ids  # the penalised candidates, ascending
    values: Scores  # and their logits
    temperature: float
    top: float  # the greatest of ``known``
    greatest: float  # of all

    def pieces(self) -> Iterator[tuple[Ids, Scores]]:
        """Yield every candidate with its score, the likeliest and the penalised ones first."""
        first = int(self.known.argmax())
        divisor = self.temperature
        yield np.array([first]), np.array([float(self.known[first]) / divisor])
        yield self.ids, self.values / divisor
        for start in range(0, len(self.known), _PIECE):
            scores = self.known[start : start + _PIECE].astype(np.float64)
            if divisor != 1:
                scores /= divisor
            yield np.arange(start, start + len(scores)), scores

    def mass(self) -> int:
        """Return the weight of all candidates together."""
        top = self.greatest / self.temperature
        return sum(int(_weights(scores, top).sum()) for _, scores in islice(self.pieces(), 1, None))

    def all(self) -> tuple[Ids, Scores]:
        """Return every candidate and its score."""
        scores = self.known.astype(np.float64)
        scores[self.ids] = self.values
        if self.temperature not in (0, 1):
            scores /= self.temperature
        ids = np.arange(len(scores))
        if scores.min() == -math.inf:
            ids = np.flatnonzero(scores > -math.inf)
            scores = scores[ids]
        return ids, scores

    def at_least(self, bound: float) -> tuple[Ids, Scores]:
        """Return every candidate with a logit of ``bound`` or more, and all penalised ones, with their scores."""
        ids = np.flatnonzero(self.known >= _as_float32(bound))
        scores = self.known[ids].astype(np.float64)
        if len(self.ids):
            ids, scores = np.concatenate((ids, self.ids)), np.concatenate((scores, self.values))
            order = np.argsort(ids)
            ids, scores = ids[order], scores[order]
        return ids, scores / (self.temperature or 1.0)


def _as_float32(bound: float) -> np.float32:
    """Return the nearest finite float32: above it lies what lies above ``bound``, but for what equals its rounding."""
    return np.float32(min(max(bound, float(_FINITE.min)), float(_FINITE.max)))


def _row(logits: NDArray[np.float32], sampling: Sampling, vocabulary: int, path: Sequence[int]) -> _Row:
    known = logits[:vocabulary]
    if len(known) < vocabulary:
        raise ValueError(f"{len(known)} logits for a vocabulary of {vocabulary}")
    top = float(known.max())  # numpy's maximum of a NaN and anything is NaN
    if not math.isfinite(top):
        raise ValueError(f"the greatest logit is {top}")
    if not penalised(sampling):
        return _Row(known, np.empty(0, dtype=np.int64), np.empty(0), sampling.temperature, top, top)
    ids, counts = np.unique(np.asarray(path, dtype=np.int64), return_counts=True)
    inside = (ids >= 0) & (ids < vocabulary)
    ids, counts = ids[inside], counts[inside]
    values = known[ids].astype(np.float64)
    repetition = sampling.repetition_penalty
    values = np.where(values > 0, values / repetition, values * repetition)
    values -= sampling.presence_penalty
    values -= sampling.frequency_penalty * counts
    alive = values > -math.inf
    known = known.copy()
    known[ids] = -math.inf
    top, ids, values = float(known.max()), ids[alive], values[alive]
    return _Row(known, ids, values, sampling.temperature, top, max(top, float(values.max(initial=-math.inf))))


def _top_k(row: _Row, count: int) -> tuple[Ids, Scores]:
    """Return the ``count`` greatest; of equals at the boundary the lowest ids."""
    ids, scores = row.at_least(_no_more_than_the_kth(row.known, count))
    if len(ids) > count:
        boundary = np.partition(scores, len(ids) - count)[len(ids) - count]
        kept = _first_of_equals(scores, boundary, count)
        ids, scores = ids[kept], scores[kept]
    return ids, scores


def _no_more_than_the_kth(values: NDArray[np.float32], count: int) -> float:
    """Return a bound that at least ``count`` values reach, cheaply: the greatest of each column are as many values."""
    columns = len(values) // _COLUMN
    if count <= columns:
        values = values[: columns * _COLUMN].reshape(_COLUMN, columns).max(axis=0)
    return float(np.partition(values, len(values) - count)[len(values) - count])


def _first_of_equals(values: Scores | Ids, boundary: np.float64 | np.int64, count: int) -> NDArray[np.bool_]:
    """Mark the ``count`` greatest, of which ``boundary`` is the least; of those equal to it, the first ones."""
    kept: NDArray[np.bool_] = values > boundary
    kept[np.flatnonzero(values == boundary)[: count - int(np.count_nonzero(kept))]] = True
    return kept


def _weights(scores: Scores, greatest: float) -> Ids:
    weights = scores - greatest
    np.exp(weights, out=weights)
    weights *= ONE
    return weights.astype(np.int64)  # towards 0, which is the floor


def target_mass(top_p: float, total: int) -> int:
    """Return the mass that top-p has to reach; never 0, so that one candidate stays. Rises with ``total``."""
    return max(1, min(total, math.ceil(top_p * float(total))))


def _top_p(ids: Ids, scores: Scores, top_p: float) -> tuple[Ids, Scores]:
    """Return the smallest set, in order of weight falling and id rising, that has ``top_p`` of the candidates' mass."""
    if top_p == 1:
        return ids, scores
    weights = _weights(scores, scores.max())
    total = int(weights.sum())
    pool = weights[weights > int((1 - top_p) * total / (2 * len(ids)))]  # all the others have half of 1 - top_p
    pool[::-1].sort()
    at = int(np.searchsorted(np.cumsum(pool), target_mass(top_p, total)))
    kept = _first_of_equals(weights, pool[at], at + 1)
    return ids[kept], scores[kept]


def _sum(values: NDArray[np.float32]) -> float:
    """Return the sum to 64 units of 2^-24: of each column in float32, of those in float64."""
    columns = len(values) // _COLUMN
    body = values[: columns * _COLUMN].reshape(_COLUMN, columns).sum(axis=0)
    return float(body.sum(dtype=np.float64)) + float(values[columns * _COLUMN :].sum(dtype=np.float64))


def _top_p_of_all(row: _Row, top_p: float) -> tuple[Ids, Scores]:
    """Return what ``_top_p`` keeps of all candidates, but sort only the likely ones.

    Those within some depth of the greatest are weighed exactly, the tail in float32. Where every total that the error
    of the tail allows makes the set end with the same candidate, that is the set; else all are weighed. The relative
    error in units of 2^-24: 32 from exp (numpy has 4 at most) and 64 from the sum; at another temperature than 1 or
    with a shift also 3 * 68 from a scaled logit of at most 68 (difference, 1 / T, product). More than 28 under the
    greatest the exact weight is 0; flooring takes less than 1.
    """
    greatest, top, inverse = row.greatest, row.top, 1 / row.temperature
    if top == -math.inf:
        return _top_p(*row.all(), top_p)
    shift = 0.0 if -40 < top * inverse < 60 else top  # a pass less where no sum of exp overflows or vanishes
    doubt = 2.0**-17 if shift == 0 and inverse == 1 else 2.0**-15
    with np.errstate(over="ignore"):
        tail = row.known if shift == 0 else row.known - np.float32(shift)
        tail = np.exp(tail if inverse == 1 else tail * np.float32(inverse))
    scale = ONE * math.exp((shift - greatest) * inverse)
    for more in _DEPTHS:
        depth = more - math.log1p(-top_p)
        bound = float(_as_float32(greatest - depth * row.temperature))
        ids, scores = row.at_least(bound)
        if len(ids) > len(tail) >> 1:
            break
        tail[ids] = 0
        weights = _weights(scores, greatest / row.temperature)
        ordered = np.sort(weights)[::-1]
        mass = np.cumsum(ordered)
        found, rest = int(mass[-1]), _sum(tail) * scale
        least = found + max(0, math.floor(rest * (1 - doubt)) - 2 * len(tail))
        most = found + math.ceil(rest * (1 + doubt)) + 2 * len(tail)
        at, at_most = np.searchsorted(mass, [target_mass(top_p, least), target_mass(top_p, most)])
        if at < at_most:
            at = at_most = np.searchsorted(mass, target_mass(top_p, row.mass()))
        outside = ONE * math.exp((bound - greatest) / row.temperature) + 1
        if at == at_most < len(ordered) and ordered[at] > outside:
            kept = _first_of_equals(weights, ordered[at], int(at) + 1)
            return ids[kept], scores[kept]
    return _top_p(*row.all(), top_p)
