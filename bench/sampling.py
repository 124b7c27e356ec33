"""``python -m bench sampling``: what the sampler costs on one core, at a vocabulary of 151,936.

Times are the thread's own processor time, so that neighbours on the machine do not count. The logits are a language
model's in shape: by rank they fall as 1.5 times the logarithm, with noise; the flat case, every candidate as likely as
any other, is the worst and has no bar.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from airdraft.core.sampling import choose, survivors
from airdraft.core.types import Sampling
from bench.figures import Result
from bench.processes import pin

VOCABULARY = 151_936
CASES = {
    "greedy": Sampling(),
    "full": Sampling(temperature=1.0),
    "full_t07": Sampling(temperature=0.7),
    "top_k_50": Sampling(temperature=1.0, top_k=50),
    "top_p_095": Sampling(temperature=1.0, top_p=0.95),
    "top_p_095_t07": Sampling(temperature=0.7, top_p=0.95),
    "min_p_005": Sampling(temperature=1.0, min_p=0.05),
    "penalties": Sampling(temperature=1.0, top_p=0.95, repetition_penalty=1.1, frequency_penalty=0.2),
}


def language_like(count: int) -> Iterator[NDArray[np.float32]]:
    """Yield rows of logits [VOCABULARY]."""
    chance = np.random.default_rng(0)
    for _ in range(count):
        by_rank = 20 - 1.5 * np.log(chance.permutation(VOCABULARY) + 1.0)
        yield (by_rank + 0.5 * chance.standard_normal(VOCABULARY)).astype(np.float32)


def flat(count: int) -> Iterator[NDArray[np.float32]]:
    """Yield rows in which every candidate has the same logit but for a trace of noise."""
    chance = np.random.default_rng(1)
    for _ in range(count):
        yield (1e-3 * chance.standard_normal(VOCABULARY)).astype(np.float32)


def times_ms(sampling: Sampling, rows: list[NDArray[np.float32]], repeats: int) -> list[float]:
    """Return the processor time of each choice, over rows and positions, after a warm-up."""
    path = list(range(500))
    spent = []
    for number in range(3 + repeats):
        row = rows[number % len(rows)].copy()  # as near in the cache as a model leaves it
        start = time.thread_time_ns()
        token = choose(row, sampling, VOCABULARY, path)
        spent.append((time.thread_time_ns() - start) / 1e6)
        path.append(token)
    return spent[3:]


def run(*, quick: bool) -> Result:
    """Measure every case on both kinds of logits; print them; return the figures."""
    pin(0)
    repeats = 30 if quick else 300
    result = Result("sampling")
    parts: dict[str, list[float]] = {}
    kinds = {"": list(language_like(8 if quick else 32)), "_flat": list(flat(2))}
    for suffix, rows in kinds.items():
        for name, sampling in CASES.items():
            times = times_ms(sampling, rows, repeats if not suffix else max(10, repeats // 10))
            left = [len(survivors(row, sampling, VOCABULARY, [1, 2])[0]) for row in rows]
            parts[name + suffix] = times
            print(f"{name + suffix:<22} {np.median(times):8.3f} ms   {int(np.median(left)):>7} survivors")
    result.add_median("choice_full_ms", parts.pop("full"))
    truncated = max(("top_k_50", "top_p_095"), key=lambda name: float(np.median(parts[name])))
    result.add_median("choice_truncated_ms", parts[truncated])
    for name, times in parts.items():
        result.add_median(f"choice_{name}_ms", times)
    return result
