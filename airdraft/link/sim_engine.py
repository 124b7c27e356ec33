"""The edge's engine in virtual time: steps of passes, sessions in turn."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from airdraft.core.session import Company, RunAhead, Wish
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
    over: bool
    run_ahead: RunAhead | None  # what decides whether it goes ahead of its device

    def wish(self) -> Wish | None:
        """Return what the session would do in the next step."""
        ...

    def next_pass(self, positions: int | None = None) -> Pass | None:
        """Return the session's next pass, of at most so many positions, which is then at work."""
        ...

    def own_draft(self) -> tuple[DraftWork, float] | None:
        """Return what the edge is to draft for the session, which is then at work, and the seconds that it takes."""
        ...

    def passed(self, work: Pass, step_s: float, share_s: float) -> None:
        """Take the end of a pass in a step of ``step_s``, and this session's share of the engine's seconds."""
        ...

    def own_drafted(self, work: DraftWork, share_s: float) -> None:
        """Take the end of what the edge drafted, and this session's share of the seconds."""
        ...


class Gather(Protocol):
    """Who decides when a step begins that all may join who have a use for it."""

    company: Company

    def begins_s(
        self, now_s: float, free_s: float, step_s: float, ready: Sequence[tuple[Session, Wish]], sessions: int
    ) -> float:
        """Return when the step begins, ``now_s`` for at once.

        free_s    since when the engine is free
        step_s    what the last step took
        sessions  all that have begun and are not over
        """
        ...

    def positions(self, ready: Sequence[tuple[Session, Wish]]) -> list[int]:
        """Return how many positions each gets, at most those that it wishes for."""
        ...

    def began(self, now_s: float, sessions: int) -> None:
        """Note that a step or a draft of so many sessions begins."""
        ...

    def joined(self, now_s: float) -> None:
        """Note that one more has work while the engine is busy."""
        ...

    def ended(self, now_s: float, sessions: int, positions: int) -> None:
        """Note that the engine is free; ``sessions`` and ``positions`` of the step, 0 where it drafted."""
        ...

    def settled(self) -> None:
        """Note that all sessions have taken what the step decided: what the next one is made of may be chosen."""
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
                self._agenda.at(self._agenda.now + draft[1], partial(self._own_drafted, session, *draft))
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
            session.passed(work, seconds, seconds / len(step))
            self._queue(session)
        self._settled()
        self._start()

    def _settled(self) -> None:
        """All sessions have taken a step."""

    def _own_drafted(self, session: Session, work: DraftWork, seconds: float) -> None:
        self._busy = False
        session.own_drafted(work, seconds)
        self.ready(session)


class GatheringEngine(Engine):
    """An engine whose steps begin when ``gather`` says so, and take all that have a use for them.

    What it drafts itself it drafts for all in one go, which lasts as long as the longest of them, between two steps.
    """

    def __init__(self, agenda: Agenda, step_s: StepCost, gather: Gather, *, overhead_s: float = 0.0) -> None:
        super().__init__(agenda, step_s, overhead_s=overhead_s)
        self.log: list[tuple[float, float, int, int]] = []
        """Of each step when, seconds, positions and sessions; of what it drafts itself 0 of these."""
        self._gather = gather
        self._sessions: dict[int, Session] = {}
        self._free_s = 0.0
        self._held: set[int] = set()  # who joins the step that is held back
        self._alarm: object = None  # the event that ends that
        self._last_s = 0.0  # what the last step took
        self._drafted_last = False
        self._users: set[int] = set()  # who is in the step at work, or has come since

    def ready(self, session: Session) -> None:
        """See to a session after an event; one more draft of who joins anyway changes nothing."""
        self._sessions.setdefault(session.number, session)
        if self._busy and session.number not in self._users:
            self._users.add(session.number)
            self._gather.joined(self._agenda.now)
        if session.number not in self._held:
            self._start()

    def _queue(self, session: Session) -> None:
        pass

    def _settled(self) -> None:
        self._gather.settled()

    def _start(self) -> None:
        if self._busy:
            return
        self._sessions = {number: session for number, session in self._sessions.items() if not session.over}
        sessions = list(self._sessions.values())
        first, second = (self._pass, self._draft) if self._drafted_last else (self._draft, self._pass)
        if not first(sessions):
            second(sessions)

    def _pass(self, sessions: Sequence[Session]) -> bool:
        """Begin a step, or hold it back; return False where nobody has a use for one."""
        ready = [(session, wish) for session in sessions if (wish := session.wish()) is not None]
        if not ready:
            return False
        now_s = self._agenda.now
        begins_s = self._gather.begins_s(now_s, self._free_s, self._last_s, ready, len(sessions))
        if begins_s > now_s:
            self._held = {session.number for session, _ in ready}
            self._ask_again(begins_s)
            return True
        self._held, self._alarm = set(), None
        granted = zip(ready, self._gather.positions(ready), strict=True)
        passes = [(session, session.next_pass(positions)) for (session, _), positions in granted]
        step = [(session, work) for session, work in passes if work is not None]
        if step:  # a session may have a use for it and then sit it out: it comes back by itself
            self._drafted_last = False
            self._begins(session for session, _ in ready)
            self._step(step)
        return bool(step)

    def _draft(self, sessions: Sequence[Session]) -> bool:
        drafts = [(session, draft) for session in sessions if (draft := session.own_draft()) is not None]
        if not drafts:
            return False
        self._busy = self._drafted_last = True
        seconds = max(seconds for _, (_, seconds) in drafts)
        works = [(session, work) for session, (work, _) in drafts]
        self._begins(session for session, _ in works)
        self._agenda.at(self._agenda.now + seconds, partial(self._drafted, works, seconds))
        return True

    def _drafted(self, works: Sequence[tuple[Session, DraftWork]], seconds: float) -> None:
        self.log.append((self._agenda.now - seconds, seconds, 0, 0))
        self._free_s = self._agenda.now
        self._gather.ended(self._free_s, 0, 0)
        for session, work in works:
            session.own_drafted(work, seconds / len(works))
        self._busy = False
        self._start()

    def _begins(self, sessions: Iterable[Session]) -> None:
        self._users = {session.number for session in sessions}
        self._gather.began(self._agenda.now, len(self._users))

    def _ask_again(self, when_s: float) -> None:
        alarm = self._alarm = object()
        self._agenda.at(when_s, lambda: self._start() if alarm is self._alarm else None)

    def _stepped(self, step: list[tuple[Session, Pass]], seconds: float) -> None:
        positions = sum(len(work.span.tokens) for _, work in step)
        self.log.append((self._agenda.now - seconds - self._overhead_s, seconds, positions, len(step)))
        self._free_s, self._last_s = self._agenda.now, seconds
        self._gather.ended(self._free_s, len(step), positions)
        super()._stepped(step, seconds)
