"""The edge's end of one session: frames in, frames and passes out.

The object outlives a stream: the device may leave and attach again with a higher epoch. It holds the ids, the live
draft nodes and how much of the text the cache holds; the engine holds the cache itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.errors import (
    BadAck,
    CreditsExceeded,
    MalformedFrame,
    OutOfOrder,
    TooLong,
)
from airdraft.core.paths import DraftTree, HashedPath, Node, frame_nodes
from airdraft.core.receipts import ReceiptKey
from airdraft.core.sampling import penalised
from airdraft.core.session.admission import Admission
from airdraft.core.session.own_draft import OwnDraft
from airdraft.core.session.passes import PASS_NODES, PREFILL_POSITIONS, Wish, verifying_span, walked
from airdraft.core.session.run_ahead import RunAhead
from airdraft.core.session.text import EdgeText, Taken
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    DraftWork,
    EdgeFrame,
    Finish,
    Limits,
    NeedPrefix,
    Open,
    Opened,
    Origin,
    Pass,
    PassResult,
    Ping,
    Prefix,
    RefusalCode,
    Refused,
    Report,
    Sampling,
    Span,
    StopReason,
    Work,
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
    ) -> None:
        """Prepare for the device's ``first`` attach. Raises TooLong.

        receipts          with a key every commit carries a receipt
        own_text_only     take no answer but what this key has signed
        own_draft_tokens  how many tokens a drafter at the edge adds to a pass; 0: there is none
        run_ahead         go ahead of a device whose draft has not come; None waits for it
        bonus             commit the target's own token after a draft that was right; PEARL leaves it to the next draft
        """
        if first.prompt_length + first.max_tokens > limits.context_tokens:
            raise TooLong(
                f"prompt of {first.prompt_length} and answer of up to {first.max_tokens} tokens pass this edge's "
                f"context of {limits.context_tokens}; ask for fewer tokens or shorten the prompt",
                field="max_tokens",
            )
        self.limits = limits
        self.finished = False
        self.epoch = 0
        self.attached = False
        self.attested = True  # this edge, or one that shares its key, wrote all of the answer so far
        self._sampling = first.sampling
        self._admission = Admission(first, receipts, own_text_only=own_text_only)
        self._text = EdgeText(first)
        self._acked = 0
        self._last_seq = 0
        self._idle = False
        self._tree = DraftTree()
        self._line: Node | None = None  # the last one of the last frame that agreed with the text
        self._waiting: list[Draft] = []  # drafts that came before the prefix was complete
        self._kv_length = 0
        self._gather: tuple[int, ...] = ()
        self._in_flight: Pass | None = None
        self._token_due = False  # the last prefill row commits a token in every mode (rule 7)
        self._own = OwnDraft(own_draft_tokens)
        self._run_ahead = run_ahead
        self._bonus = bonus
        self._rows = False  # the device draws from the target's rows itself
        self._asked = Report(0)  # what the device's plan asks of this end
        self.wakes_s: float | None = None  # when to ask for the next pass again, if no event comes before

    # ---- what others may ask ----

    @property
    def committed_length(self) -> int:
        """Return the length of prompt and committed text."""
        return self._text.length

    @property
    def sampling(self) -> Sampling:
        """Return how the text is chosen."""
        return self._sampling

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
    def own_draft_tokens(self) -> int:
        """Return how many tokens the edge's own drafter adds to a pass at most; may be set between passes."""
        return self._own.tokens

    @own_draft_tokens.setter
    def own_draft_tokens(self, tokens: int) -> None:
        self._own.tokens = tokens

    @property
    def waits(self) -> bool:
        """Return whether nothing goes ahead of this device: its plan asked for that, or this edge never does."""
        return self._run_ahead is None or self._asked.waits

    @property
    def idle(self) -> bool:
        """Return whether the device has said that nothing of it is on its way."""
        return self._idle

    @property
    def live_nodes(self) -> int:
        """Return how many live draft nodes this end counts against the credits."""
        return len(self._tree) + sum(len(draft.ids) for draft in self._waiting)

    @property
    def kv_length(self) -> int:
        """Return how many cache rows are valid (once the next span's gather is done)."""
        return self._kv_length

    @property
    def rows_in_place(self) -> int:
        """Return how many of the first cache rows hold the first ids, without a row that must be moved first."""
        return self._kv_length - len(self._gather)

    @property
    def in_flight(self) -> bool:
        """Return whether a pass was handed out and is not finished."""
        return self._in_flight is not None

    @property
    def takes_own_drafts(self) -> bool:
        """Whether the edge's own drafter has a use here, in some pass or other."""
        wanted = self._asked.own_draft and (self._idle or not self.waits)
        return wanted and self.attached and not self.finished and self._text.stop is None

    @property
    def own_draft_due(self) -> bool:
        """Whether the next pass is one that the edge's own drafter should write for first."""
        text = self._text
        if self._in_flight or not self.attached or self.finished or text.stop is not None or not text.complete:
            return False
        if self._token_due or self._own_room <= 0 or (self.waits and not self._idle):
            return False
        return self._own.lacks(text.path.end) and self._tree.line(text.path.end) is not None

    # ---- events ----

    def attach(self, opened: Open) -> list[EdgeFrame]:
        """Take a new stream; an older one is superseded.

        Raises StaleEpoch, SessionMismatch, MalformedFrame, BadReceipt.
        """
        held = self._text.holds(opened)
        attested = self._admission.judge(opened, self.epoch, held=held, attested=self.attested)
        frames: list[EdgeFrame] = []
        if self.attached:
            message = "a newer stream took this session"
            frames.append(Refused(self.epoch, RefusalCode.SUPERSEDED, message, highest_epoch=opened.epoch))
        acked_before = self._acked
        self.epoch, self.attached, self.attested = opened.epoch, True, attested
        self._last_seq, self._idle, self._acked = 0, False, opened.length
        self._rows, self._asked = opened.rows, Report(opened.epoch)
        self._line = None
        self._tree.clear()
        self._waiting.clear()
        if self._run_ahead is not None:
            self._run_ahead.attached()
        if held:
            return [*frames, *self._go_on(opened)]
        known = self._text.cut(min(opened.length, acked_before, len(self._text.ids)), opened)
        # Rows that were still to be gathered are not in their places, and the last id's is computed by the next pass.
        in_place = self._kv_length - len(self._gather)
        self._kv_length, self._gather = min(in_place, known, opened.length - 1), ()
        frames.append(self._opened())
        if known == opened.length:
            frames += self._prefix_is(self._text.fulfil())
        elif opened.prefix_start is None or opened.prefix_start > known:
            frames.append(NeedPrefix(self.epoch, known))
        return frames

    def received(self, frame: DeviceFrame) -> list[EdgeFrame]:
        """Take a frame of the attached stream; frames of another epoch are dropped.

        Raises MalformedFrame, OutOfOrder, BadAck, CreditsExceeded, PrefixMismatch, TooLong.
        """
        if frame.epoch != self.epoch or not self.attached or self.finished:
            return []
        match frame:
            case Prefix():
                return self._prefix_is(self._text.take(frame))
            case Draft():
                self._draft(frame)
                return []
            case Report():
                self._asked = frame
                return []
            case Ping():
                return [] if frame.ack else [Ping(self.epoch, frame.number, ack=True)]
            case Finish():
                self.finished, self.attached = True, False
                return []
            case Open():
                raise MalformedFrame("Open may only come first on a stream", field="open")

    def detached(self, epoch: int) -> None:
        """The stream of this epoch is gone; the text and the cache stay for the next attach."""
        if epoch == self.epoch:
            self.attached = False

    def evicted(self, *, ids_too: bool = False) -> list[EdgeFrame]:
        """The cache's rows are gone, and with ``ids_too`` the ids as well; length, hash and live nodes stay.

        A pass in flight must be finished first.
        """
        assert self._in_flight is None
        self._kv_length, self._gather = 0, ()
        if not ids_too or self._text.promised:
            return []
        self._text.lose()
        return [NeedPrefix(self.epoch, 0)] if self.attached else []

    def adopted(self, rows: int) -> None:
        """Begin with an empty cache's first ``rows`` already there: another text with the same beginning wrote them."""
        assert self._kv_length == 0
        assert self._in_flight is None
        assert rows < len(self._text.ids)
        self._kv_length = rows

    def wish(self) -> Wish | None:
        """Return what the next pass would be for, or None where there is nothing to do until another event."""
        text = self._text
        self.wakes_s = None
        if self._in_flight or not self.attached or self.finished or text.stop is not None or not text.complete:
            return None
        # A draft of the text's last position alone is not verified, but it waits for an answer: the next token is one.
        drafted = bool(self._tree.nodes)
        if self.own_draft_due or not (drafted or self._token_due or self._may_run):
            return None
        lacking, nodes = text.length - self._kv_length, len(self._pass_nodes())
        if lacking > 1:
            return Wish(Work.PREFILL, lacking + nodes)
        if drafted or self._token_due or self._idle:
            return Wish(Work.VERIFY if nodes else Work.DECODE, 1 + nodes)
        return Wish(Work.RUN_AHEAD, 1 + nodes)

    def next_pass(self, positions: int = PREFILL_POSITIONS + PASS_NODES) -> Pass | None:
        """Return the session's next forward pass, of at most ``positions`` > 0, or None as ``wish`` does."""
        wish = self.wish()
        if wish is None:
            return None
        text, start = self._text, self._kv_length
        widest = min(positions, PREFILL_POSITIONS)
        if text.length - start > widest:
            span, nodes = Span(start, tuple(text.ids[start : start + widest]), gather=self._gather), []
        else:
            nodes = self._pass_nodes()[: max(0, positions - (text.length - start))]
            span = verifying_span(text.ids, start, nodes, self._gather)
        self._in_flight = Pass(
            self.epoch,
            text.length,
            text.path.end,
            span,
            self._sampling,
            self._last_seq,
            len(nodes),
            tuple(text.ids) if penalised(self._sampling) else range(text.length),
            own=sum(node.path_hash not in self._tree.nodes for node in nodes),
            work=wish.work,
            row=self._rows and bool(nodes) and bool(self._tree.nodes),
        )
        if self._run_ahead is not None:
            self._run_ahead.goes_on()
        return self._in_flight

    def own_draft(self) -> DraftWork | None:
        """Return what the edge's own drafter should write, or None until another event; the next pass waits for it."""
        if not self.own_draft_due:
            return None
        end = self._text.path.end
        return self._own.ask(self._text.ids, self._tree.line(end) or (), self._own_room, end)

    def own_drafted(self, work: DraftWork, tokens: Sequence[int]) -> None:
        """Take what the edge's own drafter wrote; it is void where the text has gone on."""
        self._own.take(work, tokens)

    def lost_pass(self, done: Pass) -> None:
        """A pass came to nothing: the rows before those that it touched are still good, the rest is done again."""
        assert done is self._in_flight
        self._in_flight = None
        self._kv_length, self._gather = min(self._kv_length, done.span.start - len(done.span.gather)), ()

    def finished_pass(self, done: Pass, result: PassResult) -> list[EdgeFrame]:
        """Take a pass's outcome; it counts only if its epoch, base and path hash are still current."""
        assert done is self._in_flight
        self._in_flight = None
        if done.epoch != self.epoch or not self._text.complete or done.base != self._text.length:
            self._kv_length, self._gather = min(self._kv_length, done.span.start), ()
            return []
        assert self._text.path.end == done.base_hash
        self._gather = ()
        if not done.span.wanted:
            self._kv_length = done.span.start + len(done.span.tokens)
            return []
        return self._commit(done, result)

    # ---- attaching ----

    def _go_on(self, opened: Open) -> list[EdgeFrame]:
        """Answer a device whose text is the beginning of what is held."""
        text = self._text
        text.keep()
        self._token_due = self._kv_length < text.length - 1 or text.length == opened.prompt_length
        if opened.length < text.length or text.stop is not None:
            return [self._opened(), self._missed(opened.length)]
        return [self._opened()]

    def _opened(self) -> Opened:
        return Opened(self.epoch, self._kv_length, self._text.length, self.limits)

    def _missed(self, base: int) -> Commit:
        """Return what this device has not seen, as a commit of its new epoch."""
        text = self._text
        ids, origins = tuple(text.ids[base : text.length]), text.origins_from(base)
        return Commit(self.epoch, base, ids, text.length, text.path.end, 0, origins, text.stop, receipt=self._receipt())

    def _receipt(self) -> bytes:
        return self._admission.receipt(self.epoch, self._text.digest) if self.attested else b""

    def _prefix_is(self, taken: Taken) -> list[EdgeFrame]:
        """Go on with a prefix that an attach promised."""
        if taken == "nothing":
            return []
        if taken == "wrong":
            self._kv_length = 0
            return [NeedPrefix(self.epoch, 0)]
        self._token_due = True
        for draft in self._waiting:
            self._follow(draft, self._text.path)
        self._waiting.clear()
        return [self._missed(self._text.length)] if self._text.stop is not None else []

    # ---- drafts ----

    def _draft(self, draft: Draft) -> None:
        if draft.seq != self._last_seq + 1:
            raise OutOfOrder(f"draft {draft.seq} came where {self._last_seq + 1} was due", field="seq", seq=draft.seq)
        if not self._acked <= draft.acked <= self._text.length:
            raise BadAck(
                f"ack of {draft.acked} outside {self._acked} to {self._text.length}", field="acked", seq=draft.seq
            )
        if len(draft.ids) > self.limits.frame_nodes:
            raise MalformedFrame("more nodes than a frame may hold", field="ids", seq=draft.seq)
        self._last_seq, self._acked = draft.seq, draft.acked
        if not draft.ids:
            self._idle = self._idle or draft.idle
            return
        self._idle = False
        if self._text.hashes is None:
            self._waiting.append(draft)
        else:
            self._follow(draft, self._text.hashes)
        if self.live_nodes > self.limits.live_nodes:
            raise CreditsExceeded(
                f"{self.live_nodes} live nodes, {self.limits.live_nodes} granted", field="ids", seq=draft.seq
            )

    def _follow(self, draft: Draft, committed: HashedPath) -> None:
        """Keep the live part of a frame; tell the run-ahead rule whether the text agrees with it so far."""
        new = self._tree.add(draft, committed)
        if self._run_ahead is None:
            return
        last = frame_nodes(draft)[-1]
        agrees = new > 0 or committed.at(last.length) == last.path_hash
        if agrees:
            self._line = last
        self._run_ahead.framed(draft.acked, last.length, len(draft.ids), agrees=agrees, length=committed.length)

    @property
    def _line_agrees(self) -> bool:
        """Whether the device's last line, as far as the text has come, is the text's own."""
        line = self._line
        return line is not None and self._text.path.at(line.length) == line.path_hash

    # ---- passes ----

    @property
    def _may_run(self) -> bool:
        """Whether the edge may go on without a draft of the device (rule 6), and does not wait for one."""
        text = self._text
        if text.length - self._acked >= self.limits.ahead_tokens:
            return False
        if self._idle:
            return True
        if self._run_ahead is None or self._asked.waits:
            return False
        if self._own.nodes(text.path.end, self._tree):
            return True
        self.wakes_s = self._run_ahead.sits_out(text.length, self._acked)
        return self.wakes_s is None

    @property
    def _own_room(self) -> int:
        """How many tokens of its own the next pass may verify: with the one that follows, no more than it may run."""
        text = self._text
        if not self._asked.own_draft:
            return 0
        ahead = self.limits.ahead_tokens - (text.length - self._acked)
        return min(self._own.length, ahead - 1, text.ending.final_length - text.length - 1) - len(self._tree)

    def _pass_nodes(self) -> list[Node]:
        """Return the nodes to verify, parents before children; none at or past the text's last position.

        First the device's that are live, then the edge's own, which may hang under any of them.
        """
        text = self._text
        most = self._acked + self.limits.ahead_tokens  # a device that came back may have acked less than was known
        own = [node for node in self._own.nodes(text.path.end, self._tree) if node.length < most]
        nodes = [*self._tree.nodes.values(), *own]
        return [node for node in nodes if node.length < text.ending.final_length][:PASS_NODES]

    def _commit(self, done: Pass, result: PassResult) -> list[EdgeFrame]:
        text, base = self._text, self._text.length
        walk = walked(done, result.choices, text.ending)
        origins = walk.origins
        theirs = done.nodes - done.own
        if done.own:
            mine = [index for index, node in enumerate(walk.path) if node >= theirs]
            origins = tuple(Origin.EDGE_DRAFT if index in mine else it for index, it in enumerate(origins))
        ids, rows = walk.ids, tuple(base + index for index in walk.path)
        if not self._bonus and theirs and origins[-1] is Origin.BONUS and walk.stop is None:
            # The last accepted token is computed again: the next pass has its row.
            ids, origins, rows = ids[:-1], origins[:-1], rows[:-1]
        text.append(ids, origins, walk.stop)
        self._token_due = False
        self._tree.advance(text.path)
        self._own.passed(drafted=theirs > 0)
        if self._run_ahead is not None:
            self._run_ahead.passed(
                result.timing.pass_s,
                nodes=theirs,
                accepted=sum(node < theirs for node in walk.path),
                committed=len(ids),
                length=text.length,
                live=bool(self._tree.nodes) or self._line_agrees,
                alone=len(done.span.tokens) - done.nodes == 1,
            )
        self._kv_length = base + len(rows)
        if rows != tuple(range(base, base + len(rows))):
            self._gather = rows
        return [
            Commit(
                self.epoch,
                base,
                ids,
                text.length,
                text.path.end,
                done.last_seq,
                origins,
                walk.stop,
                result.timing,
                self._receipt(),
                result.row if done.row and walk.origins[-1] is Origin.RECOVERED else None,
            )
        ]
