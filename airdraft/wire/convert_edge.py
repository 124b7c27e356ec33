"""What an edge sends to protobuf and back, with the terms that it grants; every field is checked on its way in."""

from __future__ import annotations

import re
from typing import cast

from airdraft.core.types import (
    MAX_FRAME_NODES,
    Commit,
    Drain,
    Limits,
    Opened,
    Origin,
    Quote,
    RefusalCode,
    Refused,
    StopReason,
    Timing,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.checks import (
    MAX_MESSAGE_BYTES,
    MAX_POSITION,
    checked_epoch,
    checked_ids,
    checked_line,
    checked_position,
    checked_receipt,
    checked_row,
    hash_from_int,
    hash_to_int,
    require,
)
from airdraft.wire.convert_semantic import granted_from_proto, granted_to_proto

MAX_DRAIN_EDGES = 16
MAX_ADDRESS_CHARACTERS = 255 + 6  # a host name and a port
MAX_QUOTED = 1e6
"""No number of a quote is greater: what a device reckons with it stays finite."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")  # no scheme: gRPC would follow unix:/path
_MICROSECONDS = 1_000_000
_ORIGINS = frozenset(int(origin) for origin in Origin)
_REFUSALS = frozenset(int(code) for code in RefusalCode)


# ---- terms ----


def limits_to_proto(limits: Limits) -> pb.Limits:
    """Return the limits as a message."""
    return pb.Limits(
        context_tokens=limits.context_tokens,
        live_nodes=limits.live_nodes,
        frame_nodes=limits.frame_nodes,
        ahead_tokens=limits.ahead_tokens,
        prefix_chunk_tokens=limits.prefix_chunk_tokens,
    )


def limits_from_proto(message: pb.Limits) -> Limits:
    """Check and return an edge's limits."""
    require(1 <= message.live_nodes <= MAX_POSITION, "live_nodes", "credits must be at least 1")
    require(1 <= message.frame_nodes <= MAX_FRAME_NODES, "frame_nodes", f"outside 1 to {MAX_FRAME_NODES}")
    require(1 <= message.ahead_tokens <= MAX_POSITION, "ahead_tokens", "must be at least 1")
    require(1 <= message.prefix_chunk_tokens <= MAX_MESSAGE_BYTES // 8, "prefix_chunk_tokens", "out of range")
    return Limits(
        checked_position(message.context_tokens, "context_tokens"),
        message.live_nodes,
        message.frame_nodes,
        message.ahead_tokens,
        message.prefix_chunk_tokens,
    )


def quote_to_proto(quote: Quote | None) -> pb.Quote | None:
    """Return the quote as a message; without one the field stays absent."""
    if quote is None:
        return None
    return pb.Quote(
        fixed_s=quote.fixed_s,
        per_position_s=quote.per_position_s,
        runs_ahead=quote.runs_ahead,
        edge_second_price=quote.edge_second_price,
        step_sessions=quote.step_sessions,
        step_positions=quote.step_positions,
        own_draft_tokens=quote.own_draft_tokens,
        own_draft_s=quote.own_draft_s,
        own_acceptance=quote.own_acceptance,
    )


def quote_from_proto(message: pb.Opened | pb.Commit | pb.DescribeResponse) -> Quote | None:
    """Check and return the quote in an edge's answer, None where it gives none."""
    if not message.HasField("quote"):
        return None
    quote = message.quote
    return Quote(
        _quoted(quote.fixed_s, "fixed_s"),
        _quoted(quote.per_position_s, "per_position_s"),
        quote.runs_ahead,
        _quoted(quote.edge_second_price, "edge_second_price"),
        _quoted(quote.step_sessions, "step_sessions"),
        _quoted(quote.step_positions, "step_positions"),
        int(_quoted(quote.own_draft_tokens, "own_draft_tokens")),
        _quoted(quote.own_draft_s, "own_draft_s"),
        _quoted(quote.own_acceptance, "own_acceptance", 1.0),
    )


def _quoted(value: float, field: str, most: float = MAX_QUOTED) -> float:
    require(0 <= value <= most, field, f"{value} is nothing to plan by")  # a NaN is in no range
    return value


# ---- frames ----


def opened_to_proto(opened: Opened) -> pb.Opened:
    """Return the answer to ``Open`` as a message."""
    return pb.Opened(
        epoch=opened.epoch,
        kv_length=opened.kv_length,
        committed_length=opened.committed_length,
        limits=limits_to_proto(opened.limits),
        quote=quote_to_proto(opened.quote),
        granted=granted_to_proto(opened.granted),
    )


def opened_from_proto(message: pb.Opened) -> Opened:
    """Check and return an edge's answer to ``Open``."""
    return Opened(
        checked_epoch(message.epoch),
        checked_position(message.kv_length, "kv_length"),
        checked_position(message.committed_length, "committed_length"),
        limits_from_proto(message.limits),
        quote_from_proto(message),
        granted_from_proto(message),
    )


def refused_to_proto(refused: Refused) -> pb.Refused:
    """Return a refusal as a message."""
    return pb.Refused(
        epoch=refused.epoch,
        code=cast("pb.RefusalCode", refused.code),
        message=refused.message,
        field=refused.field,
        retry_after_ms=round(refused.retry_after_s * 1000),
        seq=refused.seq,
        highest_epoch=refused.highest_epoch,
        ends_stream=refused.ends_stream,
    )


def refused_from_proto(message: pb.Refused) -> Refused:
    """Check and return a refusal."""
    text = checked_line(message.message, "message")
    require(message.code in _REFUSALS, "code", f"unknown refusal {message.code}: {text}")
    return Refused(
        message.epoch,
        RefusalCode(message.code),
        text,
        checked_line(message.field, "field"),
        message.retry_after_ms / 1000,
        message.seq,
        message.highest_epoch,
        message.ends_stream,
    )


def commit_to_proto(commit: Commit) -> pb.Commit:
    """Return a commit as a message."""
    return pb.Commit(
        epoch=commit.epoch,
        base=commit.base,
        ids=commit.ids,
        path_hash=hash_to_int(commit.path_hash),
        last_seq=commit.last_seq,
        origins=cast("tuple[pb.Origin, ...]", commit.origins),
        stop=cast("pb.StopReason", commit.stop or 0),
        queue_us=round(commit.timing.queue_s * _MICROSECONDS),
        pass_us=round(commit.timing.pass_s * _MICROSECONDS),
        receipt=commit.receipt,
        row=b"" if commit.row is None else commit.row.data,
        quote=quote_to_proto(commit.quote),
        spent=commit.spent,
    )


def commit_from_proto(message: pb.Commit, vocabulary: int) -> Commit:
    """Check and return a commit."""
    base = checked_position(message.base, "base")
    ids = checked_ids(message.ids, vocabulary, MAX_MESSAGE_BYTES)
    require(len(message.origins) == len(ids), "origins", "one origin a token")
    require(all(origin in _ORIGINS for origin in message.origins), "origins", "an origin of an unknown kind")
    require(message.stop in (0, *StopReason), "stop", "a reason of an unknown kind")
    origins = tuple(Origin(origin) for origin in message.origins)
    row = checked_row(message.row, vocabulary)
    require(row is None or origins[-1:] == (Origin.RECOVERED,), "row", "its last id is no recovered one")
    require(0 <= message.spent <= 1, "spent", "is no chance")
    return Commit(
        checked_epoch(message.epoch),
        base,
        ids,
        base + len(ids),
        hash_from_int(message.path_hash),
        message.last_seq,
        origins,
        StopReason(message.stop) if message.stop else None,
        Timing(message.queue_us / _MICROSECONDS, message.pass_us / _MICROSECONDS),
        checked_receipt(message.receipt),
        row,
        quote_from_proto(message),
        message.spent,
    )


def drain_to_proto(drain: Drain) -> pb.Drain:
    """Return a farewell as a message."""
    return pb.Drain(epoch=drain.epoch, deadline_ms=round(drain.deadline_s * 1000), edges=drain.edges)


def drain_from_proto(message: pb.Drain) -> Drain:
    """Check and return an edge's farewell."""
    require(len(message.edges) <= MAX_DRAIN_EDGES, "edges", f"at most {MAX_DRAIN_EDGES} allowed")
    usual = all(len(edge) <= MAX_ADDRESS_CHARACTERS and _ADDRESS.fullmatch(edge) for edge in message.edges)
    require(usual, "edges", "an address is no HOST:PORT")
    return Drain(checked_epoch(message.epoch), message.deadline_ms / 1000, tuple(message.edges))
