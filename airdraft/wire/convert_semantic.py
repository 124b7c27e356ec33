"""What semantic sessions add to the frames, to protobuf and back; every field is checked on its way in.

A row's width and kind were agreed on at the attach and never stand beside it. So what is checked here is that the rows
of one frame are equally long and that there is one for each node named; the session knows how long they must be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from airdraft.core.types import (
    EXACT,
    MAX_FRAME_NODES,
    Granted,
    Hidden,
    HiddenProtocol,
    NeedHidden,
    Report,
    Semantic,
    StateKind,
    StateRows,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.checks import DIGEST_BYTES, checked_epoch, checked_line, hash_from_int, hash_to_int, require

MAX_STATE_WIDTH = 1 << 16
MAX_SECONDS = 1e6
MAX_RATE = 1e15
"""Bytes a second; what is reckoned with it stays finite, as with ``MAX_SECONDS``."""

_SCALE_BYTES = 4
_WORD = re.compile(r"[a-z][a-z0-9-]{0,31}")
_PROTOCOLS = frozenset(int(protocol) for protocol in HiddenProtocol)
_KINDS = frozenset(int(kind) for kind in StateKind)

# ---- the terms ----


def semantic_to_proto(semantic: Semantic | None) -> pb.Semantic | None:
    """Return what is asked for as a message; where that is ``exact`` the field stays absent."""
    if semantic is None:
        return None
    return pb.Semantic(
        max_loss=semantic.max_loss,
        rule=semantic.rule,
        protocol=cast("pb.HiddenProtocol", semantic.protocol),
        drafter_digest=semantic.drafter_digest,
        state_width=semantic.state_width,
        state_kind=cast("pb.StateKind", semantic.state_kind),
    )


def semantic_from_proto(message: pb.Open) -> Semantic | None:
    """Check and return what a device asks for, None where that is ``exact``."""
    if not message.HasField("semantic"):
        return None
    asked = message.semantic
    require(0 < asked.max_loss <= 1, "max_loss", f"{asked.max_loss} is no share of answers above 0")  # nor is a NaN
    require(len(asked.drafter_digest) in (0, DIGEST_BYTES), "drafter_digest", f"must have {DIGEST_BYTES} bytes or none")
    require(asked.state_width <= MAX_STATE_WIDTH, "state_width", f"{asked.state_width}, at most {MAX_STATE_WIDTH}")
    require(asked.state_kind in _KINDS, "state_kind", "a kind that this end does not know")
    return Semantic(
        asked.max_loss,
        _word(asked.rule),
        _protocol(asked.protocol),
        asked.drafter_digest,
        asked.state_width,
        StateKind(asked.state_kind),
    )


def granted_to_proto(granted: Granted) -> pb.Granted | None:
    """Return what is granted as a message; where nobody asked for more than ``exact`` the field stays absent."""
    if granted == EXACT:
        return None
    return pb.Granted(
        max_loss=granted.max_loss,
        rule=granted.rule,
        protocol=cast("pb.HiddenProtocol", granted.protocol),
        reason=granted.reason,
    )


def granted_from_proto(message: pb.Opened) -> Granted:
    """Check and return what an edge grants."""
    if not message.HasField("granted"):
        return EXACT
    granted = message.granted
    require(0 <= granted.max_loss <= 1, "max_loss", f"{granted.max_loss} is no share of answers")
    require(bool(granted.rule) or not granted.max_loss, "rule", "a cap without a rule")
    reason = checked_line(granted.reason, "reason")
    rule = _word(granted.rule) if granted.rule else ""
    return Granted(granted.max_loss, rule, _protocol(granted.protocol), reason)


def _word(value: str) -> str:
    require(_WORD.fullmatch(value) is not None, "rule", "is no name of a rule")
    return value


def _protocol(value: int) -> HiddenProtocol:
    require(value in _PROTOCOLS, "protocol", "a protocol that this end does not know")
    return HiddenProtocol(value)


# ---- states ----


def states_from_proto(message: pb.Draft) -> StateRows | None:
    """Check and return the states that a draft brings, None where it brings none."""
    at = tuple(message.states_at)
    ascend = all(before < after for before, after in pairwise(at))
    require(ascend and (not at or at[-1] < len(message.ids)), "states_at", "must ascend among the indices of the ids")
    _check_rows(message.states, len(at), "states")
    return StateRows(at, message.states) if at else None


def hidden_to_proto(hidden: Hidden) -> pb.Hidden:
    """Return states that were asked for as a message."""
    return pb.Hidden(epoch=hidden.epoch, hashes=_hashes_to_proto(hidden.hashes), data=hidden.data)


def hidden_from_proto(message: pb.Hidden) -> Hidden:
    """Check and return states that were asked for."""
    _check_rows(message.data, len(message.hashes), "data")
    return Hidden(checked_epoch(message.epoch), _hashes_from_proto(message.hashes), message.data)


def need_hidden_to_proto(need: NeedHidden) -> pb.NeedHidden:
    """Return a request for states as a message."""
    return pb.NeedHidden(epoch=need.epoch, hashes=_hashes_to_proto(need.hashes))


def need_hidden_from_proto(message: pb.NeedHidden) -> NeedHidden:
    """Check and return an edge's request for states."""
    require(len(message.hashes) > 0, "hashes", "names no node")
    return NeedHidden(checked_epoch(message.epoch), _hashes_from_proto(message.hashes))


def _check_rows(data: bytes, count: int, field: str) -> None:
    """Check that ``data`` may be ``count`` rows of one width, each a scale and at least one number."""
    row_bytes, rest = divmod(len(data), count) if count else (0, len(data))
    fits = not rest and (not count or _SCALE_BYTES < row_bytes <= _SCALE_BYTES + MAX_STATE_WIDTH)
    require(fits, field, f"{len(data)} bytes are no {count} rows of one width")


def _hashes_to_proto(hashes: Sequence[bytes]) -> list[int]:
    return [hash_to_int(path_hash) for path_hash in hashes]


def _hashes_from_proto(values: Sequence[int]) -> tuple[bytes, ...]:
    require(len(values) <= MAX_FRAME_NODES, "hashes", f"{len(values)} nodes, at most {MAX_FRAME_NODES} allowed")
    require(len(set(values)) == len(values), "hashes", "name a node twice")
    return tuple(map(hash_from_int, values))


# ---- reports ----


def report_to_proto(report: Report) -> pb.Report:
    """Return what a device's plan asks for, and what it knows of its channel, as a message."""
    return pb.Report(
        epoch=report.epoch,
        waits=report.waits,
        no_own_draft=not report.own_draft,
        provisional_s=report.provisional_s,
        miss_s=report.miss_s,
        round_trip_s=report.round_trip_s,
        up_bytes_s=report.up_bytes_s,
    )


def report_from_proto(message: pb.Report) -> Report:
    """Check and return a device's report. A channel's numbers are above 0: whoever judges takes their logarithms."""
    require(0 <= message.provisional_s <= MAX_SECONDS, "provisional_s", "is no time to wait")
    miss_s = message.miss_s if message.HasField("miss_s") else None
    round_trip_s = message.round_trip_s if message.HasField("round_trip_s") else None
    up_bytes_s = message.up_bytes_s if message.HasField("up_bytes_s") else None
    require(miss_s is None or 0 <= miss_s <= MAX_SECONDS, "miss_s", "is no time")
    require(round_trip_s is None or 0 < round_trip_s <= MAX_SECONDS, "round_trip_s", "is no time above 0")
    require(up_bytes_s is None or 0 < up_bytes_s <= MAX_RATE, "up_bytes_s", "is no rate above 0")
    return Report(
        checked_epoch(message.epoch),
        message.waits,
        not message.no_own_draft,
        message.provisional_s,
        miss_s,
        round_trip_s,
        up_bytes_s,
    )
