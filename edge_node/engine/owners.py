"""Whose each row of the pool is, apart from the front's books: a mistake in those must not show one session another.

The front says which rows an item may use (``edge_node.kv_pool``); here stands who wrote them. Both would have to be
wrong in the same way before a session read what is not its own. The numbers are kept on the host, so that nothing
waits for an accelerator: two of them a row, and a few microseconds for a text of a thousand rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_node.step import Fill, Item, Owner

NOBODY = 0

NOT_ITS_OWN = "rows of its extent are not its own"
"""How an item fails whose rows somebody else wrote."""


class RowOwners:
    """Session and tenant of each row; nobody's where a row is clear."""

    def __init__(self, rows: int) -> None:
        """Begin with ``rows`` rows of nobody."""
        self.rows = rows
        self._sessions: NDArray[np.int64] = np.full(rows, NOBODY, np.int64)  # [rows]
        self._tenants: NDArray[np.int64] = np.full(rows, NOBODY, np.int64)  # [rows]

    def fill(self, fill: Fill) -> bool:
        """Note a copy or a clear; return False, and note a clear, where the copy must not be made.

        It must not where the rows that a session adopts are not all their lender's, or that is another tenant's.
        """
        target = slice(fill.target, fill.target + fill.rows)
        if fill.source is None:
            self._sessions[target] = self._tenants[target] = NOBODY
            return True
        source, owner, lender = slice(fill.source, fill.source + fill.rows), fill.owner, fill.lender
        if owner is None:  # NumPy reads all of an overlapping source before it writes
            self._sessions[target], self._tenants[target] = self._sessions[source], self._tenants[source]
            return True
        allowed = lender is not None and lender.tenant == owner.tenant and self._all(source, lender)
        self._tag(target, owner if allowed else Owner(NOBODY, NOBODY))
        return allowed

    def fault_of(self, item: Item) -> str:
        """Say in one line that an item would read or write over rows of others; nothing where all is its own.

        It reads all rows before its span once it has gathered, and writes over none but its own and clear ones.
        """
        span, owner, first = item.span, item.owner, item.extent.first
        if NOBODY in (owner.session, owner.tenant):
            return "it is nobody's item"
        kept = first + span.start - len(span.gather)  # rows before it stay where they are
        if not self._all(slice(first, kept), owner):
            return NOT_ITS_OWN
        if span.gather and not (self._sessions[[first + row for row in span.gather]] == owner.session).all():
            return NOT_ITS_OWN
        written = self._sessions[kept : first + span.start + len(span.tokens)]
        return "" if ((written == owner.session) | (written == NOBODY)).all() else NOT_ITS_OWN

    def wrote(self, item: Item) -> None:
        """Note that a pass writes an item's rows; they stay its own where the pass fails, until they are cleared."""
        span, first = item.span, item.extent.first
        begin = first + span.start - len(span.gather)
        self._tag(slice(begin, first + span.start + len(span.tokens)), item.owner)

    def _all(self, rows: slice, owner: Owner) -> bool:
        """Say whether all rows are an owner's, who is somebody."""
        if NOBODY in (owner.session, owner.tenant):
            return False
        return bool((self._sessions[rows] == owner.session).all() and (self._tenants[rows] == owner.tenant).all())

    def _tag(self, rows: slice, owner: Owner) -> None:
        self._sessions[rows], self._tenants[rows] = owner.session, owner.tenant
