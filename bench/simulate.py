"""``python -m bench simulate``: the session cores in virtual time, against the prototype's figures and the formulas.

All that it prints is simulated. Five sets of runs: matches by chance (acceptance 0.8), the demo pair's own, greedy and
at temperature 1, the demo pair's greedy runs thinned to the prototype's acceptance, and runs made with acceptance and
variance of stretches that the prototype's pair had. Beside them many texts on one edge whose engine packs passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np

from airdraft.core.drafting import Drafter, NgramDrafter
from airdraft.core.rows import HALF_BYTES
from airdraft.core.types import Plan
from airdraft.link.bound import ClairvoyantBound
from airdraft.link.shaping import Constant, Shape
from airdraft.link.sim_costs import IDEAL, Costs, Overheads
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_text import MatchDrafter, MatchRun
from airdraft.link.simulation import Conduct, Link, SimulatedText, World
from bench import cells
from bench.cells import PASS, Cell, Measured, Models
from bench.figures import Result, interval_95
from bench.match_runs import RunStatistics, adjusted, iid_runs, joined, pair_runs, samplings, shaped_runs, statistics
from bench.prompts import held_out
from bench.radio_link import shapes
from bench.schedules import SCHEDULES, EdgeDrafter
from coordinator.policy.costs import PassCost

ROUND_TRIPS_MS = (0, 30, 60, 100)
HARDEST_MS = 100  # where the round trip should not matter
ACCEPTANCE = 0.798  # of the prototype's pair, greedy
VARIANCE = 17.9  # of its stretches

Rates = dict[str, tuple[float, ...]]  # of a schedule, at ROUND_TRIPS_MS, or at any

BY_CHANCE: Rates = {
    "edge": (33.3,),
    "sync": (53.7, 36.3, 28.2, 22.1),
    "edge-spec": (53.7,),
    "bound": (80.0, 58.9, 49.1, 42.5),
}
"""Tokens per second that the prototype's own simulation found for matches by chance, acceptance 0.8."""

PROTOTYPE: Rates = {
    "edge": (33.3,),
    "sync": (55.5, 37.7, 28.8, 22.3),
    "edge-spec": (55.5,),
    "bound": (79.5, 56.9, 47.3, 41.4),
}
"""The same for the prototype's pair of models, greedy."""

_OWN_DRAFTERS: dict[EdgeDrafter, Callable[[MatchRun], Drafter]] = {
    "none": MatchDrafter,
    "model": MatchDrafter,
    "ngram": lambda run: NgramDrafter(),
}


# ---- one cell ----


def simulated(cell: Cell, runs: Sequence[MatchRun], overheads: Overheads = IDEAL) -> Measured:
    """Return what a cell comes to in virtual time, each text by itself over the link that the radio bench gives it.

    Raises ValueError where the cell leaves the target's pass to the machine.
    """
    target = cell.models.target
    if target is None:
        raise ValueError("a simulation needs a stated cost of a pass")
    schedule = SCHEDULES[cell.schedule]
    own_draft_s = cell.models.draft_s if schedule.edge_drafter == "model" else 0.0
    conduct = Conduct(
        schedule.plan(cell.draft_length, cell.frame_tokens),
        own_draft_tokens=schedule.own_length(cell.draft_length),
        own_drafter=_OWN_DRAFTERS[schedule.edge_drafter],
        run_ahead=schedule.run_ahead,
        row_bytes=HALF_BYTES * cell.models.vocabulary if schedule.split else 0,
        overtaking=schedule.run_ahead,
        bonus=schedule.bonus,
    )
    costs, random = (
        Costs(cell.models.draft_s, by_positions(target.seconds), own_draft_s),
        Random(cell.link.channel_seed),
    )
    texts: list[SimulatedText] = []
    for number, run in enumerate(runs):  # time and link begin anew with each text, as the relay's do
        link = Link.of(*shapes(cell.link, number), random)
        texts += World(costs, overheads).one_by_one([run], conduct, link)
    return _measured(cell, texts)


def _measured(cell: Cell, texts: Sequence[SimulatedText]) -> Measured:
    return Measured(
        cell,
        tokens=[text.tokens for text in texts],
        seconds=[text.seconds for text in texts],
        first_token_s=[text.first_token_s for text in texts],
        arrivals_s=[[when - text.started_s for when, _ in text.arrivals] for text in texts],
        bytes_up=sum(text.bytes_up for text in texts),
        bytes_down=sum(text.bytes_down for text in texts),
        draft_s=sum(text.draft_s for text in texts),
        pass_s=sum(text.pass_s for text in texts),
        drafted=sum(text.drafted for text in texts),
        accepted=sum(text.accepted for text in texts),
    )


def fitted(measured: Sequence[tuple[Measured, Sequence[MatchRun]]], step_s: float = 0.001) -> Overheads:
    """Return the overheads, none below 0, with which simulations come nearest to what was measured, by least squares.

    A round and a frame each way cannot be told apart where the device waits for the answer; all of it counts as the
    round's. Needs cells that differ in rounds, passes and drafts a token; on them a fit proves nothing. Looks only at
    cells with a stated pass and a link that stays as it is: all else is chance here, and not the overheads'.
    """
    steady = [
        (real, runs)
        for real, runs in measured
        if real.cell.models.target is not None and real.cell.link.channel is None and not real.cell.link.jitter_s
    ]
    names = ["round_s", "pass_s", "draft_step_s"]
    base = np.array([simulated(real.cell, runs).s_per_token for real, runs in steady])
    slopes = np.array(
        [
            [simulated(real.cell, runs, Overheads(**{name: step_s})).s_per_token for real, runs in steady]
            for name in names
        ]
    )
    gap = np.array([real.s_per_token for real, _ in steady]) / base - 1  # relative, as the error is
    slopes = (slopes - base) / step_s / base
    kept = list(range(len(names))) if steady else []
    while kept:
        found = np.linalg.lstsq(slopes[kept].T, gap, rcond=None)[0]
        if found.min() >= 0:
            return Overheads(**{names[index]: float(value) for index, value in zip(kept, found, strict=True)})
        del kept[int(found.argmin())]
    return Overheads()


# ---- the paced setting ----


def best_of(schedule: str, round_trip_s: float, runs: Sequence[MatchRun]) -> Measured:
    """Return the cell with the draft length that is best on these very runs, near the one that the model names."""
    acceptance = statistics(runs).acceptance
    cell = Cell(schedule, 0, cells.Link(round_trip_s), Models())
    guess = SCHEDULES[schedule].best_length(replace(cell.cost, acceptance=acceptance))
    lengths = range(max(1, guess - 2), guess + 3) if guess else (0,)
    tried = [simulated(replace(cell, draft_length=length), runs) for length in lengths]
    return max(tried, key=lambda measured: measured.tokens_per_s)


def bound_tokens_per_s(round_trip_s: float, runs: Sequence[MatchRun]) -> float:
    """Return the clairvoyant bound of the runs, one behind the other."""
    matched = np.concatenate([run.matched for run in runs])[1:]
    return len(matched) / ClairvoyantBound(round_trip_s, Models().draft_s, PASS.seconds).run_s(matched)


def _formula(schedule: str, round_trip_s: float, acceptance: float) -> float:
    cost = replace(Cell(schedule, 0, cells.Link(round_trip_s)).cost, acceptance=acceptance)
    length = SCHEDULES[schedule].best_length(cost)
    if schedule == "edge":
        return 1 / cost.edge_alone_s()
    return 1 / (cost.split_s(length) if schedule == "sync" else cost.edge_drafter_s(length, cost.draft_s))


def _compare(result: Result, name: str, runs: Sequence[MatchRun], reference: Rates | None) -> None:
    """Add the figures of one set of runs, and how far they are from the reference."""
    facts = statistics(runs)
    _print_facts(name, facts)
    result.figures[f"{name}_acceptance"] = round(facts.acceptance, 4)
    result.figures[f"{name}_stretch_variance"] = round(facts.stretch_variance, 2)
    for schedule in ("edge", "sync", "edge-spec", "bound"):
        errors: list[float] = []
        for place, rtt_ms in enumerate(ROUND_TRIPS_MS if schedule in ("sync", "bound") else (HARDEST_MS,)):
            rate = _rate(result, f"{schedule}_{name}_{rtt_ms}ms_tokens_per_s_sim", schedule, rtt_ms / 1000, runs)
            line = f"  {schedule:<10}{rtt_ms:4d} ms {rate:6.1f}"
            if schedule != "bound":
                line += f"  formula {_formula(schedule, rtt_ms / 1000, facts.acceptance):5.1f}"
            if reference is not None:
                errors.append(rate / reference[schedule][place] - 1)
                line += f"  prototype {reference[schedule][place]:5.1f} {errors[-1]:+7.1%}"
            print(line)
        if errors:
            figure = f"{schedule}_{name}_prototype_difference_max_sim"
            result.figures[figure] = round(max(abs(error) for error in errors), 4)


def _rate(result: Result, figure: str, schedule: str, round_trip_s: float, runs: Sequence[MatchRun]) -> float:
    """Add and return tokens per second of a schedule at its best draft length, or of the bound."""
    if schedule == "bound":
        rate = bound_tokens_per_s(round_trip_s, runs)
    else:
        measured = best_of(schedule, round_trip_s, runs)
        rate = measured.tokens_per_s
        result.spread[figure] = _rate_interval(measured)
    result.figures[figure] = round(rate, 3)
    result.samples[figure] = sum(len(run.ids) for run in runs)
    return rate


def _print_facts(name: str, facts: RunStatistics) -> None:
    print(
        f"{name}: {facts.tokens} tokens, acceptance {facts.acceptance:.3f}; {facts.stretches} stretches, variance "
        f"{facts.stretch_variance:.1f} (by chance {facts.iid_variance:.1f})"
    )


def _rate_interval(measured: Measured) -> tuple[float, float]:
    tokens, seconds = np.array(measured.tokens) - 1, np.array(measured.seconds)
    low, high = interval_95(
        range(len(tokens)),
        lambda drawn: float(tokens[drawn.astype(int)].sum() / seconds[drawn.astype(int)].sum()),
    )
    return round(low, 3), round(high, 3)


# ---- many texts ----

PACKED = PassCost(0.028, 0.00015)
"""A pass of a target that many sessions share."""


def _fleet(result: Result, texts: int, *, a_second: float = 60.0, tokens: int = 32) -> None:
    """Let devices come by chance to one edge, each for a short text, drafting 4 tokens a frame at 30 ms."""
    chance = np.random.default_rng(5)
    starts = np.cumsum(chance.exponential(1 / a_second, texts)).tolist()
    runs = iid_runs(0.8, texts, tokens, seed=6)
    world = World(Costs(0.008, by_positions(PACKED.seconds)), sessions_a_step=64)
    way, random = Shape(Constant(0.015)), Random(7)
    began = time.perf_counter()
    done = world.fleet(runs, starts, Conduct(Plan(4)), lambda _: Link.of(way, way, random))
    wall_s = time.perf_counter() - began
    in_flight = sum(text.arrivals[-1][0] - text.started_s for text in done) / world.agenda.now
    busy = sum(text.pass_s for text in done)
    figures = {
        "fleet_sessions": float(texts),
        "fleet_sessions_per_wall_s": texts / wall_s,
        "fleet_tokens_per_wall_s": texts * tokens / wall_s,
        "fleet_sessions_at_once_sim": in_flight,
        "fleet_edge_busy_sim": busy / world.agenda.now,
        "fleet_tokens_per_edge_s_sim": texts * tokens / busy,
        "fleet_first_token_s_p95_sim": float(np.percentile([text.first_token_s for text in done], 95)),
    }
    print("fleet: " + ", ".join(f"{name.removeprefix('fleet_')} {value:.3g}" for name, value in figures.items()))
    for name, value in figures.items():
        result.figures[name], result.samples[name] = round(value, 4), texts


# ---- all of it ----


def run(*, quick: bool) -> Result:
    """Simulate; print tables; return the figures."""
    result = Result("simulate")
    prompts = held_out(40 if quick else 480)
    greedy = pair_runs(prompts[: len(prompts) // 2], samplings(0.0, len(prompts) // 2))
    sampled = pair_runs(prompts, samplings(1.0, len(prompts), seed=1))
    texts = 3 if quick else 30
    began, before = time.perf_counter(), time.process_time()
    _compare(result, "by_chance", iid_runs(0.8, texts, 1000, seed=1), BY_CHANCE)
    _compare(result, "demo_greedy", joined(greedy, 1000), PROTOTYPE)
    _compare(result, "demo_t1", joined(sampled, 1000), None)
    _compare(result, "demo_thinned", joined(adjusted(greedy, ACCEPTANCE, seed=1), 1000), PROTOTYPE)
    _compare(result, "prototype_shape", shaped_runs(ACCEPTANCE, VARIANCE, texts, 1000, seed=3), PROTOTYPE)
    print(f"{time.perf_counter() - began:.0f} s of wall, {time.process_time() - before:.0f} s of processor")
    _speed(result)
    _fleet(result, 200 if quick else 5000)
    return result


def _speed(result: Result) -> None:
    """Add how fast one synchronous session simulates."""
    runs = iid_runs(0.8, 20, 1000, seed=8)
    began, before = time.perf_counter(), time.process_time()
    tokens = sum(simulated(Cell("sync", 3), runs).tokens)
    result.figures["sync_tokens_per_wall_s"] = round(tokens / (time.perf_counter() - began))
    result.figures["sync_tokens_per_processor_s"] = round(tokens / (time.process_time() - before))
    print(f"one session in sync: {result.figures['sync_tokens_per_wall_s']:.0f} tokens a second of wall time")
