"""What an edge knows of one session, and what follows from it: what the next pass may be for, and what is held back.

*The line* is the committed text and behind it the tokens that are held back for a draft of them (``Provisional``); in
an exact session there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from airdraft.core.paths import Node
from airdraft.core.session.cache_rows import CacheRows
from airdraft.core.session.drafts import Drafts
from airdraft.core.session.judging import Held, Judging
from airdraft.core.session.own_draft import OwnDraft
from airdraft.core.session.passes import PASS_NODES
from airdraft.core.session.provisional import Provisional
from airdraft.core.session.run_ahead import RunAhead
from airdraft.core.session.text import EdgeText
from airdraft.core.types import Limits, Pass, Report, Sampling


@dataclass(slots=True)
class EdgeState:
    """The state of an ``EdgeSession``; its parts share it."""

    limits: Limits
    sampling: Sampling
    text: EdgeText
    own: OwnDraft
    run_ahead: RunAhead | None
    judging: Judging | None
    bonus: bool
    clock: Callable[[], float]
    drafts: Drafts = field(default_factory=Drafts)
    rows: CacheRows = field(default_factory=CacheRows)
    provisional: Provisional = field(default_factory=Provisional)
    epoch: int = 0
    attached: bool = False
    finished: bool = False
    in_flight: Pass | None = None
    branches: bool = False  # the latest pass judges a line of the device beside provisional tokens
    held: Held | None = None  # what it came to, as long as no verdict was taken
    no_room: bool = False  # it had none for that line: what is held back goes out
    token_due: bool = False  # the last prefill row commits a token in every mode (rule 7)
    row_wanted: bool = False  # the device draws from the target's rows itself
    asked: Report = field(default_factory=lambda: Report(0))  # what the device's plan asks of this end
    sits_until_s: float | None = None

    # ---- the line ----

    @property
    def line_length(self) -> int:
        """Return how long the line is."""
        return self.text.length + len(self.provisional)

    @property
    def line_end(self) -> bytes:
        """Return the path hash at the line's end."""
        held_back = self.provisional.tokens
        return held_back[-1].path_hash if held_back else self.text.path.end

    @property
    def line_ended(self) -> bool:
        """Return whether a token that is held back is the text's last."""
        held_back = self.provisional.tokens
        return bool(held_back) and self.text.ending.reached(self.line_length, held_back[-1].token) is not None

    def line_from(self, start: int) -> Sequence[int]:
        """Return the line's ids from ``start`` on."""
        ids = self.text.ids[start:] if start else self.text.ids
        if not self.provisional.tokens:
            return ids
        return [*ids, *self.provisional.ids[max(0, start - self.text.length) :]]

    # ---- what may extend it ----

    @property
    def waits(self) -> bool:
        """Return whether nothing goes ahead of this device: its plan asked for that, or this edge never does."""
        return self.run_ahead is None or self.asked.waits

    @property
    def may_pass(self) -> bool:
        """Return whether a pass may begin now, if there is one to make."""
        ready = self.attached and not self.finished and self.text.complete and self.text.stop is None
        return ready and self.in_flight is None and self.held is None

    def may_run(self) -> bool:
        """Say whether the edge may go on without a draft of the device (rule 6), and does not wait for one."""
        length, acked = self.line_length, self.drafts.acked
        if length - acked >= self.limits.ahead_tokens or self.line_ended:
            return False
        if self.drafts.idle:
            return True
        if self.run_ahead is None or self.asked.waits:
            return False
        if self.own.nodes(self.line_end, self.drafts.tree):
            return True
        self.sits_until_s = self.run_ahead.sits_out(length, acked)
        return self.sits_until_s is None

    @property
    def own_room(self) -> int:
        """Return how many tokens of its own the next pass may verify: with one more, no farther than it may run."""
        length = self.line_length
        if not self.asked.own_draft:
            return 0
        ahead = self.limits.ahead_tokens - (length - self.drafts.acked)
        return min(self.own.length, ahead - 1, self.text.ending.final_length - length - 1) - len(self.drafts.tree)

    @property
    def own_draft_due(self) -> bool:
        """Return whether the next pass is one that the edge's own drafter should write for first."""
        if not self.may_pass or self.line_ended or self.token_due:
            return False
        if self.own_room <= 0 or (self.waits and not self.drafts.idle):
            return False
        tree = self.drafts.tree
        free = not tree.nodes if self.provisional.tokens else tree.line(self.line_end) is not None
        return free and self.own.lacks(self.line_end)

    def line_nodes(self) -> list[Node]:
        """Return the nodes to verify behind the line, parents before children; none at or past the last position.

        First the device's that are live, then the edge's own, which may hang under any of them. Behind what is held
        back the device has none.
        """
        most = self.drafts.acked + self.limits.ahead_tokens  # one that came back may have acked less than was known
        tree = self.drafts.tree
        own = [node for node in self.own.nodes(self.line_end, tree) if node.length < most]
        nodes = own if self.provisional.tokens else [*tree.nodes.values(), *own]
        return [node for node in nodes if node.length < self.text.ending.final_length][:PASS_NODES]

    def branch(self, room: int) -> tuple[list[Node], list[Node]] | None:
        """Return the device's nodes that a pass judges beside what is held back, and this; None where there are none.

        Both hang under the committed end. A branch that is cut short for want of ``room`` still has its first node.
        Where the device has drafted what is held back, its nodes tell of both.
        """
        final_length, room = self.text.ending.final_length, min(room, PASS_NODES)
        if not self.provisional.tokens or room < 1:
            return None
        theirs = [node for node in self.drafts.tree.nodes.values() if node.length < final_length]
        if not theirs:
            return None
        drafted = self.provisional.tokens[0].path_hash in self.drafts.tree.nodes  # unsettled: a pass was lost
        mine = [] if drafted else self.provisional.nodes(self.text.path.end)
        mine = [node for node in mine if node.length < final_length]
        theirs = theirs[: max(1, room // 2, room - len(mine))]
        return theirs, mine[: room - len(theirs)]

    # ---- what is held back ----

    @property
    def hold_s(self) -> float | None:
        """Return how long a token of the edge's own is held back for a draft of it; None: not at all."""
        if self.judging is None or self.waits or self.drafts.idle or self.judging.judge.threshold <= 0:
            return None
        return self.asked.provisional_s or None

    @property
    def judges_branch(self) -> bool:
        """Return whether a pass is about to tell of a line beside what is held back: until then this stays."""
        return self.held is not None or (self.in_flight is not None and self.branches)

    @property
    def deadline_s(self) -> float | None:
        """Return when something that is held becomes due, if nothing else happens."""
        if self.held is not None:
            return self.held.until_s
        held_back, hold_s = self.provisional.tokens, self.hold_s
        if not held_back or self.judges_branch or (hold_s is not None and self.drafts.tree.nodes):
            return None  # a pass tells
        return held_back[0].since_s + (hold_s or 0.0)
