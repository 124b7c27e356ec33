"""The committed text as an edge knows it: the device's own, of which the edge may lack the ids.

The device presents a length and a digest; the edge keeps what agrees, asks for the rest, and knows the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from airdraft.core.acceptance import Ending
from airdraft.core.errors import MalformedFrame, PrefixMismatch, TooLong
from airdraft.core.paths import HashedPath, IdsDigest, ids_digest, root_hash
from airdraft.core.types import Open, Origin, Prefix, StopReason

Taken = Literal["nothing", "whole", "wrong"]
"""What a prefix came to: nothing to act on, the promised text is whole, or what came is not the promised text."""


class EdgeText:
    """Prompt and answer of one session, whole or with a prefix missing."""

    def __init__(self, opened: Open) -> None:
        """Know nothing yet but where the text must end."""
        self.prompt_length = opened.prompt_length
        self.ending = Ending(frozenset(opened.stop_ids), opened.prompt_length + opened.max_tokens)
        self.ids: list[int] = []
        self.length = 0  # committed; past len(ids) while a prefix is missing
        self.hashes: HashedPath | None = None  # None until a prefix is complete for the first time
        self.stop: StopReason | None = None
        self._root = root_hash(opened.identity)
        self._origins: list[Origin] = []  # of the ids past the prompt
        self._digest = IdsDigest()
        self._promise: Open | None = None  # the attach whose prefix is not complete yet
        self._from_zero = False  # the whole prefix was asked for or announced in this attach

    # ---- what others may ask ----

    @property
    def complete(self) -> bool:
        """Return whether no id is missing."""
        return self.hashes is not None and len(self.ids) == self.length and self._promise is None

    @property
    def promised(self) -> bool:
        """Return whether an attach has promised ids that are not all here yet."""
        return self._promise is not None

    @property
    def path(self) -> HashedPath:
        """Return the path hashes, which are there once a prefix was complete."""
        assert self.hashes is not None
        return self.hashes

    @property
    def digest(self) -> bytes:
        """Return BLAKE2b-256, 32 bytes, of all ids of a complete text."""
        return self._digest.value

    def holds(self, opened: Open) -> bool:
        """Say whether what a device presents is the beginning of this text."""
        known = self.complete and opened.length <= self.length
        return known and ids_digest(self.ids[: opened.length]) == opened.digest

    def origins_from(self, base: int) -> tuple[Origin, ...]:
        """Return the origins of the ids from ``base`` on."""
        return tuple(self._origins[base - self.prompt_length :])

    # ---- what befalls it ----

    def keep(self) -> None:
        """Go on with what is here: the device's attach promises nothing else."""
        self._promise = None

    def cut(self, length: int, promise: Open) -> int:
        """Keep the first ``length`` ids and wait for the rest of the promised prefix; return what was kept."""
        del self.ids[length:]
        self.length = promise.length
        self.hashes, self.stop, self._promise = None, None, promise
        self._from_zero = not self.ids
        # Who chose what the device presents is not told; to a device that asks again, none of it is its draft.
        self._origins = [Origin.RUN_AHEAD] * (promise.length - promise.prompt_length)
        return len(self.ids)

    def lose(self) -> None:
        """Lose the ids; length, hashes and digest stay, and so does a prefix that is still on its way."""
        if self._promise is None:
            self.ids = []

    def append(self, ids: Sequence[int], origins: Sequence[Origin], stop: StopReason | None) -> None:
        """Commit ids to a complete text."""
        self.ids.extend(ids)
        self._origins.extend(origins)
        self.path.extend(ids)
        self._digest.extend(ids)
        self.length += len(ids)
        self.stop = stop

    def take(self, frame: Prefix) -> Taken:
        """Take ids that were missing; after "wrong" all are, and are to be asked for again from 0.

        Raises TooLong, MalformedFrame, PrefixMismatch.
        """
        known = len(self.ids)
        if known == self.length:
            return "nothing"  # nothing new: what was announced before the edge knew is superfluous
        if frame.start > known:
            return "nothing"  # sent before the device read NeedPrefix; what was asked for follows
        if frame.start + len(frame.ids) > self.ending.final_length:
            raise TooLong("the prefix passes the end that Open promised", field="ids")
        self.ids.extend(frame.ids[known - frame.start :])
        if self._promise is None:
            return self._regained()
        if len(self.ids) > self.length:
            raise MalformedFrame("the prefix is longer than Open promised", field="ids")
        return self.fulfil() if len(self.ids) == self.length else "nothing"

    def fulfil(self) -> Taken:
        """Check the whole promised prefix. Raises PrefixMismatch where it is wrong from 0 on, MalformedFrame."""
        promise = self._promise
        assert promise is not None
        digest = IdsDigest(self.ids)
        if digest.value != promise.digest:
            self.ids = []
            if self._from_zero:
                raise PrefixMismatch("the prefix does not have the digest that Open promised", field="digest")
            self._from_zero = True
            return "wrong"
        answer = self.ids[promise.prompt_length :]
        if any(token in self.ending.stop_ids for token in answer[:-1]):
            self.ids = []
            raise MalformedFrame("a stop id stands inside the committed text", field="ids")
        self._promise = None
        self._digest = digest
        self.hashes = HashedPath(self._root)
        self.hashes.extend(self.ids)
        self.stop = self.ending.reached(self.length, answer[-1] if answer else None)
        return "whole"

    def _regained(self) -> Taken:
        """Ids lost in mid-stream are back: they must lead to the path hash that was kept."""
        if len(self.ids) < self.length:
            return "nothing"
        del self.ids[self.length :]
        hashes = HashedPath(self._root)
        hashes.extend(self.ids)
        if hashes.end != self.path.end or ids_digest(self.ids) != self.digest:
            self.ids = []
            raise PrefixMismatch("the prefix does not lead to the committed text", field="ids")
        return "nothing"  # nothing new to the session: its length, hash and live nodes were kept
