"""What the workers of ``bench semantic`` share: a pair, its problems, and their texts in many settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from bench.semantic_contestants import Setting
from bench.semantic_pair import Pair
from bench.semantic_rounds import FIRST_PROBLEM, Fleet, Problem, Written
from models.wordproblems import word_problem

PLACES = 256


@lru_cache(maxsize=1)
def pair_of(drafter: str, profile: str = "fast", heads: str = "") -> Pair:
    """Return a pair; the last one stays loaded."""
    return Pair(drafter, PLACES, profile=profile, heads=heads)


def problems(pair: Pair, first: int, count: int) -> list[Problem]:
    """Return held-out problems, counted from the first one that is the bench's own."""
    found = []
    for number in range(first, first + count):
        problem = word_problem("held-out", FIRST_PROBLEM + number)
        found.append(Problem(number, tuple(pair.tokenizer.encode(problem.prompt).ids), problem.answer))
    return found


def write(drafter: str, first: int, count: int, settings: Sequence[Setting]) -> list[Written]:
    """Return the texts of a stretch of problems in some settings, side by side in the same steps."""
    pair = pair_of(drafter)
    return Fleet(pair).write(problems(pair, first, count), settings)


def unchanged(drafter: str, first: int, count: int, settings: Sequence[Setting], profile: str) -> tuple[int, int]:
    """Return how many exact texts written beside those of ``settings`` are token for token as without, and of how many.

    The first of ``settings`` is the exact one.
    """
    pair = pair_of(drafter, profile)
    asked = problems(pair, first, count)
    alone = {text.problem: text.ids for text in Fleet(pair).write(asked, settings[:1])}
    beside = [text for text in Fleet(pair).write(asked, settings) if text.setting == settings[0]]
    return sum(text.ids == alone[text.problem] for text in beside), len(beside)
