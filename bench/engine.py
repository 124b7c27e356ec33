"""``python -m bench engine``: the edge engine beside its peers, what its passes cost, and what a fleet gets of it.

Three parts. Texts written at once by every contestant in turn (``bench.engine_rounds``), same weights, same prompts,
one thread, one core. Passes of our engine by width (``bench.engine_table``). Many devices on a paced edge
(``bench.engine_paced``). The weights are random and made on the spot: only seconds are measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.engine_ours import Account
from bench.engine_paced import SHARED, STEEP, Busy, Fleet, KnownText, late_share
from bench.engine_paced_edge import paced_edge
from bench.engine_peers import HfGenerate
from bench.engine_rounds import Entrant, Rounds, entrants
from bench.engine_shape import M97, TINY, Shape, write_checkpoint
from bench.engine_table import BATCHES, CELLS, POSITIONS, PREFILL, STRICT_CELLS, Cell, fitted_line, name_of
from bench.engine_texts import OTHER_CORE, Job, on_core
from bench.figures import REPOSITORY, Result, interval_95
from bench.processes import ONE_THREAD

KINDS = ("ours", "ours-edge", "hf-generate", "hf-continuous", "llama-server")
BATCH = 16
PROMPT_TOKENS = 64
RATIOS = {
    1: {"hf_generate": "hf-generate", "llama_server": "llama-server"},
    BATCH: {"hf_continuous": "hf-continuous", "hf_static": "hf-generate", "llama_server": "llama-server"},
}
"""By the texts at once: what a ratio is named after, and over whom it is."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    shape: Shape
    new_tokens: int
    rounds: dict[int, int]  # by the texts at once
    cell_rounds: int
    ragged_steps: int
    fleets: tuple[tuple[int, int], ...]  # devices, tokens each
    steep: tuple[tuple[int, int], ...]
    repeats: int  # of each fleet


QUICK = Size(TINY, 12, {1: 1, BATCH: 1}, 2, 8, ((4, 80),), (), 1)
BARS = Size(M97, 48, {1: 16, BATCH: 8}, 12, 60, ((16, 640), (64, 480)), ((1, 96), (16, 96)), 2)


def _say(message: str) -> None:
    print(f"engine: {message}", file=sys.stderr, flush=True)


# ---- contestants ----


def _contest(result: Result, size: Size, folder: Path) -> None:
    with entrants(KINDS, folder) as contestants:
        for texts, rounds in size.rounds.items():
            contest = Rounds(texts)
            entered = [one for one in contestants if texts > 1 or one.kind != "hf-continuous"]
            _say(f"{texts} texts at once, {rounds} rounds of {len(entered)} contestants")
            contest.run(entered, Job(texts, PROMPT_TOKENS, size.new_tokens, size.shape.vocabulary, seed=1), rounds)
            contest.report(result, "ours")
            _add_ratios(result, contest, entered)


def _add_ratios(result: Result, contest: Rounds, entered: Sequence[Entrant]) -> None:
    for suffix, decode_only in (("", False), ("_decode", True)):
        ratios = contest.ratios("ours-edge", "ours", decode_only=decode_only)
        result.add_median(f"edge_over_engine_{contest.texts}{suffix}", ratios)
    kinds = {one.kind for one in entered}
    for name, peer in RATIOS[contest.texts].items():
        if peer not in kinds:
            continue
        for prefix, ours in (("plain", "ours"), ("plain_edge", "ours-edge")):
            figure = f"{prefix}_over_{name}_{contest.texts}"
            result.add_median(figure, contest.ratios(ours, peer))
            result.add_median(f"{figure}_decode", contest.ratios(ours, peer, decode_only=True))


# ---- passes ----


def _passes(result: Result, size: Size, folder: Path) -> None:
    _say(f"{len(CELLS)} cells, {size.cell_rounds} rounds")
    command = [sys.executable, "-m", "bench.engine_table", str(folder), str(size.cell_rounds), str(size.ragged_steps)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=REPOSITORY, env=os.environ | ONE_THREAD
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for name, times_ms in found["times_ms"].items():
        result.add_median(f"pass_ms_{name}", times_ms)
    for cell in STRICT_CELLS:
        fast, strict = (found["times_ms"][name_of(profile, cell)] for profile in ("fast", "strict"))
        name = "prefill" if cell == PREFILL else f"{cell[0]}x{cell[1]}"
        result.add_median(f"strict_over_fast_{name}", [one / other for one, other in zip(strict, fast, strict=True)])
    _add_line(result)
    for profile, accounts in found["ragged"].items():
        _add_shares(result, "" if profile == "fast" else "_strict", [Account(**account) for account in accounts])


def _add_line(result: Result) -> None:
    cells = [cell for cell in CELLS if cell != PREFILL]
    line = fitted_line(cells, [_cell_ms(result, cell) for cell in cells])
    result.figures["cost_fixed_ms"] = round(line.fixed_ms, 4)
    result.figures["cost_per_position_ms"] = round(line.per_position_ms, 4)


def _cell_ms(result: Result, cell: Cell, profile: str = "fast") -> float:
    return result.figures[f"pass_ms_{name_of(profile, cell)}"]


def _add_shares(result: Result, suffix: str, accounts: Sequence[Account]) -> None:
    padding = f"padding_share_{BATCH}{suffix}"
    computed = sum(one.computed for one in accounts)
    result.figures[padding] = round(1 - sum(one.positions for one in accounts) / computed, 6)
    result.samples[padding] = len(accounts)
    _add_quotient(
        result, f"host_share_{BATCH}{suffix}", [one.host_s for one in accounts], [one.seconds for one in accounts]
    )


def _add_quotient(result: Result, name: str, parts: Sequence[float], wholes: Sequence[float]) -> None:
    """Add the quotient of two sums, with the interval over the pairs that are summed."""
    above, below = np.array(parts), np.array(wholes)
    low, high = interval_95(
        range(len(above)), lambda drawn: float(above[drawn.astype(int)].sum() / below[drawn.astype(int)].sum())
    )
    result.figures[name] = round(float(above.sum() / below.sum()), 6)
    result.spread[name] = round(low, 6), round(high, 6)
    result.samples[name] = len(above)


# ---- fleets ----


def _fleets(result: Result, size: Size, folder: Path) -> None:
    write_checkpoint(TINY, folder)
    wanted = (*size.fleets, *size.steep)
    texts = _known_texts(folder, max(devices for devices, _ in wanted), max(tokens for _, tokens in wanted))
    for name, line, fleets in (("paced", SHARED, size.fleets), ("steep", STEEP, size.steep)):
        if fleets:
            cut = [[text.cut(tokens) for text in texts[:devices]] for devices, tokens in fleets]
            _paced(result, name, folder, [Fleet(own, line) for own in cut], size.repeats)


def _known_texts(folder: Path, count: int, tokens: int) -> list[KnownText]:
    """Return what the target writes, by transformers' own loop."""
    job = Job(count, 16, tokens, TINY.vocabulary, seed=9)
    done = HfGenerate(folder).write(job)
    return [KnownText(prompt, ids) for prompt, ids in zip(job.prompts, done.ids, strict=True)]


def _paced(result: Result, name: str, folder: Path, fleets: Sequence[Fleet], repeats: int) -> None:
    """Measure fleets that share a line."""
    log = folder / f"{name}.log"
    with paced_edge(folder, log, fleets[0].line) as address, on_core(OTHER_CORE):
        for fleet in fleets:
            _say(f"{len(fleet.texts)} devices at {fleet.line}")
            runs = [fleet.measured(address, log) for _ in range(repeats)]
            plain, _ = fleet.plain().measured(address, log)
            _add_fleet(result, f"{name}_{{}}_{len(fleet.texts)}", fleet, [found for found, _ in runs], plain)
            result.figures[f"{name}_same_texts_share_{len(fleet.texts)}"] = min(same for _, same in runs)


def _add_fleet(result: Result, name: str, fleet: Fleet, runs: Sequence[Busy], plain: Busy) -> None:
    rounds = [piece for run in runs for piece in run.rounds_and_busy(fleet.draft_length)]
    _add_quotient(result, name.format("efficiency"), *zip(*rounds, strict=True))
    pieces = [piece for run in runs for piece in run.pieces()]
    _add_quotient(result, name.format("line_share"), *zip(*pieces, strict=True))
    simulated = fleet.simulated(TINY.vocabulary)
    result.add_median(name.format("lockstep_share"), [run.lockstep_share(fleet.draft_length) for run in runs])
    result.add_median(name.format("simulated_share"), [run.tokens_per_s / simulated.tokens_per_s for run in runs])
    result.add_median(name.format("over_plain"), [run.tokens_per_s / plain.tokens_per_s for run in runs])
    result.add_median(name.format("tokens_a_round"), [run.tokens_a_round for run in runs])
    result.add_median(name.format("sessions_a_pass"), [run.sessions_a_pass for run in runs])
    result.add_median(name.format("tokens_per_s_a_device"), [run.tokens_per_s / run.devices for run in runs])
    result.figures[name.format("late_share")] = round(late_share([one for run in runs for one in run.passes]), 6)


# ---- all of it ----


def run(*, quick: bool) -> Result:
    """Measure; print tables; return the figures."""
    began_s = time.monotonic()
    result, size = Result("engine"), QUICK if quick else BARS
    if quick:
        _say("quick: a tiny model, a few rounds; nothing here proves anything")
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / size.shape.name
        write_checkpoint(size.shape, checkpoint)
        _contest(result, size, checkpoint)
        _passes(result, size, checkpoint)
        _fleets(result, size, Path(folder) / "paced")
    result.figures["bench_s"] = round(time.monotonic() - began_s, 1)
    for line in _report(result):
        print(line)
    return result


def _report(result: Result) -> Iterator[str]:
    """Return the table of passes, then every other figure."""
    yield "ms of a pass     " + "".join(f"{positions:>9}" for positions in POSITIONS) + "   positions of each text"
    for batch in BATCHES:
        yield f"{batch:>5} texts      " + "".join(
            f"{_cell_ms(result, (positions, batch)):9.2f}" for positions in POSITIONS
        )
    for name, value in result.figures.items():
        low, high = result.spread.get(name, (float("nan"),) * 2)
        interval = "" if low != low else f"   {low:.4g} to {high:.4g}"
        if not name.startswith("pass_ms_fast"):
            yield f"{name:<48} {value:10.4g}{interval}"
