"""Mutations of messages, field by field, and of bytes. Chance is an argument: one seed gives the same again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_F = FieldDescriptor

_EDGES = (0, 1, 2, 3, 127, 128, 255, 256, 511, 512, 513, 4096, 65_535, 65_536, (1 << 30) - 1, 1 << 30, (1 << 30) + 1)
_WIDE = (1 << 31, (1 << 31) - 1, (1 << 32) - 1)
_WIDEST = (1 << 32, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_FLOATS = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 0.05, 1 + 2**-52, 1e-9, 5e-324, 1e6, 1.0000001e6, 1e15, 1e39, 1e308, -1e308),
    *(math.nan, math.inf, -math.inf),
)
_ENUMS = (-(1 << 31), -1, 0, 1, 2, 3, 4, 5, 6, 7, 17, 99, (1 << 31) - 1)
_SIZES = (0, 1, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 100, 200, 1000)
_TEXTS = ("", "head", "typical", "kl-judge", "a:1", "unix:/x", "\x00", "a\nb", "\u202e", "é" * 40, "x" * 600)
_HUGE = (2, 17, 64, 257, 513, 1024, 4097)

_INTEGERS = {_F.TYPE_UINT32: 32, _F.TYPE_FIXED32: 32, _F.TYPE_UINT64: 64, _F.TYPE_FIXED64: 64}


def boundary(random: Random, bits: int, vocabulary: int) -> int:
    """Return a whole number of so many bits at which something may break, or any."""
    if random.random() < 0.15:
        return random.getrandbits(bits)
    near = (vocabulary - 1, vocabulary, vocabulary + 1)
    chosen: int = random.choice((*_EDGES, *near, *_WIDE, *(_WIDEST if bits == 64 else ())))
    return chosen & ((1 << bits) - 1)


# ---- by field ----


def mutate(message: Message, random: Random, vocabulary: int, donors: Sequence[Message]) -> None:
    """Change a message in one place, any place, in place. ``donors`` give other messages of its type to take from."""
    kinds: Any = message.DESCRIPTOR.fields
    if not kinds or random.random() < 0.03:
        _graft(message, random, donors)
        return
    present: list[FieldDescriptor] = [known for known, _ in message.ListFields()]
    known: FieldDescriptor = random.choice(present) if present and random.random() < 0.8 else random.choice(kinds)
    if known.is_repeated:  # type: ignore[attr-defined,unused-ignore]
        _mutate_list(message, known, random, vocabulary)
    elif random.random() < 0.08:
        message.ClearField(known.name)
    elif known.type == _F.TYPE_MESSAGE:
        if random.random() < 0.05:
            _graft(message, random, donors)
        else:
            part = getattr(message, known.name)
            part.SetInParent()
            mutate(part, random, vocabulary, [getattr(donor, known.name) for donor in donors[:1]])
    else:
        setattr(message, known.name, _value(known, random, vocabulary, getattr(message, known.name)))


def _graft(message: Message, random: Random, donors: Sequence[Message]) -> None:
    """Merge another message into this one: lists grow, single fields and one-ofs are overwritten."""
    if donors:
        message.MergeFrom(random.choice(donors))


def _value(known: FieldDescriptor, random: Random, vocabulary: int, old: Any) -> Any:
    kind = known.type
    if kind in _INTEGERS:
        bits = _INTEGERS[kind]
        if random.random() < 0.3:
            return (old + random.choice((-1, 1))) % (1 << bits)
        return boundary(random, bits, vocabulary)
    if kind in (_F.TYPE_DOUBLE, _F.TYPE_FLOAT):
        return random.choice(_FLOATS)
    if kind == _F.TYPE_BOOL:
        return not old
    if kind == _F.TYPE_ENUM:
        return random.choice(_ENUMS)
    if kind == _F.TYPE_STRING:
        return random.choice((*_TEXTS, old + "x", old[:-1]))
    return _binary(old, random)


def _binary(old: bytes, random: Random) -> bytes:
    if old and random.random() < 0.5:
        return mutate_bytes(old, random, ())
    return random.randbytes(random.choice(_SIZES))


def _mutate_list(message: Message, known: FieldDescriptor, random: Random, vocabulary: int) -> None:
    values = getattr(message, known.name)
    change = random.randrange(6)
    if known.type == _F.TYPE_MESSAGE:
        if change < 2 and len(values):
            mutate(random.choice(values), random, vocabulary, ())
        elif change < 4 and len(values):
            del values[random.randrange(len(values))]
        else:
            part = values.add()
            mutate(part, random, vocabulary, values[:1])
        return
    if change == 0 and len(values):
        del values[random.randrange(len(values)) :]
    elif change == 1 and len(values):
        del values[random.randrange(len(values))]
    elif change == 2 and len(values):
        values.append(random.choice(values))
    elif change == 3:
        one = values[0] if len(values) else _value(known, random, vocabulary, known.default_value or _zero(known))
        values.extend([one] * (random.choice(_HUGE) if random.random() < 0.25 else random.randrange(1, 9)))
    elif change == 4 or not len(values):
        values.append(_value(known, random, vocabulary, _zero(known)))
    else:
        place = random.randrange(len(values))
        values[place] = _value(known, random, vocabulary, values[place])


def _zero(known: FieldDescriptor) -> Any:
    if known.type == _F.TYPE_STRING:
        return ""
    return b"" if known.type == _F.TYPE_BYTES else 0


# ---- by bytes ----


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))


def _insert(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data) + 1)
    data[place:place] = random.randbytes(random.randrange(1, 12))


def _drop(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data) + 1)
    del data[place : place + random.randrange(1, 12)]


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data) + 1) :]


def _double(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data) + 1)
    data[place:place] = data[place : place + random.randrange(1, 40)]


_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _flip, _set, _insert, _drop, _truncate, _double)


def mutate_bytes(data: bytes, random: Random, donors: Sequence[bytes]) -> bytes:
    """Return bytes with one to three changes; ``donors`` give other inputs to splice with."""
    changed = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        if donors and random.random() < 0.1:
            other = random.choice(donors)
            changed[random.randrange(len(changed) + 1) :] = other[random.randrange(len(other) + 1) :]
        else:
            random.choice(_CHANGES)(changed, random)
    return bytes(changed)


def unknown_field(random: Random) -> bytes:
    """Return a field of a number that no message here has: a reader must pass over it."""
    number = random.randrange(100, 1000)
    tag = (number << 3) | 2
    body = random.randbytes(random.randrange(20))
    return bytes([tag & 0x7F | 0x80, tag >> 7]) + bytes([len(body)]) + body
