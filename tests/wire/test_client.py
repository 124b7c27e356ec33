"""A device's end of a stream whose call has ended."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from airdraft.core.errors import EdgeUnreachable
from airdraft.core.types import Ping
from airdraft.wire.client import EdgeStream, Traffic


class EndedCall:
    """What gRPC says of a write after the end depends on how the call ended."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def write(self, message: object) -> None:
        raise self._error


@pytest.mark.parametrize("error", [asyncio.InvalidStateError("RPC already finished."), grpc.aio.UsageError("closed")])
async def test_a_frame_after_the_end_finds_no_edge(error: Exception) -> None:
    call: Any = EndedCall(error)
    stream = EdgeStream("192.0.2.7:50051", call, 10, Traffic())
    with pytest.raises(EdgeUnreachable, match="the stream is closed"):
        await stream.send(Ping(1, 0))
