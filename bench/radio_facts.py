"""``python -m bench radio-facts``: what radio facts add to forecasts of a link, on recordings that hold both.

The next second's downlink rate, and the next ping, are forecast by ``coordinator.policy.radio`` without facts and with
them. A device learns its rate only when it moves something large, so the rate is shown every 1, 10 or 60 s while the
facts come every second. An error is the absolute logarithm of forecast over truth; a gain is the share of it that facts
take away, with the 95 % interval of a bootstrap over blocks of 30 s, or of 5 pings. The recordings are the UCC 5G
traces (AIRDRAFT_DATA, else beside the checkout); a synthetic walk whose rate follows its signal stands beside them.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airdraft.link.channels import walk
from airdraft.link.radio_facts import RecordedSecond, ucc_5g_seconds
from bench.figures import REPOSITORY, Result, ratio_of_sums
from coordinator.policy.radio import LEAST_BYTES_S, LinkForecast, LinkSample

SHOWN_EVERY_S = (1, 10, 60)
BLOCK_S = 30.0
BLOCK_PINGS = 5
WALK_S = 1200.0
TAIL = 0.9  # of the round trip's quantiles the one that a timeout needs

Row = tuple[float, float, float]  # summed errors without and with facts, and their number
Recordings = dict[str, Sequence[RecordedSecond]]


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of both forecasts of one quantity, in blocks."""

    rows: tuple[Row, ...]

    @property
    def count(self) -> int:
        return int(sum(count for *_, count in self.rows))

    def gain(self) -> tuple[float, float, float]:
        """Return the share of the error that facts take away, and its 95 % interval."""
        return ratio_of_sums(self.rows, lambda sums: 1 - sums[..., 1] / sums[..., 0])

    def mean(self) -> tuple[float, float]:
        """Return the mean error without and with facts."""
        without, with_facts, count = np.sum(self.rows, axis=0)
        return float(without / count), float(with_facts / count)


def recordings() -> Recordings:
    """Return the recordings that hold facts and rates, by name; none where they are not there."""
    base = Path(os.environ.get("AIRDRAFT_DATA") or REPOSITORY.parent / "shared" / "data")
    paths = sorted((base / "traces" / "ucc_5g").glob("*.csv"))
    return {_name(path): ucc_5g_seconds(path) for path in paths}


def _name(path: Path) -> str:
    kind, _, rest = path.stem.partition("_B_")
    return f"{kind.lower()}_{rest.split('_')[0]}"


def synthetic(seed: int = 0, duration_s: float = WALK_S) -> tuple[RecordedSecond, ...]:
    """Return a walk between two cells whose rate is a function of its signal: what facts are worth at best."""
    channel = walk(seed, duration_s)
    assert channel.radio is not None
    steps = round(1 / channel.down.step_s)
    rates = channel.down.rates_bytes_s
    rates = rates[: len(rates) // steps * steps].reshape(-1, steps).mean(axis=1)
    return tuple(
        RecordedSecond(float(second), replace(channel.radio.at(float(second)), technology="nr"), float(rate), None)
        for second, rate in enumerate(rates)
    )


def rate_errors(seconds: Sequence[RecordedSecond], shown_every_s: float, block_s: float = BLOCK_S) -> Errors:
    """Forecast each second's rate from the second before; the rate is shown every so often, facts always."""
    without = with_facts = LinkForecast()
    shown_s = -math.inf
    found: list[tuple[float, float, float]] = []
    for now, then in pairwise(seconds):
        rate = None
        if now.down_bytes_s is not None and now.at_s >= shown_s + shown_every_s:
            rate, shown_s = now.down_bytes_s, now.at_s
        without = without.updated(LinkSample(down_bytes_s=rate))
        with_facts = with_facts.updated(LinkSample(facts=now.facts, down_bytes_s=rate))
        if now.down_bytes_s is None or then.down_bytes_s is None or then.at_s > now.at_s + 2:
            continue
        forecasts = without.down_bytes_s.next(), with_facts.down_bytes_s.next()
        truth = max(then.down_bytes_s, LEAST_BYTES_S)
        if forecasts[0] is not None and forecasts[1] is not None:
            found.append((now.at_s, abs(math.log(forecasts[0] / truth)), abs(math.log(forecasts[1] / truth))))
    return _in_blocks(found, lambda at_s: int(at_s // block_s))


def round_trip_errors(seconds: Sequence[RecordedSecond], quantile: float | None = None) -> Errors:
    """Forecast each ping from those before and the facts up to it: the median, or a quantile by its pinball loss."""
    without = with_facts = LinkForecast()
    found: list[tuple[float, float, float]] = []
    for second in seconds:
        if (truth_s := second.round_trip_s) is not None:
            forecasts = without.round_trip_s.next(quantile or 0.5), with_facts.round_trip_s.next(quantile or 0.5)
            if forecasts[0] is not None and forecasts[1] is not None:
                over = [math.log(truth_s / forecast_s) for forecast_s in forecasts if forecast_s]
                at, other = (abs(each) if quantile is None else _pinball(each, quantile) for each in over)
                found.append((float(len(found)), at, other))
        without = without.updated(LinkSample(round_trip_s=truth_s))
        with_facts = with_facts.updated(LinkSample(facts=second.facts, round_trip_s=truth_s))
    return _in_blocks(found, lambda index: int(index // BLOCK_PINGS))


def _pinball(error: float, quantile: float) -> float:
    """Return the loss that a quantile minimises (Koenker and Bassett, Econometrica 46, 1978)."""
    return max(quantile * error, (quantile - 1) * error)


def _in_blocks(found: Iterable[tuple[float, float, float]], block: Callable[[float], int]) -> Errors:
    sums: dict[int, NDArray[np.float64]] = {}
    for at, without, with_facts in found:
        row = sums.setdefault(block(at), np.zeros(3))
        row += (without, with_facts, 1.0)
    return Errors(tuple((float(row[0]), float(row[1]), float(row[2])) for row in sums.values()))


def _cpu_ms(seconds: Sequence[RecordedSecond]) -> list[float]:
    """Return the processor time of each sample with all three values, and of the forecasts after it."""
    forecast, spent_ms = LinkForecast(), []
    for second in seconds:
        sample = LinkSample(second.facts, 0.05, 1e6, second.down_bytes_s)
        began_s = time.thread_time()
        forecast = forecast.updated(sample)
        _ = forecast.round_trip_s.next(TAIL), forecast.up_bytes_s.next(), forecast.down_bytes_s.next()
        spent_ms.append((time.thread_time() - began_s) * 1e3)
    return spent_ms


def _add(result: Result, name: str, errors: Errors) -> None:
    if not errors.count:
        return
    without, with_facts = errors.mean()
    gain, low, high = errors.gain()
    result.figures |= {f"{name}_without": round(without, 4), f"{name}_with": round(with_facts, 4)}
    result.figures[f"{name}_gain"] = round(gain, 4)
    result.spread[f"{name}_gain"] = (round(low, 4), round(high, 4))
    result.samples[name] = errors.count
    print(f"{name:44} {without:7.3f} {with_facts:7.3f}  {gain:+7.1%} [{low:+.1%}, {high:+.1%}]", file=sys.stderr)


def _pooled(of: Iterable[Errors]) -> Errors:
    return Errors(tuple(row for errors in of for row in errors.rows))


def run(*, quick: bool) -> Result:
    """Return the errors and gains of every recording, and of all together; ``quick`` shortens them to 300 s."""
    result = Result("radio-facts")
    recorded = recordings()
    if not recorded:
        print("no recordings (set AIRDRAFT_DATA): only the synthetic walk", file=sys.stderr)
    worlds: Recordings = {**recorded, "synthetic_walk": synthetic()}
    if quick:
        worlds = {name: [each for each in seconds if each.at_s < 300] for name, seconds in worlds.items()}
    print(f"{'mean |ln forecast / truth|':44} without    with  gain [95 %]", file=sys.stderr)
    for every_s in SHOWN_EVERY_S:
        rates = {name: rate_errors(seconds, every_s) for name, seconds in worlds.items()}
        for name, errors in rates.items():
            _add(result, f"rate_{every_s}s_{name}", errors)
        _add(result, f"rate_{every_s}s_recorded", _pooled(rates[name] for name in recorded))
    for label, quantile in (("rtt", None), ("rtt_p90", TAIL)):
        trips = {name: round_trip_errors(worlds[name], quantile) for name in recorded}
        for name, errors in trips.items():
            _add(result, f"{label}_{name}", errors)
        _add(result, f"{label}_recorded", _pooled(trips.values()))
    spent_ms = _cpu_ms(worlds["synthetic_walk"])
    result.figures["forecast_cpu_ms_p99"] = round(float(np.percentile(spent_ms, 99)), 4)
    result.samples["forecast_cpu_ms_p99"] = len(spent_ms)
    return result


if __name__ == "__main__":
    print(run(quick="--quick" in sys.argv[1:]).as_line())
