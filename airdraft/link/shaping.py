"""When bytes offered to a link leave it and arrive: rate, delay, jitter, loss and outages as arithmetic.

Pure: time and chance are arguments, so the relay (real sockets) and the simulator (virtual time) use the same objects.
Times are seconds since the link began. A link carries streams: bytes of all streams leave one after another at its rate
(``Air``), the bytes of one stream arrive in their order (``Stream``), as TCP delivers them: it loses and reorders
nothing, and a lost segment is a delay of itself and of all behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

MAX_BACKOFF = 6
"""A segment lost so often in a row waits twice as long each time; then no longer."""

_PIECE_S = 0.001  # pieces need not be finer than timers are
_MAX_PIECE_BYTES = 65_536


class Conditions(Protocol):
    """What one direction of a link offers over time. Rate 0 is an outage, rate inf no limit."""

    def rate_bytes_s(self, at_s: float) -> float: ...

    def delay_s(self, at_s: float) -> float: ...

    def steady_until_s(self, at_s: float) -> float:
        """Return a time after ``at_s`` up to which rate and delay stay as they are; inf where they stay for good."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Conditions that never change."""

    one_way_s: float = 0.0
    bytes_s: float = math.inf

    def rate_bytes_s(self, at_s: float) -> float:
        return self.bytes_s

    def delay_s(self, at_s: float) -> float:
        return self.one_way_s

    def steady_until_s(self, at_s: float) -> float:
        return math.inf


@dataclass(frozen=True, slots=True)
class Sampled:
    """Conditions given by two functions of time, a trace's or a model's, read at the start of every step."""

    rate: Callable[[float], float]
    delay: Callable[[float], float]
    step_s: float = 0.01

    def rate_bytes_s(self, at_s: float) -> float:
        return self.rate(self._step(at_s) * self.step_s)

    def delay_s(self, at_s: float) -> float:
        return self.delay(self._step(at_s) * self.step_s)

    def steady_until_s(self, at_s: float) -> float:
        return (self._step(at_s) + 1) * self.step_s

    def _step(self, at_s: float) -> int:
        index = int(at_s / self.step_s)
        return index + 1 if (index + 1) * self.step_s <= at_s else index  # the quotient was rounded down


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Conditions with gaps, ``(from, until)`` in order of time, in which nothing passes: outages, hand-overs."""

    conditions: Conditions
    gaps: tuple[tuple[float, float], ...]

    def rate_bytes_s(self, at_s: float) -> float:
        inside = any(start <= at_s < end for start, end in self.gaps)
        return 0.0 if inside else self.conditions.rate_bytes_s(at_s)

    def delay_s(self, at_s: float) -> float:
        return self.conditions.delay_s(at_s)

    def steady_until_s(self, at_s: float) -> float:
        edges = (edge for gap in self.gaps for edge in gap if edge > at_s)
        return min(self.conditions.steady_until_s(at_s), *edges, math.inf)


@dataclass(frozen=True, slots=True)
class Shape:
    """All that one direction of a link does to a stream."""

    conditions: Conditions = field(default_factory=Constant)
    jitter_s: float = 0.0  # up to so much more delay, uniform
    loss: float = 0.0  # share of segments that are lost, each time they are sent
    retransmission_s: float = 0.2  # until a lost segment is sent again; doubles when it is lost again
    segment_bytes: int = 1448
    queue_bytes: int = 262_144  # of one stream that wait for the link, before its sender has to wait
    window_bytes: int = 4_194_304  # of one stream that wait or are under way

    def __post_init__(self) -> None:
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss is a share below 1, not {self.loss}")
        if min(self.jitter_s, self.retransmission_s) < 0:
            raise ValueError("jitter_s and retransmission_s are at least 0")
        if min(self.segment_bytes, self.queue_bytes, self.window_bytes) < 1:
            raise ValueError("segment_bytes, queue_bytes and window_bytes are at least 1")


class Passage(NamedTuple):
    """When the last byte of a piece has left the sender's side of the link, and when it is delivered."""

    leaves_s: float
    arrives_s: float


NEVER = Passage(math.inf, math.inf)


class Air:
    """One direction of a link, shared by its streams: bytes leave one after another, never faster than its rate."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self._free_s = 0.0

    def leaves_s(self, at_s: float, size_bytes: int) -> float:
        """Return when the last of so many bytes, offered now, has left; inf where the link never comes back."""
        now, left = max(at_s, self._free_s), float(size_bytes)
        while now < math.inf:
            rate, until = self.conditions.rate_bytes_s(now), self.conditions.steady_until_s(now)
            assert until > now, "conditions stay for some time, or time would stand still"
            if rate > 0 and now + left / rate <= until:
                now += left / rate
                break
            left = max(0.0, left - rate * (until - now))
            now = until
        self._free_s = now
        return now

    def up_s(self, at_s: float) -> float:
        """Return ``at_s``, or the end of the outage that it lies in."""
        while at_s < math.inf and self.conditions.rate_bytes_s(at_s) <= 0:
            at_s = self.conditions.steady_until_s(at_s)
        return at_s

    def restart(self, at_s: float) -> None:
        """Forget what waits to leave; the link is free from now on."""
        self._free_s = at_s


class Stream:
    """The bytes of one connection in one direction of a link. Nothing leaves before ``opens_s``."""

    def __init__(self, shape: Shape, air: Air, random: Random, opens_s: float = 0.0) -> None:
        self.shape = shape
        self._air = air
        self._random = random
        self._opens_s = opens_s
        self._last_s = 0.0

    def passage(self, at_s: float, size_bytes: int) -> Passage:
        """Offer a piece; return when it leaves and arrives, after all that was offered before it.

        What is under way when an outage begins arrives when it ends: TCP sends it again. Size 0 is an end of stream.
        """
        leaves_s = self._air.leaves_s(max(at_s, self._opens_s), size_bytes)
        if leaves_s == math.inf:
            return NEVER
        arrives_s = leaves_s + self._air.conditions.delay_s(leaves_s) + self._jitter_s() + self._repair_s(size_bytes)
        self._last_s = self._air.up_s(max(arrives_s, self._last_s))
        return Passage(leaves_s, self._last_s)

    def arrival_s(self, at_s: float, size_bytes: int) -> float:
        """Offer a piece, or a frame; return when it arrives."""
        return self.passage(at_s, size_bytes).arrives_s

    def piece_bytes(self, at_s: float) -> int:
        """Return how finely a long write should be offered: by segments, or by what passes in a millisecond."""
        rate = self._air.conditions.rate_bytes_s(at_s)
        if rate == math.inf:
            return self.shape.segment_bytes if self.shape.loss else _MAX_PIECE_BYTES
        return max(self.shape.segment_bytes, min(_MAX_PIECE_BYTES, int(rate * _PIECE_S)))

    def restart(self, at_s: float) -> None:
        """Forget what is under way; nothing that is offered from now on arrives before ``at_s``."""
        self._last_s = at_s

    def _jitter_s(self) -> float:
        return self._random.uniform(0.0, self.shape.jitter_s) if self.shape.jitter_s else 0.0

    def _repair_s(self, size_bytes: int) -> float:
        """Return the wait for the segment of a piece that was lost most often; all are sent again side by side."""
        if not self.shape.loss:
            return 0.0
        return max((self._segment_repair_s() for _ in range(0, size_bytes, self.shape.segment_bytes)), default=0.0)

    def _segment_repair_s(self) -> float:
        waited_s, losses = 0.0, 0
        while self._random.random() < self.shape.loss:
            waited_s += self.shape.retransmission_s * 2.0 ** min(losses, MAX_BACKOFF)
            losses += 1
        return waited_s
