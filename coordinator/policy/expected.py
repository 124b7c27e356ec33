"""What a token is expected to cost by each way of working: the user's time, the edge's, the device's, and bytes.

Between two misses nothing is left to chance but where the next miss is. Nothing that the edge does in such a *stretch*
changes when the device's drafts arrive: the j-th is there a round trip and j draft steps after the edge emitted the
miss. So the edge's passes in a stretch without an end are known in advance, and so is which of them emits the t-th
token. A stretch whose t-th token is the miss ends with that pass; the mean over t, by the chances of each position,
gives every cost exactly for matches that depend on nothing but their place in the stretch, for steady costs, a device
that leaves a void draft at once, and an edge that never waits for a draft that would pay. Where
sessions share the edge's steps, every step has the others' positions too, and a session that has stood still waits for
half a step first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, chain, repeat
from operator import mul
from typing import NamedTuple

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


SHORTENED = 0.75
"""By so much an edge writes less where the device's drafts are in every pass (``airdraft.core.session.own_draft``)."""

ALIKE = 0.5
"""What share of the device's acceptance the edge's own drafter needs for its tokens to count beside the device's."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Channel, models, text and company, as far as they are known."""

    round_trip_s: float
    draft_s: float  # a token that the device drafts
    target: PassCost  # a pass of the edge
    chances: Sequence[float]  # that the 1st, 2nd, … token after a miss stands, given all before; the last one goes on
    own_draft_s: float = math.inf  # a token that the edge drafts; infinite: it has no drafter
    up_bytes_s: float = math.inf
    live_nodes: int = 64  # the device's credits, and the most of a pass
    own_chance: float | None = None  # that one more of the edge's own drafts is right; None: as the device's are
    sharers: float = 1.0  # sessions that share a step, this one included
    others: float = 0.0  # positions of a step that are theirs
    harmless: float = 0.0  # share of the tokens that are not the target's own that stand by meaning, in [0, 1)
    late_round_trip_s: float = 0.0  # below which 9 of 10 round trips stay; below ``round_trip_s``: as that one

    def pass_s(self, positions: int) -> float:
        """Return what a step takes in which this session has so many positions."""
        return self.target.seconds(positions) + self.target.per_position_s * self.others

    def share_s(self, positions: int) -> float:
        """Return what of such a step is this session's: its positions, and a share of the rest."""
        own_s = self.target.per_position_s * positions
        return (self.target.seconds(positions) - own_s) / self.sharers + own_s

    @property
    def alike(self) -> bool:
        """Return whether both drafters are about as often right: then one estimate, the device's, is taken for both.

        Two of the same chance would differ by noise, and the plan would follow that.
        """
        return self.own_chance is None or self.own_chance >= ALIKE * self.chances[0]

    def exact(self, place: int) -> float:
        """Return the chance that the token behind so many is the target's own: what stands by meaning is not.

        Of the 1 - e tokens that are not, a share h stands: c = e + (1 - e) h.
        """
        chance = self.chances[min(place, len(self.chances) - 1)]
        return max(0.0, 1 - (1 - chance) / (1 - self.harmless))

    @property
    def turn_s(self) -> float:
        """Return how long who comes anew waits for the step at work, on average."""
        return 0.5 * (1 - 1 / self.sharers) * self.pass_s(1)


class Expected(NamedTuple):
    """Means for one token."""

    seconds: float
    edge_s: float  # this session's share of passes and of the edge's own drafting
    device_s: float
    bytes_up: float
    widening_s: float = 0.0  # by which others wait longer: its positions in their steps


class Stretch(NamedTuple):
    """Where a stretch ends: [n + 1] the chance that it is longer, and of those that end by then the summed lengths."""

    alive: tuple[float, ...]
    ended: float


@lru_cache(maxsize=8)
def stretch(chances: tuple[float, ...]) -> Stretch:
    """Return where a stretch of these chances ends; the last one goes on."""
    here = chain(chances, repeat(chances[-1], MOST_TOKENS - len(chances)))
    alive = tuple(accumulate(here, mul, initial=1.0))
    last = next((tokens for tokens, chance in enumerate(alive) if chance < NEGLIGIBLE), MOST_TOKENS)
    # t miss(t) summed up to n is alive(t) summed below n, less n alive(n).
    return Stretch(alive[: last + 1], sum(alive[:last]) - last * alive[last])


def survival(chances: Sequence[float], tokens: int) -> tuple[float, ...]:
    """Return [tokens + 1]: the chance that the first n tokens after a miss are all right, for n from 0."""
    alive = stretch(tuple(chances)).alive[: tokens + 1]
    return alive + (0.0,) * (tokens + 1 - len(alive))  # as good as 0


def edge_alone(setting: Setting, own_tokens: int = 0) -> Expected:
    """Return what a token costs where the edge decodes by itself, with ``own_tokens`` of its own drafter a pass."""
    if not own_tokens:
        return Expected(setting.pass_s(1), setting.share_s(1), 0.0, 0.0, setting.target.per_position_s)
    own_s = own_tokens * setting.own_draft_s
    if not setting.alike and setting.own_chance is not None:
        chances: Sequence[float] = (setting.own_chance,)
    elif setting.harmless:  # what the edge drafts itself stands only where it is the target's own
        chances = [setting.exact(place) for place in range(len(setting.chances))]
    else:
        chances = setting.chances
    return _in_rounds(setting, chances, own_tokens, own_s + setting.pass_s(own_tokens + 1), own_s)


def synchronous(setting: Setting, draft_length: int) -> Expected:
    """Return what a token costs where the device drafts so many, sends them and waits for the answer."""
    frame_bytes = FRAME_BYTES + ID_BYTES * draft_length
    draft_s = draft_length * setting.draft_s
    still_s = frame_bytes / setting.up_bytes_s + setting.round_trip_s + setting.turn_s
    round_s = draft_s + still_s + setting.pass_s(draft_length + 1)
    expected = _in_rounds(setting, setting.chances, draft_length, round_s, 0.0)
    rounds = expected.seconds / round_s  # a token
    return expected._replace(device_s=rounds * draft_s, bytes_up=rounds * frame_bytes)


def _overtakes(setting: Setting, step_s: float) -> float:
    """Return about which share of passes has a draft of the device: its chance to overtake an edge that goes ahead.

    As ``RoundCost.overtaking_tokens`` has it; 0 where a draft takes as long as a pass.
    """
    gain_s = setting.pass_s(1) - step_s
    return setting.chances[0] ** (setting.round_trip_s / gain_s) if gain_s > 0 else 0.0


def _in_rounds(setting: Setting, chances: Sequence[float], drafts: int, round_s: float, own_s: float) -> Expected:
    """Return the means where each round has so many drafts, whatever came of the one before.

    own_s  of the edge's own drafter, in each
    """
    alive, ended = stretch(tuple(chances))
    last, step = len(alive) - 1, drafts + 1
    rounds = sum(alive[:last:step])  # what is left by then ends with its round
    length = ended + alive[last] * -(-last // step) * step
    a_token = rounds / length
    edge_s = (own_s / setting.sharers + setting.share_s(step)) * a_token
    widening_s = setting.target.per_position_s * step * a_token
    return Expected(round_s * a_token, edge_s, 0.0, 0.0, widening_s)


def pipelined(
    setting: Setting, frame_tokens: int = 1, frames: int = 512, *, run_ahead: bool, own_tokens: int = 0
) -> Expected:
    """Return what a token costs where the device drafts on, in frames of so many tokens, while earlier ones fly.

    frames      that may fly at once, credits permitting
    run_ahead   the edge goes ahead of a device whose draft has not come; else it waits
    own_tokens  what the edge's own drafter fills a line up to, the hybrid; it asks for ``run_ahead``
    """
    step_s, most = draft_step_s(setting, frame_tokens), min(setting.live_nodes, frame_tokens * frames)
    if run_ahead and setting.harmless:
        setting = replace(setting, chances=chances_ahead(setting, frame_tokens))
    expected = _in_passes(setting, frame_tokens, step_s, most, run_ahead=run_ahead, own_tokens=own_tokens)
    return with_drafts(expected, setting, frame_tokens, frames)


def draft_step_s(setting: Setting, frame_tokens: int) -> float:
    """Return the seconds between two drafted tokens at the edge: the drafter's or the slower uplink's."""
    return max(setting.draft_s, (FRAME_BYTES / frame_tokens + ID_BYTES) / setting.up_bytes_s, LEAST_STEP_S)


def with_drafts(expected: Expected, setting: Setting, frame_tokens: int, frames: int) -> Expected:
    """Return this with what a device spends that drafts on.

    It drafts all the time, most of it in vain, but for no more than its credits after each miss.
    """
    step_s, most = draft_step_s(setting, frame_tokens), min(setting.live_nodes, frame_tokens * frames)
    busy = min(1.0, setting.draft_s / step_s)
    drafted = min(expected.seconds / step_s, most * max(0.0, 1 - setting.chances[0]) + 1)
    device_s = min(expected.seconds * busy, drafted * setting.draft_s)
    return expected._replace(device_s=device_s, bytes_up=drafted * (FRAME_BYTES / frame_tokens + ID_BYTES))


def chances_ahead(setting: Setting, frame_tokens: int) -> tuple[float, ...]:
    """Return the chances that count where the edge commits its own tokens ahead of the device's.

    Until the device has overtaken it, a token of its own stands and not another wording of it, which voids the line:
    for n tokens, the least with n t >= R + (n + f) d for frames of f.
    """
    chances, gain_s = setting.chances, setting.pass_s(1) - draft_step_s(setting, frame_tokens)
    if gain_s <= 0:
        return tuple([setting.exact(place) for place in range(len(chances))])
    behind = math.ceil((setting.round_trip_s + frame_tokens * draft_step_s(setting, frame_tokens)) / gain_s)
    if behind >= MOST_TOKENS:
        return tuple([setting.exact(place) for place in range(len(chances))])
    ahead = [setting.exact(place) for place in range(behind)]
    return (*ahead, *(chances[behind:] or chances[-1:]))


def _in_passes(
    setting: Setting, frame_tokens: int, step_s: float, most: int, *, run_ahead: bool, own_tokens: int
) -> Expected:
    """Return the means of an edge's passes over drafts as they arrive.

    Where another wording may stand, the edge's own token behind a line that was right waits for the next draft, which
    it would void.

    A plan weighs several of these after each commit: what is in the loop is plain arithmetic on purpose.
    """
    alive, ended = stretch(tuple(setting.chances))
    last, target, alike = len(alive) - 1, setting.target, setting.alike
    if own_tokens:
        own_tokens = max(1, round(own_tokens * (1 - SHORTENED * _overtakes(setting, step_s))))
    withheld = setting.harmless > 0 and frame_tokens < most and not own_tokens
    position_s, frame_s, first_s = target.per_position_s, frame_tokens * step_s, setting.round_trip_s
    still_s, share_s = setting.pass_s(0), setting.share_s(0)  # a pass without a position
    now_s = own_s = seconds = edge_s = widening_s = 0.0
    tokens = positions = passes = 0
    before = 1.0  # the chance that the stretch is not over before this pass
    while True:
        line = int((now_s - first_s) / frame_s + 1e-9) * frame_tokens - tokens if now_s > first_s else 0
        own = max(0, own_tokens - max(0, line))
        if line <= 0 and not own and not run_ahead:
            now_s = first_s + -(-(tokens + 1) // frame_tokens) * frame_s + setting.turn_s
            line = int((now_s - first_s) / frame_s + 1e-9) * frame_tokens - tokens
        if own:
            wrote_s = own * setting.own_draft_s
            now_s, own_s = now_s + wrote_s, own_s + wrote_s
            came = int((now_s - first_s) / frame_s + 1e-9) * frame_tokens - tokens if now_s > first_s else 0
            line = max(max(0, line) + own * alike, came)
        width = min(max(0, line), most)
        passes, positions = passes + 1, positions + width + 1 + own * (not alike)
        now_s += still_s + position_s * (width + 1 + own * (not alike))
        tokens += width if width and withheld else width + 1
        after = alive[tokens] if tokens < last else 0.0  # what is left ends here, as if its miss were the last token
        ends, before = before - after, after
        seconds += ends * now_s
        edge_s += ends * (passes * share_s + positions * position_s + own_s / setting.sharers)
        widening_s += ends * positions * position_s
        if not after:
            length = ended + alive[last] * tokens
            return Expected(seconds / length, edge_s / length, 0.0, 0.0, widening_s / length)
