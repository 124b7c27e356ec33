"""One page of HTML that shows a run of the radio bench: self-contained, for any screen, light or dark, without scripts.

``python -m bench.page FOLDER`` draws and writes it again from the ``radio.json`` that a run left there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from bench.cells import PASS, Models
from bench.page_style import STYLE_SHEET
from bench.page_tables import COST_TRIP_MS, bars, costs, instrument, interval, rivals, table
from bench.radio_drawings import drawings
from bench.radio_plots import Drawing, save, steady
from bench.radio_report import CellReport, Report, read
from bench.schedules import SCHEDULES

COLUMNS = (
    "link",
    "schedule",
    "tokens/s",
    "95 %",
    "bound",
    "times the edge",
    "first token, ms",
    "bytes up / down a token",
    "edge / device ms a token",
    "tokens",
    "drafter",
    "draft length",
)


def write(report: Report, folder: Path) -> list[Path]:
    """Draw a report and write its page; return the files."""
    made, files = drawings(report), []
    for drawing in made:
        files += save(drawing, folder)
    page = folder / "radio.html"
    page.write_text(_page(report, made, folder))
    return [*files, page]


def _page(report: Report, made: Sequence[Drawing], folder: Path) -> str:
    figures = "\n".join(_figure(drawing, report, (folder / f"{drawing.stem}.svg").read_text()) for drawing in made)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Drafting over a radio link: every schedule on the same axes</title>
<style>{STYLE_SHEET}</style>
</head>
<body>
<header>
<p class="mark">paced · {escape(report.extent)}</p>
<h1>Drafting over a radio link</h1>
<p class="lead">{_lead(report)}</p>
</header>
<main>
<section aria-labelledby="drawn"><h2 id="drawn">What was found</h2>
<div class="figures">
{figures}
</div></section>
{_asked(report)}
<section aria-labelledby="costs"><h2 id="costs">What each schedule costs, and who wins where</h2>
<p>Paced, greedy, {COST_TRIP_MS:g} ms of round trip: for a committed token, the edge's models at work whatever came of
it, the device's drafter at work, and bytes on the link.</p>
{costs(report)}
{rivals(report)}
</section>
<section aria-labelledby="how"><h2 id="how">What was measured</h2>
{_method(report)}
</section>
<section aria-labelledby="trust"><h2 id="trust">How far to trust it</h2>
{instrument(report.line)}
</section>
<section aria-labelledby="all"><h2 id="all">Every cell</h2>
<p>Rates with 95 % intervals. Bytes are those on the link, gRPC's framing and the connection's set-up included.</p>
{_table(report.cells)}
</section>
</main>
<footer><p>{escape(report.line["machine"])} · commit <code>{escape(report.line["commit"])}</code> ·
made by <code>{escape(report.command)}</code></p></footer>
</body>
</html>
"""


def _asked(report: Report) -> str:
    made = bars(report.line)
    if not made:
        return ""
    return f"""<section aria-labelledby="asked"><h2 id="asked">What was asked</h2>
<p>Paced, but for <code>_sim</code>: rates over rates on the same texts, sums of tokens over sums of seconds, greedy and
at temperature 1 together; 95 % intervals from texts drawn again in pairs. <code>best</code> is run-ahead, the best
schedule in which the device alone drafts. <code>pearl</code> is PEARL as published, which leaves the token after an
accepted draft to the next one; an edge that gave it that token would make it some 10 % faster, and faster than
<code>pipelined</code> below 10 ms (docs/adr/0013). <code>run_ahead_over_edge_min</code> is the least ratio of any cell.
<code>capacity</code>: tokens per busy edge-second over those of an edge that drafts for nobody and waits for nobody,
with other texts of the same kind, and an edge set to <code>--favour edge-time</code> without a drafter of its own.</p>
{made}
</section>"""


def _lead(report: Report) -> str:
    """Say in a sentence or two how the schedules compare where most networks are."""
    cells = [cell for cell in steady(report.cells) if cell.round_trip_ms == 30.0]
    said = [
        f"<b>{escape(cell.schedule)}</b> writes {cell.over_edge[0]:.2f} times as fast "
        f"({cell.over_edge[1]:.2f} to {cell.over_edge[2]:.2f})"
        for cell in cells
        if cell.over_edge is not None
    ]
    if not said:
        return "A small model drafts, a large one verifies; a link lies between them."
    edge = next((cell for cell in cells if cell.schedule == "edge"), None)
    alone = f" writes {edge.rate[0]:.1f} tokens a second" if edge else ""
    return (
        f"At a round trip of 30 ms the edge alone{alone}; beside it, text by text, {', '.join(said)}. "
        "All schedules write the same text, token for token."
    )


def _figure(drawing: Drawing, report: Report, svg: str) -> str:
    return (
        f"<figure>{inline(svg, drawing)}<figcaption><b>{escape(drawing.title)}.</b> {escape(drawing.caption)} "
        f'<a href="{drawing.stem}.svg">SVG</a> <a href="{drawing.stem}.png">PNG</a><br>'
        f"<code>{escape(report.command)}</code></figcaption></figure>"
    )


def inline(svg: str, drawing: Drawing) -> str:
    """Return a drawing as an element of a page: no prologue, its own ids, its text for those who cannot see it."""
    body = svg[svg.index("<svg") :]
    for name in sorted(set(re.findall(r'\bid="([^"]+)"', body))):
        body = re.sub(rf'(\bid="|url\(#|href="#){re.escape(name)}(?=["\)])', rf"\g<1>{drawing.stem}-{name}", body)
    return re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        lambda match: (
            f'<svg {match[1]} role="img" aria-label="{escape(drawing.alt)}" '
            'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        ),
        body,
        count=1,
    )


def _method(report: Report) -> str:
    about = "".join(f"<dt>{escape(name)}</dt><dd>{escape(SCHEDULES[name].about)}</dd>" for name in _met(report.cells))
    return f"""<p>Real processes: an edge node's service, sessions and engine with the demo target, a device's roaming,
session and drafter with the demo drafter, and between them a relay that delays, jitters, limits and breaks what passes
as a radio link would. Texts are word problems that the pair never saw. <b>Paced</b> means: the tokens are the small
models' own, but a pass is made to take {PASS.fixed_s * 1e3:g} ms and {PASS.per_position_s * 1e3:g} ms for each further
position, a drafted token {Models().draft_s * 1e3:g} ms, as those of large models would. No claim about any other model
follows but through these costs and the acceptance met.</p>
<p>Cells are paired: every schedule writes the same prompts with the same seeds, meets the same misses and the same
moments of the link, each with the draft length that favours it. A rate counts the tokens after the first commit, over
the time from the first commit to the last. The clairvoyant bound is the least time that any schedule in which the
device drafts a single line could take, if it knew every miss in advance; an edge with a drafter of its own is not held
by it.</p>
<dl>{about}</dl>"""


def _met(cells: Sequence[CellReport]) -> list[str]:
    return [name for name in SCHEDULES if any(cell.schedule == name for cell in cells)]


def _table(cells: Sequence[CellReport]) -> str:
    return table(COLUMNS, [_row(cell) for cell in sorted(cells, key=_place)])


def _place(cell: CellReport) -> tuple[object, ...]:
    trip = float("inf") if cell.round_trip_ms is None else cell.round_trip_ms
    return not cell.paced, cell.temperature, trip, cell.link, cell.drafter != "demo", cell.drafter, cell.schedule


def _row(cell: CellReport) -> str:
    numbers = (
        f"<b>{cell.rate[0]:.1f}</b>",
        interval(cell.rate),
        "" if cell.bound is None else f"{cell.bound[0]:.1f}",
        "" if cell.over_edge is None else f"{cell.over_edge[0]:.2f} ({interval(cell.over_edge)})",
        f"{cell.first_token_ms[0]:.0f}",
        f"{cell.bytes_up:.0f} / {cell.bytes_down:.0f}",
        f"{cell.edge_ms:.1f} / {cell.device_ms:.1f}",
        f"{cell.tokens:,}",
    )
    link = cell.link_label + ("" if cell.paced else ", native") + (", sampled" if cell.temperature else "")
    words = f'<th scope="row">{escape(link)}</th><td>{escape(cell.schedule)}</td>'
    columns = "".join(f'<td class="number">{number}</td>' for number in numbers)
    return (
        f'<tr>{words}{columns}<td>{escape(_drafter(cell))}</td><td class="number">{cell.draft_length or ""}</td></tr>'
    )


def _drafter(cell: CellReport) -> str:
    """Say who drafts, and how often it is right given all before; nothing where nobody does by a model."""
    schedule = SCHEDULES[cell.schedule]
    if not schedule.device_drafts and schedule.edge_drafter != "model":
        return "n-grams" if schedule.edge_drafter == "ngram" else ""
    return cell.drafter + ("" if cell.acceptance is None else f", {cell.acceptance:.0%} right")


if __name__ == "__main__":
    given = Path(sys.argv[1] if len(sys.argv) > 1 else "bench/out")
    for path in write(read(given), given):
        print(path)
