"""How long a stream may keep a place here without using it: deadlines for its first words, then for its text.

A device that is silent altogether is another matter: ``airdraft.wire.pulse`` asks it, and lets its stream end. One that
answers, and does nothing else, is what this is for.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from airdraft.core.errors import LimitReached
from airdraft.core.session import EdgeSession


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that an edge waits for a device which does not do what it is there for, and frames it reads a second.

    hello_s     to the first ``Open``
    prefix_s    to the whole text that ``Open`` promised, and a second more for every ``prefix_tokens_s``
    ended_s     to the ``Finish`` of a text that has ended
    idle_s      to the next token of a text, where the device and not this edge is why none comes
    frames_s, frames_burst  frames that are read of one stream a second, and at once
    """

    hello_s: float = 5.0
    prefix_s: float = 10.0
    prefix_tokens_s: float = 400.0
    ended_s: float = 30.0
    idle_s: float = 120.0
    frames_s: float = 512.0
    frames_burst: float = 2048.0


PATIENCE = Patience()

LOOKS = 4
"""An idle stream is found out within a quarter more of its time: so often is it looked at."""

LONGEST_LOOK_S = 30.0
"""A wall clock may be set: the end of a credential is looked at so often, at least."""


class StreamWatch:
    """Watches one stream as long as the ``with`` block around it."""

    def __init__(
        self,
        patience: Patience,
        end: Callable[[LimitReached], None],
        clock: Callable[[], float],
        *,
        until_s: float = math.inf,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; ``end`` ends the stream.

        clock    seconds, never going back
        until_s  when the credential ends, by ``wall``, seconds since 1970
        """
        self._patience, self._end, self._clock = patience, end, clock
        self._until_s, self._wall = until_s, wall
        self._began_s = self._moved_s = clock()
        self._session: EdgeSession | None = None
        self._owes: Callable[[], bool] = lambda: False
        self._by_s = self._began_s + patience.hello_s  # what is waited for now must have come
        self._at: tuple[int, bool] = (0, False)  # how far the text was when it was last looked at
        self.looks_s = self._began_s  # when it looks next, by its clock
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def attached(self, session: EdgeSession, owes: Callable[[], bool]) -> None:
        """The stream's device attached to this session; ``owes`` says whether it waits for this edge just now."""
        patience = self._patience
        self._session, self._owes = session, owes
        self._by_s = self._clock() + patience.prefix_s + session.committed_length / patience.prefix_tokens_s
        self._at, self._moved_s = (session.committed_length, False), self._clock()
        self._look()

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s, left_s = self._clock(), self._until_s - self._wall()
        refusal, next_s = self._judged(now_s)
        if left_s <= 0:
            refusal = LimitReached("the credential of this stream has ended; attach with a fresh token")
        if refusal is not None:
            self.looks_s = math.inf
            self._end(refusal)
            return
        wait_s = min(max(0.0, next_s - now_s), left_s, LONGEST_LOOK_S)
        self.looks_s = now_s + wait_s
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _judged(self, now_s: float) -> tuple[LimitReached | None, float]:
        """Return why the stream is to end, None where it is not, and when to look again."""
        patience, session = self._patience, self._session
        if session is None:
            late = f"no Open came within {patience.hello_s:g} s; a stream begins with one"
            return self._due(now_s, self._by_s, late)
        if not session.complete:
            late = "the text that Open promised was not here in time; send it with Open"
            return self._due(now_s, self._by_s, late)
        at = session.committed_length, session.stop is not None
        if at != self._at or self._owes():
            self._at, self._moved_s = at, now_s
        if session.stop is not None:
            late = f"the text ended {patience.ended_s:g} s ago and no Finish came"
            return self._due(now_s, self._moved_s + patience.ended_s, late)
        late = f"nothing was written for {patience.idle_s:g} s; attach when the text is to go on"
        refusal, _ = self._due(now_s, self._moved_s + patience.idle_s, late)
        return refusal, now_s + patience.idle_s / LOOKS

    def _due(self, now_s: float, by_s: float, late: str) -> tuple[LimitReached | None, float]:
        return (LimitReached(late, retry_after_s=1.0) if now_s >= by_s else None), by_s
