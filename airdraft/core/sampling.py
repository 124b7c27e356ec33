"""Logits to a token: the target's choice on the edge, the drafter's guess on the device, by one rule.

Sampler ``argmax-1``: the lowest id among those with the greatest logit; rows at or above the tokenizer's size, which
some models carry as padding, never win.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airdraft.core.types import Sampling


def choose(logits: NDArray[np.float32], sampling: Sampling, vocabulary: int) -> int:
    """Return the token after one row of logits.

    logits      [V]  float32, V at least ``vocabulary``
    vocabulary  size of the tokenizer: ids at or above it are padding

    Raises ValueError where the logits hold a NaN or the temperature is not 0.
    """
    if sampling.temperature != 0:
        raise ValueError(f"sampler argmax-1 knows temperature 0 only, not {sampling.temperature}")
    token = int(np.argmax(logits[:vocabulary]))  # numpy gives the first of equals, and a NaN before any number
    if np.isnan(logits[token]):
        raise ValueError("logits hold a NaN")
    return token
