"""Rows have owners apart from the pool's books: whatever mistake is planted in those, nobody reads another's rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import chain
from random import Random
from typing import Any

import pytest
from torch import Tensor

from airdraft.core.types import Sampling, Span
from bench.stub_edge import VOCABULARY, StubEngine, stub_text
from edge_node.engine.owners import NOT_ITS_OWN, RowOwners
from edge_node.engine.runner import StepRunner
from edge_node.kv_pool import KvPool
from edge_node.prefix_cache import Block, longest_match
from edge_node.step import Extent, Fill, Item, Outcome, Owner, Step, StepDone
from tests.edge_node.traffic import Asked, Traffic

RED, BLUE = Owner(1, 1), Owner(2, 2)


def item(owner: Owner, first: int, start: int = 0, count: int = 1, gather: Sequence[int] = ()) -> Item:
    span = Span(start, (7,) * count, wanted=(count - 1,), gather=tuple(gather))
    return Item(Extent(first, 64), span, Sampling(), owner=owner)


def wrote(owners: RowOwners, *items: Item) -> None:
    for one in items:
        assert owners.fault_of(one) == ""
        owners.wrote(one)


# ---- the rule ----


def test_a_session_reads_and_writes_over_its_own_rows() -> None:
    owners = RowOwners(128)
    wrote(owners, item(RED, 0, count=20), item(BLUE, 64, count=9))
    wrote(owners, item(RED, 0, start=20), item(RED, 0, start=15, count=9), item(BLUE, 64))


@pytest.mark.parametrize(
    "foreign",
    [
        item(BLUE, 0, start=20),
        item(BLUE, 0),  # writes over what it does not read
        item(BLUE, 19, start=1),
        item(RED, 0, start=21),  # a row that nobody wrote
        item(Owner(1, 2), 0, start=20),  # the same number under another tenant
        item(Owner(0, 1), 0, start=20),
        item(Owner(1, 0), 0, start=20),
        item(Owner(0, 0), 64),
        item(RED, 0, start=19, gather=(25,)),
    ],
)
def test_no_session_uses_rows_that_are_not_its_own(foreign: Item) -> None:
    owners = RowOwners(128)
    wrote(owners, item(RED, 0, count=20))
    assert owners.fault_of(foreign)


def test_gathered_rows_stay_their_sessions() -> None:
    owners = RowOwners(64)
    wrote(owners, item(RED, 0, count=12), item(RED, 0, start=10, gather=(7, 11)), item(RED, 0, start=11))


def test_a_slide_moves_rows_with_their_owners() -> None:
    owners = RowOwners(192)
    wrote(owners, item(RED, 32, count=40))
    assert owners.fill(Fill(0, 40, 32))  # over itself
    assert owners.fill(Fill(40, 32))
    wrote(owners, item(RED, 0, start=40), item(BLUE, 64, count=5))


def test_a_clear_makes_rows_anybodys() -> None:
    owners = RowOwners(64)
    wrote(owners, item(RED, 0, count=20))
    assert owners.fault_of(item(BLUE, 0)) == NOT_ITS_OWN
    assert owners.fill(Fill(0, 20))
    wrote(owners, item(BLUE, 0))


def test_a_copy_is_the_adopters_and_stays_within_its_tenant() -> None:
    owners = RowOwners(256)
    wrote(owners, item(RED, 0, count=20))
    third, fourth = Owner(3, 1), Owner(4, 1)
    assert owners.fill(Fill(64, 20, 0, third, RED))
    assert owners.fill(Fill(192, 20, 64, fourth, third))
    wrote(owners, item(third, 64, start=20), item(fourth, 192, start=20), item(RED, 0, start=20))
    for refused in (
        Fill(128, 20, 0, BLUE, RED),
        Fill(128, 20, 0, BLUE, Owner(1, 2)),
        Fill(128, 20, 0, third, fourth),
        Fill(128, 20, 0, third),
        Fill(128, 21, 1, third, RED),  # one of them is of a later step
        Fill(128, 20, 100, Owner(5, 0), Owner(0, 0)),
    ):
        assert not owners.fill(refused)
    assert owners.fault_of(item(BLUE, 128, start=20)) == NOT_ITS_OWN
    wrote(owners, item(BLUE, 128))


# ---- what the runner makes of it ----


def runner_and_engine(rows: int = 256) -> tuple[StepRunner, StubEngine]:
    engine = StubEngine(0.0, 0.0, rows)
    return StepRunner(engine, VOCABULARY), engine


def ran(runner: StepRunner, *items: Item, fills: Sequence[Fill] = ()) -> StepDone:
    return runner.run(Step(1, items, tuple(fills)))


def failures(done: StepDone) -> list[str]:
    return [outcome.failure for outcome in done.outcomes]


def test_who_would_read_others_rows_fails_alone_and_is_counted() -> None:
    runner, _ = runner_and_engine()
    assert failures(ran(runner, item(RED, 0, count=20), item(BLUE, 64, count=20))) == ["", ""]
    done = ran(runner, item(RED, 0, start=20), item(Owner(3, 2), 64, start=20))
    assert failures(done) == ["", NOT_ITS_OWN]
    assert done.outcomes[1] == Outcome(failure=NOT_ITS_OWN)
    assert done.isolation_faults == 1
    done = ran(runner, item(RED, 0, start=21), item(BLUE, 64, start=20))
    assert (failures(done), done.isolation_faults) == (["", ""], 0)


def test_a_refused_copy_leaves_clear_rows() -> None:
    runner, engine = runner_and_engine()
    ran(runner, item(RED, 0, count=20), item(BLUE, 64, count=9))
    done = ran(runner, item(BLUE, 64, start=9), fills=[Fill(64, 9, 0, BLUE, RED)])
    assert (failures(done), done.isolation_faults) == ([NOT_ITS_OWN], 2)
    assert failures(ran(runner, item(BLUE, 64))) == [""]
    with pytest.raises(AssertionError, match="never written"):
        engine.write(Extent(64, 64), Span(9, (1,)))


def test_what_a_failed_pass_wrote_is_nobody_elses_until_it_is_cleared() -> None:
    class Fails(StubEngine):
        def extend(self, work: Sequence[tuple[Extent, Span]]) -> list[Tensor]:
            logits = super().extend(work)
            if any(span.tokens[0] == 13 for _, span in work):
                raise RuntimeError("no")
            return logits

    runner = StepRunner(Fails(0.0, 0.0, 128), VOCABULARY)
    bad = Item(Extent(0, 64), Span(0, (13, 1), wanted=(1,)), Sampling(), owner=RED)
    assert failures(ran(runner, bad, item(BLUE, 64)))[1] == ""
    assert failures(ran(runner, item(BLUE, 0))) == [NOT_ITS_OWN]
    assert failures(ran(runner, item(BLUE, 0), item(RED, 64), fills=[Fill(0, 2), Fill(64, 1)])) == ["", ""]


def test_rows_behind_the_pool_are_no_sessions() -> None:
    engine = StubEngine(0.0, 0.0, 128)
    runner = StepRunner(engine, VOCABULARY, owners=RowOwners(64))
    assert failures(ran(runner, item(RED, 64), item(BLUE, 0))) == ["rows 64 to 128 of a pool of 64", ""]


# ---- mistakes in the books ----


def overlapping_extents(pool: Any) -> None:
    """Every other extent begins in the one that was lent before it."""
    reserve = pool.reserve

    def lent(owner: Hashable, *rest: Any) -> Extent:
        extent: Extent = reserve(owner, *rest)
        below = [block for block in pool._sessions.values() if block.end == extent.first and block.written > 40]
        if below:
            pool._sessions[owner].first -= 40
        return pool.extent_of(owner)  # type: ignore[no-any-return]

    pool.reserve = lent


def forgotten_clears(pool: Any) -> None:
    pool._clear = lambda first, end: None


def tenants_mixed(pool: Any) -> None:
    """The books of who is whose are lost: any text's rows are anybody's to adopt."""

    def adopt(owner: Hashable, ids: Sequence[int], most: int) -> int:
        block = pool._sessions[owner]
        source, length = longest_match(chain(pool._prefixes, pool._sessions.values()), ids, min(most, block.rows))
        if source is None or source is block or length < 16:
            return 0
        pool.hits += 1
        pool._fills.append(Fill(block.first, length, source.first, block.owner, source.owner))
        block.holds, block.written = length, max(block.written, length)
        return length

    pool.adopt = adopt


def slides_too_far(pool: Any) -> None:
    move = pool._move

    def moved(block: Block, first: int) -> None:
        before, source = len(pool._fills), block.first
        move(block, first)
        for index, fill in enumerate(pool._fills[before:], before):
            if fill.source == source:
                pool._fills[index] = Fill(fill.target, fill.rows, max(0, fill.source - 64))

    pool._move = moved


def slides_forgotten(pool: Any) -> None:
    """Extents slide in the books alone."""
    move = pool._move

    def moved(block: Block, first: int) -> None:
        source = block.first
        move(block, first)
        pool._fills = [fill for fill in pool._fills if fill.source != source or fill.owner is not None]

    pool._move = moved


def clears_before_copies(pool: Any) -> None:
    take = pool.take_fills

    def taken() -> tuple[Fill, ...]:
        return tuple(sorted(take(), key=lambda fill: fill.source is not None))

    pool.take_fills = taken


def prefixes_stay_behind(pool: Any) -> None:
    """A cached prefix is lent to somebody else and still found."""
    pop, adopt, stale = pool._prefixes.pop_oldest, pool.adopt, list[Block]()

    def popped() -> Block:
        stale.append(pop())
        return stale[-1]

    pool._prefixes.pop_oldest = popped

    def adopts(owner: Hashable, ids: Sequence[int], most: int) -> int:
        block = pool._sessions[owner]
        source, length = longest_match([one for one in stale if one.tenant == block.tenant], ids, most)
        if source is None or length < 16:
            return adopt(owner, ids, most)  # type: ignore[no-any-return]
        pool._fills.append(Fill(block.first, length, source.first, block.owner, source.owner))
        block.holds, block.written = length, max(block.written, length)
        return length

    pool.adopt = adopts


PLANTED: dict[str, Callable[[Any], None]] = {
    "overlapping extents": overlapping_extents,
    "forgotten clears": forgotten_clears,
    "another tenant's prefix": tenants_mixed,
    "a slide from the wrong rows": slides_too_far,
    "a slide that nobody does": slides_forgotten,
    "clears before the copies of what they clear": clears_before_copies,
    "a prefix that was given up and is copied": prefixes_stay_behind,
}


class Books(Traffic):
    """An edge whose pool has a mistake planted."""

    def __init__(self, plant: Callable[[Any], None], chance: Random) -> None:
        self._plant = plant
        super().__init__(StepRunner(StubEngine(0.0, 0.0, 640), VOCABULARY), 640, chance, vocabulary=VOCABULARY)

    def _begin(self) -> None:
        pool = KvPool(self._rows)
        self._plant(pool)
        self.sessions.begin(pool)
        self.stepping.begin(self.engine)


def whole(asked: Asked) -> list[int]:
    """Return prompt and answer."""
    return [*asked.prompt, *stub_text(asked.prompt, asked.max_tokens)]


def prompts(chance: Random) -> Iterator[Asked]:
    """Yield wishes of two tenants, whose prompts often begin alike."""
    while True:
        stem = (chance.randrange(2),) * 48
        own = tuple(chance.randrange(VOCABULARY) for _ in range(chance.randint(2, 30)))
        yield Asked((*stem, *own), Sampling(), chance.randint(2, 8), chance.choice("ab"))


def played(plant: Callable[[Any], None], seed: int, turns: int = 600) -> tuple[Books, int]:
    """Play random traffic; return it and how many devices read a token that is not the text's."""
    chance = Random(seed)
    traffic, wishes, wrong = Books(plant, chance), prompts(chance), 0
    for _ in range(turns):
        for device in traffic.devices:
            if device.done:
                traffic.cancels(device)  # it has its text
        here = [device for device in traffic.devices if not device.done]
        choice = chance.random()
        if len(here) < 3 or (choice < 0.2 and len(here) < 10):
            traffic.arrives(next(wishes))
        elif choice < 0.6:
            traffic.steps()
        else:
            device = chance.choice(here)
            if device.entry is None:
                traffic.attaches(device)
            elif choice < 0.85:
                traffic.drafts(device, whole(device.asked), 0.3)
            else:
                chance.choice((traffic.idles, traffic.leaves, traffic.cancels, traffic.evicts))(device)
    for device in traffic.devices:
        wrong += device.ids != whole(device.asked)[: len(device.ids)]
    return traffic, wrong


def faults(traffic: Traffic) -> float:
    value = traffic.metrics.registry.get_sample_value("airdraft:isolation_faults_total", {"model_name": "tiny"})
    assert value is not None
    return value


@pytest.mark.parametrize("seed", range(3))
def test_right_books_are_never_doubted(seed: int) -> None:
    traffic, wrong = played(lambda pool: None, seed)
    assert (faults(traffic), wrong, traffic.failed) == (0, 0, [])
    assert traffic.sessions.pool.hits > 3
    assert traffic.sessions.evictions > 0


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_caught_and_nobody_reads_another_text(name: str) -> None:
    found = 0.0
    for seed in range(8):
        try:
            traffic, wrong = played(PLANTED[name], seed)
        except (AssertionError, StopIteration):  # the books find out themselves, and no step runs
            continue
        assert wrong == 0
        found += faults(traffic)
    assert found > 0
