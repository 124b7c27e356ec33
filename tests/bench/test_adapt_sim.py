"""Adaptive devices in simulation: worlds, hindsight, steps, the mix, and radio facts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the bench's packages")

from airdraft.core.radio_facts import RadioFacts
from airdraft.core.session import EdgeSession
from airdraft.core.types import Commit, Identity, Open, Origin, Pass, Sampling, Span, Work
from airdraft.link.radio_facts import RecordedSecond
from airdraft.link.simulation import ENDLESS
from airdraft.link.timeline import MBIT_S, Channel, Direction
from bench import adapt_facts, adapt_mix, adapt_worlds
from bench.adapt_mix import MIX_SETTINGS, Found, Place
from bench.adapt_planner import EdgeTerms, SimulatedEdge, Timed
from bench.adapt_sim import SETTINGS, FixedSetting, adaptive_on, hindsight
from bench.adapt_steps import STEP_TOKENS, Truth, observed
from bench.adapt_worlds import TRACES
from bench.cells import PASS, Cell, Link
from bench.figures import Result
from bench.match_runs import iid_runs
from bench.radio_link import channel_of
from bench.schedules import SCHEDULES
from coordinator.policy.expected import Expected
from coordinator.policy.plan import FRAMES, OBJECTIVES, Plan

RUNS = iid_runs(0.8, 6, 120, seed=3)


# ---- worlds ----


@pytest.mark.parametrize("name", TRACES)
def test_every_trace_has_rates_delays_and_a_label_that_says_what_it_is(name: str) -> None:
    trace = TRACES[name]
    channel = channel_of(name, 1)
    for way in (channel.up, channel.down):
        assert way.mean_rate_bytes_s > 0
        assert 0.002 < float(np.mean(way.delays_s)) < 0.5
    assert trace.stands_in == ("synthetic: no" in trace.label)


def test_a_synthetic_channel_stands_in_and_says_so_where_a_recording_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRDRAFT_DATA", str(tmp_path))
    trace = TRACES["umts-driving"]
    assert trace.stands_in
    assert trace.label == "gilbert-elliott (synthetic: no mahimahi/TMobile-UMTS-driving.up)"
    assert trace.channel(1).name == "gilbert-elliott"
    assert not TRACES["leo"].stands_in


def test_delays_that_a_recording_lacks_have_the_stated_mean_and_keep_its_rates() -> None:
    rates = np.array([1e6, 0.0, 2e6])
    course = Channel("c", Direction(1.0, rates, np.zeros(3)), Direction(1.0, np.tile(rates, 400), np.zeros(1200)))
    found = adapt_worlds.delayed(course, 0.1, 0.05, seed=1)
    assert float(np.mean(found.down.delays_s)) == pytest.approx(0.05, rel=0.1)
    assert float(np.std(found.down.delays_s)) == pytest.approx(0.025, rel=0.15)
    assert [found.up.rate_bytes_s(at_s) for at_s in (0.95, 1.05, 1.95, 2.05)] == [1e6, 0.0, 0.0, 2e6]
    assert "round trips of 100 ms" in found.assumed[-1]


# ---- settings and hindsight ----


def test_a_cell_sends_frames_of_as_many_tokens_as_it_says_only_where_several_fly() -> None:
    assert SCHEDULES["run-ahead"].plan(1, 4).draft_length == 4
    assert SCHEDULES["sync"].plan(6, 4).draft_length == 6
    assert FixedSetting("pipelined", 1, 8).cell(Link()) == Cell("pipelined", 1, Link(), frame_tokens=8)
    assert str(FixedSetting("hybrid", 3)) == "hybrid 3, frames of 1"


def test_settings_are_all_different_and_hold_every_mode() -> None:
    assert len(set(SETTINGS)) == len(SETTINGS)
    assert {setting.schedule for setting in SETTINGS} >= {
        "edge",
        "edge-spec",
        "sync",
        "pipelined",
        "run-ahead",
        "hybrid",
    }


def test_hindsight_ranks_by_time_and_a_long_round_trip_leaves_waiting_last() -> None:
    few = [FixedSetting("edge"), FixedSetting("sync", 1), FixedSetting("edge-spec", 4)]
    found = hindsight("geo", RUNS[:2], few)
    assert [setting.schedule for setting, _ in found] == ["edge-spec", "edge", "sync"]
    assert [seconds for _, seconds in found] == sorted(seconds for _, seconds in found)


def test_a_device_that_plans_is_faster_than_the_edge_alone_and_goes_on_learning() -> None:
    steering = Timed(OBJECTIVES["latency"])
    texts = adaptive_on("leo", RUNS, steering)
    assert [text.tokens for text in texts] == [120] * 6
    seconds = sum(text.seconds for text in texts) / sum(text.tokens - 1 for text in texts)
    assert seconds < 0.8 * PASS.fixed_s
    assert steering.planner.estimates.acceptance.acceptance == pytest.approx(0.8, abs=0.1)


# ---- the edge's terms ----


class Taking(EdgeSession):
    """A session whose device takes what the edge's own drafter writes."""

    @property
    def takes_own_drafts(self) -> bool:
        return True


def _begun(edge: SimulatedEdge) -> EdgeTerms:
    opened = Open(bytes(16), 1, Identity(bytes(32), bytes(32)), Sampling(), (), 100, 2, 2, bytes(32), None)
    terms = EdgeTerms(edge)
    terms.begins(Taking(opened, ENDLESS))
    return terms


def _passed(terms: EdgeTerms, own: int, accepted: int) -> int:
    work = Pass(1, 10, b"", Span(9, (0,) * (own + 1)), Sampling(), 0, own, range(10), own=own, work=Work.RUN_AHEAD)
    origins = (Origin.EDGE_DRAFT,) * accepted + (Origin.RECOVERED,)
    terms.passed(work, [Commit(1, 10, (1,) * (accepted + 1), 11 + accepted, b"", 0, origins)])
    return terms.session.own_draft_tokens


def test_an_edge_writes_more_where_its_drafts_are_right_and_quotes_it() -> None:
    good, poor = (_begun(SimulatedEdge(PASS, 0.008)) for _ in range(2))
    for _ in range(40):
        long, short = _passed(good, 4, 4), _passed(poor, 4, 0)
    assert long > 4 > short
    quotes = [terms.quote(1.0, opened=True) for terms in (good, poor)]
    assert quotes[0] is not None
    assert quotes[0].own_draft_tokens == long
    assert quotes[0].own_acceptance > 0.9
    assert quotes[1] is not None
    assert quotes[1].own_draft_tokens == 0


def test_an_edge_remembers_over_sessions_what_its_drafts_are_worth() -> None:
    good, poor = (SimulatedEdge(PASS, 0.008) for _ in range(2))
    assert _begun(good).session.own_draft_tokens == _begun(poor).session.own_draft_tokens
    for edge, accepted in ((good, 4), (poor, 0)):
        for _ in range(40):
            _passed(edge.sessions[0], 4, accepted)
    assert _begun(good).session.own_draft_tokens > 4 > _begun(poor).session.own_draft_tokens


def test_sessions_that_share_steps_have_drafts_of_one_length_and_are_told_of_each_other() -> None:
    edge = SimulatedEdge(PASS, 0.008)
    rules = edge.rules()
    good, poor = _begun(edge), _begun(edge)
    for _ in range(40):
        good.own_length.saw(4, 4)
        poor.own_length.saw(4, 0)
    rules.ended(1.0, 1, 5)
    rules.settled()
    assert good.session.own_draft_tokens == poor.session.own_draft_tokens > 0
    quote = good.quote(1.0, opened=True)
    assert quote is not None
    assert (quote.step_sessions, quote.step_positions) == (2, 10)  # though the last step was of one
    poor.session._state.finished = True
    assert edge.attached == 1


def test_a_quote_is_told_again_only_when_it_is_news() -> None:
    terms = _begun(SimulatedEdge(PASS, 0.008))
    assert terms.quote(0.0, opened=True) is not None
    assert terms.quote(5.0, opened=False) is None
    for _ in range(40):
        _passed(terms, 4, 0)
    assert terms.quote(5.1, opened=False) is None  # too soon after the last look
    told = terms.quote(6.0, opened=False)
    assert told is not None
    assert told.own_draft_tokens == 0


# ---- steps ----


def test_the_best_of_all_plans_is_no_dearer_than_any() -> None:
    truth = Truth(60, 0.8)
    assert truth.best_cost() == min(truth.cost(plan) for plan in truth.plans())
    waits = Plan("split", 1, 1, waits=True)
    assert truth.cost(waits) > 1.5 * truth.best_cost()
    plain = replace(truth, full=False)
    assert all(plan.way in ("edge", "sync", "pipelined", "run-ahead") for plan in plain.plans())


def test_plans_are_observed_from_the_step_on() -> None:
    plans, spent_s = observed(Truth(60, 0.9), Truth(60, 0.3), seed=1, rounds=30)
    assert len(plans) == 31
    assert all(0 <= decided_s <= all_s for decided_s, all_s in spent_s)
    assert len(spent_s) > STEP_TOKENS / 9  # a decision behind every commit of the whole text


# ---- the mix ----


def test_a_worlds_ratios_are_costs_over_the_best_settings() -> None:
    spent = {setting: Expected(0.030 + index / 1000, 0.03, 0.0, 0.0) for index, setting in enumerate(MIX_SETTINGS)}
    found = Found(Place(1, 0.8, 60), spent, dict.fromkeys(OBJECTIVES, Expected(0.015, 0.015, 0.0, 0.0)))
    ratios = found.ratios("latency")
    assert min(value for setting, value in ratios.items() if setting) == 1.0
    assert ratios[None] == pytest.approx(0.5)
    result = Result("mix")
    adapt_mix.add_mix(result, [found], suffix="")
    assert result.figures["adaptive_over_best_fixed_mix"] == pytest.approx(2.0, rel=1e-3)
    assert result.figures["mix_ceiling_sim"] == 1.0


def test_the_cut_of_edge_seconds_is_against_the_device_that_plans_for_latency() -> None:
    edge = MIX_SETTINGS[0]
    by_objective = {"latency": Expected(0.02, 0.02, 0.0, 0.0), "edge-seconds": Expected(0.0206, 0.015, 0.0, 0.0)}
    found = Found(Place(1, 0.8, 60), {edge: Expected(0.03, 0.03, 0.0, 0.0)}, by_objective)
    result = Result("mix")
    adapt_mix.add_cut(result, [found])
    assert result.figures["edge_seconds_cut"] == pytest.approx(0.25)
    assert result.figures["edge_seconds_latency_cost"] == pytest.approx(1.03)
    assert result.figures["edge_seconds_cut_over_edge_alone"] == pytest.approx(0.5)


def test_an_edge_without_a_drafter_drafts_nothing() -> None:
    place = Place(1, 0.9, 10, drafter=False)
    runs = place.texts(60)
    alone = adapt_mix.fixed(place, runs, FixedSetting("edge"))
    assert adapt_mix.fixed(place, runs, FixedSetting("edge-spec", 4)) == alone
    assert alone.seconds == pytest.approx(PASS.fixed_s)
    assert alone.edge_s == pytest.approx(PASS.fixed_s, rel=0.05)


def test_sessions_share_steps_and_a_slow_uplink_holds_drafts_back() -> None:
    four = Place(4, 0.8, 10)
    shared = adapt_mix.fixed(four, four.texts(60), FixedSetting("edge"))
    assert shared.edge_s == pytest.approx(PASS.seconds(4) / 4, rel=0.05)
    slow = Place(1, 0.9, 10, up_bytes_s=0.02 * MBIT_S)
    fast = replace(slow, up_bytes_s=10 * MBIT_S)
    setting = FixedSetting("run-ahead", 1, 1)
    assert (
        adapt_mix.fixed(slow, slow.texts(100), setting).seconds
        > adapt_mix.fixed(fast, fast.texts(100), setting).seconds
    )


# ---- radio facts ----


def test_a_round_trip_that_follows_the_signal_is_planned_for_sooner_with_facts() -> None:
    seconds = [
        RecordedSecond(
            float(at),
            RadioFacts(when_s=float(at), technology="nr", sinr_db=20.0 if (at // 20) % 3 else -5.0),
            None,
            (0.02 if (at // 20) % 3 else 0.4) if at % 20 == 10 else None,
        )
        for at in range(2400)
    ]
    found = adapt_facts.chosen(seconds, full=False)
    assert sum(one.differ for one in found) > 0
    assert sum(one.with_s for one in found) < sum(one.without_s for one in found)
    assert all(math.isfinite(one.with_s) for one in found)


def test_without_recordings_nothing_is_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRDRAFT_DATA", str(tmp_path))
    assert adapt_facts.run(quick=True).figures == {}


def test_the_plan_of_the_start_drafts_without_waiting() -> None:
    assert Timed(OBJECTIVES["latency"]).conduct.outstanding == FRAMES
