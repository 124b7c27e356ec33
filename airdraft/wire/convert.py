"""Frames to protobuf and back. Everything from outside is checked here, once, before anything is queued.

Both ends check: an edge does not trust devices, a device does not trust edges. Whatever does not fit raises
``MalformedFrame`` with the field's name.
"""

from __future__ import annotations

from airdraft.core.errors import MalformedFrame
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    Drain,
    EdgeFrame,
    Finish,
    Hidden,
    Limits,
    NeedHidden,
    NeedPrefix,
    Open,
    Opened,
    Ping,
    Prefix,
    Refused,
    Report,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.checks import MAX_MESSAGE_BYTES, checked_epoch, checked_ids, checked_position
from airdraft.wire.convert_device import draft_from_proto, draft_to_proto, open_from_proto, open_to_proto
from airdraft.wire.convert_edge import (
    commit_from_proto,
    commit_to_proto,
    drain_from_proto,
    drain_to_proto,
    opened_from_proto,
    opened_to_proto,
    refused_from_proto,
    refused_to_proto,
)
from airdraft.wire.convert_semantic import (
    hidden_from_proto,
    hidden_to_proto,
    need_hidden_from_proto,
    need_hidden_to_proto,
    report_from_proto,
    report_to_proto,
)

__all__ = [
    "MAX_MESSAGE_BYTES",
    "device_frame_from_proto",
    "device_frame_to_proto",
    "edge_frame_from_proto",
    "edge_frame_to_proto",
]

# ---- either way ----


def _ping_to_proto(ping: Ping) -> pb.Ping:
    return pb.Ping(epoch=ping.epoch, number=ping.number, ack=ping.ack)


def _ping_from_proto(message: pb.Ping) -> Ping:
    return Ping(checked_epoch(message.epoch), message.number, message.ack)


# ---- from the device ----


def device_frame_to_proto(frame: DeviceFrame) -> pb.DeviceFrame:
    """Return a device's frame as a message."""
    match frame:
        case Draft():
            return pb.DeviceFrame(draft=draft_to_proto(frame))
        case Open():
            return pb.DeviceFrame(open=open_to_proto(frame))
        case Prefix():
            return pb.DeviceFrame(prefix=pb.Prefix(epoch=frame.epoch, start=frame.start, ids=frame.ids))
        case Finish():
            return pb.DeviceFrame(finish=pb.Finish(epoch=frame.epoch, length=frame.length))
        case Report():
            return pb.DeviceFrame(report=report_to_proto(frame))
        case Hidden():
            return pb.DeviceFrame(hidden=hidden_to_proto(frame))
        case Ping():
            return pb.DeviceFrame(ping=_ping_to_proto(frame))


def device_frame_from_proto(message: pb.DeviceFrame, vocabulary: int, limits: Limits) -> DeviceFrame:
    """Check and return a device's frame. Raises MalformedFrame."""
    match message.WhichOneof("frame"):
        case "draft":
            return draft_from_proto(message.draft, vocabulary, limits)
        case "open":
            return open_from_proto(message.open, vocabulary)
        case "prefix":
            ids = checked_ids(message.prefix.ids, vocabulary, limits.prefix_chunk_tokens)
            return Prefix(checked_epoch(message.prefix.epoch), checked_position(message.prefix.start, "start"), ids)
        case "finish":
            return Finish(checked_epoch(message.finish.epoch), checked_position(message.finish.length, "length"))
        case "report":
            return report_from_proto(message.report)
        case "hidden":
            return hidden_from_proto(message.hidden)
        case "ping":
            return _ping_from_proto(message.ping)
        case _:
            raise MalformedFrame("a frame of an unknown kind; update this edge or the device", field="frame")


# ---- from the edge ----


def edge_frame_to_proto(frame: EdgeFrame) -> pb.EdgeFrame:
    """Return an edge's frame as a message."""
    match frame:
        case Commit():
            return pb.EdgeFrame(commit=commit_to_proto(frame))
        case Opened():
            return pb.EdgeFrame(opened=opened_to_proto(frame))
        case NeedPrefix():
            return pb.EdgeFrame(need_prefix=pb.NeedPrefix(epoch=frame.epoch, start=frame.start))
        case Refused():
            return pb.EdgeFrame(refused=refused_to_proto(frame))
        case Ping():
            return pb.EdgeFrame(ping=_ping_to_proto(frame))
        case Drain():
            return pb.EdgeFrame(drain=drain_to_proto(frame))
        case NeedHidden():
            return pb.EdgeFrame(need_hidden=need_hidden_to_proto(frame))


def edge_frame_from_proto(message: pb.EdgeFrame, vocabulary: int) -> EdgeFrame:
    """Check and return an edge's frame. Raises MalformedFrame."""
    match message.WhichOneof("frame"):
        case "commit":
            return commit_from_proto(message.commit, vocabulary)
        case "opened":
            return opened_from_proto(message.opened)
        case "need_prefix":
            return NeedPrefix(
                checked_epoch(message.need_prefix.epoch), checked_position(message.need_prefix.start, "start")
            )
        case "refused":
            return refused_from_proto(message.refused)
        case "ping":
            return _ping_from_proto(message.ping)
        case "drain":
            return drain_from_proto(message.drain)
        case "need_hidden":
            return need_hidden_from_proto(message.need_hidden)
        case _:
            raise MalformedFrame("a frame of an unknown kind; update this device", field="frame")
