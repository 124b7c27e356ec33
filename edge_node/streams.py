"""The way down to one device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from airdraft.core.types import Commit, EdgeFrame, Refused

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
        if isinstance(frame, Commit) and frame.row is not None and not self._frames.empty():
            frame = replace(frame, row=None)  # the device can do without, and a slow one must not pile rows up here
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
