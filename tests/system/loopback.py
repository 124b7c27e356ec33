"""An edge node's service on real gRPC in this process, and devices that talk to it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from airdraft.core.callers import Gatekeeper
from airdraft.core.drafting import Drafter
from airdraft.core.session import Committed, DeviceSession
from airdraft.core.types import EXACT, Granted, Limits, Plan, Sampling, Semantic
from airdraft.wire.client import EdgeConnection, Traffic
from airdraft.wire.describe import Description
from airdraft.wire.guard import Guard
from airdraft.wire.server import SERVER_OPTIONS, add_verification
from airdraft.wire.tls import ServerTls
from device_client.generation import Generation
from edge_node.audits import Audits
from edge_node.engine.engine import TargetEngine
from edge_node.engine.judging import judge_of
from edge_node.engine.runner import EdgeDrafter, StepRunner
from edge_node.engine.target import Target
from edge_node.engine_thread import EngineThread
from edge_node.granting import Granting
from edge_node.heads import HeadFile
from edge_node.kv_pool import KvPool
from edge_node.metrics import EdgeMetrics
from edge_node.service import EdgeService
from edge_node.sessions import SessionTable, Terms
from edge_node.stream_watch import PATIENCE, Patience
from edge_node.tenants import Tenants

POOL_ROWS = 1 << 14


@dataclass(slots=True)
class Loopback:
    """A running edge service."""

    address: str
    service: EdgeService
    description: Description


@asynccontextmanager
async def edge_on_loopback(
    target: Target,
    *,
    limits: Limits | None = None,
    terms: Terms | None = None,
    drafter: EdgeDrafter | None = None,
    pool_rows: int = POOL_ROWS,
    tokenizer_digest: bytes = b"t" * 32,
    heads: Sequence[HeadFile] = (),
    audits: Callable[[EdgeMetrics], Audits] | None = None,
    tls: ServerTls | None = None,
    gatekeeper: Gatekeeper | None = None,
    tenants: Tenants | None = None,
    patience: Patience = PATIENCE,
) -> AsyncIterator[Loopback]:
    """Serve a target on a free port of the loopback interface; ``drafter`` writes for devices that idle."""
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[Guard(gatekeeper)])
    metrics, granting = EdgeMetrics(target.name), Granting(heads)
    granting.check(target.model_digest)
    terms = terms or Terms(most=64, keep_s=60)
    sessions = SessionTable(
        terms, metrics, granting=granting, audits=None if audits is None else audits(metrics), tenants=tenants
    )
    service = EdgeService(sessions, patience=patience)
    description = Description(
        model_name=target.name,
        model_digest=target.model_digest,
        tokenizer_digest=tokenizer_digest,
        stop_ids=target.stop_ids,
        vocabulary=target.vocabulary,
        limits=limits or Limits(context_tokens=target.context_tokens),
        numerics="fast/float32/cpu",
        tokenizer_json=target.tokenizer_json,
    )
    add_verification(server, service)
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", tls.credentials())
    await server.start()
    runner = StepRunner(
        TargetEngine(target, pool_rows, poison=True), target.vocabulary, drafter, judge=judge_of(target, heads)
    )
    try:
        with EngineThread(runner) as thread:
            service.ready(thread, description, KvPool(pool_rows))
            yield Loopback(f"127.0.0.1:{port}", service, description)
            service.close()
    finally:
        await server.stop(grace=0)


@dataclass(slots=True)
class Recorder:
    """A watcher that keeps what it saw."""

    ids: list[int] = field(default_factory=list)
    events: list[Committed] = field(default_factory=list)

    def committed(self, event: Committed) -> None:
        """Keep what is final."""
        self.events.append(event)
        self.ids.extend(event.ids)

    def drafted(self, ahead: Sequence[int]) -> None:
        """Forget what is not."""


@dataclass(slots=True)
class Answer:
    """One generation as the device saw it."""

    session: DeviceSession
    traffic: Traffic
    recorder: Recorder
    granted: Granted = EXACT

    @property
    def ids(self) -> list[int]:
        """Return the committed ids, without the prompt."""
        return list(self.session.ids[self.session.prompt_length :])


def session_for(
    edge: Loopback,
    prompt: Sequence[int],
    *,
    draft_length: int,
    max_tokens: int,
    outstanding: int = 1,
    sampling: Sampling | None = None,
    semantic: Semantic | None = None,
) -> DeviceSession:
    """Return a device session for this edge, with a session id of its own."""
    return DeviceSession(
        secrets.token_bytes(16),
        edge.description.identity,
        prompt,
        sampling=sampling or Sampling(),
        stop_ids=edge.description.stop_ids,
        max_tokens=max_tokens,
        limits=edge.description.limits,
        plan=Plan(draft_length, outstanding),
        semantic=semantic,
    )


async def ask(
    edge: Loopback,
    connection: EdgeConnection,
    prompt: Sequence[int],
    drafter: Drafter,
    *,
    draft_length: int,
    max_tokens: int,
    outstanding: int = 1,
    sampling: Sampling | None = None,
    semantic: Semantic | None = None,
    pad: bool = False,
) -> Answer:
    """Let the edge answer a prompt with this drafter on the device."""
    session = session_for(
        edge,
        prompt,
        draft_length=draft_length,
        max_tokens=max_tokens,
        outstanding=outstanding,
        sampling=sampling,
        semantic=semantic,
    )
    stream = connection.generate(edge.description.vocabulary, pad=pad)
    recorder = Recorder()
    async with asyncio.timeout(60):
        with Generation(session, drafter, recorder) as generation:
            await generation.over(stream)
    return Answer(session, stream.traffic, recorder, generation.granted)


@dataclass(slots=True)
class ListedDrafter:
    """A drafter that knows a text and errs now and then, at places that its salt decides."""

    text: Sequence[int]
    vocabulary: int
    error_every: int = 0  # 0: never
    salt: int = 0

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Go on with the text, where the path is on it."""
        tokens: list[int] = []
        for index in range(len(path), min(len(path) + count, len(self.text))):
            wrong = self.error_every and (index * 7919 + self.salt) % self.error_every == 0
            tokens.append((self.text[index] + 1) % self.vocabulary if wrong else self.text[index])
        return tokens

    def learn(self, ids: Sequence[int]) -> None:
        """Know it already."""
