"""What semantic sessions add to the wire: what does not fit is refused by name, and damaged bytes do nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.errors import MalformedFrame
from airdraft.core.types import (
    EXACT,
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Granted,
    Hidden,
    HiddenProtocol,
    Identity,
    Limits,
    NeedHidden,
    Open,
    Opened,
    Origin,
    Report,
    Sampling,
    Semantic,
    StateKind,
    StateRows,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import (
    MAX_MESSAGE_BYTES,
    device_frame_from_proto,
    device_frame_to_proto,
    edge_frame_from_proto,
    edge_frame_to_proto,
)
from tests.wire import semantic_values

VOCABULARY = 1000
LIMITS = Limits(context_tokens=4096)
SEMANTIC = Semantic(0.01, "head", HiddenProtocol.FULL_HIDDEN, bytes(range(32)), 64, StateKind.FP8)
GRANTED = Granted(0.01, "head", HiddenProtocol.TARGET_ONLY, "no head takes the states of this drafter")
OPEN = Open(b"s" * 16, 1, Identity(b"m" * 32, b"t" * 32), Sampling(), (2,), 16, 5, 5, b"d" * 32, 0, semantic=SEMANTIC)
OPENED = Opened(1, 0, 5, LIMITS, granted=GRANTED)
DRAFT = Draft(1, 1, 5, 5, b"h" * 8, (4, 5, 6), states=StateRows((0, 2), bytes(2 * 68)))
HIDDEN = Hidden(1, (b"a" * 8, b"b" * 8), bytes(2 * 68))
REPORT = Report(1, provisional_s=0.125, miss_s=0.25, round_trip_s=0.0625, up_bytes_s=1024.0)
COMMIT = Commit(1, 5, (4, 5), 7, b"h" * 8, 1, (Origin.ACCEPTED, Origin.MEANING), spent=0.25)
NEED = NeedHidden(1, (b"a" * 8, b"b" * 8))
NAN, INF = math.nan, math.inf

device_frames = (
    semantic_values.reports
    | semantic_values.hidden()
    | semantic_values.semantics.map(lambda asked: replace(OPEN, semantic=asked))
    | semantic_values.states(3).map(lambda rows: replace(DRAFT, states=rows))
)
edge_frames = (
    semantic_values.need_hidden
    | semantic_values.grants.map(lambda granted: replace(OPENED, granted=granted))
    | st.floats(0, 1).map(lambda spent: replace(COMMIT, spent=spent))
)


def from_device(frame: DeviceFrame, **fields: object) -> DeviceFrame:
    """Return the frame as the edge reads it, with fields of its message, or of ``semantic`` in it, overwritten."""
    message = pb.DeviceFrame.FromString(device_frame_to_proto(frame).SerializeToString())
    inner = getattr(message, str(message.WhichOneof("frame")))
    _overwrite(inner.semantic if isinstance(frame, Open) else inner, fields)
    return device_frame_from_proto(message, VOCABULARY, LIMITS)


def from_edge(frame: EdgeFrame, **fields: object) -> EdgeFrame:
    """Likewise the device; fields of an ``Opened`` are those of ``granted``."""
    message = pb.EdgeFrame.FromString(edge_frame_to_proto(frame).SerializeToString())
    inner = getattr(message, str(message.WhichOneof("frame")))
    _overwrite(inner.granted if isinstance(frame, Opened) else inner, fields)
    return edge_frame_from_proto(message, VOCABULARY)


def _overwrite(message: Message, fields: dict[str, object]) -> None:
    for name, value in fields.items():
        if isinstance(value, list):
            message.ClearField(name)
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)


@given(device_frames)
def test_what_a_device_says_survives(frame: DeviceFrame) -> None:
    assert from_device(frame) == frame


@given(edge_frames)
def test_what_an_edge_says_survives(frame: EdgeFrame) -> None:
    assert from_edge(frame) == frame


def test_exact_sessions_send_nothing_of_it() -> None:
    opened = device_frame_to_proto(replace(OPEN, semantic=None))
    assert not opened.open.HasField("semantic")
    assert not edge_frame_to_proto(replace(OPENED, granted=EXACT)).opened.HasField("granted")
    plain = edge_frame_to_proto(replace(COMMIT, spent=0.0)).ByteSize()
    assert edge_frame_to_proto(COMMIT).ByteSize() == plain + 9
    report = device_frame_to_proto(Report(1, waits=True))
    assert not [name for name in ("miss_s", "round_trip_s", "up_bytes_s") if report.report.HasField(name)]


def test_an_unknown_reading_is_not_a_reading_of_zero() -> None:
    assert from_device(Report(1)) == Report(1)
    assert from_device(Report(1, miss_s=0.0)) == Report(1, miss_s=0.0)


def test_a_frame_of_24_whole_states_fits_the_stream() -> None:
    rows = StateRows(tuple(range(24)), bytes(24 * (4 + 2048)))
    frame = device_frame_to_proto(replace(DRAFT, ids=tuple(range(24)), states=rows))
    assert frame.ByteSize() < MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("frame", "field", "value"),
    [
        (OPEN, "max_loss", 0.0),
        (OPEN, "max_loss", -0.01),
        (OPEN, "max_loss", 1.01),
        (OPEN, "max_loss", NAN),
        (OPEN, "max_loss", INF),
        (OPEN, "rule", ""),
        (OPEN, "rule", "Head"),
        (OPEN, "rule", "a rule"),
        (OPEN, "rule", "kopf-ä"),
        (OPEN, "rule", "head\n"),
        (OPEN, "rule", "a" * 33),
        (OPEN, "protocol", 0),
        (OPEN, "protocol", 5),
        (OPEN, "drafter_digest", b"d" * 31),
        (OPEN, "drafter_digest", b"d" * 33),
        (OPEN, "state_width", 65_537),
        (OPEN, "state_width", 2**32 - 1),
        (OPEN, "state_kind", 0),
        (OPEN, "state_kind", 3),
        (DRAFT, "states_at", [2, 0]),
        (DRAFT, "states_at", [1, 1]),
        (DRAFT, "states_at", [0, 3]),
        (DRAFT, "states_at", [0, 2**32 - 1]),
        (DRAFT, "states_at", []),
        (DRAFT, "ids", []),
        (DRAFT, "states", b""),
        (DRAFT, "states", bytes(2 * 68 - 1)),
        (DRAFT, "states", bytes(2 * 68 + 1)),
        (DRAFT, "states", bytes(8)),
        (DRAFT, "states", bytes(2 * 65_541)),
        (HIDDEN, "epoch", 0),
        (HIDDEN, "hashes", [1, 1]),
        (HIDDEN, "hashes", []),
        (HIDDEN, "hashes", list(range(513))),
        (HIDDEN, "data", b""),
        (HIDDEN, "data", bytes(2 * 68 + 1)),
        (HIDDEN, "data", bytes(8)),
        (REPORT, "epoch", 0),
        *[
            (REPORT, field, value)
            for field in ("provisional_s", "miss_s", "round_trip_s", "up_bytes_s")
            for value in (-0.5, NAN, INF, -INF)
        ],
        (REPORT, "provisional_s", 1.1e6),
        (REPORT, "miss_s", 1.1e6),
        (REPORT, "round_trip_s", 1.1e6),
        (REPORT, "round_trip_s", 0.0),
        (REPORT, "up_bytes_s", 1.1e15),
        (REPORT, "up_bytes_s", 0.0),
    ],
)
def test_an_edge_refuses_what_does_not_fit(frame: DeviceFrame, field: str, value: object) -> None:
    with pytest.raises(MalformedFrame) as caught:
        from_device(frame, **{field: value})
    named = {"hashes": ("hashes", "data"), "states_at": ("states_at", "states"), "ids": ("states_at",)}
    assert caught.value.field in named.get(field, (field,))


@pytest.mark.parametrize(
    ("frame", "field", "value"),
    [
        (OPENED, "max_loss", -0.01),
        (OPENED, "max_loss", 1.01),
        (OPENED, "max_loss", NAN),
        (OPENED, "rule", ""),
        (OPENED, "rule", "a rule"),
        (OPENED, "protocol", 0),
        (OPENED, "protocol", 5),
        (OPENED, "reason", "two\nlines"),
        (OPENED, "reason", "\x1b[2J"),
        (OPENED, "reason", "a" * 501),
        (COMMIT, "spent", -0.01),
        (COMMIT, "spent", 1.01),
        (COMMIT, "spent", NAN),
        (COMMIT, "origins", [1, 7]),
        (NEED, "epoch", 0),
        (NEED, "hashes", []),
        (NEED, "hashes", [1, 1]),
        (NEED, "hashes", list(range(513))),
    ],
)
def test_a_device_refuses_what_does_not_fit(frame: EdgeFrame, field: str, value: object) -> None:
    with pytest.raises(MalformedFrame) as caught:
        from_edge(frame, **{field: value})
    assert caught.value.field == field


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Return the bytes with some of them overwritten, or cut short."""
    damage = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        damage[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(damage[: draw(st.integers(0, len(damage)))] if draw(st.booleans()) else damage)


@given(st.data(), device_frames)
def test_damaged_frames_of_a_device_are_frames_or_refused(data: st.DataObject, frame: DeviceFrame) -> None:
    sent = data.draw(damaged(device_frame_to_proto(frame).SerializeToString()))
    try:
        read = device_frame_from_proto(pb.DeviceFrame.FromString(sent), VOCABULARY, LIMITS)
    except (DecodeError, MalformedFrame):
        return
    assert from_device(read) == read


@given(st.data(), edge_frames)
def test_damaged_frames_of_an_edge_are_frames_or_refused(data: st.DataObject, frame: EdgeFrame) -> None:
    sent = data.draw(damaged(edge_frame_to_proto(frame).SerializeToString()))
    try:
        read = edge_frame_from_proto(pb.EdgeFrame.FromString(sent), VOCABULARY)
    except (DecodeError, MalformedFrame):
        return
    assert from_edge(read) == read
