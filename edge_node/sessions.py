"""The sessions that an edge holds, each with its rows of the KV pool and the streams it is attached by."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from random import Random

from airdraft.core.errors import LimitReached, Overloaded, SpecError, Superseded
from airdraft.core.receipts import ReceiptKey
from airdraft.core.session import PASS_NODES, Company, EdgeSession, RunAhead
from airdraft.core.types import EXACT, DeviceFrame, EdgeFrame, Limits, Open, Pass, Quote, RefusalCode, Refused
from coordinator.policy.costs import PassCost
from coordinator.policy.own_draft import OwnDraftLength, OwnDrafts
from coordinator.policy.places import places
from edge_node.admission import Admission, Key
from edge_node.answers import Answers
from edge_node.audits import Audits
from edge_node.granting import Grant, Granting
from edge_node.kv_pool import KvPool, PoolFull
from edge_node.metrics import EdgeMetrics, Ended
from edge_node.step import Owner, tenant_number
from edge_node.streams import Stream
from edge_node.tenants import Tenants


@dataclass(slots=True, eq=False)
class Entry:
    """One session with what belongs to it."""

    session: EdgeSession
    number: int  # names it to the engine; never used again
    tenant: str
    tenant_number: int  # names that to the engine
    streams: dict[int, Stream] = field(default_factory=dict)  # by epoch
    ready_at: float = 0.0  # when the last event came that could make a pass possible
    left_at: float = 0.0  # when the last stream went
    answers: Answers = field(default_factory=Answers)
    looked_up: bool = False  # the pool was asked for another text's rows since this one's were lost
    charged: int = 0  # positions of prefill that its tenant paid for at the latest attach
    drafted: bool = False  # the edge's own drafter keeps something of it
    opened_at: float | None = None  # when a session whose first token has not come was opened
    most_rows: int = 0  # cache rows that it ever had: what is computed below is a replay
    own_draft_s: float = 0.0  # what it took, until the pass that verifies it
    own_length: OwnDraftLength = field(default_factory=lambda: OwnDraftLength(0))  # how much it is worth to write
    run_ahead: RunAhead | None = None  # the session's rule, where it goes ahead of its device
    suspect: bool = False  # the engine did not survive the last step that this session was in
    told: Quote | None = None  # the quote that its device has
    told_at: float = 0.0  # when it was last asked whether there is a newer one
    prompt_length: int = 0
    stop_ids: frozenset[int] = frozenset()
    grant: Grant | None = None  # what it was granted of its wish for acceptance by meaning; None: it had none
    dropped: int = 0  # tokens held back and never committed, as far as they were counted
    held: Pass | None = None  # whose result waits for states of the device

    @property
    def owner(self) -> Owner:
        """Return whose its rows are."""
        return Owner(self.number, self.tenant_number)

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
    least_rate     tokens a second that each must get of plain steps, a token of every session in each, else no further
                   session is admitted; 0 asks for nothing
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
    least_rate: float = 0.0


def _soon(reason: str) -> Overloaded:
    return Overloaded(f"{reason}; try again soon", retry_after_s=1.0)


class SessionTable:
    """Sessions by id; those without a stream are kept for a while and give way to new ones."""

    def __init__(
        self,
        terms: Terms,
        metrics: EdgeMetrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        granting: Granting | None = None,
        audits: Audits | None = None,
        tenants: Tenants | None = None,
    ) -> None:
        """Begin empty, and without a pool: nobody is admitted before ``begin``.

        granting  who decides over acceptance by meaning; None: all sessions are exact
        audits    of what was accepted so; None: there are none
        tenants   whose sessions they are, and what these may use; None: as much as they like
        """
        self.terms, self.metrics = terms, metrics
        self.tenants = Tenants(clock=clock) if tenants is None else tenants
        self.granting = Granting(semantic=False) if granting is None else granting
        self.audits = Audits(0.0, Random(0), metrics.meaning) if audits is None else audits
        self.evictions = 0
        self.company = Company(thrifty=terms.thrifty)  # of those that go ahead; who puts steps together keeps it
        self.on_forgotten: Callable[[Entry], object] = lambda entry: None
        self.cost: Callable[[], PassCost | None] = lambda: None  # of a pass; who asks the engine knows it
        self.admission = Admission(clock)
        self.own_drafts = OwnDrafts(terms.own_draft_tokens)
        self.own_draft_tokens: Callable[[OwnDraftLength], int] = lambda length: terms.own_draft_tokens  # to begin with
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
        self.audits.begin(pool)
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

        Raises Overloaded, LimitReached, TooLong.
        """
        key = tenant, opened.session_id
        entry = self._entries.get(key)
        if entry is not None:
            if entry not in self.pool:
                self._make_kv_room(entry)
            return entry
        self._claim_share(tenant)
        entry = self._new(opened, limits, tenant)
        self._claim_place(key)
        self._make_kv_room(entry, partial(self.admission.lacks_rows, key))
        self._entries[key] = entry
        self.metrics.placed(self.admission.admitted(key))
        return entry

    def lacks(self, opened: Open, tenant: str) -> int:
        """Return how many ids this attach would bring that are new here; what was here before is no prefill."""
        entry = self._entries.get((tenant, opened.session_id))
        return opened.length if entry is None else entry.session.lacks(opened)

    def attach(self, entry: Entry, opened: Open) -> list[EdgeFrame]:
        """Let a device attach to its session. Raises as ``EdgeSession.attach`` does."""
        before = entry.session.epoch
        try:
            frames = entry.session.attach(opened)
            entry.told = None
            self.places_changed()
            return frames
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

    def found(self, entry: Entry, rows: int) -> None:
        """Give back to a tenant what it paid for at an attach, as far as the cache had these ``rows`` of it."""
        tenant = self.tenants.get(entry.tenant)
        if tenant is not None:
            tenant.found(min(rows, entry.charged), self._clock())
        entry.charged = 0

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
        grant, judge = self.granting.grant(opened.semantic), None
        if grant is not None and not grant.decision.exact:
            judge = self.granting.judge(grant, self.audits.strictness(grant.key, tenant))
        session = EdgeSession(
            opened,
            limits,
            None if terms.receipts is None else terms.receipts.of(tenant),
            own_text_only=terms.own_text_only,
            own_draft_tokens=terms.own_draft_tokens,
            run_ahead=run_ahead,
            bonus=terms.bonus,
            granted=EXACT if grant is None else grant.granted,
            judge=judge,
            clock=self._clock,
        )
        self._admitted += 1
        own_length = self.own_drafts.begin()
        if terms.own_draft_adapts:
            session.own_draft_tokens = self.own_draft_tokens(own_length)
        return Entry(
            session,
            self._admitted,
            tenant,
            tenant_number(tenant),
            left_at=self._clock(),
            own_length=own_length,
            run_ahead=run_ahead,
            prompt_length=opened.prompt_length,
            stop_ids=frozenset(opened.stop_ids),
            grant=grant,
        )

    def _make_kv_room(self, entry: Entry, refused: Callable[[str], Overloaded] = _soon) -> None:
        """Reserve the rows of the longest text, taking them from sessions whose device is gone, the longest gone first.

        Where they do not do, raises what ``refused`` makes of the reason.

        Sessions with a device keep theirs: two that take rows from one another would replay for ever.
        """
        rows = self.pool.extent_rows(
            entry.session.final_length + PASS_NODES
        )  # whole blocks: ``strict`` attends by them
        gone = [other for other in self._gone() if other in self.pool and other is not entry]
        gone.sort(key=lambda other: other.left_at, reverse=True)
        self.audits.make_way(rows)
        while True:
            try:
                self.pool.reserve(entry, entry.tenant, rows, entry.owner)
                self.pool.note_ids(entry, lambda: entry.session.ids)
            except PoolFull as full:
                if full.missing > sum(self.pool.extent_of(other).rows for other in gone):
                    reason = f"the memory of this edge is in use, {full.missing} rows are missing"
                    raise refused(reason) from None
                self.evict(gone.pop())
            else:
                return

    def _gone(self) -> list[Entry]:
        return [entry for entry in self if not entry.session.attached and not entry.session.in_flight]

    # ---- places ----

    def places_changed(self) -> None:
        """Note that a session was attached or left: how long it kept its place tells when the next one falls free."""
        self.admission.stays.held(self._clock(), self.attached)

    def _claim_share(self, tenant: str) -> None:
        """Have a session fewer than this tenant may hold; the longest gone of its own gives way.

        Raises LimitReached.
        """
        known = self.tenants.get(tenant)
        most = 0 if known is None else known.allowance.sessions
        if not most or sum(entry.tenant == tenant for entry in self._entries.values()) < most:
            return
        gone = [entry for entry in self._gone() if entry.tenant == tenant]
        if not gone:
            raise LimitReached(
                f"this tenant holds {most} sessions, as many as it may; try again when one has ended",
                retry_after_s=self.admission.stays.wait_s(self._clock(), 0),
            )
        self.forget(min(gone, key=lambda entry: entry.left_at), Ended.EXPIRED)

    def _claim_place(self, key: Key) -> None:
        """Have a place for a session that is not known, its device's turn being the next. Raises Overloaded.

        Sessions whose device is gone take no place; the longest gone is forgotten where there is no other room.
        """
        self.sweep()
        gone = self._gone()
        most = places(self.terms.most, self.terms.least_rate, self.cost())
        held = Counter(entry.tenant for entry in self._entries.values())
        held.subtract(entry.tenant for entry in gone)
        try:
            self.admission.claim(key, most, held)
        finally:
            self.metrics.lost_turns(self.admission.take_lost())
        if len(self._entries) >= self.terms.most:
            self.forget(min(gone, key=lambda entry: entry.left_at), Ended.EXPIRED)
