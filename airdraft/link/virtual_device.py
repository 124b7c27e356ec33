"""A device process in virtual time: session core, choice of edges, liveness, journal, joined as in the real client.

Whatever ends a stream, the loop is the same: let go, choose an edge, mint an epoch, journal it, attach. The journal is
a list that outlives the process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.core.errors import Draining, EdgeFault, EdgeUnreachable, SpecError, error_of
from airdraft.core.session import Committed, DeviceSession, Journalled, Liveness, Lost, Output, Overtaking, Reattachment
from airdraft.core.types import (
    DeviceFrame,
    DraftWork,
    Drain,
    EdgeFrame,
    Limits,
    Opened,
    Ping,
    Plan,
)
from airdraft.link.virtual_journal import Journal, Record, Wish
from airdraft.link.virtual_stream import End, Process, Stream
from airdraft.link.virtual_time import Agenda, NextDraft, chained

DIAL_S = 5.0
"""How long an attempt may hang before it counts as failed."""

LEAVE_S = 1.0
"""How long a device waits for one more commit of an edge that is going away."""


State = Callable[[Sequence[int]], NDArray[np.float32]]
"""The drafter's state, [d], of the token at the end of a path."""


class Network(Protocol):
    """What carries a device's calls."""

    def dial(self, device: DeviceProcess, edge: str, answer: Callable[[Limits | None], None]) -> None:
        """Reach for an edge; ``answer`` gets what it describes, or None where it is known not to be there."""
        ...

    def call(self, device: DeviceProcess, edge: str, epoch: int) -> Stream:
        """Begin a call of ``Generate`` to an edge that answered."""
        ...


class DeviceWitness(Protocol):
    """Whoever looks at what a device does; its user among them."""

    def started(self, device: DeviceProcess) -> None:
        """See the text that a new process shows first."""
        ...

    def shown(self, device: DeviceProcess, committed: Committed) -> None:
        """See text that is final."""
        ...

    def device_says(self, device: DeviceProcess, frame: DeviceFrame) -> None:
        """See a frame before it leaves."""
        ...

    def device_drafts(self, device: DeviceProcess, work: DraftWork) -> None:
        """See what the drafter is asked for."""
        ...

    def failed(self, device: DeviceProcess, edge: str, error: SpecError) -> None:
        """See why an attempt or a stream failed."""
        ...


class DeviceProcess(Process):
    """Runs one generation until its text is over, it is killed, or it gives up."""

    def __init__(
        self,
        agenda: Agenda,
        name: str,
        wish: Wish,
        journal: Journal,
        limits: Limits,
        draft: NextDraft,
        network: Network,
        witness: DeviceWitness,
        chance: random.Random,
        offset_s: float = 0.0,
        state: State | None = None,
    ) -> None:
        """``state`` gives the drafter's states, where the wish offers them."""
        super().__init__(agenda, name, offset_s)
        self.wish, self.journal = wish, journal
        self.session = DeviceSession(
            wish.session_id,
            wish.identity,
            wish.prompt,
            sampling=wish.sampling,
            stop_ids=wish.stop_ids,
            max_tokens=wish.max_tokens,
            limits=limits,
            plan=wish.plan,
            journalled=Journalled(journal.epoch, tuple(journal.ids), journal.receipt, journal.stop),
            overtaking=Overtaking(lambda: self.now, self._round_trip_s) if wish.rests else None,
            semantic=wish.semantic,
        )
        self._state = state if wish.semantic is not None and wish.semantic.state_width else None
        self.over = journal.stop is not None  # all of the text was shown
        self.gave_up: SpecError | None = None  # why the program ended without it
        self.stream: Stream | None = None
        self.effects_left: int | None = None  # the process is killed after so many more
        self._routes = Reattachment(wish.edges, wish.give_up_s, chance.random)
        self._draft, self._network, self._witness, self._chance = draft, network, witness, chance
        self._life: Liveness | None = None
        self._round_trips: dict[str, float | None] = {}
        self._dials: set[object] = set()
        self._plan = 0  # which plan for the next attempt is in force
        self._drafting = False
        self._leaving: Drain | None = None

    @property
    def running(self) -> bool:
        """Return whether the process still works at its text."""
        return self.alive and not self.over and self.gave_up is None

    def _round_trip_s(self) -> float | None:
        return None if self._life is None else self._life.round_trip_s

    def start(self) -> None:
        """Show what the journal holds, then go on with it."""
        self._witness.started(self)
        if not self.over:
            self._routes.begin(self.now)
            self._plan_next()

    def die(self) -> None:
        """Be killed; the journal stays."""
        super().die()
        self.stream = None

    # ---- to an edge ----

    def _plan_next(self) -> None:
        """Wait until the next attempt is due, also while another hangs."""
        if self.stream is not None or not self.running:
            return
        self._plan += 1
        plan = self._plan
        try:
            attempt = self._routes.next(self.now)
        except SpecError as error:
            if not self._dials:
                self.gave_up = error
            return
        if attempt.at < self._routes.over_at:
            self.at(attempt.at, lambda: self._try(plan, attempt.edge))
        else:
            self.at(self._routes.over_at, lambda: self._plan_next() if plan == self._plan else None)

    def _try(self, plan: int, edge: str) -> None:
        if plan != self._plan or self.stream is not None or not self.running:
            return
        dial = object()
        self._dials.add(dial)
        self._routes.started(edge, self.now, self._round_trips.get(edge))
        self._network.dial(self, edge, lambda limits: self._answered(dial, edge, limits))
        self.after(DIAL_S, lambda: self._answered(dial, edge, None))
        self._plan_next()

    def _answered(self, dial: object, edge: str, limits: Limits | None) -> None:
        if dial not in self._dials:
            return  # another answered first, or this one too late
        self._dials.discard(dial)
        if limits is None:
            self._failed(edge, EdgeUnreachable(f"{edge} does not answer"))
            return
        self._dials.clear()
        self._attach(edge, limits)

    def _attach(self, edge: str, limits: Limits) -> None:
        epoch = self.session.next_epoch
        self._write(epoch)
        if not self.alive:
            return
        self.stream = self._network.call(self, edge, epoch)
        self._life, self._leaving = Liveness(self.now, round_trip_s=self._round_trips.get(edge)), None
        self._do(self.session.attach(epoch, with_prefix=self._chance.random() < 0.5, limits=limits))
        self._look(self.stream)

    def _failed(self, edge: str, error: SpecError) -> None:
        self._witness.failed(self, edge, error)
        try:
            self._routes.failed(edge, error, self.now)
        except SpecError as fatal:
            self.gave_up = fatal
        self._plan_next()

    def _lost(self, error: SpecError) -> None:
        """Let go of the stream and go on elsewhere."""
        stream, self.stream = self.stream, None
        assert stream is not None
        self.session.detached()
        stream.up.send(End.RESET)
        self._failed(stream.edge, error)

    def lost(self, stream: Stream) -> None:
        """Learn that a stream is gone."""
        if stream is self.stream:
            self._lost(EdgeUnreachable("the link was cut"))

    # ---- from an edge ----

    def take(self, stream: Stream, frame: EdgeFrame | End) -> None:
        """Take what came on a stream, be it one of before."""
        current = stream is self.stream
        if isinstance(frame, End):
            self.lost(stream)
            return
        if current and self._life is not None:
            self._life.heard(self.now)
            if isinstance(frame, Ping) and frame.ack:
                self._life.acked(frame.number, self.now)
                self._round_trips[stream.edge] = self._life.round_trip_s
        try:
            outputs = self.session.received(frame)
        except EdgeFault as fault:
            self._lost(fault)
            return
        if isinstance(frame, Opened) and current:
            self._routes.attached(stream.edge)
        self._do(outputs)

    def _look(self, stream: Stream | None) -> None:
        if stream is None or stream is not self.stream or self._life is None:
            return
        verdict = self._life.look(self.now)
        if verdict == "gone":
            self._lost(EdgeUnreachable("the edge is silent"))
            return
        if verdict == "ping":
            self._send(Ping(stream.epoch, self._life.ping_number))
        self.at(self._life.next_look, lambda: self._look(stream))

    # ---- effects ----

    def _do(self, outputs: Sequence[Output]) -> None:
        """Let outputs take effect, in order: text is journalled, then shown, before the frame that acks it leaves."""
        for output in outputs:
            if not self.alive:
                return
            if isinstance(output, Committed):
                self._committed(output)
            elif isinstance(output, Lost):
                self._lost(error_of(output.refusal))
            elif isinstance(output, Drain):
                self._told_to_leave(output)
            else:
                self._send(output)
        self._start_drafting()

    def _committed(self, committed: Committed) -> None:
        self._write(committed)
        if self.alive:
            self._effect(lambda: self._witness.shown(self, committed))
        if not self.alive:
            return
        self._routes.held()
        self.over = committed.stop is not None
        if self._leaving is not None and not self.over:
            self._leave()

    def _write(self, record: Record) -> None:
        self._effect(lambda: self.journal.records.append(record))

    def _send(self, frame: DeviceFrame) -> None:
        stream = self.stream
        if stream is None or not self.alive:
            return

        def send() -> None:
            self._witness.device_says(self, frame)
            stream.sent.append(frame)
            stream.up.send(frame)

        self._effect(send)
        if self.over:
            stream.up.send(End.CLOSED)

    def _effect(self, happen: Callable[[], None]) -> None:
        """Do what outlives the process, unless it is killed at that very moment."""
        if self.effects_left == 0:
            self.die()
            return
        if self.effects_left is not None:
            self.effects_left -= 1
        happen()

    def _start_drafting(self) -> None:
        work = None if self._drafting or not self.running else self.session.draft_work()
        if work is None:
            return
        self._witness.device_drafts(self, work)
        tokens = chained(self._draft, work)
        self._drafting = True

        def done() -> None:
            self._drafting = False
            self._do(self.session.drafted(work, tokens, states=self._states(work.path, tokens)))

        self.after(0.001 * max(1, len(tokens)), done)

    def _states(self, path: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32] | None:
        if self._state is None or not tokens:
            return None
        return np.stack([self._state((*path, *tokens[: index + 1])) for index in range(len(tokens))])

    def replans(self, plan: Plan) -> None:
        """Draft by another plan from now on."""
        if self.running:
            self._do(self.session.replan(plan))

    # ---- an edge that goes away ----

    def _told_to_leave(self, drain: Drain) -> None:
        self._routes.learned(drain.edges)
        if self._routes.others:
            self._leaving, stream = drain, self.stream
            self.after(LEAVE_S, lambda: self._leave() if self.stream is stream and self._leaving else None)

    def _leave(self) -> None:
        drain, self._leaving = self._leaving, None
        if self.stream is not None and drain is not None:
            self._lost(Draining("the edge is going away", retry_after_s=drain.deadline_s))
