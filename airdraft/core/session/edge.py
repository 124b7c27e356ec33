"""The edge's end of one session: frames in, frames and passes out.

The object outlives a stream: the device may leave and attach again with a higher epoch. It holds the ids, the live
draft nodes and how much of the text the cache holds; the engine holds the cache itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airdraft.core.acceptance import ROOT, exact_walk
from airdraft.core.errors import (
    BadAck,
    BadReceipt,
    CreditsExceeded,
    MalformedFrame,
    OutOfOrder,
    SessionMismatch,
    StaleEpoch,
    TooLong,
)
from airdraft.core.paths import DraftTree, Node, frame_nodes
from airdraft.core.receipts import ReceiptKey
from airdraft.core.sampling import penalised
from airdraft.core.session.text import EdgeText, Taken
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    DraftWork,
    EdgeFrame,
    Finish,
    Identity,
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
    Sampling,
    Span,
)

PREFILL_POSITIONS = 512
"""Widest span of a prefill: a long prompt must not hold other sessions' passes back for long."""

PASS_NODES = 64
"""Most draft nodes in one pass; what is left over is verified by the next."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a session keeps from its first ``Open``; every later one must repeat it."""

    identity: Identity
    sampling: Sampling
    stop_ids: frozenset[int]
    max_tokens: int
    prompt_length: int

    @classmethod
    def of(cls, opened: Open) -> _Settings:
        return cls(
            opened.identity, opened.sampling, frozenset(opened.stop_ids), opened.max_tokens, opened.prompt_length
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
    ) -> None:
        """Prepare for the device's ``first`` attach. Raises TooLong.

        receipts          with a key every commit carries a receipt
        own_text_only     take no answer but what this key has signed
        own_draft_tokens  how many tokens a drafter at the edge adds to a pass while the device idles; 0: there is none
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
        self._first, self._receipts, self._own_text_only = first, receipts, own_text_only
        self._settings = _Settings.of(first)
        self._text = EdgeText(first)
        self._acked = 0
        self._last_seq = 0
        self._idle = False
        self._tree = DraftTree()
        self._waiting: list[Draft] = []  # drafts that came before the prefix was complete
        self._kv_length = 0
        self._gather: tuple[int, ...] = ()
        self._in_flight: Pass | None = None
        self._token_due = False  # the last prefill row commits a token in every mode (rule 7)
        self._own_draft_tokens = own_draft_tokens
        self._own_work: DraftWork | None = None  # what the edge's own drafter is at
        self._own: tuple[bytes, tuple[int, ...]] | None = None  # what it wrote, and the path hash that this extends

    # ---- what others may ask ----

    @property
    def committed_length(self) -> int:
        """Return the length of prompt and committed text."""
        return self._text.length

    @property
    def sampling(self) -> Sampling:
        """Return how the text is chosen."""
        return self._first.sampling

    @property
    def live_nodes(self) -> int:
        """Return how many live draft nodes this end counts against the credits."""
        waiting = {node.path_hash for draft in self._waiting for node in frame_nodes(draft)}
        return len(self._tree) + len(waiting)

    @property
    def kv_length(self) -> int:
        """Return how many cache rows are valid (once the next span's gather is done)."""
        return self._kv_length

    @property
    def in_flight(self) -> bool:
        """Return whether a pass was handed out and is not finished."""
        return self._in_flight is not None

    # ---- events ----

    def attach(self, opened: Open) -> list[EdgeFrame]:
        """Take a new stream; an older one is superseded.

        Raises StaleEpoch, SessionMismatch, MalformedFrame, BadReceipt.
        """
        held = self._text.holds(opened)
        attested = self._admitted(opened, held=held)
        frames: list[EdgeFrame] = []
        if self.attached:
            message = "a newer stream took this session"
            frames.append(Refused(self.epoch, RefusalCode.SUPERSEDED, message, highest_epoch=opened.epoch))
        acked_before = self._acked
        self.epoch, self.attached, self.attested = opened.epoch, True, attested
        self._last_seq, self._idle, self._acked = 0, False, opened.length
        self._tree.clear()
        self._waiting.clear()
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

    def next_pass(self) -> Pass | None:
        """Return the session's next forward pass, or None where there is nothing to do until another event."""
        text = self._text
        if self._in_flight or not self.attached or self.finished or text.stop is not None or not text.complete:
            return None
        # A draft of the text's last position alone is not verified, but it waits for an answer: the next token is one.
        if not (self._tree.nodes or self._token_due or (self._may_run and not self._own_draft_due)):
            return None
        nodes = self._pass_nodes()
        start, chunk_end = self._kv_length, self._kv_length + PREFILL_POSITIONS
        if chunk_end < text.length:
            span = Span(start, tuple(text.ids[start:chunk_end]), gather=self._gather)
            nodes = []
        else:
            span = self._verifying_span(start, nodes)
        self._in_flight = Pass(
            self.epoch,
            text.length,
            text.path.end,
            span,
            self._first.sampling,
            self._last_seq,
            len(nodes),
            tuple(text.ids) if penalised(self._first.sampling) else range(text.length),
            own=bool(nodes) and not self._tree.nodes,
        )
        return self._in_flight

    def own_draft(self) -> DraftWork | None:
        """Return what the edge's own drafter should write, or None until another event; the next pass waits for it."""
        if self._own_work is not None or not self._own_draft_due:
            return None
        self._own_work = DraftWork(tuple(self._text.ids), self._own_room, self._text.path.end)
        return self._own_work

    def own_drafted(self, work: DraftWork, tokens: Sequence[int]) -> None:
        """Take what the edge's own drafter wrote; it is void where the text has gone on."""
        assert work is self._own_work
        self._own_work, self._own = None, (work.path_hash, tuple(tokens[: work.count]))

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

    def _admitted(self, opened: Open, *, held: bool) -> bool:
        """Say whether what the device presents is known for this fleet's own text.

        Raises StaleEpoch, SessionMismatch, MalformedFrame, BadReceipt.
        """
        if opened.epoch <= self.epoch:
            raise StaleEpoch(
                f"epoch {opened.epoch} is not above {self.epoch}; attach with a higher one",
                field="epoch",
                highest_epoch=self.epoch,
            )
        if _Settings.of(opened) != self._settings:
            raise SessionMismatch("this session was opened with other settings; use a new session id", field="open")
        if not opened.prompt_length <= opened.length <= self._text.ending.final_length:
            raise MalformedFrame("length lies outside prompt and answer", field="length")
        signed = self._receipts is not None and self._receipts.accepts(opened)
        if not signed and self._receipts is not None and self._receipts.knows(opened.receipt):
            raise BadReceipt("the receipt is not for what it came with", field="receipt")
        if held:
            return self.attested or signed
        if not signed and self._own_text_only and opened.length > opened.prompt_length:
            raise BadReceipt("this edge goes on with no answer but its own fleet's; begin anew", field="receipt")
        return signed or opened.length == opened.prompt_length

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
        if self._receipts is None or not self.attested:
            return b""
        return self._receipts.sign(self._first, self.epoch, self._text.digest)

    def _prefix_is(self, taken: Taken) -> list[EdgeFrame]:
        """Go on with a prefix that an attach promised."""
        if taken == "nothing":
            return []
        if taken == "wrong":
            self._kv_length = 0
            return [NeedPrefix(self.epoch, 0)]
        self._token_due = True
        for draft in self._waiting:
            self._tree.add(draft, self._text.path)
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
            self._tree.add(draft, self._text.hashes)
        if self.live_nodes > self.limits.live_nodes:
            raise CreditsExceeded(
                f"{self.live_nodes} live nodes, {self.limits.live_nodes} granted", field="ids", seq=draft.seq
            )

    # ---- passes ----

    @property
    def _may_run(self) -> bool:
        """Whether the edge may go on without a draft of the device (rule 6)."""
        return self._idle and self._text.length - self._acked < self.limits.ahead_tokens

    @property
    def _own_room(self) -> int:
        """How many tokens of its own the next pass may verify: with the one that follows, no more than it may run."""
        text = self._text
        ahead = self.limits.ahead_tokens - (text.length - self._acked)
        return min(self._own_draft_tokens, ahead - 1, text.ending.final_length - text.length - 1)

    @property
    def _own_draft_due(self) -> bool:
        """Whether the next pass is one that the edge's own drafter should write for first."""
        text = self._text
        if self._in_flight or not self.attached or self.finished or text.stop is not None or not text.complete:
            return False
        if self._tree.nodes or self._token_due or not self._may_run or self._own_room <= 0:
            return False
        return self._own is None or self._own[0] != text.path.end

    def _pass_nodes(self) -> list[Node]:
        """Return the live nodes to verify, parents before children; none at or past the text's last position."""
        if not self._tree.nodes and self._own is not None and self._own[0] == self._text.path.end:
            base_hash, tokens = self._own
            return frame_nodes(Draft(self.epoch, 0, 0, self._text.length, base_hash, tokens))
        useful = [node for node in self._tree.nodes.values() if node.length < self._text.ending.final_length]
        return useful[:PASS_NODES]

    def _verifying_span(self, start: int, nodes: Sequence[Node]) -> Span:
        """Return the span of what the cache lacks of the committed text, then the nodes; all of their rows wanted."""
        lacking = self._text.ids[start:]
        first = len(lacking)
        index_of = {node.path_hash: first + index for index, node in enumerate(nodes)}
        parents = [index_of.get(node.parent_hash, first - 1) for node in nodes]
        tokens = (*lacking, *(node.token for node in nodes))
        chain = all(parent == first + index - 1 for index, parent in enumerate(parents))
        wanted = tuple(range(first - 1, len(tokens)))
        return Span(
            start, tokens, None if chain else (*range(-1, first - 1), *parents), wanted=wanted, gather=self._gather
        )

    def _commit(self, done: Pass, result: PassResult) -> list[EdgeFrame]:
        span, count, text = done.span, done.nodes, self._text
        first = len(span.tokens) - count
        children: dict[int, list[int]] = {}
        for index in range(count):
            parent = first + index - 1 if span.parents is None else span.parents[first + index]
            children.setdefault(parent - first if parent >= first else ROOT, []).append(index)
        choices = dict(zip(range(ROOT, count), result.choices, strict=True))
        base = text.length
        walk = exact_walk(span.tokens[first:], children, choices, base, text.ending)
        origins = walk.origins
        if done.own:
            origins = tuple(Origin.EDGE_DRAFT if it is Origin.ACCEPTED else it for it in origins)
        text.append(walk.ids, origins, walk.stop)
        self._token_due = False
        self._tree.advance(text.path)
        rows = tuple(base + index for index in walk.path)
        self._kv_length = base + len(rows)
        if rows != tuple(range(base, base + len(rows))):
            self._gather = rows
        return [
            Commit(
                self.epoch,
                base,
                walk.ids,
                text.length,
                text.path.end,
                done.last_seq,
                origins,
                walk.stop,
                result.timing,
                self._receipt(),
            )
        ]
