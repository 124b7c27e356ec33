"""The device's end of one session: it owns the text.

Committed ids are final; past them stands what the drafter wrote, some of it sent. The object outlives a stream: after a
loss it attaches again with a higher epoch, and what is not committed is new (DESIGN §4, rule 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance import Ending
from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import EdgeFault
from airdraft.core.paths import HashedPath, ids_digest, next_hash, root_hash
from airdraft.core.session.ahead import Ahead
from airdraft.core.session.device_meaning import DeviceMeaning
from airdraft.core.session.overtaking import Overtaking
from airdraft.core.session.split import Told, check_row
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    DraftWork,
    Drain,
    EdgeFrame,
    Finish,
    Granted,
    Identity,
    Limits,
    NeedHidden,
    NeedPrefix,
    Open,
    Opened,
    Origin,
    Ping,
    Plan,
    Prefix,
    Quote,
    RefusalCode,
    Refused,
    Report,
    Sampling,
    Semantic,
    StopReason,
)


@dataclass(frozen=True, slots=True)
class Committed:
    """Text that is final: journal it, show it, and only then send the frames that come after it."""

    base: int
    ids: tuple[int, ...]
    origins: tuple[Origin, ...]
    stop: StopReason | None
    receipt: bytes = b""  # the edge's word for the text up to here


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream ended with a refusal."""

    refusal: Refused


Output = DeviceFrame | Committed | Lost | Drain

HIGHEST_EPOCH = (1 << 31) - 1
"""No honest session comes near it; an edge that claims to have seen a higher one is at fault."""


@dataclass(slots=True)
class Tally:
    """What a session's drafts came to; the words are vLLM's."""

    rounds: int = 0  # commits with ids
    committed: int = 0
    frames: int = 0  # with ids
    drafted: int = 0  # draft tokens sent
    accepted: int = 0  # of those, equal to the committed token at their position
    missed: int = 0  # times that a sent draft was contradicted
    stretches: list[int] = field(default_factory=list)  # drafted tokens, sent or not, that were right between misses
    stretch: int = 0  # and are since the last one
    drawn: int = 0  # recovered tokens that the device drew itself, from the target's row
    meaning: int = 0  # of the accepted, not the target's own choice: accepted by meaning
    spent: float = 0.0  # chance that these have made the answer worse, as the edges estimate it
    by_origin: dict[Origin, int] = field(default_factory=lambda: dict.fromkeys(Origin, 0))

    @property
    def acceptance(self) -> float:
        """Return accepted over drafted; 0 where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_round(self) -> float:
        """Return the mean acceptance length, bonus and recovered tokens included."""
        return self.committed / self.rounds if self.rounds else 0.0


@dataclass(frozen=True, slots=True)
class Journalled:
    """What a device kept of a session over its own restart."""

    epoch: int = 0  # the highest that it may have used
    ids: Sequence[int] = ()  # committed, without the prompt
    receipt: bytes = b""
    stop: StopReason | None = None


class DeviceSession:
    """One generation as the device sees it: events in, outputs out, in the order in which they must take effect."""

    def __init__(
        self,
        session_id: bytes,
        identity: Identity,
        prompt: Sequence[int],
        *,
        sampling: Sampling,
        stop_ids: tuple[int, ...],
        max_tokens: int,
        limits: Limits,
        plan: Plan,
        journalled: Journalled | None = None,
        overtaking: Overtaking | None = None,
        semantic: Semantic | None = None,
    ) -> None:
        """Start with the prompt's ids, or go on with what a journal kept of this session.

        ``limits`` are those of ``Describe`` until ``Opened`` brings its own. ``overtaking`` says when to rest behind an
        edge whose quote says that it runs ahead; without it the device drafts always. ``semantic`` asks that drafted
        tokens may stand that are as good as the target's own; None is ``exact``. Raises ValueError where a state of
        that width does not fit a frame.
        """
        past = journalled or Journalled()
        self.plan = plan
        self.limits = self._described = limits
        self.epoch = past.epoch
        self.stop = past.stop
        self.ended = past.stop is not None
        self.tally = Tally()
        self.session_id, self.sampling, self.max_tokens = session_id, sampling, max_tokens
        self._identity, self._stop_ids = identity, stop_ids
        self._ending = Ending(frozenset(stop_ids), len(prompt) + max_tokens)
        self._prompt_length = len(prompt)
        self._ids = [*prompt, *past.ids]
        self._receipt = past.receipt
        self._hashes = HashedPath(root_hash(identity))
        self._hashes.extend(self._ids)
        self._ahead = Ahead(self._hashes)
        self.overtaking = overtaking
        self.quote: Quote | None = None  # of the edge that the stream is attached to, the latest
        self._asked = Report(0)  # what the edge was last told of this plan
        self._attached = False
        self._seq = 0
        self._acked = 0
        self._idle_told = False
        self._exhausted_at = b""  # the draft end after which the drafter had no more to say
        self._highest_epoch = past.epoch  # that an edge has seen
        self._rows = False  # this stream's ``Open`` asked for the target's rows
        self._told = Told()
        self._meaning = DeviceMeaning(semantic)

    # ---- what others may ask ----

    @property
    def ids(self) -> Sequence[int]:
        """Return prompt and committed ids."""
        return self._ids

    @property
    def prompt_length(self) -> int:
        """Return the number of prompt tokens."""
        return self._prompt_length

    @property
    def ahead(self) -> Sequence[int]:
        """Return the drafted ids past the committed end: tentative text."""
        return self._ahead.ids

    @property
    def live_nodes(self) -> int:
        """Return how many sent nodes this end counts against the credits."""
        return self._ahead.live_nodes

    @property
    def semantic(self) -> Semantic | None:
        """Return what is asked for at each attach; None is ``exact``."""
        return self._meaning.asked

    @property
    def granted(self) -> Granted:
        """Return what the edge of this stream grants of what was asked; ``EXACT`` until it has answered."""
        return self._meaning.granted

    @property
    def next_epoch(self) -> int:
        """Return an epoch above any that this session used or that an edge has named; journal it, then attach."""
        return max(self.epoch, self._highest_epoch) + 1

    # ---- events ----

    def attach(self, epoch: int, *, with_prefix: bool, limits: Limits | None = None) -> list[Output]:
        """Open a stream with an epoch above any used; ``with_prefix`` sends the ids along, else the edge may ask.

        ``limits`` are those of this edge's ``Describe`` and hold until ``Opened``; None is the edge of before.
        """
        assert epoch > self.epoch, "an epoch is used once"
        if self.ended:
            return []
        self.limits = self._described = limits or self._described
        self.epoch, self._attached, self._seq = epoch, True, 0
        self._acked, self._idle_told = len(self._ids), False
        self._rows = self.plan.split
        self._grounded()
        opened = Open(
            self.session_id,
            epoch,
            self._identity,
            self.sampling,
            self._stop_ids,
            self.max_tokens,
            self._prompt_length,
            len(self._ids),
            ids_digest(self._ids),
            0 if with_prefix else None,
            self._receipt,
            rows=self._rows,
            semantic=self._meaning.asked,
        )
        return [opened, *(self._prefix_frames(0) if with_prefix else ()), *self._ask(), *self._settle()]

    def replan(self, plan: Plan) -> list[Output]:
        """Draft by another plan from now on and tell the edge what it asks; ``split`` holds from the next attach."""
        self.plan = plan
        if not self._attached or self.ended:
            return []
        return [*self._ask(), *self._settle()]

    def _ask(self) -> list[Output]:
        """Tell the edge what the plan asks of it, where that is not what it was told."""
        wishes = Report(self.epoch, self.plan.waits, self.plan.own_draft)
        wishes = self._meaning.report(wishes, self._asked, self.plan)
        if wishes == self._asked:
            return []
        self._asked = wishes
        return [wishes]

    def channel(
        self, miss_s: float | None = None, round_trip_s: float | None = None, up_bytes_s: float | None = None
    ) -> list[Output]:
        """Take estimates of the channel; a semantic session tells its edge, where one has moved by a fifth or more.

        miss_s        what a miss costs this session, by its plan
        round_trip_s  of the channel, above 0
        up_bytes_s    bytes a second that it takes up, above 0

        None is no news.
        """
        self._meaning.channel(miss_s, round_trip_s, up_bytes_s)
        return self._ask() if self._attached and not self.ended else []

    def detached(self) -> None:
        """The stream is gone; text and drafts stay, and drafting may go on."""
        self._attached = False
        self._grounded()

    def _grounded(self) -> None:
        self.quote, self._asked = None, Report(self.epoch)
        self._ahead.grounded()
        self._meaning.attached()
        if self.overtaking is not None:
            self.overtaking.attached()

    def received(self, frame: EdgeFrame) -> list[Output]:
        """Take a frame of the attached stream; frames of another epoch are dropped.

        Raises EdgeFault where the edge contradicts itself or this text (rule 9): the text stays as it is.
        """
        if frame.epoch != self.epoch or not self._attached or self.ended:
            return []
        match frame:
            case Opened():
                self._meaning.opened(frame)
                self.limits, self.quote = frame.limits, frame.quote
                return [*(self._ask() if self._meaning.on else ()), *self._settle()]
            case NeedPrefix():
                if frame.start > len(self._ids):
                    raise EdgeFault("the edge asks for ids past the committed text")
                return self._prefix_frames(frame.start)
            case Refused():
                return self._refused(frame)
            case Ping():
                return [] if frame.ack else [Ping(self.epoch, frame.number, ack=True)]
            case Drain():
                return [frame]
            case NeedHidden():
                return [self._meaning.hidden(frame, self._ahead.position_of)]
            case Commit():
                return self._commit(frame)

    def draft_work(self) -> DraftWork | None:
        """Return what the drafter should write next, or None until another event; attached or not."""
        if self.ended:
            return None
        count = self._room()
        if count <= 0 or self._has_paused:
            return None
        if self.plan.ahead and self._ahead.frames_flying:
            count = 1  # an answer may come at any time: what is written is here to be compared, and a void rest is cut
        if self.overtaking is not None:
            self.overtaking.drafting(len(self._ids) + len(self._ahead.ids))
        return DraftWork((*self._ids, *self._ahead.ids), count, self._ahead.end)

    def is_current(self, work: DraftWork) -> bool:
        """Say whether tokens drafted for ``work`` would still count."""
        return work.path_hash == self._ahead.end and not self.ended

    def drafted(
        self,
        work: DraftWork,
        tokens: Sequence[int],
        probabilities: Sequence[float] = (),
        states: NDArray[np.float32] | None = None,
        q: Sequence[SparseQ] = (),
    ) -> list[Output]:
        """Take what the drafter wrote for ``work``; fewer tokens than asked for mean that it has no more to say.

        What else it tells of the tokens, from the first one on, goes up where it is of use:

        probabilities  its own of each token: where the plan is ``split``; by these ``margin-first`` chooses
        states         [n, state_width]  what its LM head read when it wrote each token: as the granted protocol says
        q              what each token was chosen from, at most 8 entries: where the rule compares distributions

        Raises ValueError where a state or a q does not fit.
        """
        if self.ended:
            return []
        self._meaning.wrote(len(work.path), min(len(tokens), work.count), probabilities, states, q)
        if self.plan.split:
            self._told.wrote(len(work.path), len(tokens), probabilities)
        if self.overtaking is not None:
            # A draft that is still current was not cut: who ends it early, drafter or policy, ends it behind a token.
            self.overtaking.drafted(len(tokens), whole=len(tokens) == work.count or self.is_current(work))
        if not self.is_current(work):
            if len(self._ids) > len(work.path):  # a commit went past what it was to go on from
                self._ahead.overtaken = True
            self._ahead.add(self._spliced(work, tokens))
            return self._settle()
        self._ahead.add(tokens[: work.count])
        if len(tokens) < work.count:
            self._exhausted_at = self._ahead.end
        return self._settle()

    def _spliced(self, work: DraftWork, tokens: Sequence[int]) -> Sequence[int]:
        """Return the tokens of a draft that was cut short by a commit, past what the text and the drafts have become.

        Nothing where the text went another way.
        """
        begun, written = len(self._ids) + len(self._ahead.ids) - len(work.path), tokens[: work.count]
        if not 0 <= begun < len(written):
            return ()
        now = (*self._ids, *self._ahead.ids)
        return written[begun:] if (*work.path, *written[:begun]) == now else ()

    def finish(self, length: int) -> list[Output]:
        """The caller stops here, or a stop string ended the text at ``length``."""
        if self.ended:
            return []
        self.ended = True
        return [Finish(self.epoch, length)] if self._attached else []

    # ---- what the edge says ----

    def _commit(self, commit: Commit) -> list[Output]:
        base = len(self._ids)
        if commit.base != base or commit.length != base + len(commit.ids):
            raise EdgeFault(f"a commit at {commit.base} came where {base} was due")
        if commit.length > self._ending.final_length or (not commit.ids and commit.stop is None):
            raise EdgeFault("a commit is empty or passes the most tokens asked for")
        answer = [*self._ids[max(self._prompt_length, base - 1) :], *commit.ids]
        reasons = [self._ending.reached(commit.length - after, token) for after, token in enumerate(reversed(answer))]
        if any(reasons[1:]) or (reasons[0] if reasons else self._ending.reached(commit.length, None)) != commit.stop:
            raise EdgeFault("a commit ends where the text does not, or goes on where it does")
        end = self._hashes.end
        for token in commit.ids:
            end = next_hash(end, token)
        if end != commit.path_hash:
            raise EdgeFault("a commit's path hash is not that of its ids")
        if commit.row is not None:
            if not self._rows:
                raise EdgeFault("a commit brings a row that nobody asked for")
            check_row(commit, self._ids, self.sampling)
        self._meaning.check(commit, self._ahead.ids[: self._ahead.sent], self._stop_ids)
        self._count(commit)
        self.quote = commit.quote or self.quote
        if self.overtaking is not None:
            self.overtaking.committed(commit, self._ahead.ids)
        self._hashes.extend(commit.ids)
        self._ids.extend(commit.ids)
        self._ahead.advance(commit.ids)
        self._meaning.forget(commit.length)
        self.stop, self._receipt = commit.stop, commit.receipt
        committed = Committed(base, commit.ids, commit.origins, commit.stop, commit.receipt)
        if commit.stop is not None:
            self.ended = True
            return [committed, Finish(self.epoch, len(self._ids))]
        return [committed, *self._settle()]

    def _count(self, commit: Commit) -> None:
        accepted, missed = self._ahead.agreed(commit.ids)
        tally = self.tally
        tally.missed += missed
        self._count_stretch(commit.ids)
        tally.drawn += commit.row is not None
        tally.accepted += accepted
        tally.rounds += bool(commit.ids)
        tally.committed += len(commit.ids)
        for origin in commit.origins:
            tally.by_origin[origin] += 1
        tally.meaning, tally.spent = tally.by_origin[Origin.MEANING], self._meaning.spent

    def _count_stretch(self, ids: Sequence[int]) -> None:
        tally = self.tally
        for mine, theirs in zip(self._ahead.ids, ids, strict=False):
            if mine != theirs:
                tally.stretches.append(tally.stretch)
                tally.stretch = 0
                return  # what was drafted behind a miss tells nothing
            tally.stretch += 1
        if len(ids) > len(self._ahead.ids) and self._exhausted_at == self._ahead.end:
            tally.stretches.append(tally.stretch)  # the drafter had nothing to say here: as good as a miss
            tally.stretch = 0

    def _refused(self, refused: Refused) -> list[Output]:
        if refused.code is RefusalCode.STALE_EPOCH:
            if refused.highest_epoch > HIGHEST_EPOCH:
                raise EdgeFault(f"the edge claims to have seen epoch {refused.highest_epoch}")
            self._highest_epoch = max(self._highest_epoch, refused.highest_epoch)
        if refused.code is RefusalCode.BAD_RECEIPT:
            self._receipt = b""  # an edge may have given a false one; without it the text is a new prompt, and goes on
        if refused.ends_stream:
            self.detached()
            return [Lost(refused)]
        if refused.seq:
            self._ahead.refused(refused.seq)
        return self._settle()

    # ---- what the device sends ----

    @property
    def _has_paused(self) -> bool:
        """Whether the drafter has no more to say, or drafts would come too late to be worth it."""
        if self._exhausted_at == self._ahead.end:
            return True
        return self._edge_runs_ahead and self.overtaking is not None and not self.overtaking.worth

    @property
    def _edge_runs_ahead(self) -> bool:
        # What it decodes ahead waits for a draft where that was agreed on: the draft is not too late then.
        held_back = self._meaning.on and self.plan.provisional_s > 0
        return self.quote is not None and self.quote.runs_ahead and not self.plan.waits and not held_back

    def _room(self) -> int:
        """Return how many more tokens may be drafted for the frame in the making."""
        ahead = self._ahead
        if ahead.ids and ahead.ids[-1] in self._stop_ids:
            return 0  # nothing comes after the end of the text
        # The last position is the target's in any case: a draft of it saves nothing.
        useful = self._ending.final_length - 1 - len(self._ids) - len(ahead.ids)
        return min(self._frame_room(), useful, self.limits.live_nodes - ahead.live_nodes - ahead.unsent)

    def _frame_room(self) -> int:
        """Return how many more tokens the plan puts into the frame in the making, or drafts while none may leave."""
        plan, ahead = self.plan, self._ahead
        if ahead.frames_flying >= plan.outstanding:
            return plan.ahead and plan.ahead * plan.draft_length + 1 - ahead.unsent
        # Behind an edge that goes ahead, whatever is drafted goes up at once: a whole frame would come too late again.
        alone = (plan.first_alone and ahead.contradicted) or (plan.outstanding > 1 and ahead.overtaken)
        length = 1 if alone else min(plan.draft_length, self._frame_nodes)
        return length - (ahead.unsent if plan.ahead else ahead.in_the_making)

    @property
    def _frame_nodes(self) -> int:
        return self._meaning.frame_nodes(self.limits.frame_nodes)

    def _settle(self) -> list[Output]:
        """Send what is due: a full or final frame, else word that the device idles, else a lone ack."""
        if not self._attached or self.ended:
            return []
        frames: list[Output] = []
        drafted_out = self._room() <= 0 or self._has_paused
        if drafted_out and self._ahead.frames_flying < self.plan.outstanding:
            frames += self._frame()
        if drafted_out and not self._ahead.frames_flying and not self._idle_told:
            self._idle_told = True
            frames.append(self._ack(idle=True))
        if not frames and 2 * (len(self._ids) - self._acked) >= self.limits.ahead_tokens:
            frames.append(self._ack(idle=False))
        return frames

    def _frame(self) -> list[Output]:
        """Send unsent drafts, as many as one frame and the credits take."""
        credit = min(self.limits.live_nodes - self._ahead.live_nodes, self._frame_nodes)
        draft = self._ahead.frame(self.epoch, self._seq + 1, credit)
        if draft is None:
            return []
        if self._rows:
            draft = replace(draft, probabilities=self._told.of(draft))
        draft = self._meaning.told(draft)
        self._seq, self._acked, self._idle_told = draft.seq, draft.acked, False
        self.tally.frames += 1
        self.tally.drafted += len(draft.ids)
        return [draft]

    def _ack(self, *, idle: bool) -> Draft:
        self._seq, self._acked = self._seq + 1, len(self._ids)
        return Draft(self.epoch, self._seq, self._acked, self._acked, self._hashes.end, idle=idle)

    def _prefix_frames(self, start: int) -> list[Output]:
        step = self.limits.prefix_chunk_tokens
        return [Prefix(self.epoch, at, tuple(self._ids[at : at + step])) for at in range(start, len(self._ids), step)]
