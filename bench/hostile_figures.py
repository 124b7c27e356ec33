"""What the arms of ``bench hostile`` come to: gaps and throughput of the victims, an attack over its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bench.figures import Result, ratio_of_sums

PIECE_S = 1.0
"""What the interval of a throughput is drawn from."""

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Arm:
    """What one arm brought.

    gaps    of each victims' text that began to come, the seconds between its commits
    tokens  of all victims, in each second of the arm
    """

    gaps: tuple[tuple[float, ...], ...]
    firsts: tuple[float, ...]  # seconds from wanting a text to its first commit
    tokens: tuple[float, ...]
    refusals: int
    failures: int
    texts: int
    right: int
    front_s: float  # processor seconds of the edge's front
    seconds: float
    did: Mapping[str, float]  # by whoever attacked

    @classmethod
    def of(cls, written: Mapping[str, Any], did: Mapping[str, float], *, front_s: float, seconds: float) -> Self:
        """Read the victims' answer."""
        began_s = float(written["began_s"])
        until_s = began_s + seconds
        texts = [text for own in written["texts"] for text in own]
        gaps: list[tuple[float, ...]] = []
        firsts: list[float] = []
        pieces = [0.0] * max(1, round(seconds / PIECE_S))
        for text in texts:
            arrivals = text["arrivals_s"]
            ends = [*arrivals] if text["over"] else [*arrivals, max(until_s, *arrivals, text["wanted_s"])]
            firsts.append(ends[0] - text["wanted_s"])
            if arrivals:
                gaps.append(tuple(np.diff(ends).tolist()))
            for when, count in zip(arrivals, text["tokens"], strict=True):
                pieces[min(len(pieces) - 1, int((when - began_s) / PIECE_S))] += count
        return cls(
            tuple(gaps),
            tuple(firsts),
            tuple(pieces),
            sum(text["refusals"] for text in texts),
            sum(text["failures"] for text in texts),
            len(texts),
            sum(bool(text["right"]) for text in texts),
            front_s,
            seconds,
            dict(did),
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """An attack and its baseline, with the same prompts."""

    attack: str
    hostile: Arm
    honest: Arm

    @property
    def line(self) -> str:
        """Return it in short."""
        ratio = gap_ratio([self])[0]
        share = sum(self.hostile.tokens) / max(1.0, sum(self.honest.tokens))
        did = ", ".join(f"{name} {value:.6g}" for name, value in self.hostile.did.items())
        return (
            f"{self.attack}: p99 {ratio:.3f}, throughput {share:.3f}, refused {self.hostile.refusals}, failed "
            f"{self.hostile.failures}, front {self.hostile.front_s / self.hostile.seconds:.2f} against "
            f"{self.honest.front_s / self.honest.seconds:.2f}; {did}"
        )


def _p99(gaps: Sequence[tuple[float, ...]]) -> float:
    values = [value for own in gaps for value in own]
    return float(np.percentile(values, 99)) if values else float("nan")


def gap_ratio(pairs: Sequence[Pair], resamples: int = 0) -> tuple[float, float, float]:
    """Return the ratio of the p99 of gaps, attack over baseline, and its 95 % bootstrap interval; texts are drawn.

    An attack under which no text came at all has the length of its arm for a gap.
    """
    hostile = [own for pair in pairs for own in pair.hostile.gaps] or [(pair.hostile.seconds,) for pair in pairs]
    honest = [own for pair in pairs for own in pair.honest.gaps]
    found, chance = _p99(hostile) / _p99(honest), np.random.default_rng(0)
    drawn = [
        _p99([hostile[at] for at in chance.integers(0, len(hostile), len(hostile))])
        / _p99([honest[at] for at in chance.integers(0, len(honest), len(honest))])
        for _ in range(resamples)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (found, found)
    return found, float(low), float(high)


def throughput_ratio(pairs: Sequence[Pair]) -> tuple[float, float, float]:
    """Return the ratio of the victims' tokens, attack over baseline, and its interval; paired seconds are drawn."""
    rows = [
        (attacked, left)
        for pair in pairs
        for attacked, left in zip(pair.hostile.tokens, pair.honest.tokens, strict=True)
    ]
    return ratio_of_sums(rows, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1.0), RESAMPLES)


def add_figures(result: Result, pairs: Sequence[Pair], reaped: Mapping[str, float]) -> None:
    """Add each attack's figures and the worst ones."""
    attacks = list(dict.fromkeys(pair.attack for pair in pairs))
    for attack in attacks:
        own = [pair for pair in pairs if pair.attack == attack]
        for name, (value, low, high) in (
            ("p99_ratio", gap_ratio(own, RESAMPLES)),
            ("throughput_ratio", throughput_ratio(own)),
        ):
            _add(result, f"{attack}_{name}", value, sum(len(texts) for pair in own for texts in pair.hostile.gaps))
            result.spread[f"{attack}_{name}"] = round(low, 4), round(high, 4)
        for name, arms in (("", [pair.hostile for pair in own]), ("baseline_", [pair.honest for pair in own])):
            seconds = sum(arm.seconds for arm in arms)
            _add(result, f"{attack}_{name}p99_ms", _p99([gap for arm in arms for gap in arm.gaps]) * 1e3, len(arms))
            firsts = [first for arm in arms for first in arm.firsts]
            _add(result, f"{attack}_{name}first_p50_ms", float(np.median(firsts)) * 1e3, len(firsts))
            _add(result, f"{attack}_{name}tokens_s", sum(sum(arm.tokens) for arm in arms) / seconds, len(arms))
            _add(result, f"{attack}_{name}front_share", sum(arm.front_s for arm in arms) / seconds, len(arms))
            _add(result, f"{attack}_{name}refusals", sum(arm.refusals for arm in arms), len(arms))
            _add(result, f"{attack}_{name}failures", sum(arm.failures for arm in arms), len(arms))
    arms = [arm for pair in pairs for arm in (pair.hostile, pair.honest)]
    texts = sum(arm.texts for arm in arms)
    worst_gap = max(attacks, key=lambda attack: result.figures[f"{attack}_p99_ratio"])
    worst_rate = min(attacks, key=lambda attack: result.figures[f"{attack}_throughput_ratio"])
    for bar, source in (
        ("victim_p99_ratio", f"{worst_gap}_p99_ratio"),
        ("victim_throughput_ratio", f"{worst_rate}_throughput_ratio"),
    ):
        _add(result, bar, result.figures[source], result.samples[source])
        result.spread[bar] = result.spread[source]
    _add(result, "victim_texts_right", sum(arm.right for arm in arms) / texts, texts)
    for name, source in (("reaped_s", "longest_s"), ("at_once", "most"), ("not_told", "not_told")):
        _add(result, f"stalled_{name}", reaped[source], int(reaped["opened"]))


def _add(result: Result, name: str, value: float, samples: int) -> None:
    result.figures[name], result.samples[name] = round(value, 4), samples


def table(result: Result, attacks: Sequence[str]) -> str:
    """Return the attacks as lines."""
    heads = ("p99 ratio", "p99 ms", "base ms", "rate ratio", "tokens/s", "front", "base front", "refused")
    names = ("p99_ratio", "p99_ms", "baseline_p99_ms", "throughput_ratio", "tokens_s", "front_share")
    lines = [f"{'attack':<12}" + "".join(f"{head:>12}" for head in heads)]
    for attack in attacks:
        cells = [result.figures[f"{attack}_{name}"] for name in (*names, "baseline_front_share", "refusals")]
        lines.append(f"{attack:<12}" + "".join(f"{cell:>12.3f}" for cell in cells))
    more = ("victim_p99_ratio", "victim_throughput_ratio", "victim_texts_right", "stalled_reaped_s", "stalled_at_once")
    return "\n".join([*lines, *(f"{name:<28}{result.figures[name]:>10.4g}" for name in more)])
