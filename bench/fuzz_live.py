"""The live part of ``bench fuzz``: a hostile tenant at a real edge over mTLS, and others that write their texts there.

The edge is ``edge_node serve --model demo --profile strict`` as a process, with certificates and keys of its own. The
hostile tenant has several connections and one key; its allowance and the edge's options are the defaults, so that what
slows it is what slows everybody: 16 streams a second may be opened. So most of its frames are such as an edge bears,
however odd, and the others end a stream. The other tenants write the same texts again and again; under ``strict`` each
must be, id for id, what it was on the quiet edge.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc
from tokenizers import Tokenizer

from airdraft.core.drafting import NgramDrafter
from airdraft.core.errors import MalformedFrame, SpecError
from airdraft.core.session import Committed, DeviceSession
from airdraft.core.types import Plan, Refused, Sampling
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.access import Access
from airdraft.wire.client import EdgeConnection
from airdraft.wire.convert import edge_frame_from_proto
from airdraft.wire.describe import Description
from bench.fuzz_edge import Edge, serving
from bench.prompts import held_out
from device_client.generation import Generation
from fuzz.hostile import HostileDevice, Place

VICTIMS = 3
PROMPTS = 4  # of a victim
ANSWER_TOKENS = 24
CONNECTIONS = 4  # of the hostile tenant
STREAMS = 4  # of a connection
CALM = 0.96
FRAMES = (30, 60, 150)  # of a stream, where it lives so long
PATIENCE_S = 5.0  # for a stream to end that was half-closed

_GENERATE = "/airdraft.v1.Verification/Generate"
_OURS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
_NOISE = re.compile(r"Traceback|Exception|exception|\bERROR\b|CRITICAL")
_OWN_LIBRARY = "Internal error from Core"
"""What grpc.aio calls a batch of its own that failed, at the hostile client: no word of an edge's."""

_CHANNEL: list[tuple[str, int]] = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


@dataclass(slots=True)
class Live:
    """What the live part found."""

    frames: int = 0  # of the hostile tenant, on streams that had not been refused yet
    streams: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)  # what nobody may see, a line each
    crashes: int = 0  # processes of the edge that ended
    texts: int = 0  # of victims, during the attack
    unchanged: int = 0
    waits: int = 0  # times that a victim was told to come back
    rss_growth_mb: float = 0.0
    seconds: float = 0.0


# ---- tenants that want their texts ----


@dataclass(frozen=True, slots=True)
class _Wish:
    prompt: tuple[int, ...]
    sampling: Sampling


class _Unseen:
    """Somebody who does not look."""

    def committed(self, event: Committed) -> None:
        """Look away."""

    def drafted(self, ahead: Sequence[int]) -> None:
        """Look away."""


async def _wishes(running: Edge) -> list[list[_Wish]]:
    """Return what each victim asks for: half of it argmax, half of it drawn."""
    async with EdgeConnection(running.address, running.access[1]) as connection:
        served = await connection.describe(include_tokenizer=True)
    tokenizer = Tokenizer.from_str(served.tokenizer_json)
    prompts = [tuple(tokenizer.encode(prompt).ids) for prompt in held_out(VICTIMS * PROMPTS)]
    wishes = [_Wish(ids, Sampling(0.8 * (place % 2), seed=place)) for place, ids in enumerate(prompts)]
    return [wishes[begin : begin + PROMPTS] for begin in range(0, len(wishes), PROMPTS)]


async def _text(address: str, access: Access, wish: _Wish, live: Live | None) -> list[int]:
    """Return the ids that the edge writes, on a connection of its own; who is told to wait does so."""
    async with EdgeConnection(address, access) as connection:
        served = await connection.describe()
        session = DeviceSession(
            secrets.token_bytes(16),
            served.identity,
            wish.prompt,
            sampling=wish.sampling,
            stop_ids=served.stop_ids,
            max_tokens=ANSWER_TOKENS,
            limits=served.limits,
            plan=Plan(4, 2),
        )
        with Generation(session, NgramDrafter(), _Unseen()) as generation:
            while not session.ended:
                try:
                    await generation.over(connection.generate(served.vocabulary))
                except SpecError as error:
                    if live is None or not error.retry_after_s:
                        raise
                    live.waits += 1
                    await asyncio.sleep(error.retry_after_s)
    return list(session.ids[session.prompt_length :])


async def _writes_on(
    running: Edge, access: Access, wishes: Sequence[_Wish], right: Sequence[list[int]], live: Live
) -> None:
    """Write the same texts again and again until cancelled."""
    while True:
        for wish, known in zip(wishes, right, strict=True):
            text = await _text(running.address, access, wish, live)
            live.texts += 1
            live.unchanged += text == known
            if text != known:
                live.bugs.append(f"a victim's text differs: {text} where {known} was written before")


# ---- the tenant that does not ----


class _Attacker:
    """One connection of the hostile tenant."""

    def __init__(self, running: Edge, served: Description, seed: int, live: Live, wanted: int) -> None:
        self._running, self._live, self._wanted, self._seed = running, live, wanted, seed
        self._vocabulary = served.vocabulary
        self._place = Place(
            served.identity, served.vocabulary, served.limits, most_prompt=16, most_tokens=6, calm=CALM,
            samplings=(Sampling(), Sampling(0.9, seed=1, top_k=5), Sampling(0.0, repetition_penalty=1.3)),
            rules=("head", "typical", "no-rule"),
        )  # fmt: skip

    async def run(self) -> None:
        """Attack until enough frames were sent."""
        access = self._running.access[0]
        channel = access.channel(self._running.address, _CHANNEL)
        generate = channel.stream_stream(
            _GENERATE, request_serializer=lambda data: data, response_deserializer=pb.EdgeFrame.FromString
        )
        async with channel, asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(self._streams(generate, HostileDevice(self._place, Random(f"{self._seed} {number}"))))

    async def _streams(self, generate: Any, device: HostileDevice) -> None:
        access, address = self._running.access[0], self._running.address
        while self._live.frames < self._wanted:
            self._live.streams += 1
            call = generate(metadata=access.metadata(address))
            wait_s = await self._stream(call, device)
            twin = device.random.random() < 0.05 and device.epoch and not call.done()
            if twin:  # the next attach finds the stream before it still there
                asyncio.get_running_loop().call_later(1.0, call.cancel)
            else:
                call.cancel()
            await asyncio.sleep(wait_s)

    async def _stream(self, call: Any, device: HostileDevice) -> float:
        """Attack on one stream; return how long the edge asks to be left alone."""
        live, random = self._live, device.random
        ended = asyncio.Event()
        hearing = asyncio.create_task(self._hear(call, device, ended))
        try:
            queue = device.attach()
            for _ in range(random.choice(FRAMES)):
                if ended.is_set():
                    break
                await call.write(queue.pop(0) if queue else device.say())
                live.frames += 1
                if not queue and random.random() < 0.1:
                    await asyncio.sleep(0.02)  # so that answers come
            if random.random() < 0.3 or ended.is_set():
                await call.done_writing()
                async with asyncio.timeout(PATIENCE_S):
                    return await hearing
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError):
            pass  # the edge was faster
        finally:
            if not hearing.done() and not ended.is_set():
                hearing.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([hearing], timeout=PATIENCE_S)
        return hearing.result() if hearing.done() and not hearing.cancelled() else 0.0

    async def _hear(self, call: Any, device: HostileDevice, ended: asyncio.Event) -> float:
        """Read what the edge says; it must be what a device can read, and no confession of a bug."""
        live, wait_s = self._live, 0.0
        try:
            async for message in call:
                if message.HasField("cell"):
                    continue
                frame = edge_frame_from_proto(message, self._vocabulary) if _stream_of(message) else None
                refused = message.refused if message.HasField("refused") else None
                if refused is not None:
                    live.refusals[pb.RefusalCode.Name(refused.code).removeprefix("REFUSAL_CODE_")] += 1
                    wait_s = max(wait_s, refused.retry_after_ms / 1000)
                if frame is not None:
                    device.heard(frame)
                if refused is not None and (not isinstance(frame, Refused) or frame.ends_stream):
                    ended.set()
        except MalformedFrame as error:
            live.bugs.append(f"the edge said what no device can read: {error}")
        except grpc.aio.AioRpcError as error:
            live.statuses[error.code().name] += 1
            if error.code() in _OURS and error.details() != _OWN_LIBRARY:
                live.bugs.append(f"status {error.code().name}: {error.details()}")
        finally:
            ended.set()
        return wait_s


def _stream_of(message: pb.EdgeFrame) -> bool:
    """Say whether a message has an epoch: a refusal before any ``Open`` has none, and no device's core reads it."""
    kind = message.WhichOneof("frame")
    return bool(kind and getattr(message, kind).epoch)


# ---- the whole ----


async def attack(frames: int, seed: int) -> Live:
    """Attack a live edge with so many frames while other tenants write; return what came of it."""
    live = Live()
    names = ("hostile", *(f"house-{number}" for number in range(VICTIMS)))
    async with serving(names) as running:
        wishes = await _wishes(running)
        async with asyncio.TaskGroup() as group:
            quiet = [
                group.create_task(_quiet(running, access, asked))
                for access, asked in zip(running.access[1:], wishes, strict=True)
            ]
        right = [texts.result() for texts in quiet]
        async with EdgeConnection(running.address, running.access[0]) as connection:
            served = await connection.describe()
        pids, rss_mb, began_s = running.pids, running.rss_mb(), time.monotonic()
        tasks = [
            asyncio.create_task(_writes_on(running, access, asked, known, live))
            for access, asked, known in zip(running.access[1:], wishes, right, strict=True)
        ]
        tasks.append(asyncio.create_task(_attacks(running, served, seed, live, frames)))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # none of the victims ever ends by itself
        for task in tasks:
            if task.done() and (error := task.exception()) is not None:
                live.bugs.append(f"{type(error).__name__}: {error}")
            task.cancel()
        await asyncio.wait(tasks)
        live.seconds = time.monotonic() - began_s
        await _afterwards(running, pids, rss_mb, right, wishes, live)
    return live


async def _attacks(running: Edge, served: Description, seed: int, live: Live, frames: int) -> None:
    """Attack over every connection until so many frames were sent."""
    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(_Attacker(running, served, seed + number, live, frames).run())


async def _quiet(running: Edge, access: Access, wishes: Sequence[_Wish]) -> list[list[int]]:
    """Return a victim's texts as the edge writes them while nobody attacks."""
    return [await _text(running.address, access, wish, None) for wish in wishes]


async def _afterwards(
    running: Edge,
    pids: Sequence[int],
    rss_mb: float,
    right: Sequence[Sequence[list[int]]],
    wishes: Sequence[Sequence[_Wish]],
    live: Live,
) -> None:
    """Look at what the attack has left behind."""
    live.crashes = len({*pids} ^ {*running.pids})
    counted = await asyncio.to_thread(running.counted)
    for name, value in counted.items():
        if re.search(r"(engine_restarts|isolation_faults|pass_failures)_total$", name) and value:
            live.bugs.append(f"{name} {value:g}")
    live.crashes += int(next((value for name, value in counted.items() if "engine_restarts_total" in name), 0))
    live.bugs += [f"log: {line}" for line in running.log.read_text().splitlines() if _NOISE.search(line)]
    for access, asked, known in zip(running.access[1:], wishes, right, strict=True):
        if await _quiet(running, access, asked[:1]) != list(known[:1]):
            live.bugs.append("a victim's text differs when the attack is over")
    live.rss_growth_mb = running.rss_mb() - rss_mb
