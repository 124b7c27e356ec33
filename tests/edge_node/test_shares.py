"""Nobody makes the others' steps longer than its share, and whoever takes as much as the others do notices nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from airdraft.core.session import Wish
from airdraft.core.types import Work
from coordinator.policy.costs import PassCost
from edge_node.scheduling import Turns, Waiting
from edge_node.shares import AT_WORK_S, LEAST_POSITIONS, PURSE_S, Shares

COST = PassCost(0.028, 0.00015)
ROOM = 512
Asks = Callable[[int], Sequence[Waiting[str]]]


def one(tenant: str, positions: int, work: Work = Work.VERIFY, who: str = "") -> Waiting[str]:
    return Waiting(who or tenant, tenant, Wish(work, positions), 0.0)


class Engine:
    """Does one step after the other with whoever asks."""

    def __init__(self) -> None:
        self.now = 0.0
        self.shares = Shares(lambda: self.now)
        self.turns: Turns[str] = Turns(ROOM)
        self.steps_s: list[float] = []
        self.got = Counter[str]()

    def runs(self, seconds: float, asks: Asks) -> None:
        end = self.now + seconds
        while self.now < end:
            waiting = asks(len(self.steps_s))
            bounds = self.shares.bounds((it.tenant for it in waiting), COST)
            chosen = self.turns.choose(waiting, 600, bounds)
            tenant_of = {it.who: it.tenant for it in waiting}
            took = Counter[str]()
            for who, positions in chosen:
                took[tenant_of[who]] += positions
            self.shares.took(took, bounds, COST)
            self.got.update(took)
            self.steps_s.append(COST.seconds(max(1, took.total())))
            self.now += self.steps_s[-1]


VICTIMS = [one(name, 5) for name in "abc"]


def test_a_tenant_that_is_alone_has_all_the_room_there_is() -> None:
    engine = Engine()
    engine.runs(2.0, lambda step: [one("a", 4000, Work.PREFILL)])
    assert engine.got["a"] == ROOM * len(engine.steps_s)


def test_a_storm_of_prompts_costs_the_others_no_more_than_its_share() -> None:
    calm, stormy = Engine(), Engine()
    calm.runs(20.0, lambda step: [*VICTIMS, one("d", 5)])
    stormy.runs(20.0, lambda step: [*VICTIMS, one("d", 4000, Work.PREFILL)])
    assert all(stormy.got[name] == 5 * len(stormy.steps_s) for name in "abc")
    beyond_s = (stormy.got["d"] - LEAST_POSITIONS * len(stormy.steps_s)) * COST.per_position_s
    assert beyond_s <= PURSE_S + 20.0 / 32 + COST.fixed_s
    assert len(stormy.steps_s) >= 0.92 * len(calm.steps_s)
    assert max(stormy.steps_s) < 2.1 * max(calm.steps_s)
    late = stormy.steps_s[len(stormy.steps_s) // 4 :]  # the purse is empty
    assert max(late) < 1.1 * max(calm.steps_s)


def test_a_crowd_of_sessions_costs_the_others_no_more_than_its_share() -> None:
    calm, crowded = Engine(), Engine()
    crowd = [one("d", 17, who=f"d{index}") for index in range(32)]
    calm.runs(20.0, lambda step: [*VICTIMS, one("d", 5)])
    crowded.runs(20.0, lambda step: [*VICTIMS, *crowd])
    assert len(crowded.steps_s) >= 0.92 * len(calm.steps_s)
    assert crowded.got["d"] > crowded.got["a"]  # what nobody misses it may have


def test_two_attackers_lift_each_other_no_higher() -> None:
    calm, storm = Engine(), Engine()
    calm.runs(20.0, lambda step: [*VICTIMS, one("d", 5), one("e", 5)])
    storm.runs(20.0, lambda step: [*VICTIMS, one("d", 4000, Work.PREFILL), one("e", 4000, Work.PREFILL)])
    assert len(storm.steps_s) >= 0.8 * len(calm.steps_s)


def test_tenants_that_all_use_much_are_not_held_back() -> None:
    engine = Engine()
    crowds = [one(tenant, 6, who=f"{tenant}{index}") for tenant in "ab" for index in range(20)]
    engine.runs(20.0, lambda step: crowds)
    assert engine.got["a"] > 0.95 * 120 * len(engine.steps_s)
    assert engine.got["b"] > 0.95 * 120 * len(engine.steps_s)


def test_prompts_of_the_usual_length_come_at_full_width() -> None:
    engine = Engine()

    def asks(step: int) -> list[Waiting[str]]:  # every tenant writes for some 40 steps, then has another prompt
        return [
            one(name, 150, Work.PREFILL) if step % 44 == 11 * index else one(name, 5)
            for index, name in enumerate("abcd")
        ]

    engine.runs(20.0, asks)
    steps = len(engine.steps_s)
    whole = sum(len([step for step in range(steps) if step % 44 == 11 * index]) * 150 for index in range(4))
    writing = 4 * 5 * steps - sum(
        len([step for step in range(steps) if step % 44 == 11 * index]) * 5 for index in range(4)
    )
    assert engine.got.total() == whole + writing


def test_a_tenant_that_has_gone_home_bounds_nobody() -> None:
    engine = Engine()
    engine.runs(5.0, lambda step: [*VICTIMS, one("d", 4000, Work.PREFILL)])
    engine.now += AT_WORK_S
    before, steps = engine.got["d"], len(engine.steps_s)
    engine.runs(2.0, lambda step: [one("d", 4000, Work.PREFILL)])
    assert engine.got["d"] - before == ROOM * (len(engine.steps_s) - steps)


def test_a_crowd_of_names_is_forgotten() -> None:
    engine = Engine()
    for number in range(100_000 // 20):
        engine.now += 0.1
        engine.shares.bounds([f"tenant {number}"], COST)
    assert len(engine.shares) <= 301
