"""Exit codes of the device client, and which error leads to which (DESIGN §8)."""

from __future__ import annotations

from enum import IntEnum

from airdraft.core.errors import (
    EdgeFault,
    EdgeUnreachable,
    Forbidden,
    ModelMismatch,
    SpecError,
    TokenizerMismatch,
    TooLong,
    Unauthenticated,
    Unsupported,
    UnsupportedVersion,
)


class Exit(IntEnum):
    """What a script can rely on."""

    OK = 0
    USAGE = 2
    UNREACHABLE = 3
    MISMATCH = 4
    FAULT_FOUND = 5
    DEGRADED = 6
    DENIED = 7
    INTERRUPTED = 130


_EXIT_OF: dict[type[SpecError], Exit] = {
    TooLong: Exit.USAGE,
    Unsupported: Exit.USAGE,
    ModelMismatch: Exit.MISMATCH,
    TokenizerMismatch: Exit.MISMATCH,
    UnsupportedVersion: Exit.MISMATCH,
    EdgeUnreachable: Exit.UNREACHABLE,
    EdgeFault: Exit.UNREACHABLE,
    Unauthenticated: Exit.DENIED,
    Forbidden: Exit.DENIED,
}


def exit_code(error: SpecError) -> Exit:
    """Return the code to end with; an edge that does not serve us counts as not reached."""
    return _EXIT_OF.get(type(error), Exit.UNREACHABLE)
