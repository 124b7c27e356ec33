"""The edge's service: a thin pump between streams, session cores and the engine.

Nothing here knows what a draft is worth: frames go into a core, frames and passes come out. One pass runs at a time, on
a thread of its own, so that the event loop stays free for frames.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from airdraft.core.errors import (
    Draining,
    MalformedFrame,
    ModelMismatch,
    Overloaded,
    SpecError,
    TokenizerMismatch,
    UnsupportedVersion,
)
from airdraft.core.types import (
    PROTOCOL_VERSION,
    SAMPLER_VERSION,
    DeviceFrame,
    EdgeFrame,
    Finish,
    Open,
    Pass,
    PassResult,
    Timing,
)
from airdraft.wire.describe import Description
from airdraft.worker import Worker
from edge_node.engine.engine import TargetEngine
from edge_node.engine.sampling import choose_rows
from edge_node.sessions import Entry, SessionTable, Stream

log = logging.getLogger(__name__)


Choices = tuple[int, ...]


class PassFailed(RuntimeError):
    """The engine could not run a pass: a bug or a broken device, told to the session's stream alone."""


class EdgeService:
    """Implements ``airdraft.wire.server.Verification`` for one target."""

    def __init__(self, *, max_sessions: int, resume_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.sessions = SessionTable(max_sessions, resume_s, clock)
        self.draining = False
        self._clock = clock
        self._engine: TargetEngine | None = None
        self._description: Description | None = None
        self._thread: Worker | None = None
        self._busy = False  # a pass is at work
        self._left = asyncio.Event()
        self._turn = 0

    def ready(self, engine: TargetEngine, description: Description) -> None:
        """Start to accept sessions."""
        self._engine, self._description = engine, description

    # ---- airdraft.wire.server.Verification ----

    def describe(self) -> Description:
        """Return what is served. Raises Overloaded while the model is loading."""
        if self._description is None:
            raise Overloaded("the model is still loading; try again soon", retry_after_s=1.0)
        return self._description

    async def generate(self, frames: AsyncIterator[DeviceFrame]) -> AsyncGenerator[EdgeFrame, None]:
        """Serve one stream; see the protocol's rules in DESIGN §4."""
        stream = Stream()
        reader = asyncio.create_task(self._read(frames, stream))
        try:
            async for frame in stream:
                yield frame
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    # ---- the way up ----

    async def _read(self, frames: AsyncIterator[DeviceFrame], stream: Stream) -> None:
        """Feed one stream's frames to its session until the device is done or in error."""
        entry: Entry | None = None
        epoch = 0
        try:
            opened = await anext(frames, None)
            if not isinstance(opened, Open):
                raise MalformedFrame("a stream begins with Open", field="open")
            entry, epoch = self._attach(opened, stream), opened.epoch
            async for frame in frames:
                self._take(entry, frame)
                if entry.session.finished:
                    break
            else:
                self._take(entry, Finish(epoch, entry.session.committed_length))  # half-closed
            stream.end()
        except SpecError as error:
            stream.end(error)
        except Exception as error:
            stream.end(error)  # a bug: it ends this stream with its own traceback, and no other
        finally:
            if entry is not None:
                self._leave(entry, epoch)

    def _attach(self, opened: Open, stream: Stream) -> Entry:
        self._check(opened)
        engine = self._engine
        assert engine is not None
        entry = self.sessions.admit(opened, self.describe().limits, engine.open)
        frames = entry.session.attach(opened)
        entry.streams[opened.epoch] = stream
        entry.send(frames)
        self._ready(entry)
        return entry

    def _check(self, opened: Open) -> None:
        """Raise what stands between this device and a session here."""
        served = self.describe()
        if opened.protocol_version != PROTOCOL_VERSION:
            raise UnsupportedVersion(
                f"protocol version {opened.protocol_version}, this edge speaks {PROTOCOL_VERSION}: update one",
                field="protocol_version",
            )
        if opened.identity.sampler_version != SAMPLER_VERSION:
            raise UnsupportedVersion(f"this edge samples by {SAMPLER_VERSION}", field="sampler_version")
        if opened.identity.model_digest != served.model_digest:
            raise ModelMismatch(f"this edge serves {served.model_name}, another model", field="model_digest")
        if opened.identity.tokenizer_digest != served.tokenizer_digest:
            raise TokenizerMismatch(f"{served.model_name} has another tokenizer", field="tokenizer_digest")
        if self.draining:
            raise Draining("this edge is going away; attach elsewhere", retry_after_s=1.0)

    def _take(self, entry: Entry, frame: DeviceFrame) -> None:
        entry.send(entry.session.received(frame))
        self._ready(entry)
        if entry.session.finished:
            self.sessions.forget(entry)

    def _leave(self, entry: Entry, epoch: int) -> None:
        entry.streams.pop(epoch, None)
        entry.session.detached(epoch)
        entry.left_at = self._clock()
        self._left.set()

    def _ready(self, entry: Entry) -> None:
        entry.ready_at = self._clock()
        self._run_next()

    # ---- passes ----

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run passes, one at a time, sessions in turn, on a thread that lives as long as the block."""
        with Worker("engine") as self._thread:
            try:
                yield
            finally:
                self._thread = None

    def _run_next(self) -> None:
        """Start the next pass, if the engine is free and there is one."""
        step = self._next_pass() if self._thread is not None and not self._busy else None
        if step is None or self._thread is None:
            return
        entry, work = step
        self._busy = True
        queue_s = max(0.0, self._clock() - entry.ready_at)
        self._thread.submit(partial(self._compute, entry, work), partial(self._passed, entry, work, queue_s))

    def _next_pass(self) -> tuple[Entry, Pass] | None:
        entries = list(self.sessions)
        for offset in range(len(entries)):
            index = (self._turn + offset) % len(entries)
            work = entries[index].session.next_pass()
            if work is not None:
                self._turn = index + 1
                return entries[index], work
        return None

    def _passed(self, entry: Entry, work: Pass, queue_s: float, outcome: tuple[Choices, float] | Exception) -> None:
        self._busy = False
        try:
            if isinstance(outcome, Exception):
                raise outcome
            choices, pass_s = outcome
            entry.send(entry.session.finished_pass(work, PassResult(choices, Timing(queue_s, pass_s))))
            entry.ready_at = self._clock()
        except Exception as error:  # one session's failure must not end the others' engine
            self._give_up(entry, work, error)
        self._run_next()

    def _give_up(self, entry: Entry, work: Pass, error: Exception) -> None:
        log.error("a pass of %d positions failed", len(work.span.tokens), exc_info=error)
        self.sessions.forget(entry)
        stream = entry.streams.get(work.epoch)
        if stream is not None:
            stream.end(PassFailed(f"{type(error).__name__} in the engine"))

    def _compute(self, entry: Entry, work: Pass) -> tuple[Choices, float]:
        """Return the choices and the seconds that the model took; runs on the engine's thread."""
        engine = self._engine
        assert engine is not None
        started = self._clock()
        (logits,) = engine.extend([(entry.cache, work.span)])
        choices = choose_rows(logits, work.sampling, self.describe().vocabulary, work.row_paths())
        return choices, self._clock() - started

    # ---- going away ----

    async def drained(self, deadline_s: float) -> bool:
        """Accept nothing new and wait for the streams at work; say whether all ended in time."""
        self.draining = True
        try:
            async with asyncio.timeout(deadline_s):
                while self.sessions.attached:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return False
        return True
