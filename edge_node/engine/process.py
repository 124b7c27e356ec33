"""The engine's process: ``python -m edge_node.engine.process --fd N``, started by ``edge_node.engine_process``.

It reads what to load from the socket that it inherited, says what it loaded, and then answers steps in the order of
asking. It ends when the socket closes, and by the kernel's hand when the front dies in the middle of a step. Signals to
stop are the front's affair: it drains first, while they reach the whole process group.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Protocol, assert_never

from airdraft.tracebacks import hide_words, log_to_stderr, show
from edge_node.engine_messages import (
    PREFIX_BYTES,
    Answer,
    Ask,
    BadFrame,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    frame_length,
    framed,
    read_ask,
)
from edge_node.step import Drafted, DraftStep, Step, StepDone

_BUFFER_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1
BROKEN = 70
"""Exit status after an error that no session's input explains; sysexits.h calls it EX_SOFTWARE."""


class Runner(Protocol):
    """What answers steps: ``StepRunner``."""

    def run(self, step: Step, arrived_s: float | None = None) -> StepDone:
        """Return a step's outcomes."""
        ...

    def draft(self, step: DraftStep) -> Drafted:
        """Return drafts."""
        ...


Report = Callable[[str], None]
Build = Callable[[Load, Report], tuple[Runner, Loaded] | LoadFailed]
"""Loads what is asked for, reporting on its way."""


class FrontQueue:
    """The engine's end of the queue; blocks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb", _BUFFER_BYTES)

    def receive(self) -> Ask | None:
        """Return the next thing asked, or None once the front has closed. Raises BadFrame."""
        prefix = self._reader.read(PREFIX_BYTES)
        if not prefix:
            return None
        length = frame_length(prefix)
        payload = self._reader.read(length)
        if len(prefix) + len(payload) < PREFIX_BYTES + length:
            return None  # the front died in the middle of a frame
        return read_ask(payload)

    def send(self, answer: Answer) -> None:
        """Send an answer; one that nobody reads any more is dropped."""
        try:
            self._connection.sendall(framed(answer))
        except (BrokenPipeError, ConnectionResetError):
            return  # the next receive says so too


def answer_all(queue: FrontQueue, build: Build, clock: Callable[[], float] = time.perf_counter) -> None:
    """Load what the front asks for and answer its steps until it closes. Raises BadFrame, and what a bug raises."""
    load = queue.receive()
    if load is None:
        return
    if not isinstance(load, Load):
        raise BadFrame(f"the front began with {type(load).__name__}, not Load")
    built = build(load, lambda text: queue.send(Progress(text)))
    if isinstance(built, LoadFailed):
        queue.send(built)
        return
    runner, loaded = built
    queue.send(loaded)
    while (ask := queue.receive()) is not None:
        queue.send(_answer(runner, ask, clock()))


def _answer(runner: Runner, ask: Ask, arrived_s: float) -> Answer:
    match ask:
        case Step():
            return runner.run(ask, arrived_s)
        case DraftStep():
            return runner.draft(ask)
        case Load():
            raise BadFrame("the front asked to load twice")
        case _:
            assert_never(ask)


def run_child(descriptor: int, build: Build) -> None:
    """Be the engine's process on an inherited socket; never returns."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    hide_words()
    log_to_stderr("edge_node")
    status = 0
    try:
        with socket.socket(fileno=descriptor) as connection:
            answer_all(FrontQueue(connection), build)
    except BaseException as error:
        show(error)
        status = BROKEN
    # A CUDA context with an error can hang at an orderly exit, and nothing here is worth one.
    sys.stderr.flush()
    os._exit(status)


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere the closed socket alone ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_room(environment: MutableMapping[str, str], cores: int) -> None:
    """Leave one core to the front, unless the environment says otherwise; PyTorch reads it when it is imported.

    Threads that spin while they wait for one that has no core make a small pass a hundred times as long.
    """
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores - 1)))
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _load(load: Load, report: Report) -> tuple[Runner, Loaded] | LoadFailed:
    leave_room(os.environ, len(os.sched_getaffinity(0)))
    # After that, and late, since it takes seconds.
    from edge_node.engine.assembly import assemble

    return assemble(load, report)


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser(prog="edge_node.engine.process", description="Started by edge_node serve.")
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket")
    run_child(parser.parse_args().fd, _load)


if __name__ == "__main__":
    main()
