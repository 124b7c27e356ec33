"""What a simulation is told of the world: seconds of models and ends, bytes of frames."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.types import (
    EXACT,
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Finish,
    Hidden,
    NeedHidden,
    Open,
    Opened,
    Origin,
    Ping,
    Prefix,
    Report,
)
from airdraft.link.sim_engine import StepCost

FRAMING_BYTES = 14
"""What a link carries before each message: 5 bytes of gRPC's, 9 of HTTP/2's; TCP's and IP's are not counted."""

_MESSAGE_BYTES: dict[type[DeviceFrame | EdgeFrame], tuple[int, int]] = {
    Open: (182, 0),
    Prefix: (8, 4),
    Draft: (20, 4),
    Finish: (6, 0),
    Report: (6, 0),
    Hidden: (8, 8),
    Ping: (8, 0),
    Opened: (22, 0),
    Commit: (28, 5),
    NeedHidden: (6, 8),
}
"""Bytes of a message and of each id in it, to a few bytes: what counts up is written with as few bytes as it needs."""


_PROBABILITIES_BYTES = (2, 4)  # of a draft that tells them, and of each
_ROW_TAG_BYTES = 4
_NUMBER_BYTES = 5  # of a float that is told where it is not 0
_ASKED_BYTES = 54  # of an ``Open`` that asks for semantic acceptance
_GRANTED_BYTES = 15  # of its answer, but for the reason
_ROWS_BYTES = 3  # of rows that go along


def message_bytes(frame: DeviceFrame | EdgeFrame, row_bytes: int = 0) -> int:
    """Return the bytes of a frame's message, as both ends count them.

    ``row_bytes`` has the row that comes down with a recovered token; 0 where none was asked for. Simulated targets have
    none, so that the frame itself is without.
    """
    fixed, each = _MESSAGE_BYTES[type(frame)]
    match frame:
        case Draft() | Commit() | Prefix():
            ids = len(frame.ids)
        case Hidden() | NeedHidden():
            ids = len(frame.hashes)
        case _:
            ids = 0
    size = fixed + each * ids + _meaning_bytes(frame)
    if isinstance(frame, Draft) and frame.probabilities is not None:
        size += _PROBABILITIES_BYTES[0] + _PROBABILITIES_BYTES[1] * ids
    if row_bytes and isinstance(frame, Commit) and frame.origins[-1:] == (Origin.RECOVERED,):
        size += _ROW_TAG_BYTES + row_bytes
    return size


def _meaning_bytes(frame: DeviceFrame | EdgeFrame) -> int:
    """Return what a semantic session adds to a frame."""
    match frame:
        case Open():
            return _ASKED_BYTES if frame.semantic is not None else 0
        case Opened():
            return _GRANTED_BYTES + len(frame.granted.reason) if frame.granted != EXACT else 0
        case Report():
            told = (frame.provisional_s or None, frame.miss_s, frame.round_trip_s, frame.up_bytes_s)
            return _NUMBER_BYTES * sum(number is not None for number in told)
        case Draft():
            return 0 if frame.states is None else _ROWS_BYTES + len(frame.states.at) + len(frame.states.data)
        case Hidden():
            return _ROWS_BYTES + len(frame.data)
        case Commit():
            return _NUMBER_BYTES if frame.spent else 0
        case _:
            return 0


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds that real ends spend beside the models and the link; to be fitted, 0 in an ideal world."""

    up_s: float = 0.0  # a frame, from the device's core to the edge's
    down_s: float = 0.0  # a frame, from the edge's core to the device's
    round_s: float = 0.0  # from what lets the device draft to its drafter's first token
    pass_s: float = 0.0  # a step of the engine; it is held meanwhile
    draft_step_s: float = 0.0  # a drafted token, at either end


@dataclass(frozen=True, slots=True)
class Costs:
    """What the models take."""

    draft_s: float  # a token that the device drafts
    step_s: StepCost  # a step of the edge's engine
    own_draft_s: float = 0.0  # a token that the edge drafts


IDEAL = Overheads()
"""Ends that do all beside drafting and passes in no time."""
