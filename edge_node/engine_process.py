"""The front's end of the engine's process: starts it, asks it, and starts it again when it dies.

Nothing here imports PyTorch, so that the process of the streams stays small and its event loop shares no interpreter
lock with a model.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process, create_subprocess_exec
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never, cast

from airdraft.checkpoint import CheckpointRefused
from edge_node.engine_messages import (
    Answer,
    Ask,
    BadFrame,
    FrameSplitter,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    framed,
    read_answer,
)
from edge_node.step import Drafted, DraftStep, Step, StepDone

ENGINE = (sys.executable, "-m", "edge_node.engine.process")
LEAVE_S = 5.0
"""How long an engine whose queue is closed may take to end by itself."""

_STDERR = 2


class EngineDied(RuntimeError):
    """The engine's process ended before it answered; the text says how."""


class EngineRefused(ValueError):
    """The model does not fit this machine with these settings; the text says what to do."""


class EngineChanged(RuntimeError):
    """After a crash the engine loaded another model or other numerics: the sessions' texts cannot go on."""


Then = Callable[[StepDone | Drafted | Exception], None]
_REFUSALS = {"checkpoint": CheckpointRefused, "machine": EngineRefused}


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds between a death and the next start: doubling, and from the beginning after a long life."""

    first_s: float = 1.0
    most_s: float = 30.0

    def after(self, wait_s: float, lived_s: float) -> float:
        """Return the wait that follows one of ``wait_s`` seconds, 0 for none, and a life of ``lived_s``."""
        if wait_s == 0.0 or lived_s > self.most_s:
            return self.first_s
        return min(2 * wait_s, self.most_s)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who hears of the engine's life; all are called on the event loop, one after another."""

    progress: Callable[[str], None]
    died: Callable[[EngineDied], None]  # whatever was asked has been answered with this too; another is being started
    ready: Callable[[Loaded], None]  # the one that was started instead serves, with an empty pool
    failed: Callable[[], None] = lambda: None  # that one did not start either, and it may take long until one does


class _Queue(asyncio.Protocol):
    """The front's end of one process's queue."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._splitter = FrameSplitter()
        self._asked: deque[tuple[int, Then]] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()
        self.fault = ""  # what the engine sent that it never should
        self.loaded: asyncio.Future[Loaded | LoadFailed] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._splitter.fed(data):
                self._take(read_answer(payload))
        except BadFrame as error:
            self.fault = str(error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set_result(None)

    def close(self) -> None:
        """Close the queue; the process ends by that."""
        if self._transport is not None:
            self._transport.abort()

    def send(self, message: Ask) -> None:
        assert self._transport is not None
        self._transport.write(framed(message))

    def ask(self, message: Step | DraftStep, then: Then) -> None:
        self.send(message)
        self._asked.append((message.number, then))

    def fail(self, error: EngineDied) -> None:
        """Answer all that was asked with an error."""
        while self._asked:
            _, then = self._asked.popleft()
            self._loop.call_soon(then, error)

    def _take(self, answer: Answer) -> None:
        match answer:
            case Progress():
                self._progress(answer.text)
            case Loaded() | LoadFailed():
                if self.loaded.done():
                    raise BadFrame("the engine said twice what it loaded")
                self.loaded.set_result(answer)
            case StepDone() | Drafted():
                self._answered(answer)
            case _:
                assert_never(answer)

    def _answered(self, answer: StepDone | Drafted) -> None:
        if not self._asked or self._asked[0][0] != answer.number:
            raise BadFrame(f"the engine answered {answer.number}, which was not due")
        _, then = self._asked.popleft()
        # Not called from here: what it raises must not cost the frames behind this one.
        self._loop.call_soon(then, answer)


@dataclass(frozen=True, slots=True)
class _Life:
    """One process, from its start to its end."""

    process: Process
    queue: _Queue

    async def ended(self, leave_s: float = LEAVE_S) -> EngineDied:
        """Close the queue, wait for the process and say how it ended; one that stays longer is killed."""
        self.queue.close()
        try:
            async with asyncio.timeout(leave_s):
                status = await self.process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
            status = await self.process.wait()
        return EngineDied(self.queue.fault or _end_in_words(status))


class EngineProcess:
    """An engine in a process of its own, for as long as this object is open; it outlives crashes of the process."""

    def __init__(self, watch: Watch, *, command: Sequence[str] = ENGINE, backoff: Backoff | None = None) -> None:
        """Tell ``watch`` what happens; ``command`` gets ``--fd N`` behind it."""
        self._watch, self._command, self._backoff = watch, tuple(command), backoff or Backoff()
        self._life: _Life | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Return the id of the process that serves, None where there is none."""
        return None if self._serving is None else self._serving.process.pid

    @property
    def _serving(self) -> _Life | None:
        return None if self._life is None or self._life.queue.gone.done() else self._life

    async def start(self, load: Load) -> Loaded:
        """Start the process; return what it serves. From then on it is started again whenever it dies.

        Raises CheckpointRefused, EngineRefused, EngineDied.
        """
        assert self._keeper is None, "start is called once"
        self._life, loaded = await self._launched(load)
        self._keeper = asyncio.create_task(self._keep(load, loaded))
        return loaded

    def submit(self, message: Step | DraftStep, then: Then) -> None:
        """Ask the engine; ``then`` gets its answer, or EngineDied, later on this loop and in the order of asking."""
        if (life := self._serving) is None:
            asyncio.get_running_loop().call_soon(then, EngineDied("the engine is not running"))
        else:
            life.queue.ask(message, then)

    async def failed(self) -> None:
        """Wait for as long as an engine runs or can be started again. Raises EngineChanged."""
        assert self._keeper is not None, "start comes first"
        await asyncio.shield(self._keeper)

    async def close(self) -> None:
        """End the process; what was asked and is unanswered gets EngineDied."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)  # ``failed`` tells what it raised
        if (life := self._life) is not None:
            self._life = None
            await life.ended()
            life.queue.fail(EngineDied("the engine was closed"))

    async def _launched(self, load: Load) -> tuple[_Life, Loaded]:
        """Start a process and wait until it serves."""
        life = await self._spawned()
        try:
            life.queue.send(load)
            ends: list[asyncio.Future[Any]] = [life.queue.loaded, life.queue.gone]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not life.queue.loaded.done():
                raise await life.ended()
            answer = life.queue.loaded.result()
            if isinstance(answer, LoadFailed):
                raise _REFUSALS[answer.kind](answer.message)
        except asyncio.CancelledError:
            await asyncio.shield(life.ended(0.0))  # it may load for minutes before it looks at its queue
            raise
        except (CheckpointRefused, EngineRefused):
            await life.ended()
            raise
        return life, answer

    async def _spawned(self) -> _Life:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            _, queue = await asyncio.get_running_loop().create_connection(
                lambda: _Queue(self._watch.progress), sock=ours
            )
            command = (*self._command, "--fd", str(theirs.fileno()))
            try:
                # Standard output is the front's own: its address is read from there.
                process = await create_subprocess_exec(
                    *command, pass_fds=[theirs.fileno()], stdin=DEVNULL, stdout=_STDERR
                )
            except BaseException:
                queue.close()
                raise
        return _Life(process, queue)

    async def _keep(self, load: Load, first: Loaded) -> None:
        """Start the process again whenever it has died."""
        loop = asyncio.get_running_loop()
        wait_s = 0.0
        while (life := self._life) is not None:
            born_s = loop.time()
            await asyncio.wait([life.queue.gone])
            wait_s = self._backoff.after(wait_s, loop.time() - born_s)
            error = await life.ended()
            self._life = None
            life.queue.fail(error)
            await asyncio.sleep(0)  # they hear of it before those who watch
            self._watch.died(error)
            life, loaded, wait_s = await self._relaunched(load, wait_s)
            if loaded.identity != first.identity:
                await life.ended()
                raise EngineChanged("the model or its numerics changed while the edge was serving; restart the edge")
            self._life = life
            self._watch.ready(loaded)

    async def _relaunched(self, load: Load, wait_s: float) -> tuple[_Life, Loaded, float]:
        """Start a process, however often that fails; return it with the last wait."""
        while True:
            self._watch.progress(f"the engine starts again in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            try:
                return *await self._launched(load), wait_s
            except (CheckpointRefused, EngineRefused, EngineDied, OSError) as error:
                self._watch.progress(str(error))
                self._watch.failed()
                wait_s = self._backoff.after(wait_s, 0.0)


def _end_in_words(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"the engine was killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    return f"the engine ended with status {status}; what it said last is on stderr"
