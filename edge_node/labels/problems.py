"""The prompt file: one problem a line, and what an answer to it is compared with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEYS = ("prompt", "answer", "tests", "check")


class LabelsRefused(ValueError):
    """A prompt file, a folder of labels or a setting that cannot be used; one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of a prompt file."""

    prompt: str
    answer: str | None = None  # the true one, where it is known
    tests: str | None = None  # Python that raises where an answer's code is wrong
    check: str | None = None  # a name of ``CHECKS``; None is the command's

    @property
    def digest(self) -> bytes:
        """Return 8 bytes that name the prompt."""
        return hashlib.blake2b(self.prompt.encode(), digest_size=8).digest()


def read_problems(path: Path) -> list[Problem]:
    """Return the problems of a file of JSON lines. Raises LabelsRefused, naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsRefused(f"{path} cannot be read: {error}") from None
    problems = [_problem(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not problems:
        raise LabelsRefused(f"{path} holds no problem; give JSON lines with a prompt each")
    return problems


def _problem(line: str, where: str) -> Problem:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise LabelsRefused(f"{where}: no JSON: {error}") from None
    if not isinstance(content, dict) or not content.get("prompt"):
        raise LabelsRefused(f'{where}: an object with a "prompt" is wanted')
    if unknown := sorted(content.keys() - set(_KEYS)):
        raise LabelsRefused(f"{where}: unknown key {unknown[0]}; known are {', '.join(_KEYS)}")
    texts = {key: _text(value, key, where) for key, value in content.items()}
    return Problem(texts["prompt"] or "", texts.get("answer"), texts.get("tests"), texts.get("check"))


def _text(value: Any, key: str, where: str) -> str | None:
    if isinstance(value, bool) or not (value is None or isinstance(value, str | int | float)):
        raise LabelsRefused(f"{where}: {key} must be a text")
    return None if value is None else str(value)
