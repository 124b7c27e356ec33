"""The figures of adaptive devices against fixed settings, out of what was written on the traces.

A rate counts the tokens after a text's first commit over the seconds that they took. A ratio is that of two rates over
the same places of the same passages; its interval is from prompts drawn again, each with all its repeats, and the same
prompts on every trace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from airdraft.link.sim_text import MatchRun
from bench.adapt_real import EDGE_ALONE, Outcome, Place
from bench.figures import Result
from bench.radio_figures import add
from bench.radio_outcome import Estimate, rate_of, rate_over_rate
from bench.radio_text import Text

RESAMPLES = 2000

Draws = NDArray[np.float64]
"""[1 + RESAMPLES] a statistic of all prompts, then of prompts drawn again."""


def shared(outcomes: Sequence[Outcome]) -> list[Place]:
    """Return the places that every one of a trace's contestants has written, in order."""
    return sorted(set.intersection(*(set(outcome.texts) for outcome in outcomes)), key=lambda place: place.moment)


def by_trace(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes trace by trace, without traces of which some contestant has nothing."""
    traces: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        traces.setdefault(outcome.trace, []).append(outcome)
    return {trace: its for trace, its in traces.items() if shared(its)}


def adaptive_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the one whose device plans."""
    return next(outcome for outcome in outcomes if outcome.setting is None)


def edge_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the edge alone, without a drafter."""
    return next(outcome for outcome in outcomes if outcome.setting == EDGE_ALONE)


def best_fixed(outcomes: Sequence[Outcome], places: Sequence[Place], *, answers: bool = False) -> Outcome:
    """Return the fixed setting that was the fastest over these places; ``answers`` as of ``ratio_draws``."""
    fixed = [outcome for outcome in outcomes if outcome.setting is not None]
    if answers:  # they all write the same tokens
        return min(fixed, key=lambda outcome: sum(outcome.texts[place].arrivals_s[-1] for place in places))
    return max(fixed, key=lambda outcome: _rate(outcome.texts, places))


def chosen_elsewhere(outcomes: Sequence[Outcome], places: Sequence[Place]) -> dict[Place, Text]:
    """Return for each place the text of the setting that was the fastest in the other repeats.

    The best of several on the texts that it is judged by is better than it is: this one has no such luck. With one
    repeat it is ``best_fixed``.
    """
    texts: dict[Place, Text] = {}
    for repeat in {place.repeat for place in places}:
        others = [place for place in places if place.repeat != repeat] or places
        best = best_fixed(outcomes, others)
        texts |= {place: best.texts[place] for place in places if place.repeat == repeat}
    return texts


def _rate(texts: Mapping[Place, Text], places: Sequence[Place]) -> float:
    return sum(texts[place].timed_tokens for place in places) / sum(texts[place].seconds for place in places)


def ratio_draws(
    over: Mapping[Place, Text], under: Mapping[Place, Text], places: Sequence[Place], *, answers: bool = False
) -> Draws:
    """Return the ratio of two contestants' rates over these places, of all prompts and of prompts drawn again.

    ``answers``: whole texts over the seconds from the prompt's sending to the last token. Where a link stands still
    before a text's first commit, what comes after is a burst that no edge could write: a rate counts it as speed, and
    the wait for nothing.
    """
    rows: dict[tuple[int, float], NDArray[np.float64]] = {}
    for place in sorted(places, key=lambda place: (place.number, place.temperature)):
        mine, theirs = over[place], under[place]
        row = rows.setdefault((place.number, place.temperature), np.zeros(4))
        if answers:
            row += (len(mine.ids), mine.arrivals_s[-1], len(theirs.ids), theirs.arrivals_s[-1])
        else:
            row += (mine.timed_tokens, mine.seconds, theirs.timed_tokens, theirs.seconds)
    table, chance = np.array(list(rows.values())), np.random.default_rng(0)
    drawn = table[chance.integers(0, len(table), (RESAMPLES, len(table)))].sum(axis=1)
    return rate_over_rate(np.concatenate([table.sum(axis=0, keepdims=True), drawn]))


def estimate_of(draws: Draws) -> Estimate:
    """Return a statistic with its 95 % interval."""
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return float(draws[0]), float(low), float(high)


def figures(outcomes: Sequence[Outcome], runs: Mapping[Place, MatchRun]) -> Result:
    """Return all figures; ``runs``: what the target writes at each place."""
    result = Result("adapt")
    _add_texts(result, outcomes, runs)
    over_best: dict[str, Draws] = {}
    over_elsewhere: dict[str, Draws] = {}
    over_answers: dict[str, Draws] = {}
    over_edge: dict[str, Draws] = {}
    texts = 0
    for trace, its in by_trace(outcomes).items():
        places, adaptive = shared(its), adaptive_of(its)
        texts += len(places)
        over_best[trace] = ratio_draws(adaptive.texts, best_fixed(its, places).texts, places)
        fastest = best_fixed(its, places, answers=True).texts
        over_answers[trace] = ratio_draws(adaptive.texts, fastest, places, answers=True)
        over_elsewhere[trace] = ratio_draws(adaptive.texts, chosen_elsewhere(its, places), places)
        over_edge[trace] = ratio_draws(adaptive.texts, edge_of(its).texts, places)
        _add_trace(result, trace, its, places)
    for suffix, draws in (("", over_best), ("_elsewhere", over_elsewhere), ("_answers", over_answers)):
        _add_ratios(result, f"adaptive_over_hindsight{suffix}", draws, texts)
        low, high = min((estimate_of(its)[1:] for its in draws.values()), default=(math.nan, math.nan))
        add(result, f"adaptive_over_hindsight{suffix}_min", (low, low, high), texts)
    _add_ratios(result, "adaptive_over_edge", over_edge, texts)
    add(result, "adaptive_over_edge_min", min(map(estimate_of, over_edge.values()), default=(math.nan,) * 3), texts)
    _add_pace(result, outcomes)
    return result


def _add_ratios(result: Result, name: str, by_name: Mapping[str, Draws], texts: int) -> None:
    """Add a ratio on every trace, and its median over traces."""
    for trace, draws in by_name.items():
        add(result, f"{name}_{named(trace)}", estimate_of(draws), texts // len(by_name))
    if by_name:
        add(result, f"{name}_median", estimate_of(np.median(list(by_name.values()), axis=0)), texts)


def named(trace: str) -> str:
    """Return a trace's name, fit for a figure."""
    return trace.replace("-", "_")


def setting_name(outcome: Outcome) -> str:
    """Return a contestant's name, fit for a figure."""
    setting = outcome.setting
    if setting is None:
        return outcome.contestant
    parts = [setting.schedule.replace("-", "_")]
    parts += [str(setting.draft_length)] if setting.draft_length > 1 else []
    parts += [f"frames{setting.frame_tokens}"] if setting.frame_tokens > 1 else []
    return "_".join(parts)


def _add_trace(result: Result, trace: str, its: Sequence[Outcome], places: Sequence[Place]) -> None:
    for outcome in its:
        name, texts = f"{setting_name(outcome)}_{named(trace)}", [outcome.texts[place] for place in places]
        tokens = sum(len(text.ids) for text in texts)
        rate = rate_of([text.timed_tokens for text in texts], [text.seconds for text in texts])
        add(result, f"tokens_per_s_paced_{name}", rate, tokens)
        result.figures[f"edge_s_per_token_{name}"] = round(sum(text.edge_s for text in texts) / tokens, 6)
        result.add_median(f"first_token_ms_{name}", [text.arrivals_s[0] * 1e3 for text in texts])


def _add_texts(result: Result, outcomes: Sequence[Outcome], runs: Mapping[Place, MatchRun]) -> None:
    """Add whether every text is the target's own, and how often the drafter was right."""
    written = [(place, text) for outcome in outcomes for place, text in outcome.texts.items()]
    wrong = sum(tuple(text.ids) != runs[place].ids for place, text in written)
    result.figures |= {"mismatches": wrong, "equal_text": float(wrong == 0)}
    result.samples |= dict.fromkeys(("mismatches", "equal_text"), len(written))
    for degree, name in ((0.0, "greedy"), (1.0, "sampled")):
        matched = [hit for place, run in runs.items() if place.temperature == degree for hit in run.matched]
        result.figures[f"acceptance_{name}"] = round(float(np.mean(matched)), 6)


def _add_pace(result: Result, outcomes: Sequence[Outcome]) -> None:
    texts = [text for outcome in outcomes for text in outcome.texts.values()]
    late_ms = [late * 1e3 for text in texts for late in (*text.draft_late_s, *text.pass_late_s)]
    for quantile, name in ((50, "median"), (99, "p99")):
        result.figures[f"pace_error_ms_{name}"] = round(float(np.percentile(late_ms, quantile)), 6)
        result.samples[f"pace_error_ms_{name}"] = len(late_ms)
    result.figures["streams_lost"] = sum(text.reattached for text in texts)
    result.figures["texts_written_again_share"] = round(float(np.mean([text.runs > 1 for text in texts])), 6)
    result.samples["texts_written_again_share"] = len(texts)
