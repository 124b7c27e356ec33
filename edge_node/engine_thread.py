"""The engine on a thread of this process: the twin of ``EngineProcess`` for tests and benches that bring their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from airdraft.worker import Worker
from edge_node.step import Drafted, DraftStep, Step, StepDone


class Runner(Protocol):
    """What answers steps: ``StepRunner``."""

    def run(self, step: Step) -> StepDone:
        """Return a step's outcomes."""
        ...

    def draft(self, step: DraftStep) -> Drafted:
        """Return drafts."""
        ...


class EngineThread:
    """A runner behind the same ``submit``, at work as long as the ``with`` block around it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._worker = Worker("engine")

    def __enter__(self) -> Self:
        self._worker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.__exit__(kind, error, trace)

    def submit(self, message: Step | DraftStep, then: Callable[[StepDone | Drafted | Exception], None]) -> None:
        """Ask the engine; ``then`` gets its answer, or what it raised, on the running loop. In the order of asking."""
        if isinstance(message, Step):
            self._worker.submit(partial(self._runner.run, message), then)
        else:
            self._worker.submit(partial(self._runner.draft, message), then)
