"""What a device has sent of its draft on one stream: its order, its acks, and the nodes that are live."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.errors import BadAck, CreditsExceeded, MalformedFrame, OutOfOrder
from airdraft.core.paths import DraftTree, HashedPath, Node, frame_nodes
from airdraft.core.types import Draft, Limits


@dataclass(frozen=True, slots=True)
class Followed:
    """What became of a frame with ids."""

    draft: Draft
    nodes: list[Node]  # all of the frame's
    agrees: bool  # no committed token contradicts its last line, or part of it is live


class Drafts:
    """Takes the ``Draft`` frames of a session's stream."""

    def __init__(self) -> None:
        """Begin without a stream."""
        self.acked = 0
        self.last_seq = 0
        self.idle = False
        self.pipelined = False  # its last frame went up before it knew what became of the one before
        self.tree = DraftTree()
        self.waiting: list[Draft] = []  # that came before the prefix was complete
        self._line: Node | None = None  # the last one of the last frame that agreed with the text

    @property
    def live_nodes(self) -> int:
        """Return how many live draft nodes count against the credits."""
        return len(self.tree) + sum(len(draft.ids) for draft in self.waiting)

    def line_agrees(self, committed: HashedPath) -> bool:
        """Return whether the device's last line, as far as the text has come, is the text's own."""
        return self._line is not None and committed.at(self._line.length) == self._line.path_hash

    def attached(self, acked: int) -> None:
        """Begin with a new stream, whose device knows this length."""
        self.acked, self.last_seq, self.idle, self.pipelined = acked, 0, False, False
        self._line = None
        self.tree.clear()
        self.waiting.clear()

    def take(self, draft: Draft, length: int, committed: HashedPath | None, limits: Limits) -> Followed | None:
        """Take a frame; return what became of one with ids, unless it must wait for the text.

        length     committed
        committed  the text; None while it is not known

        Raises OutOfOrder, BadAck, MalformedFrame, CreditsExceeded.
        """
        if draft.seq != self.last_seq + 1:
            raise OutOfOrder(f"draft {draft.seq} came where {self.last_seq + 1} was due", field="seq", seq=draft.seq)
        if not self.acked <= draft.acked <= length:
            raise BadAck(f"ack of {draft.acked} outside {self.acked} to {length}", field="acked", seq=draft.seq)
        if len(draft.ids) > limits.frame_nodes:
            raise MalformedFrame("more nodes than a frame may hold", field="ids", seq=draft.seq)
        self.last_seq, self.acked = draft.seq, draft.acked
        if not draft.ids:
            self.idle = self.idle or draft.idle
            return None
        self.idle, self.pipelined = False, draft.base > draft.acked
        followed = None
        if committed is None:
            self.waiting.append(draft)
        else:
            followed = self._follow(draft, committed)
        if self.live_nodes > limits.live_nodes:
            raise CreditsExceeded(
                f"{self.live_nodes} live nodes, {limits.live_nodes} granted", field="ids", seq=draft.seq
            )
        return followed

    def follow_waiting(self, committed: HashedPath) -> list[Followed]:
        """Judge the frames that waited for the text."""
        followed = [self._follow(draft, committed) for draft in self.waiting]
        self.waiting.clear()
        return followed

    def _follow(self, draft: Draft, committed: HashedPath) -> Followed:
        new = self.tree.add(draft, committed)
        nodes = frame_nodes(draft)
        last = nodes[-1]
        agrees = new > 0 or committed.at(last.length) == last.path_hash
        if agrees:
            self._line = last
        return Followed(draft, nodes, agrees)
