"""The figures of the radio bench, out of what its cells came to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bench.figures import Result, interval_95
from bench.radio_bars import add_named, add_over_edge
from bench.radio_cells import DEMO, name_of
from bench.radio_outcome import Estimate, Outcome, mismatches
from bench.simulate import fitted, simulated

NAMED_TRIP_S = 0.03
"""The round trip at which costs are named."""


def add(result: Result, name: str, estimate: Estimate, samples: int) -> None:
    """Add a figure with its interval."""
    result.figures[name], *spread = (round(value, 6) for value in estimate)
    result.spread[name] = (spread[0], spread[1])
    result.samples[name] = samples


def figures(paced: Sequence[Outcome], native: Sequence[Outcome]) -> Result:
    """Return every figure but those of the simulator and the relay."""
    result = Result("radio")
    result.figures["mismatches"] = mismatches([*paced, *native])
    result.figures["equal_text"] = float(result.figures["mismatches"] == 0)
    for name in ("mismatches", "equal_text"):
        result.samples[name] = sum(len(outcome.texts) for outcome in [*paced, *native])
    _add_rates(result, paced, "paced")
    _add_rates(result, native, "native")
    _add_bounds(result, paced)
    add_named(result, paced)
    add_over_edge(result, paced)
    for outcome in paced:
        if outcome.wanted.cell.link.round_trip_s == NAMED_TRIP_S and outcome.wanted.cell.models == DEMO:
            _add_costs(result, outcome)
    _add_pace(result, paced)
    return result


def _add_rates(result: Result, outcomes: Sequence[Outcome], how: str) -> None:
    for outcome in outcomes:
        add(result, f"tokens_per_s_{how}_{outcome.name}", outcome.rate, outcome.tokens)


def _add_bounds(result: Result, outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        cell = outcome.wanted.cell
        name = "tokens_per_s_bound_" + name_of(cell).removeprefix(f"{cell.schedule.replace('-', '_')}_")
        if cell.schedule == "sync" and outcome.texts:
            add(result, name, outcome.bound_rate(), outcome.tokens)


def _add_costs(result: Result, outcome: Outcome) -> None:
    """Add what a schedule asks of the link and of both ends, and how long its user waits."""
    if not outcome.texts:
        return
    name, texts, tokens = outcome.name, list(outcome.texts.values()), outcome.tokens
    result.add_median(f"first_token_ms_{name}", [text.arrivals_s[0] * 1e3 for text in texts])
    a_token = [text.s_per_token * 1e3 for text in texts]
    result.add_median(f"ms_per_token_{name}", a_token)
    for quantile in (95, 99):
        value = float(np.percentile(a_token, quantile))
        low, high = interval_95(a_token, lambda drawn, at=quantile: float(np.percentile(drawn, at)))  # type: ignore[misc]
        add(result, f"ms_per_token_p{quantile}_{name}", (value, low, high), len(texts))
    sums = {
        "bytes_up_per_token": sum(text.bytes_up for text in texts),
        "bytes_down_per_token": sum(text.bytes_down for text in texts),
        "link_bytes_up_per_token": sum(text.link_bytes[0] for text in texts),
        "link_bytes_down_per_token": sum(text.link_bytes[1] for text in texts),
        "edge_s_per_token": sum(text.edge_s for text in texts),
        "device_s_per_token": sum(text.draft_s for text in texts),
    }
    for figure, total in sums.items():
        result.figures[f"{figure}_{name}"] = round(total / tokens, 6)
        result.samples[f"{figure}_{name}"] = tokens


def _add_pace(result: Result, paced: Sequence[Outcome]) -> None:
    late_ms = [late * 1e3 for outcome in paced for late in outcome.late_s]
    texts = [text for outcome in paced for text in outcome.texts.values()]
    if not late_ms:
        return
    for quantile in (50, 99):
        name = f"pace_error_ms_{'median' if quantile == 50 else 'p99'}"
        result.figures[name] = round(float(np.percentile(late_ms, quantile)), 6)
        result.samples[name] = len(late_ms)
    result.figures["streams_lost"] = sum(text.reattached for text in texts)
    result.figures["texts_written_again_share"] = round(float(np.mean([text.runs > 1 for text in texts])), 6)
    result.samples["texts_written_again_share"] = len(texts)


# ---- the simulator, and the relay ----


def add_simulated(result: Result, outcomes: Sequence[Outcome]) -> dict[str, tuple[float, float]]:
    """Add the simulator's error on the cells that it must reproduce; return measured and simulated s a token by name.

    Overheads are fitted on other cells, so that nothing is proved by what it was fitted on.
    """
    tested = [outcome for outcome in outcomes if outcome.wanted.simulated and outcome.texts]
    others = [outcome for outcome in outcomes if not outcome.wanted.simulated and outcome.texts and _fits(outcome)]
    if not tested:
        return {}
    overheads = fitted([(outcome.measured, outcome.runs()) for outcome in others])
    found: dict[str, tuple[float, float]] = {}
    plain: list[float] = []
    for outcome in tested:
        real, runs = outcome.measured.s_per_token, outcome.runs()
        found[outcome.name] = real, simulated(outcome.wanted.cell, runs, overheads).s_per_token
        plain.append(abs(simulated(outcome.wanted.cell, runs).s_per_token / real - 1))
    errors = [abs(made / real - 1) for real, made in found.values()]
    result.figures["simulator_error_max"] = round(max(errors), 6)
    result.figures["simulator_error_median"] = round(float(np.median(errors)), 6)
    result.figures["simulator_unfitted_error_max"] = round(max(plain), 6)
    for name in ("simulator_error_max", "simulator_error_median", "simulator_unfitted_error_max"):
        result.samples[name] = len(tested)
    for field in ("round_s", "pass_s", "draft_step_s"):
        result.figures[f"overhead_{field.removesuffix('_s')}_ms"] = round(getattr(overheads, field) * 1e3, 6)
    return found


def _fits(outcome: Outcome) -> bool:
    """Say whether overheads are fitted on this cell: the greedy demo pair where nobody goes ahead of anybody."""
    cell = outcome.wanted.cell
    return cell.models == DEMO and cell.schedule in ("edge", "edge-spec", "sync")


def add_relay_error(result: Result, relay: Result) -> None:
    """Add how far the relay was from what it was asked for."""
    for name in ("relay_delay_error_ms_p99", "relay_rate_error_share_max"):
        result.figures[name] = relay.figures.get(name, math.nan)
        result.samples[name] = relay.samples[name]
        result.spread[name] = relay.spread[name]
