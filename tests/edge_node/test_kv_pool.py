"""The books of the KV pool: a fake arena does what they say, and every extent must hold what its session wrote."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from edge_node.kv_pool import KvPool, PoolFull, RowRanges
from edge_node.prefix_cache import PREFIX_ROWS
from edge_node.step import Extent, Fill, Owner

Rows = NDArray[np.int64]

TENANTS = ("red", "blue")
DRAFTED = -1  # what a step writes for a token that is then rejected


def prefilled(tenant: str, ids: Sequence[int]) -> Rows:
    """Return what prefill writes, [n, 2]: the tenant's tag, and a tag of the whole path up to the row."""
    tag, rows = 1, np.empty((len(ids), 2), np.int64)
    for index, token in enumerate(ids):
        tag = (tag * 1_000_003 + token + 1) % (2**61 - 1)
        rows[index] = TENANTS.index(tenant) + 1, tag
    return rows


def common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Arena:
    """Rows as the engine has them, [rows, 2], zeros at first."""

    def __init__(self, rows: int) -> None:
        self.rows = np.zeros((rows, 2), np.int64)

    def fill(self, fills: Iterable[Fill]) -> None:
        for fill in fills:
            source = 0 if fill.source is None else self.rows[fill.source : fill.source + fill.rows].copy()
            self.rows[fill.target : fill.target + fill.rows] = source

    def of(self, extent: Extent) -> Rows:
        return self.rows[extent.first : extent.first + extent.rows]


@dataclass(slots=True, eq=False)
class Session:
    tenant: str
    text: list[int]
    image: Rows  # what every row of its extent must hold
    stale: bool = False  # its text changed while a step was at work


@dataclass(slots=True)
class Work:
    """One session's part of the step at work: it writes ``rows`` at ``start``, the first ``kept`` of them come true."""

    session: Session
    owner: Hashable
    extent: Extent
    start: int
    rows: Rows
    kept: int


@dataclass(slots=True)
class StepAtWork:
    fills: tuple[Fill, ...]
    works: list[Work] = field(default_factory=list)


ASKED = st.sampled_from([60, 64, 65, 100, 128, 150, 200, 300, 1])
STEMS = st.tuples(st.sampled_from([1, 1, 2]), st.sampled_from([30, 5, 70, 120, 300]), st.sampled_from([3, 4]))
PART = st.tuples(st.sampled_from([300, 120, 20, 0]), st.sampled_from([0, 5, 50, 300]))  # written, rejected
LEAVERS = st.tuples(st.integers(0, 7), st.booleans())
PARTS = st.lists(PART, min_size=8, max_size=8)


def text_of(stem: tuple[int, int, int], length: int) -> list[int]:
    token, count, tail = stem
    return ([token] * count + [tail] * length)[:length]


class PoolMachine(RuleBasedStateMachine):
    """Sessions come, work, roll back and go in any order; between two rules a step may be at work."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[Hashable, Session] = {}
        self.cached: list[tuple[str, tuple[int, ...]]] = []  # least recently used first
        self.step: StepAtWork | None = None
        self.opened = 0

    @initialize(rows=st.integers(300, 800), entries=st.sampled_from([0, 2, 256, 256]))
    def begin(self, rows: int, entries: int) -> None:
        self.entries = entries
        self.pool = KvPool(rows, prefix_entries=entries)
        self.arena = Arena(rows)
        self.soiled = np.zeros(rows, np.bool_)  # rows that were ever written

    # ---- sessions ----

    @rule(arrivals=st.lists(st.tuples(ASKED, st.sampled_from(TENANTS), STEMS, PART, LEAVERS), min_size=1, max_size=6))
    def arrive(self, arrivals: list[tuple[int, str, tuple[int, int, int], tuple[int, int], tuple[int, bool]]]) -> None:
        """Let sessions come that adopt what there is and write where no step is at work; for want of room one goes."""
        for rows, tenant, stem, part, (leaver, keeps) in arrivals:
            if not self.reserve(rows, tenant, stem, True):
                owners = list(self.sessions)
                if owners:
                    self.leave(owners[leaver % len(owners)], 1.0 if keeps else 0.0)
            elif self.step is None:
                self.start_step([(0, 0)] * (len(self.sessions) - 1) + [part], bounded=True)
                self.finish_step()

    @rule(rows=ASKED, tenant=st.sampled_from(TENANTS), stem=STEMS, adopts=st.booleans())
    def arrive_idle(self, rows: int, tenant: str, stem: tuple[int, int, int], adopts: bool) -> None:
        self.reserve(rows, tenant, stem, adopts)

    def reserve(self, rows: int, tenant: str, stem: tuple[int, int, int], adopts: bool) -> bool:
        missing = rows - self.widest()
        owner, before = self.opened, self.pool.cached_rows
        if missing > 0:
            with pytest.raises(PoolFull) as full:
                self.pool.reserve(owner, tenant, rows)
            assert full.value.missing == missing
            assert full.value.held == {owner: self.pool.extent_of(owner).rows for owner in self.sessions}
            assert self.pool.cached_rows == before
            return False
        free = self.pool.free_rows
        extent = self.pool.reserve(owner, tenant, rows)
        assert rows <= extent.rows <= rows + 63
        self.oldest_went(before, free, rows)
        self.opened += 1
        session = Session(tenant, text_of(stem, rows), np.zeros((extent.rows, 2), np.int64))
        self.sessions[owner] = session
        self.pool.note_ids(owner, lambda: session.text)
        if adopts:
            self.adopt(owner)
        return True

    def oldest_went(self, before: int, free: int, needed: int) -> None:
        gone = before - self.pool.cached_rows
        while gone > 0:
            lost = len(self.cached.pop(0)[1])
            gone -= lost
            if self.step is None:  # with pins, enough free rows may be no hole
                assert free < needed
            free += lost
        assert gone == 0

    def widest(self) -> int:
        """Return the widest hole there can be with the pinned extents in place and no prefix cached."""
        walls = sorted((work.extent for work in self.at_work()), key=lambda extent: extent.first)
        bounds = [(0, 0), *((wall.first, wall.first + wall.rows) for wall in walls), (self.pool.rows, self.pool.rows)]
        extents = [self.pool.extent_of(owner) for owner in self.sessions]
        return max(
            start - end - sum(extent.rows for extent in extents if end <= extent.first < start)
            for (_, end), (start, _) in pairwise(bounds)
        )

    def at_work(self) -> list[Work]:
        """Return the step's parts whose sessions are still there."""
        works = self.step.works if self.step else []
        return [work for work in works if self.sessions.get(work.owner) is work.session]

    @precondition(lambda self: any(not self.pool.holds(owner) for owner in self.sessions))
    @rule(data=st.data())
    def adopt_late(self, data: st.DataObject) -> None:
        self.adopt(data.draw(st.sampled_from([owner for owner in self.sessions if not self.pool.holds(owner)])))

    def adopt(self, owner: Hashable) -> None:
        session = self.sessions[owner]
        most = len(session.text) - 1
        hits, misses = self.pool.hits, self.pool.misses
        adopted = self.pool.adopt(owner, session.text, most)
        best, source = 0, None
        for candidate in [entry for entry in self.cached if entry[0] == session.tenant]:
            length = common(candidate[1], session.text[:most])
            if length > best:
                best, source = length, candidate
        for other_owner, other in self.sessions.items():
            if other is not session and other.tenant == session.tenant:
                length = common(other.text[: self.pool.holds(other_owner)], session.text[:most])
                if length > best:
                    best, source = length, None
        best = best if best >= PREFIX_ROWS else 0
        if best and source is not None:
            self.cached.remove(source)
            self.cached.append(source)
        assert adopted == best == self.pool.holds(owner)
        assert (self.pool.hits - hits, self.pool.misses - misses) == ((1, 0) if best else (0, 1))
        session.image[:best] = prefilled(session.tenant, session.text[:best])
        session.stale = True

    @precondition(lambda self: len(self.sessions) > 2)
    @rule(data=st.data(), tail=st.sampled_from([None, 3, 4, 5]))
    def roll_back(self, data: st.DataObject, tail: int | None) -> None:
        owner = data.draw(st.sampled_from(list(self.sessions)))
        session = self.sessions[owner]
        rows = data.draw(st.integers(0, self.pool.holds(owner)))
        self.pool.advanced(owner, rows)
        session.stale = True
        if tail is not None:
            session.text[rows:] = [tail] * (len(session.text) - rows)

    @precondition(lambda self: len(self.sessions) > 2)
    @rule(data=st.data(), part=st.sampled_from([1.0, 1.0, 0.5]))
    def release(self, data: st.DataObject, part: float) -> None:
        self.leave(data.draw(st.sampled_from(list(self.sessions))), part)

    def leave(self, owner: Hashable, part: float) -> None:
        session = self.sessions.pop(owner)
        ids = session.text[: int(part * len(session.text))]
        kept = tuple(ids[: self.pool.holds(owner)])
        self.pool.release(owner, ids)
        self.left(session.tenant, kept)

    @precondition(lambda self: len(self.sessions) > max(2, len(self.at_work())))
    @rule(data=st.data(), keep=st.booleans())
    def evict(self, data: st.DataObject, keep: bool) -> None:
        busy = {work.owner for work in self.at_work()}
        owner = data.draw(st.sampled_from([owner for owner in self.sessions if owner not in busy]))
        session = self.sessions.pop(owner)
        kept = tuple(session.text[: self.pool.holds(owner)]) if keep else ()
        self.pool.evict(owner, keep=keep)
        self.left(session.tenant, kept)

    def left(self, tenant: str, kept: tuple[int, ...]) -> None:
        if len(kept) < PREFIX_ROWS:
            return
        for entry in [entry for entry in self.cached if entry[0] == tenant]:
            if entry[1][: len(kept)] == kept:
                self.cached.remove(entry)
                self.cached.append(entry)
                return
            if kept[: len(entry[1])] == entry[1]:
                self.cached.remove(entry)
        self.cached.append((tenant, kept))
        del self.cached[: max(0, len(self.cached) - self.entries)]

    # ---- steps ----

    @precondition(lambda self: self.step is None)
    @rule(parts=PARTS, bounded=st.booleans())
    def start_step(self, parts: list[tuple[int, int]], bounded: bool) -> None:
        works = []
        for (owner, session), (count, rejected) in zip(self.sessions.items(), parts, strict=False):
            extent, start = self.pool.extent_of(owner), self.pool.holds(owner)
            count = min(count, len(session.text) - start)
            if count == 0:
                continue
            kept = max(0, count - rejected)
            self.pool.pin(owner, start + count if bounded else None)
            rows = np.full((count, 2), DRAFTED, np.int64)
            rows[:, 0] = TENANTS.index(session.tenant) + 1
            rows[:kept] = prefilled(session.tenant, session.text[: start + kept])[start:]
            session.image[start : start + count] = rows
            session.stale = False
            works.append(Work(session, owner, extent, start, rows, kept))
        fills = self.pool.take_fills()
        assert self.pool.take_fills() == ()
        self.judge(fills)
        for work in works:
            last = work.start + len(work.rows) if bounded else work.extent.rows
            self.soiled[work.extent.first : work.extent.first + last] = True
        self.step = StepAtWork(fills, works)

    def judge(self, fills: tuple[Fill, ...]) -> None:
        """Nothing is cleared that was never written, and no two clears could be one."""
        for fill in fills:
            if fill.source is None:
                assert self.soiled[fill.target : fill.target + fill.rows].all()
            else:
                self.soiled[fill.target : fill.target + fill.rows] = True
        for one, two in pairwise(fills):
            assert one.source is not None or two.source is not None or one.target + one.rows < two.target

    @precondition(lambda self: self.step is not None)
    @rule()
    def finish_step(self) -> None:
        assert self.step is not None
        self.run(self.arena, self.step)
        alive = self.at_work()
        for work in self.step.works:
            self.pool.unpin(work.owner)
        for work in alive:
            if not work.session.stale:
                self.pool.advanced(work.owner, work.start + work.kept)
        self.step = None

    def run(self, arena: Arena, step: StepAtWork) -> None:
        arena.fill(step.fills)
        for work in step.works:
            arena.of(work.extent)[work.start : work.start + len(work.rows)] = work.rows

    # ---- what always holds ----

    @invariant()
    def extents_hold_what_was_written(self) -> None:
        if not hasattr(self, "pool"):
            return
        arena = deepcopy(self.arena)
        if self.step is not None:
            self.run(arena, self.step)
        arena.fill(deepcopy(self.pool).take_fills())
        for owner, session in self.sessions.items():
            rows, holds = arena.of(self.pool.extent_of(owner)), self.pool.holds(owner)
            assert np.array_equal(rows, session.image)
            assert np.array_equal(rows[:holds], prefilled(session.tenant, session.text[:holds]))

    @invariant()
    def pinned_extents_stay(self) -> None:
        for work in self.at_work():
            assert self.pool.extent_of(work.owner) == work.extent

    @invariant()
    def rows_add_up(self) -> None:
        if not hasattr(self, "pool"):
            return
        extents = sorted((self.pool.extent_of(owner) for owner in self.sessions), key=lambda extent: extent.first)
        assert all(one.first + one.rows <= two.first for one, two in pairwise(extents))
        assert all(0 <= extent.first <= extent.first + extent.rows <= self.pool.rows for extent in extents)
        assert self.pool.reserved_rows == sum(extent.rows for extent in extents)
        assert self.pool.cached_rows == sum(len(ids) for _, ids in self.cached)
        assert self.pool.used_rows == sum(self.pool.holds(owner) for owner in self.sessions)
        assert 0 <= self.pool.free_rows == self.pool.rows - self.pool.reserved_rows - self.pool.cached_rows


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=150, stateful_step_count=40)


def written(pool: KvPool, owner: Hashable, rows: int) -> None:
    """Let a step write and keep ``rows`` more rows of a session."""
    held = pool.holds(owner)
    pool.pin(owner, held + rows)
    pool.unpin(owner)
    pool.advanced(owner, held + rows)


def left_prefix(pool: KvPool, tenant: str, ids: Sequence[int]) -> None:
    """Let a session come, write ``ids`` and go."""
    pool.reserve("passing", tenant, len(ids))
    written(pool, "passing", len(ids))
    pool.release("passing", ids)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(-1, 8)), max_size=30))
def test_row_ranges_are_a_set(changes: list[tuple[bool, int, int]]) -> None:
    ranges, rows = RowRanges(), set[int]()
    for adds, first, count in [*changes, (False, 0, 99)]:
        these = set(range(first, first + count))
        if adds:
            ranges.add(first, first + count)
            rows |= these
            continue
        taken = ranges.take(first, first + count)
        assert all(start < stop for start, stop in taken)
        assert all(one < two for (_, one), (two, _) in pairwise(taken))
        assert {row for start, stop in taken for row in range(start, stop)} == rows & these
        rows -= these


@pytest.mark.parametrize(("asked", "rows"), [(1, 64), (64, 64), (65, 128), (129, 192)])
def test_extents_are_rounded_up(asked: int, rows: int) -> None:
    pool = KvPool(1024)
    assert pool.reserve("a", "red", asked) == Extent(0, rows)
    assert pool.extent_rows(asked) == rows


def test_rounding_refuses_nobody_who_fits() -> None:
    pool = KvPool(164)
    pool.reserve("a", "red", 1)
    assert pool.reserve("b", "red", 100) == Extent(64, 100)
    assert pool.free_rows == 0


def test_what_is_missing_and_who_holds_it_is_said() -> None:
    pool = KvPool(256)
    pool.reserve("a", "red", 100)
    pool.reserve("b", "blue", 64)
    with pytest.raises(PoolFull, match="36 rows are missing and 2 sessions hold 192") as full:
        pool.reserve("c", "red", 100)
    assert (full.value.missing, full.value.held) == (36, {"a": 128, "b": 64})
    pool.evict("b")
    assert pool.holds("b") == 0
    assert "b" not in pool
    assert pool.reserve("c", "red", 100) == Extent(128, 128)


def test_rows_that_nobody_wrote_are_not_cleared() -> None:
    pool = KvPool(256)
    pool.reserve("a", "red", 128)
    written(pool, "a", 30)
    pool.pin("a", 50)  # a draft that is rejected
    pool.unpin("a")
    pool.evict("a")
    pool.reserve("b", "blue", 256)
    assert pool.take_fills() == (Fill(0, 50),)
    pool.evict("b")
    pool.reserve("c", "blue", 256)
    assert pool.take_fills() == ()


def test_clears_are_joined_up_to_the_next_copy() -> None:
    pool = KvPool(192)
    for owner in "abc":
        pool.reserve(owner, "red", 64)
        written(pool, owner, 64)
    for owner in "cab":
        pool.evict(owner)
    for owner in "abc":
        pool.reserve(owner, "red", 64)
    assert pool.take_fills() == (Fill(0, 192),)


def test_a_session_that_goes_in_the_midst_of_a_step_leaves_its_rows_soiled() -> None:
    pool = KvPool(64)
    pool.reserve("a", "red", 64)
    pool.pin("a", 40)
    pool.take_fills()
    pool.release("a", [])
    pool.reserve("b", "blue", 64)
    pool.unpin("a")
    assert pool.take_fills() == (Fill(0, 40),)


def test_one_in_a_step_is_not_evicted() -> None:
    pool = KvPool(64)
    pool.reserve("a", "red", 64)
    pool.pin("a")
    with pytest.raises(AssertionError, match="step at work"):
        pool.evict("a")


def test_rows_that_no_step_could_write_do_not_count() -> None:
    pool = KvPool(64)
    pool.reserve("a", "red", 64)
    pool.pin("a", 10)
    with pytest.raises(AssertionError, match="11 valid rows"):
        pool.advanced("a", 11)


def test_compaction_moves_the_fewest_written_rows() -> None:
    pool = KvPool(64 * 6)
    for owner, rows in zip("abcdef", (64, 60, 64, 64, 20, 64), strict=True):
        pool.reserve(owner, "red", 64)
        written(pool, owner, rows)
    for owner in "adf":
        pool.evict(owner)
    assert pool.reserve("g", "red", 128) == Extent(256, 128)
    # e slides from 256 to 192 alone, though b and c lie between free rows as well
    assert pool.take_fills() == (Fill(192, 20, 256), Fill(212, 64), Fill(320, 64))


def test_an_overlapping_move_is_one_copy_and_clears_what_it_leaves() -> None:
    pool = KvPool(320)
    pool.reserve("a", "red", 64)
    pool.reserve("b", "red", 192)
    written(pool, "b", 150)
    pool.evict("a")
    assert pool.reserve("c", "blue", 128) == Extent(192, 128)
    assert pool.extent_of("b") == Extent(0, 192)
    assert pool.take_fills() == (Fill(0, 150, 64), Fill(150, 64))


def test_pinned_extents_are_walls() -> None:
    pool = KvPool(192)
    for owner in "abc":
        pool.reserve(owner, "red", 64)
    pool.evict("a")
    pool.evict("c")
    pool.pin("b")
    with pytest.raises(PoolFull) as full:
        pool.reserve("d", "red", 128)
    assert full.value.missing == 64
    pool.unpin("b")
    assert pool.reserve("d", "red", 128) == Extent(64, 128)
    assert pool.extent_of("b") == Extent(0, 64)


def test_prefixes_go_in_order_of_their_last_use() -> None:
    pool = KvPool(64 * 4)
    for token in (1, 2, 3, 4):
        left_prefix(pool, "red", [token] * 64)
    pool.reserve("first", "red", 64)  # takes the place of the 1s
    assert pool.adopt("first", [1] * 64, 63) == 0
    assert pool.adopt("first", [2] * 64, 63) == 63  # the 2s are now the latest used
    pool.reserve("second", "red", 64)
    assert pool.cached_rows == 128
    assert pool.adopt("second", [3] * 64, 63) == 0
    pool.reserve("third", "red", 64)
    assert pool.adopt("third", [4] * 64, 63) == 0
    assert pool.adopt("third", [2] * 20 + [9], 20) == 20
    assert (pool.hits, pool.misses) == (2, 3)


def test_prefixes_stay_where_no_room_could_be_made() -> None:
    pool = KvPool(256)
    pool.reserve("a", "red", 128)
    left_prefix(pool, "red", [1] * 100)
    with pytest.raises(PoolFull) as full:
        pool.reserve("b", "red", 129)
    assert full.value.missing == 1
    assert pool.cached_rows == 100


def test_most_prefixes_is_kept_to() -> None:
    pool = KvPool(1024, prefix_entries=2)
    for token in (1, 2, 3):
        left_prefix(pool, "red", [token] * 16)
    pool.reserve("a", "red", 64)
    assert [pool.adopt("a", [token] * 16, 16) for token in (1, 2)] == [0, 16]
    assert pool.cached_rows == 32


def test_a_prefix_is_cut_to_its_valid_rows_and_dropped_where_they_are_few() -> None:
    pool = KvPool(256)
    left_prefix(pool, "red", [1] * (PREFIX_ROWS - 1))
    assert pool.cached_rows == 0
    pool.reserve("a", "red", 200)
    written(pool, "a", 100)
    pool.advanced("a", 77)
    pool.release("a", [5] * 200)
    assert (pool.cached_rows, pool.free_rows) == (77, 179)


def test_of_two_prefixes_where_one_covers_the_other_the_longer_stays() -> None:
    pool = KvPool(1024)
    left_prefix(pool, "red", [1] * 40)
    left_prefix(pool, "red", [1] * 60)
    assert pool.cached_rows == 60
    left_prefix(pool, "red", [1] * 50)
    assert pool.cached_rows == 60
    left_prefix(pool, "blue", [1] * 50)
    left_prefix(pool, "red", [1] * 50 + [2])
    assert pool.cached_rows == 60 + 50 + 51


def test_a_prefix_that_another_covers_makes_that_one_the_latest_used() -> None:
    pool = KvPool(1024, prefix_entries=2)
    left_prefix(pool, "red", [1] * 40)
    left_prefix(pool, "red", [2] * 40)
    left_prefix(pool, "red", [1] * 30)
    left_prefix(pool, "red", [3] * 40)
    pool.reserve("a", "red", 64)
    assert [pool.adopt("a", [token] * 40, 40) for token in (2, 1)] == [0, 40]


def test_prefixes_that_end_alike_are_two() -> None:
    pool = KvPool(1024)
    left_prefix(pool, "red", [1] * 39 + [7])
    left_prefix(pool, "red", [2] * 39 + [7])
    assert pool.cached_rows == 80


def test_no_more_is_adopted_than_the_extent_holds() -> None:
    pool = KvPool(1024)
    left_prefix(pool, "red", [1] * 200)
    pool.reserve("a", "red", 64)
    assert pool.adopt("a", [1] * 200, 199) == 64


def test_what_was_written_before_an_adoption_is_cleared_as_well() -> None:
    pool = KvPool(192)
    left_prefix(pool, "red", [1] * 20)
    pool.reserve("a", "red", 100)
    written(pool, "a", 60)
    pool.advanced("a", 0)
    assert pool.adopt("a", [1] * 21, 20) == 20
    pool.evict("a")
    pool.take_fills()
    pool.reserve("b", "blue", 128)
    assert pool.take_fills() == (Fill(20, 60),)


def test_another_tenants_rows_are_never_adopted() -> None:
    pool = KvPool(1024)
    left_prefix(pool, "red", [1] * 100)
    pool.reserve("live", "red", 100)
    pool.note_ids("live", lambda: [1] * 100)
    written(pool, "live", 100)
    pool.reserve("a", "blue", 100)
    assert pool.adopt("a", [1] * 100, 99) == 0
    pool.take_fills()
    pool.reserve("b", "red", 100)
    assert pool.adopt("b", [1] * 100, 99) == 99
    assert pool.take_fills() == (Fill(pool.extent_of("b").first, 99, 0, Owner(), Owner()),)


@pytest.mark.parametrize("differs_at", [0, 15, 16, 255, 256, 257, 511, 599])
def test_ids_are_compared_to_the_first_difference(differs_at: int) -> None:
    ids = list(range(600))
    pool = KvPool(4096)
    left_prefix(pool, "red", ids)
    pool.reserve("a", "red", 601)
    other = [*ids[:differs_at], 7_000, *ids[differs_at + 1 :], 1]
    assert pool.adopt("a", other, 600) == (differs_at if differs_at >= PREFIX_ROWS else 0)


def test_a_live_session_shares_its_valid_rows_alone() -> None:
    pool = KvPool(1024)
    text = [1] * 100
    pool.reserve("live", "red", 100)
    written(pool, "live", 80)
    pool.advanced("live", 50)
    pool.reserve("a", "red", 100)
    assert pool.adopt("a", text, 99) == 0  # its text is not known yet
    pool.note_ids("live", lambda: text)
    assert pool.adopt("a", text, 99) == 50
    text[20:] = [2] * 80
    pool.advanced("live", 30)
    pool.reserve("b", "red", 100)
    assert pool.adopt("b", [1] * 20 + [2] * 80, 99) == 30


def test_what_an_evicted_session_leaves_is_there_for_its_replay() -> None:
    pool = KvPool(128)
    text = list(range(64))
    pool.reserve("a", "red", 64)
    pool.note_ids("a", lambda: text)
    written(pool, "a", 64)
    pool.evict("a", keep=True)
    assert (pool.cached_rows, pool.reserved_rows) == (64, 0)
    pool.reserve("a", "red", 64)
    assert pool.adopt("a", text, 63) == 63
    assert pool.take_fills() == (Fill(64, 63, 0, Owner(), Owner()),)


def test_a_copy_is_read_before_its_source_is_cleared_for_another() -> None:
    pool = KvPool(128)
    arena = Arena(128)
    left_prefix(pool, "red", [1] * 64)
    arena.rows[:64] = prefilled("red", [1] * 64)
    pool.reserve("a", "red", 64)
    assert pool.adopt("a", [1] * 64, 63) == 63
    pool.reserve("b", "blue", 64)  # drops the prefix that the copy reads
    arena.fill(pool.take_fills())
    assert np.array_equal(arena.of(pool.extent_of("a"))[:63], prefilled("red", [1] * 63))
    assert not arena.of(pool.extent_of("b")).any()
