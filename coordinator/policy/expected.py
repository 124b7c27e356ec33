"""What a token is expected to cost by each way of working: the user's time, the edge's, the device's, and bytes.

Between two misses nothing is left to chance but where the next miss is. Nothing that the edge does in such a *stretch*
changes when the device's drafts arrive: the j-th is there a round trip and j draft steps after the edge emitted the
miss. So the edge's passes in a stretch without an end are known in advance, and so is which of them emits the t-th
token. A stretch whose t-th token is the miss ends with that pass; the mean over t, by the chances of each position,
gives every cost exactly for matches that depend on nothing but their place in the stretch, for steady costs, a device
that leaves a void draft at once, and an edge that works for it alone and never waits for a draft that would pay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coordinator.policy.costs import PassCost

NEGLIGIBLE = 1e-3
"""A stretch as long as this is unlikely is not looked at."""

MOST_TOKENS = 192
"""Nor one longer than this: at an acceptance of 1 no stretch ever ends."""

LEAST_STEP_S = 1e-6
"""No drafter is faster; one that costs nothing must not divide by it."""

FRAME_BYTES = 34
"""What a frame takes beside its ids, the link's framing included."""

ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class Setting:
    """Channel, models and text, as far as they are known."""

    round_trip_s: float
    draft_s: float  # a token that the device drafts
    target: PassCost  # a pass of the edge
    chances: Sequence[float]  # that the 1st, 2nd, … token after a miss is right, given all before; the last one goes on
    own_draft_s: float = math.inf  # a token that the edge drafts; infinite: it has no drafter
    up_bytes_s: float = math.inf
    live_nodes: int = 64  # the device's credits, and the most of a pass

    def chance(self, place: int) -> float:
        """Return the chance that the token at this place of a stretch, from 0, is right, given all before."""
        return self.chances[min(place, len(self.chances) - 1)]


@dataclass(frozen=True, slots=True)
class Expected:
    """Means for one token."""

    seconds: float
    edge_s: float  # passes and the edge's own drafting
    device_s: float
    bytes_up: float


@dataclass(frozen=True, slots=True)
class _Pass:
    """A pass of a stretch without an end: when it ends, how many tokens are out by then, what the edge has spent."""

    ends_s: float
    tokens: int
    edge_s: float


def edge_alone(setting: Setting, own_tokens: int = 0) -> Expected:
    """Return what a token costs where the edge decodes by itself, with ``own_tokens`` of its own drafter a pass."""
    if not own_tokens:
        seconds = setting.target.seconds(1)
        return Expected(seconds, seconds, 0.0, 0.0)
    round_s = own_tokens * setting.own_draft_s + setting.target.seconds(own_tokens + 1)
    seconds = _over(setting, _repeated(round_s, round_s, own_tokens + 1)).seconds
    return Expected(seconds, seconds, 0.0, 0.0)


def synchronous(setting: Setting, draft_length: int) -> Expected:
    """Return what a token costs where the device drafts so many, sends them and waits for the answer."""
    frame_bytes = FRAME_BYTES + ID_BYTES * draft_length
    pass_s, draft_s = setting.target.seconds(draft_length + 1), draft_length * setting.draft_s
    round_s = draft_s + frame_bytes / setting.up_bytes_s + setting.round_trip_s + pass_s
    expected = _over(setting, _repeated(round_s, pass_s, draft_length + 1))
    rounds = expected.seconds / round_s  # a token
    return Expected(expected.seconds, expected.edge_s, rounds * draft_s, rounds * frame_bytes)


def pipelined(setting: Setting, frame_tokens: int = 1, *, run_ahead: bool, own_tokens: int = 0) -> Expected:
    """Return what a token costs where the device drafts on, in frames of so many tokens, while earlier ones fly.

    run_ahead   the edge goes ahead of a device whose draft has not come; else it waits
    own_tokens  what the edge's own drafter fills a line up to, the hybrid; it asks for ``run_ahead``
    """
    step_s = max(setting.draft_s, (FRAME_BYTES / frame_tokens + ID_BYTES) / setting.up_bytes_s, LEAST_STEP_S)
    expected = _over(setting, _passes(setting, frame_tokens, step_s, run_ahead=run_ahead, own_tokens=own_tokens))
    busy = min(1.0, setting.draft_s / step_s)
    # The device drafts all the time, most of it in vain, but for no more than its credits after each miss.
    drafted = min(expected.seconds / step_s, setting.live_nodes * max(0.0, 1 - setting.chances[0]) + 1)
    up_bytes = drafted * (FRAME_BYTES / frame_tokens + ID_BYTES)
    return Expected(
        expected.seconds, expected.edge_s, min(expected.seconds * busy, drafted * setting.draft_s), up_bytes
    )


def _repeated(round_s: float, edge_s: float, tokens: int) -> Iterator[_Pass]:
    """Rounds that are all alike."""
    number = 1
    while True:
        yield _Pass(number * round_s, number * tokens, number * edge_s)
        number += 1


def _passes(setting: Setting, frame_tokens: int, step_s: float, *, run_ahead: bool, own_tokens: int) -> Iterator[_Pass]:
    """The passes of an edge over drafts as they arrive."""
    target, frame_s = setting.target, frame_tokens * step_s
    first_s = setting.round_trip_s
    now_s = edge_s = 0.0
    tokens = 0
    while True:
        line = _arrived(now_s - first_s, frame_s, frame_tokens) - tokens
        own = max(0, own_tokens - max(0, line))
        if line <= 0 and not own and not run_ahead:
            now_s = first_s + math.ceil((tokens + 1) / frame_tokens) * frame_s
            line = _arrived(now_s - first_s, frame_s, frame_tokens) - tokens
        if own:
            own_s = own * setting.own_draft_s
            now_s, edge_s = now_s + own_s, edge_s + own_s
            line = max(max(0, line) + own, _arrived(now_s - first_s, frame_s, frame_tokens) - tokens)
        width = min(max(0, line), setting.live_nodes)
        pass_s = target.seconds(width + 1)
        now_s, edge_s, tokens = now_s + pass_s, edge_s + pass_s, tokens + width + 1
        yield _Pass(now_s, tokens, edge_s)


def _arrived(since_s: float, frame_s: float, frame_tokens: int) -> int:
    """Return how many drafts of a stretch are there, so long after the first could have been begun."""
    return max(0, math.floor(since_s / frame_s + 1e-9)) * frame_tokens


def _over(setting: Setting, passes: Iterator[_Pass]) -> Expected:
    """Return the mean over where the miss is; bytes and the device's seconds are the caller's to say."""
    seconds = edge_s = tokens = 0.0
    alive, out = 1.0, 0
    for one in passes:
        while out < one.tokens:
            chance = setting.chance(out)
            miss = alive * (1 - chance)
            out += 1
            seconds, edge_s, tokens = seconds + miss * one.ends_s, edge_s + miss * one.edge_s, tokens + miss * out
            alive *= chance
        if alive < NEGLIGIBLE or out >= MOST_TOKENS:
            # What is left ends here, as if its miss were the last token.
            seconds, edge_s, tokens = seconds + alive * one.ends_s, edge_s + alive * one.edge_s, tokens + alive * out
            break
    return Expected(seconds / tokens, edge_s / tokens, 0.0, 0.0)
