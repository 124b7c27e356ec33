"""An edge process in virtual time: the session cores as a serving edge runs them, with rows in place of a cache.

Streams, passes and liveness are handled as ``edge_node`` handles them; beside that the process can be evicted, drained
and made to lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from airdraft.core.errors import Draining, SpecError, refusal
from airdraft.core.receipts import ReceiptKey
from airdraft.core.rows import TargetRow
from airdraft.core.session import EdgeSession, Liveness
from airdraft.core.session.passes import walked
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    DraftWork,
    Drain,
    EdgeFrame,
    Evidence,
    Finish,
    Limits,
    Open,
    Pass,
    PassResult,
    Ping,
    RefusalCode,
    Refused,
    Sampling,
    Timing,
)
from airdraft.link.virtual_stream import End, Process, Stream
from airdraft.link.virtual_time import Agenda, Delay, NextDraft, RowEngine, chained

Choice = Callable[[Sequence[int], Sampling, Sequence[int]], int]
"""The target: rows of the cache, settings, and the path that the session core claims they are, to the next token."""

RETRY_S = 0.2
"""What a draining edge tells devices to wait before they come again."""


Row = Callable[[Sequence[int], Sampling, Sequence[int]], TargetRow]
"""The target's logits where a ``Choice`` is made of them."""

Evidenced = Callable[[int, Sequence[int]], Evidence]
"""What the target tells of the drafted token, a node of the pass, at the end of a row's path."""

Clock = Callable[[], float]
Core = Callable[[Open, Limits, ReceiptKey | None, Clock], EdgeSession]
"""What makes a session of a device's first attach; the clock is the edge's own."""


def waiting_core(opened: Open, limits: Limits, receipts: ReceiptKey | None, clock: Clock) -> EdgeSession:
    """Return a session that waits for its device's drafts."""
    return EdgeSession(opened, limits, receipts)


class EdgeWitness(Protocol):
    """Whoever looks at what an edge does."""

    def edge_took(self, edge: EdgeProcess, stream: Stream, entry: Entry, frame: DeviceFrame) -> None:
        """See a session after it took a frame."""
        ...

    def edge_commits(self, edge: EdgeProcess, entry: Entry, commit: Commit) -> None:
        """See text that an edge committed, be there a stream to tell it or none."""
        ...

    def edge_runs(self, edge: EdgeProcess, entry: Entry, work: Pass) -> None:
        """See a pass before it runs."""
        ...

    def edge_rests(self, edge: EdgeProcess, entry: Entry) -> None:
        """See a session that has no pass to run now."""
        ...


@dataclass(slots=True, eq=False)
class Entry:
    """One session with what belongs to it."""

    opened: Open
    session: EdgeSession
    engine: RowEngine
    streams: dict[int, Stream] = field(default_factory=dict)  # by epoch
    refuse: bool = False  # the next draft is refused, and the stream goes on
    evict: bool | None = None  # once the pass in flight is over; True takes the ids too
    wakes_s: float | None = None  # when a session that sits the step out is asked again


class EdgeProcess(Process):
    """Serves streams until it is killed."""

    def __init__(
        self,
        agenda: Agenda,
        name: str,
        limits: Limits,
        choose: Choice,
        witness: EdgeWitness,
        *,
        receipts: ReceiptKey | None = None,
        pass_s: Delay = lambda: 0.005,
        offset_s: float = 0.0,
        core: Core = waiting_core,
        draft: NextDraft = lambda path: None,
        row: Row | None = None,
        evidence: Evidenced | None = None,
    ) -> None:
        super().__init__(agenda, name, offset_s)
        self.limits, self.receipts = limits, receipts
        self.sessions: dict[bytes, Entry] = {}
        self.draining = False
        self.lies: Callable[[], bool] = lambda: False  # asked before each commit leaves
        self._choose, self._witness, self._pass_s = choose, witness, pass_s
        self._core, self._draft, self._row, self._evidence = core, draft, row, evidence
        self._entries: dict[Stream, Entry] = {}
        self._lives: dict[Stream, Liveness] = {}
        self._over: set[Stream] = set()

    @property
    def streams(self) -> list[Stream]:
        """Return the streams that are attached."""
        return list(self._entries)

    # ---- the way up ----

    def take(self, stream: Stream, frame: DeviceFrame | End) -> None:
        """Take what came on a stream; its first frame is an ``Open``."""
        if stream in self._over:
            return
        if stream in self._lives:
            self._lives[stream].heard(self.now)
        entry = self._entries.get(stream)
        try:
            if frame is End.RESET or (entry is None and not isinstance(frame, Open)):
                self._leave(stream)
            elif entry is None:
                assert isinstance(frame, Open)
                self._attach(stream, frame)
            elif isinstance(frame, Ping) and frame.ack:
                self._lives[stream].acked(frame.number, self.now)
            else:
                half_closed = Finish(stream.epoch, entry.session.committed_length)
                self._feed(stream, entry, half_closed if isinstance(frame, End) else frame)
        except SpecError as error:
            self._say(stream, refusal(error, stream.epoch))
            self._end(stream)

    def lost(self, stream: Stream) -> None:
        """Learn that a stream is gone."""
        self._leave(stream)

    def _attach(self, stream: Stream, opened: Open) -> None:
        if self.draining:
            raise Draining("this edge is going away; attach elsewhere", retry_after_s=RETRY_S)
        entry = self.sessions.get(opened.session_id)
        if entry is None or entry.session.finished:
            session = self._core(opened, self.limits, self.receipts, lambda: self.now)
            entry = self.sessions[opened.session_id] = Entry(opened, session, RowEngine(lambda path: 0))
        try:
            frames = entry.session.attach(opened)
        except SpecError:
            if entry.session.epoch == 0:
                self._forget(entry)  # it never came about
            raise
        entry.streams[opened.epoch] = stream
        self._entries[stream] = entry
        self._lives[stream] = Liveness(self.now)
        self._witness.edge_took(self, stream, entry, opened)
        self._send(entry, frames)
        self._look(stream)
        self._run(entry)

    def _feed(self, stream: Stream, entry: Entry, frame: DeviceFrame) -> None:
        frames = entry.session.received(frame)
        self._witness.edge_took(self, stream, entry, frame)
        self._send(entry, frames)
        if entry.refuse and isinstance(frame, Draft) and frame.ids and not entry.session._drafts.waiting:
            self._refuse_frame(entry, frame)
        if entry.session.finished:
            self._forget(entry)
            self._end(stream)
        else:
            self._run(entry)

    def _forget(self, entry: Entry) -> None:
        if self.sessions.get(entry.opened.session_id) is entry:
            del self.sessions[entry.opened.session_id]

    # ---- the way down ----

    def _send(self, entry: Entry, frames: Sequence[EdgeFrame]) -> None:
        for frame in frames:
            if isinstance(frame, Commit):
                self._witness.edge_commits(self, entry, frame)
            stream = entry.streams.get(frame.epoch)
            if stream is not None:
                self._say(stream, frame)
                if frame.epoch != entry.session.epoch:  # superseded: that was its last frame; the core fences what
                    stream.down.send(End.CLOSED)  # may still come up on it
                    del entry.streams[frame.epoch]

    def _say(self, stream: Stream, frame: EdgeFrame) -> None:
        if isinstance(frame, Commit) and self.lies():
            frame = _untrue(frame)
        stream.down.send(frame)

    def _end(self, stream: Stream) -> None:
        """End a call from this side."""
        stream.down.send(End.CLOSED)
        self._leave(stream)

    def _leave(self, stream: Stream) -> None:
        self._over.add(stream)
        entry = self._entries.pop(stream, None)
        self._lives.pop(stream, None)
        if entry is not None:
            entry.streams.pop(stream.epoch, None)
            entry.session.detached(stream.epoch)

    # ---- passes ----

    def _run(self, entry: Entry) -> None:
        self._send(entry, entry.session.due())
        wish = entry.session.own_draft()
        if wish is not None:
            self.after(self._pass_s() / 4, lambda: self._drafted(entry, wish))
        work = entry.session.next_pass()
        self._wake(entry, entry.session.wakes_s)
        if work is None:
            self._witness.edge_rests(self, entry)
            return
        self._witness.edge_runs(self, entry, work)
        rows = entry.engine.paths(work.span)
        choices = tuple(
            self._choose(row, work.sampling, path) for row, path in zip(rows, work.row_paths(), strict=True)
        )
        pass_s = self._pass_s()
        row, evidence = self._wanted_row(entry, work, rows, choices), self._wanted_evidence(work, rows, choices)
        result = PassResult(choices, Timing(pass_s=pass_s), row, evidence)
        self.after(pass_s, lambda: self._ran(entry, work, result))

    def _wanted_row(
        self, entry: Entry, work: Pass, rows: Sequence[Sequence[int]], choices: Sequence[int]
    ) -> TargetRow | None:
        """Return the target's row where the walk along its choices leaves the draft, if the pass asks for it."""
        if self._row is None or not work.row:
            return None
        path = walked(work, choices, entry.session._text.ending).path
        last = path[-1] + 1 if path else 0
        return self._row(rows[last], work.sampling, work.row_paths()[last])

    def _wanted_evidence(
        self, work: Pass, rows: Sequence[Sequence[int]], choices: Sequence[int]
    ) -> tuple[Evidence, ...]:
        """Return what is told of the draft nodes that are not the choice after their parent, by the cache's rows."""
        if self._evidence is None or not work.judged:
            return ()
        span, first = work.span, len(work.span.tokens) - work.nodes
        of_row = {index: (row, choice) for index, row, choice in zip(span.wanted, rows, choices, strict=True)}
        told: list[Evidence] = []
        for node in range(work.nodes):
            parent = first + node - 1 if span.parents is None else span.parents[first + node]
            if span.tokens[first + node] != of_row[parent][1]:
                told.append(self._evidence(node, of_row[first + node][0]))
        return tuple(told)

    def _wake(self, entry: Entry, until_s: float | None) -> None:
        """Ask a session that sits the step out again at that time, unless it is asked before; one timer is enough."""
        if until_s == entry.wakes_s:
            return
        entry.wakes_s = until_s

        def ring() -> None:
            if entry.wakes_s == until_s:
                entry.wakes_s = None
                self._run(entry)

        if until_s is not None:
            self.at(until_s, ring)

    def _drafted(self, entry: Entry, wish: DraftWork) -> None:
        entry.session.own_drafted(wish, chained(self._draft, wish))
        self._run(entry)

    def _ran(self, entry: Entry, work: Pass, result: PassResult) -> None:
        self._send(entry, entry.session.finished_pass(work, result))
        if entry.evict is not None:
            self._evict(entry, ids_too=entry.evict)
        self._run(entry)

    # ---- what befalls it ----

    def evict(self, entry: Entry, *, ids_too: bool) -> None:
        """Take a session's rows away, and its ids with ``ids_too``, as soon as no pass reads them."""
        if entry.session.in_flight:
            entry.evict = ids_too
        else:
            self._evict(entry, ids_too=ids_too)
            self._run(entry)

    def _evict(self, entry: Entry, *, ids_too: bool) -> None:
        entry.evict = None
        entry.engine.rows.clear()
        self._send(entry, entry.session.evicted(ids_too=ids_too))

    def _refuse_frame(self, entry: Entry, draft: Draft) -> None:
        """Refuse a draft and go on; the core has no verb for it yet (DESIGN §4, rule 5)."""
        entry.refuse = False
        entry.session._drafts.tree.kill(draft.seq)
        message = "no room for this frame"
        self._send(entry, [Refused(draft.epoch, RefusalCode.RETRY_LATER, message, seq=draft.seq, ends_stream=False)])

    def drain(self, deadline_s: float, others: tuple[str, ...]) -> None:
        """Take nothing new, tell who is here, and cut off who still is at the deadline."""
        self.draining = True
        for stream, entry in list(self._entries.items()):
            if stream.epoch == entry.session.epoch:
                self._say(stream, Drain(stream.epoch, deadline_s, others))
        self.after(deadline_s, self._cut_off)

    def _cut_off(self) -> None:
        for stream in self.streams:
            self._end(stream)

    def _look(self, stream: Stream) -> None:
        life = self._lives.get(stream)
        if life is None:
            return
        verdict = life.look(self.now)
        if verdict == "gone":
            self._end(stream)
            return
        if verdict == "ping":
            stream.down.send(Ping(stream.epoch, life.ping_number))
        self.at(life.next_look, lambda: self._look(stream))


def _untrue(commit: Commit) -> Commit:
    """Return a commit whose last id is not the one that its path hash stands for."""
    if not commit.ids:
        return replace(commit, path_hash=bytes(byte ^ 0xFF for byte in commit.path_hash))
    return replace(commit, ids=(*commit.ids[:-1], commit.ids[-1] ^ 1))
