"""Draft-length policies on texts of the demo pair: ``python -m bench.draft_pair [--temperature 1]``.

Where the drafter would have written the target's own answer, and how sure it was of each token, are measured by one
forward; rounds are then played by the models of costs, without noise, so that every length is tried on the same text.
Ratios to the fixed length that is best on this very text, found by trying all: that favours it. The answers are played
over ``REPEATS`` times, one behind the other, as one long text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from airdraft.checkpoint import Role
from airdraft.core.types import Sampling, Span
from bench.match_runs import Pair, samplings
from bench.prompts import held_out
from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.costs import PassCost
from coordinator.policy.draft_length import POLICIES, DraftLength, Fixed
from coordinator.policy.rounds import LONGEST, Drafting, Outcome, RoundTime
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target
from edge_node.step import Extent

REPEATS = 3
ROUND_TRIPS_MS = (0, 10, 30, 60, 100, 200)
DRAFT_S = 0.008
TARGET = PassCost(0.03, 0.0003)

Token = tuple[bool, float]  # of the target's own text: whether the drafter writes it, and its top probability there


def measured(prompts: Sequence[str], chosen: Sequence[Sampling]) -> list[Token]:
    """Return the tokens of the demo target's answers, one answer behind the other."""
    pair, drafter = Pair(), load_target("demo", role=Role.DRAFTER)
    engine, tokens = TargetEngine(drafter, drafter.context_tokens), list[Token]()
    for prompt, sampling in zip(prompts, chosen, strict=True):
        run = pair.run(prompt, sampling)
        text = (*run.prompt, *run.ids)
        wanted = tuple(range(len(run.prompt) - 1, len(text) - 1))
        (logits,) = engine.extend([(Extent(0, engine.rows), Span(0, text[:-1], wanted=wanted))])
        sure = torch.softmax(logits.double() / (sampling.temperature or 1.0), -1).amax(-1)
        tokens += zip(run.matched, sure.tolist(), strict=True)
    return tokens


def played(policy: DraftLength, time: RoundTime, tokens: Sequence[Token]) -> float:
    """Return the seconds a token of synchronous rounds over the text, its last ``LONGEST`` tokens left out."""
    known, at, seconds, end = AcceptanceByPosition(), 0, 0.0, len(tokens) - LONGEST
    while at < end:
        now = Drafting(time, known)
        while now.drafted < LONGEST and policy.length(now) > now.drafted:
            sure = tokens[at + now.drafted][1]
            now = replace(now, drafted=now.drafted + 1, confidences=(*now.confidences, sure))
        accepted = next((index for index in range(now.drafted) if not tokens[at + index][0]), now.drafted)
        known = known.updated(now.drafted, accepted)
        policy.saw(Outcome(now.drafted, accepted, now.confidences))
        seconds += time.seconds(now.drafted)
        at += accepted + 1
    return seconds / at


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.draft_pair", description=__doc__)
    parser.add_argument("--prompts", type=int, default=80)
    parser.add_argument("--temperature", type=float, default=0.0)
    chosen = parser.parse_args()
    tokens = measured(held_out(chosen.prompts), samplings(chosen.temperature, chosen.prompts))
    print(f"{len(tokens)} tokens, acceptance {sum(right for right, _ in tokens) / len(tokens):.3f}")
    print("R ms  best  " + "  ".join(f"{name:>11}" for name in POLICIES))
    for round_trip_ms in ROUND_TRIPS_MS:
        time, text = RoundTime(round_trip_ms / 1000, DRAFT_S, TARGET), tokens * REPEATS
        best_s, best = min((played(Fixed(length), time, text), length) for length in range(1, 25))
        ratios = [played(make(), time, text) / best_s for make in POLICIES.values()]
        print(f"{round_trip_ms:>4}  {best:>4}  " + "  ".join(f"{ratio:>11.3f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
