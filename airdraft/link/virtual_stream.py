"""Processes and the streams between them in virtual time: clocks that differ, links that break without a word.

A stream keeps the order of what is sent on it and loses nothing in the middle, as gRPC's do; it may be late, end early,
or fall silent for ever while both ends believe in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Generic, TypeVar

from airdraft.core.types import DeviceFrame, EdgeFrame
from airdraft.link.virtual_time import Agenda, Delay


class Process:
    """A process with a clock of its own, which can be stopped for a while and dies once."""

    def __init__(self, agenda: Agenda, name: str, offset_s: float = 0.0) -> None:
        self.name = name
        self.alive = True
        self._agenda, self._offset_s = agenda, offset_s
        self._stopped_until = 0.0  # by the agenda's time
        self._clock_stops = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._reached = agenda.now + offset_s  # the process's clock never goes back

    @property
    def now(self) -> float:
        """Return the time by the process's own clock."""
        return max(self._reached, self._agenda.now + self._offset_s)

    @property
    def stopped(self) -> bool:
        """Return whether the process is suspended."""
        return self._agenda.now < self._stopped_until

    def soon(self, happen: Callable[[], None]) -> None:
        """Let something befall the process now, or once it runs again; nothing befalls a dead one."""
        if self.stopped:
            self._waiting.append(happen)
        elif self.alive:
            happen()

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Set a timer to a time of the process's own clock."""

        def ring() -> None:
            due = self._agenda.now + (when - self.now)
            if due > self._agenda.now:  # the clock stood still meanwhile
                self._agenda.at(due, lambda: self.soon(ring))
            else:
                self._reached = max(self._reached, when)
                happen()

        self._agenda.at(max(self._agenda.now, when - self._offset_s), lambda: self.soon(ring))

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Set a timer."""
        self.at(self.now + seconds, happen)

    def stop_for(self, seconds: float, *, clock_stops: bool) -> None:
        """Suspend the process, unless it is suspended already; its clock may stand still with it."""
        if self.stopped:
            return
        self._reached = self.now
        self._stopped_until, self._clock_stops = self._agenda.now + seconds, clock_stops
        if clock_stops:
            self._offset_s -= seconds
        self._agenda.at(self._stopped_until, self._resume)

    def wake(self) -> None:
        """Let a stopped process run from now on."""
        left = self._stopped_until - self._agenda.now
        if left > 0 and self._clock_stops:
            self._offset_s += left
        self._stopped_until = min(self._stopped_until, self._agenda.now)
        self._resume()

    def _resume(self) -> None:
        while self._waiting and not self.stopped:
            self.soon(self._waiting.popleft())

    def die(self) -> None:
        """End the process without a last word."""
        self.alive = False


@dataclass(slots=True)
class Link:
    """The way between a device and an edge, for as long as the world stands; times are the agenda's."""

    up: Delay
    down: Delay
    dark_until: float = 0.0  # nothing passes before, and nobody is told
    refused_until: float = 0.0  # who dials before is told that there is no way


class End(Enum):
    """How one direction of a stream ends."""

    CLOSED = "closed"  # all was said: a half-close by the device, the end of the call by the edge
    RESET = "reset"  # the other end let go of the stream


Frame = TypeVar("Frame", DeviceFrame, EdgeFrame)


@dataclass(slots=True)
class Pipe(Generic[Frame]):
    """One direction of a stream: in order, each frame after the link's delay."""

    agenda: Agenda
    link: Link
    delay: Delay  # the link's, in this direction
    receiver: Process
    take: Callable[[Frame | End], None]
    open: bool = True
    _flight: deque[tuple[float, Frame | End]] = field(default_factory=deque)  # (arrival, frame)
    _latest: float = 0.0

    def send(self, frame: Frame | End) -> None:
        """Put a frame on its way; on a closed pipe it is lost."""
        if not self.open:
            return
        start = max(self.agenda.now, self.link.dark_until)
        self._latest = max(self._latest, start + self.delay())
        self._flight.append((self._latest, frame))
        self.agenda.at(self._latest, self._arrive)

    def close(self, *, arriving: int = 0) -> None:
        """Carry nothing more but the first ``arriving`` frames of the flight."""
        self.open = False
        while len(self._flight) > arriving:
            self._flight.pop()

    def hold(self, until: float) -> None:
        """Let nothing of the flight arrive before ``until``."""
        self._delayed([until] * len(self._flight))

    def slice(self, gap_s: float) -> None:
        """Let the flight arrive in pieces, one frame each, with time between."""
        self._delayed([self.agenda.now + gap_s * (index + 1) for index in range(len(self._flight))])

    def _delayed(self, earliest: list[float]) -> None:
        retimed = [(max(at, least), frame) for (at, frame), least in zip(self._flight, earliest, strict=True)]
        self._flight = deque(retimed)
        for at, _ in retimed:
            self._latest = max(self._latest, at)
            self.agenda.at(at, self._arrive)

    def _arrive(self) -> None:
        while self._flight and self._flight[0][0] <= self.agenda.now:
            self.receiver.soon(partial(self.take, self._flight.popleft()[1]))


class Stream:
    """One call of ``Generate``; ``sent`` is what the device's end has written."""

    def __init__(self, device: str, edge: str, epoch: int) -> None:
        self.device, self.edge, self.epoch = device, edge, epoch
        self.sent: list[DeviceFrame] = []
        self.proxied = False  # a replay: no device is at the other end
        self.up: Pipe[DeviceFrame]
        self.down: Pipe[EdgeFrame]

    def cut(self, *, arriving_up: int = 0, arriving_down: int = 0) -> None:
        """End both directions; so many frames of each flight still arrive."""
        self.up.close(arriving=arriving_up)
        self.down.close(arriving=arriving_down)

    def hold(self, until: float) -> None:
        """Let nothing arrive before ``until``."""
        self.up.hold(until)
        self.down.hold(until)
