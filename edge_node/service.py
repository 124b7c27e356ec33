"""The edge's service: a thin pump between streams, session cores and the engine.

Nothing here knows what a draft is worth: frames go into a core, frames and passes come out. One pass runs at a time, on
a thread of its own, so that the event loop stays free for frames.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from torch import Tensor

from airdraft.core.errors import (
    Draining,
    MalformedFrame,
    ModelMismatch,
    Overloaded,
    SpecError,
    TokenizerMismatch,
    UnsupportedVersion,
)
from airdraft.core.session import Liveness
from airdraft.core.types import (
    PROTOCOL_VERSION,
    SAMPLER_VERSION,
    DeviceFrame,
    DraftWork,
    Drain,
    EdgeFrame,
    Finish,
    Open,
    Pass,
    PassResult,
    Ping,
    Span,
    Timing,
)
from airdraft.wire.describe import Description
from airdraft.wire.pulse import Pulse
from airdraft.worker import Worker
from edge_node.engine.drafter import NewDrafter
from edge_node.engine.kv import SessionCache
from edge_node.engine.sampling import choose_rows
from edge_node.sessions import Entry, SessionTable, Stream

log = logging.getLogger(__name__)

HALF_CLOSE_S = 0.5
"""A half-closed stream is a Finish, but a connection that breaks looks like one at first."""

Choices = tuple[int, ...]


class Engine(Protocol):
    """What computes: ``TargetEngine``, or a wrapper of it."""

    def open(self) -> SessionCache:
        """Return the empty cache of a new session."""
        ...

    def extend(self, work: Sequence[tuple[SessionCache, Span]]) -> list[Tensor]:
        """Run each span on its session's cache; return the float32 logits [len(wanted), V] of its wanted rows."""
        ...


class PassFailed(RuntimeError):
    """The engine could not run a pass: a bug or a broken device, told to the session's stream alone."""


class EdgeService:
    """Implements ``airdraft.wire.server.Verification`` for one target."""

    def __init__(self, sessions: SessionTable, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Serve the sessions of this table, which shares the ``clock``."""
        self.sessions = sessions
        self.draining = False
        self._clock = clock
        self._engine: Engine | None = None
        self._new_drafter: NewDrafter | None = None
        self._description: Description | None = None
        self._thread: Worker | None = None
        self._busy = False  # a pass is at work
        self._left = asyncio.Event()
        self._turn = 0
        self._sweeping: asyncio.TimerHandle | None = None

    def ready(self, engine: Engine, description: Description, drafter: NewDrafter | None = None) -> None:
        """Start to accept sessions; ``drafter`` writes for those whose device idles."""
        self._engine, self._description, self._new_drafter = engine, description, drafter

    # ---- airdraft.wire.server.Verification ----

    def describe(self) -> Description:
        """Return what is served. Raises Overloaded while the model is loading."""
        if self._description is None:
            raise Overloaded("the model is still loading; try again soon", retry_after_s=1.0)
        return self._description

    async def generate(self, frames: AsyncIterator[DeviceFrame]) -> AsyncGenerator[EdgeFrame, None]:
        """Serve one stream; see the protocol's rules in DESIGN §4."""
        handler = asyncio.current_task()
        assert handler is not None
        stream = Stream(choked=handler.cancel)
        reader = asyncio.create_task(self._read(frames, stream))
        try:
            async for frame in stream:
                yield frame
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    # ---- the way up ----

    async def _read(self, frames: AsyncIterator[DeviceFrame], stream: Stream) -> None:
        """Feed one stream's frames to its session until the device is done, in error or out of reach."""
        try:
            opened = await anext(frames, None)
            if not isinstance(opened, Open):
                raise MalformedFrame("a stream begins with Open", field="open")
            entry = self._attach(opened, stream)
            try:
                with self._pulse(opened.epoch, stream) as pulse:
                    await self._feed(entry, opened.epoch, frames, pulse)
            finally:
                self._leave(entry, opened.epoch)
            stream.end()
        except SpecError as error:
            stream.end(error)
        except Exception as error:
            stream.end(error)  # a bug: it ends this stream with its own traceback, and no other

    async def _feed(self, entry: Entry, epoch: int, frames: AsyncIterator[DeviceFrame], pulse: Pulse) -> None:
        async for frame in frames:
            pulse.heard(frame)
            if frame.epoch != epoch:
                raise MalformedFrame(f"a frame of epoch {frame.epoch} on a stream of epoch {epoch}", field="epoch")
            self._take(entry, frame)
            if entry.session.finished:
                return
        await asyncio.sleep(HALF_CLOSE_S)  # where the connection broke, this is cancelled
        self._take(entry, Finish(epoch, entry.session.committed_length))

    def _pulse(self, epoch: int, stream: Stream) -> Pulse:
        """Listen for signs of life of a device; a silent one's stream ends, and its session may be evicted."""
        liveness = Liveness(self._clock())
        return Pulse(liveness, lambda number: stream.send(Ping(epoch, number)), stream.end, self._clock)

    def _attach(self, opened: Open, stream: Stream) -> Entry:
        self._check(opened)
        engine = self._engine
        assert engine is not None
        entry = self.sessions.admit(opened, self.describe().limits, engine.open)
        try:
            frames = entry.session.attach(opened)
        except SpecError:
            if entry.session.epoch == 0:
                self.sessions.forget(entry)  # it never came about
            raise
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
        self._sweep_later()

    def _sweep_later(self) -> None:
        """Forget sessions when their time is over, though nobody comes."""
        due = self.sessions.next_sweep
        if due is None or self._sweeping is not None:
            return
        self._sweeping = asyncio.get_running_loop().call_later(max(0.0, due - self._clock()), self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        self.sessions.sweep()
        self._sweep_later()

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
                if self._sweeping is not None:
                    self._sweeping.cancel()

    def _run_next(self) -> None:
        """Start the next pass, if the engine is free and there is one."""
        step = self._next_work() if self._thread is not None and not self._busy else None
        if step is None or self._thread is None:
            return
        entry, work = step
        self._busy = True
        if isinstance(work, DraftWork):
            self._thread.submit(partial(self._draft, entry, work), partial(self._drafted, entry, work))
            return
        self.sessions.make_kv_room(entry, work.span.start + len(work.span.tokens))
        queue_s = max(0.0, self._clock() - entry.ready_at)
        self._thread.submit(partial(self._compute, entry, work), partial(self._passed, entry, work, queue_s))

    def _next_work(self) -> tuple[Entry, Pass | DraftWork] | None:
        entries = list(self.sessions)
        for offset in range(len(entries)):
            index = (self._turn + offset) % len(entries)
            session = entries[index].session
            work = session.next_pass() or session.own_draft()
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
            timing = Timing(queue_s, pass_s + entry.own_draft_s)
            entry.own_draft_s = 0.0
            entry.send(entry.session.finished_pass(work, PassResult(choices, timing)))
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

    def _draft(self, entry: Entry, work: DraftWork) -> tuple[list[int], float]:
        """Return what the edge's own drafter writes, and the seconds; runs on the engine's thread."""
        started = self._clock()
        if entry.drafter is None:
            assert self._new_drafter is not None
            entry.drafter = self._new_drafter(entry.session.sampling)
        entry.drafter.learn(work.path[entry.learned :])
        entry.learned = len(work.path)
        return entry.drafter.propose(work.path, work.count, lambda: False), self._clock() - started

    def _drafted(self, entry: Entry, work: DraftWork, outcome: tuple[list[int], float] | Exception) -> None:
        self._busy = False
        if isinstance(outcome, Exception):  # a broken drafter costs time, not the text
            log.error("the edge's drafter failed", exc_info=outcome)
            outcome = [], 0.0
        tokens, entry.own_draft_s = outcome
        entry.session.own_drafted(work, tokens)
        self._run_next()

    def _compute(self, entry: Entry, work: Pass) -> tuple[Choices, float]:
        """Return the choices and the seconds that the model took; runs on the engine's thread."""
        engine = self._engine
        assert engine is not None
        started = self._clock()
        (logits,) = engine.extend([(entry.cache, work.span)])
        choices = choose_rows(logits, work.sampling, self.describe().vocabulary, work.row_paths())
        return choices, self._clock() - started

    # ---- going away ----

    async def drained(self, deadline_s: float, edges: Sequence[str] = ()) -> bool:
        """Accept nothing new, tell every device, and wait for the streams at work; say whether all ended in time.

        ``edges`` are where the devices may go; those that are still here at the deadline are cut off.
        """
        self.draining = True
        for entry in self.sessions:
            entry.send([Drain(epoch, deadline_s, tuple(edges)) for epoch in entry.streams])
        try:
            async with asyncio.timeout(deadline_s):
                while self.sessions.attached:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            for entry in self.sessions:
                for stream in entry.streams.values():
                    stream.end(Draining("this edge has gone away; attach elsewhere", retry_after_s=1.0))
            return False
        return True
