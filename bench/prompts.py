"""Prompts of the project's own, so that nothing has to be downloaded."""

from __future__ import annotations

from models.wordproblems import word_problem


def held_out(count: int) -> list[str]:
    """Return this many word problems that the demo pair never saw, each as its prompt."""
    return [word_problem("held-out", index).prompt for index in range(count)]
