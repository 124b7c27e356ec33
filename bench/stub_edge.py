"""An edge process around a stub model: the real service, sessions and gRPC, and passes that cost next to nothing.

``python -m bench.stub_edge --port 0`` prints ``listening HOST:PORT`` and serves until it is killed. The model's next
token is a hash of the whole path before it, and the cache holds one hash a row, so that a cache which kept a wrong row,
lost one or was replayed wrongly writes another text. A pass lasts ``PASS_S`` and a little for each of its positions.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated

import typer

from airdraft.core.paths import next_hash
from airdraft.core.types import Limits, Span
from airdraft.wire.describe import Description
from bench.figures import REPOSITORY
from bench.processes import ONE_THREAD, EdgeFailed, pin
from edge_node.step import Extent, Fill

if TYPE_CHECKING:
    from torch import Tensor

PASS_S = 0.005
POSITION_S = 20e-6
"""A replay of 512 positions lasts three times as long as a pass of one."""

VOCABULARY = 256
POOL_ROWS = 1 << 18
"""Enough for 200 texts of the whole context."""
KEEP_S = 60.0
"""How long a session without a stream is kept: the edge node's default."""

_ROOT = bytes(8)


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=32).digest()


DESCRIPTION = Description(
    model_name="stub",
    model_digest=_digest("stub model"),
    tokenizer_digest=_digest("stub tokenizer"),
    stop_ids=(),
    vocabulary=VOCABULARY,
    limits=Limits(context_tokens=1024),
    numerics="exact/stub",
)


def stub_text(prompt: Sequence[int], tokens: int) -> list[int]:
    """Return what the stub model writes after a prompt."""
    path = _ROOT
    for token in prompt:
        path = next_hash(path, token)
    text: list[int] = []
    for _ in range(tokens):
        text.append(_choice(path))
        path = next_hash(path, text[-1])
    return text


def _choice(path: bytes) -> int:
    return int.from_bytes(path, "little") % VOCABULARY


@dataclass(frozen=True, slots=True)
class ScriptedDrafter:
    """A drafter that knows a whole text, prompt included, and errs at every so many positions."""

    whole: Sequence[int]
    error_every: int

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Go on with the text."""
        places = range(len(path), min(len(path) + count, len(self.whole)))
        return [(self.whole[place] + (place % self.error_every == 0)) % VOCABULARY for place in places]

    def learn(self, ids: Sequence[int]) -> None:
        """Know it already."""


class StubEngine:
    """What a step runner needs of an engine: a pool whose rows are hashes, each of the path that ends there."""

    def __init__(
        self,
        pass_s: float = PASS_S,
        position_s: float = POSITION_S,
        rows: int = POOL_ROWS,
        context_tokens: int = DESCRIPTION.limits.context_tokens,
    ) -> None:
        """Let a pass last ``pass_s`` and ``position_s`` for each of its positions."""
        self._pass_s, self._position_s = pass_s, position_s
        self._hashes: list[bytes | None] = [None] * rows
        self.rows, self.context_tokens = rows, context_tokens
        self.computed = 0

    def fill(self, fill: Fill) -> None:
        """Copy or clear rows."""
        end = fill.target + fill.rows
        if fill.source is None:
            self._hashes[fill.target : end] = [None] * fill.rows
        else:
            self._hashes[fill.target : end] = self._hashes[fill.source : fill.source + fill.rows]

    def extend(self, work: Sequence[tuple[Extent, Span]]) -> list[Tensor]:
        """Run each span; return float32 logits [wanted, V] that are 1 at the choice and 0 elsewhere."""
        positions = sum(len(span.tokens) for _, span in work)
        due = time.perf_counter() + self._pass_s + self._position_s * positions
        hashes = [self.write(extent, span) for extent, span in work]
        logits = [
            _logits([written[index] for index in span.wanted]) for (_, span), written in zip(work, hashes, strict=True)
        ]
        self.computed += positions
        time.sleep(max(0.0, due - time.perf_counter()))
        return logits

    def extend_with_states(self, work: Sequence[tuple[Extent, Span]]) -> tuple[list[Tensor], list[Tensor]]:
        """Refuse: there is no model here whose states could be read."""
        raise NotImplementedError("the stub judges nothing")

    def write(self, extent: Extent, span: Span) -> list[bytes]:
        """Take a span's rows as a model's cache would; return the hash at each of them."""
        start = extent.first + span.start
        if span.gather:
            moved = [self._hashes[extent.first + row] for row in span.gather]
            self._hashes[start - len(moved) : start] = moved
        before = self._hashes[start - 1] if span.start else _ROOT
        assert before is not None, f"row {span.start - 1} of the session was never written"
        written: list[bytes] = []
        for index, token in enumerate(span.tokens):
            parent = index - 1 if span.parents is None else span.parents[index]
            written.append(next_hash(written[parent] if parent >= 0 else before, token))
        self._hashes[start : start + len(written)] = written
        return written


def _logits(paths: Sequence[bytes]) -> Tensor:
    import torch

    logits = torch.zeros(len(paths), VOCABULARY)
    for row, path in enumerate(paths):
        logits[row, _choice(path)] = 1.0
    return logits


@dataclass(frozen=True, slots=True)
class StubEdge:
    """A running stub edge."""

    address: str
    process: asyncio.subprocess.Process


@asynccontextmanager
async def stub_edge() -> AsyncIterator[StubEdge]:
    """Run a stub edge on core 0 until the block ends. Raises EdgeFailed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.stub_edge", "--port", "0", "--core", "0"),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | ONE_THREAD,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()  # empty where it ended
        if not line.startswith("listening "):
            raise EdgeFailed("the stub edge did not start; its message stands above")
        yield StubEdge(line.split()[1], process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def serve(port: int) -> None:
    """Serve until the process ends."""
    import grpc
    import torch

    from airdraft.wire.server import SERVER_OPTIONS, add_verification
    from edge_node.engine.runner import StepRunner
    from edge_node.engine_thread import EngineThread
    from edge_node.kv_pool import KvPool
    from edge_node.metrics import EdgeMetrics
    from edge_node.service import EdgeService
    from edge_node.sessions import SessionTable, Terms

    torch.set_num_threads(1)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    service = EdgeService(SessionTable(Terms(most=1024, keep_s=KEEP_S), EdgeMetrics("stub")))
    add_verification(server, service)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    engine = StubEngine()
    with EngineThread(StepRunner(engine, VOCABULARY)) as thread:
        service.ready(thread, DESCRIPTION, KvPool(engine.rows))
        print(f"listening 127.0.0.1:{bound}", flush=True)
        await server.wait_for_termination()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 0,
    core: Annotated[int | None, typer.Option(help="Core to stay on. [default: any]")] = None,
) -> None:
    """Serve the stub model."""
    if core is not None:
        pin(core)
    asyncio.run(serve(port))


if __name__ == "__main__":
    app()
