"""A device's end of the wire: one channel to an edge, ``Describe``, and streams of checked frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from airdraft.core.errors import EdgeFault, EdgeUnreachable, MalformedFrame, SpecError
from airdraft.core.types import DeviceFrame, Draft, EdgeFrame
from airdraft.v1 import verification_pb2 as pb
from airdraft.v1 import verification_pb2_grpc as rpc
from airdraft.wire.access import OPEN, Access
from airdraft.wire.convert import device_frame_to_proto, edge_frame_from_proto
from airdraft.wire.describe import Description, description_from_proto
from airdraft.wire.padding import PaddedCall
from airdraft.wire.status import NOT_CONNECTED, failed, no_edge, unreachable
from airdraft.wire.tls import handshake_fault

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),  # a tokenizer of 152k tokens is 11 MB
    ("grpc.enable_retries", 0),  # the session protocol retries, with a new epoch
    # A second channel to the same edge is a second connection: the first one's may be dead without knowing it, and its
    # back-off is not ours.
    ("grpc.use_local_subchannel_pool", 1),
    # The edge permits pings at this pace (airdraft.wire.server); without that it answers with GOAWAY.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


WHY_METHOD = "/airdraft.v1.Verification/Describe"
"""What is called to hear why a connection failed; nothing is presented with it."""


@dataclass(slots=True)
class Traffic:
    """Application bytes of a stream: protobuf messages, without gRPC's and TCP's own framing."""

    bytes_up: int = 0
    bytes_down: int = 0
    draft_frames: int = 0
    draft_tokens: int = 0
    draft_bytes: int = 0


class EdgeStream:
    """One ``Generate`` call. Iterating gives the edge's frames until it ends the stream.

    Raises EdgeUnreachable where the connection is lost, EdgeFault where a frame from the edge is malformed.
    """

    def __init__(
        self,
        address: str,
        call: grpc.aio.StreamStreamCall[pb.DeviceFrame, pb.EdgeFrame] | PaddedCall,
        vocabulary: int,
        traffic: Traffic,
    ) -> None:
        self.address, self.traffic = address, traffic
        self._call = call
        self._vocabulary = vocabulary

    async def send(self, frame: DeviceFrame) -> None:
        """Write a frame; returns once it is handed to the transport. Raises EdgeUnreachable."""
        message = device_frame_to_proto(frame)
        size = message.ByteSize()
        self.traffic.bytes_up += size
        if isinstance(frame, Draft):
            self.traffic.draft_frames += 1
            self.traffic.draft_tokens += len(frame.ids)
            self.traffic.draft_bytes += size
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise unreachable(self.address, error) from error
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:  # the call has ended; reading tells why
            raise EdgeUnreachable(f"edge {self.address}: the stream is closed") from error

    async def half_close(self) -> None:
        """Say that nothing more will be sent."""
        await self._call.done_writing()

    async def ended(self) -> None:
        """Wait until the edge has ended the call, however."""
        await self._call.code()

    def cancel(self) -> None:
        """Drop the stream."""
        self._call.cancel()

    async def __aiter__(self) -> AsyncIterator[EdgeFrame]:
        try:
            async for message in self._call:
                self.traffic.bytes_down += message.ByteSize()
                try:
                    yield edge_frame_from_proto(message, self._vocabulary)
                except MalformedFrame as error:
                    raise EdgeFault(f"edge {self.address}: {error.message}") from error
        except MalformedFrame as error:
            raise EdgeFault(f"edge {self.address}: {error.message}") from error
        except grpc.aio.AioRpcError as error:
            raise failed(self.address, error) from error


class EdgeConnection:
    """A channel to one edge."""

    def __init__(self, address: str, access: Access = OPEN) -> None:
        """Prepare to connect as ``access`` says. Raises EdgeUnreachable where its files cannot be read."""
        self.address, self._access = address, access
        self._channel = access.channel(address, CHANNEL_OPTIONS)
        self._stub = rpc.VerificationStub(self._channel)
        self._padded: list[PaddedCall] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ready(self) -> None:
        """Wait until the edge has answered on a connection of our own. Raises EdgeUnreachable."""
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise no_edge(self.address)
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise await self._not_connected()
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)

    @property
    def rest_s(self) -> float:
        """Return how long ``close`` will wait, about: padded streams go on, empty, to their next rung."""
        return max((call.rest_s for call in self._padded), default=0.0)

    async def _not_connected(self) -> SpecError:
        """Return why there is no connection; gRPC says so only to a call, which then fails at once."""
        call: Any = self._channel.unary_unary(WHY_METHOD)
        try:
            await call(b"", timeout=1.0)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return self._failed(error)
        return no_edge(self.address)

    def _failed(self, error: grpc.aio.AioRpcError) -> SpecError:
        details = error.details() or ""
        fault = handshake_fault(details, self._access.tls) if NOT_CONNECTED in details else None
        return failed(self.address, error) if fault is None else EdgeUnreachable(f"edge {self.address} {fault}")

    async def close(self) -> None:
        """Drop the connection and what runs over it; a padded stream first goes on to its rung.

        Whoever is being cancelled waits for no rung.
        """
        task = asyncio.current_task()
        try:
            if task is None or not task.cancelling():
                await asyncio.gather(*(call.parted() for call in self._padded))
        finally:
            for call in self._padded:
                call.drop()
            self._padded = []
            await self._channel.close()

    async def describe(self, *, include_tokenizer: bool = False, timeout_s: float = 5.0) -> Description:
        """Ask what the edge serves. Raises EdgeUnreachable, EdgeFault, Unauthenticated, Forbidden."""
        request = pb.DescribeRequest(include_tokenizer=include_tokenizer)
        try:
            metadata = self._access.metadata(self.address)
            message = await self._stub.Describe(request, timeout=timeout_s, metadata=metadata)
            return description_from_proto(message)
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from error
        except MalformedFrame as error:
            raise EdgeFault(f"edge {self.address}: {error.message}") from error

    def generate(self, vocabulary: int, traffic: Traffic | None = None, *, pad: bool = False) -> EdgeStream:
        """Open a stream that counts in ``traffic``; ids at or above ``vocabulary`` are never accepted from it.

        With ``pad`` its messages travel in cells of one size at one pace (``airdraft.wire.padding``). Raises
        EdgeUnreachable where the key to show cannot be read.
        """
        call: grpc.aio.StreamStreamCall[pb.DeviceFrame, pb.EdgeFrame]
        call = self._stub.Generate(metadata=self._access.metadata(self.address))
        if not pad:
            return EdgeStream(self.address, call, vocabulary, traffic or Traffic())
        self._padded.append(PaddedCall(call))
        return EdgeStream(self.address, self._padded[-1], vocabulary, traffic or Traffic())
