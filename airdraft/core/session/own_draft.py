"""What a drafter at the edge adds to the passes of a session whose device idles."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.types import DraftWork


class OwnDraft:
    """The wish for tokens, and what was written; both are void once the text has gone on."""

    def __init__(self, tokens: int) -> None:
        """Wish for at most ``tokens`` a pass; 0: there is no drafter."""
        self.tokens = tokens
        self._work: DraftWork | None = None
        self._written: tuple[bytes, tuple[int, ...]] | None = None  # the path hash that the tokens extend, and they

    def lacks(self, path_hash: bytes) -> bool:
        """Say whether nothing was written for the text that ends in this hash; no token is an answer too."""
        return self._written is None or self._written[0] != path_hash

    def ask(self, ids: Sequence[int], count: int, path_hash: bytes) -> DraftWork | None:
        """Return the wish for up to ``count`` tokens, or None while an earlier one is at work."""
        if self._work is not None:
            return None
        self._work = DraftWork(tuple(ids), count, path_hash)
        return self._work

    def take(self, work: DraftWork, tokens: Sequence[int]) -> None:
        """Keep what was written for a wish."""
        assert work is self._work
        self._work, self._written = None, (work.path_hash, tuple(tokens[: work.count]))

    def after(self, path_hash: bytes) -> tuple[int, ...]:
        """Return what was written for the text that ends in this hash."""
        return () if self._written is None or self._written[0] != path_hash else self._written[1]
