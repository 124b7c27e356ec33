"""A file that may change under a running process: read again when it did, and never lost to a bad edit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

LOOK_EVERY_S = 1.0
"""How often a file is looked at, at most."""

MAX_FILE_BYTES = 1 << 20

_T = TypeVar("_T")
_State = tuple[int, ...]


class IdentityFileError(ValueError):
    """A file of keys, issuers or certificates cannot be used; the text is one line and shows no value of the file."""


class Watched(Generic[_T]):
    """What a file says, as of its last good state.

    parse      makes the value of the file's bytes; raises IdentityFileError
    monotonic  seconds, of a clock that never goes back
    report     takes one line, when the file was read again and when it no longer can be; once for each state of it

    Raises IdentityFileError where the file cannot be used at first.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[Path, bytes], _T],
        monotonic: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self._path = path
        self._parse = parse
        self._monotonic = monotonic
        self._report = report
        self._looked_s = monotonic()
        self._state: _State | None
        self._state, content = _read(path)
        self._value = parse(path, content)

    def value(self) -> _T:
        """Return what the file says; looks at it at most every ``LOOK_EVERY_S`` and never raises for its sake."""
        now_s = self._monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._look()
        return self._value

    def _look(self) -> None:
        try:
            state = _state(os.stat(self._path))
        except OSError:
            state = None
        if state == self._state:
            return
        self._state = state
        try:
            self._state, content = _read(self._path)
            self._value = self._parse(self._path, content)
        except IdentityFileError as error:
            self._report(f"{error}; what it said before stays in force")
        else:
            self._report(f"{self._path}: read again")


def read_file(path: Path) -> bytes:
    """Return the bytes of a small file. Raises IdentityFileError."""
    return _read(path)[1]


def _read(path: Path) -> tuple[_State, bytes]:
    try:
        with path.open("rb") as file:
            # The state first: a change while it is read shows at the next look.
            state = _state(os.fstat(file.fileno()))
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise IdentityFileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise IdentityFileError(f"{path}: longer than {MAX_FILE_BYTES} bytes; is this the right file?")
    return state, content


def _state(status: os.stat_result) -> _State:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
