"""Figures of the batched cells: length, rounds, bytes and loss of each contestant, paired with exact decoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.figures import Result, ratio_of_sums
from bench.semantic_contestants import CONTESTANTS, LENGTHS, WITH_BARS, Setting
from bench.semantic_loss import Loss, loss_of
from bench.semantic_rounds import Written

Estimate = tuple[float, float, float]
MAIN = "drafter"
"""The 75 % pair, whose figures carry no name of a pair."""

SEEDS = 20


@dataclass(slots=True)
class Texts:
    """All texts of one pair, by setting and problem."""

    by_setting: dict[Setting, dict[int, Written]] = field(default_factory=dict)

    def add(self, written: Iterable[Written]) -> None:
        """Take texts; one of the same setting and problem is replaced."""
        for text in written:
            self.by_setting.setdefault(text.setting, {})[text.problem] = text

    def exact(self, length: int) -> dict[int, Written]:
        """Return the exact texts of a draft length."""
        return self.by_setting[Setting("exact", length)]


@dataclass(frozen=True, slots=True)
class Row:
    """What one setting came to on one pair, beside exact decoding of the same problems."""

    drafter: str
    contestant: str
    tag: str
    length: int
    problems: int
    accepted_length: Estimate  # committed tokens a round
    rounds: float  # an answer
    length_gain: Estimate
    rounds_cut: Estimate
    accuracy: float  # points
    loss: Loss
    bytes_per_token: float  # up, a drafted token
    bytes_per_answer: float
    asked: float  # further round trips for states, an answer
    let_stand: float  # of the rounds with a draft that the target would have left, how often meaning did not
    ended: float  # share of texts that end by themselves


def row_of(drafter: str, setting: Setting, texts: Texts) -> Row:
    """Return what a setting came to; the exact texts are of the same draft length."""
    mine, exact = texts.by_setting[setting], texts.exact(setting.length)
    numbers = sorted(mine.keys() & exact.keys())
    own, other = [mine[number] for number in numbers], [exact[number] for number in numbers]
    rounds = [(a.tokens, a.rounds, b.tokens, b.rounds) for a, b in zip(own, other, strict=True)]
    drafted = sum(text.drafted for text in own)
    stood, missed = sum(text.by_meaning for text in own), sum(text.mismatched for text in own)
    return Row(
        drafter,
        setting.contestant,
        setting.tag,
        setting.length,
        len(numbers),
        ratio_of_sums(rounds, lambda sums: sums[..., 0] / sums[..., 1]),
        sum(text.rounds for text in own) / len(own),
        ratio_of_sums(rounds, lambda sums: sums[..., 0] / sums[..., 1] / (sums[..., 2] / sums[..., 3]) - 1),
        ratio_of_sums(rounds, lambda sums: 1 - sums[..., 1] / sums[..., 3]),
        100 * sum(text.right for text in own) / len(own),
        loss_of([text.right for text in other], [text.right for text in own]),
        sum(text.bytes_up for text in own) / drafted,
        sum(text.bytes_up for text in own) / len(own),
        sum(text.asked for text in own) / len(own),
        stood / missed if missed else 0.0,
        sum(text.ended for text in own) / len(own),
    )


def add_table(result: Result, rows: Sequence[Row]) -> None:
    """Add the figures of the table: of each draft length, and the worse of both under the plain name."""
    for contestant in CONTESTANTS:
        for drafter in dict.fromkeys(row.drafter for row in rows):
            mine = [row for row in rows if (row.contestant, row.drafter, row.tag) == (contestant, drafter, "")]
            if mine:
                _add_contestant(result, f"{contestant}{_of(drafter)}", mine)


def _of(drafter: str) -> str:
    return "" if drafter == MAIN else f"_{drafter.replace('-', '_')}"


def _add_contestant(result: Result, name: str, rows: Sequence[Row]) -> None:
    for row in rows:
        _add(result, f"{name}_accepted_length_{row.length}", row.accepted_length, row.problems)
        if not name.startswith("exact"):
            _add(result, f"{name}_length_gain_{row.length}", row.length_gain, row.problems)
            _add(result, f"{name}_rounds_cut_{row.length}", row.rounds_cut, row.problems)
            _add(result, f"{name}_loss_points_{row.length}", row.loss, row.problems)
        result.figures[f"{name}_accuracy_points_{row.length}"] = round(row.accuracy, 4)
        result.figures[f"{name}_rounds_per_answer_{row.length}"] = round(row.rounds, 4)
    result.figures[f"{name}_bytes_per_token"] = round(max(row.bytes_per_token for row in rows), 4)
    if name.startswith("exact"):
        return
    _add(result, f"{name}_length_gain", min(row.length_gain for row in rows), rows[0].problems)
    _add(result, f"{name}_rounds_cut", min(row.rounds_cut for row in rows), rows[0].problems)
    worst = max((row.loss for row in rows), key=lambda loss: loss.high)
    _add(result, f"{name}_loss_points", worst, rows[0].problems)
    result.figures[f"{name}_loss_points_upper95"] = round(worst.high, 4)
    result.samples[f"{name}_loss_points_upper95"] = rows[0].problems


def _add(result: Result, name: str, estimate: Sequence[float], samples: int) -> None:
    value, low, high = estimate
    result.figures[name] = round(value, 6)
    result.spread[name] = (round(low, 6), round(high, 6))
    result.samples[name] = samples


def add_seeds(result: Result, texts: Texts, cap: float) -> list[Loss]:
    """Add how the cap is kept by each of ``SEEDS`` disjoint sets of problems, at the shorter draft length.

    Decoding is greedy, so that a seed is a set of problems and nothing else.
    """
    length = LENGTHS[0]
    mine, exact = texts.by_setting[Setting("target_only", length)], texts.exact(length)
    numbers = sorted(mine.keys() & exact.keys())
    sets = [part.tolist() for part in np.array_split(np.array(numbers), SEEDS)]
    losses = [loss_of([exact[n].right for n in part], [mine[n].right for n in part]) for part in sets if part]
    means = [loss.points for loss in losses]
    result.figures["cap_loss_points_mean"] = round(float(np.mean(means)), 4)
    result.figures["cap_loss_points_worst_lower95"] = round(max(loss.low for loss in losses), 4)
    result.figures["cap_points"] = 100 * cap
    result.samples["cap_loss_points_mean"] = len(losses)
    return losses


def add_differences(result: Result) -> None:
    """Add how far ours is from WISV's, where both were measured."""
    figures = result.figures
    if "target_only_length_gain" in figures and "full_hidden_length_gain" in figures:
        gap = min(
            figures[f"target_only_length_gain_{length}"] - figures[f"full_hidden_length_gain_{length}"]
            for length in LENGTHS
            if f"target_only_length_gain_{length}" in figures
        )
        figures["target_only_length_gain_less_full_hidden"] = round(gap, 6)


def equal_share(texts: Texts, setting: Setting, reference: Mapping[int, Written]) -> tuple[int, int]:
    """Return how many texts of a setting are token for token those of the reference, and of how many."""
    mine = texts.by_setting.get(setting, {})
    both = mine.keys() & reference.keys()
    return sum(mine[number].ids == reference[number].ids for number in both), len(both)


def barred() -> tuple[str, ...]:
    """Return the contestants that the bars ask of."""
    return tuple(name for name in WITH_BARS if name != "exact")
