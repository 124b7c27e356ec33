"""The engine's process of the capacity bench: a rule in place of a model, at a stated pace.

``python -m bench.capacity_engine LOG FIXED_MS POSITION_MS --fd N``, as ``bench.engine_paced_engine``: the queue, the
steps and their seconds are those of an engine, and no processor time goes into numbers that nobody looks at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from airdraft.core.types import Span
from airdraft.link.pacing import Pacer
from bench.engine_paced_engine import PacedRunner
from coordinator.policy.costs import PassCost
from edge_node.engine.process import run_child
from edge_node.engine_messages import Load, Loaded
from edge_node.step import Drafted, DraftStep, Outcome, Step, StepDone

VOCABULARY = 32_000
CONTEXT_TOKENS = 4096
SESSIONS = 64


def next_token(token: int, position: int) -> int:
    """Return what the rule writes after a token at a position: where a text went wrong, all after it differs."""
    return (token * 1_103 + position * 7_919 + 12_345) % VOCABULARY


def written(prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """Return the rule's answer to a prompt."""
    ids = list(prompt)
    while len(ids) < len(prompt) + tokens:
        ids.append(next_token(ids[-1], len(ids) - 1))
    return tuple(ids[len(prompt) :])


class RuleRunner:
    """A runner whose target is the rule."""

    def run(self, step: Step, arrived_s: float | None = None) -> StepDone:
        """Return the rule's choice after each wanted row."""
        outcomes = tuple(Outcome(_choices(item.span)) for item in step.items)
        return StepDone(step.number, outcomes, positions=sum(len(item.span.tokens) for item in step.items))

    def draft(self, step: DraftStep) -> Drafted:
        """Return nothing drafted."""
        return Drafted(step.number, ((),) * len(step.items))


def _choices(span: Span) -> tuple[int, ...]:
    if span.parents is None:
        return tuple(next_token(span.tokens[row], span.start + row) for row in span.wanted)
    depths: list[int] = []
    for parent in span.parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return tuple(next_token(span.tokens[row], span.start + depths[row]) for row in span.wanted)


def main(log: Path, line: PassCost, descriptor: int) -> None:
    """Be the engine's process."""

    def build(load: Load, report: Callable[[str], None]) -> tuple[PacedRunner, Loaded]:
        loaded = Loaded(
            "rule", bytes(32), bytes(32), "{}", None, (), VOCABULARY, CONTEXT_TOKENS, "", SESSIONS * CONTEXT_TOKENS, 0
        )
        return PacedRunner(RuleRunner(), line, Pacer(), log.open("a")), loaded

    run_child(descriptor, build)


if __name__ == "__main__":
    main(Path(sys.argv[1]), PassCost(float(sys.argv[2]) / 1e3, float(sys.argv[3]) / 1e3), int(sys.argv[5]))
