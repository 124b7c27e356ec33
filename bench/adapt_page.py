"""One page of HTML that shows a run of ``bench adapt``: self-contained, light or dark, without scripts.

``python -m bench.adapt_page FOLDER`` draws and writes it again from the ``adapt.json`` that a run left there.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.adapt_bars import BARS
from bench.adapt_figures import named
from bench.adapt_report import Report, Row, read
from bench.bars_page import bars_table, figure
from bench.cells import PASS, Models
from bench.channel import DOWN_COLOUR, OTHER_COLOUR, STYLE
from bench.page_style import STYLE_SHEET
from bench.page_tables import interval, table
from bench.radio_plots import Drawing, save

ADAPTIVE_COLOUR = "#b03060"
WIDTH_IN = 5.6
ROW_IN = 0.24


def write(report: Report, folder: Path) -> list[Path]:
    """Draw a report and write its page; return the files."""
    with mpl.rc_context(STYLE):
        made = [_rates(report), _ratios(report)]
    files = [file for drawing in made for file in save(drawing, folder)]
    page = folder / "adapt.html"
    page.write_text(_page(report, made, folder))
    return [*files, page]


# ---- drawings ----


def _canvas(report: Report, title: str, x_label: str, rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, 1.4 + ROW_IN * rows), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    mark = "paced: a pass and a drafted token take stated times"
    axes.set_title(f"{mark}\n{report.command}", loc="left", fontsize=8.5, color="#444444")
    axes.set_xlabel(x_label)
    axes.invert_yaxis()
    return figure, axes


def _rates(report: Report) -> Drawing:
    """Every contestant's rate, trace by trace."""
    title = "Tokens per second on each trace"
    figure, axes = _canvas(report, title, "Tokens per second", len(report.rows) + len(report.traces))
    at, places, labels = 0.0, [], []
    for trace in report.traces:
        for row in _of(report, trace):
            low, high = row.rate[0] - row.rate[1], row.rate[2] - row.rate[0]
            colour = ADAPTIVE_COLOUR if row.adaptive else DOWN_COLOUR if row.best else OTHER_COLOUR
            axes.errorbar(
                row.rate[0],
                at,
                xerr=[[low], [high]],
                color=colour,
                marker="D" if row.adaptive else "o",
                ms=5,
                capsize=2,
            )
            places.append(at)
            labels.append(f"{trace}: {row.contestant}")
            at += 1
        at += 0.8
    axes.set_yticks(places, labels, fontsize=8.5)
    axes.set_xlim(left=0)
    told = "; ".join(f"{row.trace}, {row.contestant} {row.rate[0]:.1f}" for row in report.rows)
    return Drawing(
        "adapt-rates",
        title,
        "Diamonds: the device plans. Dots: fixed settings, the fastest of each trace in blue. Whiskers are 95 %.",
        f"{title}, paced: {told}.",
        figure,
    )


def _ratios(report: Report) -> Drawing:
    """The device that plans over the fastest fixed setting, and over the edge alone."""
    title = "A device that plans, over fixed settings"
    figure, axes = _canvas(report, title, "Rate over rate", 2 * len(report.traces) + 3)
    found, spread = report.line["figures"], report.line["spread"]
    ways = (
        ("hindsight", "over the fastest in hindsight", "D", ADAPTIVE_COLOUR),
        ("edge", "over the edge alone", "s", OTHER_COLOUR),
    )
    for number, (way, label, marker, colour) in enumerate(ways):
        names = [f"adaptive_over_{way}_{named(trace)}" for trace in report.traces]
        values = np.array([found[name] for name in names])
        ends = np.array([spread[name] for name in names])
        error = np.abs(ends - values[:, None]).T
        places = np.arange(len(names)) * 2 + 0.6 * number
        axes.errorbar(values, places, xerr=error, ls="", marker=marker, color=colour, ms=5, capsize=2, label=label)
    axes.set_yticks(np.arange(len(report.traces)) * 2 + 0.3, list(report.traces))
    axes.axvline(1, color="#111111", lw=1)
    axes.set_xlim(left=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    told = ", ".join(f"{found[f'adaptive_over_hindsight_{named(trace)}']:.2f} on {trace}" for trace in report.traces)
    return Drawing(
        "adapt-ratios",
        title,
        "Over the setting that was the fastest on the very texts that it is judged by. Whiskers are 95 %.",
        f"{title}, paced: {told}.",
        figure,
    )


def _of(report: Report, trace: str) -> list[Row]:
    """Return a trace's rows, the fastest first."""
    return sorted((row for row in report.rows if row.trace == trace), key=lambda row: -row.rate[0])


# ---- words ----


def _page(report: Report, made: list[Drawing], folder: Path) -> str:
    figures = "\n".join(figure(report.command, drawing, folder) for drawing in made)
    labels = "".join(f"<dt>{escape(trace)}</dt><dd>{escape(label)}</dd>" for trace, label in report.traces.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Devices that plan for themselves, on replayed traces</title>
<style>{STYLE_SHEET}</style>
</head>
<body>
<header>
<p class="mark">paced · {escape(report.extent)}</p>
<h1>Devices that plan for themselves</h1>
<p class="lead">{_lead(report)}</p>
</header>
<main>
<section aria-labelledby="drawn"><h2 id="drawn">What was found</h2>
<div class="figures">
{figures}
</div></section>
<section aria-labelledby="asked"><h2 id="asked">What was asked</h2>
{bars_table(report.line, BARS)}
</section>
<section aria-labelledby="how"><h2 id="how">What was measured</h2>
<p>Real processes: an edge node's service and engine, a device's session and drafter, and between them a relay that
replays a trace. <b>Paced</b> means: the tokens are the demo pair's own, but a pass is made to take
{PASS.fixed_s * 1e3:g} ms and {PASS.per_position_s * 1e3:g} ms for each further position, a drafted token
{Models().draft_s * 1e3:g} ms. Every contestant writes the same prompts with the same seeds, greedy and at temperature 1
in turn, and meets the same misses and the same moments of the trace. Fixed settings are those that a search in virtual
time found to be the fastest on the trace; the device that plans begins each passage knowing nothing, and keeps what it
learns from text to text.</p>
<dl>{labels}</dl>
</section>
<section aria-labelledby="all"><h2 id="all">Every contestant</h2>
{_table(report)}
</section>
</main>
<footer><p>{escape(report.line["machine"])} · commit <code>{escape(report.line["commit"])}</code> ·
made by <code>{escape(report.command)}</code></p></footer>
</body>
</html>
"""


def _lead(report: Report) -> str:
    found, spread = report.line["figures"], report.line["spread"]
    name = "adaptive_over_hindsight_median"
    low, high = spread[name]
    return (
        f"A device that decides by itself how to draft writes <b>{found[name]:.2f}</b> times ({low:.2f} to {high:.2f}) "
        "as fast as the fastest fixed setting of each trace, which nobody could have known beforehand: the median of "
        f"{len(report.traces)} traces."
    )


def _table(report: Report) -> str:
    columns = ("trace", "contestant", "tokens/s", "95 %", "over the fastest fixed", "edge / device ms a token")
    rows = [_row(row) for trace in report.traces for row in _of(report, trace)]
    return table((*columns, "bytes up a token", "texts", "tokens"), rows)


def _row(row: Row) -> str:
    mark = " (the fastest fixed)" if row.best else ""
    numbers = (
        f"<b>{row.rate[0]:.1f}</b>",
        interval(row.rate),
        f"{row.over_best[0]:.2f} ({interval(row.over_best)})",
        f"{row.edge_ms:.1f} / {row.device_ms:.1f}",
        f"{row.bytes_up:.0f}",
        f"{row.texts:,}",
        f"{row.tokens:,}",
    )
    columns = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f'<tr><th scope="row">{escape(row.trace)}</th><td>{escape(row.contestant)}{mark}</td>{columns}</tr>'


if __name__ == "__main__":
    given = Path(sys.argv[1] if len(sys.argv) > 1 else "bench/out")
    for path in write(read(given), given):
        print(path)
