"""An edge at a stated pace: the real service, sessions and gRPC, and the engine's process with stated seconds.

``python -m bench.engine_paced_edge FOLDER ENGINE LOG FIXED_MS POSITION_MS waits|ahead|speed SESSIONS`` prints
``listening HOST:PORT`` and serves until its input ends; ``ahead`` and ``speed`` go ahead of the devices, ``ahead`` as
``--favour edge-time`` does. Passes go to the log (``bench.engine_paced_engine``, which is the usual ENGINE).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Literal, cast

import grpc

from airdraft.wire.server import SERVER_OPTIONS, add_verification
from bench.engine_shape import CONTEXT_TOKENS
from bench.engine_texts import CORE, on_core
from bench.figures import REPOSITORY
from bench.processes import ONE_THREAD, EdgeFailed
from coordinator.policy.costs import PassCost
from edge_node.config import EdgeSettings
from edge_node.engine_messages import Loaded
from edge_node.engine_process import EngineDied, EngineProcess, Watch
from edge_node.kv_pool import KvPool
from edge_node.metrics import EdgeMetrics
from edge_node.server import describe, load_of
from edge_node.service import EdgeService
from edge_node.sessions import SessionTable, Terms

SESSIONS = 64
KEEP_S = 1.0

Ahead = Literal["waits", "ahead", "speed"]
"""Whether it goes ahead of its devices, and then in favour of edge time or of their speed."""


def _fail(event: EngineDied | Loaded) -> None:
    raise RuntimeError(f"an engine of the bench may not die: {event}")


async def serve(
    folder: Path, engine_module: str, pace: Sequence[str], ahead: Ahead = "waits", sessions: int = SESSIONS
) -> None:
    """Serve a checkpoint until the input ends; ``pace`` are the arguments of the engine's process."""
    settings = EdgeSettings(model=str(folder), device="cpu", max_sessions=sessions, max_context=CONTEXT_TOKENS)
    settings = settings.model_copy(update={"edge_draft_model": "none"})
    service = EdgeService(
        SessionTable(
            Terms(sessions, KEEP_S, run_ahead=ahead != "waits", thrifty=ahead != "speed"), EdgeMetrics("paced")
        )
    )
    command = (sys.executable, "-m", engine_module, *pace)
    engine = EngineProcess(Watch(lambda text: print(text, file=sys.stderr), _fail, _fail), command=command)
    loaded = await engine.start(load_of(settings))
    service.ready(engine, describe(loaded, settings), KvPool(loaded.rows))
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_verification(server, service)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening 127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    service.close()
    await server.stop(grace=None)
    await engine.close()


@contextmanager
def paced_edge(
    folder: Path,
    log: Path,
    line: PassCost,
    engine: str = "bench.engine_paced_engine",
    *,
    ahead: Ahead = "waits",
    sessions: int = SESSIONS,
) -> Iterator[str]:
    """Run such an edge, engine included, on the contestants' core; give its address. Raises EdgeFailed."""
    pace = [engine, str(log), str(line.fixed_s * 1e3), str(line.per_position_s * 1e3)]
    command = [sys.executable, "-m", "bench.engine_paced_edge", str(folder), *pace, ahead, str(sessions)]
    with subprocess.Popen(
        command, stdin=PIPE, stdout=PIPE, text=True, env=os.environ | ONE_THREAD, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            words = process.stdout.readline().split()  # blocks until it listens or ends
            if words[:1] != ["listening"]:
                raise EdgeFailed("the paced edge did not start; its message stands above")
            yield words[1]
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    with on_core(CORE):
        asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3:6], cast(Ahead, sys.argv[6]), int(sys.argv[7])))
