"""The models of time per token say what their formulas say."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from coordinator.policy.costs import PassCost, RoundCost, best_draft_length


def cost(rtt_ms: float, acceptance: float = 0.8) -> RoundCost:
    return RoundCost(rtt_ms / 1000, 0.008, PassCost(0.030, 0.0003), acceptance)


def test_tokens_a_round_are_those_of_a_simulation() -> None:
    chance, length, rounds = random.Random(1), 5, 40_000
    total = 0
    for _ in range(rounds):
        accepted = 0
        while accepted < length and chance.random() < 0.8:
            accepted += 1
        total += accepted + 1
    assert cost(0).tokens_a_round(length) == pytest.approx(total / rounds, rel=0.01)
    assert cost(0, acceptance=1.0).tokens_a_round(5) == 6
    assert cost(0, acceptance=0.0).tokens_a_round(5) == 1


@pytest.mark.parametrize(
    ("rtt_ms", "length", "tokens_per_s"), [(0, 3, 53.7), (30, 5, 36.3), (60, 6, 28.2), (100, 7, 22.1)]
)
def test_the_synchronous_split_of_the_notes(rtt_ms: float, length: int, tokens_per_s: float) -> None:
    """An independent event simulation with acceptance 0.8, drafts of 8 ms and passes of 30 ms + 1 % a position."""
    assert best_draft_length(cost(rtt_ms)) == length
    assert 1 / cost(rtt_ms).split_s(length) == pytest.approx(tokens_per_s, rel=0.02)


def test_the_command_advises_the_edge_alone_where_the_round_trip_costs_more_than_it_saves() -> None:
    def advise(rtt: str) -> str:
        arguments = ["--rtt-ms", rtt, "--pass-ms", "30", "--draft-ms", "8", "--acceptance", "0.8"]
        done = subprocess.run(
            [sys.executable, "-m", "coordinator", "advise", *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()[-1]

    assert advise("5").endswith("--draft-length 4")
    assert advise("200").endswith("--draft-length 0: the edge alone")
