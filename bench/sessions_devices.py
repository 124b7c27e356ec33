"""Devices at a stated pace: ``python -m bench.sessions_devices PLAN`` writes texts and ends with a line of JSON.

Every session has a connection of its own, so many rounds a second at a phase of its own, and asks the edge to wait for
its drafts. A round goes from the hand-over of a draft to the commit that answers it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random

from airdraft.core.errors import SpecError, error_of
from airdraft.core.session import Committed, DeviceSession, Lost, Output
from airdraft.core.types import Commit, Draft, Plan, Sampling
from airdraft.wire.client import EdgeConnection, EdgeStream
from airdraft.wire.describe import Description
from bench.door import Ticket
from bench.processes import pin
from bench.stub_edge import VOCABULARY, ScriptedDrafter, stub_text

PROMPT_TOKENS = 32
DRAFT_LENGTH = 4
ERROR_EVERY = 5
OVERDUE_S = 10.0
"""A round that takes longer is an error."""

clock = time.perf_counter


@dataclass(frozen=True, slots=True)
class Orders:
    """What one process is to do."""

    address: str
    tickets: tuple[str, ...]  # words
    sessions: int
    connecting_s: float  # over which they connect
    warm_s: float
    seconds: float
    rounds_s: float  # a session's, a second
    text_tokens: int
    seed: int


@dataclass(slots=True)
class Done:
    """What came of it."""

    connects_s: list[float] = field(default_factory=list)  # to an edge that has described itself
    rounds_s: list[float] = field(default_factory=list)  # that began after the warm-up
    warm_rounds_s: list[float] = field(default_factory=list)
    late: int = 0  # rounds that began late, since the one before was not over
    texts: int = 0
    errors: list[str] = field(default_factory=list)


class PacedSession:
    """One text after the other, round by round."""

    def __init__(self, orders: Orders, number: int, done: Done) -> None:
        self._orders, self._done = orders, done
        self._chance = Random(f"{orders.seed} {number}")
        self._ticket = Ticket.of(orders.tickets[number % len(orders.tickets)])
        self._due_s = self._counts_s = self._until_s = 0.0
        self._over = asyncio.Event()  # the round
        self._sent: tuple[int, float] | None = None
        self._writing = asyncio.Lock()  # a stream takes one frame at a time

    async def run(self, began_s: float) -> None:
        """Connect, then write until the time is over."""
        orders = self._orders
        await asyncio.sleep(self._chance.random() * orders.connecting_s)
        connecting_s = clock()
        async with self._ticket.connection(orders.address) as connection:
            served = await connection.describe(timeout_s=OVERDUE_S)
            self._done.connects_s.append(clock() - connecting_s)
            self._counts_s = began_s + orders.connecting_s + orders.warm_s
            self._until_s = self._counts_s + orders.seconds
            self._due_s = began_s + orders.connecting_s + self._chance.random() / orders.rounds_s
            while clock() < self._until_s:
                try:
                    await self._text(connection, served)
                except SpecError as error:
                    self._done.errors.append(f"{type(error).__name__}: {error.message}")
                except TimeoutError:
                    self._done.errors.append("a round was overdue")

    async def _text(self, connection: EdgeConnection, served: Description) -> None:
        prompt = [self._chance.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)]
        right = stub_text(prompt, self._orders.text_tokens)
        session = DeviceSession(
            secrets.token_bytes(16),
            served.identity,
            prompt,
            sampling=Sampling(),
            stop_ids=(),
            max_tokens=self._orders.text_tokens,
            limits=served.limits,
            plan=Plan(DRAFT_LENGTH, waits=True, own_draft=False),
        )
        drafter = ScriptedDrafter([*prompt, *right], ERROR_EVERY)
        stream = connection.generate(served.vocabulary)
        listening = asyncio.create_task(self._listen(session, stream))
        try:
            await self._send(session.attach(1, with_prefix=True), stream)
            while not session.ended and clock() < self._until_s:
                await asyncio.sleep(self._due_s - clock())
                await self._round(session, drafter, stream, listening)
                self._due_s += 1 / self._orders.rounds_s
            if session.ended:
                await listening
        finally:
            stream.cancel()
            listening.cancel()
            await asyncio.wait([listening])
        written = list(session.ids[PROMPT_TOKENS:])
        self._done.texts += session.ended
        if written != right[: len(written)]:
            self._done.errors.append("a text is not the target's own")

    async def _round(
        self, session: DeviceSession, drafter: ScriptedDrafter, stream: EdgeStream, listening: asyncio.Task[None]
    ) -> None:
        work = session.draft_work()
        if work is None:
            return
        self._over.clear()
        outputs = session.drafted(work, drafter.propose(work.path, work.count, lambda: False))
        drafts = [output.seq for output in outputs if isinstance(output, Draft) and output.ids]
        if not drafts:
            return
        self._sent = drafts[-1], clock()
        await self._send(outputs, stream)
        waiting = asyncio.create_task(self._over.wait())
        ended, _ = await asyncio.wait([waiting, listening], timeout=OVERDUE_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if listening in ended:
            listening.result()
        if not ended:
            raise TimeoutError
        self._done.late += clock() > self._due_s + 1 / self._orders.rounds_s and self._due_s >= self._counts_s

    async def _listen(self, session: DeviceSession, stream: EdgeStream) -> None:
        async for frame in stream:
            if session.ended:
                continue
            outputs = session.received(frame)
            if isinstance(frame, Commit) and self._sent is not None and frame.last_seq >= self._sent[0]:
                sent_s, self._sent = self._sent[1], None
                counted = sent_s >= self._counts_s
                (self._done.rounds_s if counted else self._done.warm_rounds_s).append(clock() - sent_s)
                self._over.set()
            await self._send(outputs, stream)
            if session.ended:
                self._over.set()
                await stream.half_close()

    async def _send(self, outputs: Sequence[Output], stream: EdgeStream) -> None:
        for output in outputs:
            if isinstance(output, Lost):
                raise error_of(output.refusal)
            if isinstance(output, Committed):
                continue
            async with self._writing:
                await stream.send(output)  # type: ignore[arg-type]  # a Drain never comes


async def run(orders: Orders) -> Done:
    """Run all sessions of this process."""
    done, began_s = Done(), clock()

    async def one(number: int) -> None:
        try:
            await PacedSession(orders, number, done).run(began_s)
        except SpecError as error:
            done.errors.append(f"connecting: {type(error).__name__}: {error.message}")

    async with asyncio.TaskGroup() as group:
        for number in range(orders.sessions):
            group.create_task(one(number))
    return done


if __name__ == "__main__":
    pin(1)
    print(json.dumps(asdict(asyncio.run(run(Orders(**json.loads(sys.argv[1])))))))
