"""Errors in one table: what an edge refuses, as a ``Refused`` frame and as the gRPC status that ends the stream.

A ``SpecError`` names its refusal code (``airdraft.core.errors``), this table the status of each. An exception that is
not a ``SpecError`` is a bug: it stays UNKNOWN and is logged in full.
"""

from __future__ import annotations

import grpc

from airdraft.core.errors import EdgeUnreachable, SpecError
from airdraft.core.types import RefusalCode

STATUS_OF: dict[RefusalCode, grpc.StatusCode] = {
    RefusalCode.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalCode.UNSUPPORTED_VERSION: grpc.StatusCode.FAILED_PRECONDITION,
    RefusalCode.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    RefusalCode.MODEL_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    RefusalCode.TOKENIZER_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    RefusalCode.TOO_LONG: grpc.StatusCode.OUT_OF_RANGE,
    RefusalCode.SESSION_MISMATCH: grpc.StatusCode.ALREADY_EXISTS,
    RefusalCode.PREFIX_MISMATCH: grpc.StatusCode.DATA_LOSS,
    RefusalCode.STALE_EPOCH: grpc.StatusCode.ABORTED,
    RefusalCode.SUPERSEDED: grpc.StatusCode.ABORTED,
    RefusalCode.OUT_OF_ORDER: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalCode.BAD_ACK: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalCode.CREDITS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RefusalCode.RETRY_LATER: grpc.StatusCode.UNAVAILABLE,
    RefusalCode.DRAINING: grpc.StatusCode.UNAVAILABLE,
    RefusalCode.BAD_RECEIPT: grpc.StatusCode.PERMISSION_DENIED,
}


def status_of(error: SpecError) -> grpc.StatusCode:
    """Return the status that ends a call which met this error."""
    return grpc.StatusCode.UNKNOWN if error.code is None else STATUS_OF[error.code]


def no_edge(address: str) -> EdgeUnreachable:
    """Return the device's error for an address where nobody listens."""
    return EdgeUnreachable(
        f"no edge node answers at {address}; start one (edge_node serve) or name another by --edge HOST:PORT"
    )


def unreachable(address: str, error: grpc.aio.AioRpcError) -> EdgeUnreachable:
    """Return the device's error for a call that failed without a refusal."""
    reason = (error.details() or "no reason given").splitlines()[0]
    if "failed to connect" in reason.lower():
        return no_edge(address)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return EdgeUnreachable(f"edge {address} did not answer in time; check the link, or wait longer")
    return EdgeUnreachable(f"edge {address}: {reason} ({error.code().name.lower()}); try again or name another --edge")
