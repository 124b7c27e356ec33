"""Semantic sessions in virtual time: what stands, by a run's classes, under every schedule; and exact ones beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.types import Limits, Plan, Span
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_meaning import ASKED
from airdraft.link.sim_text import ELSEWHERE, HARMFUL, HARMLESS, MISSED, WORDING, MatchDrafter, MatchRun, TextRows
from airdraft.link.simulation import Conduct, SimulatedText, World
from bench.semantic_sim import (
    BARS,
    EXACT,
    SCHEDULES,
    SEMANTIC,
    meaning_runs,
    planned,
    setting_of,
    simulate,
    texts_of,
    tokens_per_s,
)
from coordinator.policy.costs import PassCost
from tests.link.test_simulation import link_of

PASS = PassCost(0.030, 0.0003)
COSTS = Costs(0.008, by_positions(PASS.seconds))
PIPELINED = 64


def run_of(classes: str) -> MatchRun:
    """Return a run of E, its own, H, another wording, and X, a miss."""
    ids = tuple(range(100, 100 + len(classes)))
    return MatchRun(ids, tuple(one == "E" for one in classes), harmless=tuple(one == "H" for one in classes))


def held(provisional_s: float) -> Conduct:
    return Conduct(Plan(1, PIPELINED, provisional_s=provisional_s), run_ahead=True, semantic=ASKED)


def sync(draft_length: int, *, exact: bool = False) -> Conduct:
    return Conduct(Plan(draft_length), semantic=None if exact else ASKED)


def one(run: MatchRun, conduct: Conduct, round_trip_s: float = 0.1) -> SimulatedText:
    (text,) = World(COSTS).one_by_one([run], conduct, link_of(round_trip_s))
    return text


# ---- texts ----


def test_what_a_drafter_writes_is_of_the_class_of_its_place() -> None:
    run = run_of("EHXE")
    assert run.drafts == (100, WORDING, MISSED, 103)
    drafter = MatchDrafter(run)
    assert drafter.propose((0,), 4, lambda: False) == [100, WORDING, MISSED, MISSED]
    assert drafter.propose((0, 100, WORDING), 2, lambda: False) == [MISSED, MISSED]
    assert drafter.propose((0, 100, WORDING, 102), 1, lambda: False) == [103]
    assert drafter.propose((0, 100, 101, 102), 1, lambda: False) == [103]
    assert drafter.propose((0, WORDING), 1, lambda: False) == [MISSED]


def test_a_text_stands_in_either_wording_and_no_other() -> None:
    run = run_of("EHX")
    assert run.stands((0, 100, 101, 102))
    assert run.stands((0, 100, WORDING, 102))
    assert run.stands((0, 100))
    assert not run.stands((0, WORDING))
    assert not run.stands((0, 100, 101, WORDING))
    assert not run.stands((0, 100, 101, 102, 103))
    assert not run.stands((WORDING,))


def test_a_run_says_of_each_place_what_is_harmless() -> None:
    with pytest.raises(ValueError, match="each id whether another wording"):
        MatchRun((1, 2), (True, False), harmless=(True,))


def test_the_target_goes_on_from_either_wording_and_tells_each_nodes_class() -> None:
    run = run_of("EHXE")
    rows = TextRows(run)
    span = Span(0, (0, 100, WORDING, MISSED, MISSED), wanted=(0, 1, 2, 3, 4))
    choices = rows.extend(span)
    assert choices == (100, 101, 102, ELSEWHERE, ELSEWHERE)
    told = rows.evidence(span, 4, choices)
    assert [(one.node, one.partial) for one in told] == [(1, (HARMLESS,)), (2, (HARMFUL,)), (3, (HARMFUL,))]


def test_evidence_of_a_tree_looks_at_each_nodes_own_parent() -> None:
    run = run_of("HEX")
    span = Span(0, (0, WORDING, 100, 101), (-1, 0, 0, 1), wanted=(0, 1, 2, 3))
    rows = TextRows(run)
    choices = rows.extend(span)
    assert choices == (100, 101, 101, 102)
    assert [(one.node, one.partial) for one in rows.evidence(span, 3, choices)] == [(0, (HARMLESS,))]


# ---- schedules ----


def test_another_wording_costs_a_synchronous_round_nothing() -> None:
    assert one(run_of("EEEEHEEEEE"), sync(9)).passes == one(run_of("EEEEEEEEEE"), sync(9)).passes
    assert one(run_of("EEEEHEEEEE"), sync(9, exact=True)).passes > one(run_of("EEEEEEEEEE"), sync(9)).passes


def test_an_edge_that_commits_at_once_voids_what_it_would_have_let_stand() -> None:
    """The device's wording comes when the target's own is committed, but where that was held back it stands."""
    run = run_of("XEHEEEEEEE" * 6)  # behind a miss the edge is ahead
    assert one(run, held(0.2)).accepted > one(run, held(0.0)).accepted


@settings(max_examples=60, deadline=None)
@given(
    st.text("EEEHX", min_size=1, max_size=60),
    st.integers(0, 9),
    st.sampled_from([1, 2, PIPELINED]),
    st.sampled_from([0.0, 0.017, 0.1, 0.3]),
    st.sampled_from([0.0, 0.03]),
    st.sampled_from([1, 2, 5, 64]),
    st.sampled_from([0.0, 0.01, 0.15, 5.0]),
    st.booleans(),
    st.integers(0, 3),
)
def test_any_schedule_writes_the_text_in_one_wording_or_the_other(
    classes: str,
    draft_length: int,
    outstanding: int,
    round_trip_s: float,
    jitter_s: float,
    ahead: int,
    provisional_s: float,
    run_ahead: bool,
    own: int,
) -> None:
    conduct = Conduct(
        Plan(draft_length, outstanding, provisional_s=provisional_s),
        Limits(1 << 20, ahead_tokens=ahead),
        own_draft_tokens=own,
        run_ahead=run_ahead,
        overtaking=run_ahead,
        semantic=ASKED,
    )
    (text,) = World(COSTS).one_by_one([run_of(classes)], conduct, link_of(round_trip_s, jitter_s))  # asserts the text
    assert text.tokens == len(classes)


def test_exact_sessions_beside_are_the_targets_own() -> None:
    """Every other session of one engine may let tokens stand: its neighbours' texts are asserted to be the target's."""
    runs = meaning_runs(0.7, 0.9, 12, 60, seed=2)
    world = World(COSTS, sessions_a_step=4)
    conducts = [replace(held(0.15), semantic=ASKED if index % 2 else None) for index in range(len(runs))]
    texts = world.fleet(
        runs, [0.01 * index for index in range(12)], lambda index: conducts[index], lambda _: link_of(0.05)
    )
    assert [text.tokens for text in texts] == [60] * 12


def test_where_nothing_is_harmless_a_semantic_session_is_an_exact_one() -> None:
    runs = [replace(run, harmless=()) for run in meaning_runs(0.8, 0.8, 4, 100, seed=3)]
    for plan in (Plan(5), Plan(1, PIPELINED)):
        asked, exact = (texts_of(Conduct(plan, semantic=wish), 0.05, runs) for wish in (ASKED, None))
        assert [text.accepted for text in asked] == pytest.approx([text.accepted for text in exact], rel=0.1)


# ---- what it is worth ----

ROUND_TRIPS_S = (0.0, 0.03, 0.1, 0.3)


@pytest.fixture(scope="module")
def runs() -> Sequence[MatchRun]:
    return meaning_runs(EXACT, SEMANTIC, 4, 500, seed=5)


@pytest.mark.parametrize("round_trip_s", ROUND_TRIPS_S)
@pytest.mark.parametrize("name", ["pipelined", "run-ahead", "provisional", "sync-6"])
def test_the_models_are_within_a_tenth_of_the_cores(name: str, round_trip_s: float, runs: Sequence[MatchRun]) -> None:
    model = SCHEDULES[name].model
    assert model is not None
    assert 1 / model(setting_of(round_trip_s)).seconds == pytest.approx(simulate(name, round_trip_s, runs), rel=0.1)


@pytest.mark.parametrize(("exact", "semantic"), [(0.7, 0.85), (0.8, 0.82), (0.9, 0.95)])
@pytest.mark.slow
def test_so_they_are_for_other_drafters(exact: float, semantic: float) -> None:
    runs = meaning_runs(exact, semantic, 4, 500, seed=6)
    for round_trip_s in (0.03, 0.2):
        setting = setting_of(round_trip_s, exact, semantic)
        for name in ("run-ahead", "provisional"):
            model = SCHEDULES[name].model
            assert model is not None
            rate = tokens_per_s(texts_of(SCHEDULES[name].conduct(setting), round_trip_s, runs))
            assert 1 / model(setting).seconds == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("rtt_ms", BARS)
def test_semantic_schedules_pass_their_bars(rtt_ms: int, runs: Sequence[MatchRun]) -> None:
    rates = [simulate(name, rtt_ms / 1000, runs) for name in ("run-ahead", "provisional")]
    assert max(rates) / simulate("edge", rtt_ms / 1000, runs) >= BARS[rtt_ms]


def test_holding_back_is_worth_it_near_and_not_far_off(runs: Sequence[MatchRun]) -> None:
    gain = {trip: simulate("provisional", trip, runs) / simulate("run-ahead", trip, runs) for trip in (0.06, 0.3)}
    assert gain[0.06] > 1.02
    assert gain[0.3] < 0.98


def test_a_device_that_plans_is_near_the_best_of_both() -> None:
    runs = meaning_runs(EXACT, SEMANTIC, 6, 300, seed=7)
    for round_trip_s in (0.03, 0.3):
        best = max(simulate(name, round_trip_s, runs) for name in ("run-ahead", "provisional"))
        rate, way = planned(round_trip_s, runs)
        assert rate > 0.93 * best
        assert way in ("run-ahead", "provisional")
