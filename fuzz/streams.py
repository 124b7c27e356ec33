"""What a session's harness reads: frames with what happens before each, as bytes and back.

A step is a byte of events, two bytes of length, little end first, and the frame. What is cut short is taken as far as
it goes, so that any bytes are steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PASSES = 0b11  # how many passes run before the frame
LEAVES = 1 << 2  # the stream breaks before it
EVICTS = 1 << 3
IDS_TOO = 1 << 4  # the edge loses the ids with the cache
LOSES = 1 << 5  # a pass begins and comes to nothing
DUE = 1 << 6  # the next deadline passes
STAYS = 1 << 7  # a pass is in flight while the frame comes

MOST_STEPS = 200


@dataclass(frozen=True, slots=True)
class Step:
    """A frame, and what happens before it."""

    events: int
    frame: bytes


def pack(steps: Sequence[Step]) -> bytes:
    """Return steps as bytes; frames longer than a length can say are cut."""
    return b"".join(
        bytes([step.events]) + len(step.frame[:65_535]).to_bytes(2, "little") + step.frame[:65_535] for step in steps
    )


def unpack(data: bytes) -> Iterator[Step]:
    """Yield the steps that bytes hold, the first ``MOST_STEPS`` of them."""
    at = 0
    for _ in range(MOST_STEPS):
        if at >= len(data):
            return
        size = int.from_bytes(data[at + 1 : at + 3], "little")
        yield Step(data[at], data[at + 3 : at + 3 + size])
        at += 3 + size
