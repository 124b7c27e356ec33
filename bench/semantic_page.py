"""One page of HTML that shows a run of ``bench semantic``: self-contained, light or dark, without scripts.

``python -m bench.semantic_page FOLDER`` draws and writes it again from the ``semantic.json`` that a run left there.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import matplotlib as mpl

from bench.bars_page import bars_table, figure
from bench.cells import PASS, Models
from bench.channel import STYLE
from bench.page_style import STYLE_SHEET
from bench.page_tables import interval, table
from bench.radio_plots import Drawing, save
from bench.semantic_bars import BARS
from bench.semantic_contestants import CONTESTANTS, MAX_LOSS
from bench.semantic_drawings import drawings
from bench.semantic_figures import Row
from bench.semantic_paced import SYNC_LENGTH
from bench.semantic_report import PacedRow, Report, read
from bench.semantic_states import PAPER_STATE_BYTES


def write(report: Report, folder: Path) -> list[Path]:
    """Draw a report and write its page; return the files."""
    with mpl.rc_context(STYLE):
        made = drawings(report)
    files = [file for drawing in made for file in save(drawing, folder)]
    page = folder / "semantic.html"
    page.write_text(_page(report, made, folder))
    return [*files, page]


def _page(report: Report, made: list[Drawing], folder: Path) -> str:
    figures = "\n".join(figure(report.command, drawing, folder) for drawing in made)
    about = "".join(f"<dt>{escape(one.label)}</dt><dd>{escape(one.about)}</dd>" for one in CONTESTANTS.values())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Acceptance by meaning, on a synthetic pair</title>
<style>{STYLE_SHEET}</style>
</head>
<body>
<header>
<p class="mark">airdraft · bench semantic · {escape(report.extent)} · on a synthetic pair</p>
<h1>Drafted tokens that are as good</h1>
<p class="lead">{_lead(report)}</p>
</header>
<main>
<section aria-label="Drawings" class="figures">
{figures}
</section>
<section aria-labelledby="bars"><h2 id="bars">What was asked for</h2>
{bars_table(report.line, BARS)}
</section>
<section aria-labelledby="table"><h2 id="table">Every contestant, batched</h2>
{_table(report)}
</section>
<section aria-labelledby="paced"><h2 id="paced">Schedules, paced</h2>
{_paced(report)}
</section>
<section aria-labelledby="how"><h2 id="how">How this was measured</h2>
<p>A demo target of 0.96 million parameters and three drafters, trained on arithmetic word problems whose wordings
differ between styles: two models of one kind on one kind of text. Nothing here says how much any other pair would gain.
Problems are held out: no label, no head and no risk table has seen one of them. Every semantic session asks for a cap
of {MAX_LOSS:.2%} of answers.</p>
<p><b>Batched</b>: the edge's session cores and engine, hundreds of texts side by side, off the wire; every draft is the
frame that would go up, and its bytes are counted. <b>Paced</b>: real processes and a relay between them; the tokens are
the pair's own, but a pass is made to take {PASS.fixed_s * 1e3:g} ms and {PASS.per_position_s * 1e3:g} ms for each
further position, a drafted token {Models().draft_s * 1e3:g} ms. Where uploads are compared, a state is filled up with
zeros to {PAPER_STATE_BYTES:,} bytes a token, 2,048 numbers of two bytes as the paper's pair has, and a draft has
{SYNC_LENGTH} tokens. A rate counts the tokens after the first commit.</p>
<dl>{about}</dl>
</section>
</main>
<footer><p>{escape(report.line["machine"])} · commit <code>{escape(report.line["commit"])}</code> ·
made by <code>{escape(report.command)}</code></p></footer>
</body>
</html>
"""


def _lead(report: Report) -> str:
    found, spread = report.line["figures"], report.line["spread"]
    name = "target_only_length_gain"
    if name not in found:
        return "No figure of ours was measured."
    low, high = spread[name]
    return (
        f"With nothing but token ids going up, a round brings <b>{1 + found[name]:.2f}</b> times ({1 + low:.2f} to "
        f"{1 + high:.2f}) the tokens of exact speculative decoding on this synthetic pair, for "
        f"{found['target_only_loss_points']:.2f} points of accuracy at most at either draft length."
    )


def _table(report: Report) -> str:
    columns = ("drafter", "contestant", "draft length", "tokens a round", "gain", "rounds", "bytes up a drafted token")
    return table((*columns, "right, %", "points lost", "problems"), [_row(row) for row in report.rows])


def _row(row: Row) -> str:
    exact = row.contestant == "exact"
    numbers = (
        str(row.length),
        f"<b>{row.accepted_length[0]:.2f}</b>",
        "" if exact else f"{row.length_gain[0]:+.0%} ({row.length_gain[1]:+.0%} to {row.length_gain[2]:+.0%})",
        f"{row.rounds:.2f}",
        f"{row.bytes_per_token:.1f}",
        f"{row.accuracy:.2f}",
        "" if exact else f"{row.loss.points:.2f} ({row.loss.low:.2f} to {row.loss.high:.2f})",
        f"{row.problems:,}",
    )
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    label = escape(CONTESTANTS[row.contestant].label)
    return f'<tr><th scope="row">{escape(row.drafter)}</th><td>{label}</td>{cells}</tr>'


def _paced(report: Report) -> str:
    columns = ("link", "schedule", "tokens/s", "95 %", "over the edge alone", "bytes up a token", "right", "texts")
    return table(columns, [_paced_row(row) for row in report.paced])


def _paced_row(row: PacedRow) -> str:
    over = "" if row.over_edge is None else f"{row.over_edge[0]:.2f} ({interval(row.over_edge)})"
    numbers = (
        f"<b>{row.rate[0]:.1f}</b>",
        interval(row.rate),
        over,
        f"{row.bytes_up:.0f}",
        f"{row.right:.0%}",
        str(row.texts),
    )
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return f'<tr><th scope="row">{escape(row.link)}</th><td>{escape(row.label)}</td>{cells}</tr>'


if __name__ == "__main__":
    given = Path(sys.argv[1] if len(sys.argv) > 1 else "bench/out")
    for path in write(read(given), given):
        print(path)
