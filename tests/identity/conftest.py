"""Fixtures of the tests of identity. (What they need is imported late: each test file says first that it needs it.)"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.identity.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a world in an empty folder."""
    from tests.identity.world import World

    return World(tmp_path)
