"""The bench of adaptive devices: who writes what when, how rates compare, what the page says; and once for real."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the bench's packages")

from airdraft.core.types import Quote
from airdraft.link.sim_text import MatchRun
from bench import adapt_page
from bench.adapt import SIZES, contestants
from bench.adapt_bars import BARS
from bench.adapt_figures import best_fixed, by_trace, chosen_elsewhere, figures, ratio_draws, setting_name, shared
from bench.adapt_real import (
    ADAPTIVE,
    ADAPTIVE_EDGE,
    EDGE_ALONE,
    Outcome,
    Place,
    Size,
    Work,
    matched_runs,
    places,
    write,
)
from bench.adapt_report import FILE, Report, read, report_of
from bench.adapt_sim import FixedSetting
from bench.adapt_worlds import TRACES
from bench.figures import Result
from bench.paced_edge import EdgeDraft
from bench.planner_memory import memory_of, planner_of
from bench.radio_lane import Errand, Lane
from bench.radio_link import shapes
from bench.radio_text import Text, order_line, order_of
from coordinator.policy.estimates import Drafted, Judged, Passed, Sample, Transfer
from coordinator.policy.plan import objective_of
from coordinator.policy.planner import Planner
from device_client.plan import start_of

SMALL = Size(prompts=2, repeats=2, budget_s=60.0)
HYBRID, SYNC = FixedSetting("hybrid", 2), FixedSetting("sync", 4)

Pace = Callable[[Place], float]


def a_text(s_per_token: float, *, memory: str = "") -> Text:
    arrivals = [0.1 + index * s_per_token for index in range(11)]
    return Text(list(range(11)), arrivals, [1] * 11, 100, 200, pass_late_s=[0.0, 0.0002], edge_s=0.3, memory=memory)


def an_outcome(setting: FixedSetting | None, pace: Pace, trace: str = "leo", size: Size = SMALL) -> Outcome:
    return Outcome(trace, setting, {place: a_text(pace(place)) for place in places(size)})


def runs(size: Size = SMALL) -> dict[Place, MatchRun]:
    return {place: MatchRun(tuple(range(11)), (True,) * 8 + (False,) * 3) for place in places(size)}


# ---- who writes what, and when ----


def test_a_text_is_repeated_later_in_the_trace_with_the_same_prompt_and_seed() -> None:
    wanted = places(Size(prompts=3, repeats=2, budget_s=1.0))
    assert [place.moment for place in wanted] == list(range(12)), "no two meet the trace at the same moment"
    first, second = ([place for place in wanted if place.repeat == repeat] for repeat in (0, 1))
    assert [(place.number, place.temperature, place.seed) for place in first] == [
        (place.number, place.temperature, place.seed) for place in second
    ]
    assert {place.seed for place in wanted if not place.temperature} == {0}
    assert all(SIZES[extent].repeats >= 3 for extent in ("bars", "full"))


def test_contestants_meet_the_same_places_and_what_was_learnt_goes_along() -> None:
    outcomes = [Outcome("leo", None), Outcome("leo", EDGE_ALONE)]
    work = Work(outcomes, SMALL, until_s=float("inf"))
    met: list[tuple[str, int]] = []
    memories: list[str] = []
    while (passage := work.next()) is not None:
        met.append((passage.outcome.contestant, passage.left[0].moment))
        if passage.outcome.setting is None:
            memories.append(passage.memory)
        work.written(passage, a_text(0.03, memory=f"after {passage.left[0].moment}"))
    turns = [moment for number in range(4) for moment in (number, 4 + number)]
    assert met == [(name, moment) for moment in turns for name in (ADAPTIVE, "edge")]
    learnt = {moment: "" if moment % 4 == 0 else f"after {moment - 1}" for moment in range(8)}
    assert memories == [learnt[moment] for moment in turns], "a repeat begins knowing nothing"
    assert work.done == work.total == 16
    assert not any(text.memory for outcome in outcomes for text in outcome.texts.values())


def test_no_passage_is_at_two_lanes_and_nothing_begins_when_time_is_up() -> None:
    work = Work([Outcome("leo", None)], replace(SMALL, repeats=1), until_s=float("inf"))
    passage = work.next()
    assert passage is not None
    assert work.next() is None, "the next text needs what this one leaves behind"
    work.written(passage, a_text(0.03))
    assert work.next() is passage
    assert Work([Outcome("leo", None)], SMALL, until_s=0.0).next() is None


def test_a_setting_and_a_device_that_plans_are_told_what_they_need() -> None:
    place = Place(1, 5, 1.0, 17)
    adaptive = Outcome("geo", None).errand(place, "p", "learnt")
    assert (adaptive.edge, adaptive.moment, adaptive.link.channel) == (ADAPTIVE_EDGE, 17, "geo")
    assert (adaptive.order.seed, adaptive.order.memory, adaptive.order.drafter) == (5, "learnt", "demo")
    assert objective_of(adaptive.order.objective)
    assert order_of(order_line(adaptive.order)) == adaptive.order
    sync = Outcome("geo", SYNC).errand(place, "p", "")
    assert (sync.edge, sync.order.plan.draft_length, sync.order.objective) == ("none", 4, "")
    hybrid = Outcome("geo", FixedSetting("hybrid", 3, 2)).errand(place, "p", "")
    assert (hybrid.edge, hybrid.order.plan.draft_length) == ("ahead+demo:3", 2)
    assert Outcome("geo", EDGE_ALONE).errand(place, "p", "").order.drafter == "none"
    edge = EdgeDraft.of(ADAPTIVE_EDGE)
    assert (edge.ahead, edge.adapts, edge.length) == (True, True, 8)
    assert not EdgeDraft.of("ahead+demo:8").adapts


def test_the_edge_alone_writes_once_beside_the_best() -> None:
    ranked = [(HYBRID, 0.02), (EDGE_ALONE, 0.03), (SYNC, 0.04)]
    assert [outcome.setting for outcome in contestants("leo", ranked, 2)] == [None, HYBRID, EDGE_ALONE]
    assert [outcome.setting for outcome in contestants("leo", ranked, 1)] == [None, HYBRID, EDGE_ALONE]


@pytest.mark.parametrize("trace", TRACES)
def test_every_trace_can_be_met_at_every_moment(trace: str) -> None:
    for text in (0, places(SIZES["bars"])[-1].moment):
        errand: Errand = Outcome(trace, None).errand(Place(0, 0, 0.0, text), "p", "")
        for shape in shapes(errand.link, errand.moment):
            assert shape.conditions.delay_s(0.0) >= 0


# ---- how rates are compared ----


def test_the_best_setting_is_that_of_all_texts_or_of_the_other_repeats() -> None:
    hybrid = an_outcome(HYBRID, lambda place: 0.02 if place.repeat else 0.05)
    sync = an_outcome(SYNC, lambda place: 0.04 if place.repeat else 0.02)
    outcomes = [an_outcome(None, lambda place: 0.03), hybrid, sync, an_outcome(EDGE_ALONE, lambda place: 0.06)]
    assert best_fixed(outcomes, shared(outcomes)) is sync
    elsewhere = chosen_elsewhere(outcomes, shared(outcomes))
    assert all(text is (sync if place.repeat else hybrid).texts[place] for place, text in elsewhere.items()), (
        "each repeat has the setting that the other one would have chosen"
    )
    once = [Outcome(one.trace, one.setting, {p: t for p, t in one.texts.items() if p.repeat}) for one in outcomes]
    assert chosen_elsewhere(once, shared(once)) == once[1].texts, "there is no other repeat to choose by"


def test_a_ratio_is_of_sums_and_its_prompts_are_drawn_with_all_their_repeats() -> None:
    mine = an_outcome(None, lambda place: 0.02 if place.number else 0.04)
    theirs = an_outcome(HYBRID, lambda place: 0.04)
    draws = ratio_draws(mine.texts, theirs.texts, shared([mine, theirs]))
    assert draws[0] == pytest.approx(0.08 / 0.06)
    assert draws.min() == pytest.approx(1.0)
    assert draws.max() == pytest.approx(2.0)
    same = ratio_draws(mine.texts, mine.texts, list(mine.texts))
    assert same == pytest.approx(1.0), "what two contestants have in common is no spread"


def test_only_places_that_every_contestant_has_written_count() -> None:
    adaptive, hybrid = (an_outcome(setting, lambda place: 0.03) for setting in (None, HYBRID))
    last = places(SMALL)[-1]
    del hybrid.texts[last]
    assert last not in shared([adaptive, hybrid])
    assert by_trace([adaptive, hybrid, Outcome("geo", None)]).keys() == {"leo"}


def two_traces() -> tuple[Result, dict[str, list[Outcome]]]:
    outcomes = [
        *(an_outcome(None, lambda place: 0.02, trace) for trace in ("leo", "5g-walking")),
        an_outcome(HYBRID, lambda place: 0.018, "leo"),
        an_outcome(FixedSetting("run-ahead", 1, 2), lambda place: 0.022, "5g-walking"),
        *(an_outcome(EDGE_ALONE, lambda place: 0.03, trace) for trace in ("leo", "5g-walking")),
    ]
    return figures(outcomes, runs()), by_trace(outcomes)


def test_figures_are_of_every_trace_of_the_median_one_and_of_the_worst() -> None:
    found = two_traces()[0].figures
    assert found["adaptive_over_hindsight_leo"] == pytest.approx(0.9)
    assert found["adaptive_over_hindsight_5g_walking"] == pytest.approx(1.1)
    assert found["adaptive_over_hindsight_median"] == pytest.approx(1.0)
    assert found["adaptive_over_hindsight_min"] == pytest.approx(0.9)
    assert found["adaptive_over_hindsight_elsewhere_min"] == pytest.approx(0.9)
    assert found["adaptive_over_edge_min"] == pytest.approx(1.5)
    assert found["tokens_per_s_paced_run_ahead_frames2_5g_walking"] == pytest.approx(1 / 0.022, abs=1e-3)
    assert found["equal_text"] == 1
    assert found["acceptance_sampled"] == pytest.approx(8 / 11)
    assert found["pace_error_ms_p99"] == pytest.approx(0.2)


def test_the_worst_trace_counts_by_its_intervals_lower_end() -> None:
    outcomes = [
        an_outcome(None, lambda place: 0.02 if place.number else 0.03),
        an_outcome(HYBRID, lambda place: 0.02),
        an_outcome(EDGE_ALONE, lambda place: 0.03),
    ]
    found = figures(outcomes, runs())
    low, _ = found.spread["adaptive_over_hindsight_leo"]
    assert found.figures["adaptive_over_hindsight_min"] == low < found.figures["adaptive_over_hindsight_leo"]


def test_a_text_that_is_not_the_targets_own_is_a_mismatch() -> None:
    outcome = an_outcome(None, lambda place: 0.03)
    next(iter(outcome.texts.values())).ids[3] = 99
    found = figures([outcome, an_outcome(EDGE_ALONE, lambda place: 0.03)], runs()).figures
    assert (found["mismatches"], found["equal_text"]) == (1, 0)


def test_settings_have_names_of_their_own() -> None:
    from bench.adapt_sim import SETTINGS

    names = [setting_name(Outcome("leo", setting)) for setting in SETTINGS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


# ---- what is shown ----


def a_report() -> Report:
    result, traces = two_traces()
    return report_of("quick", result, traces)


def test_the_page_stands_alone_and_names_every_bar(tmp_path: Path) -> None:
    a_report().write(tmp_path)
    assert read(tmp_path) == a_report()
    files = adapt_page.write(read(tmp_path), tmp_path)
    assert {path.name for path in files} == {
        "adapt-rates.svg",
        "adapt-rates.png",
        "adapt-ratios.svg",
        "adapt-ratios.png",
        "adapt.html",
    }
    text = files[-1].read_text()
    shown = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|adapt-)[^"]*"', shown), "nothing from elsewhere"
    assert "<script" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(set(ids)) == len(ids)
    assert all(f"<code>{name}</code>" in text for name in BARS)
    assert '<td class="held">held</td>' in text
    assert '<td class="missed">missed</td>' in text
    assert '<td class="missed">not measured</td>' in text, "what was not measured is no success"
    assert all(TRACES[trace].label.split(":")[0] in text for trace in ("leo", "5g-walking"))
    again = adapt_page.write(a_report(), tmp_path)[-1].read_text()
    assert again == text, "the same report is the same page"


def test_a_folder_without_a_report_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=FILE):
        read(tmp_path)


def test_what_a_planner_knows_goes_through_text_whole() -> None:
    planner = Planner(objective_of("latency"), start_of("auto", "demo", 1))
    planner.quoted(Quote(0.02, 0.001, runs_ahead=True, own_draft_tokens=8, own_draft_s=0.001, own_acceptance=0.5))
    seen = Sample(
        0.0, 0.05, Transfer(100, 0.01), Transfer(50, 0.02), lost=False, drafted=Drafted(3, 0.03), passed=Passed(4, 0.04)
    )
    for at in range(40):
        planner.sampled(replace(seen, at_s=float(at), judged=Judged(4, at % 5)))
        planner.committed(3, 0.1, at_s=float(at), right=1)
        planner.decide()
    memory = memory_of(planner)
    again = planner_of(memory)
    assert memory_of(again) == memory
    assert (again.estimates.acceptance, again.errors, again.quote) == (
        planner.estimates.acceptance,
        planner.errors,
        planner.quote,
    )
    assert again.decide() == planner.decide()
    assert again.explained() == planner.explained()
    for other in ("{}", memory.replace("_usual_error", "usual_error")):
        with pytest.raises(ValueError, match=r"cost line|missing"):
            planner_of(other)


# ---- with real processes ----


@pytest.mark.slow
async def test_a_device_plans_from_text_to_text_and_writes_what_the_target_writes() -> None:
    size = Size(prompts=1, repeats=1, budget_s=60.0)
    known, wanted = matched_runs(size), places(size)
    adaptive, alone = Outcome("5g-walking", None), Outcome("5g-walking", EDGE_ALONE)
    prompt = "How many apples are three apples and four apples?"
    async with Lane(0, ["none", ADAPTIVE_EDGE]) as lane:
        first = await lane.run(adaptive.errand(wanted[0], prompt, ""))
        second = await lane.run(adaptive.errand(wanted[0], prompt, first.memory))
        plain = await lane.run(alone.errand(wanted[0], prompt, ""))
    assert first.ids == second.ids == plain.ids
    assert first.memory
    assert second.memory not in ("", first.memory)
    assert first.plan
    assert not plain.memory
    await write([adaptive, alone], size, "quick")
    assert all(tuple(text.ids) == known[place].ids for one in (adaptive, alone) for place, text in one.texts.items())
    assert adaptive.texts.keys() == alone.texts.keys() == set(wanted)
