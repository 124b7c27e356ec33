"""The vectors of semantic sessions: their frames on the wire, and state rows as bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from airdraft.core.types import (
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
from tests.conformance import rules

Json = dict[str, Any]
Change = Callable[[Any], object]

ABOUT = (
    "State rows: numbers as bytes by kind, and what is read back; bytes that are no row of that width. A row is a "
    "float32 scale, little end first, and a byte a number."
)
_HASHES = (bytes(range(8)), bytes(range(8, 16)))
_OPEN = Open(
    b"0123456789abcdef",
    3,
    Identity(bytes(range(32)), bytes(range(32, 64))),
    Sampling(),
    (),
    128,
    5,
    7,
    bytes(range(32)),
    None,
    semantic=Semantic(0.015625, "head", HiddenProtocol.FULL_HIDDEN, bytes(range(32)), 2, StateKind.FP8),
)
_DRAFT = Draft(3, 7, 7, 7, _HASHES[0], (1, 2, 3), states=StateRows((0, 2), bytes(range(12))))
_HIDDEN = Hidden(3, _HASHES, bytes(range(12)))
_REPORT = Report(3, waits=True, own_draft=False, provisional_s=0.125, miss_s=0.25, round_trip_s=0.0625, up_bytes_s=1e6)
_COMMIT = Commit(3, 7, (5, 999), 9, _HASHES[0], 2, (Origin.ACCEPTED, Origin.MEANING), spent=0.015625)
_NEED = NeedHidden(3, _HASHES)


def up() -> list[DeviceFrame]:
    """Return what a device may send of it."""
    return [
        _OPEN,
        replace(_OPEN, semantic=Semantic(1.0, "a-rule-of-32-characters-or-fewer")),
        replace(_OPEN, semantic=Semantic(0.5, "typical", HiddenProtocol.MARGIN_FIRST, state_width=1 << 16)),
        replace(_OPEN, receipt=bytes(range(28))),
        _DRAFT,
        _HIDDEN,
        Hidden(3, (), b""),
        Report(3),
        Report(3, waits=True),
        Report(3, own_draft=False),
        _REPORT,
        Report(3, miss_s=0.0),
    ]


def down(limits: Limits) -> list[EdgeFrame]:
    """Return what an edge may send of it."""
    opened = Opened(3, 7, 9, limits, granted=Granted(0.015625, "head", HiddenProtocol.MISMATCH_FIRST))
    return [
        opened,
        replace(opened, granted=Granted(0.5, "typical", reason="this edge grants a cap of 0.5 at most")),
        replace(opened, granted=Granted(reason="this edge has no head")),
        _COMMIT,
        replace(_COMMIT, spent=1.0),
        _NEED,
    ]


def refused_up() -> Iterator[tuple[DeviceFrame, str, Change]]:
    """Yield a device's frames with one fault each."""
    for field, value in (
        ("max_loss", 0.0),
        ("max_loss", -0.5),
        ("max_loss", 1.5),
        ("max_loss", math.nan),
        ("rule", ""),
        ("rule", "Head"),
        ("rule", "a" * 33),
        ("protocol", 0),
        ("protocol", 5),
        ("drafter_digest", bytes(31)),
        ("state_width", (1 << 16) + 1),
        ("state_kind", 0),
        ("state_kind", 3),
    ):
        yield _OPEN, field, partial(_set, ("open", "semantic"), field, value)
    yield _DRAFT, "states_at", lambda m: m.draft.states_at.__setitem__(1, 0)
    yield _DRAFT, "states_at", lambda m: m.draft.states_at.__setitem__(1, 3)
    yield _DRAFT, "states", lambda m: m.draft.ClearField("states_at")
    yield _DRAFT, "states", lambda m: m.draft.ClearField("states")
    yield _DRAFT, "states", partial(_set, ("draft",), "states", bytes(11))
    yield _DRAFT, "states", partial(_set, ("draft",), "states", bytes(8))
    yield _HIDDEN, "epoch", lambda m: m.hidden.ClearField("epoch")
    yield _HIDDEN, "hashes", lambda m: m.hidden.hashes.__setitem__(1, m.hidden.hashes[0])
    yield _HIDDEN, "data", lambda m: m.hidden.ClearField("hashes")
    yield _HIDDEN, "data", partial(_set, ("hidden",), "data", bytes(11))
    yield _REPORT, "epoch", lambda m: m.report.ClearField("epoch")
    for field in ("provisional_s", "miss_s", "round_trip_s", "up_bytes_s"):
        for number in (-0.5, math.nan, math.inf):
            yield _REPORT, field, partial(_set, ("report",), field, number)
    yield _REPORT, "round_trip_s", partial(_set, ("report",), "round_trip_s", 0.0)
    yield _REPORT, "up_bytes_s", partial(_set, ("report",), "up_bytes_s", 0.0)


def refused_down(limits: Limits) -> Iterator[tuple[EdgeFrame, str, Change]]:
    """Yield an edge's frames with one fault each."""
    opened = Opened(3, 7, 9, limits, granted=Granted(0.015625, "head", reason="of 0.5"))
    for field, value in (
        ("max_loss", -0.5),
        ("max_loss", 1.5),
        ("max_loss", math.nan),
        ("rule", ""),
        ("rule", "a rule"),
        ("protocol", 0),
        ("protocol", 5),
        ("reason", "two\nlines"),
        ("reason", "a" * 501),
    ):
        yield opened, field, partial(_set, ("opened", "granted"), field, value)
    for number in (-0.5, 1.5, math.nan):
        yield _COMMIT, "spent", partial(_set, ("commit",), "spent", number)
    yield _NEED, "epoch", lambda m: m.need_hidden.ClearField("epoch")
    yield _NEED, "hashes", lambda m: m.need_hidden.ClearField("hashes")
    yield _NEED, "hashes", lambda m: m.need_hidden.hashes.extend(m.need_hidden.hashes)


def _set(place: Sequence[str], field: str, value: object, message: Any) -> None:
    for name in place:
        message = getattr(message, name)
    setattr(message, field, value)


# ---- states ----


def states() -> Json:
    """Return rows with their bytes, and bytes that are none."""
    rows = [
        [[0.0, 0.0, 0.0]],
        [[1.0, -0.5, 0.25]],
        [[127.0, 0.5, 1.5], [-2.5, 63.5, -127.0]],
        [[448.0, 1.0, 0.0625], [-416.0, 17.0, 19.0]],
        [[2.0**-125, -(2.0**-126), 0.0]],
        [[2.0**-118, -(2.0**-119), 0.0]],
        [[2.0**127, -(2.0**126) * 1.5, 2.0**100]],
    ]
    cases = [
        {
            "kind": f"STATE_KIND_{kind}",
            "numbers": numbers,
            "bytes": b"".join(rules.state_row(row, kind) for row in numbers).hex(),
            "read": [rules.read_state_row(rules.state_row(row, kind), kind) for row in numbers],
        }
        for numbers in rows
        for kind in ("INT8", "FP8")
    ]
    refused = [
        {"kind": f"STATE_KIND_{kind}", "width": 2, "bytes": (struct.pack("<f", scale) + codes).hex()}
        for kind, scale, codes in (
            ("INT8", 1.0, b"\x01"),
            ("INT8", 1.0, b"\x01\x02\x03"),
            ("INT8", -1.0, b"\x01\x02"),
            ("INT8", math.nan, b"\x01\x02"),
            ("INT8", math.inf, b"\x00\x00"),
            ("INT8", 3e38, b"\x7f\x00"),
            ("FP8", 1.0, b"\x7f\x00"),
            ("FP8", 1.0, b"\x00\xff"),
            ("FP8", 3e38, b"\x7e\x00"),
        )
    ]
    return {"rows": cases, "refused": refused}
