"""One generation on the device: events between the session core, the drafter, the journal and whoever watches.

Nothing here knows what a draft is worth. It outlives the streams that carry it: the drafter works on a thread of its
own, with a stream or without one, and is told when its work is void. On a stream, frames in, frames out and signs of
life share the core on one event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.drafting import Drafter, confidences_of, q_of, states_of
from airdraft.core.errors import Draining, EdgeUnreachable, SpecError, error_of
from airdraft.core.session import Committed, DeviceSession, DraftWork, Liveness, Lost, Output, Overtaking
from airdraft.core.types import (
    EXACT,
    Commit,
    DeviceFrame,
    Drain,
    EdgeFrame,
    Granted,
    Limits,
    Opened,
    Ping,
    Plan,
    StopReason,
    Timing,
)
from airdraft.tasks import told
from airdraft.wire.client import EdgeStream
from airdraft.wire.pulse import Pulse
from airdraft.worker import Worker
from coordinator.policy.steering import Steering
from device_client.draft_stop import Frame
from device_client.sync_rounds import SyncRounds

PARTING_S = 2.0
"""How long to wait for the edge to take the last ack, once the text is over."""

LEAVE_S = 1.0
"""How long to wait for one more commit from an edge that is going away, before going elsewhere."""


class Watcher(Protocol):
    """Whoever looks at a text in the making."""

    def committed(self, event: Committed) -> None:
        """Take text that is final."""
        ...

    def drafted(self, ahead: Sequence[int]) -> None:
        """Take the tentative text past the committed end, as a whole."""
        ...


class TextJournal(Protocol):
    """What outlives the process: written before anything is shown, acked or attached."""

    def attaching(self, epoch: int) -> None:
        """Keep an epoch that is about to be used."""
        ...

    def committed(self, base: int, ids: Sequence[int], receipt: bytes, stop: StopReason | None) -> None:
        """Keep text that is final."""
        ...


class Moment(NamedTuple):
    """Something happened here: ``commit`` read, ``draft`` begun, ``drafted`` done, ``sent``: given to gRPC."""

    kind: Literal["commit", "draft", "drafted", "sent"]
    at_s: float  # by the pump's clock
    timing: Timing | None = None  # what the edge said of the pass, for a commit


@dataclass(slots=True)
class Costs:
    """Where the seconds of a generation went."""

    moments: list[Moment] = field(default_factory=list)

    @property
    def draft_s(self) -> float:
        """Return the seconds that the drafter worked."""
        begun = (moment.at_s for moment in self.moments if moment.kind == "draft")
        done = (moment.at_s for moment in self.moments if moment.kind == "drafted")
        return sum(end - start for start, end in zip(begun, done, strict=False))

    @property
    def pass_s(self) -> float:
        """Return the seconds of the edge's passes that committed something."""
        return sum(moment.timing.pass_s for moment in self.moments if moment.timing is not None)


class _Written(NamedTuple):
    """A proposal, and in a semantic session what its drafter tells of it."""

    tokens: list[int]
    sure: Sequence[float] = ()
    states: NDArray[np.float32] | None = None  # [n, state_width]
    q: Sequence[SparseQ] = ()


class Generation:
    """Carries one session; use it as a context, then give it one stream after the other until the text is over."""

    def __init__(
        self,
        session: DeviceSession,
        drafter: Drafter,
        watcher: Watcher,
        journal: TextJournal | None = None,
        *,
        steering: Steering | None = None,
        rounds: Callable[[Steering], SyncRounds] | None = None,
        may_leave: Callable[[Drain], bool] = lambda drain: False,
        granted: Callable[[Granted], None] = lambda granted: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare.

        steering   makes the session's plans as it goes; None: the plan that the session has stays
        rounds     ends synchronous frames, by what the steering knows; None: the plan does
        may_leave  is asked whether there is somewhere to go when an edge drains
        granted    is told at each attach what the edge grants of what the session asks for
        """
        self.costs = Costs()
        self.granted = EXACT  # by the last edge that answered
        self.session = session
        self.round_trip_s: float | None = None  # smoothed, of the last stream
        self._drafter, self._watcher, self._journal = drafter, watcher, journal
        session.overtaking = Overtaking(clock, lambda: self.round_trip_s)
        self._steering = steering
        self._rounds = rounds(steering) if rounds is not None and steering is not None else None
        if steering is not None:
            steering.begins()
            session.plan = self._conduct(steering.conduct)
        self._may_leave, self._told_granted = may_leave, granted
        self._clock = clock
        self._outgoing: asyncio.Queue[DeviceFrame | None] = asyncio.Queue()
        self._thread = Worker("drafter")
        self._broken: Exception | None = None  # what the drafter's thread died of, or the journal
        self._ending: asyncio.Future[None] | None = None  # fails with what ends the stream, while there is one
        self._leaving: asyncio.TimerHandle | None = None
        self._void = threading.Event()
        self._work: DraftWork | None = None  # what the drafter is at
        self._learned = 0  # ids that the drafter knows of

    def __enter__(self) -> Self:
        self._thread.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._void.set()
        self._thread.__exit__(kind, error, trace)

    async def over(self, stream: EdgeStream, *, with_prefix: bool = True, limits: Limits | None = None) -> None:
        """Attach by this stream, with the next epoch, and go on until the text has ended.

        ``limits`` are those of the edge's ``Describe`` where it is not the edge of before. Raises EdgeUnreachable,
        EdgeFault, Draining and what the edge refused with; the session keeps its text, and another stream may follow.
        """
        self._raise_broken()
        epoch = self.session.next_epoch
        if self._journal is not None:
            self._journal.attaching(epoch)
        self._outgoing, self._ending = asyncio.Queue(), asyncio.get_running_loop().create_future()
        with ExitStack() as stack:
            stack.callback(self._detach, stream)
            self._do(self.session.attach(epoch, with_prefix=with_prefix, limits=limits))
            pulse = stack.enter_context(self._pulse(epoch, stream.address))
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write(stream))
                    watching = group.create_task(_result(self._ending))
                    await self._read(stream, pulse)
                    watching.cancel()
            except ExceptionGroup as failures:
                raise told(failures, SpecError) from None

    def _pulse(self, epoch: int, address: str) -> Pulse:
        liveness = Liveness(self._clock(), round_trip_s=self.round_trip_s)

        def gone() -> None:
            self._end(EdgeUnreachable(f"edge {address} has been silent for {liveness.limit_s:.1f} s"))

        return Pulse(liveness, lambda number: self._outgoing.put_nowait(Ping(epoch, number)), gone, self._clock)

    def _detach(self, stream: EdgeStream) -> None:
        stream.cancel()
        self._ending = None
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        self.session.detached()
        if self._rounds is not None:
            self._rounds.lost()
        if self._broken is None:
            self._draft()  # to its bound, so that the next stream begins with a frame

    def _end(self, error: Exception) -> None:
        """Let the stream end with this error; without a stream the next one does."""
        if self._ending is None:
            self._broken = self._broken or error
        elif not self._ending.done():
            self._ending.set_exception(error)

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    async def _read(self, stream: EdgeStream, pulse: Pulse) -> None:
        async for frame in stream:
            pulse.heard(frame)
            self.round_trip_s = pulse.liveness.round_trip_s
            now_s = self._clock()
            if isinstance(frame, Commit):
                self.costs.moments.append(Moment("commit", now_s, frame.timing))
            outputs = self.session.received(frame)
            if isinstance(frame, Opened) and frame.epoch == self.session.epoch:
                self.granted = frame.granted
                self._told_granted(frame.granted)
            if self._rounds is not None and isinstance(frame, Commit):
                self._rounds.answered(self.session)  # before the next one begins
            self._do(outputs)
            if self.session.ended:
                return
            self._steer(frame, pulse, now_s)
        raise EdgeUnreachable(f"edge {stream.address} ended the stream before the text was over")

    def _steer(self, frame: EdgeFrame, pulse: Pulse, now_s: float) -> None:
        """Let what came change the plan; it has taken effect already, so that planning delays no text."""
        if self._steering is None:
            return
        if isinstance(frame, Ping):
            if frame.ack:
                self._steering.pinged(pulse.liveness.sample_s, now_s)
            return
        plan = self._steering.received(frame, self.session.tally, now_s)
        if plan is not None:
            self._do(self.session.replan(self._conduct(plan)))
        if self.session.granted.max_loss:
            self._do(self.session.channel(*self._steering.channel))
        if self._steering.wants_ping:
            self._steering.pings()
            pulse.ask()

    def _conduct(self, plan: Plan) -> Plan:
        return plan if self._rounds is None else self._rounds.conduct(plan)

    async def _write(self, stream: EdgeStream) -> None:
        try:
            while (frame := await self._outgoing.get()) is not None:
                now_s, before = self._clock(), stream.traffic.bytes_up
                if not isinstance(frame, Ping):
                    self.costs.moments.append(Moment("sent", now_s))
                await stream.send(frame)
                if self._steering is not None:
                    self._steering.sent(frame, stream.traffic.bytes_up - before, now_s)
            await stream.half_close()
            async with asyncio.timeout(PARTING_S):
                await stream.ended()
        except (EdgeUnreachable, TimeoutError):
            return  # whoever reads learns why the stream is gone; after the end of the text nobody needs to

    def _draft(self) -> None:
        """Give the drafter its next work, if it is free and there is any."""
        work = self.session.draft_work() if self._work is None else None
        if work is None:
            return
        news = tuple(self.session.ids[self._learned :])
        self._learned += len(news)
        self._void, self._work = threading.Event(), work
        frame = None if self._rounds is None else self._rounds.begins(self.session, work)
        self._thread.submit(partial(self._propose, news, work, self._void.is_set, frame), partial(self._drafted, work))

    def _drafted(self, work: DraftWork, outcome: _Written | Exception) -> None:
        self._work = None
        try:
            if isinstance(outcome, Exception):
                raise outcome
            self._do(self.session.drafted(work, *outcome))
            overtaking = self.session.overtaking
            if self._steering is not None and overtaking is not None and overtaking.last_draft is not None:
                self._steering.drafted(*overtaking.last_draft, self._clock())
        except Exception as error:  # a callback has no caller: whoever runs the stream gets it
            self._end(error)

    def _propose(
        self, news: Sequence[int], work: DraftWork, cancelled: Callable[[], bool], frame: Frame | None
    ) -> _Written:
        self.costs.moments.append(Moment("draft", self._clock()))
        if news:
            self._drafter.learn(news)
        if frame is None:
            tokens = self._drafter.propose(work.path, work.count, cancelled)
        else:
            tokens = frame.propose(self._drafter, work.path, work.count, cancelled)
        self.costs.moments.append(Moment("drafted", self._clock()))
        return self._told(tokens)

    def _told(self, tokens: list[int]) -> _Written:
        """Return a proposal with what its drafter tells of it, where the session has a use for that."""
        if self.session.semantic is None or not tokens:
            return _Written(tokens)
        count, states = len(tokens), states_of(self._drafter)
        sure = confidences_of(self._drafter) or ()
        rows = np.stack(states[:count]) if states else None
        return _Written(tokens, tuple(sure[:count]), rows, tuple(q_of(self._drafter)[:count]))

    def _do(self, outputs: Sequence[Output]) -> None:
        """Let outputs take effect, in order: text is journalled, then shown, before the frame that acks it leaves.

        The drafter starts first: it need not wait until the text is drawn.
        """
        if self._work is not None and not self.session.is_current(self._work):
            self._void.set()
        self._draft()
        for output in outputs:
            if isinstance(output, Committed):
                self._committed(output)
            elif isinstance(output, Lost):
                raise error_of(output.refusal)
            elif isinstance(output, Drain):
                self._drains(output)
            else:
                self._outgoing.put_nowait(output)
        self._watcher.drafted(self.session.ahead)
        if self.session.ended:
            self._outgoing.put_nowait(None)

    def _committed(self, event: Committed) -> None:
        if self._journal is not None:
            self._journal.committed(event.base, event.ids, event.receipt, event.stop)
        self._watcher.committed(event)
        if self._leaving is not None and not self.session.ended:
            self._leaving.cancel()
            self._leave()

    def _drains(self, drain: Drain) -> None:
        """Leave an edge that is going away, after its next commit, where there is another one to go to."""
        if self._may_leave(drain) and self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(LEAVE_S, self._leave)

    def _leave(self) -> None:
        self._end(Draining("this edge is going away", retry_after_s=LEAVE_S))


async def _result(future: asyncio.Future[None]) -> None:
    await future
