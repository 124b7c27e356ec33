"""What bare gRPC costs on this machine, in the setting of a round: the floor under ``bench overhead``.

Both ends compute for a while between messages, as a drafter and a target do, on the thread of their event loop: no
session, no second thread, no conversion. A message after a pause finds caches cold and the other core asleep, so that
this floor is several times what a tight echo loop would show.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from struct import Struct
from typing import Any

import grpc
import numpy as np

from bench.processes import ONE_THREAD, pin

BUSY_S = 0.004
_PATH = ("bench.Echo", "Echo")
_SECONDS = Struct("<d")
_FRAME = bytes(44)  # a draft of four


def compute(seconds: float) -> float:
    """Multiply matrices for about so long; return how long it was."""
    matrix = np.ones((256, 256), dtype=np.float32)
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        matrix @ matrix
    return spent


async def _serve() -> None:
    async def echo(
        frames: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        async for _ in frames:
            yield _SECONDS.pack(compute(BUSY_S))

    server = grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_PATH[0], {_PATH[1]: handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def _rounds(port: int, count: int) -> list[float]:
    seconds: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.stream_stream(f"/{_PATH[0]}/{_PATH[1]}")()
        for _ in range(count):
            compute(BUSY_S)
            started = time.perf_counter()
            await call.write(_FRAME)
            answer = await call.read()
            assert isinstance(answer, bytes)
            seconds.append(time.perf_counter() - started - _SECONDS.unpack(answer)[0])
        call.cancel()
    return seconds


def floor_s(count: int) -> list[float]:
    """Return the seconds of so many echoes between two pinned processes, both computations taken off."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.echo"], stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD
    )
    assert server.stdout is not None
    try:
        return asyncio.run(_rounds(int(server.stdout.readline()), count))
    finally:
        server.kill()
        server.communicate()


if __name__ == "__main__":
    pin(0)
    asyncio.run(_serve())
