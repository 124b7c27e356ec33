"""What the page shows of a run of ``bench adapt``: kept as JSON, so that it can be made again without measuring."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.adapt_figures import best_fixed, estimate_of, ratio_draws, shared
from bench.adapt_real import Outcome
from bench.adapt_worlds import TRACES
from bench.figures import Result
from bench.radio_cells import Extent
from bench.radio_outcome import Estimate, rate_of

FILE = "adapt.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant on one trace; milliseconds and tokens per second."""

    trace: str
    contestant: str
    adaptive: bool
    best: bool  # the fastest fixed setting there
    texts: int
    tokens: int
    rate: Estimate
    over_best: Estimate  # over the fastest fixed setting, text by text
    edge_ms: float  # a token
    device_ms: float
    bytes_up: float  # a token, on the link


@dataclass(slots=True)
class Report:
    """A run: its rows trace by trace, what the traces are, and the line of JSON that ended it."""

    extent: Extent
    line: dict[str, Any]
    traces: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def command(self) -> str:
        """Return the command that measures and draws it."""
        return f"python -m bench adapt --{self.extent}"

    def write(self, folder: Path) -> Path:
        """Write the report; return the file."""
        path = folder / FILE
        path.write_text(json.dumps(asdict(self)))
        return path


def read(folder: Path) -> Report:
    """Return the report that was written in a folder. Raises FileNotFoundError where there is none."""
    content = json.loads((folder / FILE).read_text())
    estimates = ("rate", "over_best")
    rows = [Row(**row | {name: tuple(row[name]) for name in estimates}) for row in content["rows"]]
    return Report(**content | {"rows": rows})


def report_of(extent: Extent, result: Result, traces: Mapping[str, Sequence[Outcome]]) -> Report:
    """Return what is shown of a run."""
    rows = [row for outcomes in traces.values() for row in _rows(outcomes)]
    labels = {trace: TRACES[trace].label for trace in traces}
    return Report(extent, json.loads(result.as_line(extent=extent)), labels, rows)


def _rows(outcomes: Sequence[Outcome]) -> list[Row]:
    places = shared(outcomes)
    best = best_fixed(outcomes, places)
    rows: list[Row] = []
    for outcome in outcomes:
        texts = [outcome.texts[place] for place in places]
        tokens = sum(len(text.ids) for text in texts)
        rows.append(
            Row(
                outcome.trace,
                outcome.contestant,
                adaptive=outcome.setting is None,
                best=outcome is best,
                texts=len(texts),
                tokens=tokens,
                rate=rate_of([text.timed_tokens for text in texts], [text.seconds for text in texts]),
                over_best=estimate_of(ratio_draws(outcome.texts, best.texts, places)),
                edge_ms=sum(text.edge_s for text in texts) / tokens * 1e3,
                device_ms=sum(text.draft_s for text in texts) / tokens * 1e3,
                bytes_up=sum(text.link_bytes[0] for text in texts) / tokens,
            )
        )
    return rows
