"""Texts over a link in virtual time: the session cores as they are, with stated or fitted costs, one text or thousands.

Devices, links and an edge with one engine. What the drafter and the target would write is given (``MatchRun``); when it
is written, sent and shown comes out. Nothing here knows the protocol: frames go into a core, frames and work come out,
as in the services' pumps. Seconds are virtual; the same inputs give the same seconds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from airdraft.core.drafting import Drafter
from airdraft.core.session import Committed, Company, DeviceSession, EdgeSession, RunAhead, Wish
from airdraft.core.session.device import Output
from airdraft.core.session.overtaking import Overtaking
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    DraftWork,
    EdgeFrame,
    Finish,
    Identity,
    Limits,
    Open,
    Opened,
    Origin,
    Pass,
    PassResult,
    Ping,
    Plan,
    Prefix,
    Quote,
    Report,
    Sampling,
    Semantic,
    Timing,
)
from airdraft.link import sim_meaning
from airdraft.link.shaping import Air, Shape, Stream
from airdraft.link.sim_costs import FRAMING_BYTES, IDEAL, Costs, Overheads, message_bytes
from airdraft.link.sim_engine import Engine, Gather, GatheringEngine
from airdraft.link.sim_planner import Steering, Terms
from airdraft.link.sim_text import MatchDrafter, MatchRun, TextRows
from airdraft.link.virtual_time import Agenda

ENDLESS = Limits(context_tokens=1 << 24)
"""The limits that an edge grants where nothing is said, but for its context."""

_IDENTITY = Identity(bytes(32), bytes(32))
_ON_STEP = 1e-6  # of a draft step: a time computed as a sum of floats belongs to the step that it ends


@dataclass(frozen=True, slots=True)
class Conduct:
    """How device and edge go about a text."""

    plan: Plan
    limits: Limits = ENDLESS
    own_draft_tokens: int = 0  # that the edge drafts for a pass while the device idles
    own_drafter: Callable[[MatchRun], Drafter] = MatchDrafter  # of the edge
    run_ahead: bool = False  # the edge goes ahead of a device whose draft has not come
    overtaking: bool = False  # and the device rests where its drafts would come too late
    row_bytes: int = 0  # of the row that comes down with a recovered token; 0: the device asks for none
    bonus: bool = True  # the edge commits its own token after a draft that was right
    steering: Steering | None = None  # decides in place of ``plan``, from what the device sees
    terms: Callable[[World, MatchRun], Terms] | None = None  # the edge's quotes and own drafts; else none and fixed
    semantic: Semantic | None = None  # what the device asks for; None is exact


@dataclass(frozen=True, slots=True)
class Link:
    """The two directions between one device and the edge."""

    up: Stream
    down: Stream

    @classmethod
    def of(cls, up: Shape, down: Shape, random: Random) -> Link:
        """Return a link of its own air."""
        return cls(Stream(up, Air(up.conditions), random), Stream(down, Air(down.conditions), random))


@dataclass(slots=True)
class SimulatedText:
    """What one text came to; times count from the simulation's start."""

    started_s: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # of each commit at the device: when, tokens
    bytes_up: int = 0  # messages, without what carries them
    bytes_down: int = 0
    draft_s: float = 0.0  # the device's seconds at its drafter
    pass_s: float = 0.0  # this text's share of the engine's seconds, its own drafting included, overheads not
    passes: int = 0
    drafted: int = 0  # tokens put to a pass, by either end
    accepted: int = 0

    @property
    def tokens(self) -> int:
        """Return how many tokens were committed."""
        return sum(count for _, count in self.arrivals)

    @property
    def seconds(self) -> float:
        """Return the time from the first commit's arrival to the last one's."""
        return self.arrivals[-1][0] - self.arrivals[0][0]

    @property
    def first_token_s(self) -> float:
        """Return the time from the text's start to the first commit's arrival."""
        return self.arrivals[0][0] - self.started_s


class Generation:
    """One text between its device and the edge."""

    def __init__(self, world: World, number: int, run: MatchRun, conduct: Conduct, link: Link) -> None:
        """Prepare; ``number`` is the session's place in the engine's turns."""
        self.number, self.run = number, run
        self.over = False
        self.outcome = SimulatedText(world.agenda.now)
        self._world, self._agenda, self._link, self._conduct = world, world.agenda, link, conduct
        self._up_s: float | None = None  # the last frame's time on the way
        self._down_s: float | None = None
        overtaking = Overtaking(lambda: world.agenda.now, self._round_trip_s) if conduct.overtaking else None
        self._device = DeviceSession(
            number.to_bytes(16, "little"),
            _IDENTITY,
            run.prompt,
            sampling=Sampling(),
            stop_ids=run.stop_ids,
            max_tokens=run.most,
            limits=conduct.limits,
            plan=conduct.plan,
            overtaking=overtaking,
            semantic=conduct.semantic,
        )
        self._steering = conduct.steering
        if self._steering is not None:
            self._steering.begins()
            self._device.plan = self._steering.conduct
        self._pings_s: list[float] = []  # [number] when each ping went
        self._terms = conduct.terms(world, run) if conduct.terms else None
        self._arrived_s = 0.0  # when the edge heard last of the device
        self._queue_s = 0.0  # of the pass at work
        self._own_s = 0.0  # what the edge's drafter took, until the pass that verifies it
        self._alarm_s: float | None = None  # when the edge is to see to the session again
        self._edge: EdgeSession | None = None
        self.run_ahead = RunAhead(lambda: world.agenda.now, world.company) if conduct.run_ahead else None
        self._rows = TextRows(run)
        self._drafter = MatchDrafter(run)
        self._own_drafter = conduct.own_drafter(run)
        self._learned = 0  # ids that the edge's drafter knows of
        self._work: DraftWork | None = None  # what the device's drafter is at
        self._tokens: list[int] = []  # and will have written
        self._draft_starts_s = 0.0
        self._drafts_on = False  # the draft that is about to begin goes on from one that has just ended
        self._draft_ends: object = None  # the event that ends it
        self._own_tokens: list[int] = []  # what the edge's drafter is writing

    def _round_trip_s(self) -> float | None:
        """Return what the pump of a real device would have measured."""
        return None if self._up_s is None or self._down_s is None else self._up_s + self._down_s

    def begin(self) -> None:
        """Attach."""
        self._device_does(self._device.attach(1, with_prefix=True))
        if self._steering is not None:  # as a device does on each new stream
            self._ping()

    # ---- the device ----

    def _device_does(self, outputs: Sequence[Output]) -> None:
        if self._work is None:
            self._draft()
        elif not self._device.is_current(self._work):
            self._cut_short()
        for output in outputs:
            if isinstance(output, Committed):
                if output.ids:
                    self.outcome.arrivals.append((self._agenda.now, len(output.ids)))
            else:
                assert isinstance(output, (Open, Prefix, Draft, Report, Finish)), "one edge, which refuses nothing"
                self._send_up(output)
        if self._device.ended and not self.over:
            self._finished()

    def _draft(self) -> None:
        work = self._device.draft_work()
        if work is None:
            return
        self._work = work
        self._tokens = self._drafter.propose(work.path, work.count, lambda: False)
        # A drafter that goes on from what it has just written waits for nobody.
        self._draft_starts_s = self._agenda.now + (0.0 if self._drafts_on else self._world.overheads.round_s)
        self._end_draft(self._draft_starts_s + len(self._tokens) * self._world.draft_step_s)

    def _cut_short(self) -> None:
        """Let the drafter stop at once: the token that it is at is given up."""
        step_s, worked_s = self._world.draft_step_s, self._agenda.now - self._draft_starts_s
        written = max(0, math.floor(worked_s / step_s + _ON_STEP)) if step_s else len(self._tokens)
        if written < len(self._tokens):
            del self._tokens[written:]
            self.outcome.draft_s += max(0.0, worked_s - written * step_s)
            self._end_draft(self._agenda.now)

    def _end_draft(self, when: float) -> None:
        event = self._draft_ends = object()
        self._agenda.at(when, lambda: self._drafted() if event is self._draft_ends else None)

    def _drafted(self) -> None:
        assert self._work is not None
        work, self._work = self._work, None
        self.outcome.draft_s += len(self._tokens) * self._world.draft_step_s
        self._drafts_on = True
        self._device_does(self._device.drafted(work, self._tokens))
        self._drafts_on = False
        overtaking = self._device.overtaking
        if self._steering is not None and overtaking is not None and overtaking.last_draft is not None:
            self._steering.drafted(*overtaking.last_draft, self._agenda.now)

    def _send_up(self, frame: DeviceFrame) -> None:
        size = message_bytes(frame)
        self.outcome.bytes_up += size
        arrives_s = self._link.up.arrival_s(self._agenda.now + self._world.overheads.up_s, size + FRAMING_BYTES)
        self._up_s = arrives_s - self._agenda.now
        if self._steering is not None:
            self._steering.sent(frame, size + FRAMING_BYTES, self._agenda.now)
        self._agenda.at(arrives_s, partial(self._edge_takes, frame))

    def _finished(self) -> None:
        tally, outcome, self.over = self._device.tally, self.outcome, True
        if self._conduct.semantic is None:
            assert tuple(self._device.ids) == self.run.text, "the text is the target's own under any schedule"
        assert len(self._device.ids) == len(self.run.text)
        assert self.run.stands(self._device.ids), "each token is the target's own or another wording that is as good"
        outcome.drafted += tally.drafted
        outcome.accepted = tally.accepted + tally.by_origin[Origin.EDGE_DRAFT]

    # ---- the edge ----

    def _edge_takes(self, frame: DeviceFrame) -> None:
        if isinstance(frame, Open):
            granted, judge = sim_meaning.granted(frame)
            self._edge = EdgeSession(
                frame,
                self._conduct.limits,
                own_draft_tokens=self._conduct.own_draft_tokens,
                run_ahead=self.run_ahead,
                bonus=self._conduct.bonus,
                granted=granted,
                judge=judge,
                clock=lambda: self._agenda.now,
            )
            if self._terms is not None:
                self._terms.begins(self._edge)
            quote = self._quote(opened=True) or Quote(runs_ahead=self._conduct.run_ahead)
            frames = self._edge.attach(frame)
            self._edge_says([replace(it, quote=quote) if isinstance(it, Opened) else it for it in frames])
        else:
            assert self._edge is not None
            self._edge_says(self._edge.received(frame))
            self._wakes()
        self._arrived_s = self._agenda.now
        self._world.engine.ready(self)

    def _quote(self, *, opened: bool) -> Quote | None:
        return self._terms.quote(self._agenda.now, opened=opened) if self._terms is not None else None

    def _edge_says(self, frames: Sequence[EdgeFrame]) -> None:
        for frame in frames:
            size = message_bytes(frame, self._conduct.row_bytes)
            self.outcome.bytes_down += size
            arrives_s = self._link.down.arrival_s(self._agenda.now + self._world.overheads.down_s, size + FRAMING_BYTES)
            self._down_s = arrives_s - self._agenda.now
            self._agenda.at(arrives_s, partial(self._device_takes, frame))

    def _device_takes(self, frame: EdgeFrame) -> None:
        self._device_does(self._device.received(frame))
        if self._steering is None or self.over:
            return
        if isinstance(frame, Ping):
            self._steering.pinged(self._agenda.now - self._pings_s[frame.number], self._agenda.now)
            return
        plan = self._steering.received(frame, self._device.tally, self._agenda.now)
        if plan is not None:
            self._device_does(self._device.replan(plan))
        if self._conduct.semantic is not None:
            self._device_does(self._device.channel(*self._steering.channel))
        if self._steering.wants_ping:
            self._steering.pings()
            self._ping()

    def _ping(self) -> None:
        self._pings_s.append(self._agenda.now)
        self._send_up(Ping(1, len(self._pings_s) - 1))

    def wish(self) -> Wish | None:
        """Return what the session would do in the next step; one that sits it out is asked again by itself."""
        if self._edge is None:
            return None
        wish = self._edge.wish()
        self._wakes()
        return wish

    def next_pass(self, positions: int | None = None) -> Pass | None:
        """Return the session's next pass, of at most so many positions; one that sits the step out comes back."""
        if self._edge is None:
            return None
        work = self._edge.next_pass() if positions is None else self._edge.next_pass(positions)
        self._queue_s = self._agenda.now - self._arrived_s
        self._wakes()
        return work

    def _wakes(self) -> None:
        if self._edge is None or self._edge.wakes_s is None or self._edge.wakes_s == self._alarm_s:
            return
        self._alarm_s = self._edge.wakes_s
        self._agenda.at(self._alarm_s, partial(self._woken, self._alarm_s))

    def _woken(self, alarm_s: float) -> None:
        """See to a deadline, or to the end of a wait."""
        assert self._edge is not None
        if self._alarm_s == alarm_s:
            self._alarm_s = None
        self._edge_says(self._edge.due())
        self._world.engine.ready(self)

    def passed(self, work: Pass, step_s: float, share_s: float) -> None:
        """Commit what a pass decided."""
        assert self._edge is not None
        self.outcome.passes += 1
        self.outcome.pass_s += share_s
        timing, self._own_s = Timing(self._queue_s, step_s + self._own_s), 0.0
        choices = self._rows.extend(work.span)
        evidence = self._rows.evidence(work.span, work.nodes, choices) if work.judged else ()
        frames = self._edge.finished_pass(work, PassResult(choices, timing, evidence=evidence))
        if self._terms is not None:
            self._terms.passed(work, frames)
            if (quote := self._quote(opened=False)) is not None:
                frames = [replace(it, quote=quote) if isinstance(it, Commit) else it for it in frames]
        self._edge_says(frames)

    def own_draft(self) -> tuple[DraftWork, float] | None:
        """Return what the edge's own drafter is to write, and the seconds; it is written at once, and kept."""
        work = self._edge.own_draft() if self._edge is not None else None
        if work is None:
            return None
        self._own_drafter.learn(work.path[self._learned :])
        self._learned = len(work.path)
        self._own_tokens = self._own_drafter.propose(work.path, work.count, lambda: False)
        self.outcome.drafted += len(self._own_tokens)
        return work, len(self._own_tokens) * self._world.own_draft_step_s

    def own_drafted(self, work: DraftWork, share_s: float) -> None:
        """Take what the edge drafted, and this text's share of its seconds."""
        assert self._edge is not None
        self.outcome.pass_s += share_s
        self._own_s = len(self._own_tokens) * self._world.own_draft_step_s
        self._edge.own_drafted(work, self._own_tokens)


class World:
    """Virtual time, an edge with one engine, and what everything costs."""

    def __init__(
        self, costs: Costs, overheads: Overheads = IDEAL, *, sessions_a_step: int = 1, gather: Gather | None = None
    ) -> None:
        """Begin at 0 s; ``gather`` says when steps begin, and all join: without it a session's work begins one."""
        self.agenda = Agenda()
        self.overheads = overheads
        self.draft_step_s = costs.draft_s + overheads.draft_step_s
        self.own_draft_step_s = costs.own_draft_s + overheads.draft_step_s
        self.company = gather.company if gather is not None else Company()
        held_s = overheads.pass_s
        self.engine = (
            Engine(self.agenda, costs.step_s, overhead_s=held_s, sessions_a_step=sessions_a_step)
            if gather is None
            else GatheringEngine(self.agenda, costs.step_s, gather, overhead_s=held_s)
        )

    def one_by_one(self, runs: Sequence[MatchRun], conduct: Conduct, link: Link) -> list[SimulatedText]:
        """Write the texts one after the other over one link; return what each came to.

        Raises ValueError where the link never comes back.
        """
        return [self.fleet([run], [self.agenda.now], conduct, lambda _: link)[0] for run in runs]

    def fleet(
        self,
        runs: Sequence[MatchRun],
        starts_s: Sequence[float],
        conduct: Conduct | Callable[[int], Conduct],
        link: Callable[[int], Link],
    ) -> list[SimulatedText]:
        """Write the texts side by side, each begun at its time over the link of its index; return what each came to.

        ``conduct`` may be one for all, or each index's own.

        Raises ValueError where a link never comes back.
        """
        texts: list[SimulatedText] = []

        def begin(index: int) -> None:
            its = conduct if isinstance(conduct, Conduct) else conduct(index)
            generation = Generation(self, index, runs[index], its, link(index))
            texts[index] = generation.outcome
            generation.begin()

        for index, start_s in enumerate(starts_s):
            texts.append(SimulatedText(start_s))
            self.agenda.at(start_s, partial(begin, index))
        self.agenda.run(events=sys.maxsize)
        if any(text.tokens < len(run.ids) for text, run in zip(texts, runs, strict=True)):
            raise ValueError("a link is out for good, and a text is not over")
        return texts
