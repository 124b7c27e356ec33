"""An edge's end of the wire: checked frames in, frames out, errors as refusals.

The service behind it sees values and raises ``SpecError``; nothing but this package knows protobuf or gRPC statuses.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, suppress
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from airdraft.core.callers import EVERYBODY, Caller
from airdraft.core.errors import MalformedFrame, SpecError, refusal
from airdraft.core.types import DeviceFrame, EdgeFrame, Limits
from airdraft.v1 import verification_pb2 as pb
from airdraft.v1 import verification_pb2_grpc as rpc
from airdraft.wire.convert import MAX_MESSAGE_BYTES, device_frame_from_proto, edge_frame_to_proto
from airdraft.wire.describe import Description, description_to_proto
from airdraft.wire.guard import caller
from airdraft.wire.padding import PaddedAnswer
from airdraft.wire.status import status_of

SERVICE_NAME = "airdraft.v1.Verification"

HELLO_S = 5.0
"""How long an edge waits for the first message of a stream, which tells whether it is padded."""

MAX_METADATA_BYTES = 8192
"""Of a call's headers: its path and a credential."""

PARTING_S = 2.0
"""How long an edge listens to a device that it has refused."""

MOST_PARTING = 128
"""Refused streams of a tenant that are listened to at once; past it they are dropped, and may lose why."""

STREAMS_PER_CONNECTION = 8
"""A device opens a connection for each generation, so these are calls beside it; more wait at the client."""

SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),  # past the first grpc refuses some calls, past the second all
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.server_handshake_timeout_ms", 10_000),  # until TLS and the first HTTP/2 settings are through
    ("grpc.max_connection_idle_ms", 60_000),  # without a stream; a device connects again when it needs to
    ("grpc.so_reuseport", 0),  # a second edge on the same port must fail, not share it
    # Without these the server answers a device's pings (airdraft.wire.client) with GOAWAY after two of them.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 2),
]


class Verification(Protocol):
    """What a process must offer to be served."""

    def describe(self) -> Description:
        """Return what is served; raises SpecError while that is not known."""
        ...

    def entered(self, caller: Caller) -> AbstractAsyncContextManager[object]:
        """Count a stream of a caller as long as the block lasts; raises SpecError where it is one too many."""
        ...

    def generate(
        self, frames: AsyncIterator[DeviceFrame], caller: Caller = EVERYBODY
    ) -> AsyncGenerator[EdgeFrame, None]:
        """Answer a stream of frames of a caller; raises SpecError to end it with a refusal.

        ``frames`` ends with the device's half-close and raises SpecError on what is malformed.
        """
        ...


def add_verification(server: grpc.aio.Server, service: Verification) -> None:
    """Serve ``service`` on a gRPC server."""
    rpc.add_VerificationServicer_to_server(_Servicer(service), server)


class _Servicer(rpc.VerificationServicer):
    def __init__(self, service: Verification) -> None:
        self._service = service
        self._parting = Counter[str]()  # refused streams that are listened to, by tenant

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
        async with AsyncExitStack() as stack:
            try:
                try:
                    await stack.enter_async_context(self._service.entered(caller()))
                except SpecError as error:
                    await _refuse(context.write, error, 0)
                    raise
                begun = _Begun(request_iterator)
                if await begun.padded():
                    with suppress(SpecError):  # told in a cell, and by nothing that others see
                        await PaddedAnswer(aiter(begun), context.write).run(self._serve)
                else:
                    await self._serve(aiter(begun), context.write)
            except SpecError as error:
                await stack.aclose()
                # Twice: the frame for a device's core, the status for whoever reads a log or speaks plain gRPC.
                await self._hear_out(context)
                await context.abort(status_of(error), error.message)

    async def _serve(
        self, messages: AsyncIterator[pb.DeviceFrame], write: Callable[[pb.EdgeFrame], Awaitable[object]]
    ) -> None:
        """Let the service answer messages; an error is written as a refusal, and raised."""
        seen = _Checked(messages)
        try:
            description = self._service.describe()
            seen.vocabulary, seen.limits = description.vocabulary, description.limits
            async with aclosing(self._service.generate(aiter(seen), caller())) as answers:
                async for frame in answers:
                    await write(edge_frame_to_proto(frame))
        except SpecError as error:
            await _refuse(write, error, seen.epoch)
            raise

    async def _hear_out(self, context: grpc.aio.ServicerContext[pb.DeviceFrame, pb.EdgeFrame]) -> None:
        """Read and drop what a refused device still has on its way, for a while.

        A stream that is reset under a device's writes loses the refusal too: the device would learn but INTERNAL.
        """
        tenant = caller().tenant
        if self._parting[tenant] >= MOST_PARTING:
            return
        self._parting[tenant] += 1
        try:
            with suppress(TimeoutError, DecodeError, grpc.aio.UsageError):
                async with asyncio.timeout(PARTING_S):
                    while isinstance(await context.read(), pb.DeviceFrame):
                        pass
        finally:
            self._parting[tenant] -= 1
            if not self._parting[tenant]:
                del self._parting[tenant]


async def _refuse(write: Callable[[pb.EdgeFrame], Awaitable[object]], error: SpecError, epoch: int) -> None:
    """Write a refusal. Raises CancelledError, which drops the stream, where its device reads nothing.

    Such a device grants no byte of flow control: what it is sent, its stream's end too, would be waited for for ever.
    """
    try:
        async with asyncio.timeout(PARTING_S):
            await write(edge_frame_to_proto(refusal(error, epoch)))
    except TimeoutError:
        raise asyncio.CancelledError from None


class _Begun:
    """A stream's messages, the first of which tells whether it is padded."""

    def __init__(self, messages: AsyncIterator[pb.DeviceFrame]) -> None:
        self._messages = messages
        self._first: pb.DeviceFrame | DecodeError | None = None

    async def padded(self) -> bool:
        """Wait for the first message; say whether it is a cell."""
        with suppress(TimeoutError):  # whoever reads on waits as it sees fit
            async with asyncio.timeout(HELLO_S):
                try:
                    self._messages = aiter(self._messages)  # not before: gRPC begins to read by it
                    self._first = await anext(self._messages, None)
                except DecodeError as error:
                    self._first = error
        return isinstance(self._first, pb.DeviceFrame) and self._first.HasField("cell")

    async def __aiter__(self) -> AsyncIterator[pb.DeviceFrame]:
        if isinstance(self._first, DecodeError):
            raise self._first
        if self._first is not None:
            yield self._first
            async for message in self._messages:
                yield message


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
