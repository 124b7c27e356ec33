"""The sessions that an edge holds, each with its cache and the streams it is attached by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from airdraft.core.errors import Overloaded
from airdraft.core.session import EdgeSession
from airdraft.core.types import EdgeFrame, Limits, Open, RefusalCode, Refused
from edge_node.engine.kv import SessionCache

QUEUE_FRAMES = 1024
"""Frames that may wait for a slow stream; the protocol bounds them far below, by acks and by credits."""


class Stream:
    """The way down to one device: frames in order, then an end."""

    def __init__(self) -> None:
        self._frames: asyncio.Queue[EdgeFrame | None] = asyncio.Queue(QUEUE_FRAMES)
        self.failure: Exception | None = None

    def send(self, frame: EdgeFrame) -> None:
        """Queue a frame; a refusal that ends the stream is its last one."""
        self._frames.put_nowait(frame)
        if isinstance(frame, Refused) and frame.ends_stream:
            self.end()

    def end(self, failure: Exception | None = None) -> None:
        """Let the stream end once what is queued was sent, with ``failure`` if there was one."""
        self.failure = self.failure or failure
        self._frames.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[EdgeFrame]:
        while (frame := await self._frames.get()) is not None:
            yield frame
        if self.failure is not None:
            raise self.failure


@dataclass(slots=True, eq=False)
class Entry:
    """One session with what belongs to it."""

    session: EdgeSession
    cache: SessionCache
    streams: dict[int, Stream] = field(default_factory=dict)  # by epoch
    ready_at: float = 0.0  # when the last event came that could make a pass possible
    left_at: float = 0.0  # when the last stream went

    def send(self, frames: list[EdgeFrame]) -> None:
        """Give each frame to the stream of its epoch; a stream that is gone loses nothing that a re-attach lacks."""
        for frame in frames:
            stream = self.streams.get(frame.epoch)
            if stream is None:
                continue
            stream.send(frame)
            if isinstance(frame, Refused) and frame.code is RefusalCode.SUPERSEDED:
                del self.streams[frame.epoch]


class SessionTable:
    """Sessions by id, at most so many; those without a stream are kept for a while and give way to new ones."""

    def __init__(self, most: int, keep_s: float, clock: Callable[[], float]) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._most = most
        self._keep_s = keep_s
        self._clock = clock

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    @property
    def attached(self) -> int:
        """Return how many sessions have a stream."""
        return sum(entry.session.attached for entry in self._entries.values())

    def admit(self, opened: Open, limits: Limits, cache: Callable[[], SessionCache]) -> Entry:
        """Return the session's entry, a new one where it is not known. Raises Overloaded, TooLong."""
        known = self._entries.get(opened.session_id)
        if known is not None and not known.session.finished:
            return known
        session = EdgeSession(opened, limits)
        self.sweep()
        if len(self._entries) >= self._most:
            self._make_room()
        entry = Entry(session, cache())
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
            if not entry.session.attached and not entry.session.in_flight and now - entry.left_at > self._keep_s:
                self.forget(entry)

    def _make_room(self) -> None:
        idle = [entry for entry in self if not entry.session.attached and not entry.session.in_flight]
        if not idle:
            raise Overloaded(f"all {self._most} sessions are in use; try again soon", retry_after_s=1.0)
        self.forget(min(idle, key=lambda entry: entry.left_at))
