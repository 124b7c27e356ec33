"""Who waits for a place gets it in turn: nobody overtakes, nobody starves, and nobody's absence blocks the others."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from airdraft.core.errors import Overloaded
from edge_node.admission import GRACE, GRACE_S, Admission, Key


class Door:
    """An admission of which the test is the clock."""

    def __init__(self, most: int = 100) -> None:
        self.now = 0.0
        self.held = Counter[str]()  # places, by tenant
        self.admission = Admission(lambda: self.now, most)

    def tries(self, name: str, free: int, tenant: str = "") -> float | None:
        """Return after how long the device is to come back; None where it has got a place."""
        try:
            self.admission.claim(key(name, tenant), free + self.held.total(), self.held)
        except Overloaded as error:
            return error.retry_after_s
        self.admission.admitted(key(name, tenant))
        return None


def key(name: str, tenant: str = "") -> Key:
    return tenant, name.encode()


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
    door.admission.claim(key("a"), 1, {})
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
        door.admission.claim(key("c"), 0, {})


def test_a_place_that_is_free_soon_is_not_waited_for_as_long() -> None:
    door = Door()
    door.admission.stays.held(0.0, 4)
    door.now = 2.0
    assert door.tries("a", 0) == 2.0
    assert door.tries("b", 1) == 2.0  # one is a's, and another one is needed


def test_one_for_whom_there_is_no_memory_is_not_overtaken() -> None:
    door = Door()
    door.admission.claim(key("long"), 3, {})
    error = door.admission.lacks_rows(key("long"), "the memory is in use")
    assert error.retry_after_s > 0
    assert "the memory is in use; try again in" in error.message
    assert door.tries("short", 3) is not None
    assert door.tries("long", 3) is None
    assert door.tries("short", 2) is None


def test_a_tenant_past_its_share_comes_after_those_who_are_not() -> None:
    door = Door()
    door.held.update(greedy=9, modest=1)
    assert [door.tries(f"g{index}", 0, "greedy") is None for index in range(5)] == [False] * 5
    assert door.tries("m", 0, "modest") is not None
    assert door.tries("g0", 1, "greedy") is not None  # it came first, but has 9 of 10 places
    assert door.tries("m", 1, "modest") is None
    door.held["modest"] += 1
    assert door.tries("g0", 1, "greedy") is None  # nobody else waits
    assert door.tries("g1", 1, "greedy") is None


def test_tenants_within_their_shares_take_turns_as_they_came() -> None:
    door = Door()
    door.held.update(a=3, b=3)
    assert door.tries("a0", 0, "a") is not None
    assert door.tries("b0", 0, "b") is not None
    door.held.update(c=4)  # now each may have 10 / 3, and a and b would have more
    assert door.tries("c0", 1, "c") is not None
    assert door.tries("b0", 1, "b") is not None
    assert door.tries("a0", 1, "a") is None


def test_no_tenant_fills_the_list_of_turns() -> None:
    door = Door(most=4)
    for index in range(10):
        assert door.tries(f"g{index}", 0, "greedy") is not None
    for name in "ab":
        assert door.tries("0", 0, name) is not None
        assert door.tries("1", 0, name) is not None
    assert len(door.admission) == 4
    kept = Counter(tenant for tenant, _ in door.admission._turns)
    assert kept == {"greedy": 1, "a": 2, "b": 1}  # nobody else would have more by the turn of another
    assert key("g0", "greedy") in door.admission._turns  # its oldest


def test_a_crowd_that_waits_is_no_more_than_the_list_holds() -> None:
    door = Door(most=64)
    for index in range(2000):
        assert door.tries(f"{index}", 0, f"tenant {index % 500}") is not None
    assert len(door.admission) == 64


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
