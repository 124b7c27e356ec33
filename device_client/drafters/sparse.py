"""A drafter's distribution, cut to what goes up of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance_chain import WEIGHT_TOTAL, SparseQ, quantise
from airdraft.core.session import MOST_Q_ENTRIES

_LEAST = 1.0 / WEIGHT_TOTAL


def most_likely(logits: NDArray[np.float32], token: int, entries: int = MOST_Q_ENTRIES) -> SparseQ:
    """Return softmax over logits [V] at temperature 1, cut to ``token`` and the likeliest others, ``entries`` in all.

    What was drafted is always among them, with the least weight there is where it was hardly likely.
    """
    most = min(entries, logits.size)
    kept = np.argpartition(-logits, most - 1)[:most]
    if token not in kept:
        kept[np.argmin(logits[kept])] = token
    weights = np.exp(logits[kept].astype(np.float64) - float(logits[kept].max()))
    q = np.maximum(weights / weights.sum(), _LEAST)
    return quantise(kept, q / q.sum())
