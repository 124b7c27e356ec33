"""Cells simulated, overheads found again, and runs of matches of the demo pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the bench's packages")

from airdraft.checkpoint import Role
from airdraft.core.types import Sampling
from airdraft.link.sim_costs import IDEAL, Overheads
from bench.cells import Cell, Link, Models
from bench.match_runs import Pair, adjusted, iid_runs, joined, noisy, samplings, shaped_runs, statistics
from bench.prompts import held_out
from bench.schedules import SCHEDULES
from bench.simulate import best_of, bound_tokens_per_s, fitted, run, simulated
from edge_node.engine.drafter import EngineDrafter
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target

CONTEXT_ROWS = 2048  # of the demo pair

RUNS = iid_runs(0.8, 12, 300, seed=1)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


# ---- cells ----


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_simulated(schedule: str) -> None:
    cell = Cell(schedule, 4, Link(0.06, jitter_s=0.01, up_bytes_s=20_000.0))
    found = simulated(cell, RUNS)
    assert found.cell == cell
    assert found.tokens == [300] * 12
    assert all(first > 0.06 + 0.030 for first in found.first_token_s)
    assert all(times == sorted(times) for times in found.arrivals_s)
    spans = [times[-1] - times[0] for times in found.arrivals_s]
    assert found.seconds == pytest.approx(spans)
    assert found.s_per_token == pytest.approx(sum(spans) / (12 * 299))
    assert 0 <= found.accepted <= found.drafted
    assert (found.drafted > 0) == (SCHEDULES[schedule].device_drafts or schedule == "edge-spec")
    assert (found.draft_s > 0) == SCHEDULES[schedule].device_drafts
    assert found.pass_s > 0.030 * sum(map(len, found.arrivals_s)) * 0.9
    assert found.bytes_up > 12 * 200
    assert found.bytes_down > 12 * 300 * 5


def test_a_channel_by_name_stands_for_the_link() -> None:
    slow = simulated(Cell("sync", 4, Link(channel="geo-satellite", channel_seed=2)), RUNS)
    assert slow.s_per_token > 0.55 / 4
    assert simulated(Cell("sync", 4, Link(channel="geo-satellite", channel_seed=2)), RUNS).seconds == slow.seconds


def test_a_target_at_its_own_pace_cannot_be_simulated() -> None:
    with pytest.raises(ValueError, match="stated cost"):
        simulated(Cell("edge", 0, models=Models(target=None)), RUNS)


def test_the_best_length_is_the_best() -> None:
    best = best_of("sync", 0.03, RUNS)
    cell = best.cell
    for length in (cell.draft_length - 1, cell.draft_length + 1):
        assert simulated(replace(cell, draft_length=length), RUNS).tokens_per_s <= best.tokens_per_s
    assert best.tokens_per_s < bound_tokens_per_s(0.03, RUNS)


CALIBRATION = [
    Cell("edge", 0),
    Cell("edge-spec", 4),
    Cell("sync", 2, Link(0.03)),
    Cell("sync", 6, Link(0.03)),
    Cell("sync", 8, Link(0.1)),
]


@pytest.mark.slow
def test_overheads_are_found_again() -> None:
    true = Overheads(round_s=0.003, pass_s=0.0007, draft_step_s=0.0004)
    found = fitted([(simulated(cell, RUNS, true), RUNS) for cell in CALIBRATION])
    assert found.round_s == pytest.approx(true.round_s, rel=0.02)
    assert found.pass_s == pytest.approx(true.pass_s, rel=0.02)
    assert found.draft_step_s == pytest.approx(true.draft_step_s, rel=0.05)


@pytest.mark.slow
def test_a_frames_overheads_count_as_the_rounds() -> None:
    found = fitted([(simulated(cell, RUNS, Overheads(up_s=0.001, down_s=0.002)), RUNS) for cell in CALIBRATION])
    assert found.round_s == pytest.approx(0.003, rel=0.03)


@pytest.mark.slow
def test_no_overhead_is_below_0() -> None:
    fast = replace(Models(), draft_s=0.007)  # quicker than the cells claim
    measured = [replace(simulated(replace(cell, models=fast), RUNS), cell=cell) for cell in CALIBRATION]
    found = fitted([(one, RUNS) for one in measured])
    assert found.draft_step_s == 0
    assert min(found.round_s, found.pass_s) >= 0


def test_overheads_are_not_looked_for_where_chance_reigns() -> None:
    rough = [
        simulated(Cell("sync", 4, Link(0.03, jitter_s=0.02)), RUNS),
        simulated(Cell("sync", 4, Link(channel="wifi")), RUNS),
        replace(simulated(Cell("sync", 4), RUNS), cell=Cell("sync", 4, models=Models(target=None))),
    ]
    assert fitted([(one, RUNS) for one in rough]) == IDEAL


# ---- runs of matches ----


def test_the_texts_and_drafts_are_those_of_a_step_by_step_run(pair: Pair) -> None:
    target, small = load_target("demo"), load_target("demo", role=Role.DRAFTER)
    for prompt, sampling in zip(held_out(3), (Sampling(), *samplings(1.0, 2, seed=9)), strict=True):
        found = pair.run(prompt, sampling, max_tokens=40)
        writer = EngineDrafter(TargetEngine(target, CONTEXT_ROWS), target.vocabulary, sampling)
        assert tuple(writer.propose(found.prompt, len(found.ids), lambda: False)) == found.ids
        drafter = EngineDrafter(TargetEngine(small, CONTEXT_ROWS), small.vocabulary, sampling)
        for place, (token, matched) in enumerate(zip(found.ids, found.matched, strict=True)):
            assert (drafter.propose((*found.prompt, *found.ids[:place]), 1, lambda: False) == [token]) == matched


def test_a_target_that_drafts_for_itself_always_matches() -> None:
    found = Pair(drafter="demo-target").run(held_out(1)[0], Sampling(temperature=1.0, seed=3))
    assert all(found.matched)
    assert found.ids[-1] in found.stop_ids


def test_a_text_may_be_cut_by_its_most_tokens(pair: Pair) -> None:
    assert len(pair.run(held_out(1)[0], Sampling(), max_tokens=5).ids) == 5


def test_runs_have_the_statistics_that_were_asked_for() -> None:
    even = statistics(iid_runs(0.7, 20, 1000, seed=2))
    assert even.acceptance == pytest.approx(0.7, abs=0.01)
    assert even.stretch_variance == pytest.approx(even.iid_variance, rel=0.1)
    shaped = statistics(shaped_runs(0.8, 60.0, 40, 1000, seed=2))
    assert shaped.acceptance == pytest.approx(0.8, abs=0.01)
    assert shaped.stretch_variance == pytest.approx(60.0, rel=0.15)
    with pytest.raises(ValueError, match="vary by more"):
        shaped_runs(0.8, 3.0, 1, 10, seed=2)


@pytest.mark.parametrize("acceptance", [0.6, 0.8, 0.9])
def test_runs_are_adjusted_by_as_few_turns_as_it_takes(acceptance: float) -> None:
    runs = shaped_runs(0.8, 40.0, 20, 1000, seed=4)
    turned = adjusted(runs, acceptance, seed=5)
    assert statistics(turned).acceptance == pytest.approx(acceptance, abs=0.01)
    before, after = (np.concatenate([run.matched for run in some]) for some in (runs, turned))
    gone, come = bool((before & ~after).any()), bool((~before & after).any())
    assert (gone, come) == (acceptance < before.mean(), acceptance > before.mean())
    assert [run.ids for run in turned] == [run.ids for run in runs]


def test_a_noisy_copy_keeps_the_texts() -> None:
    copies = noisy(RUNS, 0.5, seed=6)
    assert [run.ids for run in copies] == [run.ids for run in RUNS]
    assert statistics(copies).acceptance == pytest.approx(0.5, abs=0.03)
    assert copies == noisy(RUNS, 0.5, seed=6)


def test_joined_runs_keep_every_token() -> None:
    pieces = joined(RUNS, 1000)
    assert [len(piece.ids) for piece in pieces] == [1200, 1200, 1200]
    assert [flag for piece in pieces for flag in piece.matched] == [flag for run in RUNS for flag in run.matched]
    assert [len(piece.ids) for piece in joined(RUNS, 1100)][-1] == 1200
    assert sum(len(piece.ids) for piece in joined(RUNS, 1300)) == 3600


# ---- the bench ----


@pytest.mark.slow
def test_the_prototypes_setting_is_reproduced_for_matches_by_chance() -> None:
    result = run(quick=True)
    for schedule in ("edge", "sync", "edge-spec", "bound"):
        assert abs(result.figures[f"{schedule}_by_chance_prototype_difference_max_sim"]) <= 0.05
    assert result.figures["fleet_sessions"] >= 100
