"""Devices of the engine bench: real sessions over gRPC, many in one process, whose drafters take no time."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from airdraft.core.drafting import Drafter
from airdraft.core.errors import EdgeUnreachable, error_of
from airdraft.core.session import Committed, DeviceSession, Lost, Output
from airdraft.core.types import Plan, Sampling
from airdraft.wire.client import EdgeConnection, EdgeStream
from airdraft.wire.describe import Description

MOST_S = 180.0


@dataclass(slots=True)
class Heard:
    """What one device got, by ``time.perf_counter()``, which all processes of a machine share."""

    ids: list[int] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)  # of each commit
    commit_tokens: list[int] = field(default_factory=list)

    @property
    def token_arrivals_s(self) -> list[float]:
        """Return when each token came."""
        return [when for when, count in zip(self.arrivals_s, self.commit_tokens, strict=True) for _ in range(count)]


class InstantDevice:
    """One text: the session core between a stream and a drafter that is asked on the spot, without a thread."""

    def __init__(self, session: DeviceSession, drafter: Drafter) -> None:
        self.heard = Heard()
        self._session, self._drafter = session, drafter

    async def write(self, stream: EdgeStream) -> Heard:
        """Let the text be written to its end. Raises EdgeUnreachable, and what the edge refused with."""
        await self._do(self._session.attach(1, with_prefix=True), stream)
        async for frame in stream:  # to the stream's own end: its status waits behind frames that nobody reads
            if self._session.ended:
                continue
            await self._do(self._session.received(frame), stream)
            if self._session.ended:
                await stream.half_close()
        if not self._session.ended:
            raise EdgeUnreachable(f"edge {stream.address} ended the stream before the text was over")
        return self.heard

    async def _do(self, outputs: Sequence[Output], stream: EdgeStream) -> None:
        """Let outputs take effect, drafts of what they bring included."""
        while outputs:
            for output in outputs:
                if isinstance(output, Committed):
                    self._committed(output)
                elif isinstance(output, Lost):
                    raise error_of(output.refusal)
                else:
                    await stream.send(output)  # type: ignore[arg-type]  # a Drain never comes: these edges stay
            work = self._session.draft_work()
            drafted = self._drafter.propose(work.path, work.count, lambda: False) if work is not None else []
            outputs = self._session.drafted(work, drafted) if work is not None else []

    def _committed(self, event: Committed) -> None:
        if event.ids:
            self.heard.ids += event.ids
            self.heard.arrivals_s.append(time.perf_counter())
            self.heard.commit_tokens.append(len(event.ids))


async def write_texts(
    over: Sequence[EdgeConnection],
    description: Description,
    prompts: Sequence[Sequence[int]],
    drafters: Sequence[Drafter],
    *,
    new_tokens: int,
    draft_length: int,
) -> list[Heard]:
    """Let a text be written after each prompt, all at once, greedy, over these connections in turn.

    Raises TimeoutError where it takes ``MOST_S``."""
    async with asyncio.timeout(MOST_S), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                InstantDevice(greedy_session(prompt, description, new_tokens, Plan(draft_length)), drafter).write(
                    over[index % len(over)].generate(description.vocabulary)
                )
            )
            for index, (prompt, drafter) in enumerate(zip(prompts, drafters, strict=True))
        ]
    return [task.result() for task in tasks]


def greedy_session(prompt: Sequence[int], description: Description, new_tokens: int, plan: Plan) -> DeviceSession:
    """Return a session whose text is greedy and ends at its length alone."""
    return DeviceSession(
        secrets.token_bytes(16),
        description.identity,
        prompt,
        sampling=Sampling(),
        stop_ids=(),
        max_tokens=new_tokens,
        limits=description.limits,
        plan=plan,
    )
