"""What a device or an edge knows of the channel: round trips, rates, loss. Values; ``updated`` gives the next one.

A level of a radio link lasts for a while and then jumps. Recorded round trips of phones are nearly white between such
jumps (autocorrelation at one sample below 0.05 in five of seven recordings, 0.98 in the one that has two levels), so
that within a level a long memory is best, and at a jump none. Both are here: a memory of some 27 samples, and a test
that drops what was before a jump.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

KEPT = 0.93
"""What a sample weighs when one more has come.

Half of all weight lies on the last ln 0.5 / ln 0.93 = 9.6 samples: any step, however small against the noise, has moved
the median after 10. In variance it is worth (1 + k) / (1 - k) = 27 samples; on the recorded round trips a median of 32
misses the next one by 0.5 to 2 % less than one of 16, and one of 64 by no more than 1 % less again.
"""

MOST_SAMPLES = 32
"""Are remembered; those before have 10 % of the weight."""

_WEIGHTS = tuple(KEPT**age for age in reversed(range(MOST_SAMPLES)))

MEMORY_S = 10.0
"""A sample weighs 1/e of itself after so many seconds. Seven recorded LTE and 5G radios answer 5 to 10 times as late
after 10 to 15 idle seconds as after less than one, since they have let go of the connection by then."""

RECENT_S = 2.0
"""Within so long time makes a difference of 18 % in weight at most, and is left out."""

NEW_SAMPLES = 7
KEPT_AFTER_STEP = 4
"""Of the last 7 samples 4 must lie beyond the limit for their median to, and are what remains: spikes that come singly,
one in ten samples, make 4 of 7 in 0.3 % of the cases."""

STEP_SPREADS = 2.0
"""In spreads of the samples before: 1.48 median absolute deviations, a normal one's standard deviation. With 15 %
jitter the median is within 4 to 10 % of the new level 10 samples after a step to 0.5 to 3 times the old one (3 spreads:
15 %), and 0.2 to 0.5 % of a steady link's samples pass for a step; on the recorded round trips the next one is then
missed by 0 to 2 % more."""

LEAST_SPREAD = 0.05
"""Of the level: what differs by less than 10 % is no step; it moves the best draft length by less than one token."""

RATE_SAMPLES = 10
"""25 pairs: a step is forgotten 10 samples later, and a frame costs some 10 us of a core."""

LEAST_RATE_SAMPLES = 4

LEAST_SPREAD_BYTES = 32
"""Between the largest and the smallest of those frames: 8 ids, 5 ms at 50 kbit/s. Less is lost in any link's jitter."""

SURE_RATE = 0.75
"""Share of pairs, by weight, in which the larger frame took longer, below which no rate is believed. Of
white delays, that have nothing to do with sizes, 12 % of the sets have as many: a rate believed then is a fast one,
since the slope is no more than the noise over the spread of sizes."""


def median(values: Sequence[float]) -> float:
    """Return the middle one, the upper of two; ``statistics.median`` takes five times as long."""
    return sorted(values)[len(values) // 2]


def stepped(before: Sequence[float], newest: Sequence[float]) -> bool:
    """Return whether the newest samples have left the range of those before."""
    middle = median(before)
    far = abs(median(newest) - middle)
    if far <= STEP_SPREADS * LEAST_SPREAD * abs(middle):
        return False
    return far > STEP_SPREADS * 1.48 * median([abs(value - middle) for value in before])


@dataclass(frozen=True, slots=True)
class Recent:
    """A positive quantity's last samples, old ones of less weight; from after the last step on."""

    values: tuple[float, ...] = ()
    at_s: tuple[float, ...] = ()

    def updated(self, value: float, at_s: float) -> Recent:
        """Return this with a sample taken at ``at_s``, any clock's seconds. Raises ValueError unless it is finite."""
        if not math.isfinite(value) or not math.isfinite(at_s):
            raise ValueError(f"{value} at {at_s} s is no sample")
        values, times = (*self.values, value)[-MOST_SAMPLES:], (*self.at_s, at_s)[-MOST_SAMPLES:]
        before = values[:-NEW_SAMPLES]
        if len(before) >= KEPT_AFTER_STEP and stepped(before, values[-NEW_SAMPLES:]):
            values, times = values[-KEPT_AFTER_STEP:], times[-KEPT_AFTER_STEP:]
        return Recent(values, times)

    def quantile(self, share: float) -> float | None:
        """Return the value below which ``share`` of the weight lies; None without a sample."""
        if not self.values:
            return None
        newest_s, by_count = self.at_s[-1], _WEIGHTS[-len(self.values) :]
        if newest_s - self.at_s[0] < RECENT_S:
            weights: Sequence[float] = by_count
        else:
            by_time = [math.exp(min(0.0, at_s - newest_s) / MEMORY_S) for at_s in self.at_s]
            weights = [count * time for count, time in zip(by_count, by_time, strict=True)]
        return _weighted_quantile(sorted(zip(self.values, weights, strict=True)), share)

    def trend(self) -> float:
        """Return by how much a second the quantity grows: the newer half's median against the older half's.

        0 while there are fewer than 2 * KEPT_AFTER_STEP samples, or no time has passed.
        """
        half = len(self.values) // 2
        if half < KEPT_AFTER_STEP:
            return 0.0
        passed_s = (sum(self.at_s[-half:]) - sum(self.at_s[:half])) / half
        return (median(self.values[-half:]) - median(self.values[:half])) / passed_s if passed_s > 0 else 0.0


def _weighted_quantile(ordered: Sequence[tuple[float, float]], share: float) -> float:
    """Return the first value by which ``share`` of the weight is reached; ``ordered`` is (value, weight), ascending."""
    left = share * sum(weight for _, weight in ordered)
    for value, weight in ordered:
        left -= weight
        if left <= 0:
            return value
    return ordered[-1][0]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Seconds from a frame's leaving to its answer, without what the edge took: quantiles and trend."""

    recent: Recent = field(default_factory=Recent)

    def updated(self, seconds: float, at_s: float) -> RoundTrip:
        """Return this with a round trip that ended at ``at_s``. Raises ValueError where it is negative."""
        if seconds < 0:
            raise ValueError(f"a round trip of {seconds} s is none")
        return RoundTrip(self.recent.updated(seconds, at_s))

    @property
    def median_s(self) -> float | None:
        """Return the usual one; None before the first."""
        return self.recent.quantile(0.5)

    def quantile_s(self, share: float) -> float | None:
        """Return what ``share`` of round trips stay below; None before the first."""
        return self.recent.quantile(share)

    @property
    def trend(self) -> float:
        """Return the seconds by which it grows in a second."""
        return self.recent.trend()


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction's rate, from the sizes and delays of frames: delay = propagation + size / rate.

    Theil-Sen: the median of the slopes of pairs of samples, each weighed by how far apart the sizes are (Sen 1968; a
    quarter of the samples may be spikes); of pairs of a smaller and a larger half, which tell most. The delays may all
    be off by the same amount: two clocks need not agree.
    """

    sizes: tuple[float, ...] = ()  # bytes
    delays_s: tuple[float, ...] = ()
    byte_s: float = 0.0  # seconds a byte; 0: none to be seen
    spread: float = 0.0  # between the largest and the smallest frame that ``byte_s`` was learnt from, fading

    def updated(self, size_bytes: int, seconds: float) -> Direction:
        """Return this with a frame of ``size_bytes`` that took ``seconds``. Raises ValueError where it is none."""
        if size_bytes < 1 or not math.isfinite(seconds):
            raise ValueError(f"a frame of {size_bytes} bytes in {seconds} s is none")
        sizes, delays_s = (*self.sizes, float(size_bytes))[-RATE_SAMPLES:], (*self.delays_s, seconds)[-RATE_SAMPLES:]
        known, spread = self.byte_s, KEPT * self.spread
        now = max(sizes) - min(sizes)
        # One long frame, a prompt, tells more of the rate than all short ones after it: kept until they tell as much.
        if len(sizes) >= LEAST_RATE_SAMPLES and now >= LEAST_SPREAD_BYTES and now >= spread / 2:
            known, spread = _slope(sizes, delays_s), now
        return Direction(sizes, delays_s, known, spread)

    @property
    def bytes_s(self) -> float:
        """Return the rate; infinite where delays do not grow with sizes."""
        return 1 / self.byte_s if self.byte_s > 0 else math.inf

    @property
    def propagation_s(self) -> float | None:
        """Return what a frame without a byte would take, clocks' difference included; None before the first frame."""
        rest = [delay - size * self.byte_s for size, delay in zip(self.sizes, self.delays_s, strict=True)]
        return median(rest) if rest else None


def _slope(sizes: Sequence[float], delays_s: Sequence[float]) -> float:
    """Return Theil-Sen's slope; 0 where too many pairs contradict that it is positive."""
    ascending, half = sorted(zip(sizes, delays_s, strict=True)), len(sizes) // 2
    pairs = [
        ((delay - less) / (size - small), size - small)
        for small, less in ascending[:half]
        for size, delay in ascending[half:]
        if size > small
    ]
    pairs.sort()
    return _weighted_quantile(pairs, 0.5) if _weighted_quantile(pairs, 1 - SURE_RATE) > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second up and down."""

    up: Direction = field(default_factory=Direction)
    down: Direction = field(default_factory=Direction)

    def updated(self, up: tuple[int, float] | None = None, down: tuple[int, float] | None = None) -> Rates:
        """Return this with a frame's (bytes, seconds) in either direction, or both."""
        return Rates(self.up.updated(*up) if up else self.up, self.down.updated(*down) if down else self.down)


LOSS_KEPT = 0.98
"""Losses are rare: a memory of 50 tells 2 % from 10 %."""

LOSS_PRIOR = (0.05, 5.0)
"""Lost, of sent: 1 %, as in the good state of ``airdraft.link.channels``' bursts."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The share of pings, or of frames where a link loses them, that have no answer: a Beta posterior that forgets."""

    lost: float = LOSS_PRIOR[0]
    sent: float = LOSS_PRIOR[1]

    def updated(self, *, lost: bool) -> Loss:
        """Return this with one more."""
        return replace(
            self,
            lost=LOSS_KEPT * self.lost + (1 - LOSS_KEPT) * LOSS_PRIOR[0] + lost,
            sent=LOSS_KEPT * self.sent + (1 - LOSS_KEPT) * LOSS_PRIOR[1] + 1,
        )

    @property
    def share(self) -> float:
        """Return the estimated share."""
        return self.lost / self.sent
