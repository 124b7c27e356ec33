"""What a device can do to an edge when it means harm: each attack goes on until it is cancelled.

An attacker has a tenant's key and certificate like everybody else, knows the protocol, and does not wait when it is
told to. ``Ground.did`` counts what it got done, so that a bench can show that an attack was one.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random

from airdraft.core.errors import SpecError
from airdraft.core.paths import HashedPath, ids_digest, root_hash
from airdraft.core.session import PASS_NODES
from airdraft.core.types import Commit, Draft, Open, Opened, Ping, Prefix, Refused, Report, Sampling
from airdraft.wire.client import EdgeConnection, EdgeStream
from airdraft.wire.convert import device_frame_to_proto
from airdraft.wire.describe import Description
from bench.door import Ticket
from bench.hostile_http2 import GENERATE, PING, RudeConnection, RudeStream, frame, headers, message
from bench.hostile_victims import Text, Wish, write_on

SESSIONS = 32
"""Of an attack that wants as many places as it can get."""

CHUNK_TOKENS = 4096
BREATH_S = 0.002
"""Between two attempts of one worker: even an attacker's loop must turn."""

STALLED = 500
STREAMS_A_CONNECTION = 8
"""Few, so that no limit of a connection's streams spares the edge the others."""

STALL_BREATH_S = 0.05
PATIENCE_S = 1.0
"""How long who has lied waits for what the edge says to it."""


@dataclass(slots=True)
class Ground:
    """Where an attack takes place, and what it did."""

    address: str
    ticket: Ticket
    served: Description
    chance: Random
    did: Counter[str] = field(default_factory=Counter)
    texts: list[Text] = field(default_factory=list)  # of the honest tenant in the attacker's place

    def connection(self) -> EdgeConnection:
        """Return a connection of a well-behaved library."""
        return self.ticket.connection(self.address)

    def rude(self, *, reads: bool = True, known: bool = True) -> RudeConnection:
        """Return one of the other kind; who is not known shows no certificate."""
        return RudeConnection(self.address, tls(self.ticket, known=known), reads=reads)

    @property
    def call(self) -> bytes:
        """Return the header block of ``Generate``."""
        return headers(GENERATE, self.ticket.bearer)

    def opened(self, prompt: Sequence[int], max_tokens: int, **lies: object) -> Open:
        """Return an honest Open of a new session, but for ``lies``."""
        honest = Open(
            secrets.token_bytes(16),
            1,
            self.served.identity,
            Sampling(),
            (),
            max_tokens,
            len(prompt),
            len(prompt),
            ids_digest(prompt),
            0,
        )
        return replace(honest, **lies)  # type: ignore[arg-type]

    def prompt(self, tokens: int) -> tuple[int, ...]:
        """Return random ids."""
        return tuple(self.chance.randrange(self.served.vocabulary) for _ in range(tokens))


def tls(ticket: Ticket, *, known: bool = True) -> ssl.SSLContext:
    """Return how a rude client speaks TLS; it does not care whom it talks to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if known:
        context.load_cert_chain(ticket.certificate, ticket.private_key)
    return context


Attack = Callable[[Ground], Awaitable[None]]


async def workers(count: int, work: Callable[[], Awaitable[None]]) -> None:
    """Let so many do the same thing over and over; what an edge answers them with stops none."""

    async def forever() -> None:
        while True:
            with suppress(SpecError, OSError, ssl.SSLError, asyncio.IncompleteReadError):
                await work()
            await asyncio.sleep(BREATH_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(forever())


async def crowd(ground: Ground, work: Callable[[Ground, EdgeConnection], Awaitable[None]]) -> None:
    """Let ``SESSIONS`` workers do it, no more of them on a connection than it carries calls."""

    async def some() -> None:
        async with ground.connection() as opened:
            await workers(STREAMS_A_CONNECTION, lambda: work(ground, opened))

    await asyncio.gather(*(some() for _ in range(SESSIONS // STREAMS_A_CONNECTION)))


# ---- drafts that are never accepted ----


async def wide(ground: Ground) -> None:
    """Sessions whose drafts are as wide as frames and credits allow, and always wrong."""
    await crowd(ground, _wide)


async def _wide(ground: Ground, opened: EdgeConnection) -> None:
    prompt = ground.prompt(16)
    stream = opened.generate(ground.served.vocabulary)
    path = HashedPath(root_hash(ground.served.identity))
    path.extend(prompt)
    seq = 0
    try:
        await stream.send(ground.opened(prompt, ground.served.limits.context_tokens - len(prompt)))
        await stream.send(Prefix(1, 0, prompt))
        async for answer in stream:
            if isinstance(answer, Ping):
                await stream.send(replace(answer, ack=True))
            elif isinstance(answer, Refused):
                ground.did["refused"] += 1
                if answer.ends_stream:
                    return
            elif isinstance(answer, Opened | Commit):
                if isinstance(answer, Commit):
                    path.extend(answer.ids[path.length - answer.base :])
                    ground.did["commits"] += 1
                for wrong in wrong_frames(ground, path, seq):
                    seq = wrong.seq
                    ground.did["nodes"] += len(wrong.ids)
                    await stream.send(wrong)
    finally:
        stream.cancel()


def wrong_frames(ground: Ground, path: HashedPath, seq: int) -> list[Draft]:
    """Return frames that use up a session's credits: chains as long as a pass takes, no two alike.

    Once the text has gone on, all of them are void, but for a lucky one.
    """
    nodes = min(ground.served.limits.frame_nodes, PASS_NODES)
    firsts = ground.chance.sample(range(ground.served.vocabulary), ground.served.limits.live_nodes // nodes)
    return [
        Draft(1, seq + 1 + index, path.length, path.length, path.end, (first, *ground.prompt(nodes - 1)))
        for index, first in enumerate(firsts)
    ]


# ---- streams that stand still ----


async def stalled(ground: Ground) -> None:
    """Keep ``STALLED`` streams open that say too little or hear nothing; whatever is ended is opened anew."""
    await hold(ground, STALLED, again=True)


async def hold(ground: Ground, count: int, *, again: bool, held: list[RudeStream] | None = None) -> None:
    """Open so many stalled streams of all three kinds and wait until each was ended; ``again``: for ever.

    A third never says Open, a third never sends the prefix, a third is complete and reads nothing. They go to ``held``.
    """

    async def one(size: int) -> None:
        async with ground.rude(reads=False) as rude, asyncio.TaskGroup() as group:
            for kind in range(size):
                group.create_task(keep(rude, kind))

    async def keep(rude: RudeConnection, kind: int) -> None:
        while True:
            stream = await _stall(ground, rude, kind)
            ground.did["stalled"] += 1
            if held is not None:
                held.append(stream)
            await stream.ended.wait()
            if not again or rude.closed.is_set():
                return
            await asyncio.sleep(STALL_BREATH_S)

    connections = count // STREAMS_A_CONNECTION
    if again:
        await workers(connections, lambda: one(STREAMS_A_CONNECTION))
    sizes = [STREAMS_A_CONNECTION] * connections + [count % STREAMS_A_CONNECTION]
    outcomes = await asyncio.gather(*(one(size) for size in sizes if size), return_exceptions=True)
    ground.did["connections_failed"] += sum(isinstance(outcome, Exception) for outcome in outcomes)


async def _stall(ground: Ground, rude: RudeConnection, kind: int) -> RudeStream:
    stream = rude.open(ground.call)
    prompt = ground.prompt(32)
    if kind % 3:
        await rude.send(stream, packed(ground.opened(prompt, 900)))
    if kind % 3 == 2:
        await rude.send(stream, packed(Prefix(1, 0, prompt)))
    return stream


def packed(*frames: Open | Prefix | Draft | Ping | Report) -> bytes:
    """Return frames as gRPC messages."""
    return b"".join(message(device_frame_to_proto(one).SerializeToString()) for one in frames)


# ---- resume storms ----


async def resumes(ground: Ground) -> None:
    """Attach new sessions with prefixes as long as the context, take the first token, and come again with another."""
    await crowd(ground, _resume)


async def _resume(ground: Ground, opened: EdgeConnection) -> None:
    ids = ground.prompt(ground.served.limits.context_tokens - 8)
    prompt_length = ground.chance.randint(1, len(ids) // 2)
    stream = opened.generate(ground.served.vocabulary)
    try:
        await stream.send(ground.opened(ids, len(ids) - prompt_length + 8, prompt_length=prompt_length))
        for at in range(0, len(ids), CHUNK_TOKENS):
            await stream.send(Prefix(1, at, ids[at : at + CHUNK_TOKENS]))
        async for answer in stream:
            if isinstance(answer, Ping):
                await stream.send(replace(answer, ack=True))
            elif isinstance(answer, Refused):
                ground.did["refused"] += 1
                return
            elif isinstance(answer, Commit):
                ground.did["prefilled"] += len(ids)
                return
    finally:
        stream.cancel()


# ---- lies ----


async def lies(ground: Ground) -> None:
    """Open with lengths, digests and starts that do not fit one another or what follows."""
    await crowd(ground, _lie)


async def _lie(ground: Ground, opened: EdgeConnection) -> None:
    first, rest = ground.chance.choice(lying(ground, ground.prompt(256)))
    await _told(ground, opened, [first, *rest])


def lying(ground: Ground, ids: tuple[int, ...]) -> list[tuple[Open, Sequence[Prefix]]]:
    """Return streams' beginnings whose parts do not fit one another."""
    context, prefix, most = ground.served.limits.context_tokens, Prefix(1, 0, ids), 1 << 30
    return [
        (ground.opened(ids, 64, digest=secrets.token_bytes(32)), [prefix]),
        (ground.opened(ids, 64, length=context + 1), [prefix] * 20),
        (ground.opened(ids, most), [prefix]),
        (ground.opened(ids, 64, prompt_length=most, length=most), [prefix]),
        (ground.opened(ids, 64, length=300), [prefix, Prefix(1, len(ids), ids)]),
        (ground.opened(ids, 64, prefix_start=200), [Prefix(1, 200, ids)]),
        (ground.opened(ids, 64), [Prefix(1, 7, ids)]),
        (ground.opened(ids, 64), [Prefix(1, 0, ids[:-1]), Prefix(1, len(ids) - 1, ids)]),
    ]


async def gaps(ground: Ground) -> None:
    """Send drafts out of order, acks of what was never committed, and frames of other epochs."""
    await crowd(ground, _gap)


async def _gap(ground: Ground, opened: EdgeConnection) -> None:
    ids = ground.prompt(32)
    path = HashedPath(root_hash(ground.served.identity))
    path.extend(ids)
    draft = Draft(1, 1, len(ids), len(ids), path.end, ground.prompt(4))
    wrong = ground.chance.choice(wrong_drafts(ground, draft))
    await _told(ground, opened, [ground.opened(ids, 512), Prefix(1, 0, ids), wrong, replace(wrong, seq=9)])


def wrong_drafts(ground: Ground, draft: Draft) -> list[Draft]:
    """Return drafts that do not follow; the last one hangs under nothing that there is."""
    end = draft.base
    return [
        replace(draft, seq=3),
        replace(draft, seq=(1 << 32) - 1),
        replace(draft, acked=end + 1000, base=end + 1000),
        replace(draft, epoch=2),
        replace(draft, base=end + 5, base_hash=secrets.token_bytes(8)),
    ]


async def _told(ground: Ground, opened: EdgeConnection, said: Sequence[Open | Prefix | Draft]) -> None:
    """Say all of it and wait for the answer that ends the stream, but not for long."""
    stream = opened.generate(ground.served.vocabulary)
    try:
        for one in said:
            await stream.send(one)
        ground.did["told"] += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await _refused(ground, stream)
    finally:
        stream.cancel()


async def _refused(ground: Ground, stream: EdgeStream) -> None:
    async for answer in stream:
        if isinstance(answer, Refused):
            ground.did["refused"] += 1
            return


# ---- floods ----

FLOODS = 4  # connections
FLOOD_STREAMS = 4  # on each
FLOOD_FRAMES = 512


async def flood(ground: Ground) -> None:
    """Fill the line with frames that cost nothing to make: pings, reports, empty drafts, HTTP/2's own pings, resets."""
    kinds = iter(range(1 << 30))
    await workers(FLOODS, lambda: _flood(ground, next(kinds) % FLOODS))


async def _flood(ground: Ground, kind: int) -> None:
    async with ground.rude() as rude:
        if kind == 0:
            await _reset(ground, rude)
        elif kind == 1:
            await _ping(ground, rude)
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(FLOOD_STREAMS):
                    group.create_task(_babble(ground, rude, pings=kind == FLOODS - 1))


async def _reset(ground: Ground, rude: RudeConnection) -> None:
    """Open calls and cancel them at once (CVE-2023-44487)."""
    block = ground.call
    while not rude.closed.is_set():
        for _ in range(20):
            rude.reset(rude.open(block))
            ground.did["resets"] += 1
        await rude.drained()
        await asyncio.sleep(BREATH_S)


async def _ping(ground: Ground, rude: RudeConnection) -> None:
    while not rude.closed.is_set():
        rude.say(frame(PING, 0, 0, bytes(8)) * 200)
        ground.did["h2_pings"] += 200
        await rude.drained()
        await asyncio.sleep(BREATH_S)


async def _babble(ground: Ground, rude: RudeConnection, *, pings: bool) -> None:
    """Talk on one stream for as long as it lasts."""
    stream, prompt, seq = rude.open(ground.call), ground.prompt(16), 0
    await rude.send(stream, packed(ground.opened(prompt, 900), Prefix(1, 0, prompt)))
    path = HashedPath(root_hash(ground.served.identity))
    path.extend(prompt)
    while not stream.ended.is_set():
        if pings:
            said = [Ping(1, 1 + number) if number % 2 else Report(1, waits=True) for number in range(FLOOD_FRAMES)]
            block = packed(*said)
        else:
            acks = range(seq + 1, seq + 1 + FLOOD_FRAMES)
            block = packed(*(Draft(1, number, len(prompt), len(prompt), path.end) for number in acks))
            seq += FLOOD_FRAMES
        sent = await rude.send(stream, block)
        ground.did["flooded_frames"] += FLOOD_FRAMES * sent // len(block)
        await asyncio.sleep(0)


# ---- those whom nobody knows ----


async def strangers(ground: Ground) -> None:
    """Connect and hang up, without a certificate, with a wrong key, or without a word."""
    await workers(8, lambda: _stranger(ground, ground.chance.randrange(3)))


async def _stranger(ground: Ground, kind: int) -> None:
    ground.did["knocks"] += 1
    if kind == 0:
        host, _, port = ground.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01" + ground.chance.randbytes(64))
        await writer.drain()
        await asyncio.sleep(BREATH_S)
        writer.close()
        return
    async with ground.rude(known=kind == 1) as rude:
        for _ in range(20):
            rude.open(headers(GENERATE, "adk_" + secrets.token_urlsafe(32)))
            ground.did["guesses"] += 1
        await rude.drained()
        with suppress(TimeoutError):
            await asyncio.wait_for(rude.closed.wait(), 0.2)


# ---- all of it, and none ----


async def everything(ground: Ground) -> None:
    """Do it all at once."""
    async with asyncio.TaskGroup() as group:
        for attack in (wide, stalled, resumes, lies, gaps, flood, strangers):
            group.create_task(_attacked(attack, ground))


async def _attacked(attack: Attack, ground: Ground) -> None:
    await attack(ground)


async def honest(ground: Ground) -> None:
    """Write texts, as the victims do."""
    wish = Wish(ground.chance.randrange(1 << 30), ground.chance.randrange(1 << 16), 0.0)
    async with ground.connection() as opened:
        await write_on(opened, ground.served, 99, wish, ground.texts)


ATTACKS: dict[str, Attack] = {
    "wide": wide,
    "stalled": stalled,
    "resumes": resumes,
    "lies": lies,
    "gaps": gaps,
    "flood": flood,
    "strangers": strangers,
    "all": everything,
}


async def attacked(name: str, ground: Ground, seconds: float) -> dict[str, float]:
    """Let an attack, or ``honest``, go on for so long; return what it did, and the processor seconds that it took."""
    began_s = time.process_time()
    task = asyncio.ensure_future((ATTACKS | {"honest": honest})[name](ground))
    await asyncio.wait([task], timeout=seconds)
    if task.done():
        task.result()
    task.cancel()
    await asyncio.wait([task])
    return {**ground.did, "processor_s": time.process_time() - began_s}
