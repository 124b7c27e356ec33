"""The bench of acceptance by meaning: rounds side by side, losses with intervals, calibration, page; and in small."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from operator import neg
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the bench's packages")

from airdraft.core.drafting import states_of
from airdraft.core.types import HiddenProtocol, Sampling
from airdraft.link.pacing import PacedDrafter, Pacer
from bench import semantic_page
from bench.cells import Link
from bench.figures import Result, ratio_of_sums
from bench.paced_edge import EdgeDraft
from bench.radio_memory import Memories, Remembering
from bench.radio_text import Text, order_line, order_of
from bench.semantic_bars import BARS
from bench.semantic_contestants import CHANNELS, CONTESTANTS, Setting, by_channel, by_price, named, swept
from bench.semantic_figures import Texts, add_seeds, add_table, equal_share, row_of
from bench.semantic_labels import bins_of, expected_calibration_error
from bench.semantic_loss import loss_of, paired_loss
from bench.semantic_paced import DEVICE_DRAFTS, WAYS, PacedCell, add, cells
from bench.semantic_report import Report, read
from bench.semantic_rounds import Written
from bench.semantic_states import Widened
from bench.semantic_work import Piece, chunks, workers

EXACT, OURS = Setting("exact", 16), Setting("target_only", 16)


def a_text(
    problem: int,
    setting: Setting,
    *,
    rounds: int,
    tokens: int,
    right: bool = True,
    by_meaning: int = 0,
    mismatched: int = 0,
) -> Written:
    ids = tuple(range(tokens + 1))
    drafted = 16 * rounds
    return Written(
        problem, setting, ids, 1, right, rounds, tokens, drafted, mismatched, by_meaning, bytes_up=5 * drafted
    )


# ---- what was lost ----


def test_a_loss_of_nothing_still_has_an_interval() -> None:
    points, low, high = paired_loss(0, 0, 4000)
    assert points == 0
    assert -0.1 < low < 0 < high < 0.1
    assert paired_loss(0, 0, 100).high > 30 * high, "few problems say little"


def test_a_loss_counts_only_pairs_that_differ() -> None:
    exact = [True] * 90 + [False] * 10
    other = [True] * 85 + [False] * 5 + [True] * 2 + [False] * 8
    assert loss_of(exact, other) == paired_loss(5, 2, 100)
    assert loss_of(exact, other).points == pytest.approx(3.0)
    turned = loss_of(other, exact)
    assert (turned.points, turned.low, turned.high) == pytest.approx(
        (-3.0, -paired_loss(5, 2, 100).high, -paired_loss(5, 2, 100).low), abs=1e-6
    )


def test_the_interval_is_tangos() -> None:
    # Tango 1998, table: 43 pairs of a crossover trial, 0 and 1 in the two other cells.
    _, low, high = paired_loss(1, 0, 44)
    assert (low, high) == pytest.approx((-5.85, 11.81), abs=0.5)
    chance = np.random.default_rng(0)
    draws = chance.multinomial(1000, [0.01, 0.003, 0.987], size=600)
    held = sum(loss.low <= 0.7 <= loss.high for loss in (paired_loss(int(a), int(b), 1000) for a, b, _ in draws))
    assert 0.92 < held / 600 < 0.98


def test_a_loss_of_no_problems_is_refused() -> None:
    for lost, won, problems in ((0, 0, 0), (-1, 0, 5), (3, 3, 5)):
        with pytest.raises(ValueError, match="problems"):
            paired_loss(lost, won, problems)


# ---- figures ----


def some_texts(problems: int = 40) -> Texts:
    texts = Texts()
    texts.add(a_text(number, EXACT, rounds=6, tokens=28) for number in range(problems))
    texts.add(
        a_text(number, OURS, rounds=3, tokens=28, right=number != 7, by_meaning=3, mismatched=4)
        for number in range(problems)
    )
    return texts


def test_a_row_compares_with_exact_on_the_same_problems() -> None:
    texts = some_texts()
    texts.add([a_text(99, OURS, rounds=100, tokens=1)])  # of which there is no exact text
    row = row_of("drafter", OURS, texts)
    assert row.problems == 40
    assert row.length_gain[0] == pytest.approx(1.0)
    assert row.rounds_cut[0] == pytest.approx(0.5)
    assert row.loss.points == pytest.approx(2.5)
    assert row.bytes_per_token == pytest.approx(5.0)
    assert row.let_stand == pytest.approx(0.75)


def test_the_plain_name_is_the_worse_draft_length() -> None:
    texts = some_texts()
    longer, exact = replace(OURS, length=24), replace(EXACT, length=24)
    texts.add(a_text(number, exact, rounds=6, tokens=28) for number in range(40))
    texts.add(a_text(number, longer, rounds=4, tokens=28) for number in range(40))
    result = Result("semantic")
    add_table(result, [row_of("drafter", setting, texts) for setting in (EXACT, exact, OURS, longer)])
    assert result.figures["target_only_length_gain"] == result.figures["target_only_length_gain_24"]
    assert result.figures["target_only_loss_points"] == result.figures["target_only_loss_points_16"]
    assert result.figures["target_only_loss_points_upper95"] == pytest.approx(
        result.spread["target_only_loss_points"][1], abs=1e-3
    )
    assert "exact_length_gain" not in result.figures


def test_another_pairs_figures_carry_its_name() -> None:
    texts, result = some_texts(), Result("semantic")
    add_table(result, [row_of("drafter-60", setting, texts) for setting in (EXACT, OURS)])
    assert "target_only_drafter_60_length_gain" in result.figures
    assert "target_only_length_gain" not in result.figures


def test_seeds_are_disjoint_sets_of_problems() -> None:
    result = Result("semantic")
    losses = add_seeds(result, some_texts(), 0.01)
    assert len(losses) == 20
    assert result.figures["cap_loss_points_mean"] == pytest.approx(2.5), "one of forty"
    assert result.figures["cap_loss_points_worst_lower95"] < 50


def test_equal_texts_are_counted_token_for_token() -> None:
    texts = some_texts(3)
    texts.by_setting[OURS][1].ids = (5,)
    assert equal_share(texts, OURS, texts.exact(16)) == (2, 3)
    assert equal_share(texts, replace(OURS, tag="nobody"), texts.exact(16)) == (0, 0)


def test_many_rows_are_drawn_in_parts_with_the_same_outcome() -> None:
    rows = np.random.default_rng(1).random((3000, 4)) + 1
    value, low, high = ratio_of_sums(rows.tolist(), lambda sums: sums[..., 0] / sums[..., 1])
    assert low < value < high
    assert value == pytest.approx(rows[:, 0].sum() / rows[:, 1].sum())


# ---- calibration ----


def test_calibration_errors_are_weighed_by_bins_of_equal_count() -> None:
    risks = np.repeat([0.1, 0.9], 50)
    harms = np.concatenate([np.arange(50) < 5, np.arange(50) < 40]).astype(float)
    assert expected_calibration_error(risks, harms, 2) == pytest.approx((0.0 + 0.1) / 2)
    assert np.allclose(bins_of(list(risks), list(harms), 2), [(0.1, 0.1), (0.9, 0.8)])
    with pytest.raises(ValueError, match="bins"):
        expected_calibration_error([0.5], [1.0], 2)


# ---- settings ----


def test_settings_name_heads_and_rules_that_exist() -> None:
    settings = [*named((16, 24), tuple(CONTESTANTS)), *swept(16), *by_channel(16, "full"), *by_price(16)]
    assert len(set(settings)) == len(settings), "texts are kept by setting"
    for setting in settings:
        assert bool(setting.head_kind) == (setting.who.rule == "head")
        if setting.who.rule:
            assert callable(setting.judging_rule)
    assert CONTESTANTS["target_only"].protocol is HiddenProtocol.TARGET_ONLY
    channels = list(CHANNELS.values())
    assert all(a.round_trip_s < b.round_trip_s and a.up_bytes_s > b.up_bytes_s for a, b in pairwise(channels))


# ---- paced ----


def test_every_way_gives_its_edge_what_it_asks_for() -> None:
    for name, way in WAYS.items():
        edge = EdgeDraft.of(way.edge)
        assert bool(edge.meaning) == bool(way.hidden), name
        assert edge.ahead or not way.held_back, name
        assert (edge.meaning == "meaning-wide") == way.wide, name
    assert all(EdgeDraft.of(WAYS[name].edge).drafter == "" for name in DEVICE_DRAFTS)


def test_an_order_says_what_is_asked_for() -> None:
    link = Link(0.06)
    errand = PacedCell("provisional", link, "rtt60").errand(3, "A question?")
    assert errand.order.plan.provisional_s > link.round_trip_s
    assert errand.order.max_loss > 0
    assert order_of(order_line(errand.order)) == replace(errand.order, channel=[0.06, errand.order.channel[1]])  # type: ignore[index, arg-type]
    exact = PacedCell("exact_sync", link, "rtt60").errand(3, "A question?").order
    assert (exact.max_loss, exact.channel, exact.state_width) == (0.0, None, 0)


def paced(s_per_token: dict[str, float], texts: int = 6) -> list[PacedCell]:
    made = cells("bars")
    for cell in made:
        for number in range(texts):
            step_s = s_per_token.get(cell.way, 0.02) * (1 + number / 50)
            arrivals = [0.1 + index * step_s for index in range(20)]
            cell.texts[number] = Text(list(range(20)), arrivals, [1] * 20, granted=0.01, pass_late_s=[0.0])
            cell.right[number] = True
    return made


def test_cuts_and_ratios_are_of_the_same_texts() -> None:
    class Gate:
        busy_shares = (0.5,)
        lane_counts = (2,)

    result = Result("semantic")
    add(result, paced({"edge": 0.03, "exact_sync": 0.03, "full_hidden_sync": 0.04, "committing": 0.012}), Gate())  # type: ignore[arg-type]
    figures = result.figures
    assert figures["target_only_latency_cut_vs_full_hidden_2mbit"] == pytest.approx(0.5)
    assert figures["target_only_pipelined_latency_cut_vs_exact_sync"] == pytest.approx(1 / 3)
    assert figures["semantic_over_edge_rtt60"] == pytest.approx(2.5), "the best schedule"
    assert figures["paced_sessions_not_granted"] == 0
    low, high = result.spread["target_only_latency_cut_vs_full_hidden_2mbit"]
    assert low <= 0.5 <= high


class _Stateful:
    """Counts on, with a state of each token."""

    def __init__(self) -> None:
        self.states: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []

    def propose(self, path: list[int], count: int, cancelled: object) -> list[int]:
        self.states = [np.full(2, path[-1] + step, dtype=np.float32) for step in range(1, count + 1)]
        return [path[-1] + step for step in range(1, count + 1)]

    def learn(self, ids: list[int]) -> None: ...


def test_states_pass_through_memory_pace_and_filling() -> None:
    memory = Memories().of("stub", Sampling())
    for _ in range(2):  # the second time from memory
        drafter = Widened(PacedDrafter(Remembering(_Stateful(), memory), 0.0, Pacer()), 5)  # type: ignore[arg-type]
        assert drafter.propose([7], 3, lambda: False) == [8, 9, 10]
        states = states_of(drafter)
        assert states is not None
        assert [state.tolist() for state in states] == [[float(n)] * 2 + [0.0] * 3 for n in (8, 9, 10)]


# ---- workers ----


def test_pieces_cover_all_problems_once_and_come_back_by_name() -> None:
    assert [number for first, count in chunks(10, 600, 256) for number in range(first, first + count)] == list(
        range(10, 610)
    )
    with workers() as carry:
        found = carry([Piece("a", neg, (number,)) for number in range(4)] + [Piece("b", neg, (9,))])
    assert sorted(found["a"]) == [-3, -2, -1, 0]
    assert found["b"] == [-9]


# ---- page ----


def a_report() -> Report:
    from bench.semantic_report import _paced

    texts = some_texts()
    sweep = replace(OURS, tag="risk 0.1")
    channel = [replace(OURS, tag=name) for name in CHANNELS]
    for setting in (sweep, *channel):
        texts.add(a_text(number, setting, rounds=3, tokens=28, mismatched=4, by_meaning=3) for number in range(40))
    result = Result("semantic")
    rows = [row_of("drafter", setting, texts) for setting in (EXACT, OURS)]
    add_table(result, rows)
    made = paced({"edge": 0.03})
    return Report(
        "bars",
        json.loads(result.as_line()),
        rows,
        [row_of("drafter", sweep, texts)],
        [row_of("drafter", one, texts) for one in channel],
        {"target-only": [(0.01, 0.02), (0.9, 0.8)]},
        [1.0, 0.5],
        [_paced(cell, made) for cell in made],
    )


def test_a_page_says_that_the_pair_is_synthetic_and_what_was_missed(tmp_path: Path) -> None:
    report = a_report()
    report.write(tmp_path)
    kept = read(tmp_path)
    assert kept == report
    files = semantic_page.write(kept, tmp_path)
    page = (tmp_path / "semantic.html").read_text()
    assert "on a synthetic pair" in page
    assert "reproduced" not in page.lower()
    assert "paced" in page
    assert "not measured" in page
    assert all(f"<code>{name}</code>" in page for name in BARS)
    assert re.search(r"<svg[^>]*>", page)
    assert all(path.exists() and path.stat().st_size > 0 for path in files)
    for stem in ("semantic-pareto", "semantic-schedules"):
        assert "synthetic" in (tmp_path / f"{stem}.svg").read_text()


def test_a_bar_holds_or_does_not() -> None:
    assert BARS["ece"].holds(0.03)
    assert not BARS["ece"].holds(0.031)
    assert not BARS["exact_unchanged"].holds(0.999)
    assert math.isinf(BARS["semantic_over_edge_rtt30"].most)
