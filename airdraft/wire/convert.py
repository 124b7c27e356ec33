"""Frames to protobuf and back. Everything from outside is checked here, once, before anything is queued.

Both ends check: an edge does not trust devices, a device does not trust edges. Whatever does not fit raises
``MalformedFrame`` with the field's name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import cast

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import MalformedFrame
from airdraft.core.paths import HASH_BYTES
from airdraft.core.sampling import check
from airdraft.core.types import (
    MAX_FRAME_NODES,
    Commit,
    DeviceFrame,
    Draft,
    Drain,
    EdgeFrame,
    Finish,
    Identity,
    Limits,
    NeedPrefix,
    Open,
    Opened,
    Origin,
    Ping,
    Prefix,
    RefusalCode,
    Refused,
    Sampling,
    StopReason,
    Timing,
)
from airdraft.v1 import verification_pb2 as pb

MAX_MESSAGE_BYTES = 64 * 1024
"""Largest message on a stream, either way."""

MAX_POSITION = 1 << 30
"""No length is greater: sums of two stay far from the width of the wire's integers."""

MAX_STOP_IDS = 64
MAX_Q_ENTRIES = 256
MAX_RECEIPT_BYTES = 64
MAX_DRAIN_EDGES = 16
MAX_ADDRESS_CHARACTERS = 255 + 6  # a host name and a port
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")  # no scheme: gRPC would follow unix:/path
SESSION_ID_BYTES = 16
DIGEST_BYTES = 32
_MICROSECONDS = 1_000_000
_ORIGINS = frozenset(int(origin) for origin in Origin)
_REFUSALS = frozenset(int(code) for code in RefusalCode)


# ---- checks ----


def _require(holds: bool, field: str, message: str) -> None:
    if not holds:
        raise MalformedFrame(f"{field}: {message}", field=field)


def _position(value: int, field: str) -> int:
    _require(value <= MAX_POSITION, field, f"{value} is no length")
    return value


def _epoch(value: int) -> int:
    _require(value >= 1, "epoch", "epochs count from 1")
    return value


def _ids(values: Sequence[int], vocabulary: int, most: int, field: str = "ids") -> tuple[int, ...]:
    _require(len(values) <= most, field, f"{len(values)} ids, at most {most} allowed")
    ids = tuple(values)
    _require(not ids or max(ids) < vocabulary, field, f"an id outside the vocabulary of {vocabulary}")
    return ids


def _receipt(value: bytes) -> bytes:
    _require(len(value) <= MAX_RECEIPT_BYTES, "receipt", f"{len(value)} bytes, at most {MAX_RECEIPT_BYTES} allowed")
    return value


def _hash_to_int(path_hash: bytes) -> int:
    return int.from_bytes(path_hash, "little")


def _hash_from_int(value: int) -> bytes:
    return value.to_bytes(HASH_BYTES, "little")


# ---- limits ----


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
    _require(1 <= message.live_nodes <= MAX_POSITION, "live_nodes", "credits must be at least 1")
    _require(1 <= message.frame_nodes <= MAX_FRAME_NODES, "frame_nodes", f"outside 1 to {MAX_FRAME_NODES}")
    _require(1 <= message.ahead_tokens <= MAX_POSITION, "ahead_tokens", "must be at least 1")
    _require(1 <= message.prefix_chunk_tokens <= MAX_MESSAGE_BYTES // 8, "prefix_chunk_tokens", "out of range")
    return Limits(
        _position(message.context_tokens, "context_tokens"),
        message.live_nodes,
        message.frame_nodes,
        message.ahead_tokens,
        message.prefix_chunk_tokens,
    )


# ---- either way ----


def _ping_to_proto(ping: Ping) -> pb.Ping:
    return pb.Ping(epoch=ping.epoch, number=ping.number, ack=ping.ack)


def _ping_from_proto(message: pb.Ping) -> Ping:
    return Ping(_epoch(message.epoch), message.number, message.ack)


# ---- from the device ----


def device_frame_to_proto(frame: DeviceFrame) -> pb.DeviceFrame:
    """Return a device's frame as a message."""
    match frame:
        case Draft():
            return pb.DeviceFrame(draft=_draft_to_proto(frame))
        case Open():
            return pb.DeviceFrame(open=_open_to_proto(frame))
        case Prefix():
            return pb.DeviceFrame(prefix=pb.Prefix(epoch=frame.epoch, start=frame.start, ids=frame.ids))
        case Finish():
            return pb.DeviceFrame(finish=pb.Finish(epoch=frame.epoch, length=frame.length))
        case Ping():
            return pb.DeviceFrame(ping=_ping_to_proto(frame))


def device_frame_from_proto(message: pb.DeviceFrame, vocabulary: int, limits: Limits) -> DeviceFrame:
    """Check and return a device's frame. Raises MalformedFrame."""
    match message.WhichOneof("frame"):
        case "draft":
            return _draft_from_proto(message.draft, vocabulary, limits)
        case "open":
            return _open_from_proto(message.open, vocabulary)
        case "prefix":
            ids = _ids(message.prefix.ids, vocabulary, limits.prefix_chunk_tokens)
            return Prefix(_epoch(message.prefix.epoch), _position(message.prefix.start, "start"), ids)
        case "finish":
            return Finish(_epoch(message.finish.epoch), _position(message.finish.length, "length"))
        case "ping":
            return _ping_from_proto(message.ping)
        case _:
            raise MalformedFrame("a frame of an unknown kind; update this edge or the device", field="frame")


def _draft_to_proto(draft: Draft) -> pb.Draft:
    return pb.Draft(
        epoch=draft.epoch,
        seq=draft.seq,
        acked=draft.acked,
        base_offset=draft.base - draft.acked,
        base_hash=_hash_to_int(draft.base_hash),
        ids=draft.ids,
        parents=None if draft.parents is None else [parent + 1 for parent in draft.parents],
        idle=draft.idle,
        q=None if draft.q is None else [_q_to_proto(q) for q in draft.q],
    )


def _draft_from_proto(message: pb.Draft, vocabulary: int, limits: Limits) -> Draft:
    acked = _position(message.acked, "acked")
    ids = _ids(message.ids, vocabulary, limits.frame_nodes)
    parents = tuple(parent - 1 for parent in message.parents) if message.parents else None
    if parents is not None:
        _require(len(parents) == len(ids), "parents", "one parent a node")
        _require(all(parent < index for index, parent in enumerate(parents)), "parents", "must stand before the node")
    _require(not (ids and message.idle), "idle", "only an empty draft can say it")
    q = tuple(_q_from_proto(entry, vocabulary) for entry in message.q) if message.q else None
    _require(q is None or len(q) == len(ids), "q", "one distribution an id")
    _require(q is None or all(token in known.ids for token, known in zip(ids, q, strict=True)), "q", "lacks its own id")
    return Draft(
        _epoch(message.epoch),
        message.seq,
        acked,
        acked + _position(message.base_offset, "base_offset"),
        _hash_from_int(message.base_hash),
        ids,
        parents,
        message.idle,
        q,
    )


def _q_to_proto(q: SparseQ) -> pb.SparseDistribution:
    steps = [token - before - 1 for before, token in zip((-1, *q.ids), q.ids, strict=False)]
    return pb.SparseDistribution(id_steps=steps, weights=q.weights)


def _q_from_proto(message: pb.SparseDistribution, vocabulary: int) -> SparseQ:
    _require(len(message.id_steps) <= MAX_Q_ENTRIES, "q", f"at most {MAX_Q_ENTRIES} entries an id")
    ids = tuple(token - 1 for token in accumulate(step + 1 for step in message.id_steps))
    _require(not ids or ids[-1] < vocabulary, "q", f"an id outside the vocabulary of {vocabulary}")
    try:
        return SparseQ(ids, tuple(message.weights))
    except ValueError as error:
        raise MalformedFrame(f"q: {error}", field="q") from None


def _open_to_proto(opened: Open) -> pb.Open:
    return pb.Open(
        protocol_version=opened.protocol_version,
        session_id=opened.session_id,
        epoch=opened.epoch,
        identity=pb.Identity(
            model_digest=opened.identity.model_digest,
            tokenizer_digest=opened.identity.tokenizer_digest,
            sampler_version=opened.identity.sampler_version,
        ),
        sampling=_sampling_to_proto(opened.sampling),
        stop_ids=opened.stop_ids,
        max_tokens=opened.max_tokens,
        prompt_length=opened.prompt_length,
        length=opened.length,
        digest=opened.digest,
        prefix_start=opened.prefix_start,
        receipt=opened.receipt,
    )


def _open_from_proto(message: pb.Open, vocabulary: int) -> Open:
    identity = message.identity
    _require(len(message.session_id) == SESSION_ID_BYTES, "session_id", f"must have {SESSION_ID_BYTES} bytes")
    _require(len(message.digest) == DIGEST_BYTES, "digest", f"must have {DIGEST_BYTES} bytes")
    _require(message.prompt_length >= 1, "prompt_length", "a prompt has at least one token")
    _require(message.length >= message.prompt_length, "length", "covers the prompt at least")
    return Open(
        message.session_id,
        _epoch(message.epoch),
        Identity(identity.model_digest, identity.tokenizer_digest, identity.sampler_version),
        _sampling_from_proto(message.sampling),
        _ids(message.stop_ids, vocabulary, MAX_STOP_IDS, "stop_ids"),
        _position(message.max_tokens, "max_tokens"),
        _position(message.prompt_length, "prompt_length"),
        _position(message.length, "length"),
        message.digest,
        _position(message.prefix_start, "prefix_start") if message.HasField("prefix_start") else None,
        _receipt(message.receipt),
        message.protocol_version,
    )


def _sampling_to_proto(sampling: Sampling) -> pb.Sampling:
    return pb.Sampling(
        temperature=sampling.temperature,
        seed=sampling.seed,
        top_k=sampling.top_k,
        top_p=sampling.top_p if sampling.top_p != 1 else None,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty if sampling.repetition_penalty != 1 else None,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )


def _sampling_from_proto(message: pb.Sampling) -> Sampling:
    sampling = Sampling(
        temperature=message.temperature,
        seed=message.seed,
        top_k=_position(message.top_k, "top_k"),
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
    )
    try:
        check(sampling)
    except ValueError as error:
        raise MalformedFrame(str(error), field=str(error).split(" ", 1)[0]) from None
    return sampling


# ---- from the edge ----


def edge_frame_to_proto(frame: EdgeFrame) -> pb.EdgeFrame:
    """Return an edge's frame as a message."""
    match frame:
        case Commit():
            return pb.EdgeFrame(commit=_commit_to_proto(frame))
        case Opened():
            opened = pb.Opened(
                epoch=frame.epoch,
                kv_length=frame.kv_length,
                committed_length=frame.committed_length,
                limits=limits_to_proto(frame.limits),
            )
            return pb.EdgeFrame(opened=opened)
        case NeedPrefix():
            return pb.EdgeFrame(need_prefix=pb.NeedPrefix(epoch=frame.epoch, start=frame.start))
        case Refused():
            refused = pb.Refused(
                epoch=frame.epoch,
                code=cast("pb.RefusalCode", frame.code),
                message=frame.message,
                field=frame.field,
                retry_after_ms=round(frame.retry_after_s * 1000),
                seq=frame.seq,
                highest_epoch=frame.highest_epoch,
                ends_stream=frame.ends_stream,
            )
            return pb.EdgeFrame(refused=refused)
        case Ping():
            return pb.EdgeFrame(ping=_ping_to_proto(frame))
        case Drain():
            drain = pb.Drain(epoch=frame.epoch, deadline_ms=round(frame.deadline_s * 1000), edges=frame.edges)
            return pb.EdgeFrame(drain=drain)


def edge_frame_from_proto(message: pb.EdgeFrame, vocabulary: int) -> EdgeFrame:
    """Check and return an edge's frame. Raises MalformedFrame."""
    match message.WhichOneof("frame"):
        case "commit":
            return _commit_from_proto(message.commit, vocabulary)
        case "opened":
            opened = message.opened
            return Opened(
                _epoch(opened.epoch),
                _position(opened.kv_length, "kv_length"),
                _position(opened.committed_length, "committed_length"),
                limits_from_proto(opened.limits),
            )
        case "need_prefix":
            return NeedPrefix(_epoch(message.need_prefix.epoch), _position(message.need_prefix.start, "start"))
        case "refused":
            refused = message.refused
            _require(refused.code in _REFUSALS, "code", f"unknown refusal {refused.code}: {refused.message}")
            return Refused(
                refused.epoch,
                RefusalCode(refused.code),
                refused.message,
                refused.field,
                refused.retry_after_ms / 1000,
                refused.seq,
                refused.highest_epoch,
                refused.ends_stream,
            )
        case "ping":
            return _ping_from_proto(message.ping)
        case "drain":
            return _drain_from_proto(message.drain)
        case _:
            raise MalformedFrame("a frame of an unknown kind; update this device", field="frame")


def _commit_to_proto(commit: Commit) -> pb.Commit:
    return pb.Commit(
        epoch=commit.epoch,
        base=commit.base,
        ids=commit.ids,
        path_hash=_hash_to_int(commit.path_hash),
        last_seq=commit.last_seq,
        origins=cast("tuple[pb.Origin, ...]", commit.origins),
        stop=cast("pb.StopReason", commit.stop or 0),
        queue_us=round(commit.timing.queue_s * _MICROSECONDS),
        pass_us=round(commit.timing.pass_s * _MICROSECONDS),
        receipt=commit.receipt,
    )


def _commit_from_proto(message: pb.Commit, vocabulary: int) -> Commit:
    base = _position(message.base, "base")
    ids = _ids(message.ids, vocabulary, MAX_MESSAGE_BYTES)
    _require(len(message.origins) == len(ids), "origins", "one origin a token")
    _require(all(origin in _ORIGINS for origin in message.origins), "origins", "an origin of an unknown kind")
    _require(message.stop in (0, *StopReason), "stop", "a reason of an unknown kind")
    return Commit(
        _epoch(message.epoch),
        base,
        ids,
        base + len(ids),
        _hash_from_int(message.path_hash),
        message.last_seq,
        tuple(Origin(origin) for origin in message.origins),
        StopReason(message.stop) if message.stop else None,
        Timing(message.queue_us / _MICROSECONDS, message.pass_us / _MICROSECONDS),
        _receipt(message.receipt),
    )


def _drain_from_proto(message: pb.Drain) -> Drain:
    _require(len(message.edges) <= MAX_DRAIN_EDGES, "edges", f"at most {MAX_DRAIN_EDGES} allowed")
    usual = all(len(edge) <= MAX_ADDRESS_CHARACTERS and _ADDRESS.fullmatch(edge) for edge in message.edges)
    _require(usual, "edges", "an address is no HOST:PORT")
    return Drain(_epoch(message.epoch), message.deadline_ms / 1000, tuple(message.edges))
