"""The sessions that an edge holds, each with its rows of the KV pool and the streams it is attached by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from airdraft.core.errors import Overloaded, SpecError, Superseded
from airdraft.core.receipts import ReceiptKey
from airdraft.core.session import PASS_NODES, Company, EdgeSession, RunAhead
from airdraft.core.types import DeviceFrame, EdgeFrame, Limits, Open, RefusalCode, Refused
from coordinator.policy.own_draft import OwnDraftLength
from edge_node.kv_pool import KvPool, PoolFull
from edge_node.metrics import EdgeMetrics, Ended
from edge_node.streams import Stream

ANSWER_GAIN = 0.2
"""How much the latest answer counts in a device's mean and deviation."""

DEVIATIONS = 1.0
"""An answer is due this many mean deviations past the mean: more wait longer for few."""


@dataclass(slots=True)
class Answers:
    """How soon a device drafts again after a commit."""

    owed_since: float | None = None  # when the commit went that no draft has followed
    mean_s: float | None = None
    deviation_s: float = 0.0

    @property
    def due(self) -> float | None:
        """Return when the draft that is owed should be here; None where none is, or nothing is known."""
        if self.owed_since is None or self.mean_s is None:
            return None
        return self.owed_since + self.mean_s + DEVIATIONS * self.deviation_s

    def came(self, now: float) -> None:
        """Take the time of a draft."""
        if self.owed_since is None:
            return
        took_s, self.owed_since = now - self.owed_since, None
        if self.mean_s is None:
            self.mean_s = took_s
            return
        off_s = took_s - self.mean_s
        self.mean_s += ANSWER_GAIN * off_s
        self.deviation_s += ANSWER_GAIN * (abs(off_s) - self.deviation_s)


@dataclass(slots=True, eq=False)
class Entry:
    """One session with what belongs to it."""

    session: EdgeSession
    number: int  # names it to the engine; never used again
    tenant: str
    streams: dict[int, Stream] = field(default_factory=dict)  # by epoch
    ready_at: float = 0.0  # when the last event came that could make a pass possible
    left_at: float = 0.0  # when the last stream went
    answers: Answers = field(default_factory=Answers)
    looked_up: bool = False  # the pool was asked for another text's rows since this one's were lost
    drafted: bool = False  # the edge's own drafter keeps something of it
    opened_at: float | None = None  # when a session whose first token has not come was opened
    most_rows: int = 0  # cache rows that it ever had: what is computed below is a replay
    own_draft_s: float = 0.0  # what it took, until the pass that verifies it
    own_length: OwnDraftLength = field(default_factory=lambda: OwnDraftLength(0))  # how much it is worth to write
    run_ahead: RunAhead | None = None  # the session's rule, where it goes ahead of its device
    suspect: bool = False  # the engine did not survive the last step that this session was in

    def send(self, frames: list[EdgeFrame]) -> None:
        """Give each frame to the stream of its epoch; a stream that is gone loses nothing that a re-attach lacks."""
        for frame in frames:
            stream = self.streams.get(frame.epoch)
            if stream is None:
                continue
            stream.send(frame)
            if isinstance(frame, Refused) and frame.code is RefusalCode.SUPERSEDED:
                del self.streams[frame.epoch]


@dataclass(frozen=True, slots=True)
class Terms:
    """What an edge grants every session.

    most           sessions at once
    keep_s         how long one without a stream is kept
    receipts       what commits are signed with; ``own_text_only`` takes no answer that was not signed so
    own_draft_tokens  how many tokens the edge drafts for a pass at most, where it has a drafter;
                   ``own_draft_adapts`` makes them fewer where few are accepted
    run_ahead      go ahead of a device whose draft has not come
    thrifty        hold steps of many sessions back for drafts; what these save is edge time then, else speed
    bonus          commit the target's own token after a draft that was right

    """

    most: int
    keep_s: float
    receipts: ReceiptKey | None = None
    own_text_only: bool = False
    own_draft_tokens: int = 0
    own_draft_adapts: bool = True
    run_ahead: bool = False
    thrifty: bool = False
    bonus: bool = True


class SessionTable:
    """Sessions by id; those without a stream are kept for a while and give way to new ones."""

    def __init__(self, terms: Terms, metrics: EdgeMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty, and without a pool: nobody is admitted before ``begin``."""
        self.terms, self.metrics = terms, metrics
        self.evictions = 0
        self.company = Company(thrifty=terms.thrifty)  # of those that go ahead; who puts steps together keeps it
        self.on_forgotten: Callable[[Entry], object] = lambda entry: None
        self._entries: dict[tuple[str, bytes], Entry] = {}
        self._pool: KvPool | None = None
        self._clock = clock
        self._admitted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    @property
    def pool(self) -> KvPool:
        """Return the books of the cache rows."""
        assert self._pool is not None
        return self._pool

    @property
    def attached(self) -> int:
        """Return how many sessions have a stream."""
        return sum(entry.session.attached for entry in self._entries.values())

    @property
    def next_sweep(self) -> float | None:
        """Return when the next session will have been without a stream for too long; None where all have one."""
        return min((entry.left_at + self.terms.keep_s for entry in self._gone()), default=None)

    def begin(self, pool: KvPool) -> None:
        """Take a pool, all of it empty: whatever sessions had in another one is replayed.

        Where it is smaller than the one before, those who find no room are told to come back.
        """
        self._pool = pool
        for entry in self:
            self._emptied(entry)
            try:
                if entry.session.attached:
                    self._make_kv_room(entry)
            except Overloaded as error:
                for stream in entry.streams.values():
                    stream.end(error)

    # ---- coming and going ----

    def admit(self, opened: Open, limits: Limits, tenant: str) -> Entry:
        """Return the session's entry, with room in the pool; a new one where it is not known.

        Raises Overloaded, TooLong.
        """
        entry = self._entries.get((tenant, opened.session_id))
        if entry is None:
            entry = self._new(opened, limits, tenant)
        if entry not in self.pool:
            self._make_kv_room(entry)
        self._entries[tenant, opened.session_id] = entry
        return entry

    def attach(self, entry: Entry, opened: Open) -> list[EdgeFrame]:
        """Let a device attach to its session. Raises as ``EdgeSession.attach`` does."""
        before = entry.session.epoch
        try:
            return entry.session.attach(opened)
        except SpecError:
            if entry.session.epoch != before:  # it had taken effect when what was presented proved wrong
                entry.session.detached(opened.epoch)
                entry.left_at = self._clock()
                for stream in entry.streams.values():
                    stream.end(Superseded("a newer stream took this session", highest_epoch=opened.epoch))
            raise
        finally:
            self.rolled_back(entry)

    def received(self, entry: Entry, frame: DeviceFrame) -> list[EdgeFrame]:
        """Give a session a frame of its device. Raises as ``EdgeSession.received`` does."""
        try:
            return entry.session.received(frame)
        finally:
            self.rolled_back(entry)

    def rolled_back(self, entry: Entry) -> None:
        """Tell the pool where a session's text was cut: nobody may share rows of what it no longer says."""
        if entry in self.pool:
            self.pool.advanced(entry, min(self.pool.holds(entry), entry.session.rows_in_place))

    def forget(self, entry: Entry, reason: Ended | None = None) -> None:
        """Drop a session, for a reason that is counted where it ever came about.

        Its rows stay as a prefix for its tenant's next ones, unless they may be wrong.
        """
        if reason is not None:
            self.metrics.ended(reason)
        for key, candidate in list(self._entries.items()):
            if candidate is entry:
                del self._entries[key]
        self.on_forgotten(entry)
        if self._pool is None or entry not in self._pool:
            return
        if reason is Ended.ERROR:
            self._pool.evict(entry)
        else:
            self._pool.release(entry, entry.session.ids)

    def sweep(self) -> None:
        """Drop sessions whose device has been gone for too long."""
        now = self._clock()
        for entry in self._gone():
            if now - entry.left_at >= self.terms.keep_s:
                self.forget(entry, Ended.EXPIRED)

    def evict(self, entry: Entry) -> None:
        """Take a session's rows away; the text stays, and the next pass replays it."""
        self.evictions += 1
        self.metrics.evicted()
        self.pool.release(entry, entry.session.ids)
        self._emptied(entry)

    def _emptied(self, entry: Entry) -> None:
        entry.looked_up = False
        entry.send(entry.session.evicted())

    def _new(self, opened: Open, limits: Limits, tenant: str) -> Entry:
        terms = self.terms
        run_ahead = RunAhead(self._clock, self.company) if terms.run_ahead else None
        session = EdgeSession(
            opened,
            limits,
            terms.receipts,
            own_text_only=terms.own_text_only,
            own_draft_tokens=terms.own_draft_tokens,
            run_ahead=run_ahead,
            bonus=terms.bonus,
        )
        self.sweep()
        if len(self._entries) >= terms.most:
            self._make_room()
        self._admitted += 1
        own_length = OwnDraftLength(terms.own_draft_tokens)
        return Entry(session, self._admitted, tenant, left_at=self._clock(), own_length=own_length, run_ahead=run_ahead)

    def _make_kv_room(self, entry: Entry) -> None:
        """Reserve the rows of the longest text, taking them from sessions whose device is gone, the longest gone first.

        Sessions with a device keep theirs: two that take rows from one another would replay for ever.
        """
        rows = self.pool.extent_rows(
            entry.session.final_length + PASS_NODES
        )  # whole blocks: ``strict`` attends by them
        gone = [other for other in self._gone() if other in self.pool and other is not entry]
        gone.sort(key=lambda other: other.left_at, reverse=True)
        while True:
            try:
                self.pool.reserve(entry, entry.tenant, rows)
                self.pool.note_ids(entry, lambda: entry.session.ids)
            except PoolFull as full:
                if full.missing > sum(self.pool.extent_of(other).rows for other in gone):
                    raise Overloaded(
                        f"the memory of this edge is in use, {full.missing} rows are missing; try again soon",
                        retry_after_s=1.0,
                    ) from None
                self.evict(gone.pop())
            else:
                return

    def _gone(self) -> list[Entry]:
        return [entry for entry in self if not entry.session.attached and not entry.session.in_flight]

    def _make_room(self) -> None:
        gone = self._gone()
        if not gone:
            raise Overloaded(f"all {self.terms.most} sessions are in use; try again soon", retry_after_s=1.0)
        self.forget(min(gone, key=lambda entry: entry.left_at), Ended.EXPIRED)
