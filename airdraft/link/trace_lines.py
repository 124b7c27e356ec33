"""The lines of recorded text files; what is malformed is named by file and line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a recording."""

    path: Path
    number: int  # from 1
    text: str

    def malformed(self, why: str) -> ValueError:
        """Return the error that names this line."""
        return ValueError(f"{self.path}:{self.number}: {why}: {self.text!r}")

    def real(self, cell: str, what: str, *, least: float = -math.inf) -> float:
        """Read a finite number of at least so much. Raises ValueError."""
        try:
            value = float(cell)
        except ValueError:
            raise self.malformed(f"{what} {cell!r} is no number") from None
        if not (math.isfinite(value) and value >= least):
            raise self.malformed(f"{what} is out of range")
        return value

    def numbers(self, names: Sequence[str], separator: str | None = None) -> list[float]:
        """Read one number, 0 or more, for each name. Raises ValueError."""
        cells = self.text.split(separator)
        if len(cells) != len(names):
            raise self.malformed(f"expected {', '.join(names)}")
        return [self.real(cell, name, least=0.0) for cell, name in zip(cells, names, strict=True)]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table with a header."""

    line: Line
    cells: dict[str, str]

    def real(self, column: str, *, least: float = -math.inf) -> float:
        """Read a number. Raises ValueError."""
        return self.line.real(self.cells[column], column, least=least)

    def known(self, column: str, *, least: float = -math.inf) -> float:
        """Read a number that may be unknown: NaN then. Raises ValueError."""
        return math.nan if self.cells[column] == UNKNOWN else self.real(column, least=least)


def read_lines(path: Path) -> list[Line]:
    """Return a file's lines. Raises ValueError where there is none, OSError where there is no file."""
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not texts:
        raise ValueError(f"{path}:1: the file is empty")
    return [Line(path, number, text) for number, text in enumerate(texts, start=1)]


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a comma-separated table without quotes. Raises ValueError without those columns, or rows."""
    header, *lines = read_lines(path)
    names = header.text.split(",")
    if absent := [column for column in columns if column not in names]:
        raise header.malformed(f"no column {', '.join(absent)}")
    if not lines:
        raise header.malformed("no row under the header")
    return [_row(line, names) for line in lines]


def _row(line: Line, names: Sequence[str]) -> Row:
    cells = line.text.split(",")
    if len(cells) != len(names):
        raise line.malformed(f"expected {len(names)} cells, found {len(cells)}")
    return Row(line, dict(zip(names, cells, strict=True)))
