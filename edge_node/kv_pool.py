"""The books of the KV pool: whose rows are whose, which may be shared, and what must be written before the next step.

It knows row numbers and ids, and neither the rows nor the model. The engine holds the rows, all of them zeros when it
starts; a new engine wants new books.

Order is what keeps the books true. ``take_fills`` hands over the fills in the order in which the books changed. The
engine runs one step at a time, and of a step first the fills, in order, then the spans. So whatever is queued while a
step is at work happens after that step, and rows may change hands at once. A step is put together in one go: pin its
sessions, read their extents, take the fills.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter

from edge_node.prefix_cache import PREFIX_ROWS, Block, PrefixCache, Text, longest_match
from edge_node.step import Extent, Fill, Owner

EXTENT_ROWS = 64
"""Extents are multiples of so many rows, which keeps the holes between them useful."""


class PoolFull(Exception):
    """No room for an extent, not even without the cached prefixes.

    missing  rows that the widest hole that could be made is short of
    held     rows of each session's extent; where they sum to less than ``missing`` no eviction helps
    """

    def __init__(self, missing: int, held: Mapping[Hashable, int]) -> None:
        super().__init__(
            f"{missing} rows are missing and {len(held)} sessions hold {sum(held.values())}; "
            "evict some, or wait for a step to end where its sessions lie in the way"
        )
        self.missing = missing
        self.held = held


class KvPool:
    """Rows of the pool, lent to sessions as extents; what ended sessions left is kept while nobody needs the room."""

    def __init__(self, rows: int, *, prefix_entries: int = 256) -> None:
        """Begin with ``rows`` clear rows.

        prefix_entries  cached prefixes at most, of all tenants together
        """
        self.rows = rows
        self.hits = self.misses = 0  # texts whose beginning was there already, and those without
        self._sessions: dict[Hashable, Block] = {}
        self._prefixes = PrefixCache(prefix_entries)
        self._soiled = RowRanges()  # rows that nobody has and that are not clear
        self._fills: list[Fill] = []

    def __contains__(self, owner: Hashable) -> bool:
        return owner in self._sessions

    @property
    def reserved_rows(self) -> int:
        """Return the rows of all extents."""
        return sum(block.rows for block in self._sessions.values())

    @property
    def used_rows(self) -> int:
        """Return the valid rows of all sessions."""
        return sum(block.holds for block in self._sessions.values())

    @property
    def cached_rows(self) -> int:
        """Return the rows of cached prefixes."""
        return sum(block.rows for block in self._prefixes)

    @property
    def free_rows(self) -> int:
        """Return the rows that nobody has."""
        return self.rows - self.reserved_rows - self.cached_rows

    @property
    def widest_rows(self) -> int:
        """Return the rows of the widest extent that could be reserved, cached prefixes given up for it."""
        return _widest(_in_order(self._sessions.values()), self.rows)

    def extent_of(self, owner: Hashable) -> Extent:
        """Return where a session's rows are once the fills so far have run."""
        block = self._sessions[owner]
        return Extent(block.first, block.rows)

    def holds(self, owner: Hashable) -> int:
        """Return how many rows of a session are valid; none where it has no extent."""
        return self._sessions[owner].holds if owner in self._sessions else 0

    def extent_rows(self, rows: int) -> int:
        """Return how many rows an extent for ``rows`` has; it may be fewer, down to ``rows``, where room is scarce."""
        return -(-rows // EXTENT_ROWS) * EXTENT_ROWS

    def reserve(self, owner: Hashable, tenant: str, rows: int, known: Owner = Owner()) -> Extent:  # noqa: B008
        """Lend a session an extent of at least ``rows``, all clear; ``known`` is how the engine knows it.

        Room is made by the cheapest means that does: a hole, sliding extents together, dropping cached prefixes, least
        recently used first. Raises PoolFull, with nothing changed.
        """
        assert owner not in self._sessions, f"{owner} has an extent"
        most = self.extent_rows(rows)
        first, room = self._room(rows)
        self._sessions[owner] = Block(first, min(most, room), tenant, owner=known)
        self._clear(first, first + min(most, room))
        return self.extent_of(owner)

    def evict(self, owner: Hashable, *, keep: bool = False) -> None:
        """Take a session's extent away, which replays later; ``keep`` leaves its rows as a prefix where it has ids.

        A session in a step at work cannot be evicted: its outcome would be lost.
        """
        assert not self._sessions[owner].pinned, f"{owner} is in the step at work"
        self.release(owner, self._sessions[owner].text() if keep else ())

    def release(self, owner: Hashable, ids: Sequence[int]) -> None:
        """End a session, even in a step at work; its valid rows, those of the first ``ids``, stay as a prefix."""
        block = self._sessions.pop(owner)
        kept = tuple(ids[: block.holds])
        if len(kept) < PREFIX_ROWS:
            self._free(block)
            return
        self._soiled.add(block.first + len(kept), block.first + block.written)
        prefix = Block(block.first, len(kept), block.tenant, len(kept), len(kept), text=lambda: kept, owner=block.owner)
        for gone in self._prefixes.put(prefix):
            self._free(gone)

    def pin(self, owner: Hashable, until: int | None = None) -> None:
        """Note that a session is in the next step: its extent stays in place until ``unpin``.

        The step writes no row of the extent before the valid ones' end, and none from ``until`` on; None is the whole
        extent. What it may write is cleared before another session has it, so a tight bound saves work.
        """
        block = self._sessions[owner]
        until = block.rows if until is None else until
        assert until <= block.rows, f"{until} rows in an extent of {block.rows}"
        block.pinned, block.written = True, max(block.written, until)

    def unpin(self, owner: Hashable) -> None:
        """Note that the step is done; the session may be gone meanwhile."""
        if owner in self._sessions:
            self._sessions[owner].pinned = False

    def advanced(self, owner: Hashable, rows: int) -> None:
        """Note how many rows are valid; rows that are still to be gathered do not count, but move with their extent.

        Whoever rolls back must say so at once: what is noted here is shared, and stays behind as a prefix.
        """
        block = self._sessions[owner]
        assert 0 <= rows <= block.written, f"{rows} valid rows where steps could write {block.written}"
        block.holds = rows

    def take_fills(self) -> tuple[Fill, ...]:
        """Return the fills for the next step and forget them; clears that nothing stands between are joined."""
        fills: list[Fill] = []
        for copies, run in groupby(self._fills, key=lambda fill: fill.source is not None):
            group = list(run)
            fills += group if copies else _joined(group)
        self._fills = []
        return tuple(fills)

    def note_ids(self, owner: Hashable, ids: Text) -> None:
        """Let a session's valid rows be shared; ``ids`` returns its text, whose first ids are those of the rows."""
        self._sessions[owner].text = ids

    def adopt(self, owner: Hashable, ids: Sequence[int], most: int) -> int:
        """Copy to an empty extent the rows of as many of the first ``most`` ids as the tenant's other texts have.

        Return how many are valid now; 0 where they are too few to be worth it.
        """
        block = self._sessions[owner]
        assert block.holds == 0, f"{owner} holds rows of its own"
        others = (other for other in chain(self._prefixes, self._sessions.values()) if other.tenant == block.tenant)
        source, length = longest_match(others, ids, min(most, block.rows))
        if source is None or length < PREFIX_ROWS:
            self.misses += 1
            return 0
        self.hits += 1
        if source in self._prefixes:
            self._prefixes.touch(source)
        self._fills.append(Fill(block.first, length, source.first, block.owner, source.owner))
        block.holds, block.written = length, max(block.written, length)
        return length

    def _room(self, needed: int) -> tuple[int, int]:
        """Make a hole of at least ``needed`` rows; return its first row and its rows. Raises PoolFull."""
        missing = needed - self.widest_rows
        if missing > 0:
            raise PoolFull(missing, {owner: block.rows for owner, block in self._sessions.items()})
        free = self.free_rows
        while free < needed or (hole := self._hole(needed)) is None:
            oldest = self._prefixes.pop_oldest()
            self._free(oldest)
            free += oldest.rows
        return hole

    def _hole(self, needed: int) -> tuple[int, int] | None:
        """Slide blocks until there is such a hole, the cheapest way; None where no sliding makes one."""
        blocks = _in_order(chain(self._sessions.values(), self._prefixes))
        run = _cheapest_run(blocks, self.rows, needed)
        return None if run is None else self._slide(blocks, *run)

    def _slide(self, blocks: Sequence[Block], start: int, stop: int) -> tuple[int, int]:
        """Slide the blocks from ``start`` to ``stop`` down; return the hole above them, its first row and its rows."""
        end = blocks[start - 1].end if start else 0
        for block in blocks[start:stop]:
            self._move(block, end)
            end = block.end
        return end, (blocks[stop].first if stop < len(blocks) else self.rows) - end

    def _move(self, block: Block, first: int) -> None:
        self._free(block)
        self._soiled.take(first, first + block.written)  # overwritten
        if block.written:
            self._fills.append(Fill(first, block.written, block.first))
        block.first = first
        self._clear(first + block.written, block.end)

    def _free(self, block: Block) -> None:
        self._soiled.add(block.first, block.first + block.written)

    def _clear(self, first: int, end: int) -> None:
        self._fills += [Fill(start, stop - start) for start, stop in self._soiled.take(first, end)]


def _in_order(blocks: Iterable[Block]) -> list[Block]:
    return sorted(blocks, key=lambda block: block.first)


def _gaps(blocks: Sequence[Block], rows: int) -> list[int]:
    """Return the rows before each block and those after the last."""
    starts, ends = [*(block.first for block in blocks), rows], [0, *(block.end for block in blocks)]
    return [start - end for start, end in zip(starts, ends, strict=True)]


def _widest(blocks: Sequence[Block], rows: int) -> int:
    """Return the widest hole that sliding these blocks can make; pinned ones stay where they are."""
    widest = room = 0
    for index, gap in enumerate(_gaps(blocks, rows)):
        room = gap if index and blocks[index - 1].pinned else room + gap
        widest = max(widest, room)
    return widest


def _cheapest_run(blocks: Sequence[Block], rows: int, needed: int) -> tuple[int, int] | None:
    """Return start and stop of the blocks to slide down for a hole of ``needed`` rows, None where none makes it.

    The run with the fewest written rows, then the fewest blocks, then the first: a hole that is there is an empty run.
    """
    runs, gaps = [], _gaps(blocks, rows)
    start = room = moved = 0
    for stop, gap in enumerate(gaps):
        if stop and blocks[stop - 1].pinned:
            start, room, moved = stop, 0, 0
        elif stop:
            moved += blocks[stop - 1].written
        room += gap
        while start < stop and room - gaps[start] >= needed:
            room, moved, start = room - gaps[start], moved - blocks[start].written, start + 1
        if room >= needed:
            runs.append((moved, stop - start, start, stop))
    return min(runs)[2:] if runs else None


def _joined(clears: Iterable[Fill]) -> list[Fill]:
    ranges = RowRanges()
    for fill in clears:
        ranges.add(fill.target, fill.target + fill.rows)
    return [Fill(start, stop - start) for start, stop in ranges.take(0, sys.maxsize)]


class RowRanges:
    """A set of rows as ranges from a first row to before an end, ascending, neighbours joined."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def add(self, first: int, end: int) -> None:
        """Add rows."""
        if first >= end:
            return
        place = self._place(first - 1, end + 1)  # neighbours as well
        near = self._ranges[place] or [(first, end)]
        self._ranges[place] = [(min(first, near[0][0]), max(end, near[-1][1]))]

    def take(self, first: int, end: int) -> list[tuple[int, int]]:
        """Remove the rows of a range that are there, and return them."""
        place = self._place(first, end)
        if first >= end or not (near := self._ranges[place]):
            return []
        self._ranges[place] = [(a, b) for a, b in ((near[0][0], first), (end, near[-1][1])) if a < b]
        return [(max(a, first), min(b, end)) for a, b in near]

    def _place(self, first: int, end: int) -> slice:
        """Return where in the list those ranges are that have rows in this one."""
        low = bisect_right(self._ranges, first, key=itemgetter(1))
        return slice(low, bisect_left(self._ranges, end, key=itemgetter(0)))
