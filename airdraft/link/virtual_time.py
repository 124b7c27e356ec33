"""Both session cores in one process under a virtual clock: the driver of tests and simulations.

The target is a function of the whole path. The cache is kept as rows of ids, so a core that miscounts its rows gets
wrong text here just as it would on a real engine.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from airdraft.core.errors import SpecError, refusal
from airdraft.core.session import Committed, DeviceSession, EdgeSession, Lost
from airdraft.core.session.device import Output
from airdraft.core.types import DeviceFrame, DraftWork, Drain, EdgeFrame, Limits, Open, Pass, PassResult, Span

NextToken = Callable[[Sequence[int]], int]
NextDraft = Callable[[Sequence[int]], int | None]
Delay = Callable[[], float]


class Agenda:
    """What is going to happen in virtual time, in order; what is due at one time happens in the order it was put down.

    ``now`` is the time in seconds; nothing else moves it but ``run``.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Put down what happens at ``when``, which is not before ``now``."""
        self._order += 1
        heapq.heappush(self._events, (when, self._order, happen))

    def run(self, *, seconds: float = 1e9, events: int = 1_000_000) -> None:
        """Let time pass until nothing happens any more, or for so long, or for so many events."""
        end = self.now + seconds
        while self._events and events > 0:
            if self._events[0][0] > end:
                self.now = end
                return
            self.now, _, happen = heapq.heappop(self._events)
            happen()
            events -= 1


class RowEngine:
    """A cache of ids in place of keys and values, and a target that reads the path from it."""

    def __init__(self, target: NextToken) -> None:
        self.rows: list[int] = []
        self._target = target

    def extend(self, span: Span) -> tuple[int, ...]:
        """Run one span; return the target's choice after each wanted row. Raises IndexError on missing rows."""
        return tuple(self._target(path) for path in self.paths(span))

    def paths(self, span: Span) -> list[list[int]]:
        """Run one span; return what the cache holds up to and with each wanted row. Raises IndexError as above."""
        if span.gather:
            first = span.start - len(span.gather)
            self.rows[first:] = [self.rows[row] for row in span.gather]
        if span.start > len(self.rows):
            raise IndexError(f"span starts at {span.start}, the cache holds {len(self.rows)} rows")
        del self.rows[span.start :]
        committed = list(self.rows)
        self.rows.extend(span.tokens)
        paths: list[list[int]] = []
        for index, token in enumerate(span.tokens):
            parent = index - 1 if span.parents is None else span.parents[index]
            paths.append([*(committed if parent < 0 else paths[parent]), token])
        return [paths[row] for row in span.wanted]


def chained(draft: NextDraft, work: DraftWork) -> list[int]:
    """Return what a drafter writes for ``work``, token by token, for as long as it has something to say."""
    tokens: list[int] = []
    while len(tokens) < work.count and (token := draft((*work.path, *tokens))) is not None:
        tokens.append(token)
    return tokens


def constant(seconds: float) -> Delay:
    """Return a delay that is always the same."""
    return lambda: seconds


@dataclass(slots=True)
class VirtualPair:
    """A device and an edge, a link between them, and the time that everything takes.

    ``draft`` gives the drafter's next token for a path, or None where it has none; ``pass_s`` is the time of a pass of
    that many positions. Frames of one direction keep their order.
    """

    device: DeviceSession
    target: NextToken
    draft: NextDraft
    limits: Limits
    up: Delay = lambda: 0.01
    down: Delay = lambda: 0.01
    draft_s: float = 0.001
    pass_s: Callable[[int], float] = lambda positions: 0.005
    edge: EdgeSession | None = None
    sent: list[DeviceFrame] = field(default_factory=list)
    answered: list[EdgeFrame] = field(default_factory=list)
    commits: list[Committed] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    engine: RowEngine = field(init=False)
    _agenda: Agenda = field(default_factory=Agenda)
    _last_up: float = 0.0
    _last_down: float = 0.0
    _drafting: bool = False
    _link: int = 0  # which link is up; frames on an earlier one never arrive

    def __post_init__(self) -> None:
        self.engine = RowEngine(self.target)

    @property
    def now(self) -> float:
        """Return the time in seconds."""
        return self._agenda.now

    # ---- scenes ----

    def attach(self, epoch: int, *, with_prefix: bool = True) -> None:
        """Open a stream on a fresh link."""
        self._link += 1
        self._last_up = self._last_down = self.now
        self._device_does(self.device.attach(epoch, with_prefix=with_prefix))

    def cut(self) -> None:
        """Cut the link: what is in the air is lost, and both ends notice."""
        self._link += 1
        self.device.detached()
        if self.edge is not None:
            self.edge.detached(self.edge.epoch)

    def replace_edge(self) -> None:
        """Put an edge in place that knows nothing."""
        self.edge, self.engine = None, RowEngine(self.target)

    def evict(self, *, ids_too: bool = False) -> None:
        """Take the edge's cache away, between passes, and with ``ids_too`` its ids."""
        if self.edge is None or self.edge.in_flight:
            return
        self.engine.rows.clear()
        self._edge_says(self.edge.evicted(ids_too=ids_too))

    def run(self, *, seconds: float = 1e9, events: int = 1_000_000) -> None:
        """Let time pass until nothing happens any more, or for so long, or for so many events."""
        self._agenda.run(seconds=seconds, events=events)

    # ---- the world ----

    def _device_does(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if isinstance(output, Committed):
                self.commits.append(output)
            elif isinstance(output, Lost):
                self.lost.append(output)
            elif not isinstance(output, Drain):  # there is one edge here, and it stays
                self.sent.append(output)
                self._last_up = max(self._last_up, self.now + self.up())
                self._agenda.at(self._last_up, self._on_link(lambda frame=output: self._edge_takes(frame)))  # type: ignore[misc]
        self._start_drafting()

    def _on_link(self, happen: Callable[[], None]) -> Callable[[], None]:
        link = self._link
        return lambda: happen() if link == self._link else None

    def _start_drafting(self) -> None:
        work = None if self._drafting else self.device.draft_work()
        if work is None:
            return
        tokens = chained(self.draft, work)
        self._drafting = True

        def done() -> None:
            self._drafting = False
            self._device_does(self.device.drafted(work, tokens))

        self._agenda.at(self.now + self.draft_s * max(1, len(tokens)), done)

    def _edge_takes(self, frame: DeviceFrame) -> None:
        try:
            if isinstance(frame, Open):
                if self.edge is None or self.edge.finished:
                    self.edge = EdgeSession(frame, self.limits)
                frames = self.edge.attach(frame)
            else:
                frames = self.edge.received(frame) if self.edge is not None else []
        except SpecError as error:
            frames = [refusal(error, frame.epoch)]
            if self.edge is not None and not isinstance(frame, Open):  # a refused Open leaves the stream in use alone
                self.edge.detached(frame.epoch)
            elif self.edge is not None and self.edge.epoch == 0:
                self.edge = None  # it never came about
        self._edge_says(frames)

    def _edge_says(self, frames: Sequence[EdgeFrame]) -> None:
        for frame in frames:
            self.answered.append(frame)
            self._last_down = max(self._last_down, self.now + self.down())
            self._agenda.at(
                self._last_down,
                self._on_link(lambda frame=frame: self._device_does(self.device.received(frame))),  # type: ignore[misc]
            )
        self._start_pass()

    def _start_pass(self) -> None:
        edge, engine = self.edge, self.engine
        work = None if edge is None else edge.next_pass()
        if edge is None or work is None:
            return
        self.passes.append(work)
        choices = engine.extend(work.span)
        self._agenda.at(
            self.now + self.pass_s(len(work.span.tokens)),
            lambda: self._pass_done(edge, work, PassResult(choices)),
        )

    def _pass_done(self, edge: EdgeSession, work: Pass, result: PassResult) -> None:
        frames = edge.finished_pass(work, result)
        if edge is self.edge:
            self._edge_says(frames)
