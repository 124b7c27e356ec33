"""What the page shows of a run of ``bench semantic``: kept as JSON, so that it can be made again without measuring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Result
from bench.radio_cells import Extent
from bench.radio_outcome import Estimate
from bench.semantic_batched import Batched
from bench.semantic_figures import Row
from bench.semantic_loss import Loss
from bench.semantic_paced import WAYS, PacedCell, ratio

FILE = "semantic.json"


@dataclass(frozen=True, slots=True)
class PacedRow:
    """One schedule on one link."""

    way: str
    label: str
    link: str
    round_trip_ms: float
    texts: int
    rate: Estimate
    over_edge: Estimate | None  # where the edge alone was measured on that link
    bytes_up: float  # a token, on the link
    right: float  # share of answers


@dataclass(slots=True)
class Report:
    """A run: its rows, and the line of JSON that ended it."""

    extent: Extent
    line: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    sweep: list[Row] = field(default_factory=list)
    channels: list[Row] = field(default_factory=list)
    bins: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    strictness: list[float] = field(default_factory=list)
    paced: list[PacedRow] = field(default_factory=list)

    @property
    def command(self) -> str:
        """Return the command that measures and draws it."""
        return f"python -m bench semantic --{self.extent}"

    def write(self, folder: Path) -> Path:
        """Write the report; return the file."""
        path = folder / FILE
        path.write_text(json.dumps(asdict(self)))
        return path


def read(folder: Path) -> Report:
    """Return the report that was written in a folder. Raises FileNotFoundError where there is none."""
    content = json.loads((folder / FILE).read_text())
    for name in ("rows", "sweep", "channels"):
        content[name] = [_row(row) for row in content[name]]
    content["bins"] = {kind: [tuple(pair) for pair in pairs] for kind, pairs in content["bins"].items()}
    content["paced"] = [
        PacedRow(**row | {name: row[name] and tuple(row[name]) for name in ("rate", "over_edge")})
        for row in content["paced"]
    ]
    return Report(**content)


def _row(row: dict[str, Any]) -> Row:
    estimates = {name: tuple(row[name]) for name in ("accepted_length", "length_gain", "rounds_cut")}
    return Row(**row | estimates | {"loss": Loss(*row["loss"])})


def report_of(extent: Extent, result: Result, batched: Batched, made: Sequence[PacedCell]) -> Report:
    """Return what is shown of a run."""
    return Report(
        extent,
        json.loads(result.as_line(extent=extent)),
        batched.rows,
        batched.sweep,
        batched.channels,
        batched.bins,
        batched.strictness,
        [_paced(cell, made) for cell in made if cell.texts],
    )


def _paced(cell: PacedCell, made: Sequence[PacedCell]) -> PacedRow:
    edge = next((one for one in made if one.way == "edge" and one.name == cell.name and one.texts), None)
    texts = list(cell.texts.values())
    return PacedRow(
        cell.way,
        WAYS[cell.way].label,
        cell.name,
        cell.link.round_trip_s * 1e3,
        len(texts),
        cell.rate,
        None if edge is None or edge is cell else ratio(cell, edge),
        sum(text.link_bytes[0] for text in texts) / sum(len(text.ids) for text in texts),
        sum(cell.right.values()) / len(texts),
    )
