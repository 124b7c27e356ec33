"""Split decisions at the device: it tells how sure its drafter was, and draws what replaces a missed token itself.

DSSD (arXiv 2507.12000) sends each drafted token with its probability q(x) up; the edge decides, and after a rejection
sends the target's distribution of that position down, from which the device draws. Here both ends share their noise
(DESIGN §3A), so that the device draws the very token that the edge has chosen: the text is that of every other
schedule, and a row that gives another token is the edge's fault.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.errors import EdgeFault
from airdraft.core.sampling import choose
from airdraft.core.types import Commit, Draft, Sampling


class Told:
    """The probabilities of drafted tokens as their drafter told them, by position."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._at: dict[int, float] = {}

    def wrote(self, start: int, count: int, probabilities: Sequence[float]) -> None:
        """Take those of ``count`` tokens from position ``start`` on; a drafter that tells none is certain: 1.0."""
        for index in range(count):
            self._at[start + index] = probabilities[index] if index < len(probabilities) else 1.0

    def of(self, draft: Draft) -> tuple[float, ...]:
        """Return those of a frame's ids, a chain; what is committed is forgotten."""
        self._at = {position: told for position, told in self._at.items() if position >= draft.acked}
        return tuple(self._at.get(draft.base + index, 1.0) for index in range(len(draft.ids)))


def check_row(commit: Commit, ids: Sequence[int], sampling: Sampling) -> None:
    """Draw the last token of a commit after the text ``ids`` from the row that it brought.

    Raises EdgeFault where none can be drawn, or another than was committed.
    """
    assert commit.row is not None
    logits = commit.row.logits
    try:
        token = choose(logits, sampling, len(logits), [*ids, *commit.ids[:-1]])
    except ValueError as error:
        raise EdgeFault(f"no token can be drawn from a commit's row: {error}") from None
    if token != commit.ids[-1]:
        raise EdgeFault(f"a commit's row gives another token at {commit.length - 1} than the commit has")
