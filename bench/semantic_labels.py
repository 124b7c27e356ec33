"""How well heads are calibrated: fresh labels of problems that no head has seen, against the risks that they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bench.semantic_cells import pair_of
from bench.semantic_contestants import HeadKind
from bench.semantic_rounds import FIRST_PROBLEM
from edge_node.engine.loading import load_target
from edge_node.labels.problems import Problem
from edge_node.labels.search import Pair, Settings, search
from models.wordproblems import word_problem

FIRST_LABELLED = 50_000
"""Of the bench's problems: labels are of others than the texts."""

BINS = 10
PLACES = 64
ROOM = 160


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a stretch of problems came to: the harm of each swap, and by head the risk that was told of it."""

    harm: list[float]
    risks: dict[HeadKind, list[float]]


def mined(drafter: str, first: int, count: int, rollouts: int) -> Labelled:
    """Search the labels of a stretch of problems, and ask every head what it says of each."""
    loaded = pair_of(drafter)
    small = loaded.small
    pair = Pair(load_target("demo", device="cpu", max_context=ROOM), small, PLACES, rollouts, ROOM)
    harm: list[float] = []
    risks: dict[HeadKind, list[float]] = {kind: [] for kind in loaded.heads}
    for begin in range(first, first + count, PLACES):
        asked = [
            (number, Problem(word_problem("held-out", FIRST_PROBLEM + FIRST_LABELLED + number).prompt))
            for number in range(begin, min(begin + PLACES, first + count))
        ]
        for label in search(pair, asked, Settings(rollouts=rollouts, check="number")):
            harm.append(label.harm)
            for kind, head in loaded.heads.items():
                partial = head.target @ label.features.astype(np.float32)
                state = label.state.astype(np.float32) if head.tail.draft is not None else None
                risks[kind].append(head.tail.risk(partial, state))
    return Labelled(harm, risks)


def expected_calibration_error(risks: ArrayLike, harms: ArrayLike, bins: int = BINS) -> float:
    """Return the mean distance of risk and harm over bins of equal count, each weighed by its count.

    risks  [n]  told
    harms  [n]  found, in [0, 1]

    Labels of equal risk may fall into two bins; which ones is their order's.
    """
    told, found = np.asarray(risks, dtype=np.float64), np.asarray(harms, dtype=np.float64)
    if told.shape != found.shape or told.ndim != 1 or len(told) < bins:
        raise ValueError(f"{told.shape} risks and {found.shape} harms for {bins} bins")
    order = np.argsort(told, kind="stable")
    parts = np.array_split(order, bins)
    return float(sum(len(part) * abs(told[part].mean() - found[part].mean()) for part in parts) / len(told))


def bins_of(risks: Sequence[float], harms: Sequence[float], bins: int = BINS) -> list[tuple[float, float]]:
    """Return of each bin the mean risk told and the mean harm found, for the drawing."""
    told, found = np.asarray(risks), np.asarray(harms)
    parts = np.array_split(np.argsort(told, kind="stable"), bins)
    return [(float(told[part].mean()), float(found[part].mean())) for part in parts]
