"""Files that nobody else may read, and files that are replaced in one go under whoever reads them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


def create_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, where there is none yet. Raises FileExistsError, OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    try:
        _fill(descriptor, content)
    except OSError:
        path.unlink()
        raise


def replace(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that whoever opens it finds the old content or the new, whole. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    try:
        os.fchmod(descriptor, mode)
        _fill(descriptor, content)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file in one write; a new one is its owner's alone. Raises OSError."""
    _fill(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE), content)


def _fill(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb", buffering=len(content) + 1) as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
