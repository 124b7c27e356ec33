"""The risk table: what each threshold on risk costs in answers, on problems that no label is of.

Loss is paired: a problem is lost where exact decoding is right and acceptance by meaning is not. Problems that meaning
mends are not set against those. The upper end is Clopper and Pearson's (``calibration.upper95``); the table is read
from the lowest threshold up and ends at the first that passes the cap, a fixed order, so that many thresholds need no
correction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from airdraft.core.meaning.risk import RiskTable
from edge_node.labels.calibration import upper95
from edge_node.labels.checks import SCORE_MARGIN, Check, check_named
from edge_node.labels.problems import Problem
from edge_node.labels.search import Pair
from edge_node.labels.speculate import Score, Written, write_answers
from edge_node.labels.writer import Reading

THRESHOLDS = tuple(np.geomspace(0.001, 0.5, 24).tolist())
PILOT = 200
"""Problems of the first look; thresholds that lose more than ``HOPELESS`` of them are not looked at again."""

HOPELESS = 0.1
_PART = 256  # problems written at a time


class Rehearsed(NamedTuple):
    """A risk table and what else the rehearsal showed."""

    table: RiskTable
    problems: int
    exact_length: float  # drafted tokens accepted a pass, exact
    lengths: NDArray[np.float64]  # [T] likewise by each threshold
    spent: NDArray[np.float64]  # [T] mean risk that a text has spent


def rehearse(
    pair: Pair, problems: Sequence[Problem], score: Score, *, check: str, draft_length: int, max_tokens: int,
    thresholds: Sequence[float] = THRESHOLDS, say: Callable[[str], None] = lambda text: None,
) -> Rehearsed:  # fmt: skip
    """Write every problem's answer exactly and by each threshold, and count what is lost."""
    tried = list(thresholds)
    worse = np.zeros(len(tried), dtype=np.int64)
    seen = np.zeros(len(tried), dtype=np.int64)
    totals = np.zeros((3, 1 + len(tried)))  # accepted, rounds, spent; exact first
    going = np.arange(len(tried))
    for first in _starts(len(problems)):
        part = problems[first : min(first + _PART, len(problems)) if first else PILOT]
        prompts = [pair.encode(problem.prompt) for problem in part]
        limits = [0.0, *(tried[at] for at in going)]
        written = write_answers(pair, prompts, limits, score, draft_length=draft_length, max_tokens=max_tokens)
        lost = _lost(pair, part, prompts, written, check)
        worse[going] += lost.sum(0)
        seen[going] += len(part)
        columns = np.concatenate([[0], going + 1])
        totals[:, columns] += [written.accepted.sum(0), written.rounds.sum(0), written.spent.sum(0)]
        if first == 0:
            going = going[worse[going] <= HOPELESS * len(part)]
        say(f"rehearsed {first + len(part)} of {len(problems)} problems with {len(going)} thresholds")
    table = RiskTable(
        np.array(tried),
        np.array([upper95(int(bad), int(count)) for bad, count in zip(worse, seen, strict=True)]),
        worse / seen,
    )
    lengths = totals[0] / totals[1]
    return Rehearsed(table, len(problems), float(lengths[0]), lengths[1:], totals[2, 1:] / seen)


def _starts(count: int) -> list[int]:
    return [0, *range(PILOT, count, _PART)]


def _lost(
    pair: Pair, problems: Sequence[Problem], prompts: Sequence[Sequence[int]], written: Written, check: str
) -> NDArray[np.bool_]:
    """Return which answers [problems, thresholds] are worse than the exact ones, which stand first in ``written``."""
    lost = np.zeros((len(problems), len(written.texts[0]) - 1), dtype=np.bool_)
    for at, (problem, texts) in enumerate(zip(problems, written.texts, strict=True)):
        verdicts: dict[tuple[int, ...], bool] = {texts[0]: False}
        for text in texts[1:]:
            if text not in verdicts:
                verdicts[text] = _worse(pair, problem, prompts[at], texts[0], text, check_named(problem, check))
        lost[at] = [verdicts[text] for text in texts[1:]]
    return lost


def _worse(
    pair: Pair, problem: Problem, prompt: Sequence[int], exact: tuple[int, ...], text: tuple[int, ...], check: Check
) -> bool:
    if check.same is None:
        return _liked(pair, prompt, text) < _liked(pair, prompt, exact) - SCORE_MARGIN
    answers = pair.answer(exact), pair.answer(text)
    right = check.right(problem, answers[0])
    if right is None:
        return not check.same(problem, *answers)
    return right and not check.right(problem, answers[1])


def _liked(pair: Pair, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Return the target's mean log-probability of an answer's tokens."""
    if not answer:
        return 0.0
    line = pair.target.new()
    (rows,) = pair.target.read([Reading(line, [*prompt, *answer[:-1]], len(prompt) - 1)])
    pair.target.free([line])
    log_p = rows.logits.log_softmax(-1)
    return float(log_p[range(len(answer)), list(answer)].mean())
