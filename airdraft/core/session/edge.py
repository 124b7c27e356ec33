"""The edge's end of one session: frames in, frames and passes out.

The object outlives a stream: the device may leave and attach again with a higher epoch. It holds the ids, the live
draft nodes and how much of the text the cache holds; the engine holds the cache itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airdraft.core.acceptance import ROOT, Ending, exact_walk
from airdraft.core.errors import (
    BadAck,
    CreditsExceeded,
    MalformedFrame,
    OutOfOrder,
    PrefixMismatch,
    SessionMismatch,
    StaleEpoch,
    TooLong,
)
from airdraft.core.paths import DraftTree, HashedPath, Node, frame_nodes, ids_digest, root_hash
from airdraft.core.sampling import penalised
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
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
    Prefix,
    RefusalCode,
    Refused,
    Sampling,
    Span,
    StopReason,
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

    def __init__(self, first: Open, limits: Limits) -> None:
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
        self._settings = _Settings.of(first)
        self._sampling = first.sampling
        self._ending = Ending(self._settings.stop_ids, first.prompt_length + first.max_tokens)
        self._root = root_hash(first.identity)
        self._ids: list[int] = []
        self._origins: list[Origin] = []  # of the ids past the prompt
        self._length = 0  # committed; past len(_ids) while a prefix is missing
        self._hashes: HashedPath | None = None  # None until a prefix is complete for the first time
        self._stop: StopReason | None = None
        self._acked = 0
        self._last_seq = 0
        self._idle = False
        self._tree = DraftTree()
        self._waiting: list[Draft] = []  # drafts that came before the prefix was complete
        self._promise: Open | None = None  # the attach whose prefix is not complete yet
        self._from_zero = False  # the whole prefix was asked for or announced in this attach
        self._kv_length = 0
        self._gather: tuple[int, ...] = ()
        self._in_flight: Pass | None = None
        self._token_due = False  # the last prefill row commits a token in every mode (rule 7)

    # ---- what others may ask ----

    @property
    def committed_length(self) -> int:
        """Return the length of prompt and committed text."""
        return self._length

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

        Raises StaleEpoch, SessionMismatch, MalformedFrame.
        """
        if opened.epoch <= self.epoch:
            raise StaleEpoch(
                f"epoch {opened.epoch} is not above {self.epoch}; attach with a higher one",
                field="epoch",
                highest_epoch=self.epoch,
            )
        if _Settings.of(opened) != self._settings:
            raise SessionMismatch("this session was opened with other settings; use a new session id", field="open")
        if not opened.prompt_length <= opened.length <= self._ending.final_length:
            raise MalformedFrame("length lies outside prompt and answer", field="length")
        frames: list[EdgeFrame] = []
        if self.attached:
            message = "a newer stream took this session"
            frames.append(Refused(self.epoch, RefusalCode.SUPERSEDED, message, highest_epoch=opened.epoch))
        acked_before = self._acked
        self.epoch, self.attached = opened.epoch, True
        self._last_seq, self._idle, self._acked = 0, False, opened.length
        self._tree.clear()
        self._waiting.clear()
        if self._holds(opened):
            self._promise = None
            frames.append(self._opened())
            if opened.length < self._length or self._stop is not None:
                frames.append(self._missed(opened.length))
            self._token_due = self._kv_length < self._length - 1 or self._length == opened.prompt_length
            return frames
        self._cut(min(opened.length, acked_before, len(self._ids)), opened)
        frames.append(self._opened())
        start = len(self._ids)
        self._from_zero = start == 0
        if start == opened.length:
            frames += self._prefix_complete()
        elif opened.prefix_start is None or opened.prefix_start > start:
            frames.append(NeedPrefix(self.epoch, start))
        return frames

    def received(self, frame: DeviceFrame) -> list[EdgeFrame]:
        """Take a frame of the attached stream; frames of another epoch are dropped.

        Raises MalformedFrame, OutOfOrder, BadAck, CreditsExceeded, PrefixMismatch, TooLong.
        """
        if frame.epoch != self.epoch or not self.attached or self.finished:
            return []
        match frame:
            case Prefix():
                return self._prefix(frame)
            case Draft():
                self._draft(frame)
                return []
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
        if not ids_too or self._promise is not None:
            return []
        self._ids = []
        return [NeedPrefix(self.epoch, 0)] if self.attached else []

    def next_pass(self) -> Pass | None:
        """Return the session's next forward pass, or None where there is nothing to do until another event."""
        if self._in_flight or not self.attached or self.finished or self._stop is not None or not self._complete:
            return None
        nodes = self._pass_nodes()
        may_run = self._idle and self._length - self._acked < self.limits.ahead_tokens
        # A draft of the text's last position alone is not verified, but it waits for an answer: the next token is one.
        if not (self._tree.nodes or self._token_due or may_run):
            return None
        start, chunk_end = self._kv_length, self._kv_length + PREFILL_POSITIONS
        hashes = self._hashes
        assert hashes is not None
        if chunk_end < self._length:
            span = Span(start, tuple(self._ids[start:chunk_end]), gather=self._gather)
            nodes = []
        else:
            span = self._verifying_span(start, nodes)
        self._in_flight = Pass(
            self.epoch,
            self._length,
            hashes.end,
            span,
            self._sampling,
            self._last_seq,
            len(nodes),
            tuple(self._ids) if penalised(self._sampling) else range(self._length),
        )
        return self._in_flight

    def finished_pass(self, done: Pass, result: PassResult) -> list[EdgeFrame]:
        """Take a pass's outcome; it counts only if its epoch, base and path hash are still current."""
        assert done is self._in_flight
        self._in_flight = None
        if done.epoch != self.epoch or not self._complete or done.base != self._length:
            self._kv_length, self._gather = min(self._kv_length, done.span.start), ()
            return []
        hashes = self._hashes
        assert hashes is not None
        assert hashes.end == done.base_hash
        self._gather = ()
        if not done.span.wanted:
            self._kv_length = done.span.start + len(done.span.tokens)
            return []
        return self._commit(done, result, hashes)

    # ---- attaching ----

    @property
    def _complete(self) -> bool:
        return self._hashes is not None and len(self._ids) == self._length and self._promise is None

    def _holds(self, opened: Open) -> bool:
        known = self._complete and opened.length <= self._length
        return known and ids_digest(self._ids[: opened.length]) == opened.digest

    def _opened(self) -> Opened:
        return Opened(self.epoch, self._kv_length, self._length, self.limits)

    def _missed(self, base: int) -> Commit:
        """Return what this device has not seen, as a commit of its new epoch."""
        hashes = self._hashes
        assert hashes is not None
        ids = tuple(self._ids[base : self._length])
        origins = tuple(self._origins[base - self._settings.prompt_length :])
        return Commit(self.epoch, base, ids, self._length, hashes.end, 0, origins, self._stop)

    def _cut(self, length: int, promise: Open) -> None:
        """Keep the first ``length`` ids and wait for the rest of the promised prefix."""
        del self._ids[length:]
        self._kv_length = min(self._kv_length, max(0, length))
        self._gather = ()
        self._length = promise.length
        self._hashes, self._stop, self._promise = None, None, promise
        # Who chose what the device presents is not told; to a device that asks again, none of it is its draft.
        self._origins = [Origin.RUN_AHEAD] * (promise.length - promise.prompt_length)

    def _prefix(self, frame: Prefix) -> list[EdgeFrame]:
        known = len(self._ids)
        if known == self._length:
            return []  # nothing is missing: what was announced before the edge knew is superfluous
        if frame.start > known:
            return []  # sent before the device read NeedPrefix; what was asked for follows
        if frame.start + len(frame.ids) > self._ending.final_length:
            raise TooLong("the prefix passes the end that Open promised", field="ids")
        self._ids.extend(frame.ids[known - frame.start :])
        if self._promise is None:
            return self._prefix_regained()
        if len(self._ids) > self._length:
            raise MalformedFrame("the prefix is longer than Open promised", field="ids")
        return self._prefix_complete() if len(self._ids) == self._length else []

    def _prefix_complete(self) -> list[EdgeFrame]:
        promise = self._promise
        assert promise is not None
        if ids_digest(self._ids) != promise.digest:
            self._ids, self._kv_length, self._gather = [], 0, ()
            if self._from_zero:
                raise PrefixMismatch("the prefix does not have the digest that Open promised", field="digest")
            self._from_zero = True
            return [NeedPrefix(self.epoch, 0)]
        answer = self._ids[promise.prompt_length :]
        if any(token in self._ending.stop_ids for token in answer[:-1]):
            raise MalformedFrame("a stop id stands inside the committed text", field="ids")
        self._promise = None
        self._hashes = HashedPath(self._root)
        self._hashes.extend(self._ids)
        self._stop = self._ending.reached(self._length, answer[-1] if answer else None)
        self._token_due = True
        for draft in self._waiting:
            self._tree.add(draft, self._hashes)
        self._waiting.clear()
        return [self._missed(self._length)] if self._stop is not None else []

    def _prefix_regained(self) -> list[EdgeFrame]:
        """Ids lost in mid-stream are back: they must lead to the path hash that was kept."""
        if len(self._ids) < self._length:
            return []
        del self._ids[self._length :]
        hashes = HashedPath(self._root)
        hashes.extend(self._ids)
        assert self._hashes is not None
        if hashes.end != self._hashes.end:
            self._ids = []
            raise PrefixMismatch("the prefix does not lead to the committed text", field="ids")
        return []

    # ---- drafts ----

    def _draft(self, draft: Draft) -> None:
        if draft.seq != self._last_seq + 1:
            raise OutOfOrder(f"draft {draft.seq} came where {self._last_seq + 1} was due", field="seq", seq=draft.seq)
        if not self._acked <= draft.acked <= self._length:
            raise BadAck(f"ack of {draft.acked} outside {self._acked} to {self._length}", field="acked", seq=draft.seq)
        if len(draft.ids) > self.limits.frame_nodes:
            raise MalformedFrame("more nodes than a frame may hold", field="ids", seq=draft.seq)
        self._last_seq, self._acked = draft.seq, draft.acked
        if not draft.ids:
            self._idle = self._idle or draft.idle
            return
        self._idle = False
        if self._hashes is None:
            self._waiting.append(draft)
        else:
            self._tree.add(draft, self._hashes)
        if self.live_nodes > self.limits.live_nodes:
            raise CreditsExceeded(
                f"{self.live_nodes} live nodes, {self.limits.live_nodes} granted", field="ids", seq=draft.seq
            )

    # ---- passes ----

    def _pass_nodes(self) -> list[Node]:
        """Return the live nodes to verify, parents before children; none at or past the text's last position."""
        useful = [node for node in self._tree.nodes.values() if node.length < self._ending.final_length]
        return useful[:PASS_NODES]

    def _verifying_span(self, start: int, nodes: Sequence[Node]) -> Span:
        """Return the span of what the cache lacks of the committed text, then the nodes; all of their rows wanted."""
        lacking = self._ids[start:]
        first = len(lacking)
        index_of = {node.path_hash: first + index for index, node in enumerate(nodes)}
        parents = [index_of.get(node.parent_hash, first - 1) for node in nodes]
        tokens = (*lacking, *(node.token for node in nodes))
        chain = all(parent == first + index - 1 for index, parent in enumerate(parents))
        wanted = tuple(range(first - 1, len(tokens)))
        return Span(
            start, tokens, None if chain else (*range(-1, first - 1), *parents), wanted=wanted, gather=self._gather
        )

    def _commit(self, done: Pass, result: PassResult, hashes: HashedPath) -> list[EdgeFrame]:
        span, count = done.span, done.nodes
        first = len(span.tokens) - count
        children: dict[int, list[int]] = {}
        for index in range(count):
            parent = first + index - 1 if span.parents is None else span.parents[first + index]
            children.setdefault(parent - first if parent >= first else ROOT, []).append(index)
        choices = dict(zip(range(ROOT, count), result.choices, strict=True))
        walk = exact_walk(span.tokens[first:], children, choices, self._length, self._ending)
        base = self._length
        self._ids.extend(walk.ids)
        self._origins.extend(walk.origins)
        hashes.extend(walk.ids)
        self._length += len(walk.ids)
        self._stop, self._token_due = walk.stop, False
        self._tree.advance(hashes)
        rows = tuple(base + index for index in walk.path)
        self._kv_length = base + len(rows)
        if rows != tuple(range(base, base + len(rows))):
            self._gather = rows
        return [
            Commit(
                self.epoch,
                base,
                walk.ids,
                self._length,
                hashes.end,
                done.last_seq,
                walk.origins,
                walk.stop,
                result.timing,
            )
        ]
