"""An edge process at a stated pace: the real service, sessions, engine and gRPC; only what passes take is stated.

``python -m bench.paced_edge --edge-draft none --edge-draft demo:4`` serves the demo target on a free port for each
``--edge-draft`` and prints ``listening DRAFT HOST:PORT`` for each, then ``ready``. It answers every line that it reads
with a line of JSON: by how many seconds passes and drafted tokens ended late since the last one, and for how many
seconds they were at work. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from airdraft.core.drafting import Drafter
from airdraft.core.types import Sampling
from airdraft.link.pacing import NoisyDrafter, Pacer
from bench.cells import PASS, Models
from bench.processes import pin
from bench.radio_memory import Memories, Remembering
from bench.radio_text import NOISE_SEED
from bench.semantic_states import heads_of
from coordinator.policy.costs import PassCost
from edge_node.engine_thread import EngineThread
from edge_node.step import Drafted, DraftStep, Step, StepDone

if TYPE_CHECKING:
    from edge_node.engine.drafter import NewDrafter
    from edge_node.engine.runner import EdgeDrafter, StepRunner
    from edge_node.engine.target import Target
    from edge_node.service import EdgeService

POOL_ROWS = 1 << 13
KEEP_S = 1.0
"""How long a session without a stream is kept; no text of the bench is gone on with."""


@dataclass(frozen=True, slots=True)
class EdgeDraft:
    """What an edge does beside verifying: words with ``+`` between them, or ``none``.

    ``ahead``: it goes ahead of its devices. ``DRAFTER:LENGTH``: it drafts. ``adapts``: so many tokens at most, fewer
    where few are accepted. ``no-bonus``: it leaves the token after an accepted draft to the next one. ``meaning``: it
    has a head that judges by the target alone; ``meaning-full``: one that reads states too; ``meaning-wide``: that one,
    for states that are filled up with zeros.
    """

    ahead: bool
    drafter: str  # empty where there is none
    length: int
    bonus: bool = True
    adapts: bool = False
    meaning: str = ""

    @classmethod
    def of(cls, words: str) -> EdgeDraft:
        """Return what words like ``ahead+demo:4`` mean."""
        parts = words.split("+")
        drafter, _, length = next((part for part in parts if ":" in part), "").rpartition(":")
        meaning = next((part for part in parts if part.startswith("meaning")), "")
        return cls("ahead" in parts, drafter, int(length or 0), "no-bonus" not in parts, "adapts" in parts, meaning)


@dataclass(slots=True)
class Pace:
    """What the models are to cost; None is their own pace. And what they did."""

    target: PassCost | None
    draft_s: float | None
    pacer: Pacer
    memories: Memories = field(default_factory=Memories)
    makers: dict[str, NewDrafter] = field(default_factory=dict)
    worked_s: float = 0.0  # passes and drafts since the last answer

    def done(self) -> dict[str, object]:
        """Return what passes and drafts came to since the last time."""
        worked_s, self.worked_s = self.worked_s, 0.0
        return {"late_s": self.pacer.take_late_s(), "edge_s": worked_s}


class PacedThread(EngineThread):
    """An engine on a thread, whose passes and drafts last what is stated, from when they are asked for to their answer.

    So the choice of tokens is in a pass, as a large model's is; and the way to the engine, some 0.04 ms where that is a
    process of its own (ADR 0010), is in it too: here it would be longer, for both share a core and an interpreter.
    """

    def __init__(self, runner: StepRunner, draft: EdgeDraft, pace: Pace) -> None:
        super().__init__(self)
        self._real, self._pace = runner, pace
        self._draft_s = 0.0 if draft.drafter == "ngram" and pace.draft_s else pace.draft_s
        self._asked_s = 0.0

    def submit(self, message: Step | DraftStep, then: Callable[[StepDone | Drafted | Exception], None]) -> None:
        """Ask the engine; a front asks one thing at a time."""
        self._asked_s = self._pace.pacer.clock()
        super().submit(message, then)

    def run(self, step: Step) -> StepDone:
        """Return a step's outcomes once its pass is due to end."""
        done = self._real.run(step)
        if self._pace.target is not None:
            done = replace(done, pass_s=self._lasted(self._pace.target.seconds(done.positions)))
        self._pace.worked_s += done.pass_s
        return done

    def draft(self, step: DraftStep) -> Drafted:
        """Return drafts once the longest one's last token is due."""
        drafted = self._real.draft(step)
        if self._draft_s is not None:
            drafted = replace(drafted, draft_s=self._lasted(self._draft_s * max(map(len, drafted.tokens), default=0)))
        self._pace.worked_s += drafted.draft_s
        return drafted

    def _lasted(self, seconds: float) -> float:
        """Wait until so long after the engine was asked, where it is at all; return how long it was."""
        if not seconds:
            return 0.0
        self._pace.pacer.until(self._asked_s + seconds)
        return self._pace.pacer.clock() - self._asked_s


def _drafter(name: str, target: Target, pace: Pace) -> EdgeDrafter | None:
    from edge_node.engine.drafter import SessionDrafters, new_drafter

    if not name:
        return None
    kind, _, acceptance = name.partition(":")
    reference = "demo-target" if kind == "noisy" else name
    if reference not in pace.makers:  # edges share a model
        pace.makers[reference] = new_drafter(reference, target, device="cpu", dtype="auto")
    new = pace.makers[reference]

    def drafter(sampling: Sampling) -> Drafter:
        made = new(sampling)
        if kind == "ngram" or pace.draft_s is None:
            return made
        made = Remembering(made, pace.memories.of(reference, sampling))
        return NoisyDrafter(made, float(acceptance), NOISE_SEED, target.vocabulary) if kind == "noisy" else made

    return SessionDrafters(drafter)


def _services(drafts: Sequence[str], pace: Pace, stack: ExitStack) -> dict[str, EdgeService]:
    """Return a service for each draft, as ``EdgeDraft.of`` reads it; they share one model, not its pool."""
    from edge_node.config import EdgeSettings
    from edge_node.engine.assembly import loaded_of
    from edge_node.engine.engine import TargetEngine
    from edge_node.engine.judging import judge_of
    from edge_node.engine.loading import load_target
    from edge_node.engine.runner import StepRunner
    from edge_node.granting import Granting
    from edge_node.kv_pool import KvPool
    from edge_node.metrics import EdgeMetrics
    from edge_node.server import describe
    from edge_node.service import EdgeService
    from edge_node.sessions import SessionTable, Terms

    settings = EdgeSettings()
    target = load_target("demo", device="cpu", max_context=settings.max_context)
    description = describe(loaded_of(target, TargetEngine(target, POOL_ROWS)), settings)
    services = {}
    for words in drafts:
        draft = EdgeDraft.of(words)
        terms = Terms(
            8,
            KEEP_S,
            own_draft_tokens=draft.length,
            own_draft_adapts=draft.adapts,
            run_ahead=draft.ahead,
            bonus=draft.bonus,
        )
        heads = heads_of(draft.meaning)
        service = EdgeService(SessionTable(terms, EdgeMetrics("demo"), granting=Granting(heads)))
        drafter = _drafter(draft.drafter, target, pace)
        judge = judge_of(target, heads)
        runner = StepRunner(TargetEngine(target, POOL_ROWS), target.vocabulary, drafter, judge=judge)
        engine = stack.enter_context(PacedThread(runner, draft, pace))
        service.ready(engine, description, KvPool(POOL_ROWS))
        stack.callback(service.close)
        services[words] = service
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
            print(json.dumps(pace.done()), flush=True)
        for server in servers:
            await server.stop(grace=None)


def main(
    edge_draft: Annotated[
        list[str] | None,
        typer.Option(
            help="none, or with + between them: ahead (of the device); ngram, demo or noisy:SHARE, and :LENGTH; "
            "adapts (fewer where few are right); no-bonus; meaning, meaning-full, meaning-wide; repeatable. "
            "[default: none]"
        ),
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
    line = None if native else PassCost(pass_ms / 1e3, position_ms / 1e3)
    asyncio.run(serve(edge_draft or ["none"], Pace(line, None if native else draft_ms / 1e3, Pacer())))


if __name__ == "__main__":
    typer.run(main)
