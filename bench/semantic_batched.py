"""The batched cells of ``bench semantic``: which are run, and the figures of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import semantic_audit, semantic_cells, semantic_labels, semantic_rejection
from bench.figures import Result
from bench.radio_cells import Extent
from bench.semantic_contestants import (
    CHANNELS,
    LENGTHS,
    MAX_LOSS,
    UNTRAINED,
    WITH_BARS,
    Setting,
    by_channel,
    by_price,
    named,
    swept,
)
from bench.semantic_figures import MAIN, Row, Texts, add_differences, add_seeds, add_table, equal_share, row_of
from bench.semantic_labels import Labelled, bins_of, expected_calibration_error
from bench.semantic_loss import loss_of
from bench.semantic_work import Piece, chunks

OTHERS = ("drafter-60", "drafter-40")
SWEPT_LENGTH = 16
ZERO = Setting("target_only", SWEPT_LENGTH, max_loss=1e-6, tag="tolerance 0")
"""Asks for a cap that no table keeps: what is granted then is exact."""

Carry = Callable[[Sequence[Piece]], dict[str, list[Any]]]


@dataclass(frozen=True, slots=True)
class Size:
    """How many problems each part has."""

    main: int  # of the 75 % pair
    others: int  # of each other pair
    untrained: int  # for the rules without training, on the 75 % pair
    swept: int  # for each point of the Pareto drawing
    channels: int  # for each channel
    zero: int
    strict: int  # beside semantic texts under strict numerics, and alone
    sampled: int  # at temperature 1
    labelled: int  # problems that labels are mined of, some 4 a problem
    rollouts: int
    shift: int  # before and after the audits
    audits: int  # of the shift of style


SIZES: dict[Extent, Size] = {
    "quick": Size(20, 8, 8, 4, 4, 8, 8, 4, 4, 1, 8, 20),
    "bars": Size(4096, 1024, 1024, 320, 512, 1024, 256, 192, 1408, 1, 1024, 200),
    "full": Size(16384, 4096, 4096, 2048, 2048, 4096, 1024, 1024, 8192, 3, 4096, 200),
}


@dataclass(slots=True)
class Batched:
    """What came of the batched cells, beside the figures: for page and drawings."""

    rows: list[Row] = field(default_factory=list)  # of the table
    sweep: list[Row] = field(default_factory=list)
    channels: list[Row] = field(default_factory=list)
    bins: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by head
    strictness: list[float] = field(default_factory=list)  # after each audit of the shift of style
    seeds: list[tuple[float, float, float]] = field(default_factory=list)


def run(extent: Extent, carry: Carry, result: Result) -> Batched:
    """Carry the cells of an extent out; add their figures; return what drawings show."""
    size = SIZES[extent]
    found = carry(_pieces(size, extent))
    texts = {drafter: Texts() for drafter in (MAIN, *OTHERS)}
    for drafter, mine in texts.items():
        for part in found.get(f"texts {drafter}", []):
            mine.add(part)
    batched = Batched()
    for drafter, mine in texts.items():
        settings = named(LENGTHS, WITH_BARS + (UNTRAINED if drafter == MAIN else ()))
        batched.rows += [row_of(drafter, setting, mine) for setting in settings]
    add_table(result, batched.rows)
    add_differences(result)
    main = texts[MAIN]
    batched.sweep = [row_of(MAIN, setting, main) for setting in swept(SWEPT_LENGTH)]
    batched.channels = [row_of(MAIN, setting, main) for setting in _channel_settings()]
    _add_channels(result, batched.channels)
    batched.seeds = [(mean, low, high) for mean, low, high in add_seeds(result, main, MAX_LOSS)]
    _add_equal(result, main, found)
    _add_rejection(result, found["sampled"])
    batched.bins = _add_calibration(result, found["labels"])
    batched.strictness = _add_shift(result, found["shift"])
    return batched


def _pieces(size: Size, extent: Extent) -> list[Piece]:
    """Return all pieces, pair by pair, so that few are loaded twice; long ones first."""
    table, untrained = tuple(named(LENGTHS, WITH_BARS)), tuple(named(LENGTHS, UNTRAINED))
    exact = Setting("exact", SWEPT_LENGTH)
    sweep, channels = tuple(swept(SWEPT_LENGTH)), tuple(_channel_settings())
    pieces = [Piece("shift", semantic_audit.shifted, (20_000, size.shift, size.audits))]
    pieces += _texts(MAIN, size.main, table)
    pieces += _texts(MAIN, size.untrained, untrained)
    pieces += _texts(MAIN, size.swept, sweep)
    pieces += _texts(MAIN, size.channels, channels)
    pieces += _texts(MAIN, size.zero, (ZERO,))
    beside = (exact, Setting("target_only", SWEPT_LENGTH), Setting("full_hidden", SWEPT_LENGTH))
    for profile in ("strict", "fast"):
        pieces += [
            Piece(f"unchanged {profile}", semantic_cells.unchanged, (MAIN, first, count, beside, profile))
            for first, count in chunks(0, size.strict, 128)
        ]
    pieces += [
        Piece("labels", semantic_labels.mined, (MAIN, first, count, size.rollouts))
        for first, count in chunks(0, size.labelled)
    ]
    pieces += [
        Piece("sampled", semantic_rejection.sampled, (MAIN, first, count, SWEPT_LENGTH))
        for first, count in chunks(30_000, size.sampled, 96)
    ]
    for drafter in OTHERS:
        pieces += _texts(drafter, size.others, table)
    return pieces


def _texts(drafter: str, count: int, settings: tuple[Setting, ...]) -> list[Piece]:
    return [
        Piece(f"texts {drafter}", semantic_cells.write, (drafter, first, some, settings))
        for first, some in chunks(0, count)
    ]


def _channel_settings() -> list[Setting]:
    return [
        *by_channel(SWEPT_LENGTH, "full"),
        *by_channel(SWEPT_LENGTH, "full-no-channel"),
        *by_price(SWEPT_LENGTH),
    ]


def _add_channels(result: Result, rows: Sequence[Row]) -> None:
    """Add of each channel how often meaning lets a mismatch stand: strict on a good one, more tolerant on a bad one."""
    for name in CHANNELS:
        link = name.replace(" ", "").replace(",", "_").replace("/s", "").lower()
        for row in rows:
            if row.tag == name:
                who = "target_only_priced" if row.contestant == "target_only" else row.contestant
                result.figures[f"{who}_let_stand_{link}"] = round(row.let_stand, 4)
    for who in ("full_hidden", "target_only"):
        shares = [row.let_stand for row in rows if row.contestant == who and row.tag in CHANNELS]
        if shares:
            result.figures[f"{who}_let_stand_worst_over_best_channel"] = round(shares[-1] / max(shares[0], 1e-9), 4)
    for row in rows:
        if row.tag == "no channel":
            result.figures["full_hidden_without_channel_length_gain"] = round(row.length_gain[0], 6)
            result.spread["full_hidden_without_channel_length_gain"] = row.length_gain[1:]
            result.figures["full_hidden_without_channel_loss_points"] = round(row.loss.points, 4)
            result.spread["full_hidden_without_channel_loss_points"] = (row.loss.low, row.loss.high)


def _add_equal(result: Result, main: Texts, found: dict[str, list[Any]]) -> None:
    same, texts = equal_share(main, ZERO, main.exact(SWEPT_LENGTH))
    result.figures["zero_tolerance_equal"] = same / texts
    result.samples["zero_tolerance_equal"] = texts
    for profile in ("strict", "fast"):
        counts = np.array(found[f"unchanged {profile}"]).sum(axis=0)
        name = "exact_unchanged" if profile == "strict" else "exact_unchanged_fast"
        result.figures[name] = float(counts[0] / counts[1])
        result.samples[name] = int(counts[1])


def _add_rejection(result: Result, parts: Sequence[semantic_rejection.Sampled]) -> None:
    texts, rounds = sum(part.texts for part in parts), sum(part.rounds for part in parts)
    result.figures["rejection_temperature1_accepted_length_16"] = round(sum(part.tokens for part in parts) / rounds, 4)
    result.figures["rejection_temperature1_accuracy_points"] = round(100 * sum(part.right for part in parts) / texts, 4)
    result.figures["rejection_temperature1_bytes_per_token"] = round(
        sum(part.bytes_up for part in parts) / sum(part.drafted for part in parts), 4
    )
    for name in ("accepted_length_16", "accuracy_points", "bytes_per_token"):
        result.samples[f"rejection_temperature1_{name}"] = texts


def _add_calibration(result: Result, parts: Sequence[Labelled]) -> dict[str, list[tuple[float, float]]]:
    harm = [value for part in parts for value in part.harm]
    bins: dict[str, list[tuple[float, float]]] = {}
    for kind in parts[0].risks:
        risks = [value for part in parts for value in part.risks[kind]]
        name = "ece" if kind == "target-only" else f"ece_{kind.replace('-', '_')}"
        result.figures[name] = round(expected_calibration_error(risks, harm), 6)
        result.samples[name] = len(harm)
        bins[kind] = bins_of(risks, harm)
    result.figures["ece_labels"] = len(harm)
    return bins


def _add_shift(result: Result, parts: Sequence[semantic_audit.Shift]) -> list[float]:
    (shift,) = parts
    for name, pairs in (("before", shift.before), ("", shift.after)):
        loss = loss_of([exact for exact, _ in pairs], [other for _, other in pairs])
        key = "style_shift_loss_points" + (f"_{name}" if name else "")
        result.figures[key] = round(loss.points, 4)
        result.spread[key] = (round(loss.low, 4), round(loss.high, 4))
        result.samples[key] = len(pairs)
    result.figures["style_shift_strictness"] = shift.strictness[-1]
    result.figures["style_shift_harmful_audits"] = sum(shift.harmful)
    result.samples["style_shift_harmful_audits"] = len(shift.harmful)
    return shift.strictness
