"""The edge's engine in virtual time: steps of passes, sessions in turn."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from airdraft.core.types import DraftWork, Pass, Span
from airdraft.link.virtual_time import Agenda

StepCost = Callable[[Sequence[Span]], float]
"""The seconds of one step of the engine that computes these spans, each of another session."""


def by_positions(pass_s: Callable[[int], float]) -> StepCost:
    """Return the cost of a step that packs its spans into one pass over all of their positions."""
    return lambda spans: pass_s(sum(len(span.tokens) for span in spans))


class Session(Protocol):
    """What the engine works for."""

    number: int  # its place in the turns

    def next_pass(self) -> Pass | None:
        """Return the session's next pass, which is then at work."""
        ...

    def own_draft(self) -> tuple[DraftWork, float] | None:
        """Return what the edge is to draft for the session, which is then at work, and the seconds that it takes."""
        ...

    def passed(self, work: Pass, share_s: float) -> None:
        """Take a pass's end, and this session's share of the engine's seconds."""
        ...

    def own_drafted(self, work: DraftWork) -> None:
        """Take the end of what the edge drafted."""
        ...


class Engine:
    """One step at a time: passes of up to ``sessions_a_step`` sessions, or what the edge drafts for one.

    A step starts as soon as the engine is free and a session has work; the sessions take turns by their numbers. One
    session a step is what ``edge_node`` does today.
    """

    def __init__(self, agenda: Agenda, step_s: StepCost, *, overhead_s: float = 0.0, sessions_a_step: int = 1) -> None:
        """``overhead_s`` is what a step of passes takes beside its cost, with the engine held."""
        self._agenda, self._step_s, self._overhead_s = agenda, step_s, overhead_s
        self._sessions_a_step = sessions_a_step
        self._busy = False
        self._turn = -1  # whose turn was last
        self._queued: set[int] = set()
        self._lap: list[tuple[int, Session]] = []  # may have work, and their turn is still to come
        self._next_lap: list[tuple[int, Session]] = []

    def ready(self, session: Session) -> None:
        """See to a session after an event that may have given it work."""
        self._queue(session)
        self._start()

    def _queue(self, session: Session) -> None:
        if session.number not in self._queued:
            self._queued.add(session.number)
            heapq.heappush(self._lap if session.number > self._turn else self._next_lap, (session.number, session))

    def _pop(self) -> Session | None:
        if not self._lap:
            self._lap, self._next_lap = self._next_lap, self._lap
        if not self._lap:
            return None
        number, session = heapq.heappop(self._lap)
        self._queued.discard(number)
        self._turn = number
        return session

    def _start(self) -> None:
        if self._busy:
            return
        while (session := self._pop()) is not None:
            work = session.next_pass()
            if work is not None:
                self._step([(session, work), *self._more()])
                return
            draft = session.own_draft()
            if draft is not None:
                self._busy = True
                self._agenda.at(self._agenda.now + draft[1], partial(self._own_drafted, session, draft[0]))
                return

    def _more(self) -> list[tuple[Session, Pass]]:
        """Return passes of other sessions for the same step; who has none to give stays in the queue."""
        found: list[tuple[Session, Pass]] = []
        without: list[Session] = []
        while len(found) < self._sessions_a_step - 1 and (session := self._pop()) is not None:
            work = session.next_pass()
            if work is None:
                without.append(session)
            else:
                found.append((session, work))
        for session in without:
            self._queue(session)
        return found

    def _step(self, step: list[tuple[Session, Pass]]) -> None:
        self._busy = True
        seconds = self._step_s([work.span for _, work in step])
        self._agenda.at(self._agenda.now + seconds + self._overhead_s, partial(self._stepped, step, seconds))

    def _stepped(self, step: list[tuple[Session, Pass]], seconds: float) -> None:
        self._busy = False
        for session, work in step:
            session.passed(work, seconds / len(step))
            self._queue(session)
        self._start()

    def _own_drafted(self, session: Session, work: DraftWork) -> None:
        self._busy = False
        session.own_drafted(work)
        self.ready(session)
