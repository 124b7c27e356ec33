"""The drawings of ``bench semantic``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.channel import DOWN_COLOUR, OTHER_COLOUR, UP_COLOUR
from bench.radio_plots import HEIGHT_IN, WIDTH_IN, Drawing
from bench.semantic_contestants import CHANNELS, CONTESTANTS
from bench.semantic_figures import MAIN
from bench.semantic_paced import WAYS
from bench.semantic_report import Report

OURS_COLOUR = "#b03060"
COLOURS = {
    "exact": "#111111",
    "typical": "#8a6d1d",
    "kl_judge": "#2f8f9d",
    "look_ahead": "#8c8c3a",
    "full_hidden": DOWN_COLOUR,
    "mismatch_first": UP_COLOUR,
    "target_only": OURS_COLOUR,
}
MARKERS = {
    "exact": "s",
    "typical": "^",
    "kl_judge": "v",
    "look_ahead": "<",
    "full_hidden": "o",
    "mismatch_first": "P",
    "target_only": "D",
}
SYNTHETIC = "on a synthetic pair, off the wire"
PACED = "on a synthetic pair, paced: a pass and a drafted token take stated times"


def drawings(report: Report) -> list[Drawing]:
    """Return all drawings of a run."""
    made = [_pareto(report), _lengths(report), _channels(report), _calibration(report), _audits(report)]
    return [*made, *([_schedules(report)] if report.paced else [])]


def _canvas(report: Report, title: str, x_label: str, y_label: str, mark: str = SYNTHETIC) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    axes.set_title(f"{mark}\n{report.command}", loc="left", fontsize=8.5, color="#444444")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _pareto(report: Report) -> Drawing:
    """Accuracy against accepted length, each rule from strict to lax."""
    title = "Accuracy and accepted length, strict to lax"
    figure, axes = _canvas(report, title, "Tokens a round, draft length 16", "Right answers, %")
    told = []
    for name in CONTESTANTS:
        rows = sorted((row for row in report.sweep if row.contestant == name), key=lambda row: row.accepted_length[0])
        rows = rows or [row for row in report.rows if (row.contestant, row.drafter, row.length) == (name, MAIN, 16)]
        if not rows:
            continue
        axes.plot(
            [row.accepted_length[0] for row in rows],
            [row.accuracy for row in rows],
            color=COLOURS[name],
            marker=MARKERS[name],
            ms=5,
            lw=1.2,
            ls="-" if len(rows) > 1 else "",
            label=CONTESTANTS[name].label,
        )
        told += [f"{CONTESTANTS[name].label} {row.accepted_length[0]:.1f} at {row.accuracy:.1f} %" for row in rows]
    _legend(figure, axes)
    caption = (
        "Each line is one way to judge from strict to lax, on the same problems; single dots are ways without a "
        "setting. Up and to the right is better."
    )
    return Drawing("semantic-pareto", title, caption, f"{title}: {'; '.join(told)}.", figure)


def _lengths(report: Report) -> Drawing:
    """Tokens a round of every contestant on every pair."""
    title = "Tokens a round"
    figure, axes = _canvas(report, title, "Tokens a round", "")
    at, places, labels, told = 0.0, [], [], []
    for row in report.rows:
        if row.length != 16:
            continue
        value, low, high = row.accepted_length
        axes.errorbar(
            value, at, xerr=[[value - low], [high - value]], color=COLOURS[row.contestant],
            marker=MARKERS[row.contestant], ms=5, capsize=2,
        )  # fmt: skip
        places.append(at)
        labels.append(f"{row.drafter}: {CONTESTANTS[row.contestant].label}")
        told.append(f"{labels[-1]} {value:.2f}")
        at += 1
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    caption = "Draft length 16, the target's own token after a draft counted. Whiskers are 95 %."
    return Drawing("semantic-lengths", title, caption, f"{title}: {'; '.join(told)}.", figure)


def _channels(report: Report) -> Drawing:
    """How tolerant sessions are on each channel."""
    title = "Strict on a good channel, more tolerant on a bad one"
    figure, axes = _canvas(report, title, "", "Mismatches that meaning let stand, %")
    told = []
    for name, label in (
        ("full_hidden", "WISV's head, told the channel"),
        ("target_only", "ours, told what a miss costs"),
    ):
        rows = {row.tag: row for row in report.channels if row.contestant == name and row.tag in CHANNELS}
        shares = [100 * rows[channel].let_stand for channel in CHANNELS if channel in rows]
        axes.plot(range(len(shares)), shares, color=COLOURS[name], marker=MARKERS[name], ms=5, label=label)
        told.append(f"{label}: " + ", ".join(f"{share:.0f}" for share in shares))
    for row in report.channels:
        if row.tag == "no channel":
            axes.axhline(
                100 * row.let_stand, color=OTHER_COLOUR, ls="--", lw=1.2, label="WISV's head without a channel"
            )
            told.append(f"without a channel {100 * row.let_stand:.0f}")
    axes.set_xticks(range(len(CHANNELS)), [name.replace(", ", "\n") for name in CHANNELS], fontsize=8.5)
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    caption = "Under one cap. A report of the channel can make sessions stricter than the cap's threshold, never laxer."
    return Drawing("semantic-channels", title, caption, f"{title}: {'; '.join(told)}.", figure)


def _calibration(report: Report) -> Drawing:
    """Risk told against harm found, bin by bin."""
    title = "Risk told and harm found"
    figure, axes = _canvas(report, title, "Mean risk of a bin", "Share of swaps that did harm")
    told = []
    for kind, marker, colour in (("target-only", "D", OURS_COLOUR), ("full", "o", DOWN_COLOUR)):
        pairs = np.array(report.bins.get(kind, []))
        if len(pairs):
            axes.plot(pairs[:, 0], pairs[:, 1], marker=marker, color=colour, ms=5, lw=1.0, label=kind)
            told.append(f"{kind} " + ", ".join(f"{x:.3f}: {y:.3f}" for x, y in pairs))
    axes.plot([0, 1], [0, 1], color=OTHER_COLOUR, ls="--", lw=1.0)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_yscale("symlog", linthresh=0.01)
    _legend(figure, axes)
    caption = (
        "Fresh labels of problems that no head has seen, ten bins of equal count; on the dashed line both are equal."
    )
    return Drawing("semantic-calibration", title, caption, f"{title}: {'; '.join(told)}.", figure)


def _audits(report: Report) -> Drawing:
    """What audits make of a head that is too lax."""
    title = "Audits of a head that is too lax"
    figure, axes = _canvas(report, title, "Audited swaps", "Strictness")
    axes.step(range(1, len(report.strictness) + 1), report.strictness, where="post", color=OURS_COLOUR)
    axes.set_ylim(0, 1.05)
    last = report.strictness[-1] if report.strictness else 1.0
    caption = (
        "Thresholds are multiplied by the strictness. Another drafter's style, and a head that tells too little risk."
    )
    return Drawing(
        "semantic-audits", title, caption, f"{title}: {last:.3f} after {len(report.strictness)} audits.", figure
    )


def _schedules(report: Report) -> Drawing:
    """Rates over the edge alone, by round trip."""
    title = "Semantic schedules over the edge alone"
    figure, axes = _canvas(report, title, "Round trip, ms", "Rate over that of the edge alone", PACED)
    told = []
    colours: Sequence[str] = (OURS_COLOUR, DOWN_COLOUR, "#3f8f5b", OTHER_COLOUR, UP_COLOUR)
    ways = [way for way in WAYS if any(row.way == way and row.over_edge for row in report.paced)]
    for way, colour, marker in zip(ways, colours, "Do^sv", strict=False):
        rows = sorted((row for row in report.paced if row.way == way and row.over_edge), key=lambda r: r.round_trip_ms)
        values = np.array([row.over_edge for row in rows])
        trips = [row.round_trip_ms for row in rows]
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(
            trips, values[:, 0], yerr=spread, color=colour, marker=marker, ms=5, capsize=2, label=rows[0].label
        )
        told.append(
            f"{rows[0].label} " + ", ".join(f"{v:.2f} at {t:g} ms" for v, t in zip(values[:, 0], trips, strict=True))
        )
    axes.axhline(1, color="#111111", lw=1)
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    caption = "The same prompts in every cell, greedy. Whiskers are 95 %."
    return Drawing("semantic-schedules", title, caption, f"{title}, paced: {'; '.join(told)}.", figure)
