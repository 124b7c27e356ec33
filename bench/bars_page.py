"""What the pages of benches with bars share: drawings with their command, and figures against their bars."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from bench.adapt_bars import Bar
from bench.page import inline
from bench.page_tables import table
from bench.radio_plots import Drawing


def figure(command: str, drawing: Drawing, folder: Path) -> str:
    """Return a drawing that was saved in a folder, with its caption, its files and the command."""
    svg = (folder / f"{drawing.stem}.svg").read_text()
    return (
        f"<figure>{inline(svg, drawing)}<figcaption><b>{escape(drawing.title)}.</b> {escape(drawing.caption)} "
        f'<a href="{drawing.stem}.svg">SVG</a> <a href="{drawing.stem}.png">PNG</a><br>'
        f"<code>{escape(command)}</code></figcaption></figure>"
    )


def bars_table(line: Mapping[str, Any], bars: Mapping[str, Bar]) -> str:
    """Return the table of a run's last line against what its figures have to be."""
    rows = [_bar_row(line, name, bar) for name, bar in bars.items()]
    return table(("figure", "value", "95 %", "bar", "", "samples"), rows)


def _bar_row(line: Mapping[str, Any], name: str, bar: Bar) -> str:
    about = f"<td>{escape(bar.about)}<br><code>{name}</code></td>"
    if name not in line["figures"]:
        empty, missed = "<td></td>", '<td class="missed">not measured</td>'
        return f'<tr>{about}{empty * 2}<td class="number">{bar}</td>{missed}{empty}</tr>'
    value, word = line["figures"][name], "held" if bar.holds(line["figures"][name]) else "missed"
    low, high = line["spread"].get(name, (None, None))
    between = "" if low is None else f"{low:.3g} to {high:.3g}"
    return (
        f'<tr>{about}<td class="number">{value:.3g}</td><td class="number">{between}</td><td class="number">{bar}</td>'
        f'<td class="{word}">{word}</td><td class="number">{line["samples"].get(name, "")}</td></tr>'
    )
