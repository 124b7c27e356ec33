"""The radio bench: what it asks, how it pairs, when it gives way, what it says; and once with real processes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the bench's packages")

from random import Random

from airdraft.core.types import Sampling
from airdraft.link.bound import ClairvoyantBound
from airdraft.link.channels import CHANNELS
from airdraft.link.shaping import Air, Constant, Stream
from bench import page
from bench.cells import PASS, Cell, Link, Models
from bench.figures import Result
from bench.paced_edge import EdgeDraft
from bench.prompts import held_out
from bench.radio import Work
from bench.radio_bars import BARS, BEST, RIVALS
from bench.radio_cells import (
    DEMO,
    ROUGH,
    ROUND_TRIPS_MS,
    SAMPLED,
    TEXTS,
    Extent,
    Wanted,
    cell_of,
    edge_draft,
    edge_drafts,
    name_of,
    native,
    paced,
)
from bench.radio_figures import figures
from bench.radio_gate import LATE_COUNT, Gate
from bench.radio_lane import Lane
from bench.radio_link import APART_S, Later, channel_of, shapes
from bench.radio_memory import Memories, Remembering
from bench.radio_outcome import Outcome, mismatches, rate_of, ratio_of, ratio_to_bound
from bench.radio_report import FILE, Report, read, report_of
from bench.radio_text import (
    Matches,
    MatchOrder,
    Text,
    TextOrder,
    answer_line,
    matches_of,
    order_line,
    order_of,
    text_of,
)
from bench.schedules import SCHEDULES

AT_30 = Link(0.03)


def a_text(tokens: int, s_per_token: float, first: int = 7) -> Text:
    """Return a text of one token a commit, at a steady pace."""
    arrivals = [0.08 + index * s_per_token for index in range(tokens)]
    return Text(
        [first, *range(1, tokens)], arrivals, [1] * tokens, 100, 200, pass_late_s=[0.0, 0.0002], edge_s=tokens * 0.03
    )


def an_outcome(schedule: str, s_per_token: Sequence[float], link: Link = AT_30, models: Models = DEMO) -> Outcome:
    outcome = Outcome(Wanted(cell_of(schedule, link, models), len(s_per_token)))
    for number, seconds in enumerate(s_per_token):
        outcome.texts[number] = a_text(20, seconds)
        matched = tuple(index % 5 != 4 for index in range(20))
        outcome.matches[number] = Matches((1, 2, 3), matched, (99,))
    return outcome


# ---- what is asked ----


def test_orders_and_answers_survive_the_line() -> None:
    plan = SCHEDULES["pearl"].plan(4)
    orders = (
        TextOrder("127.0.0.1:1", "two\nlines", plan=plan, draft_s=0.008),
        MatchOrder("p", (1, 2), "demo", 1.0, 2**63),
    )
    for order in orders:
        line = order_line(order)
        assert line.count("\n") == 1
        assert order_of(line) == order
    text = a_text(5, 0.03)
    text.link_bytes = 3, 4
    assert text_of(answer_line(text)) == text
    matches = Matches((1, 2), (True, False), (9,))
    assert matches_of(answer_line(matches)) == matches


@pytest.mark.parametrize("extent", ["quick", "bars", "full"])
@pytest.mark.slow
def test_cells_have_names_of_their_own_and_lengths_that_someone_chose(extent: Extent) -> None:
    cells = [wanted.cell for wanted in [*paced(extent), *native(extent)]]
    names = [name_of(wanted.cell) for wanted in paced(extent)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_.]+", name) for name in names)
    for cell in cells:
        drafts = SCHEDULES[cell.schedule].device_drafts or SCHEDULES[cell.schedule].edge_drafter != "none"
        assert (cell.draft_length > 0) == drafts
        assert edge_draft(cell) in edge_drafts(paced(extent) + native(extent))


def test_the_bars_have_what_the_simulator_must_reproduce() -> None:
    tested = [wanted for wanted in paced("bars") if wanted.simulated]
    assert {
        "sync_rtt0",
        "edge_spec_rtt60",
        "run_ahead_rtt100",
        "pipelined_rtt30",
        "hybrid_rtt30",
        "sync_noisy5_rtt30",
        "sync_rtt60_jitter10",
        "sync_markov_lte",
    } <= {name_of(wanted.cell) for wanted in tested}
    fitted_on = {wanted.cell.schedule for wanted in paced("bars") if not wanted.simulated}
    assert {"edge", "edge-spec", "sync"} <= fitted_on


def test_every_bar_has_the_cells_that_it_compares() -> None:
    """Each with as many texts of the same numbers, greedy and sampled."""
    texts = {name_of(wanted.cell): wanted.texts for wanted in paced("bars")}
    compared = {
        "run_ahead_over_edge": ("run_ahead", "edge"),
        "run_ahead_over_clairvoyant": ("run_ahead",),
        "best_over_sync": (BEST.replace("-", "_"), "sync"),
        "pipelined_over_pearl": ("pipelined", "pearl"),
        "hybrid_over_best": ("hybrid", *(rival.replace("-", "_") for rival in RIVALS)),
        "run_ahead_over_proactive": ("run_ahead", "proactive"),
    }
    for bar in BARS:
        name, _, trip = bar.partition("_rtt")
        for schedule in compared.get(name, ()):
            assert texts[f"{schedule}_rtt{trip}"] == texts[f"{schedule}_sampled_rtt{trip}"] == TEXTS
    assert sum(bar.partition("_rtt")[0] in compared for bar in BARS) == 5 * len(ROUND_TRIPS_MS) + 3


def test_the_least_of_running_ahead_is_over_rough_links_and_bad_drafters_with_the_edge_beside_each() -> None:
    cells = [wanted.cell for wanted in paced("bars")]
    ahead = [cell for cell in cells if cell.schedule == "run-ahead"]
    for cell in ahead:
        assert cell_of("edge", cell.link, Models(temperature=cell.models.temperature)) in cells
    names = {name_of(cell) for cell in ahead}
    assert {f"run_ahead_noisy{tenth}_rtt{trip}" for tenth in (3, 5, 8, 9) for trip in (30, 200)} < names
    assert {f"run_ahead_{channel.replace('-', '_')}" for channel in CHANNELS if channel != "constant"} < names
    assert {"run_ahead_rtt30_jitter10", "run_ahead_rtt100_jitter10"} < names


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("edge", "none"),
        ("sync", "none"),
        ("edge-spec", "demo:3"),
        ("edge-lookup", "ngram:4"),
        ("run-ahead", "ahead"),
        ("hybrid", "ahead+demo:3"),
        ("hybrid-lookup", "ahead+ngram:4"),
    ],
)
def test_an_edge_is_told_whether_to_go_ahead_and_what_to_draft(schedule: str, words: str) -> None:
    assert edge_draft(cell_of(schedule, AT_30)) == words
    read = EdgeDraft.of(words)
    assert read.ahead == SCHEDULES[schedule].run_ahead
    assert read.length == SCHEDULES[schedule].own_length(cell_of(schedule, AT_30).draft_length)
    assert (read.drafter == "") == (SCHEDULES[schedule].edge_drafter == "none")
    assert EdgeDraft.of("ahead+noisy:0.5:2") == EdgeDraft(ahead=True, drafter="noisy:0.5", length=2)


def test_a_drafter_that_remembers_is_asked_once_a_path() -> None:
    asked: list[list[int]] = []

    class Counting:
        def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
            asked.append(list(path))
            return [] if len(path) > 4 or cancelled() else [len(path)]

        def learn(self, ids: Sequence[int]) -> None:
            asked.append([-1, *ids])

    memories = Memories()
    greedy, sampled = (memories.of("demo", Sampling(temperature=degree)) for degree in (0.0, 1.0))
    first = Remembering(Counting(), greedy)
    assert first.propose([7, 7], 2, lambda: False) == [2, 3]
    assert Remembering(Counting(), greedy).propose([7, 7], 3, lambda: False) == [2, 3, 4]
    assert asked == [[7, 7], [7, 7, 2], [7, 7, 2, 3]]
    assert first.propose([7, 7], 4, lambda: False) == [2, 3, 4], "what it cannot say is not kept"
    assert Remembering(Counting(), sampled).propose([7, 7], 1, lambda: False) == [2]
    assert asked[-1] == [7, 7], "another sampling drafts otherwise"
    assert first.propose([7, 7], 1, lambda: True) == []
    first.learn([1])
    assert asked[-1] == [-1, 1]


def test_a_text_meets_the_same_moment_of_a_link_in_every_schedule() -> None:
    link = Link(channel="markov-lte", channel_seed=3)
    course = channel_of("markov-lte", 3)
    for number in (0, 5):
        up, down = shapes(link, number)
        for at_s in (0.0, 0.3, 2.2):
            assert up.conditions.rate_bytes_s(at_s) == course.up.rate_bytes_s(at_s + number * APART_S)
            assert down.conditions.delay_s(at_s) == course.down.delay_s(at_s + number * APART_S)
            assert up.conditions.steady_until_s(at_s) > at_s
    slow, _ = shapes(Link(0.1, jitter_s=0.01, up_bytes_s=1000.0), 0)
    stream = Stream(slow, Air(slow.conditions), Random(0))
    assert 0.15 <= stream.arrival_s(0.0, 100) <= 0.16
    assert Later(Constant(0.2), 5.0).delay_s(1.0) == 0.2


def test_texts_are_taken_number_after_number_and_none_begins_after_the_budget() -> None:
    outcomes = [Outcome(Wanted(cell_of(schedule, AT_30), texts)) for schedule, texts in (("edge", 2), ("sync", 3))]
    work = Work(outcomes, ["a", "b", "c"], until_s=float("inf"))
    taken = []
    while (item := work.next()) is not None:
        taken.append((item[0].wanted.cell.schedule, item[1]))
    assert taken == [("edge", 0), ("sync", 0), ("edge", 1), ("sync", 1), ("sync", 2)]
    assert Work(outcomes, ["a", "b", "c"], until_s=0.0).next() is None


# ---- when it gives way ----


async def test_lanes_close_where_the_machine_is_busy_or_late_and_open_where_there_is_room() -> None:
    ticks = [0.0, 0.0]
    gate = Gate(3, lambda: (ticks[0], ticks[1]))

    async def look(busy: float) -> int:
        ticks[0] += 100 * busy
        ticks[1] += 100 * (1 - busy)
        await gate.look()
        return gate.open_lanes

    gate.start()
    assert await look(0.1) == 1, "nothing is known yet of the pace"
    for lanes in (2, 3, 3):
        gate.late([0.0002] * LATE_COUNT)
        assert await look(0.3) == lanes
    assert await look(0.4) == 3
    assert [await look(busy) for busy in (0.9, 0.9, 0.9)] == [2, 1, 1]
    gate.late([0.0] * LATE_COUNT)
    assert await look(0.1) == 2
    gate.late([0.0] * LATE_COUNT + [0.005] * (LATE_COUNT // 50))
    assert await look(0.1) == 1
    assert await look(0.1) == 1, "what was late before does not count again, and nothing else is known"
    gate.late([0.0] * LATE_COUNT)
    assert await look(0.1) == 2
    await gate.admitted(1)
    assert gate.busy_shares[:2] == pytest.approx([0.1, 0.3])
    assert gate.lane_counts[:3] == [1, 1, 2]


# ---- what follows ----


def test_rates_are_sums_and_ratios_are_paired_by_text() -> None:
    rate, low, high = rate_of([10, 30], [1.0, 1.0])
    assert rate == 20
    assert low <= 20 <= high
    fast, slow = an_outcome("sync", [0.02, 0.03, 0.01]), an_outcome("edge", [0.04, 0.03])
    ratio = ratio_of([fast], [slow])
    assert ratio is not None
    assert ratio[0] == pytest.approx(0.07 / 0.05), "the third text is in one cell only"
    assert ratio[1:] == pytest.approx((1.0, 2.0)), "texts are drawn in pairs"
    sampled = an_outcome("edge", [0.04, 0.03], models=SAMPLED)
    assert ratio_of([fast], [sampled]) is None
    both = ratio_of([fast, an_outcome("sync", [0.01, 0.01], models=SAMPLED)], [slow, sampled])
    assert both is not None
    assert both[0] == pytest.approx(0.14 / 0.07)
    bound = ratio_to_bound([fast])
    assert bound is not None
    assert bound[0] == pytest.approx(sum(fast.bound_s()) / (19 * 0.06))
    assert fast.measured.tokens_per_s == pytest.approx(fast.rate[0])


def test_a_text_that_differs_is_a_mismatch_whoever_wrote_it() -> None:
    outcomes = [an_outcome(schedule, [0.03, 0.03]) for schedule in ("edge", "sync", "edge-spec")]
    assert mismatches(outcomes) == 0
    outcomes[2].texts[1] = a_text(20, 0.03, first=8)
    assert mismatches(outcomes) == 1


def test_the_bound_is_that_of_the_true_run_of_matches() -> None:
    outcome = an_outcome("sync", [0.03])
    matches = outcome.matches[0]
    ahead_s = 0.03 + PASS.seconds(3) - 0.008
    bound = ClairvoyantBound(0.03, 0.008, PASS.seconds)
    assert outcome.bound_s() == [bound.run_s(matches.matched[1:], ahead_s)]
    assert outcome.bound_rate()[0] == pytest.approx(19 / outcome.bound_s()[0])
    assert outcome.acceptance == pytest.approx(0.8)
    run = outcome.runs()[0]
    assert (run.ids, run.matched, run.prompt) == (tuple(outcome.texts[0].ids), matches.matched, matches.prompt)


def a_report() -> tuple[Report, Result]:
    outcomes = [
        an_outcome("edge", [0.031, 0.032]),
        an_outcome("sync", [0.028, 0.03]),
        an_outcome("edge-spec", [0.02] * 2),
    ]
    outcomes += [an_outcome("run-ahead", [0.02, 0.021]), an_outcome("run-ahead", [0.021], models=SAMPLED)]
    outcomes += [an_outcome("edge", [0.03], models=SAMPLED)]
    outcomes += [an_outcome(schedule, [0.035] * 2, ROUGH[1]) for schedule in ("edge", "sync", "run-ahead")]
    noisy = Outcome(Wanted(Cell("sync", 2, AT_30, Models("noisy:0.5")), 2))
    noisy.texts, noisy.matches = outcomes[1].texts, outcomes[1].matches
    outcomes.append(noisy)
    own_pace = Outcome(Wanted(cell_of("edge", AT_30, Models(target=None)), 1), {0: a_text(20, 0.004)})
    result = figures(outcomes, [own_pace])
    result.figures["simulator_error_max"] = 0.2
    return report_of("bars", result, outcomes, [own_pace], {"sync_rtt30": (0.029, 0.03)}), result


def test_figures_name_what_they_were_measured_on() -> None:
    _, result = a_report()
    found = result.figures
    assert found["mismatches"] == 0
    assert found["equal_text"] == 1
    assert found["sync_over_edge_rtt30"] == pytest.approx((0.031 + 0.032) / (0.028 + 0.03), abs=1e-4)
    assert found["run_ahead_over_edge_rtt30"] == pytest.approx((0.063 + 0.03) / (0.041 + 0.021), abs=1e-4)
    assert found["run_ahead_over_edge_rtt30_sampled"] == pytest.approx(0.03 / 0.021, abs=1e-4)
    assert found["best_over_sync_rtt30"] == found["best_over_sync_rtt30_greedy"], "sync has no sampled texts here"
    assert found["run_ahead_over_clairvoyant_rtt30"] < 1
    assert found["run_ahead_over_edge_min"] == found["run_ahead_over_edge_rtt60_jitter10"] == 1
    assert found["tokens_per_s_paced_edge_rtt30"] == pytest.approx(2 / 0.063, abs=1e-3)
    assert found["tokens_per_s_native_edge_rtt30"] == pytest.approx(250, abs=1e-3)
    assert found["tokens_per_s_bound_rtt30"] > found["tokens_per_s_paced_sync_rtt30"]
    assert found["bytes_up_per_token_sync_rtt30"] == 5
    assert found["edge_s_per_token_edge_rtt30"] == pytest.approx(0.03)
    assert found["pace_error_ms_p99"] == pytest.approx(0.2)
    assert "sync_noisy5_over_edge_rtt30" in found
    assert "edge_over_edge_rtt30" not in found
    assert result.samples["sync_over_edge_rtt30"] == 40


def test_the_page_stands_alone_and_says_what_was_paced(tmp_path: Path) -> None:
    report, _ = a_report()
    report.write(tmp_path)
    files = page.write(read(tmp_path), tmp_path)
    assert {path.name for path in files} >= {"radio.html", "radio-rates.svg", "radio-drafters.png"}
    text = files[-1].read_text()
    shown = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|radio-)[^"]*"', shown), "nothing from elsewhere"
    assert "<script" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(ids)
    labels = re.findall(r'<svg [^>]*aria-label="([^"]+)"', text)
    assert len(labels) == text.count("<svg") == text.count("<figure>")
    assert '<td class="missed">missed</td>' in text
    assert '<code>run_ahead_over_edge_rtt30</code></td><td class="number">1.5' in text
    assert re.search(r'<th scope="row">edge-spec</th><td class="number">30.0</td>', text), "what it costs the edge"
    assert "edge-spec</b>) writes one user's text faster than" in text
    assert "30 ms, native" in text
    for drawing in (path for path in files if path.suffix == ".svg"):
        words = drawing.read_text()
        for word in ("paced", "python -m bench radio --bars", "bound"):
            assert word in words, drawing
        assert any(unit in words for unit in ("(ms)", "(s)", "per second")), "axes have units"


@pytest.mark.slow
def test_the_same_report_is_the_same_page(tmp_path: Path) -> None:
    report, _ = a_report()
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pages.append(page.write(report, tmp_path / name)[-1].read_text())
    assert pages[0] == pages[1]
    with pytest.raises(FileNotFoundError, match=FILE):
        read(tmp_path)


# ---- with real processes ----


@pytest.mark.slow
async def test_a_lane_writes_the_same_text_under_every_schedule() -> None:
    models = Models(draft_s=0.002)
    cells = [
        cell_of("edge", Link(), models),
        cell_of("sync", Link(0.01), models),
        cell_of("sync", Link(), Models("noisy:0.5")),
        cell_of("edge-spec", Link(), models),
        *(
            cell_of(schedule, Link(0.01), models)
            for schedule in SCHEDULES
            if schedule not in ("edge", "sync", "edge-spec")
        ),
        cell_of("hybrid", Link(), Models("noisy:0.5")),
    ]
    async with Lane(0, edge_drafts([Wanted(cell) for cell in cells])) as lane:
        texts = [await lane.write(cell, 0, held_out(1)[0]) for cell in cells]
        assert len({tuple(text.ids) for text in texts}) == 1
        edge, sync, noisy, spec = texts[:4]
        sampled = [cell_of(schedule, Link(), replace(models, temperature=1.0)) for schedule in ("edge", "hybrid")]
        assert len({tuple((await lane.write(cell, 3, held_out(1)[0])).ids) for cell in sampled}) == 1
        assert all(after >= before for text in texts for before, after in pairwise(text.arrivals_s))
        assert all(sum(text.commit_tokens) == len(text.ids) for text in texts)
        assert edge.commit_tokens == [1] * len(edge.ids)
        assert not edge.draft_late_s
        assert len(edge.pass_late_s) == len(edge.ids)
        assert 0 < sync.accepted <= sync.drafted <= len(sync.draft_late_s)
        assert len(spec.commit_tokens) < len(edge.commit_tokens)
        assert noisy.accepted < noisy.drafted
        assert edge.seconds >= (len(edge.ids) - 1) * PASS.fixed_s
        assert edge.edge_s >= len(edge.ids) * PASS.fixed_s > spec.edge_s > 0
        assert edge.link_bytes[0] > edge.bytes_up > 0
        order = Outcome(Wanted(cells[2]), {0: noisy}).match_order(0, held_out(1)[0])
        matches = await lane.match(order)
        assert len(matches.matched) == len(noisy.ids)
        assert 0 < sum(matches.matched) < len(matches.matched)
