"""The one line of JSON that ends every bench, and the statistics in it."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[1]

_DRAWN_AT_ONCE = 1 << 23
"""Numbers of a bootstrap that stand in memory together."""


def commit() -> str:
    """Return the commit that the figures belong to, ``+`` behind it where the tree differs from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def machine() -> str:
    """Return the machine in words: processor and cores."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = sum(1 for _ in Path("/sys/devices/system/cpu").glob("cpu[0-9]*"))
    return f"{model}, {cores} cores"


def interval_95(
    values: Sequence[float],
    statistic: Callable[[np.ndarray[Any, Any]], float] = lambda sample: float(np.median(sample)),
    resamples: int = 2000,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a statistic of ``values``; the seed is fixed."""
    sample = np.asarray(values, dtype=np.float64)
    chance = np.random.default_rng(0)
    draws = [statistic(sample[chance.integers(0, len(sample), len(sample))]) for _ in range(resamples)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def ratio_of_sums(
    rows: Sequence[Sequence[float]],
    statistic: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
    resamples: int = 2000,
) -> tuple[float, float, float]:
    """Return a statistic of the columns' sums, and its 95 % bootstrap interval; rows are drawn, the seed is fixed.

    rows       [N, K]
    statistic  of sums [..., K], a value for each [...]
    """
    table = np.asarray(rows, dtype=np.float64)
    chance = np.random.default_rng(0)
    at_once = max(1, _DRAWN_AT_ONCE // table.size)
    counts = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    parts = [table[chance.integers(0, len(table), (count, len(table)))].sum(axis=1) for count in counts]
    low, high = np.percentile(statistic(np.concatenate(parts)), [2.5, 97.5])
    return float(statistic(table.sum(axis=0))), float(low), float(high)


@dataclass(slots=True)
class Result:
    """What a bench found; units stand in the figures' names."""

    bench: str
    figures: dict[str, float] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add_median(self, name: str, values: Sequence[float]) -> None:
        """Add the median of ``values`` with its 95 % interval."""
        self.figures[name] = round(float(np.median(values)), 6)
        self.samples[name] = len(values)
        low, high = interval_95(values)
        self.spread[name] = (round(low, 6), round(high, 6))

    def as_line(self, **more: Any) -> str:
        """Return the line of JSON."""
        content: Mapping[str, Any] = {
            "bench": self.bench,
            "figures": self.figures,
            "samples": self.samples,
            "spread": self.spread,
            "commit": commit(),
            "machine": machine(),
            **more,
        }
        return json.dumps(content)
