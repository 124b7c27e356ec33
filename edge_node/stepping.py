"""One step after the other: who joins, what the engine is asked, and what its answer does to the sessions.

A step is put together when the one before has ended, from whoever is ready at that moment, so that it holds the latest
drafts. The engine does one thing at a time: a step, or tokens of the edge's own drafter where a device's line is short.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from airdraft.core.session import Wish
from airdraft.core.types import Commit, DraftWork, EdgeFrame, NeedHidden, Pass, PassResult, Timing, Work
from coordinator.policy.cost_line import CostLine
from coordinator.policy.costs import PassCost
from coordinator.policy.own_draft import OwnDraftLength
from edge_node.audits import AT_ONCE
from edge_node.engine_process import EngineDied
from edge_node.gathering import Gathering
from edge_node.meaning import Deadlines, judged, meant
from edge_node.metrics import Ended, Occupancy
from edge_node.own_lengths import OwnLengths
from edge_node.quotes import Quotes
from edge_node.scheduling import Turns, Waiting
from edge_node.sessions import Entry, SessionTable
from edge_node.shares import Shares
from edge_node.step import Drafted, DraftItem, DraftStep, Item, Outcome, Step, StepDone
from edge_node.throttling import Throttle

log = logging.getLogger(__name__)

WIDEN_S = 300e-6
"""How long a step that nothing stood in the way of waits for others to join it."""

PREFILL_STEP_S = 0.1
"""A prefill adds about so much, at most, to a step that others wait for."""

MIN_PREFILL_POSITIONS = 16

DRAFT_MEMORY = 0.1
"""How much the latest draft counts in the seconds of a drafted token."""

Then = Callable[[StepDone | Drafted | Exception], None]


class Engine(Protocol):
    """What computes: a process of its own, or a thread."""

    def submit(self, ask: Step | DraftStep, then: Then) -> None:
        """Do a step; ``then`` gets the answer, or why there is none, on the running loop."""
        ...


class PassFailed(RuntimeError):
    """The engine could not run a session's pass: told to that session's stream alone."""


class Stepping:
    """Keeps one engine busy with the sessions of a table."""

    def __init__(
        self,
        sessions: SessionTable,
        positions: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        widen_s: float = WIDEN_S,
        gathers: bool = True,
    ) -> None:
        """Begin without an engine; a step has room for ``positions``.

        widen_s  how long one that nothing stood in the way of waits for frames that are about to be read
        gathers  wait for drafts that are due, where that pays
        """
        self._line = CostLine()
        self._sessions, self._metrics, self._clock, self._widen_s = sessions, sessions.metrics, clock, widen_s
        self._turns: Turns[Entry] = Turns(positions)
        self._engine: Engine | None = None
        self._busy = False
        self._widening = False
        self._alarm: asyncio.TimerHandle | None = None
        self._wakes_s = math.inf  # when it goes off
        self._gathering = Gathering(sessions, clock, self._go, gathers=gathers)
        self._deadlines = Deadlines(clock, self._due)
        self._throttle, self._shares = Throttle(sessions.tenants, sessions.metrics, clock), Shares(clock)
        self._ready: dict[Entry, None] = {}  # who may have work, in the order of their wait
        self._undrafted: list[int] = []  # sessions that the drafter may forget
        self._drafted_last = False
        self._number = 0
        self.quotes = Quotes(sessions.terms, clock)
        self.quotes.writing = lambda: sessions.attached
        sessions.on_forgotten, sessions.cost = self._gone, lambda: self.cost
        sessions.own_draft_tokens = lambda length: length.best(self.quotes.shared_cost, self.quotes.draft_s)
        self._own_lengths = OwnLengths(sessions, self.quotes)
        sessions.metrics.watch(self.quotes.utilisation, self.quotes.price, lambda: len(sessions.admission))

    @property
    def cost(self) -> PassCost | None:
        """Return what a pass costs here, None while none was made."""
        return self._line.cost if self._line.samples else None

    # ---- the engine's life ----

    def begin(self, engine: Engine) -> None:
        """Take an engine, whose pool is the sessions' new one, and go on with whoever waits."""
        self._engine, self._busy = engine, False
        self._ready = dict.fromkeys(self._sessions)
        self._go()

    def stop(self) -> None:
        """Ask the engine nothing more."""
        self._engine = None
        self.quotes.load.ended(self._clock())
        self._wake_at(math.inf)
        self._gathering.end()

    # ---- events ----

    def ready(self, entry: Entry) -> None:
        """Note an event that may have given a session work."""
        now_s = self._clock()
        if entry not in self._ready:
            entry.ready_at = now_s  # whoever waits already keeps its place, however much its device has to say
            self.quotes.load.joined(now_s)
        if entry.session.idle:
            entry.answers.owed_since = None
        elif entry.session.live_nodes:
            entry.answers.came(now_s)
        self._ready[entry] = None
        if self._gathering.joins(entry):
            return
        if not self._busy and not self._widening and self._engine is not None:
            self._widen(now_s + self._widen_s)

    def told(self, entry: Entry, frames: Sequence[EdgeFrame]) -> None:
        """Send what an event other than a pass's end brought about, and count what it commits."""
        if frames:
            self._send(entry, frames)
            self._metrics.committed(entry.held, frames)
        if any(isinstance(frame, Commit) for frame in frames):
            entry.held = None
            if entry in self._sessions.pool:
                self._sessions.pool.advanced(entry, entry.session.rows_in_place)
        self._deadlines.note(entry)

    def _due(self, entry: Entry) -> None:
        """Let a session do what it has put off until now."""
        try:
            frames = entry.session.due()
        except Exception as error:  # a bug in one session must not stop the others
            log.exception("a session could not do what was due")
            self._give_up(entry, f"{type(error).__name__} in the session")
            return
        if entry.held is not None and frames:
            self._metrics.meaning.states_came_late()
        self.told(entry, frames)
        self.ready(entry)

    def _send(self, entry: Entry, frames: Sequence[EdgeFrame]) -> None:
        entry.send(self.quotes.told(entry, frames))
        meant(self._sessions, entry)
        session = entry.session
        commits = any(isinstance(frame, Commit) for frame in frames)
        if commits and session.attached and not session.idle and session.stop is None:
            entry.answers.owed_since = self._clock()

    def owes(self, entry: Entry) -> bool:
        """Return whether a session's device waits for this edge, and not the edge for it."""
        session = entry.session
        owed = session.in_flight or session.own_draft_due or session.wish() is not None
        return self._engine is None or entry.held is not None or owed

    def left(self, entry: Entry) -> None:
        """Note that a session's stream is gone: whatever it waited for will not come."""
        if not entry.session.attached:
            meant(self._sessions, entry)
            entry.held = None
            self._deadlines.forget(entry)

    def _gone(self, entry: Entry) -> None:
        self._ready.pop(entry, None)
        self._deadlines.forget(entry)
        if entry.drafted:
            self._undrafted.append(entry.number)

    def _widen(self, until_s: float) -> None:
        """Let those join whose frames are about to be read; turns of the loop, since its timers are coarser."""
        if self._clock() < until_s and len(self._ready) < self._sessions.attached:
            self._widening = True
            asyncio.get_running_loop().call_soon(self._widen, until_s)
            return
        self._widening = False
        self._go()

    # ---- one thing at a time ----

    def _go(self) -> None:
        """Ask the engine for the next thing, if it is free and there is one."""
        if self._busy or self._engine is None:
            return
        first, second = (self._step, self._draft) if self._drafted_last else (self._draft, self._step)
        if not first() and not second():
            self._audit()

    def _step(self) -> bool:
        self._gathering.counted(self.cost)
        waiting = self._waiting()
        if self._gathering.waits(waiting, self.cost):
            return True
        waiting = self._gathering.worth(waiting, self.cost)
        suspects = [one for one in waiting if one.who.suspect]
        bounds = self._shares.bounds((one.tenant for one in waiting), self.cost)
        chosen = self._turns.choose(suspects[:1] or waiting, self._prefill_positions(), bounds)
        if not chosen:
            return False
        now, works, items = self._clock(), [], []
        for entry, positions in chosen:
            work = entry.session.next_pass(positions)
            if work is None:  # asked a moment later it would rather wait for a draft
                continue
            self._throttle.passed(entry, work)
            self._sessions.pool.pin(entry, work.span.start + len(work.span.tokens))
            works.append((entry, work, now - entry.ready_at))
            items.append(self._item(entry, work))
        if not items:
            if self._waiting():  # sets the alarm for those that wait; who does not is asked again at once
                self._wake_at(self._clock())
            return False
        took = Counter[str]()
        for entry, work, _ in works:
            took[entry.tenant] += len(work.span.tokens)
        self._shares.took(took, bounds, self.cost)
        self._number += 1
        self._drafted_last = False
        step = Step(self._number, tuple(items), self._sessions.pool.take_fills())
        try:
            self._ask(step, partial(self._stepped, works))
        except Exception as error:
            self._stepped(works, error)
            return True
        self._show(len(works), len(waiting) - len(works))
        return True

    def _show(self, running: int, waiting: int) -> None:
        pool = self._sessions.pool
        self._metrics.occupied(
            Occupancy(
                running,
                waiting,
                len(self._sessions),
                self._sessions.attached,
                pool.rows,
                pool.reserved_rows,
                pool.cached_rows,
            )
        )

    def _waiting(self) -> list[Waiting[Entry]]:
        waiting: list[Waiting[Entry]] = []
        wakes_s = math.inf
        for entry in list(self._ready):
            try:
                wish = self._wish(entry)
            except Exception as error:  # a bug in one session must not stop the others
                log.exception("a session could not say what it wishes for")
                self._give_up(entry, f"{type(error).__name__} in the session")
                continue
            if wish is not None:
                waiting.append(Waiting(entry, entry.tenant, wish, entry.ready_at))
            elif entry in self._sessions.pool and entry.session.wakes_s is not None:
                wakes_s = min(wakes_s, entry.session.wakes_s)
            elif entry not in self._sessions.pool or not entry.session.own_draft_due:
                del self._ready[entry]
            elif (until_s := self._throttle.until_s(entry)) is not None:
                wakes_s = min(wakes_s, until_s)
        joining, held_until_s = self._throttle.joining(waiting)
        self._wake_at(min(wakes_s, held_until_s))
        return joining

    def _wake_at(self, when_s: float) -> None:
        """Ask again when the first of those that sit the step out has waited long enough."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._wakes_s = when_s
        if when_s < math.inf:
            delay_s = max(0.0, when_s - self._clock())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self._go)

    def _wish(self, entry: Entry) -> Wish | None:
        session, pool = entry.session, self._sessions.pool
        wish = session.wish() if entry in pool else None
        if wish is None or wish.work is not Work.PREFILL or session.kv_length or entry.looked_up:
            return wish
        entry.looked_up = True
        adopted = pool.adopt(entry, session.ids, len(session.ids) - 1)
        self._metrics.prefix_looked_up(len(session.ids), adopted)
        if not adopted:
            return wish
        self._sessions.found(entry, adopted)
        session.adopted(adopted)
        return session.wish()

    def _item(self, entry: Entry, work: Pass) -> Item:
        paths = None
        if not isinstance(work.prefix, range):
            paths = tuple(tuple(path) for path in work.row_paths())
        extent = self._sessions.pool.extent_of(entry)
        return Item(extent, work.span, work.sampling, paths, work.row, judged(entry, work), entry.owner)

    def _prefill_positions(self) -> int | None:
        cost = self.cost
        if cost is None or cost.per_position_s <= 0:
            return None
        return max(MIN_PREFILL_POSITIONS, int(PREFILL_STEP_S / cost.per_position_s))

    def _ask(self, ask: Step | DraftStep, then: Then) -> None:
        assert self._engine is not None
        self._engine.submit(ask, then)
        self._busy = True
        self.quotes.load.began(self._clock(), len(self._ready), len(self._sessions.admission))

    # ---- answers ----

    def _stepped(self, works: Sequence[tuple[Entry, Pass, float]], done: StepDone | Drafted | Exception) -> None:
        self._busy = False
        self.quotes.load.ended(self._clock())
        for entry, _, _ in works:
            self._sessions.pool.unpin(entry)
        if not isinstance(done, StepDone):
            self._lost([(entry, work) for entry, work, _ in works], done)
            self._go()
            return
        if done.positions:
            self._line.add(done.positions, done.pass_s)
            self._gathering.stepped(done.pass_s)
            self.quotes.stepped([work for _, work, _ in works], self.cost)
        counts: list[Callable[[], None]] = []
        for (entry, work, queue_s), outcome in zip(works, done.outcomes, strict=True):
            if outcome.failure:
                entry.session.lost_pass(work)
                self._sessions.rolled_back(entry)
                self._give_up(entry, outcome.failure)
                continue
            try:
                counts.append(self._pass(entry, work, outcome, Timing(queue_s, done.pass_s + entry.own_draft_s)))
            except Exception as error:  # a bug in one session must not end the others
                log.exception("a session could not take its pass")
                self._give_up(entry, f"{type(error).__name__} in the session")
        self._own_lengths.stepped(self.cost)
        self._go()
        self._metrics.stepped(done, self.cost)  # while the engine is at the next step
        for count in counts:
            try:
                count()
            except Exception:  # what cannot be counted must not keep the rest from being so
                log.exception("a pass could not be counted")
        if not self._busy:
            self._show(0, 0)

    def _pass(self, entry: Entry, work: Pass, outcome: Outcome, timing: Timing) -> Callable[[], None]:
        """Let a session take its pass; return what is to be counted of it."""
        session = entry.session
        entry.own_draft_s, entry.suspect = 0.0, False
        frames = session.finished_pass(work, PassResult(outcome.choices, timing, outcome.row, outcome.evidence))
        if entry in self._sessions.pool:
            self._sessions.pool.advanced(entry, session.rows_in_place)
        self._send(entry, frames)
        self._note_held(entry, work, frames)
        self._own_lengths.passed(entry, work, frames)
        if not session.finished:
            if frames or work.work is not Work.PREFILL:  # that keeps its place in the queue
                entry.ready_at = self._clock()
            self._ready[entry] = None
        return partial(self._count, entry, work, outcome, timing, frames)

    def _note_held(self, entry: Entry, work: Pass, frames: Sequence[EdgeFrame]) -> None:
        entry.held = None
        for frame in frames:
            if isinstance(frame, NeedHidden):
                entry.held = work
                self._metrics.meaning.waits_for_states(len(frame.hashes))
        self._deadlines.note(entry)

    def _count(self, entry: Entry, work: Pass, outcome: Outcome, timing: Timing, frames: Sequence[EdgeFrame]) -> None:
        self._metrics.passed(work, timing, frames, near_ties=outcome.near_ties)
        end = work.span.start + len(work.span.tokens)
        if work.span.start < entry.most_rows and work.work is Work.PREFILL:
            self._metrics.replayed(min(end, entry.most_rows) - work.span.start)
        entry.most_rows = max(entry.most_rows, entry.session.kv_length)
        if frames and entry.opened_at is not None:
            self._metrics.first_token(self._clock() - entry.opened_at)
            entry.opened_at = None

    def _give_up(self, entry: Entry, reason: str) -> None:
        log.error("a session is given up: %s", reason)
        self._sessions.forget(entry, Ended.ERROR)
        for stream in entry.streams.values():  # the device may have attached anew since the pass began
            stream.end(PassFailed(reason))

    def _lost(self, works: Sequence[tuple[Entry, Pass]], reason: object) -> None:
        """The engine died with a step at work; one of its sessions may be why, so that each is next tried alone."""
        log.error("a step of %d sessions was lost: %s", len(works), reason)
        if isinstance(reason, EngineDied):
            self.stop()  # until another one begins
        for entry, work in works:
            entry.session.lost_pass(work)
            self._sessions.rolled_back(entry)
            if entry.suspect:
                self._give_up(entry, "the engine did not survive this session's passes")
            entry.suspect = True

    # ---- audits ----

    def _audit(self) -> None:
        """Let audits have the engine while nobody has work for it, and nobody is about to."""
        audits, cost = self._sessions.audits, self.cost
        if not len(audits):
            return
        now_s = self._clock()
        dues = [due for entry in self._sessions if (due := entry.answers.due) is not None and due > now_s]
        free_until_s = min([self._wakes_s, *dues])
        if cost is not None and now_s + cost.seconds(2 * AT_ONCE) > free_until_s:
            self._wake_at(free_until_s)
            return
        items = audits.items()
        if not items:
            return
        self._number += 1
        assert self._engine is not None
        self._busy = True  # what it costs is no load: whoever comes has it next
        try:
            self._engine.submit(Step(self._number, items, self._sessions.pool.take_fills()), self._audited)
        except Exception as error:
            self._audited(error)

    def _audited(self, done: StepDone | Drafted | Exception) -> None:
        self._busy = False
        if isinstance(done, StepDone):
            self._sessions.audits.stepped(done.outcomes)
            self._line.add(done.positions, done.pass_s)
        else:
            log.error("a step of audits was lost: %s", type(done).__name__)
            self._sessions.audits.lost()
            if isinstance(done, EngineDied):
                self.stop()
        self._go()
        if isinstance(done, StepDone):
            self._metrics.stepped(done, self.cost)

    # ---- the edge's own drafter ----

    def _draft(self) -> bool:
        asked: list[tuple[Entry, DraftWork]] = []
        for entry in self._ready:
            if not entry.session.own_draft_due or entry not in self._sessions.pool:
                continue
            if self._throttle.until_s(entry) is not None:
                continue
            work = entry.session.own_draft()
            if work is not None:
                asked.append((entry, work))
        if not asked:
            return False
        items = tuple(DraftItem(entry.number, entry.session.sampling, work.path, work.count) for entry, work in asked)
        for entry, _ in asked:
            entry.drafted = True
        self._number += 1
        self._drafted_last = True
        self._ask(DraftStep(self._number, items, tuple(self._undrafted)), partial(self._drafted, asked))
        self._undrafted.clear()
        return True

    def _drafted(self, asked: Sequence[tuple[Entry, DraftWork]], done: StepDone | Drafted | Exception) -> None:
        self._busy = False
        self.quotes.load.ended(self._clock())
        if isinstance(done, EngineDied):
            self.stop()
            for entry, _ in asked:
                entry.own_length = OwnDraftLength(0)  # it may be the draft that the engine did not survive
                entry.session.own_draft_tokens = 0
        if isinstance(done, Drafted) and any(done.tokens):
            longest = max(len(written) for written in done.tokens)
            token_s = done.draft_s / longest
            self.quotes.draft_s += (DRAFT_MEMORY if self.quotes.draft_s else 1.0) * (token_s - self.quotes.draft_s)
        tokens = done.tokens if isinstance(done, Drafted) else ((),) * len(asked)  # it costs time, not the text
        for (entry, work), written in zip(asked, tokens, strict=True):
            entry.own_draft_s = done.draft_s if isinstance(done, Drafted) else 0.0
            entry.session.own_drafted(work, written)
            self._ready[entry] = None
        self._go()
