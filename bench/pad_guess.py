"""Which prompt was it: what an observer makes of traces, and how often it guesses right.

The observer knows the protocol: it takes HTTP/2's own frames off sizes, reads padded gaps by the published interval,
and looks at what does not depend on the place in a trace too (runs of sizes; cumulated bytes, as CUMUL does: Panchenko
et al. 2016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Chunk = tuple[float, int]
Row = NDArray[np.float64]

MERGED_S = 0.001
FIRST = 72
"""Messages of each direction that are looked at one by one."""

POINTS = 60
"""At which cumulated bytes are read."""

RUNS = 500
"""Runs of one to three sizes that are counted."""

TELLING, FEW = 250, 60
"""Features that an observer looks at: those that tell most of the sessions that it learns from."""

_OWN_BYTES = (17, 13, 26, 30, 34, 39, 43, 48, 56)
"""Of HTTP/2's own frames that come along with a message: pings, window updates, and both."""

_COMMON = 0.01  # share of a direction's messages that makes a size a message's own
_SHARES = (0, 5, 10, 25, 50, 75, 90, 95, 100)


def merged(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return the messages of a trace: segments of a direction that are closer than ``MERGED_S`` are one."""
    messages: list[Chunk] = []
    last: dict[bool, tuple[int, float]] = {}  # of each direction: index in messages, and the time of its last segment
    for at, size in sorted(chunks):
        known = last.get(size > 0)
        if known is not None and at - known[1] < MERGED_S:
            begun, bytes_ = messages[known[0]]
            messages[known[0]] = begun, bytes_ + size
            last[size > 0] = known[0], at
        else:
            last[size > 0] = len(messages), at
            messages.append((at, size))
    return messages


def features(traces: Sequence[Sequence[Chunk]], interval_s: float) -> Row:
    """Return what is told of each trace [N, F], -1 where there is nothing; ``interval_s`` is of padded streams."""
    messages = [merged(chunks) for chunks in traces]
    said = _said(messages)
    rows = [np.concatenate([_shape(one), *_ways(one, interval_s), *_ways(own, interval_s)]) for one, own in said]
    told = np.nan_to_num(np.column_stack([np.stack(rows), _runs([own for _, own in said])]), nan=-1.0)
    return np.asarray(told[:, told.min(axis=0) < told.max(axis=0)], dtype=np.float64)


def _said(traces: Sequence[list[Chunk]]) -> list[tuple[list[Chunk], list[Chunk]]]:
    """Return each trace, and beside it the messages that hold data, at their own sizes."""
    sizes = Counter(size for messages in traces for _, size in messages)
    ways = {way: sum(count for size, count in sizes.items() if (size > 0) is way) for way in (True, False)}
    common = {size for size, count in sizes.items() if count >= _COMMON * ways[size > 0] and abs(size) > _OWN_BYTES[0]}

    def own(size: int) -> int:
        sign = 1 if size > 0 else -1
        return next((less for off in (0, *_OWN_BYTES) if (less := size - sign * off) in common), 0)

    return [(messages, [(at, less) for at, size in messages if (less := own(size))]) for messages in traces]


def _shape(messages: list[Chunk]) -> Row:
    """Return counts, the time it took, and bytes cumulated over messages and over time."""
    times = np.asarray([at for at, _ in messages]) - messages[0][0]
    sizes = np.asarray([size for _, size in messages], dtype=np.float64)
    found = [np.asarray([len(messages), times[-1]]), _padded(sizes, FIRST), _padded(np.diff(times), FIRST)]
    for way in (sizes > 0, sizes < 0):
        summed = np.cumsum(np.where(way, np.abs(sizes), 0))
        found.append(np.interp(np.linspace(0, len(sizes) - 1, POINTS), np.arange(len(sizes)), summed))
        found.append(np.interp(np.linspace(0, times[-1], POINTS), times, summed))
    return np.concatenate(found)


def _ways(messages: list[Chunk], interval_s: float) -> list[Row]:
    """Return sizes, gaps and lateness of each direction."""
    start = messages[0][0] if messages else 0.0
    found: list[Row] = []
    for sign in (1, -1):
        times = np.asarray([at - start for at, size in messages if size * sign > 0])
        sizes = np.asarray([abs(size) for _, size in messages if size * sign > 0], dtype=np.float64)
        gaps = np.diff(times)
        found += [
            np.asarray([len(times), sizes.sum()]),
            _quantiles(sizes),
            _quantiles(gaps),
            _padded(times, FIRST),
            _padded(sizes, FIRST),
            _padded(gaps, FIRST),
            _late(times, interval_s),
        ]
    return found


def _runs(traces: Sequence[list[Chunk]]) -> Row:
    """Return how often sizes follow one another, and at which gaps, wherever that is."""
    words = []
    for messages in traces:
        sizes = [f"s{size}" for _, size in messages]
        gaps = [f"g{round((after - before) * 1000)}" for (before, _), (after, _) in pairwise(messages)]
        words.append(" ".join([*sizes, "|", *gaps]))
    counted = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 3), max_features=RUNS, lowercase=False)
    return np.asarray(counted.fit_transform(words).toarray(), dtype=np.float64)


def _late(times: Row, interval_s: float) -> Row:
    """Return by how much each place of the grid that fits the direction best is late, NaN if nothing came [FIRST]."""
    places = np.full(FIRST, np.nan)
    if len(times):
        phase = np.mod(times, interval_s)
        middle = np.angle(np.mean(np.exp(2j * np.pi * phase / interval_s))) * interval_s / (2 * np.pi)
        at = np.rint((times - middle) / interval_s).astype(int)
        late = times - middle - at * interval_s
        for place, value in zip(at - at[0], late, strict=True):
            if place < FIRST:
                places[place] = value
    return places


def _quantiles(values: Row) -> Row:
    if not len(values):
        return np.full(len(_SHARES) + 2, np.nan)
    return np.concatenate([np.percentile(values, _SHARES), [values.mean(), values.std()]])


def _padded(values: Row, count: int) -> Row:
    """Return the first ``count`` of them, NaN behind."""
    row = np.full(count, np.nan)
    row[: min(count, len(values))] = values[:count]
    return row


def classifiers() -> dict[str, Any]:
    """Return the attackers, by name, each for ranked features: the observer takes whichever guesses best."""
    return {
        "boosted": make_pipeline(
            SelectKBest(f_classif, k=TELLING),
            HistGradientBoostingClassifier(
                max_iter=40, learning_rate=0.15, max_leaf_nodes=8, min_samples_leaf=8, max_bins=32, random_state=0
            ),
        ),
        "trees": make_pipeline(SelectKBest(f_classif, k=TELLING), ExtraTreesClassifier(500, random_state=0)),
        "linear, few": make_pipeline(SelectKBest(f_classif, k=FEW), _linear()),
        "linear": make_pipeline(SelectKBest(f_classif, k=TELLING), _linear()),
    }


def _linear() -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


def guessed(rows: Row, prompts: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Return for each attacker which sessions it guesses right, those it learned from left out: five folds.

    rows     [N, F]  features; their ranks are looked at, as a machine that stalls now and then would drown the rest
    prompts  [N]     what was asked
    """
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    found: dict[str, NDArray[np.bool_]] = {}
    ranks = QuantileTransformer(n_quantiles=min(100, len(rows)), output_distribution="normal").fit_transform(rows)
    ranks += np.random.default_rng(0).normal(0, 1e-3, ranks.shape)  # else one that never varies has no F value
    with threadpool_limits(1):  # more threads wait for one another, on rows as few as these
        for name, classifier in classifiers().items():
            found[name] = np.asarray(cross_val_predict(classifier, ranks, prompts, cv=folds) == prompts)
    return found
