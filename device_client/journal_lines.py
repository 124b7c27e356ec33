"""The lines of a journal, and what they say: the head, epochs and commits. No file is touched here.

A line is eight hex digits of CRC-32, a space, compact JSON and a newline. A line that fails its checksum is torn; a
whole line is still checked, type by type and range by range, as anybody may have written it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any
from zlib import crc32

from airdraft.core.meaning import RULES
from airdraft.core.sampling import check
from airdraft.core.types import HiddenProtocol, Identity, Sampling, Semantic, StateKind, StopReason

FORMAT_VERSION = 2
"""Written where a text may be accepted by meaning, which format 1 knows nothing of; all else is still written as 1."""

MAX_LINE_BYTES = 1 << 26
"""No line is longer: what a reader holds at once, whatever file it was given."""

SESSION_ID_BYTES = 16
DIGEST_BYTES = 32
_INTEGERS = range(1 << 32)  # ids, lengths and epochs are no wider on the wire
_SEEDS = range(1 << 64)
_EXACT_AS_FLOATS = range(-(1 << 53), 1 << 53)
_VERSION = "airdraft_journal"
_STOPS = {reason.name.lower(): reason for reason in StopReason}

Fields = dict[str, Any]


class NewerFormat(ValueError):
    """A format that this module does not know yet."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a session keeps from its first ``Open``, and how to go on with it."""

    session_id: bytes  # 16 bytes
    identity: Identity
    sampling: Sampling
    stop_ids: tuple[int, ...]
    max_tokens: int
    prompt: tuple[int, ...]
    edges: tuple[str, ...]  # HOST:PORT, in order of preference; at least one
    draft_model: str
    draft_revision: str | None
    draft_length: int
    model_name: str
    semantic: Semantic | None = None  # what the user asked for, without the drafter's part; None is ``exact``


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch is about to be used."""

    epoch: int


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """Ids that are the text's own from now on."""

    base: int  # absolute position of the first id
    ids: tuple[int, ...]
    receipt: bytes
    stop: StopReason | None


Record = EpochRecord | CommitRecord


def is_whole(line: bytes) -> bool:
    """Say whether a line is all there and as it was written."""
    return line.endswith(b"\n") and line[:9] == b"%08x " % crc32(line[9:-1])


def head_line(head: Head) -> bytes:
    """Return a journal's first line. Raises ValueError where it would not read as this head."""
    return _checked_line({_VERSION: 1 if head.semantic is None else 2} | _head_fields(head), head, read_head)


def record_line(record: Record) -> bytes:
    """Return a later line. Raises ValueError where it would not read as this record."""
    return _checked_line(_record_fields(record), record, read_record)


def read_head(line: bytes) -> Head:
    """Return what a whole first line says. Raises NewerFormat, or ValueError with what is wrong in its own words."""
    given = _parsed(line)
    version = _named(_VERSION, _integer, given.pop(_VERSION, None))
    if version not in (1, FORMAT_VERSION):
        raise (NewerFormat if version > FORMAT_VERSION else ValueError)(f"format {version}")
    known = _HEAD if version == 1 else _HEAD | {"semantic": _semantic}
    _check_keys(given, known.keys(), needed=known.keys())
    values = {name: _named(name, known[name], value) for name, value in given.items()}
    identity = Identity(*(values.pop(field.name) for field in fields(Identity)))
    return Head(identity=identity, **values)


def read_record(line: bytes) -> Record:
    """Return what a whole later line says. Raises ValueError with what is wrong in its own words."""
    given = _parsed(line)
    if "epoch" in given:
        _check_keys(given, {"epoch"})
        return EpochRecord(_named("epoch", _integer, given["epoch"]))
    _check_keys(given, _COMMIT.keys(), needed={"base", "ids"})
    return CommitRecord(**{name: _named(name, kind, given.get(name)) for name, kind in _COMMIT.items()})


# ---- writing ----


def _checked_line(given: Fields, value: object, read: Callable[[bytes], object]) -> bytes:
    body = json.dumps(given, separators=(",", ":"), allow_nan=False).encode()
    line = b"%08x %s\n" % (crc32(body), body)
    if len(line) > MAX_LINE_BYTES or read(line) != value:
        raise ValueError("a line does not read as what was written")
    return line


def _head_fields(head: Head) -> Fields:
    given = asdict(head)
    given |= given.pop("identity")
    semantic = given.pop("semantic")
    if head.semantic is not None:
        given["semantic"] = {name: _semantic_field(semantic[name]) for name in _SEMANTIC}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in given.items()}


def _semantic_field(value: object) -> object:
    return value.name.lower() if isinstance(value, IntEnum) else value


def _record_fields(record: Record) -> Fields:
    if isinstance(record, EpochRecord):
        return {"epoch": record.epoch}
    given: Fields = {"base": record.base, "ids": record.ids}
    if record.receipt:
        given["receipt"] = record.receipt.hex()
    if record.stop is not None:
        given["stop"] = record.stop.name.lower()
    return given


# ---- reading: each takes what JSON gave and raises ValueError where it is not of its kind ----


def _parsed(line: bytes) -> Fields:
    try:
        return _object(json.loads(line[9:-1]))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _named(name: str, kind: Callable[[Any], Any], value: object) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _check_keys(given: Fields, known: Set[str], needed: Set[str] = frozenset()) -> None:
    if not needed <= given.keys() <= known:
        raise ValueError("its keys are not those of any record")


def _object(value: object) -> Fields:
    if not isinstance(value, dict):
        raise ValueError("is no object")
    return value


def _integer(value: object, within: range = _INTEGERS) -> int:
    if type(value) is not int or value not in within:
        raise ValueError(f"must be an integer from {within.start} to {within.stop - 1}")
    return value


def _seed(value: object) -> int:
    return _integer(value, _SEEDS)


def _number(value: object) -> float:
    return value if type(value) is float else float(_integer(value, _EXACT_AS_FLOATS))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():  # it may be shown on a terminal
        raise ValueError("is no printable text")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError("is no list")
    return value


def _integers(value: object) -> tuple[int, ...]:
    return tuple(map(_integer, _list(value)))


def _edges(value: object) -> tuple[str, ...]:
    edges = tuple(map(_text, _list(value)))
    if not edges:
        raise ValueError("is empty")
    return edges


def _session_id(value: object) -> bytes:
    return _binary(value, SESSION_ID_BYTES)


def _digest(value: object) -> bytes:
    return _binary(value, DIGEST_BYTES)


def _receipt(value: object) -> bytes:
    return b"" if value is None else _binary(value)


def _binary(value: object, size_bytes: int | None = None) -> bytes:
    found = bytes.fromhex(_text(value))
    if size_bytes not in (None, len(found)):
        raise ValueError(f"has {len(found)} bytes, not {size_bytes}")
    return found


def _stop(value: object) -> StopReason | None:
    if value is None:
        return None
    if _text(value) not in _STOPS:
        raise ValueError("is no reason to stop")
    return _STOPS[_text(value)]


def _sampling(value: object) -> Sampling:
    """Return the settings; one that is missing was not known to the writer, and is off."""
    given = _object(value)
    _check_keys(given, _SAMPLING.keys())
    sampling = Sampling(**{name: _named(name, _SAMPLING[name], part) for name, part in given.items()})
    check(sampling)
    return sampling


def _semantic(value: object) -> Semantic:
    given = _object(value)
    _check_keys(given, _SEMANTIC.keys(), needed=_SEMANTIC.keys())
    return Semantic(**{name: _named(name, _SEMANTIC[name], part) for name, part in given.items()})


def _cap(value: object) -> float:
    cap = _number(value)
    if not 0 < cap <= 1:
        raise ValueError("is no share above 0")
    return cap


def _rule(value: object) -> str:
    if _text(value) not in RULES:
        raise ValueError("is no rule known here")
    return _text(value)


def _one_of(kind: type[HiddenProtocol] | type[StateKind]) -> Callable[[object], HiddenProtocol | StateKind]:
    known = {one.name.lower(): one for one in kind}

    def read(value: object) -> HiddenProtocol | StateKind:
        if _text(value) not in known:
            raise ValueError(f"is none of {', '.join(known)}")
        return known[_text(value)]

    return read


_SEMANTIC: dict[str, Callable[[object], Any]] = {
    "max_loss": _cap,
    "rule": _rule,
    "protocol": _one_of(HiddenProtocol),
    "state_kind": _one_of(StateKind),
}

_SAMPLING: dict[str, Callable[[object], float]] = {
    "temperature": _number,
    "seed": _seed,
    "top_k": _integer,
    "top_p": _number,
    "min_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
}

_COMMIT: dict[str, Callable[[object], Any]] = {"base": _integer, "ids": _integers, "receipt": _receipt, "stop": _stop}

_HEAD: dict[str, Callable[[object], Any]] = {
    "session_id": _session_id,
    "model_digest": _digest,
    "tokenizer_digest": _digest,
    "sampler_version": _text,
    "sampling": _sampling,
    "stop_ids": _integers,
    "max_tokens": _integer,
    "prompt": _integers,
    "edges": _edges,
    "draft_model": _text,
    "draft_revision": _optional_text,
    "draft_length": _integer,
    "model_name": _text,
}
