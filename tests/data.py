"""Recorded data that the project uses and does not ship: found by AIRDRAFT_DATA, else beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def recorded(path: str) -> Path:
    """Return a recorded file or folder; skip the test, saying why, where it is not there."""
    base = Path(os.environ.get("AIRDRAFT_DATA") or Path(__file__).parents[2] / "shared" / "data")
    found = base / path
    if not found.exists():
        pytest.skip(f"{path} is not under {base}; set AIRDRAFT_DATA to the recorded data")
    return found
