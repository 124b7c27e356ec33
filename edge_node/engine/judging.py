"""Evidence of drafts that the target would not have chosen: of all sessions of a step, in a few products.

The bits of it depend on what else is in the step, as exact choices never do: a product of other rows may round
otherwise. Nothing that is no finite number gets out; a draft without evidence is judged strictly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.types import Evidence
from edge_node.engine.evidence import SCALARS, Embed, RowFacts, divergence, row_facts, target_features, token_scalars
from edge_node.engine.misses import Miss
from edge_node.engine.reflection import Reflection
from edge_node.engine.target import Target
from edge_node.heads import HeadFile
from edge_node.step import Item, Judged


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """What a pass made of judged items.

    logits   [wanted rows of all items, V]  float32
    firsts   of each item, where its rows begin
    states   [wanted rows of all items, d]  what the LM head read, where a head is asked
    """

    logits: Tensor
    firsts: Sequence[int]
    states: Tensor | None = None


class TargetJudge:
    """Makes evidence of a pass; holds the target parts of heads."""

    def __init__(
        self,
        vocabulary: int,
        heads: Sequence[Tensor] = (),
        embed: Embed | None = None,
        reflection: Reflection | None = None,
    ) -> None:
        """Judge by a tokenizer of ``vocabulary`` ids; ``heads`` [H, 3 d + 6] read what ``embed`` makes of ids."""
        self._vocabulary, self._heads, self._embed = vocabulary, tuple(heads), embed
        self._reflection = reflection

    @torch.inference_mode()
    def evidence(self, items: Sequence[Item], passed: Passed, misses: Sequence[Miss]) -> dict[int, list[Evidence]]:
        """Return the evidence of each item that has any, by node."""
        if not misses:
            return {}
        logits = passed.logits[:, : self._vocabulary]
        columns = [
            (passed.firsts[miss.item] + miss.parent, passed.firsts[miss.item] + miss.own, miss.drafted, miss.choice)
            for miss in misses
        ]
        parents, own, drafted, choice = torch.tensor(columns, device=logits.device).unbind(dim=1)
        rows, places = torch.unique(torch.cat([parents, own]), return_inverse=True)
        facts = row_facts(logits, rows)
        before, after = facts.of(places[: len(misses)]), facts.of(places[len(misses) :])
        scalars = token_scalars(logits, before, parents, drafted, choice, after)
        found = _Found(_numbers(scalars))
        judged = [_judged(items[miss.item]) for miss in misses]
        found.kl = self._divergences(logits, before, parents, judged, misses)
        for head in {one.head for one in judged if one.head >= 0}:
            mine = np.array([at for at, one in enumerate(judged) if one.head == head])
            at = torch.as_tensor(mine, device=logits.device)
            assert passed.states is not None, "a head is asked, and the pass kept no states"
            assert self._embed is not None, f"head {head} of none"
            features = target_features(passed.states[own[at]], drafted[at], choice[at], scalars[at], self._embed)
            found.add_partials(mine, _numbers(features @ self._heads[head].T))
        if self._reflection is not None:
            found.reflected = self._reflection.reflected(items, misses)
        return found.told(misses)

    def _divergences(
        self, logits: Tensor, before: RowFacts, parents: Tensor, judged: Sequence[Judged], misses: Sequence[Miss]
    ) -> Mapping[int, float]:
        """Return KL(p || q) of those misses whose q is known."""
        known: dict[int, SparseQ] = {}
        for at, (one, miss) in enumerate(zip(judged, misses, strict=True)):
            q = one.q[miss.node] if miss.node < len(one.q) else None
            if q is not None and q.ids[-1] < self._vocabulary:
                known[at] = q
        if not known:
            return {}
        width = max(len(q.ids) for q in known.values())
        ids, weights = np.zeros((len(known), width), np.int64), np.zeros((len(known), width))
        for row, q in enumerate(known.values()):
            ids[row, : len(q.ids)], weights[row, : len(q.ids)] = q.ids, q.weights
        places, named, weighed = (
            torch.as_tensor(part, device=logits.device) for part in (np.array(list(known)), ids, weights)
        )
        found = divergence(logits, before.of(places), parents[places], named, weighed)
        return dict(zip(known, found.tolist(), strict=True))


class _Found:
    """What was computed of misses, by their place."""

    def __init__(self, scalars: NDArray[np.float64]) -> None:
        self._bad = set(_bad_rows(scalars))
        self._scalars: list[list[float]] = scalars.tolist()
        self._partials: dict[int, list[float]] = {}
        self.kl: Mapping[int, float] = {}
        self.reflected: Mapping[Miss, float] = {}

    def add_partials(self, places: NDArray[np.int64], partials: NDArray[np.float64]) -> None:
        """Take what a head made of the misses at ``places``."""
        self._bad.update(places[_bad_rows(partials)].tolist())
        self._partials |= dict(zip(places.tolist(), partials.tolist(), strict=True))

    def told(self, misses: Sequence[Miss]) -> dict[int, list[Evidence]]:
        """Return evidence by item, of those misses of which all is a number."""
        told: dict[int, list[Evidence]] = {}
        for at, miss in enumerate(misses):
            kl, again = self.kl.get(at), self.reflected.get(miss)
            if at in self._bad or not all(one is None or math.isfinite(one) for one in (kl, again)):
                continue
            numbers = dict(zip(SCALARS, self._scalars[at], strict=True))
            partial = tuple(self._partials.get(at, ()))
            told.setdefault(miss.item, []).append(
                Evidence(miss.node, **numbers, kl=kl, partial=partial, reflected=again)
            )
        return told


def judge_of(target: Target, heads: Sequence[HeadFile] = (), reflection: Reflection | None = None) -> TargetJudge:
    """Return what judges for a target by these heads, in their order; their weights go where the target's are."""
    weights = [torch.from_numpy(head.target).to(target.device) for head in heads]
    embed: Embed = target.model.get_input_embeddings()
    return TargetJudge(target.vocabulary, weights, embed, reflection)


def _judged(item: Item) -> Judged:
    assert item.judged is not None
    return item.judged


def _numbers(values: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = values.double().cpu().numpy()
    return numbers


def _bad_rows(values: NDArray[np.float64]) -> list[int]:
    rows: list[int] = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
    return rows
