"""When are two answers as good as one another? A table of checks, of which a prompt file or a command names one.

``unit-test`` runs code that a model wrote. It does so in a process of its own, in an empty folder, with bounds on
time, memory and files; that keeps out accidents and not attackers. Run it where a stray program can do no harm.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from edge_node.labels.problems import LabelsRefused, Problem

TEST_SECONDS = 5.0
TEST_MEMORY_BYTES = 1 << 30
SCORE_MARGIN = 0.1
"""Nats a token by which the target may like an ending less after the drafter's token, and it still means the same."""

_NUMBER = re.compile(r"####\s*(-?[\d.,]*\d)")
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Check:
    """One way to compare answers.

    same      says of (problem, reference, answer) whether the answer is as good as the reference; None where the
              target's own score decides, which reads no answer
    right     says of (problem, answer) whether it is the true one; None where nobody can tell without a reference
    """

    same: Callable[[Problem, str, str], bool] | None
    right: Callable[[Problem, str], bool | None]
    about: str


def number_of(answer: str) -> str | None:
    """Return the first number after ``####``, without separators of thousands; None where there is none."""
    found = _NUMBER.search(answer)
    if found is None:
        return None
    digits = found.group(1).replace(",", "")
    whole, _, part = digits.partition(".")
    return digits.rstrip("0").rstrip(".") if part or digits.endswith(".") else whole


def passes(code: str, tests: str) -> bool:
    """Run an answer's code and then the tests in a process of its own; say whether it ended well and in time."""
    return _passes(code, tests)


def code_of(answer: str) -> str:
    """Return the code of an answer: its first fenced block, or all of it."""
    found = _FENCED.search(answer)
    return found.group(1) if found else answer


@lru_cache(maxsize=4096)
def _passes(code: str, tests: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            ended = subprocess.run(
                [sys.executable, "-I", "-c", f"{code}\n{tests}\n"],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=2 * TEST_SECONDS,
                preexec_fn=_bound,
                start_new_session=True,
                check=False,
            )
        except (subprocess.TimeoutExpired, ValueError):  # ValueError: a NUL in the text
            return False
    return ended.returncode == 0


def _bound() -> None:
    seconds = int(TEST_SECONDS)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (TEST_MEMORY_BYTES, TEST_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _same_number(problem: Problem, reference: str, answer: str) -> bool:
    return number_of(answer) is not None and number_of(answer) == number_of(reference)


def _right_number(problem: Problem, answer: str) -> bool | None:
    return None if problem.answer is None else number_of(answer) == number_of(f"#### {problem.answer}")


def _same_text(problem: Problem, reference: str, answer: str) -> bool:
    return answer.split() == reference.split()


def _right_text(problem: Problem, answer: str) -> bool | None:
    return None if problem.answer is None else answer.split() == problem.answer.split()


def _same_tests(problem: Problem, reference: str, answer: str) -> bool:
    return passes(code_of(answer), _tests(problem)) or not passes(code_of(reference), _tests(problem))


def _right_tests(problem: Problem, answer: str) -> bool | None:
    return passes(code_of(answer), _tests(problem))


def _tests(problem: Problem) -> str:
    if problem.tests is None:
        raise LabelsRefused('unit-test needs "tests" in every line of the prompt file')
    return problem.tests


def _unknown(problem: Problem, answer: str) -> bool | None:
    return None


CHECKS: dict[str, Check] = {
    "number": Check(_same_number, _right_number, "the first number after ####"),
    "exact": Check(_same_text, _right_text, "the whole text, spaces aside"),
    "unit-test": Check(_same_tests, _right_tests, "the answer's code passes the tests given; it is run"),
    "own-score": Check(None, _unknown, "the target likes the reference's ending as well after the drafter's token"),
}


def check_named(problem: Problem, default: str) -> Check:
    """Return a problem's check. Raises LabelsRefused where the table has none of this name."""
    name = problem.check or default
    if name not in CHECKS:
        raise LabelsRefused(f"there is no check {name}; choose one of {', '.join(CHECKS)}")
    return CHECKS[name]
