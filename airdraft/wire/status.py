"""Errors in one table: what an edge refuses, as a ``Refused`` frame and as the gRPC status that ends the stream.

A ``SpecError`` names its refusal code (``airdraft.core.errors``), this table the status of each. An exception that is
not a ``SpecError`` is a bug: it stays UNKNOWN and is logged in full.
"""

from __future__ import annotations

import grpc

from airdraft.core.errors import EdgeUnreachable, Forbidden, SpecError, Unauthenticated
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
    RefusalCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    RefusalCode.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    RefusalCode.LIMIT_REACHED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

NOT_CONNECTED = "failed to connect"
"""What gRPC says of a call whose connection never stood."""


def status_of(error: SpecError) -> grpc.StatusCode:
    """Return the status that ends a call which met this error."""
    return grpc.StatusCode.UNKNOWN if error.code is None else STATUS_OF[error.code]


def no_edge(address: str) -> EdgeUnreachable:
    """Return the device's error for an address where nobody listens."""
    return EdgeUnreachable(
        f"no edge node answers at {address}; start one (edge_node serve) or name another by --edge HOST:PORT"
    )


def failed(address: str, error: grpc.aio.AioRpcError) -> SpecError:
    """Return the device's error for a call that ended without a refusal frame."""
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(
            f"edge {address} denies access: {_reason(error)}; --key-file names the file of a key or a fresh token"
        )
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return Forbidden(f"edge {address}: {_reason(error)}")
    return unreachable(address, error)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Return the other end's words as one line that cannot do anything to a terminal."""
    line = ((error.details() or "").splitlines() or [""])[0]
    return "".join(letter for letter in line if letter.isprintable()) or "no reason given"


def unreachable(address: str, error: grpc.aio.AioRpcError) -> EdgeUnreachable:
    """Return the device's error for a call that did not come through."""
    reason = _reason(error)
    if NOT_CONNECTED in reason.lower():
        return no_edge(address)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return EdgeUnreachable(f"edge {address} did not answer in time; check the link, or wait longer")
    return EdgeUnreachable(f"edge {address}: {reason} ({error.code().name.lower()}); try again or name another --edge")
