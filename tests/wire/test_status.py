"""The one table of statuses is complete."""

from __future__ import annotations

from airdraft.core.types import RefusalCode
from airdraft.wire.status import STATUS_OF


def test_every_refusal_has_a_status() -> None:
    assert set(STATUS_OF) == set(RefusalCode)
