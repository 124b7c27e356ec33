"""What a bug planted on purpose is: how it is put in, by which checks it may be caught, and in which settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tests.link.faults_actions import FAULTS
from tests.link.faults_history import Caught
from tests.link.faults_schedules import Schedule, draw, play

Patches = Iterator[AbstractContextManager[Any]]
Plant = Callable[[], Patches]


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug, and by which checks it may be caught."""

    name: str
    plant: Plant
    checks: frozenset[str]
    setting: dict[str, Any] = field(default_factory=dict)  # what it needs to show
    kinds: tuple[str, ...] = tuple(FAULTS)  # of faults to draw from

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Have the bug for as long as the context lasts."""
        with ExitStack() as stack:
            for change in self.plant():
                stack.enter_context(change)
            yield

    def schedules(self, most: int) -> Iterator[Schedule]:
        """Draw schedules that may show it, greedy and seeded in turn."""
        for seed in range(most):
            schedule = draw(seed, seeded=bool(seed % 2), kinds=self.kinds, conducts=False)
            yield replace(schedule, setting=replace(schedule.setting, **self.setting))

    def caught(self, most: int) -> tuple[int, Caught] | None:
        """Return how many schedules it took, and by what; None where none of ``most`` did."""
        with self.planted():
            for count, schedule in enumerate(self.schedules(most), 1):
                caught = play(schedule).caught
                if caught is not None:
                    return count, caught
        return None


BUGS: list[Bug] = []


def bug(*checks: str, kinds: tuple[str, ...] = tuple(FAULTS), **setting: Any) -> Callable[[Plant], Plant]:
    """Put a planting into ``BUGS``."""

    def put(plant: Plant) -> Plant:
        BUGS.append(Bug(plant.__name__, plant, frozenset(checks), setting, kinds))
        return plant

    return put


def getter(owner: type, name: str) -> Callable[[Any], Any]:
    getter = vars(owner)[name].fget
    assert callable(getter)
    return cast(Callable[[Any], Any], getter)
