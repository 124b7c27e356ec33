"""What a device has drafted past its committed end: first what is on its way, then what is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from airdraft.core.paths import DraftTree, HashedPath, next_hash
from airdraft.core.types import Draft


class Ahead:
    """A chain of drafted tokens that hangs under the committed text and moves with it."""

    def __init__(self, committed: HashedPath) -> None:
        """Begin with nothing; ``committed`` is the owner's and grows."""
        self.ids: list[int] = []
        self.sent = 0  # how many of them are on their way
        self._hashes: list[bytes] = []
        self._flying: deque[tuple[int, int]] = deque()  # (seq, length at the end) of each frame that is still live
        self._tree = DraftTree()  # what was sent, past the committed end, not contradicted: the credits in use
        self._committed = committed
        self._frame_from = committed.length  # where the frame in the making begins
        self.overtaken = False  # the edge went past a frame in the making, and has accepted nothing since
        self.contradicted = True  # nothing has gone up since a commit contradicted the draft, or since the beginning

    @property
    def end(self) -> bytes:
        """Return the path hash after the last drafted token."""
        return self._hashes[-1] if self._hashes else self._committed.end

    @property
    def unsent(self) -> int:
        """Return how many drafted tokens are not on their way."""
        return len(self.ids) - self.sent

    @property
    def in_the_making(self) -> int:
        """Return how many positions the frame in the making has, those that commits have overtaken included.

        A frame is sent when its last token is drafted, though the edge has caught up with a part of it: an edge that
        goes ahead as fast as the device drafts would otherwise keep every frame from being whole.
        """
        return self._committed.length + len(self.ids) - self._frame_from

    @property
    def frames_flying(self) -> int:
        """Return how many frames are on their way and not answered."""
        return len(self._flying)

    @property
    def live_nodes(self) -> int:
        """Return how many sent nodes count against the credits."""
        return len(self._tree)

    def position_of(self, path_hash: bytes) -> int | None:
        """Return the position of the token that a sent node is, or None where it is gone or not one of these."""
        try:
            return self._committed.length + self._hashes.index(path_hash, 0, self.sent)
        except ValueError:
            return None

    def add(self, tokens: Sequence[int]) -> None:
        """Take what the drafter wrote."""
        for token in tokens:
            self._hashes.append(next_hash(self.end, token))
            self.ids.append(token)

    def frame(self, epoch: int, seq: int, most: int) -> Draft | None:
        """Put up to ``most`` unsent tokens on their way; None where there are none."""
        ids = tuple(self.ids[self.sent : self.sent + most])
        if not ids:
            return None
        length = self._committed.length
        base_hash = self._hashes[self.sent - 1] if self.sent else self._committed.end
        draft = Draft(epoch, seq, length, length + self.sent, base_hash, ids)
        self.sent += len(ids)
        self.contradicted = False
        self._frame_from = length + self.sent
        self._tree.add(draft, self._committed)
        self._flying.append((seq, draft.base + len(ids)))
        return draft

    def agreed(self, ids: Sequence[int]) -> tuple[int, bool]:
        """Return how many sent tokens ``ids`` confirm, and whether they contradict one."""
        pairs = list(zip(self.ids[: self.sent], ids, strict=False))
        same = next((index for index, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
        return (len(pairs), False) if same is None else (same, True)

    def advance(self, ids: Sequence[int]) -> None:
        """Follow the committed text, which has just grown by ``ids``: keep what they agree with, sent or not."""
        agreed = min(len(ids), len(self.ids))
        if self.sent and self.ids[:1] == list(ids[:1]):
            self.overtaken = False
        elif self.unsent and agreed == len(self.ids):
            self.overtaken = True
        if self.ids[:agreed] == list(ids[:agreed]):
            del self.ids[: len(ids)], self._hashes[: len(ids)]
            self.sent = max(0, self.sent - len(ids))
        else:
            self._drop(0)
            self.contradicted = True
        if not self.ids:
            self._frame_from = self._committed.length
        self._tree.advance(self._committed)
        self._flying = deque(item for item in self._flying if self.sent and item[1] > self._committed.length)

    def refused(self, seq: int) -> None:
        """Drop a frame that the edge refused, and what hangs under it: on a chain, all that came after it."""
        self._tree.kill(seq)
        if any(number == seq for number, _ in self._flying):
            self._flying = deque(item for item in self._flying if item[0] < seq)
            self._drop(max(0, self._flying[-1][1] - self._committed.length) if self._flying else 0)

    def grounded(self) -> None:
        """The stream is gone and nothing is on its way; what was drafted stays and is new to the next edge."""
        self.sent = 0
        self.overtaken, self.contradicted = False, True
        self._frame_from = self._committed.length
        self._flying.clear()
        self._tree.clear()

    def _drop(self, keep: int) -> None:
        del self.ids[keep:], self._hashes[keep:]
        self.sent = min(self.sent, keep)
        self._frame_from = min(self._frame_from, self._committed.length + keep)
