"""What a field from outside must be, whatever frame it stands in; ``MalformedFrame`` with its name where it is not."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.errors import MalformedFrame
from airdraft.core.paths import HASH_BYTES
from airdraft.core.rows import FULL_BYTES, HALF_BYTES, TargetRow
from airdraft.core.types import MAX_FRAME_BYTES

MAX_MESSAGE_BYTES = MAX_FRAME_BYTES

MAX_POSITION = 1 << 30
"""No length is greater: sums of two stay far from the width of the wire's integers."""

MAX_RECEIPT_BYTES = 64
DIGEST_BYTES = 32
MAX_LINE_CHARACTERS = 500


def require(holds: bool, field: str, message: str) -> None:
    """Raise MalformedFrame, with the field's name, unless it ``holds``."""
    if not holds:
        raise MalformedFrame(f"{field}: {message}", field=field)


def checked_position(value: int, field: str) -> int:
    """Return a position or a length from outside."""
    require(value <= MAX_POSITION, field, f"{value} is no length")
    return value


def checked_epoch(value: int) -> int:
    """Return an epoch from outside."""
    require(value >= 1, "epoch", "epochs count from 1")
    return value


def checked_ids(values: Sequence[int], vocabulary: int, most: int, field: str = "ids") -> tuple[int, ...]:
    """Return ids from outside, ``most`` of them at the most, all below ``vocabulary``."""
    require(len(values) <= most, field, f"{len(values)} ids, at most {most} allowed")
    ids = tuple(values)
    require(not ids or max(ids) < vocabulary, field, f"an id outside the vocabulary of {vocabulary}")
    return ids


def checked_line(value: str, field: str) -> str:
    """Return a line from outside that a person is shown: nothing in it that a terminal would act on."""
    readable = len(value) <= MAX_LINE_CHARACTERS and value.isprintable()
    require(readable, field, f"is no line of at most {MAX_LINE_CHARACTERS} printable characters")
    return value


def checked_receipt(value: bytes) -> bytes:
    """Return a receipt from outside, or the empty one."""
    require(len(value) <= MAX_RECEIPT_BYTES, "receipt", f"{len(value)} bytes, at most {MAX_RECEIPT_BYTES} allowed")
    return value


def checked_row(value: bytes, vocabulary: int) -> TargetRow | None:
    """Return a row from outside, whose length tells its type; None where there is none."""
    if not value:
        return None
    fits = len(value) in (HALF_BYTES * vocabulary, FULL_BYTES * vocabulary)
    require(fits, "row", f"{len(value)} bytes are no row of a vocabulary of {vocabulary}")
    return TargetRow(value, half=len(value) == HALF_BYTES * vocabulary)


def hash_to_int(path_hash: bytes) -> int:
    """Return a path hash as the wire has it: little end first."""
    return int.from_bytes(path_hash, "little")


def hash_from_int(value: int) -> bytes:
    """Return the path hash, 8 bytes, that the wire has as a number."""
    return value.to_bytes(HASH_BYTES, "little")
