"""Ten thousand random schedules in strict, each against the texts alone (``tests/edge_node/test_load.py``)."""

from __future__ import annotations

import pytest

from tests.edge_node.test_load import schedules

SCHEDULES = 10_000
PART = 2_500


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(0, SCHEDULES, PART))
def test_ten_thousand_random_schedules_in_strict(first: int) -> None:
    assert schedules(1_000_000 + first, PART) == 0
