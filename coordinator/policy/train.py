"""Train the network of ``mlp`` from logs of rounds: ``python -m coordinator.policy.train LOG... --out WEIGHTS.json``.

A log has a JSON object a line, as ``log_line`` writes them, a round each. Drafts must not all be of one length, or no
other's cost can be learnt. The weights that the package comes with are from simulated rounds:

    python -m bench.draft_lengths log /tmp/rounds.jsonl
    python -m coordinator.policy.train /tmp/rounds.jsonl --out coordinator/policy/mlp.json
"""

from __future__ import annotations

import argparse
import fileinput
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.policy.mlp import FEATURES, HIDDEN, Array, Mlp, base_costs, features, inputs
from coordinator.policy.rounds import Drafting, Outcome

STEPS = 2000
BATCH_ROUNDS = 1024
RATE = 0.01
"""Adam's, falling to nothing along a half cosine; with more steps
the loss of rounds not trained on no longer falls."""


def log_line(now: Drafting, outcome: Outcome, seconds: float) -> str:
    """Return a round as a line of a log: what was known before it, and what it took and brought in."""
    known = [float(f"{value:.5g}") for value in features(now.time, now.acceptance)]
    passes = seconds / now.time.target.fixed_s
    return json.dumps([*known, outcome.drafted, outcome.accepted + 1, float(f"{passes:.5g}")], separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rounds of a log, N of them."""

    known: Array  # [N, FEATURES]
    lengths: Array  # [N]
    tokens: Array  # [N] the target's own included
    passes: Array  # [N] what each took, in passes of one position

    @classmethod
    def read(cls, lines: Iterable[str]) -> Rounds:
        """Read the lines of a log; rounds without a drafted token are passed over.

        Raises ValueError, with the line's number, where one is malformed, and where there is no round at all.
        """
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                row = [float(value) for value in json.loads(line)]
            except (TypeError, ValueError) as error:
                raise ValueError(f"line {number} is not a list of numbers: {error}") from None
            if len(row) != len(FEATURES) + 3 or not all(np.isfinite(row)):
                raise ValueError(f"line {number} has not {len(FEATURES)} features, length, tokens and passes")
            if row[-3] >= 1:
                rows.append(row)
        if not rows:
            raise ValueError("the logs hold no round with a drafted token")
        table = np.array(rows)
        return cls(table[:, :-3], table[:, -3], table[:, -2], table[:, -1])


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


def _slopes(weights: Sequence[Array], read: Array, tokens: Array, wanted: Array) -> tuple[Array, Array, Array]:
    """Return the loss's slope in each part of the weights, over rows of ``inputs``."""
    hidden, bias, out = weights
    units = np.maximum(0, read @ hidden + bias)
    by_factor = 2 * (tokens * (1 + units @ out) - wanted) / len(read)
    by_unit = np.outer(by_factor, out) * (units > 0)
    return read.T @ by_unit, by_unit.sum(axis=0), units.T @ by_factor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 where a log cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.policy.train", description=train.__doc__)
    parser.description = "Train the draft-length network from logs of rounds."
    parser.add_argument("log", nargs="+", help="JSON lines, a round each; - is standard input")
    parser.add_argument("--out", help="where the weights go; standard output without it")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and of the rounds' order")
    chosen = parser.parse_args(arguments)
    try:
        with fileinput.input(chosen.log, encoding="utf-8") as lines:
            rounds = Rounds.read(lines)
    except (OSError, ValueError) as error:
        print(f"train: {error}", file=sys.stderr)  # noqa: T201
        return 2
    mlp = train(rounds, chosen.seed)
    print(f"{len(rounds.tokens)} rounds, loss {loss(mlp, rounds):.5f} (0: no network)", file=sys.stderr)  # noqa: T201
    if chosen.out is None:
        sys.stdout.write(mlp.to_json() + "\n")
        return 0
    with open(chosen.out, "w", encoding="utf-8") as file:
        file.write(mlp.to_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
