"""Streams that are cancelled at any moment: ``python -m bench.sessions_cancelled ADDRESS COUNT SEED TICKET …``.

A fifth each: before Open; after it; in the middle of the prefix; with a draft on its way; while the edge commits. It
ends with a line of JSON: how many of each were made, and how many the edge had refused before.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from random import Random

from airdraft.core.errors import EdgeUnreachable
from airdraft.core.paths import HashedPath, ids_digest, root_hash
from airdraft.core.types import Commit, Draft, Open, Opened, Prefix, Refused, Sampling
from airdraft.wire.client import EdgeConnection, EdgeStream
from airdraft.wire.describe import Description
from bench.door import Ticket
from bench.processes import pin
from bench.stub_edge import VOCABULARY

STREAMS_EACH = 2
"""At once on a tenant's connection."""

EACH_S = 0.14
"""A worker's streams begin so far apart: a tenant may open 16 a second."""

PROMPT_TOKENS = 192
CHUNK_TOKENS = 48
MOST_WAIT_S = 0.02
PATIENCE_S = 2.0
"""How long one waits for the moment at which it is to cancel."""


class Moment(StrEnum):
    """When a stream is cancelled."""

    BEFORE_OPEN = "before_open"
    AFTER_OPEN = "after_open"
    MID_PREFIX = "mid_prefix"
    MID_DRAFT = "mid_draft"
    COMMITTING = "committing"


class RefusedFirst(Exception):
    """The edge would not have the stream."""


async def cancelled(connection: EdgeConnection, served: Description, moment: Moment, chance: Random) -> None:
    """Open a stream, and cancel it at about this moment. Raises RefusedFirst, EdgeUnreachable."""
    stream = connection.generate(served.vocabulary)
    try:
        await _until(stream, served, moment, chance)
        await asyncio.sleep(chance.random() * MOST_WAIT_S)
    finally:
        stream.cancel()


async def _until(stream: EdgeStream, served: Description, moment: Moment, chance: Random) -> None:
    if moment is Moment.BEFORE_OPEN:
        return
    prompt = tuple(chance.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS))
    count = len(prompt)
    opened = Open(secrets.token_bytes(16), 1, served.identity, Sampling(), (), 256, count, count, ids_digest(prompt), 0)
    await stream.send(opened)
    if moment is Moment.AFTER_OPEN:
        return
    until = chance.randrange(CHUNK_TOKENS, count) if moment is Moment.MID_PREFIX else count
    for at in range(0, until, CHUNK_TOKENS):
        await stream.send(Prefix(1, at, prompt[at : min(until, at + CHUNK_TOKENS)]))
    if moment is Moment.MID_PREFIX:
        return
    path = HashedPath(root_hash(served.identity))
    path.extend(prompt)
    wanted = chance.randint(1, 6)
    async with asyncio.timeout(PATIENCE_S):
        async for frame in stream:
            if isinstance(frame, Refused):
                raise RefusedFirst
            if isinstance(frame, Opened) and moment is Moment.MID_DRAFT:
                ids = tuple(chance.randrange(VOCABULARY) for _ in range(4))
                await stream.send(Draft(1, 1, count, count, path.end, ids))
                return
            wanted -= isinstance(frame, Commit)
            if wanted <= 0:
                return


async def run(address: str, count: int, seed: int, tickets: Sequence[Ticket]) -> Counter[str]:
    """Cancel so many streams; return how many of each kind there were."""
    did: Counter[str] = Counter()
    numbers = iter(range(count))

    async def tenant(ticket: Ticket) -> None:
        async with ticket.connection(address) as connection:
            served = await connection.describe()

            async def worker() -> None:
                for number in numbers:
                    chance = Random(f"{seed} {number}")
                    moment = tuple(Moment)[number % len(Moment)]
                    did[moment] += 1
                    pause = asyncio.create_task(asyncio.sleep(EACH_S))
                    try:
                        await cancelled(connection, served, moment, chance)
                    except (RefusedFirst, EdgeUnreachable):
                        did["refused"] += 1
                    except TimeoutError:
                        did["too_late"] += 1
                    await pause

            await asyncio.gather(*(worker() for _ in range(STREAMS_EACH)))

    await asyncio.gather(*(tenant(ticket) for ticket in tickets))
    return did


if __name__ == "__main__":
    pin(1)
    with suppress(KeyboardInterrupt):
        words = [Ticket.of(word) for word in sys.argv[4:]]
        print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), words))))
