"""Who waits for a place gets it in turn: nobody overtakes, nobody starves, and nobody's absence blocks the others."""

from __future__ import annotations

from random import Random

import pytest

from airdraft.core.errors import Overloaded
from edge_node.admission import GRACE, GRACE_S, Admission, Key


class Door:
    """An admission of which the test is the clock."""

    def __init__(self, most: int = 100) -> None:
        self.now = 0.0
        self.admission = Admission(lambda: self.now, most)

    def tries(self, name: str, free: int) -> float | None:
        """Return after how long the device is to come back; None where it has got a place."""
        try:
            self.admission.claim(key(name), free)
        except Overloaded as error:
            return error.retry_after_s
        self.admission.admitted(key(name))
        return None


def key(name: str) -> Key:
    return "", name.encode()


def test_a_free_place_is_for_whoever_comes() -> None:
    door = Door()
    assert door.tries("a", 1) is None
    assert len(door.admission) == 0


def test_a_newcomer_takes_no_place_that_another_waits_for() -> None:
    door = Door()
    assert door.tries("a", 0) is not None
    assert door.tries("b", 0) is not None
    assert door.tries("new", 1) is not None
    assert door.tries("b", 1) is not None  # nor one that came later
    assert door.tries("b", 2) is None  # there is one for each
    assert door.tries("a", 1) is None
    assert door.tries("new", 1) is None
    assert len(door.admission) == 0


def test_the_wait_is_counted_from_the_first_attempt() -> None:
    door = Door()
    door.tries("a", 0)
    door.now += 1.5
    assert door.tries("a", 0) is not None
    door.now += 1.0
    door.admission.claim(key("a"), 1)
    assert door.admission.admitted(key("a")) == 2.5
    assert door.admission.admitted(key("stranger")) == 0.0


def test_who_does_not_come_back_in_time_loses_the_turn() -> None:
    door = Door()
    wait_s = door.tries("a", 0)
    assert wait_s is not None
    door.now += (1 + GRACE) * wait_s + GRACE_S - 1e-6
    assert door.tries("new", 1) is not None
    assert len(door.admission) == 2
    door.now += 2e-6
    assert len(door.admission) == 1
    assert door.tries("new", 1) is None
    assert door.admission.take_lost() == 1
    assert door.admission.take_lost() == 0


def test_one_that_keeps_coming_keeps_its_turn() -> None:
    door = Door()
    for _ in range(50):
        wait_s = door.tries("a", 0)
        assert wait_s is not None
        door.now += wait_s + GRACE_S
    assert door.tries("new", 1) is not None
    assert door.tries("a", 1) is None


def test_no_more_turns_are_kept_than_stated() -> None:
    door = Door(most=2)
    for name in "abcde":
        assert door.tries(name, 0) is not None
    assert len(door.admission) == 2
    assert door.tries("e", 2) is not None
    assert door.tries("b", 2) is None


def test_those_further_back_are_told_to_come_later_and_why() -> None:
    door = Door()
    door.admission.stays.held(0.0, 4)
    door.now = 2.0
    waits = [door.tries(name, 0) for name in "abc"]
    assert waits == [2.0, 4.0, 6.0]
    with pytest.raises(Overloaded, match=r"^every place .* taken; 2 before you in line; try again in 6\.0 s$"):
        door.admission.claim(key("c"), 0)


def test_a_place_that_is_free_soon_is_not_waited_for_as_long() -> None:
    door = Door()
    door.admission.stays.held(0.0, 4)
    door.now = 2.0
    assert door.tries("a", 0) == 2.0
    assert door.tries("b", 1) == 2.0  # one is a's, and another one is needed


def test_one_for_whom_there_is_no_memory_is_not_overtaken() -> None:
    door = Door()
    door.admission.claim(key("long"), 3)
    error = door.admission.lacks_rows(key("long"), "the memory is in use")
    assert error.retry_after_s > 0
    assert "the memory is in use; try again in" in error.message
    assert door.tries("short", 3) is not None
    assert door.tries("long", 3) is None
    assert door.tries("short", 2) is None


@pytest.mark.parametrize("seed", range(20))
def test_who_is_overtaken_while_away_has_a_place_kept(seed: int) -> None:
    """In virtual time: places fall free at random, devices come back a little later than they were told to."""
    chance, door = Random(seed), Door()
    coming = sorted((chance.random() * 2, name, chance.random() * 0.2) for name in map(str, range(40)))
    ends: list[float] = []
    order: list[str] = []
    arrived: list[str] = []
    overtaken: set[str] = set()
    while coming:
        door.now, name, late_s = coming.pop(0)
        if name not in arrived:
            arrived.append(name)
        for end_s in sorted(end_s for end_s in ends if end_s <= door.now):
            ends.remove(end_s)
            door.admission.stays.held(end_s, len(ends))
        wait_s = door.tries(name, 4 - len(ends))
        if wait_s is None:
            overtaken |= {other for other in arrived[: arrived.index(name)] if other not in order}
            order.append(name)
            ends.append(door.now + chance.expovariate(1 / 0.5))
            door.admission.stays.held(door.now, len(ends))
        else:
            assert name not in overtaken
            coming = sorted([*coming, (door.now + wait_s + late_s, name, late_s)])
    assert len(order) == 40
    assert door.admission.take_lost() == 0
    assert overtaken  # it does happen
