"""Train the network of ``mlp`` from logs of rounds: ``coordinator train-draft-length LOG... --out WEIGHTS.json``.

A log has a JSON list a line, as ``log_line`` writes them, a round each. Drafts must not all be of one length, or no
other's cost can be learnt. The weights that the package comes with are from simulated rounds:

    python -m bench.draft_lengths log /tmp/rounds.jsonl
    coordinator train-draft-length /tmp/rounds.jsonl --out coordinator/policy/mlp.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from coordinator.policy.mlp import FEATURES, HIDDEN, Array, Mlp, base_costs, features, inputs, passes_of
from coordinator.policy.rounds import LONGEST, Drafting, Outcome

STEPS = 2000
BATCH_ROUNDS = 1024
RATE = 0.01
"""Adam's, falling to nothing along a half cosine; with more steps
the loss of rounds not trained on no longer falls."""

DECAY = 30.0
"""What a weight's square costs, against a round's loss. Trained on 2,000 rounds of some 25 simulated links, mean of 8
seeds, the loss on other links is 0.160 without it, 0.010 with 10, 0.002 with 30; on rounds of the same links that were
not trained on -0.001, -0.006 and -0.003. From 20,000 rounds on it matters little."""

LEAST_ROUNDS = 1000
"""From so many, of some 12 links, a network is on average as good as none on rounds like those of the log."""


Row = tuple[float, ...]
"""A round: ``FEATURES`` before it, the draft's length, its tokens with the target's own, its time in passes."""


def log_line(now: Drafting, outcome: Outcome, seconds: float) -> str:
    """Return a round as a line of a log: what was known before it, and what it took and brought in."""
    row = (*features(now.time, now.acceptance), passes_of(now.time, seconds))
    *known, passes = (float(f"{value:.5g}") for value in row)
    return json.dumps([*known, outcome.drafted, outcome.accepted + 1, passes], separators=(",", ":"))


def row_of(line: str) -> Row:
    """Return the round of a log's line. Raises ValueError where it is none, saying why."""
    try:
        row = tuple(float(value) for value in json.loads(line))
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a list of numbers: {error}") from None
    if len(row) != len(FEATURES) + 3:
        raise ValueError(f"{len(row)} numbers, not {len(FEATURES)} features, length, tokens and passes")
    length, tokens, passes = row[-3:]
    if not (all(np.isfinite(row)) and 0 <= row[0] < 1 and min(row[3:6]) >= 0 and passes >= 0):
        raise ValueError("a number out of its range: none is endless, the first is a chance below 1, times are not < 0")
    if not (0 <= length <= LONGEST and 1 <= tokens <= length + 1):
        raise ValueError(f"a draft of {length:g} tokens does not bring in {tokens:g}; the longest is {LONGEST}")
    return row


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rounds of a log, N of them."""

    known: Array  # [N, FEATURES]
    lengths: Array  # [N]
    tokens: Array  # [N] the target's own included
    passes: Array  # [N] what each took, in passes of one position

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """Return the rounds of these rows; those without a drafted token are passed over."""
        drafted = [row for row in rows if row[-3] >= 1]
        table = np.array(drafted, dtype=np.float64).reshape(len(drafted), len(FEATURES) + 3)
        return cls(table[:, :-3], table[:, -3], table[:, -2], table[:, -1])

    def __len__(self) -> int:
        return len(self.lengths)

    def check(self) -> None:
        """Raise ValueError where nothing can be learnt from so few rounds, or from drafts of one length."""
        if len(self) < LEAST_ROUNDS:
            raise ValueError(f"{len(self)} rounds with a drafted token are too few; log {LEAST_ROUNDS} or more")
        if self.lengths.min() == self.lengths.max():
            raise ValueError(
                f"all drafts have {self.lengths[0]:g} tokens: they tell nothing of other lengths; log some of these"
            )

    def parted(self, seed: int, share: float = 0.2) -> tuple[Self, Self]:
        """Return the rounds to train on and a ``share`` to try the network on, drawn at random."""
        tried = np.random.default_rng(seed).random(len(self)) < share
        first, second = (
            type(self)(self.known[at], self.lengths[at], self.tokens[at], self.passes[at]) for at in (~tried, tried)
        )
        return first, second


def train(rounds: Rounds, seed: int = 0, steps: int = STEPS) -> Mlp:
    """Return the network that fits ``rounds``; the same for the same rounds and seed.

    The cost of a length is a ratio of means, E[passes] / E[tokens], of which single rounds' ratios are no samples. It
    is the f that minimises E[tokens f^2 - 2 passes f]; with f = base * factor, and rows weighed so that relative errors
    of all states count alike, this is the loss, minimised by Adam (Kingma, Ba 2014, arXiv 1412.6980).
    """
    chance = np.random.default_rng(seed)
    base = base_costs(rounds.known, rounds.lengths)
    reads, wanted = inputs(rounds.known, rounds.lengths), rounds.passes / base
    geometric = rounds.known[:, 0]
    scale = (1 - geometric) / (1 - geometric ** (rounds.lengths + 1))  # of one over a round's tokens
    width = len(FEATURES) + 1
    weights = [chance.normal(0, width**-0.5, (width, HIDDEN)), np.zeros(HIDDEN), np.zeros(HIDDEN)]
    mean, square = [np.zeros_like(part) for part in weights], [np.zeros_like(part) for part in weights]
    for step in range(1, steps + 1):
        rows = chance.integers(0, len(wanted), min(BATCH_ROUNDS, len(wanted)))
        slopes = _slopes(weights, reads[rows], rounds.tokens[rows] * scale[rows], wanted[rows] * scale[rows])
        for part in (0, 2):  # not the bias
            slopes[part] += 2 * DECAY / len(wanted) * weights[part]
        rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        for part, slope in enumerate(slopes):
            mean[part] += 0.1 * (slope - mean[part])
            square[part] += 0.001 * (slope**2 - square[part])
            towards = mean[part] / (1 - 0.9**step)
            weights[part] -= rate * towards / (np.sqrt(square[part] / (1 - 0.999**step)) + 1e-8)
    return Mlp(*weights)


def loss(mlp: Mlp, rounds: Rounds) -> float:
    """Return the loss that ``train`` minimises, less that of a factor of 1 everywhere: below 0 is better than that."""
    base, geometric = base_costs(rounds.known, rounds.lengths), rounds.known[:, 0]
    scale = (1 - geometric) / (1 - geometric ** (rounds.lengths + 1))
    factor, wanted = mlp.factor(inputs(rounds.known, rounds.lengths)), rounds.passes / base
    return float(np.mean(scale * (rounds.tokens * (factor**2 - 1) - 2 * wanted * (factor - 1))))


def _slopes(weights: Sequence[Array], read: Array, tokens: Array, wanted: Array) -> list[Array]:
    """Return the loss's slope in each part of the weights, over rows of ``inputs``."""
    hidden, bias, out = weights
    units = np.maximum(0, read @ hidden + bias)
    by_factor = 2 * (tokens * (1 + units @ out) - wanted) / len(read)
    by_unit = np.outer(by_factor, out) * (units > 0)
    return [read.T @ by_unit, by_unit.sum(axis=0), units.T @ by_factor]
