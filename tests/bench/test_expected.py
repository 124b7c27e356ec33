"""Expected costs of a token, against the session cores in virtual time and against the models of DESIGN §3B."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import cells
from bench.cells import PASS, Cell, Models
from bench.match_runs import iid_runs
from bench.simulate import simulated
from coordinator.policy.costs import PassCost, RoundCost
from coordinator.policy.expected import Expected, Setting, edge_alone, pipelined, synchronous

DRAFT_S = 0.008


def setting(round_trip_ms: float, acceptance: float) -> Setting:
    return Setting(round_trip_ms / 1e3, DRAFT_S, PASS, (acceptance,), DRAFT_S)


def expected(schedule: str, at: Setting, length: int) -> Expected:
    if schedule == "sync":
        return synchronous(at, length)
    if schedule in ("edge", "edge-spec"):
        return edge_alone(at, length)
    return pipelined(at, run_ahead=schedule != "pipelined", own_tokens=length if schedule == "hybrid" else 0)


@pytest.mark.parametrize("acceptance", [0.5, 0.8])
@pytest.mark.parametrize("round_trip_ms", [0, 30, 100])
@pytest.mark.parametrize(
    ("schedule", "length", "tolerance"),
    [
        ("edge", 0, 0.01),
        ("edge-spec", 3, 0.03),
        ("sync", 4, 0.03),
        ("pipelined", 1, 0.07),
        ("run-ahead", 1, 0.06),
        ("hybrid", 3, 0.08),
    ],
)
def test_it_is_what_the_cores_come_to(
    schedule: str, length: int, tolerance: float, round_trip_ms: float, acceptance: float
) -> None:
    runs = iid_runs(acceptance, 4, 600, seed=9)
    cell = Cell(schedule, length, cells.Link(round_trip_ms / 1e3), Models(f"noisy:{acceptance}"))
    model = expected(schedule, setting(round_trip_ms, acceptance), length)
    measured = simulated(cell, runs)
    assert measured.s_per_token == pytest.approx(model.seconds, rel=tolerance)
    assert measured.pass_s / sum(measured.tokens) == pytest.approx(model.edge_s, rel=tolerance + 0.02)


@pytest.mark.parametrize("acceptance", [0.0, 0.6, 1.0])
def test_the_synchronous_split_is_that_of_the_round_cost(acceptance: float) -> None:
    at = setting(40, acceptance)
    cost = RoundCost(0.040, DRAFT_S, PASS, acceptance)
    for length in (1, 4, 9):
        assert synchronous(at, length).seconds == pytest.approx(cost.split_s(length), rel=0.01)
        assert edge_alone(at, length).seconds == pytest.approx(cost.edge_drafter_s(length, DRAFT_S), rel=0.01)


def test_chances_that_fall_with_the_position_shorten_what_pays() -> None:
    falling = replace(setting(30, 0.0), chances=(0.9, 0.8, 0.6, 0.4, 0.2))
    best = min(range(1, 12), key=lambda length: synchronous(falling, length).seconds)
    steady = replace(falling, chances=(0.9,))
    assert best < min(range(1, 12), key=lambda length: synchronous(steady, length).seconds)


def test_a_narrow_uplink_slows_one_token_frames_first() -> None:
    narrow = replace(setting(60, 0.8), up_bytes_s=6250 / 4)
    assert pipelined(narrow, 4, run_ahead=True).seconds < pipelined(narrow, 1, run_ahead=True).seconds
    wide = replace(narrow, up_bytes_s=1e6)
    assert pipelined(wide, 1, run_ahead=True).seconds < pipelined(wide, 4, run_ahead=True).seconds
    assert pipelined(wide, 4, run_ahead=True).bytes_up < pipelined(wide, 1, run_ahead=True).bytes_up


def test_run_ahead_is_never_worse_than_the_edge_alone_where_width_is_free() -> None:
    for round_trip_ms in (0, 10, 60, 300):
        for acceptance in (0.0, 0.3, 0.9):
            at = replace(setting(round_trip_ms, acceptance), target=PassCost(0.030))
            assert pipelined(at, run_ahead=True).seconds <= 0.030 + 1e-12
