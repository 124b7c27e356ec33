"""The edge's service: a thin pump between streams, session cores and the engine.

Nothing here knows what a draft is worth: frames go into a core, frames and wishes for passes come out. The engine is
elsewhere, so that the event loop stays free for frames.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial

from airdraft.core.callers import EVERYBODY, Caller
from airdraft.core.errors import (
    Draining,
    LimitReached,
    MalformedFrame,
    ModelMismatch,
    Overloaded,
    SpecError,
    TokenizerMismatch,
    UnsupportedVersion,
)
from airdraft.core.limits import TokenBucket
from airdraft.core.session import Liveness
from airdraft.core.types import (
    PROTOCOL_VERSION,
    SAMPLER_VERSION,
    DeviceFrame,
    Draft,
    Drain,
    EdgeFrame,
    Finish,
    Open,
    Ping,
    Prefix,
    RefusalCode,
)
from airdraft.wire.describe import Description
from airdraft.wire.pulse import Pulse
from edge_node.kv_pool import KvPool
from edge_node.metrics import Ended
from edge_node.sessions import Entry, SessionTable
from edge_node.stepping import Engine, Stepping
from edge_node.stream_watch import PATIENCE, Patience, StreamWatch
from edge_node.streams import Stream
from edge_node.tenants import Tenant

STEP_POSITIONS = 512

HALF_CLOSE_S = 0.5
"""A half-closed stream is a Finish, but a connection that breaks looks like one at first."""


class EdgeService:
    """Implements ``airdraft.wire.server.Verification`` for one target."""

    def __init__(
        self,
        sessions: SessionTable,
        *,
        step_positions: int = STEP_POSITIONS,
        patience: Patience = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Serve the sessions of this table, which shares the ``clock``; a step has room for ``step_positions``.

        patience  with streams that keep a place and do not use it
        wall      seconds since 1970, which credentials end by
        """
        self.sessions = sessions
        self.draining = False
        self._clock, self._wall, self._patience = clock, wall, patience
        self._stepping = Stepping(sessions, step_positions, clock)
        self._description: Description | None = None
        self._left = asyncio.Event()
        self._sweeping: asyncio.TimerHandle | None = None

    def ready(self, engine: Engine, description: Description, pool: KvPool) -> None:
        """Start to accept sessions, or go on with them after the engine died: ``pool`` is the engine's, and empty."""
        self.sessions.granting.serves(description)
        self._description = replace(description, acceptance_modes=self.sessions.granting.modes)
        self.sessions.begin(pool)
        self._stepping.begin(engine)

    def unready(self) -> None:
        """The engine died: sessions wait for the next one, and new ones are told to."""
        self._stepping.stop()
        self._description = None

    def send_away(self) -> None:
        """No engine will be there soon: devices may go on elsewhere, or come back; their sessions stay."""
        for entry in self.sessions:
            for stream in entry.streams.values():
                stream.end(Overloaded("this edge has lost its engine; attach elsewhere, or later", retry_after_s=5.0))

    def close(self) -> None:
        """Ask the engine nothing more."""
        self._stepping.stop()
        if self._sweeping is not None:
            self._sweeping.cancel()

    # ---- airdraft.wire.server.Verification ----

    def describe(self) -> Description:
        """Return what is served. Raises Overloaded while the model is loading."""
        if self._description is None:
            raise Overloaded("the model is still loading; try again soon", retry_after_s=1.0)
        return replace(self._description, quote=self._stepping.quotes.of())

    @asynccontextmanager
    async def entered(self, caller: Caller) -> AsyncIterator[None]:
        """Count a stream of a caller as long as the block lasts.

        Raises LimitReached where it is one too many, after a while.
        """
        tenants = self.sessions.tenants
        with ExitStack() as stack:
            try:
                stack.enter_context(tenants.stream(caller))
            except LimitReached:
                self.sessions.metrics.refused(RefusalCode.LIMIT_REACHED)
                await asyncio.sleep(tenants.hold_s(caller))
                raise
            yield

    async def generate(
        self, frames: AsyncIterator[DeviceFrame], caller: Caller = EVERYBODY
    ) -> AsyncGenerator[EdgeFrame, None]:
        """Serve one stream of a caller; see the protocol's rules in DESIGN §4."""
        handler = asyncio.current_task()
        assert handler is not None
        stream, tenant = Stream(choked=handler.cancel), self.sessions.tenants.of(caller)
        reader = asyncio.create_task(self._read(frames, stream, tenant, caller.until_s))
        try:
            async for frame in stream:
                yield frame
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    # ---- the way up ----

    async def _read(self, frames: AsyncIterator[DeviceFrame], stream: Stream, tenant: Tenant, until_s: float) -> None:
        """Feed one stream's frames to its session until the device is done, in error or out of reach."""
        try:
            with self._watch(stream, until_s) as watch:
                opened = await anext(frames, None)
                if not isinstance(opened, Open):
                    raise MalformedFrame("a stream begins with Open", field="open")
                entry = self._attach(opened, stream, tenant)
                try:
                    watch.attached(entry.session, partial(self._stepping.owes, entry))
                    with self._pulse(opened.epoch, stream) as pulse:
                        async with aclosing(self._paced(frames, tenant, pulse)) as paced:
                            await self._feed(entry, opened.epoch, paced)
                finally:
                    self._leave(entry, opened.epoch)
            stream.end()
        except SpecError as error:
            if error.code is not None:
                self.sessions.metrics.refused(error.code)
            stream.end(error)
        except Exception as error:
            stream.end(error)  # a bug: it ends this stream with its own traceback, and no other

    def _watch(self, stream: Stream, until_s: float) -> StreamWatch:
        """Watch that a stream is used; one that is not ends with why."""

        def end(error: LimitReached) -> None:
            self.sessions.metrics.refused(RefusalCode.LIMIT_REACHED)
            stream.end(error)

        return StreamWatch(self._patience, end, self._clock, until_s=until_s, wall=self._wall)

    async def _paced(
        self, frames: AsyncIterator[DeviceFrame], tenant: Tenant, pulse: Pulse
    ) -> AsyncGenerator[DeviceFrame, None]:
        """Yield frames at a pace that the stream and its tenant may have; meanwhile no other is read."""
        pace = TokenBucket(self._patience.frames_s, self._patience.frames_burst)
        async for frame in frames:
            pulse.heard(frame)
            pace.charge(1, self._clock())
            ids = len(frame.ids) if isinstance(frame, (Draft, Prefix)) else 0
            wait_s = max(pace.wait_s(self._clock()), self.sessions.tenants.reads(tenant, ids))
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            yield frame

    async def _feed(self, entry: Entry, epoch: int, frames: AsyncIterator[DeviceFrame]) -> None:
        async for frame in frames:
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

    def _attach(self, opened: Open, stream: Stream, tenant: Tenant) -> Entry:
        self._check(opened)
        now_s, lacking = self._clock(), self.sessions.lacks(opened, tenant.name)
        if lacking:
            tenant.may_prefill(now_s)
        entry = self.sessions.admit(opened, self.describe().limits, tenant.name)
        try:
            frames = self.sessions.attach(entry, opened)
        except SpecError:
            if entry.session.epoch == 0:
                self.sessions.forget(entry)  # it never came about
            raise
        if opened.length == opened.prompt_length and entry.opened_at is None and not entry.most_rows:
            self.sessions.metrics.admitted(opened.prompt_length)
            entry.opened_at = self._clock()
            if entry.grant is not None:
                self.sessions.metrics.meaning.asked(entry.grant.decision, entry.grant.granted.protocol)
        tenant.prefills(lacking, now_s)
        entry.charged = lacking
        entry.streams[opened.epoch] = stream
        entry.send(self._stepping.quotes.told(entry, frames))
        self._stepping.ready(entry)
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
        self._stepping.told(entry, self.sessions.received(entry, frame))
        if entry.session.finished:
            self.sessions.forget(entry, Ended.of(entry.session.stop))
        else:
            self._stepping.ready(entry)

    def _leave(self, entry: Entry, epoch: int) -> None:
        entry.streams.pop(epoch, None)
        entry.session.detached(epoch)
        entry.left_at = self._clock()
        self._stepping.left(entry)
        self.sessions.places_changed()
        entry.answers.owed_since = None
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
