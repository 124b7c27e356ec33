"""Devices that want nothing but their texts: ``python -m bench.hostile_victims``, told by lines of JSON what to write.

Each tenant writes one text after the other on a connection of its own; the drafter knows the text, errs at every fifth
position and takes no time, so that between two commits stands what the edge makes of it. Who is told to come back
later does so when told to.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from random import Random

from airdraft.core.errors import SpecError, error_of
from airdraft.core.session import Committed, DeviceSession, Lost, Output
from airdraft.core.types import Plan, Sampling
from airdraft.wire.client import EdgeConnection, EdgeStream
from airdraft.wire.describe import Description
from bench.door import Ticket
from bench.processes import pin
from bench.stub_edge import VOCABULARY, ScriptedDrafter, stub_text

PROMPT_TOKENS = (64, 512)
ANSWER_TOKENS = (96, 192)
DRAFT_LENGTH = 4
ERROR_EVERY = 5
LEAST_WAIT_S = 0.05


@dataclass(slots=True)
class Text:
    """What became of one text; times by ``time.perf_counter()``, which all processes share."""

    wanted_s: float
    refusals: int = 0
    failures: int = 0
    opened_s: float = 0.0  # the attempt that the edge took
    arrivals_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # of each arrival
    right: bool = True
    over: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What to write; the same ``seed`` gives the same texts but for the first tokens of their prompts, the ``mark``.

    So no arm of a pair finds the prompts of the other one in its tenant's prefix cache.
    """

    seed: int
    mark: int
    seconds: float


def wishes(tenant: int, wish: Wish) -> Iterator[tuple[list[int], int]]:
    """Yield prompts and lengths of answers."""
    chance = Random(f"{wish.seed} {tenant}")
    while True:
        count, answer = chance.randint(*PROMPT_TOKENS), chance.randint(*ANSWER_TOKENS)
        prompt = [chance.randrange(VOCABULARY) for _ in range(count)]
        prompt[:2] = divmod(wish.mark, VOCABULARY)
        yield prompt, answer


class _Writer:
    """One text at one stream."""

    def __init__(self, session: DeviceSession, drafter: ScriptedDrafter, text: Text) -> None:
        self._session, self._drafter, self._text = session, drafter, text

    async def write(self, stream: EdgeStream) -> None:
        """Write to the end. Raises what the edge refused with, EdgeUnreachable."""
        epoch = self._session.next_epoch
        await self._do(self._session.attach(epoch, with_prefix=True), stream)
        async for frame in stream:
            if not self._session.ended:
                await self._do(self._session.received(frame), stream)
                if self._session.ended:
                    await stream.half_close()

    async def _do(self, outputs: Sequence[Output], stream: EdgeStream) -> None:
        while outputs:
            for output in outputs:
                if isinstance(output, Committed):
                    if output.ids:
                        self._text.arrivals_s.append(time.perf_counter())
                        self._text.tokens.append(len(output.ids))
                elif isinstance(output, Lost):
                    raise error_of(output.refusal)
                else:
                    await stream.send(output)  # type: ignore[arg-type]  # a Drain never comes
            work = self._session.draft_work()
            drafted = self._drafter.propose(work.path, work.count, lambda: False) if work is not None else []
            outputs = self._session.drafted(work, drafted) if work is not None else []


async def write_on(opened: EdgeConnection, served: Description, tenant: int, wish: Wish, texts: list[Text]) -> None:
    """Write one text after the other until cancelled; what becomes of them goes to ``texts`` as it happens."""
    for prompt, tokens in wishes(tenant, wish):
        text = Text(time.perf_counter())
        texts.append(text)
        right = stub_text(prompt, tokens)
        session = DeviceSession(
            secrets.token_bytes(16),
            served.identity,
            prompt,
            sampling=Sampling(),
            stop_ids=(),
            max_tokens=tokens,
            limits=served.limits,
            plan=Plan(DRAFT_LENGTH),
        )
        writer = _Writer(session, ScriptedDrafter([*prompt, *right], ERROR_EVERY), text)
        try:
            while not session.ended:
                text.opened_s = time.perf_counter()
                stream = opened.generate(served.vocabulary)
                try:
                    await writer.write(stream)
                except SpecError as error:
                    text.refusals += error.retry_after_s > 0
                    text.failures += error.retry_after_s <= 0
                    session.detached()
                    await asyncio.sleep(max(LEAST_WAIT_S, error.retry_after_s))
                finally:
                    stream.cancel()
            text.over = True
        finally:
            written = list(session.ids[len(prompt) :])
            text.right = written == right[: len(written)]


async def written(tickets: Sequence[Ticket], opened: Sequence[EdgeConnection], wish: Wish) -> list[list[Text]]:
    """Let every tenant write for so long; return their texts."""
    texts: list[list[Text]] = [[] for _ in tickets]
    served = [await one.describe() for one in opened]
    tasks = [
        asyncio.create_task(write_on(one, described, index, wish, texts[index]))
        for index, (one, described) in enumerate(zip(opened, served, strict=True))
    ]
    done, _ = await asyncio.wait(tasks, timeout=wish.seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in done:
        task.result()
    return texts


async def serve(address: str, tickets: Sequence[Ticket]) -> None:
    """Write as each line of the input says; answer with the texts."""
    opened = [ticket.connection(address) for ticket in tickets]
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        wish = Wish(**json.loads(line))
        began_s = time.perf_counter()
        texts = await written(tickets, opened, wish)
        answer = {"began_s": began_s, "texts": [[asdict(text) for text in own] for own in texts]}
        print(json.dumps(answer), flush=True)
    for one in opened:
        with suppress(SpecError):
            await one.close()


if __name__ == "__main__":
    pin(1)
    asyncio.run(serve(sys.argv[1], [Ticket.of(word) for word in sys.argv[2:]]))
