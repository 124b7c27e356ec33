"""What frames can pass through between the ends: the real conversion, and a proxy that makes trees of chains."""

from __future__ import annotations

from dataclasses import replace

from airdraft.core.types import DeviceFrame, Draft, EdgeFrame, Limits, Opened
from airdraft.link.virtual_world import Wire
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import (
    device_frame_from_proto,
    device_frame_to_proto,
    edge_frame_from_proto,
    edge_frame_to_proto,
)
from tests.core.worlds import VOCABULARY

LIMITS = Limits(4096)


def protobuf() -> Wire:
    """Every frame is serialised and parsed again, with all checks of what comes from outside."""

    def up(frame: DeviceFrame) -> DeviceFrame:
        message = pb.DeviceFrame.FromString(device_frame_to_proto(frame).SerializeToString())
        return device_frame_from_proto(message, VOCABULARY, LIMITS)

    def down(frame: EdgeFrame) -> EdgeFrame:
        message = pb.EdgeFrame.FromString(edge_frame_to_proto(frame).SerializeToString())
        return edge_frame_from_proto(message, VOCABULARY)

    return Wire(up, down)


def with_siblings(wire: Wire) -> Wire:
    """Give every draft node a sibling, which comes first and is right where a drafter of these worlds is wrong.

    The device knows nothing of them, so it is told of half the credits that the edge grants.
    """

    def described(limits: Limits) -> Limits:
        return replace(limits, live_nodes=limits.live_nodes // 2)

    def up(frame: DeviceFrame) -> DeviceFrame:
        return wire.up(_tree(frame) if isinstance(frame, Draft) and frame.ids else frame)

    def down(frame: EdgeFrame) -> EdgeFrame:
        frame = wire.down(frame)
        return replace(frame, limits=described(frame.limits)) if isinstance(frame, Opened) else frame

    return Wire(up, down, described)


def _tree(draft: Draft) -> Draft:
    ids = tuple(token for right in draft.ids for token in ((right - 1) % VOCABULARY, right))
    parents = tuple(parent for index in range(len(draft.ids)) for parent in [2 * index - 1] * 2)
    told = None if draft.probabilities is None else tuple(told for told in draft.probabilities for _ in range(2))
    states = draft.states
    if states is not None:
        states = replace(states, at=tuple(2 * index + 1 for index in states.at))
    return replace(draft, ids=ids, parents=parents, probabilities=told, states=states)
