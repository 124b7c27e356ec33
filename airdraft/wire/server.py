"""An edge's end of the wire: checked frames in, frames out, errors as refusals.

The service behind it sees values and raises ``SpecError``; nothing but this package knows protobuf or gRPC statuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from airdraft.core.errors import MalformedFrame, SpecError, refusal
from airdraft.core.types import DeviceFrame, EdgeFrame, Limits
from airdraft.v1 import verification_pb2 as pb
from airdraft.v1 import verification_pb2_grpc as rpc
from airdraft.wire.convert import MAX_MESSAGE_BYTES, device_frame_from_proto, edge_frame_to_proto
from airdraft.wire.describe import Description, description_to_proto
from airdraft.wire.status import status_of

SERVICE_NAME = "airdraft.v1.Verification"

PARTING_S = 2.0
"""How long an edge listens to a device that it has refused."""

SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second edge on the same port must fail, not share it
    # Without these the server answers a device's pings (airdraft.wire.client) with GOAWAY after two of them.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class Verification(Protocol):
    """What a process must offer to be served."""

    def describe(self) -> Description:
        """Return what is served; raises SpecError while that is not known."""
        ...

    def generate(self, frames: AsyncIterator[DeviceFrame]) -> AsyncGenerator[EdgeFrame, None]:
        """Answer a stream of frames; raises SpecError to end it with a refusal.

        ``frames`` ends with the device's half-close and raises SpecError on what is malformed.
        """
        ...


def add_verification(server: grpc.aio.Server, service: Verification) -> None:
    """Serve ``service`` on a gRPC server."""
    rpc.add_VerificationServicer_to_server(_Servicer(service), server)


class _Servicer(rpc.VerificationServicer):
    def __init__(self, service: Verification) -> None:
        self._service = service

    async def Describe(  # noqa: N802 (gRPC's name)
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext[pb.DescribeRequest, pb.DescribeResponse]
    ) -> pb.DescribeResponse:
        try:
            description = self._service.describe()
        except SpecError as error:
            await context.abort(status_of(error), error.message)
        return description_to_proto(description, include_tokenizer=request.include_tokenizer)

    async def Generate(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.DeviceFrame],
        context: grpc.aio.ServicerContext[pb.DeviceFrame, pb.EdgeFrame],
    ) -> None:
        seen = _Checked(request_iterator)
        try:
            description = self._service.describe()
            seen.vocabulary, seen.limits = description.vocabulary, description.limits
            async with aclosing(self._service.generate(aiter(seen))) as answers:
                async for frame in answers:
                    await context.write(edge_frame_to_proto(frame))
        except SpecError as error:
            # Twice: the frame for a device's core, the status for whoever reads a log or speaks plain gRPC.
            await context.write(edge_frame_to_proto(refusal(error, seen.epoch)))
            await _hear_out(context)
            await context.abort(status_of(error), error.message)


async def _hear_out(context: grpc.aio.ServicerContext[pb.DeviceFrame, pb.EdgeFrame]) -> None:
    """Read and drop what a refused device still has on its way, for a while.

    A stream that is reset under a device's writes loses the refusal too: the device would learn nothing but INTERNAL.
    """
    with suppress(TimeoutError, DecodeError, grpc.aio.UsageError):
        async with asyncio.timeout(PARTING_S):
            while isinstance(await context.read(), pb.DeviceFrame):
                pass


class _Checked:
    """A stream's frames, converted and checked one by one."""

    def __init__(self, messages: AsyncIterator[pb.DeviceFrame]) -> None:
        self.epoch = 0  # of the stream's frames, for refusals
        self.vocabulary = 0
        self.limits = Limits(0)
        self._messages = messages

    async def __aiter__(self) -> AsyncIterator[DeviceFrame]:
        try:
            async for message in self._messages:
                if message.WhichOneof("frame") == "open":
                    self.epoch = message.open.epoch
                yield device_frame_from_proto(message, self.vocabulary, self.limits)
        except DecodeError:
            raise MalformedFrame("frame: these bytes are no frame", field="frame") from None
