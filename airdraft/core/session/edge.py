"""The edge's end of one session: frames in, frames and passes out.

The object outlives a stream: the device may leave and attach again with a higher epoch. It holds the ids, the live
draft nodes and how much of the text the cache holds; the engine holds the cache itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import MalformedFrame, TooLong
from airdraft.core.meaning import MeaningJudge, Swap
from airdraft.core.receipts import ReceiptKey
from airdraft.core.session.admission import Admission
from airdraft.core.session.drafts import Followed
from airdraft.core.session.edge_commits import Commits
from airdraft.core.session.edge_passes import next_pass, wish_of
from airdraft.core.session.edge_state import EdgeState
from airdraft.core.session.judging import Judging
from airdraft.core.session.own_draft import OwnDraft
from airdraft.core.session.passes import PASS_NODES, PREFILL_POSITIONS, Wish
from airdraft.core.session.run_ahead import RunAhead
from airdraft.core.session.text import EdgeText, Taken
from airdraft.core.types import (
    EXACT,
    DeviceFrame,
    Draft,
    DraftWork,
    EdgeFrame,
    Finish,
    Granted,
    Hidden,
    Limits,
    NeedPrefix,
    Open,
    Opened,
    Pass,
    PassResult,
    Ping,
    Prefix,
    RefusalCode,
    Refused,
    Report,
    Sampling,
    StopReason,
)


class EdgeSession:
    """One generation as the edge sees it.

    Every method that takes a frame returns the frames to send, each with the epoch of the stream it belongs to.
    Protocol violations raise a ``SpecError``: the stream ends, the session stays for the next attach.
    """

    def __init__(
        self,
        first: Open,
        limits: Limits,
        receipts: ReceiptKey | None = None,
        *,
        own_text_only: bool = False,
        own_draft_tokens: int = 0,
        run_ahead: RunAhead | None = None,
        bonus: bool = True,
        granted: Granted = EXACT,
        judge: MeaningJudge | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepare for the device's ``first`` attach. Raises TooLong, ValueError.

        receipts          with a key every commit carries a receipt
        own_text_only     take no answer but what this key has signed
        own_draft_tokens  how many tokens a drafter at the edge adds to a pass; 0: there is none
        run_ahead         go ahead of a device whose draft has not come; None waits for it
        bonus             commit the target's own token after a draft that was right; PEARL leaves it to the next draft
        granted           what the device is told of its wish for acceptance by meaning, where there is no judge
        judge             lets drafted tokens stand that are as good as the target's; None is ``exact``
        clock             seconds; a session with a judge has deadlines
        """
        if first.prompt_length + first.max_tokens > limits.context_tokens:
            raise TooLong(
                f"prompt of {first.prompt_length} and answer of up to {first.max_tokens} tokens pass this edge's "
                f"context of {limits.context_tokens}; ask for fewer tokens or shorten the prompt",
                field="max_tokens",
            )
        if judge is not None and clock is None:
            raise ValueError("a session with a judge needs a clock")
        self.granted = granted if judge is None else judge.granted
        text = EdgeText(first)
        self._state = EdgeState(
            limits,
            first.sampling,
            text,
            OwnDraft(own_draft_tokens),
            run_ahead,
            None if judge is None else Judging(judge, first.semantic, text.ending),
            bonus,
            clock or (lambda: 0.0),
        )
        self._admission = Admission(first, receipts, own_text_only=own_text_only)
        self._commits = Commits(self._state, self._admission)
        self._text, self._drafts, self._rows = text, self._state.drafts, self._state.rows

    # ---- what others may ask ----

    @property
    def limits(self) -> Limits:
        """Return what this edge grants."""
        return self._state.limits

    @property
    def epoch(self) -> int:
        """Return the epoch of the latest stream; 0 before the first."""
        return self._state.epoch

    @property
    def attached(self) -> bool:
        """Return whether the session has a stream."""
        return self._state.attached

    @property
    def finished(self) -> bool:
        """Return whether the device has said that it needs the session no more."""
        return self._state.finished

    @property
    def attested(self) -> bool:
        """Return whether this edge, or one that shares its key, wrote all of the answer so far."""
        return self._commits.attested

    @property
    def committed_length(self) -> int:
        """Return the length of prompt and committed text."""
        return self._text.length

    @property
    def sampling(self) -> Sampling:
        """Return how the text is chosen."""
        return self._state.sampling

    @property
    def stop(self) -> StopReason | None:
        """Return why the text ended; None where it has not."""
        return self._text.stop

    @property
    def final_length(self) -> int:
        """Return how long prompt and answer can become."""
        return self._text.ending.final_length

    @property
    def ids(self) -> Sequence[int]:
        """Return the committed ids, as far as this edge has them."""
        return self._text.ids

    @property
    def complete(self) -> bool:
        """Return whether this edge has all of them, and nothing that the device promised is still to come."""
        return self._text.complete

    def lacks(self, opened: Open) -> int:
        """Return how many of the ids that a device would present by this attach are new here."""
        if self._text.holds(opened):
            return 0
        return opened.length - min(opened.length, self._drafts.acked, len(self._text.ids))

    @property
    def spent(self) -> float:
        """Return the chance that acceptance by meaning has made the answer worse so far, as this fleet estimates it."""
        return self._commits.spent

    @property
    def dropped(self) -> int:
        """Return how many tokens of the edge's own were held back and never committed."""
        return self._state.provisional.dropped

    def take_swaps(self) -> tuple[Swap, ...]:
        """Return the drafted tokens that were judged since this was last asked."""
        judging = self._state.judging
        return () if judging is None else judging.take_swaps()

    def q_of(self, work: Pass) -> tuple[SparseQ | None, ...]:
        """Return what each draft node of a pass was sampled from, as far as the device told; empty: of none."""
        judging = self._state.judging
        return () if judging is None else judging.q_of(work)

    @property
    def own_draft_tokens(self) -> int:
        """Return how many tokens the edge's own drafter adds to a pass at most; may be set between passes."""
        return self._state.own.tokens

    @own_draft_tokens.setter
    def own_draft_tokens(self, tokens: int) -> None:
        self._state.own.tokens = tokens

    @property
    def waits(self) -> bool:
        """Return whether nothing goes ahead of this device: its plan asked for that, or this edge never does."""
        return self._state.waits

    @property
    def idle(self) -> bool:
        """Return whether the device has said that nothing of it is on its way."""
        return self._drafts.idle

    @property
    def live_nodes(self) -> int:
        """Return how many live draft nodes this end counts against the credits."""
        return self._drafts.live_nodes

    @property
    def kv_length(self) -> int:
        """Return how many cache rows are valid (once the next span's gather is done)."""
        return self._rows.length

    @property
    def rows_in_place(self) -> int:
        """Return how many of the first cache rows hold the first ids, without a row that must be moved first."""
        return min(self._rows.in_place, self._text.length)

    @property
    def in_flight(self) -> bool:
        """Return whether a pass was handed out and is not finished."""
        return self._state.in_flight is not None

    @property
    def wakes_s(self) -> float | None:
        """Return when to ask for ``due`` and the next pass again, if no event comes before; None: not at all."""
        times = (self._state.sits_until_s if self._state.may_pass else None, self._state.deadline_s)
        return min((time for time in times if time is not None), default=None)

    @property
    def takes_own_drafts(self) -> bool:
        """Return whether the edge's own drafter has a use here, in some pass or other."""
        wanted = self._state.asked.own_draft and (self.idle or not self.waits)
        return wanted and self.attached and not self.finished and self._text.stop is None

    @property
    def own_draft_due(self) -> bool:
        """Return whether the next pass is one that the edge's own drafter should write for first."""
        return self._state.own_draft_due

    # ---- the stream ----

    def attach(self, opened: Open) -> list[EdgeFrame]:
        """Take a new stream; an older one is superseded.

        Raises StaleEpoch, SessionMismatch, MalformedFrame, BadReceipt.
        """
        state, text = self._state, self._text
        held = text.holds(opened)
        attested = self._admission.judge(opened, state.epoch, held=held, attested=self.attested)
        frames: list[EdgeFrame] = []
        if state.attached:
            message = "a newer stream took this session"
            frames.append(Refused(state.epoch, RefusalCode.SUPERSEDED, message, highest_epoch=opened.epoch))
        acked_before = self._drafts.acked
        state.epoch, state.attached, self._commits.attested = opened.epoch, True, attested
        state.row_wanted, state.asked, state.held = opened.rows, Report(opened.epoch), None
        self._drafts.attached(opened.length)
        self._commits.spent_before(self._admission.spent(opened))
        if state.judging is not None:
            state.judging.attached()
        if state.run_ahead is not None:
            state.run_ahead.attached()
        if held:
            return [*frames, *self._go_on(opened)]
        state.provisional.clear()
        known = text.cut(min(opened.length, acked_before, len(text.ids)), opened)
        # Rows that were still to be gathered are not in their places, and the last id's is computed by the next pass.
        self._rows.settle(min(known, opened.length - 1))
        frames.append(self._opened())
        if known == opened.length:
            frames += self._prefix_is(text.fulfil())
        elif opened.prefix_start is None or opened.prefix_start > known:
            frames.append(NeedPrefix(state.epoch, known))
        return frames

    def received(self, frame: DeviceFrame) -> list[EdgeFrame]:
        """Take a frame of the attached stream; frames of another epoch are dropped.

        Raises MalformedFrame, OutOfOrder, BadAck, CreditsExceeded, PrefixMismatch, TooLong.
        """
        state = self._state
        if frame.epoch != state.epoch or not state.attached or state.finished:
            return []
        match frame:
            case Prefix():
                return self._prefix_is(self._text.take(frame))
            case Draft():
                return self._draft(frame)
            case Report():
                state.asked = frame
                if state.judging is not None:
                    state.judging.judge.reported(frame)
                return self._commits.settle()
            case Hidden():
                return self._hidden(frame)
            case Ping():
                return [] if frame.ack else [Ping(state.epoch, frame.number, ack=True)]
            case Finish():
                state.finished, state.attached, state.held = True, False, None
                state.provisional.clear()
                return []
            case Open():
                raise MalformedFrame("Open may only come first on a stream", field="open")

    def detached(self, epoch: int) -> None:
        """The stream of this epoch is gone; the text and the cache stay for the next attach."""
        if epoch == self.epoch:
            self._state.attached = False
            if self._state.held is not None:
                self._commits.decide()  # no state will come; the device gets what this commits when it is back

    def _go_on(self, opened: Open) -> list[EdgeFrame]:
        """Answer a device whose text is the beginning of what is held."""
        state, text = self._state, self._text
        text.keep()
        if state.provisional.tokens:  # nothing of the device is on its way yet
            self._commits.append(state.provisional.ids, state.provisional.origins)
        state.token_due = self._rows.length < text.length - 1 or text.length == opened.prompt_length
        if opened.length < text.length or text.stop is not None:
            return [self._opened(), self._commits.missed(opened.length)]
        return [self._opened()]

    def _opened(self) -> Opened:
        return Opened(self.epoch, self.kv_length, self._text.length, self.limits, granted=self.granted)

    def _prefix_is(self, taken: Taken) -> list[EdgeFrame]:
        """Go on with a prefix that an attach promised."""
        if taken == "nothing":
            return []
        if taken == "wrong":
            self._rows.settle(0)
            return [NeedPrefix(self.epoch, 0)]
        self._state.token_due = True
        for followed in self._drafts.follow_waiting(self._text.path):
            self._followed(followed)
        return [self._commits.missed(self._text.length)] if self._text.stop is not None else []

    def _draft(self, draft: Draft) -> list[EdgeFrame]:
        judging = self._state.judging
        if judging is not None:
            judging.check(draft)
        elif draft.states is not None:
            raise MalformedFrame("no states go up in an exact session", field="states", seq=draft.seq)
        followed = self._drafts.take(draft, self._text.length, self._text.hashes, self.limits)
        if followed is not None:
            self._followed(followed)
        return self._commits.settle()

    def _followed(self, followed: Followed) -> None:
        """Keep what came with a frame; tell the run-ahead rule whether the text agrees with it so far."""
        state, draft = self._state, followed.draft
        if state.judging is not None:
            state.judging.keep(followed, self._drafts.tree)
        if state.run_ahead is not None:
            end, length = followed.nodes[-1].length, self._text.path.length
            state.run_ahead.framed(draft.acked, end, len(draft.ids), agrees=followed.agrees, length=length)

    def _hidden(self, hidden: Hidden) -> list[EdgeFrame]:
        state = self._state
        if state.judging is None:
            raise MalformedFrame("no states go up in an exact session", field="hidden")
        return self._commits.decide() if state.judging.told(hidden, state.held, self._drafts.tree) else []

    # ---- the cache ----

    def evicted(self, *, ids_too: bool = False) -> list[EdgeFrame]:
        """The cache's rows are gone, and with ``ids_too`` the ids as well; length, hash and live nodes stay.

        A pass in flight must be finished first.
        """
        state = self._state
        assert state.in_flight is None
        self._rows.settle(0)
        if state.held is not None:
            state.held.rows = False
        if not ids_too or self._text.promised:
            return []
        state.held = None
        state.provisional.clear()
        self._text.lose()
        return [NeedPrefix(self.epoch, 0)] if self.attached else []

    def adopted(self, rows: int) -> None:
        """Begin with an empty cache's first ``rows`` already there: another text with the same beginning wrote them."""
        assert self._rows.length == 0
        assert not self.in_flight
        assert rows < len(self._text.ids)
        self._rows.length = rows

    # ---- work ----

    def due(self) -> list[EdgeFrame]:
        """Return what a deadline that has passed brings.

        To be asked when ``wakes_s`` has come, whether a pass is in flight or not.
        """
        held = self._state.held
        if held is None:
            return self._commits.settle()
        return self._commits.decide() if self._state.clock() >= held.until_s else []

    def wish(self) -> Wish | None:
        """Return what the next pass would be for, or None where there is nothing to do until another event."""
        return wish_of(self._state)

    def next_pass(self, positions: int = PREFILL_POSITIONS + PASS_NODES) -> Pass | None:
        """Return the session's next forward pass, of at most ``positions`` > 0, or None as ``wish`` does."""
        return next_pass(self._state, positions)

    def own_draft(self) -> DraftWork | None:
        """Return what the edge's own drafter should write, or None until another event; the next pass waits for it."""
        state = self._state
        if not state.own_draft_due:
            return None
        end = state.line_end
        line = () if state.provisional.tokens else self._drafts.tree.line(end) or ()
        return state.own.ask(state.line_from(0), line, state.own_room, end)

    def own_drafted(self, work: DraftWork, tokens: Sequence[int]) -> None:
        """Take what the edge's own drafter wrote; it is void where the text has gone on."""
        self._state.own.take(work, tokens)

    def lost_pass(self, done: Pass) -> None:
        """A pass came to nothing: the rows before those that it touched are still good, the rest is done again."""
        assert done is self._state.in_flight
        self._state.in_flight = None
        self._rows.lost(done.span)

    def finished_pass(self, done: Pass, result: PassResult) -> list[EdgeFrame]:
        """Take a pass's outcome; it counts only if its epoch, base and path hash are still current."""
        state, text = self._state, self._text
        assert done is state.in_flight
        state.in_flight = None
        self._rows.ran(done.span)
        length = text.length if state.branches else state.line_length
        void = state.branches and not state.provisional.tokens  # the device finished, and what it was beside is gone
        if void or done.epoch != state.epoch or not text.complete or done.base != length:
            return []
        assert done.base_hash == (text.path.end if state.branches else state.line_end)
        if done.span.wanted:
            return self._commits.take(done, result)
        self._rows.length = done.span.start + len(done.span.tokens)
        return self._commits.settle()
