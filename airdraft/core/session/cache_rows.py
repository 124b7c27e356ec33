"""What an edge's cache holds of a session's text: a length, and rows that the next span must move into place first."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.types import Span


class CacheRows:
    """The first ``length`` positions have rows, once ``gather`` is done: see ``Span``."""

    def __init__(self) -> None:
        """Begin empty."""
        self.length = 0
        self.gather: tuple[int, ...] = ()

    @property
    def in_place(self) -> int:
        """Return how many of the first rows need not be moved first."""
        return self.length - len(self.gather)

    def cut(self, length: int) -> None:
        """Keep no more than the first ``length``."""
        if length < self.length:
            self.gather = self.gather[: max(0, length - self.in_place)]
            self.length = length

    def settle(self, length: int) -> None:
        """Keep no more than the first ``length``, and of these only rows in their places."""
        self.length, self.gather = min(self.in_place, length), ()

    def ran(self, span: Span) -> None:
        """A span ran: what it gathered is in place, and what it computed is not yet part of the text."""
        self.length, self.gather = min(self.length, span.start), ()

    def lost(self, span: Span) -> None:
        """A span came to nothing: the rows before those that it touched are still good."""
        self.length, self.gather = min(self.length, span.start - len(span.gather)), ()

    def took(self, base: int, rows: Sequence[int]) -> None:
        """Of the span that ran, ``rows`` became the text's after its first ``base``."""
        self.length = base + len(rows)
        self.gather = () if tuple(rows) == tuple(range(base, self.length)) else tuple(rows)
