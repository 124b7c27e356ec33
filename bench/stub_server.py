"""The edge's process as it is served, TLS, guard and limits with it; only its model is a stub.

``python -m bench.stub_server SETTINGS PASS_MS POSITION_MS CORE`` is ``edge_node serve`` with settings as JSON, pinned
to a core, and with ``bench.stub_engine`` as its engine. It prints ``listening HOST:PORT``, and answers every line that
it reads with a line of JSON: what it holds at that moment (``Held``).
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.figures import REPOSITORY
from bench.processes import ONE_THREAD, EdgeFailed, pin
from edge_node.config import EdgeSettings
from edge_node.server import EdgeServer

KIB = 1024
HANDLER = "_handle_exceptions"
"""What grpc runs a call's handler in."""

_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Held:
    """What an edge's process holds, garbage collected and free memory given back to the system."""

    rss_kib: int
    tasks: int
    descriptors: int
    sessions: int
    attached: int
    reserved_rows: int
    turns: int  # of those that wait for a place
    calls: int  # that a handler is at work on


class _Watched(EdgeServer):
    """An edge that can be asked what it holds."""

    def held(self) -> Held:
        """Return it."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        table = self._service.sessions
        return Held(
            rss_kib(os.getpid()),
            len(asyncio.all_tasks()),
            len(os.listdir("/proc/self/fd")),
            len(table),
            table.attached,
            table.pool.reserved_rows,
            len(table.admission),
            sum(getattr(task.get_coro(), "__qualname__", "") == HANDLER for task in asyncio.all_tasks()),
        )


def rss_kib(process: int) -> int:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def processor_s(process: int) -> float:
    """Return the processor seconds of a process so far, all threads."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS_S


@dataclass(slots=True)
class StubServer:
    """A running edge."""

    address: str
    process: asyncio.subprocess.Process

    @property
    def front_s(self) -> float:
        """Return the processor seconds of its front, the process of streams and sessions."""
        return processor_s(self.process.pid)

    async def held(self) -> Held:
        """Ask what it holds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return Held(**json.loads(await self.process.stdout.readline()))


@asynccontextmanager
async def stub_server(
    settings: Mapping[str, Any], *, pass_s: float, position_s: float, core: int = 0, log: Path | None = None
) -> AsyncIterator[StubServer]:
    """Run an edge until the block ends; what it logs goes to a file. Raises EdgeFailed."""
    given = json.dumps({"port": 0, **settings}, default=str)
    words = (given, str(pass_s * 1e3), str(position_s * 1e3), str(core))
    with (log or Path(os.devnull)).open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.stub_server", *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env=os.environ | ONE_THREAD,
            cwd=REPOSITORY,
        )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()  # empty where it ended
        if not line.startswith("listening "):
            raise EdgeFailed(f"the edge did not start; see {log}")
        yield StubServer(line.split()[1], process)
    finally:
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def serve(settings: EdgeSettings, engine: Sequence[str]) -> None:
    """Serve until SIGTERM, and answer."""
    server = _Watched(settings, lambda text: print(text, file=sys.stderr, flush=True), engine=engine)

    async def answer() -> None:
        asked = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
        while await asked.readline():
            print(json.dumps(asdict(server.held())), flush=True)

    answering = asyncio.create_task(answer())
    try:
        await server.serve(lambda address: print(f"listening {address}", flush=True))
    finally:
        answering.cancel()


def main(given: str, pass_ms: str, position_ms: str, core: str) -> None:
    """Be the edge's process."""
    pin(int(core))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    settings = EdgeSettings.load(json.loads(given))
    asyncio.run(serve(settings, (sys.executable, "-m", "bench.stub_engine", pass_ms, position_ms)))


if __name__ == "__main__":
    main(*sys.argv[1:5])
