"""Every planted bug is caught, by a check that it may be caught by, within a bounded number of schedules."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.link.faults_planted import BUGS, Bug, small_window
from tests.link.faults_schedules import draw, play

MOST_SCHEDULES = 1000


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    found = bug.caught(MOST_SCHEDULES)
    assert found is not None, f"{MOST_SCHEDULES} schedules ran as if nothing were wrong"
    schedules, caught = found
    assert caught.check in bug.checks, f"schedule {schedules}: {caught}"
    assert not isinstance(caught.__cause__, TypeError | AttributeError), "the bug itself must be well made"


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_same_schedules_pass_without_the_bug(bug: Bug) -> None:
    for schedule in bug.schedules(20):
        assert play(schedule).caught is None


def test_a_small_window_of_hashes_is_no_bug() -> None:
    with ExitStack() as stack:
        for change in small_window():
            stack.enter_context(change)
        for seed in range(100):
            assert play(draw(seed, seeded=bool(seed % 2))).caught is None
