"""What a relay is told of a cell's link: shapes of both directions, at the moment at which a text begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from airdraft.link.channels import CHANNELS
from airdraft.link.shaping import Conditions, Constant, Shape
from airdraft.link.timeline import Channel
from bench import adapt_worlds
from bench.cells import Link

APART_S = 3.7
"""How far into the channel's course a text begins after the text before it, the same in every schedule."""


@dataclass(frozen=True, slots=True)
class Later:
    """Conditions from some time on."""

    conditions: Conditions
    by_s: float

    def rate_bytes_s(self, at_s: float) -> float:
        return self.conditions.rate_bytes_s(at_s + self.by_s)

    def delay_s(self, at_s: float) -> float:
        return self.conditions.delay_s(at_s + self.by_s)

    def steady_until_s(self, at_s: float) -> float:
        return self.conditions.steady_until_s(at_s + self.by_s) - self.by_s


@cache
def channel_of(name: str, seed: int) -> Channel:
    """Return a synthetic channel or a replayed trace by name, or a recording by path.

    Raises ValueError where there is none.
    """
    if name in adapt_worlds.TRACES:
        return adapt_worlds.channel(name, seed)
    if name in CHANNELS:
        return CHANNELS[name](seed, adapt_worlds.COURSE_S)
    from bench.channel import channel_named  # it draws too: matplotlib takes seconds to import

    return channel_named(name, seed, adapt_worlds.COURSE_S)


def shapes(link: Link, text: int) -> tuple[Shape, Shape]:
    """Return the shapes, up and down, that the ``text``-th text meets."""
    if link.channel is None:
        way_s = link.round_trip_s / 2
        return (
            Shape(Constant(way_s, link.up_bytes_s), jitter_s=link.jitter_s),
            Shape(Constant(way_s, link.down_bytes_s), jitter_s=link.jitter_s),
        )
    channel, by_s = channel_of(link.channel, link.channel_seed), text * APART_S
    return Shape(Later(channel.up, by_s)), Shape(Later(channel.down, by_s))


def usual_round_trip_s(link: Link) -> float:
    """Return the mean round trip, jitter included: what a draft length is chosen for."""
    if link.channel is None:
        return link.round_trip_s + link.jitter_s
    channel = channel_of(link.channel, link.channel_seed)
    return float(channel.up.delays_s.mean() + channel.down.delays_s.mean())


def least_round_trip_s(link: Link) -> float:
    """Return the shortest round trip of all, with which a bound still holds."""
    if link.channel is None:
        return link.round_trip_s
    channel = channel_of(link.channel, link.channel_seed)
    return float(channel.up.delays_s.min() + channel.down.delays_s.min())


def usual(link: Link) -> Link:
    """Return a steady link with the mean round trip."""
    return replace(link, round_trip_s=usual_round_trip_s(link), jitter_s=0.0, channel=None)
