"""The models of time per token say what their formulas say."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_worked_by_hand() -> None:
    """Half of the drafts match, a round trip of 50 ms, drafts of 10 ms, passes of 40 ms and 2 ms a further position."""
    half = RoundCost(0.050, 0.010, PassCost(0.040, 0.002), 0.5)
    assert half.split_s(2) == pytest.approx((0.020 + 0.050 + 0.044) / 1.75)
    assert half.split_s(1) == pytest.approx((0.010 + 0.050 + 0.042) / 1.5)
    assert half.pipelined_s() == pytest.approx(0.010 + 0.5 * 0.090)
    assert half.edge_alone_s() == pytest.approx(0.040)
    assert half.edge_drafter_s(2, draft_s=0.005) == pytest.approx((0.010 + 0.044) / 1.75)
    assert half.overtaking_tokens() == 2  # 50 / 30, rounded up
    assert half.run_ahead_s() == pytest.approx(0.75 * 0.040 + 0.25 * (0.010 + 0.5 * 0.040))


def test_where_nothing_matches_every_model_is_a_token_a_pass() -> None:
    none = cost(60, acceptance=0.0)
    assert none.split_s(1) == pytest.approx(0.008 + 0.060 + 0.0303)
    assert none.pipelined_s() == pytest.approx(0.008 + 0.060 + 0.030)
    assert none.run_ahead_s() == pytest.approx(none.edge_alone_s()) == pytest.approx(0.030)
    assert none.edge_drafter_s(1, draft_s=0.0) == pytest.approx(0.0303)


def test_where_all_matches_the_drafter_sets_the_pace() -> None:
    every = cost(300, acceptance=1.0)
    assert every.pipelined_s() == pytest.approx(0.008)
    assert every.run_ahead_s() == pytest.approx(0.008)
    assert every.split_s(9) == pytest.approx((9 * 0.008 + 0.300 + 0.0327) / 10)
    assert every.edge_drafter_s(9, draft_s=0.008) == pytest.approx((9 * 0.008 + 0.0327) / 10)


def test_without_a_round_trip_running_ahead_changes_nothing() -> None:
    assert cost(0).overtaking_tokens() == 0
    assert cost(0).run_ahead_s() == pytest.approx(cost(0).pipelined_s()) == pytest.approx(0.008 + 0.2 * 0.030)
    assert cost(0).split_s(4) == pytest.approx(cost(300).edge_drafter_s(4, draft_s=0.008))


@pytest.mark.parametrize("draft_s", [0.030, 0.045])
@pytest.mark.parametrize("acceptance", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("rtt_ms", [0, 60])
def test_a_device_slower_than_the_edge_never_overtakes_it(draft_s: float, acceptance: float, rtt_ms: float) -> None:
    slow = replace(cost(rtt_ms, acceptance), draft_s=draft_s)
    assert math.isinf(slow.overtaking_tokens())
    assert slow.run_ahead_s() == slow.edge_alone_s()


@pytest.mark.parametrize("passes", [1, 2, 3, 7, 50])
def test_a_round_trip_of_whole_gains_is_not_rounded_up(passes: int) -> None:
    assert cost(22 * passes).overtaking_tokens() == passes  # a pass gains 30 - 8 ms on the device
    assert cost(22 * passes + 0.1).overtaking_tokens() == passes + 1


@pytest.mark.parametrize(
    ("rtt_ms", "tokens_per_s"), [(0, 71.1), (10, 57.9), (30, 50.4), (60, 45.7), (100, 40.3), (200, 35.3), (300, 34.1)]
)
def test_the_run_ahead_split_of_the_notes(rtt_ms: float, tokens_per_s: float) -> None:
    """The same formula, worked elsewhere for the acceptance of a real pair."""
    assert 1 / cost(rtt_ms, acceptance=0.798).run_ahead_s() == pytest.approx(tokens_per_s, abs=0.06)


@pytest.mark.parametrize(
    ("rtt_ms", "pipelined", "run_ahead"),
    [(30, 45.6, 52.2), (60, 35.9, 45.4), (100, 27.9, 40.6), (200, 18.0, 35.6), (300, 13.2, 34.1)],
)
def test_the_models_are_near_an_event_simulation(rtt_ms: float, pipelined: float, run_ahead: float) -> None:
    assert 1 / cost(rtt_ms).pipelined_s() == pytest.approx(pipelined, rel=0.10)
    assert 1 / cost(rtt_ms).run_ahead_s() == pytest.approx(run_ahead, rel=0.035)


def test_the_same_drafter_at_the_edge_is_the_split_without_its_round_trip() -> None:
    """53.7 tokens/s in the event simulation, at any round trip."""
    at_the_edge = cost(200).at_the_edge(0.008)
    length = best_draft_length(at_the_edge)
    assert length == 3
    assert 1 / cost(200).edge_drafter_s(length, 0.008) == pytest.approx(53.7, rel=0.01)


costs = st.builds(
    RoundCost,
    round_trip_s=st.floats(0, 1),
    draft_s=st.floats(0.0001, 0.1),
    target=st.builds(PassCost, fixed_s=st.floats(0.001, 0.2), per_position_s=st.floats(0, 0.01)),
    acceptance=st.floats(0, 1),
)


@given(costs, st.integers(1, 64))
def test_the_synchronous_split_never_falls_under_a_round_trip_and_a_pass_a_miss(cost: RoundCost, length: int) -> None:
    floor_s = (1 - cost.acceptance) * (cost.round_trip_s + cost.edge_alone_s())
    assert cost.split_s(length) >= floor_s * (1 - 1e-9)


@given(costs)
def test_running_ahead_lies_between_the_edge_alone_and_the_drafts(cost: RoundCost) -> None:
    drafted_s = replace(cost, round_trip_s=0.0).pipelined_s()
    low_s, high_s = sorted((cost.edge_alone_s(), drafted_s))
    assert low_s * (1 - 1e-9) <= cost.run_ahead_s() <= high_s * (1 + 1e-9)


def test_the_command_advises_what_is_cheapest() -> None:
    def advise(rtt: str, *more: str) -> str:
        arguments = ["--rtt-ms", rtt, "--pass-ms", "30", "--draft-ms", "8", "--acceptance", "0.8", *more]
        done = subprocess.run(
            [sys.executable, "-m", "coordinator", "advise", *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()[-1]

    assert advise("60").endswith("--schedule pipelined")
    assert advise("200", "--no-run-ahead").endswith("--draft-length 0: the edge alone")
    assert "--schedule sync --draft-length" in advise("5", "--objective", "edge-seconds")
    assert "--schedule sync --draft-length" in advise("5", "--objective", "user=0.2,edge=1")


def test_the_command_weighs_company_and_price() -> None:
    """Where others wait for the step, a draft that is mostly wrong is not worth its width."""

    def advise(*more: str) -> list[str]:
        arguments = ["--rtt-ms", "10", "--pass-ms", "30", "--draft-ms", "8", "--acceptance", "0.3", *more]
        done = subprocess.run(
            [sys.executable, "-m", "coordinator", "advise", "--pass-ms-per-position", "2", *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    alone, shared, priced = advise(), advise("--sessions", "16"), advise("--sessions", "16", "--price", "1")
    assert alone[0].startswith("plan ")
    assert shared[0] == "sessions that share a step: 16; users' seconds a second of the edge: 16"
    assert priced[0] == "sessions that share a step: 16; users' seconds a second of the edge: 1"
    assert [lines[-1] for lines in (alone, shared, priced)] == [
        "by this model: --schedule pipelined",
        "by this model: --draft-length 0: the edge alone",
        "by this model: --schedule pipelined",
    ]
