"""The pump of one stream: events between the session core, the drafter and the edge.

Nothing here knows what a draft is worth. Three tasks share the core on one event loop: frames in, frames out, drafting;
the drafter itself works on a thread of its own and is told when its work is void.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Protocol

from airdraft.core.drafting import Drafter
from airdraft.core.errors import EdgeUnreachable, SpecError, error_of
from airdraft.core.session import Committed, DeviceSession, DraftWork, Lost, Output
from airdraft.core.types import Commit, DeviceFrame, Timing
from airdraft.tasks import told
from airdraft.wire.client import EdgeStream
from airdraft.worker import Worker

PARTING_S = 2.0
"""How long to wait for the edge to take the last ack, once the text is over."""


class Watcher(Protocol):
    """Whoever looks at a text in the making."""

    def committed(self, event: Committed) -> None:
        """Take text that is final."""
        ...

    def drafted(self, ahead: Sequence[int]) -> None:
        """Take the tentative text past the committed end, as a whole."""
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


class StreamPump:
    """Carries one attached session until the edge ends it or the text is over."""

    def __init__(
        self,
        session: DeviceSession,
        stream: EdgeStream,
        drafter: Drafter,
        watcher: Watcher,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.costs = Costs()
        self._session, self._stream, self._drafter, self._watcher = session, stream, drafter, watcher
        self._clock = clock
        self._outgoing: asyncio.Queue[DeviceFrame | None] = asyncio.Queue()
        self._failed: asyncio.Future[None] | None = None  # of the drafter's thread, while there is one
        self._thread: Worker | None = None
        self._void = threading.Event()
        self._work: DraftWork | None = None  # what the drafter is at
        self._learned = 0  # ids that the drafter knows of

    async def run(self, epoch: int, *, with_prefix: bool) -> None:
        """Attach with this epoch and go on until the text has ended.

        Raises EdgeUnreachable, EdgeFault and what the edge refused with; the session keeps its text.
        """
        self._failed = asyncio.get_running_loop().create_future()
        with Worker("drafter") as self._thread:
            try:
                self._do(self._session.attach(epoch, with_prefix=with_prefix))
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write())
                    watching = group.create_task(_result(self._failed))
                    await self._read()
                    watching.cancel()
            except ExceptionGroup as failures:
                raise told(failures, SpecError) from None
            finally:
                self._void.set()
                self._stream.cancel()
                self._session.detached()

    async def _read(self) -> None:
        async for frame in self._stream:
            if isinstance(frame, Commit):
                self.costs.moments.append(Moment("commit", self._clock(), frame.timing))
            self._do(self._session.received(frame))
            if self._session.ended:
                return
        raise EdgeUnreachable("the edge ended the stream before the text was over")

    async def _write(self) -> None:
        try:
            while (frame := await self._outgoing.get()) is not None:
                self.costs.moments.append(Moment("sent", self._clock()))
                await self._stream.send(frame)
            await self._stream.half_close()
            async with asyncio.timeout(PARTING_S):
                await self._stream.ended()
        except (EdgeUnreachable, TimeoutError):
            return  # whoever reads learns why the stream is gone; after the end of the text nobody needs to

    def _draft(self) -> None:
        """Give the drafter its next work, if it is free and there is any."""
        work = self._session.draft_work() if self._work is None else None
        if work is None or self._thread is None:
            return
        news = tuple(self._session.ids[self._learned :])
        self._learned += len(news)
        self._void, self._work = threading.Event(), work
        self._thread.submit(partial(self._propose, news, work, self._void.is_set), partial(self._drafted, work))

    def _drafted(self, work: DraftWork, outcome: list[int] | Exception) -> None:
        self._work = None
        failed = self._failed
        assert failed is not None
        try:
            if isinstance(outcome, Exception):
                raise outcome
            self._do(self._session.drafted(work, outcome))
        except Exception as error:  # a callback has no caller: whoever runs the stream gets it
            if not failed.done():
                failed.set_exception(error)

    def _propose(self, news: Sequence[int], work: DraftWork, cancelled: Callable[[], bool]) -> list[int]:
        self.costs.moments.append(Moment("draft", self._clock()))
        if news:
            self._drafter.learn(news)
        tokens = self._drafter.propose(work.path, work.count, cancelled)
        self.costs.moments.append(Moment("drafted", self._clock()))
        return tokens

    def _do(self, outputs: Sequence[Output]) -> None:
        """Let outputs take effect, in order: text is shown before the frame that acks it leaves.

        The drafter starts first: it need not wait until the text is drawn.
        """
        if self._work is not None and not self._session.is_current(self._work):
            self._void.set()
        self._draft()
        for output in outputs:
            if isinstance(output, Committed):
                self._watcher.committed(output)
            elif isinstance(output, Lost):
                raise error_of(output.refusal)
            else:
                self._outgoing.put_nowait(output)
        self._watcher.drafted(self._session.ahead)
        if self._session.ended:
            self._outgoing.put_nowait(None)


async def _result(future: asyncio.Future[None]) -> None:
    await future
