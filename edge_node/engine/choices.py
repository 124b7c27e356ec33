"""Who wins a row, and who could: the survivors of top-k, top-p and min-p under scores that may be a little wrong.

``drift`` is by how much two scores of a row can move against each other; 0 where nobody asks. Each score moves on its
own, so the r-th greatest of a row moves against any candidate by no more than that. Hence

- top-k: who is above the (k+1)-th by more than the drift stays; who is below the k-th by more stays out;
- top-p: the odds of the n likeliest against the rest move by a factor exp(drift) at most, so between two known ranks
  lies the last that is kept; from there on as for top-k, with the whole-number weights;
- min-p: a distance from the greatest, which moves by the drift.

A row's choice stands if the winner stays whatever happens and beats by more than the drift all who could stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import and_

import torch
from torch import Tensor

from airdraft.core.sampling import ONE
from airdraft.core.types import Sampling

_BLOCK = 256  # values whose greatest is found first
_FEW = 1 << 16  # values in all, for which blocks are not worth their calls
_DEPTHS = (6.0, 10.0, 14.0)  # how far under the greatest score, less log(1 - top_p), candidates are gathered first
_FLOORS = 4  # what rounding two weights down, and the last bits of two exponentials, can come to
_STEEPEST = 300.0  # its exponential is finite, and above the quotient of any two weights

Noise = Callable[[Tensor, Tensor], Tensor]
"""The noise of candidates, given their rows and ids."""


def leaders(values: Tensor, drift: float) -> tuple[Tensor, Tensor | None]:
    """Return of each row [R, N] the first of the greatest, and whether another is within ``drift`` of it.

    The greatest must be finite. Taken by blocks, for which torch has vector code, as it has not for argmax on CPUs.
    """
    count = values.shape[1]
    if count <= 4 * _BLOCK or values.numel() <= _FEW:
        best = values.argmax(dim=1, keepdim=True)
        return best[:, 0], _close(values, best, drift) if drift else None
    peaks = values.unfold(1, _BLOCK, _BLOCK).amax(dim=2)
    if count % _BLOCK:
        peaks = torch.cat([peaks, values[:, count - count % _BLOCK :].amax(dim=1, keepdim=True)], dim=1)
    block = peaks.argmax(dim=1, keepdim=True)
    ids = block * _BLOCK + torch.arange(_BLOCK, device=values.device)
    inside = values.gather(1, ids.clamp(max=count - 1))
    inside.masked_fill_(ids >= count, -math.inf)
    at = inside.argmax(dim=1, keepdim=True)
    near = _close(peaks, block, drift) | _close(inside, at, drift) if drift else None
    return (block * _BLOCK + at)[:, 0], near


def contest(scores: Tensor, sampling: Sampling, drift: float, noise: Noise) -> tuple[Tensor, Tensor | None]:
    """Return of each row the id that survives truncation and wins with its noise, and whether that could turn.

    scores  [R, V]  logits / temperature, of which each row's greatest is finite
    """
    field, fates = _survivors(scores, sampling, drift)
    rows, slots = (fates.possible | fates.kept if drift else fates.kept).nonzero(as_tuple=True)
    totals = torch.full_like(field.scores, -math.inf)
    totals[rows, slots] = field.scores[rows, slots] + noise(rows, field.ids[rows, slots])
    if not drift:
        return _taken(field.ids, leaders(totals, 0)[0]), None
    winners, _ = leaders(totals.masked_fill(~fates.kept, -math.inf), 0)
    at = winners[:, None]
    alone = ~_close(field.scores, at, drift)  # of all candidates without noise: it is first whatever happens
    stays = _taken(fates.sure, winners) | alone
    return _taken(field.ids, winners), ~stays | _close(totals, at, drift)


def scalar(value: float, like: Tensor) -> Tensor:
    """Return a number as a tensor of the same kind, by which torch divides as it says."""
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def _taken(values: Tensor, at: Tensor) -> Tensor:
    return values.gather(1, at[:, None])[:, 0]


def _close(values: Tensor, at: Tensor, drift: float) -> Tensor:
    """Say of each row whether another value reaches the one at ``at`` [R, 1] less ``drift``."""
    return values.scatter(1, at, -math.inf).amax(dim=1) >= values.gather(1, at)[:, 0] - drift


@dataclass(frozen=True, slots=True)
class _Field:
    """Candidates of each row [R, N], ids ascending; a row with fewer than another is filled up with scores -inf.

    Who is not among them neither survives nor could.
    """

    ids: Tensor
    scores: Tensor


@dataclass(frozen=True, slots=True)
class _Fates:
    """What becomes of each candidate, bool; without drift all three are the same."""

    kept: Tensor
    possible: Tensor  # could survive
    sure: Tensor  # survives whatever happens

    def __and__(self, other: _Fates) -> _Fates:
        return _Fates(self.kept & other.kept, self.possible & other.possible, self.sure & other.sure)


@dataclass(frozen=True, slots=True)
class _Mass:
    """The weight [R, 1] that top-p has to reach, and where drift makes it reach that at the soonest and latest."""

    target: Tensor
    soonest: Tensor
    latest: Tensor


def _survivors(scores: Tensor, sampling: Sampling, drift: float) -> tuple[_Field, _Fates]:
    greatest = scores.amax(dim=1, keepdim=True)
    stages: list[_Fates] = []
    if 0 < sampling.top_k < scores.shape[1]:
        ordered = scores.topk(sampling.top_k + 1, dim=1).values
        ids, scores = _gathered(scores >= ordered[:, -1:] - drift, scores)
        stages.append(_top_k(scores, ordered, drift))
        if sampling.top_p < 1:
            weights = _weights(scores, greatest)
            counted = weights.masked_fill(~stages[0].kept, 0)
            stages.append(_top_p(weights, counted, _mass(counted, sampling.top_p, drift), drift))
    elif sampling.top_p < 1:
        weights = _weights(scores, greatest)
        mass = _mass(weights, sampling.top_p, drift)
        ids, scores, weights = _gathered(_likely(weights, mass, sampling.top_p, drift), scores, weights)
        stages.append(_top_p(weights, weights, mass, drift))
    else:
        ids, scores = _gathered(scores >= greatest + (math.log(sampling.min_p) - drift), scores)
    if sampling.min_p > 0:
        stages.append(_min_p(scores, greatest, sampling.min_p, drift))
    return _Field(ids, scores), reduce(and_, stages)


def _gathered(here: Tensor, *values: Tensor) -> list[Tensor]:
    """Return the ids of the marked candidates [R, N] and these values of theirs; fill rows up with the least there is.

    Where most of a row is marked all stay: what decides later decides on those as well.
    """
    rows, count = here.shape
    counts = here.sum(dim=1)
    width = int(counts.max())
    if 2 * width > count:
        return [torch.arange(count, device=here.device).expand(rows, count), *values]
    owners, ids = here.nonzero(as_tuple=True)
    slots = torch.arange(len(ids), device=here.device) - (counts.cumsum(0) - counts)[owners]
    gathered = [ids.new_zeros(rows, width)]
    gathered += [value.new_full((rows, width), -math.inf if value.is_floating_point() else 0) for value in values]
    for target, found in zip(gathered, (ids, *(value[owners, ids] for value in values)), strict=True):
        target[owners, slots] = found
    return gathered


def _top_k(scores: Tensor, ordered: Tensor, drift: float) -> _Fates:
    """Judge by the greatest scores in order [R, top_k + 1]."""
    last, next_best = ordered[:, -2:-1], ordered[:, -1:]
    kept = _first_of_equals(scores, last, ordered.shape[1] - 1)
    if not drift:
        return _Fates(kept, kept, kept)
    return _Fates(kept, scores >= last - drift, scores > next_best + drift)


def _min_p(scores: Tensor, greatest: Tensor, min_p: float, drift: float) -> _Fates:
    bound = greatest + math.log(min_p)
    kept = scores >= bound
    if not drift:
        return _Fates(kept, kept, kept)
    return _Fates(kept, scores >= bound - drift, scores >= bound + drift)


def _weights(scores: Tensor, greatest: Tensor) -> Tensor:
    return (scores - greatest).exp_().mul_(ONE).long()


def _mass(weights: Tensor, top_p: float, drift: float) -> _Mass:
    total = weights.sum(dim=1, keepdim=True)
    exact = total.double()
    target = (exact * top_p).ceil_().long().minimum(total).clamp_(min=1)
    if not drift:
        return _Mass(target, target, target)
    floors = (weights.shape[1] + 2) / ONE  # share of a row's mass that rounding weights down can come to
    soonest = exact * (_share(top_p - floors, -drift) - floors)
    return _Mass(target, soonest, exact * (_share(top_p + floors, drift) + floors))


def _share(share: float, drift: float) -> float:
    """Return the share of a whole whose odds are exp(drift) times those of ``share``."""
    if not 0 < share < 1:
        return share
    grown = share * math.exp(max(-_STEEPEST, min(drift, _STEEPEST)))
    return grown / (grown + 1 - share)


def _likely(weights: Tensor, mass: _Mass, top_p: float, drift: float) -> Tensor:
    """Mark candidates that have all the weight top-p can ask for, and whoever could take the place of one."""
    depths = (depth - math.log1p(-top_p) for depth in _DEPTHS)
    first, *deeper = *(int(ONE * math.exp(-depth)) for depth in depths), 0
    bound = torch.full_like(mass.target, first)
    for level in deeper:
        short = (weights * (weights >= bound)).sum(dim=1, keepdim=True) < mass.latest
        if not short.any():
            break
        bound.masked_fill_(short, level)
    if drift:
        bound = (bound.double() * math.exp(-min(drift, _STEEPEST))).long() - _FLOORS
    return weights >= bound


def _top_p(weights: Tensor, counted: Tensor, mass: _Mass, drift: float) -> _Fates:
    """Judge by weights; ``counted`` are those that make up the mass, the others 0."""
    ordered = counted.sort(dim=1, descending=True).values
    summed = ordered.cumsum(dim=1)
    at = (summed < mass.target).sum(dim=1, keepdim=True)
    kept = _first_of_equals(counted, ordered.gather(1, at), at + 1)
    if not drift:
        return _Fates(kept, kept, kept)
    end, growth = ordered.shape[1] - 1, math.exp(min(drift, _STEEPEST))
    last = (summed < mass.latest).sum(dim=1, keepdim=True).clamp_(max=end)
    after = (summed < mass.soonest).sum(dim=1, keepdim=True).add_(1).clamp_(max=end)
    ordered = ordered.double()  # whole numbers times a Python number would be float32
    possible = weights > ordered.gather(1, last) / growth - _FLOORS
    return _Fates(kept, possible, weights >= (ordered.gather(1, after) + _FLOORS) * growth)


def _first_of_equals(values: Tensor, boundary: Tensor, count: Tensor | int) -> Tensor:
    """Mark each row's ``count`` greatest, of which ``boundary`` is the least; of those equal to it, the first ones."""
    above, equal = values > boundary, values == boundary
    return above | (equal & (equal.cumsum(dim=1) <= count - above.sum(dim=1, keepdim=True)))
