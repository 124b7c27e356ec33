"""How an audit compares two answers: by the check that a head's labels were made by, where it reads an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_node.audits import Same
from edge_node.labels.checks import number_of

Read = Callable[[Sequence[int]], str]
"""Makes text of ids."""


def same_by(check: str, read: Read) -> Same:
    """Return how two answers are compared by a check of this name.

    Only ``number`` and ``exact`` tell by the answers alone. An edge runs no code for ``unit-test``; that and whatever
    else is left to the target's own score.
    """

    def same(own: Sequence[int], other: Sequence[int]) -> bool | None:
        if check == "number":
            number = number_of(read(own))
            return None if number is None else number == number_of(read(other))
        if check == "exact":
            return read(own).split() == read(other).split()
        return None

    return same
