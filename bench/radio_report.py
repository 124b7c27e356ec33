"""What the drawings and the page show of a run: kept as JSON, so that both can be made again without measuring."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import Result, interval_95
from bench.radio_cells import Extent, link_name
from bench.radio_outcome import Estimate, Outcome, ratio_of

FILE = "radio.json"
SHOWN_TEXTS = 4
"""Texts of a cell whose commits are kept one by one."""


@dataclass(frozen=True, slots=True)
class CellReport:
    """One cell as it is shown; milliseconds and tokens per second."""

    name: str
    schedule: str
    draft_length: int
    link: str
    round_trip_ms: float | None  # None on a channel that changes
    jitter_ms: float
    drafter: str
    temperature: float
    paced: bool
    tokens: int
    texts: int
    rate: Estimate
    bound: Estimate | None
    acceptance: float | None
    first_token_ms: Estimate
    bytes_up: float  # a token, on the link
    bytes_down: float
    edge_ms: float  # a token
    device_ms: float
    over_edge: Estimate | None
    simulated: float | None  # tokens per second
    stairs: list[list[tuple[float, int]]]  # of some texts: seconds and tokens there, commit by commit

    @property
    def link_label(self) -> str:
        """Return the link in words."""
        if self.round_trip_ms is None:
            return self.link.replace("_", " ")
        rate = re.search(r"_([0-9.]+)kbit", self.link)
        parts = [f"{self.round_trip_ms:g} ms"]
        parts += [f"jitter {self.jitter_ms:g}"] if self.jitter_ms else []
        return ", ".join(parts + ([f"{rate[1]} kbit/s"] if rate else []))


@dataclass(slots=True)
class Report:
    """A run: its cells, and the line of JSON that ended it."""

    extent: Extent
    line: dict[str, Any]
    cells: list[CellReport] = field(default_factory=list)

    @property
    def command(self) -> str:
        """Return the command that measures and draws it."""
        return f"python -m bench radio --{self.extent}"

    def write(self, folder: Path) -> Path:
        """Write the report; return the file."""
        path = folder / FILE
        path.write_text(json.dumps({"extent": self.extent, "line": self.line, "cells": list(map(asdict, self.cells))}))
        return path


def read(folder: Path) -> Report:
    """Return the report that was written in a folder. Raises FileNotFoundError where there is none."""
    content = json.loads((folder / FILE).read_text())
    return Report(content["extent"], content["line"], [CellReport(**cell) for cell in content["cells"]])


def report_of(
    extent: Extent,
    result: Result,
    paced: Sequence[Outcome],
    native: Sequence[Outcome],
    simulated: dict[str, tuple[float, float]],
) -> Report:
    """Return what is shown of a run."""
    cells = [_cell(outcome, outcomes, simulated) for outcomes in (paced, native) for outcome in outcomes]
    return Report(extent, json.loads(result.as_line(extent=extent)), [cell for cell in cells if cell is not None])


def _cell(
    outcome: Outcome, outcomes: Sequence[Outcome], simulated: dict[str, tuple[float, float]]
) -> CellReport | None:
    if not outcome.texts:
        return None
    cell, texts, tokens = outcome.wanted.cell, list(outcome.texts.values()), outcome.tokens
    paced = cell.models.target is not None
    base = next((other for other in outcomes if _is_base(other, outcome)), None)
    over_edge = ratio_of([outcome], [base]) if base is not None and base is not outcome else None
    return CellReport(
        name=outcome.name,
        schedule=cell.schedule,
        draft_length=cell.draft_length,
        link=link_name(cell.link),
        round_trip_ms=None if cell.link.channel else cell.link.round_trip_s * 1e3,
        jitter_ms=cell.link.jitter_s * 1e3,
        drafter=cell.models.drafter,
        temperature=cell.models.temperature,
        paced=paced,
        tokens=tokens,
        texts=len(texts),
        rate=outcome.rate,
        bound=outcome.bound_rate() if paced else None,
        acceptance=outcome.acceptance if paced else None,
        first_token_ms=_median([text.arrivals_s[0] * 1e3 for text in texts]),
        bytes_up=sum(text.link_bytes[0] for text in texts) / tokens,
        bytes_down=sum(text.link_bytes[1] for text in texts) / tokens,
        edge_ms=sum(text.edge_s for text in texts) / tokens * 1e3,
        device_ms=sum(text.draft_s for text in texts) / tokens * 1e3,
        over_edge=over_edge,
        simulated=1 / simulated[outcome.name][1] if outcome.name in simulated else None,
        stairs=[_stairs(outcome, number) for number in outcome.numbers[:SHOWN_TEXTS]],
    )


def _is_base(other: Outcome, outcome: Outcome) -> bool:
    its, own = other.wanted.cell, outcome.wanted.cell
    return its.schedule == "edge" and (its.link, its.models.temperature) == (own.link, own.models.temperature)


def _median(values: Sequence[float]) -> Estimate:
    return float(np.median(values)), *interval_95(values)


def _stairs(outcome: Outcome, number: int) -> list[tuple[float, int]]:
    text = outcome.texts[number]
    return list(zip(text.arrivals_s, np.cumsum(text.commit_tokens).tolist(), strict=True))
