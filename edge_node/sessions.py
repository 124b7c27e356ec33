"""The sessions that an edge holds, each with its cache and the streams it is attached by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from airdraft.core.drafting import Drafter
from airdraft.core.errors import Overloaded
from airdraft.core.receipts import ReceiptKey
from airdraft.core.session import EdgeSession
from airdraft.core.types import EdgeFrame, Limits, Open, RefusalCode, Refused
from edge_node.engine.kv import SessionCache

QUEUE_FRAMES = 1024
"""Frames that may wait for a slow stream; the protocol bounds them far below, by acks and by credits."""


PARTING_S = 1.0
"""How long the last frames of a stream may take to leave; past it the way down is choked, and the stream is dropped."""


class Stream:
    """The way down to one device: frames in order, then an end."""

    def __init__(self, choked: Callable[[], object] = lambda: None) -> None:
        """Begin; ``choked`` drops the stream where its last frames do not leave."""
        self._frames: asyncio.Queue[EdgeFrame | None] = asyncio.Queue(QUEUE_FRAMES)
        self._choked = choked
        self._parting: asyncio.TimerHandle | None = None
        self.failure: Exception | None = None

    def send(self, frame: EdgeFrame) -> None:
        """Queue a frame; a refusal that ends the stream is its last one, and where the queue is full it is the end."""
        if self._parting is not None:
            return
        if self._frames.full():
            self._choked()
            return
        self._frames.put_nowait(frame)
        if isinstance(frame, Refused) and frame.ends_stream:
            self.end()

    def end(self, failure: Exception | None = None) -> None:
        """Let the stream end once what is queued was sent, with ``failure`` if there was one."""
        self.failure = self.failure or failure
        if self._parting is None:
            self._parting = asyncio.get_running_loop().call_later(PARTING_S, self._choked)
            if self._frames.full():
                self._frames.get_nowait()
            self._frames.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[EdgeFrame]:
        while (frame := await self._frames.get()) is not None:
            yield frame
        assert self._parting is not None
        self._parting.cancel()
        if self.failure is not None:
            raise self.failure


@dataclass(slots=True, eq=False)
class Entry:
    """One session with what belongs to it."""

    session: EdgeSession
    cache: SessionCache
    new_cache: Callable[[], SessionCache]
    streams: dict[int, Stream] = field(default_factory=dict)  # by epoch
    ready_at: float = 0.0  # when the last event came that could make a pass possible
    left_at: float = 0.0  # when the last stream went
    drafter: Drafter | None = None  # the edge's own, once it was needed
    learned: int = 0  # ids that it knows of
    own_draft_s: float = 0.0  # what it took, until the pass that verifies it

    def send(self, frames: list[EdgeFrame]) -> None:
        """Give each frame to the stream of its epoch; a stream that is gone loses nothing that a re-attach lacks."""
        for frame in frames:
            stream = self.streams.get(frame.epoch)
            if stream is None:
                continue
            stream.send(frame)
            if isinstance(frame, Refused) and frame.code is RefusalCode.SUPERSEDED:
                del self.streams[frame.epoch]

    def evict(self) -> None:
        """Free the cache; the text stays, and the next pass replays it."""
        self.cache = self.new_cache()
        self.send(self.session.evicted())


class SessionTable:
    """Sessions by id, at most so many; those without a stream are kept for a while and give way to new ones."""

    def __init__(
        self,
        *,
        most: int,
        keep_s: float,
        clock: Callable[[], float] = time.monotonic,
        receipts: ReceiptKey | None = None,
        own_text_only: bool = False,
        kv_tokens: int | None = None,
        own_draft_tokens: int = 0,
    ) -> None:
        """Begin empty.

        most           sessions at once
        keep_s         how long one without a stream is kept
        receipts       what commits are signed with; ``own_text_only`` takes no answer that was not signed so
        kv_tokens      cache rows of all sessions together; None is no limit
        own_draft_tokens  how many tokens the edge drafts for an idle device, where it has a drafter
        """
        self._entries: dict[bytes, Entry] = {}
        self._most = most
        self._keep_s = keep_s
        self._clock = clock
        self._receipts = receipts
        self._own_text_only = own_text_only
        self._kv_tokens = kv_tokens
        self._own_draft_tokens = own_draft_tokens

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    @property
    def attached(self) -> int:
        """Return how many sessions have a stream."""
        return sum(entry.session.attached for entry in self._entries.values())

    @property
    def kv_rows(self) -> int:
        """Return how many cache rows all sessions hold."""
        return sum(entry.cache.rows for entry in self._entries.values())

    @property
    def next_sweep(self) -> float | None:
        """Return when the next session will have been without a stream for too long; None where all have one."""
        return min((entry.left_at + self._keep_s for entry in self if not entry.session.attached), default=None)

    def admit(self, opened: Open, limits: Limits, cache: Callable[[], SessionCache]) -> Entry:
        """Return the session's entry, a new one where it is not known. Raises Overloaded, TooLong."""
        known = self._entries.get(opened.session_id)
        if known is not None and not known.session.finished:
            return known
        session = EdgeSession(
            opened,
            limits,
            self._receipts,
            own_text_only=self._own_text_only,
            own_draft_tokens=self._own_draft_tokens,
        )
        self.sweep()
        if len(self._entries) >= self._most:
            self._make_room()
        entry = Entry(session, cache(), cache, left_at=self._clock())
        self._entries[opened.session_id] = entry
        return entry

    def forget(self, entry: Entry) -> None:
        """Drop a session and with it its cache."""
        for session_id, candidate in list(self._entries.items()):
            if candidate is entry:
                del self._entries[session_id]

    def sweep(self) -> None:
        """Drop sessions whose device has been gone for too long."""
        now = self._clock()
        for entry in self:
            if not entry.session.attached and not entry.session.in_flight and now - entry.left_at >= self._keep_s:
                self.forget(entry)

    def make_kv_room(self, entry: Entry, rows: int) -> None:
        """Take caches of other sessions away until ``entry`` may hold ``rows``; they replay when their turn comes.

        Those whose device is gone come first, then the one that has waited longest.
        """
        if self._kv_tokens is None:
            return
        others = [other for other in self if other is not entry and other.cache.rows and not other.session.in_flight]
        others.sort(key=lambda other: (other.session.attached, other.ready_at))
        for other in others:
            if self.kv_rows - entry.cache.rows + rows <= self._kv_tokens:
                return
            other.evict()

    def _make_room(self) -> None:
        idle = [entry for entry in self if not entry.session.attached and not entry.session.in_flight]
        if not idle:
            raise Overloaded(f"all {self._most} sessions are in use; try again soon", retry_after_s=1.0)
        self.forget(min(idle, key=lambda entry: entry.left_at))
