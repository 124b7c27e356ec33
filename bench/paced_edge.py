"""An edge process at a stated pace: the real service, sessions, engine and gRPC; only how long a pass takes is stated.

``python -m bench.paced_edge --edge-draft none --edge-draft demo:4`` serves the demo target on a free port for each
``--edge-draft`` and prints ``listening DRAFT HOST:PORT`` for each, then ``ready``. It answers every line that it reads
with a line of JSON, by how many seconds passes and drafted tokens ended late since the last one; it ends with its
input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airdraft.core.drafting import Drafter
from airdraft.core.types import Sampling
from airdraft.link.pacing import NoisyDrafter, PacedDrafter, PacedEngine, Pacer
from bench.cells import PASS, Models
from bench.processes import pin
from bench.radio_text import NOISE_SEED
from coordinator.policy.costs import PassCost

if TYPE_CHECKING:
    from edge_node.engine.runner import EdgeDrafter
    from edge_node.engine.target import Target
    from edge_node.service import EdgeService

POOL_ROWS = 1 << 16
KEEP_S = 1.0
"""How long a session without a stream is kept; no text of the bench is gone on with."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What the models are to cost; None is their own pace."""

    target: PassCost | None
    draft_s: float | None
    pacer: Pacer


def _target_engine(target: Target, pace: Pace) -> Any:
    from edge_node.engine.engine import TargetEngine

    engine = TargetEngine(target, POOL_ROWS)
    return engine if pace.target is None else PacedEngine(engine, pace.target.seconds, pace.pacer)


def _drafter(name: str, target: Target, pace: Pace) -> EdgeDrafter | None:
    from edge_node.engine.drafter import SessionDrafters, new_drafter

    if name == "none":
        return None
    kind, _, acceptance = name.partition(":")
    new = new_drafter("demo-target" if kind == "noisy" else name, target, device="cpu", dtype="auto")

    def drafter(sampling: Sampling) -> Drafter:
        made = new(sampling)
        if kind == "noisy":
            made = NoisyDrafter(made, float(acceptance), NOISE_SEED, target.vocabulary)
        return made if pace.draft_s is None or kind == "ngram" else PacedDrafter(made, pace.draft_s, pace.pacer)

    return SessionDrafters(drafter)


def _services(drafts: Sequence[str], pace: Pace, stack: ExitStack) -> dict[str, EdgeService]:
    """Return a service for each draft, ``none`` or a drafter and a length; they share one model, not its pool."""
    from edge_node.config import EdgeSettings
    from edge_node.engine.assembly import loaded_of
    from edge_node.engine.engine import TargetEngine
    from edge_node.engine.loading import load_target
    from edge_node.engine.runner import StepRunner
    from edge_node.engine_thread import EngineThread
    from edge_node.kv_pool import KvPool
    from edge_node.metrics import EdgeMetrics
    from edge_node.server import describe
    from edge_node.service import EdgeService
    from edge_node.sessions import SessionTable, Terms

    settings = EdgeSettings()
    target = load_target("demo", device="cpu", max_context=settings.max_context)
    description = describe(loaded_of(target, TargetEngine(target, POOL_ROWS)), settings)
    services = {}
    for draft in drafts:
        name, _, length = draft.rpartition(":")
        terms = Terms(8, KEEP_S, own_draft_tokens=int(length) if name else 0, own_draft_adapts=False)
        service = EdgeService(SessionTable(terms, EdgeMetrics("demo")))
        runner = StepRunner(_target_engine(target, pace), target.vocabulary, _drafter(name or draft, target, pace))
        service.ready(stack.enter_context(EngineThread(runner)), description, KvPool(POOL_ROWS))
        stack.callback(service.close)
        services[draft] = service
    return services


async def serve(drafts: Sequence[str], pace: Pace) -> None:
    """Serve until the input ends."""
    import grpc
    import torch

    from airdraft.wire.server import SERVER_OPTIONS, add_verification

    torch.set_num_threads(1)
    servers: list[grpc.aio.Server] = []
    with ExitStack() as stack:
        for draft, service in _services(drafts, pace, stack).items():
            server = grpc.aio.server(options=SERVER_OPTIONS)
            add_verification(server, service)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            servers.append(server)
            print(f"listening {draft} 127.0.0.1:{port}", flush=True)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(pace.pacer.take_late_s()), flush=True)
        for server in servers:
            await server.stop(grace=None)


def main(
    edge_draft: Annotated[
        list[str] | None,
        typer.Option(help="none, or ngram, demo or noisy:SHARE, and :LENGTH; may be repeated. [default: none]"),
    ] = None,
    pass_ms: Annotated[float, typer.Option(help="A pass over one position.")] = PASS.fixed_s * 1e3,
    position_ms: Annotated[float, typer.Option(help="Each further position.")] = PASS.per_position_s * 1e3,
    draft_ms: Annotated[float, typer.Option(help="A token that the edge's own model drafts.")] = Models().draft_s * 1e3,
    native: Annotated[bool, typer.Option("--native", help="Let the models take what they take.")] = False,
    core: Annotated[int | None, typer.Option(help="Core to stay on. [default: any]")] = None,
) -> None:
    """Serve the demo target at a stated pace."""
    if core is not None:
        pin(core)
    pace = Pace(PassCost(pass_ms / 1e3, position_ms / 1e3), draft_ms / 1e3, Pacer())
    asyncio.run(serve(edge_draft or ["none"], Pace(None, None, pace.pacer) if native else pace))


if __name__ == "__main__":
    typer.run(main)
