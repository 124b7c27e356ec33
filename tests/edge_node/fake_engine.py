"""An engine process that a test tells what to do: ``python -m tests.edge_node.fake_engine --fd N``.

What it loads is told by the model's name, what a step brings about by the first token of its first item.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from airdraft.core.types import Sampling, Span
from edge_node.engine.process import Report, Runner, run_child
from edge_node.engine_messages import Load, Loaded, LoadFailed
from edge_node.step import Drafted, DraftStep, Extent, Item, Outcome, Step, StepDone

FAKE = (sys.executable, "-m", "tests.edge_node.fake_engine")
HANG, RAISE, GARBLE, MISNUMBER, AGAIN, OUTLAST = range(101, 107)


def step(number: int, *tokens: int) -> Step:
    """Return a step with an item of one token each."""
    items = tuple(
        Item(Extent(index, 1), Span(0, (token,), wanted=(0,)), Sampling()) for index, token in enumerate(tokens)
    )
    return Step(number, items)


@dataclass(frozen=True, slots=True)
class ToldRunner:
    """Answers the tokens themselves, or does what the first one says."""

    report: Report
    connection: socket.socket

    def run(self, step: Step, arrived_s: float | None = None) -> StepDone:
        token = step.items[0].span.tokens[0] if step.items else 0
        if token == HANG:
            self.report("hanging")
            hang()
        if token == RAISE:
            raise RuntimeError("what no item explains")
        if token == GARBLE:
            self.connection.sendall((3).to_bytes(4, "big") + b"\xc1\xc1\xc1")
        if token == AGAIN:
            self.report(f"arrived {arrived_s}")
        if token == OUTLAST:
            outlast(self.connection)
        outcomes = tuple(Outcome(item.span.tokens) for item in step.items)
        return StepDone(step.number + (token == MISNUMBER), outcomes, positions=len(outcomes))

    def draft(self, step: DraftStep) -> Drafted:
        return Drafted(step.number, tuple(item.ids for item in step.items))


def hang() -> NoReturn:
    while True:
        signal.pause()


def outlast(connection: socket.socket) -> None:
    """Wait until the other end is closed."""
    waiting = select.poll()
    waiting.register(connection, select.POLLRDHUP)
    waiting.poll()


def build(load: Load, report: Report, connection: socket.socket) -> tuple[Runner, Loaded] | LoadFailed:
    report(f"loading {load.model}")
    match load.model:
        case "refused":
            return LoadFailed("no such model", "checkpoint")
        case "too large":
            return LoadFailed("it does not fit", "machine")
        case "crash":
            os._exit(9)
        case "hang":
            report(f"hanging as {os.getpid()}")
            hang()
    # Where a file is named, it tells the digest, and may so change between two lives; "crash" ends one of them.
    digest = b"m" if load.revision is None else Path(load.revision).read_bytes()
    if digest == b"crash":
        os._exit(9)
    loaded = Loaded("fake", digest, b"t", "{}", None, (0,), 100, load.max_context, "fast", load.kv_tokens or 1, 8)
    return ToldRunner(report, connection), loaded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    descriptor = parser.parse_args().fd
    connection = socket.socket(fileno=os.dup(descriptor))
    run_child(descriptor, lambda load, report: build(load, report, connection))


if __name__ == "__main__":
    main()
