"""The ways from a front's event loop to an engine and back that ``bench queue`` compares; each engine only echoes.

The engine notes when it had read a step and when it began to answer, on the clock that all processes of a machine
share; the answer's two times carry that, instead of a pass's.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from multiprocessing.connection import Connection

from edge_node.engine.process import FrontQueue, Report, run_child
from edge_node.engine_messages import PREFIX_BYTES, Load, Loaded, frame_length, framed, read_answer
from edge_node.engine_process import EngineProcess, Watch
from edge_node.engine_thread import EngineThread
from edge_node.step import Drafted, DraftStep, Outcome, Step, StepDone

Ask = Callable[[Step], "asyncio.Future[StepDone]"]
"""Sends a step; its answer comes with the future, on the loop."""


class EchoRunner:
    """Gives each item its own tokens back."""

    def run(self, step: Step, arrived_s: float | None = None) -> StepDone:
        """Return the tokens, with the times of arrival and of answering."""
        arrived_s = time.perf_counter()
        outcomes = tuple(Outcome(item.span.tokens) for item in step.items)
        return StepDone(step.number, outcomes, pass_s=arrived_s, host_s=time.perf_counter())

    def draft(self, step: DraftStep) -> Drafted:
        """Return nothing drafted."""
        return Drafted(step.number, ((),) * len(step.items))


def _served(load: Load, report: Report) -> tuple[EchoRunner, Loaded]:
    return EchoRunner(), Loaded("echo", b"", b"", "", None, (), 0, 0, "", 0, 0)


@asynccontextmanager
async def thread_way() -> AsyncIterator[Ask]:
    """Hand over to a thread of the same process: no bytes, one interpreter."""
    loop = asyncio.get_running_loop()
    with EngineThread(EchoRunner()) as engine:

        def ask(step: Step) -> asyncio.Future[StepDone]:
            future = loop.create_future()
            engine.submit(step, future.set_result)
            return future

        yield ask


@asynccontextmanager
async def process_way() -> AsyncIterator[Ask]:
    """Ask as the edge node does: msgpack over a socket pair, read by a protocol of the loop."""
    loop = asyncio.get_running_loop()
    engine = EngineProcess(
        Watch(lambda text: None, lambda error: None, lambda loaded: None),
        command=(sys.executable, "-m", "bench.queue_ends"),
    )
    await engine.start(Load("echo"))

    def ask(step: Step) -> asyncio.Future[StepDone]:
        future = loop.create_future()
        engine.submit(step, future.set_result)
        return future

    try:
        yield ask
    finally:
        await engine.close()


def _echo_frames(connection: socket.socket) -> None:
    queue, runner = FrontQueue(connection), EchoRunner()
    while isinstance(step := queue.receive(), Step):
        queue.send(runner.run(step))


@asynccontextmanager
async def streams_way() -> AsyncIterator[Ask]:
    """Send the same bytes through asyncio's streams, read by a task."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = multiprocessing.get_context("spawn").Process(target=_echo_frames, args=(theirs,), daemon=True)
        process.start()
    reader, writer = await asyncio.open_connection(sock=ours)
    waiting: list[asyncio.Future[StepDone]] = []

    async def read() -> None:
        while True:
            payload = await reader.readexactly(frame_length(await reader.readexactly(PREFIX_BYTES)))
            answer = read_answer(payload)
            assert isinstance(answer, StepDone)
            waiting.pop(0).set_result(answer)

    def ask(step: Step) -> asyncio.Future[StepDone]:
        writer.write(framed(step))
        waiting.append(asyncio.get_running_loop().create_future())
        return waiting[-1]

    reading = asyncio.create_task(read())
    try:
        yield ask
    finally:
        reading.cancel()
        writer.close()
        await asyncio.wait([reading])
        process.join()


def _echo_pickles(connection: Connection) -> None:
    runner = EchoRunner()
    with suppress(EOFError):
        while True:
            connection.send(runner.run(connection.recv()))


@asynccontextmanager
async def pickle_way() -> AsyncIterator[Ask]:
    """Send pickles through a pipe of multiprocessing, read as the loop says that there is something."""
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_echo_pickles, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    waiting: list[asyncio.Future[StepDone]] = []

    def ask(step: Step) -> asyncio.Future[StepDone]:
        ours.send(step)
        waiting.append(loop.create_future())
        return waiting[-1]

    loop.add_reader(ours.fileno(), lambda: waiting.pop(0).set_result(ours.recv()))
    try:
        yield ask
    finally:
        loop.remove_reader(ours.fileno())
        ours.close()
        process.join()


WAYS = {"thread": thread_way, "process": process_way, "streams": streams_way, "pickle": pickle_way}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    run_child(parser.parse_args().fd, _served)
