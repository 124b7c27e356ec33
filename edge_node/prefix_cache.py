"""Prefixes that sessions left behind in the pool, and how much of a new text rows that are already there cover.

It knows ids and lengths; which rows are free is the pool's business (``edge_node.kv_pool``). A tenant's texts are
compared with its own alone, id by id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from edge_node.step import Owner

PREFIX_ROWS = 16
"""The shortest prefix that is worth a place and a copy."""

_COMPARED_IDS = 256

Text = Callable[[], Sequence[int]]


def no_text() -> Sequence[int]:
    """Return the text of rows that nobody may share."""
    return ()


@dataclass(slots=True, eq=False)
class Block:
    """Rows of the pool side by side: a session's extent, or a cached prefix.

    The first ``holds`` rows are those of the first ids of ``text``. All that was written since the rows were clear lies
    in the first ``written``; the others are clear.
    """

    first: int
    rows: int
    tenant: str
    written: int = 0
    holds: int = 0
    pinned: bool = False
    text: Text = field(default=no_text)
    owner: Owner = field(default_factory=Owner)  # as the engine knows whoever has the extent

    @property
    def end(self) -> int:
        """Return the row after the last."""
        return self.first + self.rows


class PrefixCache:
    """Cached prefixes of all tenants, at most so many, in order of their last use."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._blocks: dict[Block, None] = {}  # least recently used first

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def __contains__(self, block: Block) -> bool:
        return block in self._blocks

    def put(self, block: Block) -> list[Block]:
        """Keep a prefix as the latest used; return those that go for it.

        Shorter ones that it covers go, the least recently used where there are too many, and it goes itself where
        another covers it.
        """
        gone = []
        for other in [other for other in self._blocks if other.tenant == block.tenant]:
            if not _alike(block, other):
                continue
            if other.holds >= block.holds:
                self.touch(other)
                return [block]
            del self._blocks[other]
            gone.append(other)
        self._blocks[block] = None
        if len(self._blocks) > self._most:
            gone.append(self.pop_oldest())
        return gone

    def touch(self, block: Block) -> None:
        """Note that a prefix was used."""
        del self._blocks[block]
        self._blocks[block] = None

    def pop_oldest(self) -> Block:
        """Forget and return the prefix that was used longest ago."""
        oldest = next(iter(self._blocks))
        del self._blocks[oldest]
        return oldest


def longest_match(blocks: Iterable[Block], ids: Sequence[int], most: int) -> tuple[Block | None, int]:
    """Return the block whose valid rows cover most of the first ``most`` ids, the first such, and how many."""
    best, length = None, 0
    wanted = tuple(ids[:most])
    for block in blocks:
        known = block.text()
        limit = min(len(wanted), block.holds, len(known))
        if limit <= length or known[length] != wanted[length]:
            continue  # cannot cover more
        common = _common_length(known, wanted, limit)
        if common > length:
            best, length = block, common
    return best, length


def _alike(one: Block, other: Block) -> bool:
    """Say whether one of two prefixes begins with the whole of the other."""
    shorter = min(one.holds, other.holds)
    first, second = one.text(), other.text()
    return first[shorter - 1] == second[shorter - 1] and _common_length(first, second, shorter) == shorter


def _common_length(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    """Return how many of the first ``limit`` ids are the same, compared in slices for speed."""
    for start in range(0, limit, _COMPARED_IDS):
        end = min(start + _COMPARED_IDS, limit)
        ours, theirs = tuple(one[start:end]), tuple(other[start:end])
        if ours != theirs:
            return start + next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return limit
