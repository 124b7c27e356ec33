"""Devices of the capacity bench: real sessions over gRPC in one process, with a drafter and a link that are timers.

A drafted token ends so many seconds after the one before, a frame arrives so many after it left: times fixed when they
begin, so that a timer that fires late delays nothing behind it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from airdraft.core.drafting import Drafter
from airdraft.core.errors import EdgeUnreachable, error_of
from airdraft.core.session import Committed, DeviceSession, Lost, Output
from airdraft.core.types import DeviceFrame, DraftWork, Drain, EdgeFrame, Plan
from airdraft.wire.client import EdgeStream
from bench.connections import connections
from bench.engine_devices import Heard, greedy_session

MOST_S = 120.0


@dataclass(frozen=True, slots=True)
class Pace:
    """What a device and its link take."""

    draft_s: float
    one_way_s: float
    plan: Plan


@dataclass(slots=True)
class Way:
    """One direction of a link: what is sent first arrives first, which timers of one time do not promise."""

    one_way_s: float
    _last_s: float = 0.0

    def arrives_s(self, sent_s: float) -> float:
        """Return when what is sent now arrives."""
        self._last_s = max(sent_s + self.one_way_s, self._last_s + 1e-6)
        return self._last_s


@dataclass(slots=True, eq=False)
class TimedDevice:
    """One text: the session core between timers."""

    session: DeviceSession
    drafter: Drafter
    pace: Pace
    heard: Heard = field(default_factory=Heard)
    _leaving: asyncio.Queue[DeviceFrame | None] = field(default_factory=asyncio.Queue)
    _work: DraftWork | None = None  # what the drafter is at
    _tokens: list[int] = field(default_factory=list)  # and will have written
    _began_s: float = 0.0
    _ends: asyncio.TimerHandle | None = None
    _failure: Exception | None = None
    _up: Way = field(init=False)
    _down: Way = field(init=False)

    def __post_init__(self) -> None:
        self._up, self._down = Way(self.pace.one_way_s), Way(self.pace.one_way_s)

    async def write(self, stream: EdgeStream) -> Heard:
        """Let the text be written to its end. Raises EdgeUnreachable, and what the edge refused with."""
        loop = asyncio.get_running_loop()
        sending = loop.create_task(self._send(stream))
        try:
            self._do(loop.time(), self.session.attach(self.session.next_epoch, with_prefix=True))
            async for frame in stream:
                arrives_s = self._down.arrives_s(loop.time())
                loop.call_at(arrives_s, self._received, arrives_s, frame)
            await sending
        except EdgeUnreachable:
            if self._failure is None:  # else it is the status behind a refusal
                raise
        finally:
            sending.cancel()
            if self._ends is not None:
                self._ends.cancel()
        if self._failure is not None:
            raise self._failure
        if not self.session.ended:
            raise EdgeUnreachable(f"edge {stream.address} ended the stream before the text was over")
        return self.heard

    async def _send(self, stream: EdgeStream) -> None:
        while (frame := await self._leaving.get()) is not None:
            await stream.send(frame)
        await stream.half_close()

    def _received(self, due_s: float, frame: EdgeFrame) -> None:
        if not self.session.ended:
            self._do(due_s, self.session.received(frame))

    def _do(self, now_s: float, outputs: Sequence[Output]) -> None:
        """Let outputs take effect; ``now_s`` is when that was due."""
        loop = asyncio.get_running_loop()
        for output in outputs:
            if isinstance(output, Committed):
                if output.ids:
                    self.heard.ids += output.ids
                    self.heard.arrivals_s.append(now_s)
                    self.heard.commit_tokens.append(len(output.ids))
            elif isinstance(output, Lost):
                self._failure = error_of(output.refusal)
                self._leaving.put_nowait(None)
            else:
                assert not isinstance(output, Drain), "these edges stay"
                loop.call_at(self._up.arrives_s(now_s), self._leaving.put_nowait, output)
        if self.session.ended:
            loop.call_at(self._up.arrives_s(now_s), self._leaving.put_nowait, None)
        elif self._work is None:
            self._draft(now_s)
        elif not self.session.is_current(self._work):
            self._cut_short(now_s)

    def _draft(self, now_s: float) -> None:
        work = self.session.draft_work()
        if work is None:
            return
        self._work, self._began_s = work, now_s
        self._tokens = self.drafter.propose(work.path, work.count, lambda: False)
        self._end_at(now_s + len(self._tokens) * self.pace.draft_s)

    def _cut_short(self, now_s: float) -> None:
        """Let the drafter stop after the token that it is at."""
        begun = max(0, math.ceil((now_s - self._began_s) / self.pace.draft_s - 1e-6))
        if begun < len(self._tokens):
            del self._tokens[begun:]
            self._end_at(max(self._began_s + begun * self.pace.draft_s, now_s))

    def _end_at(self, when_s: float) -> None:
        if self._ends is not None:
            self._ends.cancel()
        self._ends = asyncio.get_running_loop().call_at(when_s, self._drafted, when_s)

    def _drafted(self, due_s: float) -> None:
        assert self._work is not None
        work, self._work = self._work, None
        self._do(due_s, self.session.drafted(work, self._tokens))


async def write_timed(
    address: str,
    prompts: Sequence[tuple[int, ...]],
    drafters: Sequence[Drafter],
    tokens: int,
    pace: Pace,
    apart_s: float,
) -> list[Heard]:
    """Let a text be written after each prompt, greedy, each begun ``apart_s`` after the one before.

    Raises TimeoutError where it takes ``MOST_S``.
    """

    async def one(index: int) -> Heard:
        await asyncio.sleep(index * apart_s)
        device = TimedDevice(greedy_session(prompts[index], description, tokens, pace.plan), drafters[index], pace)
        return await device.write(over[index % len(over)].generate(description.vocabulary))

    async with connections(address, len(prompts)) as over:
        description = await over[0].describe()
        async with asyncio.timeout(MOST_S), asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(index)) for index in range(len(prompts))]
    return [task.result() for task in tasks]
