"""What a pass costs by its width, and what ragged steps waste: our engine by itself, on one core.

``python -m bench.engine_table FOLDER ROUNDS STEPS`` prints a line of JSON: milliseconds of every cell and profile by
round, and the accounts of ragged steps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.core.types import Span
from bench.engine_ours import Account, OurEngine
from bench.engine_texts import CORE, on_core

POSITIONS = (1, 2, 4, 8, 16, 32)
BATCHES = (1, 4, 16)

Cell = tuple[int, int]  # positions of each text, texts

PREFILL: Cell = (128, 1)
CELLS: tuple[Cell, ...] = (*((positions, batch) for batch in BATCHES for positions in POSITIONS), PREFILL)
STRICT_CELLS: tuple[Cell, ...] = ((1, 1), (8, 1), (1, 16), (4, 16), PREFILL)
"""Where the strict profile is timed too."""

KEPT_ROWS = 96
"""Of each text, before the positions that are measured."""

TEXTS = 16
RAGGED_WIDTHS = (1, 8)
PREFILL_EVERY = 8
PREFILL_POSITIONS = 64


@dataclass(frozen=True, slots=True)
class Line:
    """Milliseconds of a pass of n positions: fixed + per position * (n - 1)."""

    fixed_ms: float
    per_position_ms: float


def fill(engine: OurEngine, chance: np.random.Generator) -> None:
    """Give each text the rows that it is to have before anything is measured."""
    for text in range(TEXTS):
        tokens = _chain(0, KEPT_ROWS, engine.vocabulary, chance).tokens
        engine.step([(text, Span(0, tokens))])


def cell_ms(engine: OurEngine, cell: Cell, chance: np.random.Generator) -> float:
    """Return the milliseconds of one step of this cell, every row's choice asked for, as a verification does."""
    positions, batch = cell
    spans = [(text, _chain(KEPT_ROWS, positions, engine.vocabulary, chance)) for text in range(batch)]
    engine.account = Account()
    engine.step(spans)
    return engine.account.seconds * 1e3


def ragged(engine: OurEngine, steps: int, chance: np.random.Generator) -> list[Account]:
    """Return what steps come to in which every text verifies 1 to 8 positions and now and then one reads a prompt."""
    low, high = RAGGED_WIDTHS
    accounts: list[Account] = []
    for number in range(steps):
        widths = chance.integers(low, high + 1, TEXTS)
        if number % PREFILL_EVERY == PREFILL_EVERY - 1:
            widths[int(chance.integers(TEXTS))] = PREFILL_POSITIONS
        spans = [(text, _chain(KEPT_ROWS, int(width), engine.vocabulary, chance)) for text, width in enumerate(widths)]
        engine.account = Account()
        engine.step(spans)
        accounts.append(engine.account)
    return accounts


def _chain(start: int, positions: int, vocabulary: int, chance: np.random.Generator) -> Span:
    tokens = tuple(map(int, chance.integers(0, vocabulary, positions)))
    return Span(start, tokens, wanted=tuple(range(positions)))


def fitted_line(cells: Sequence[Cell], times_ms: Sequence[float]) -> Line:
    """Return the line with the least squares of relative errors."""
    counts = np.array([positions * batch for positions, batch in cells], dtype=np.float64)
    measured = np.array(times_ms)
    design = np.stack([np.ones_like(counts), counts - 1], axis=1) / measured[:, None]
    fixed, slope = np.linalg.lstsq(design, np.ones_like(measured), rcond=None)[0]
    return Line(float(fixed), float(slope))


def _measured(folder: Path, rounds: int, steps: int) -> dict[str, Any]:
    engines = {"fast": OurEngine(folder), "strict": OurEngine(folder, profile="strict")}
    chance = np.random.default_rng(5)
    for engine in engines.values():
        fill(engine, chance)
    order = [("fast", cell) for cell in CELLS] + [("strict", cell) for cell in STRICT_CELLS]
    times_ms: dict[str, list[float]] = {name_of(profile, cell): [] for profile, cell in order}
    for number in range(-1, rounds):  # the round before counts not
        for place in chance.permutation(len(order)):
            profile, cell = order[place]
            took_ms = cell_ms(engines[profile], cell, chance)
            if number >= 0:
                times_ms[name_of(profile, cell)].append(took_ms)
    accounts = {profile: [asdict(one) for one in ragged(engines[profile], steps, chance)] for profile in engines}
    return {"times_ms": times_ms, "ragged": accounts}


def name_of(profile: str, cell: Cell) -> str:
    """Return what a cell is called: profile, positions of each text, texts."""
    return f"{profile}_{cell[0]}x{cell[1]}"


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    with on_core(CORE):
        print(json.dumps(_measured(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
