"""Runs of matches: texts of the target, and where a drafter would have written them. What a simulation is fed with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tokenizers import Tokenizer

from airdraft.checkpoint import Role
from airdraft.core.types import Sampling, Span
from airdraft.link.sim_text import MatchRun
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target
from edge_node.engine.sampling import choose_rows
from edge_node.step import Extent

MAX_TOKENS = 128
"""Of a text; the demo target ends its answers long before."""


class Pair:
    """A target and a drafter in one process, run as an edge runs its target: one session, the same choices."""

    def __init__(self, target: str = "demo", drafter: str = "demo") -> None:
        """Load both; ``demo``, a folder or a hub id. Raises CheckpointRefused."""
        torch.set_num_threads(1)
        self._target, self._drafter = load_target(target), load_target(drafter, role=Role.DRAFTER)
        self._engines = tuple(TargetEngine(model, model.context_tokens) for model in (self._target, self._drafter))
        self._tokenizer = Tokenizer.from_str(self._target.tokenizer_json)

    def run(self, prompt: str, sampling: Sampling, max_tokens: int = MAX_TOKENS) -> MatchRun:
        """Return the target's own answer, and for each token whether the drafter, shown all before it, drafts it."""
        start = tuple(self._tokenizer.encode(prompt).ids)
        ids = self._answer(start, sampling, max_tokens)
        matched = tuple(mine == theirs for mine, theirs in zip(self._drafts(start, ids, sampling), ids, strict=True))
        return MatchRun(ids, matched, start, self._target.stop_ids, max_tokens)

    def _answer(self, prompt: tuple[int, ...], sampling: Sampling, max_tokens: int) -> tuple[int, ...]:
        engine, stop_ids = self._engines[0], self._target.stop_ids
        place, path, feed = Extent(0, engine.rows), list(prompt), prompt
        while len(path) < len(prompt) + max_tokens and (len(path) == len(prompt) or path[-1] not in stop_ids):
            (logits,) = engine.extend([(place, Span(len(path) - len(feed), feed, wanted=(len(feed) - 1,)))])
            feed = choose_rows(logits, sampling, self._target.vocabulary, [path])
            path += feed
        return tuple(path[len(prompt) :])

    def _drafts(self, prompt: tuple[int, ...], ids: tuple[int, ...], sampling: Sampling) -> tuple[int, ...]:
        """Return what the drafter writes at every place of the answer, by one forward over all of it."""
        engine, text = self._engines[1], (*prompt, *ids)
        wanted = tuple(range(len(prompt) - 1, len(text) - 1))
        (logits,) = engine.extend([(Extent(0, engine.rows), Span(0, text[:-1], wanted=wanted))])
        return choose_rows(logits, sampling, self._target.vocabulary, [text[: row + 1] for row in wanted])


def samplings(temperature: float, count: int, seed: int = 0) -> list[Sampling]:
    """Return how each of so many texts is chosen: every one by a seed of its own."""
    return [Sampling(temperature=temperature, seed=seed + index) for index in range(count)]


def pair_runs(prompts: Sequence[str], chosen: Sequence[Sampling], drafter: str = "demo") -> list[MatchRun]:
    """Return the runs of the demo target with a drafter of ``models``, of a folder or of the hub."""
    pair = Pair(drafter=drafter)
    return [pair.run(prompt, sampling) for prompt, sampling in zip(prompts, chosen, strict=True)]


def iid_runs(acceptance: float, texts: int, tokens: int, seed: int) -> list[MatchRun]:
    """Return texts of ``tokens`` tokens that a drafter matches with this chance at every place, by itself."""
    chance = np.random.default_rng(seed)
    ids = tuple(range(1, tokens + 1))
    return [MatchRun(ids, _flags(chance.random(tokens) < acceptance)) for _ in range(texts)]


def shaped_runs(acceptance: float, variance: float, texts: int, tokens: int, seed: int) -> list[MatchRun]:
    """Return texts whose stretches of matches have this mean acceptance and this variance: negative binomial.

    At a variance of a / (1 - a)^2 they are those of ``iid_runs``. Raises ValueError unless it is above a / (1 - a).
    """
    mean = acceptance / (1 - acceptance)
    if variance <= mean:
        raise ValueError(f"stretches of {mean:.2f} matches on average vary by more than {variance:.2f} here")
    shape = mean**2 / (variance - mean)
    chance = np.random.default_rng(seed)
    stretches = chance.poisson(chance.gamma(shape, mean / shape, size=texts * tokens))
    flags = np.ones(int(stretches.sum()) + len(stretches), dtype=np.bool_)
    flags[np.cumsum(stretches + 1) - 1] = False
    ids = tuple(range(1, tokens + 1))
    return [MatchRun(ids, _flags(flags[start : start + tokens])) for start in range(0, texts * tokens, tokens)]


def noisy(runs: Sequence[MatchRun], acceptance: float, seed: int) -> list[MatchRun]:
    """Return the same texts with a noisy copy of the target as drafter: matched with this chance at every place."""
    chance = np.random.default_rng(seed)
    return [replace(run, matched=_flags(chance.random(len(run.ids)) < acceptance)) for run in runs]


def adjusted(runs: Sequence[MatchRun], acceptance: float, seed: int) -> list[MatchRun]:
    """Return the runs with matches turned to misses, or misses to matches, by chance, until so many are matched.

    Where matches clot is kept, less with each that is turned.
    """
    now = statistics(runs).acceptance
    chance = np.random.default_rng(seed)
    turned: list[MatchRun] = []
    for run in runs:
        matched, draws = np.array(run.matched), chance.random(len(run.ids))
        if acceptance <= now:
            flags = matched & (draws * now < acceptance)
        else:
            flags = matched | (draws * (1 - now) < acceptance - now)
        turned.append(replace(run, matched=_flags(flags)))
    return turned


def joined(runs: Sequence[MatchRun], least_tokens: int) -> list[MatchRun]:
    """Return the answers put together to texts of so many tokens or a little more, without their prompts and ends.

    What a text costs to begin then hardly counts: rates are those of a text that goes on and on.
    """
    pieces: list[MatchRun] = []
    ids: list[int] = []
    matched: list[bool] = []
    for run in runs:
        ids += run.ids
        matched += run.matched
        if len(ids) >= least_tokens:
            pieces.append(MatchRun(tuple(ids), tuple(matched)))
            ids, matched = [], []
    return [*pieces, MatchRun(tuple(ids), tuple(matched))] if ids else pieces


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """How matches lie in runs: a *stretch* is the matches between two misses."""

    tokens: int
    acceptance: float
    stretches: int
    stretch_mean: float
    stretch_variance: float

    @property
    def iid_variance(self) -> float:
        """Return the variance of stretches where matches come by themselves with this acceptance, a / (1 - a)^2."""
        return self.acceptance / (1 - self.acceptance) ** 2 if self.acceptance < 1 else np.inf


def statistics(runs: Sequence[MatchRun]) -> RunStatistics:
    """Return the statistics of the runs, one text behind the other."""
    flags = np.concatenate([run.matched for run in runs])
    stretches = np.diff(np.flatnonzero(~flags), prepend=-1) - 1
    mean, variance = (float(stretches.mean()), float(stretches.var())) if len(stretches) else (np.inf, 0.0)
    return RunStatistics(len(flags), float(flags.mean()), len(stretches), mean, variance)


def _flags(values: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[bool, ...]:
    return tuple(values.tolist())
