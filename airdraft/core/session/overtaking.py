"""Whether a device that is behind an edge that goes ahead of it drafts on, or rests (DESIGN §3B).

A draft counts only if it is there before the edge comes to its position. After a miss the edge is a round trip ahead,
and what the device drafts until it has overtaken it must be right throughout: on a long round trip, or with a poor
drafter, that hardly ever happens. There the device rests, saves its battery, and looks now and then whether it still is
so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from airdraft.core.session.run_ahead import PRIOR_ACCEPTANCE, PRIOR_TOKENS, Mean
from airdraft.core.types import Commit, Origin

WORTH = 0.01
"""What share of the edge's own time a token drafts must be expected to save; half of it once the device is at it."""

SPREADS = 1.0
"""By how many of their standard errors chances are taken to be higher than estimated.

A draft too many costs the device some work, one too few the user some time.
"""

MEMORY = 0.99
"""What a judged token counts for after one more: what counts is a high power of a chance, and must not jump."""

PROBE_EVERY_TOKENS = 32
PROBE_TOKENS = 8
"""At rest, a stretch is drafted every so many committed tokens, until a miss or so many tokens judged."""

MOST_GAP = 8.0
"""In passes: a gap between two commits that is longer is the link's, and not the edge's."""

_PLACES = 6  # in a stretch: its first token, the second, then 2 on, 4 on, 8 on, 16 on


class Odds:
    """The chance that the next drafted token is right, by how many before it were.

    One chance for all would not do: a drafter that copies is wrong mostly, and then right for a long while.
    """

    def __init__(self) -> None:
        self._judged, self._accepted = [0.0] * _PLACES, [0.0] * _PLACES
        self._all, self._right = PRIOR_TOKENS, PRIOR_TOKENS * PRIOR_ACCEPTANCE

    @property
    def acceptance(self) -> float:
        """Return the chance wherever in a stretch."""
        return self._right / self._all

    def saw(self, before: int, *, right: bool) -> None:
        """Take a judged token that stood behind so many right ones."""
        place = _place(before)
        self._judged[place] = MEMORY * self._judged[place] + 1
        self._accepted[place] = MEMORY * self._accepted[place] + right
        self._all, self._right = MEMORY * self._all + 1, MEMORY * self._right + right

    def hoped(self) -> list[float]:
        """Return the chance at each place, on the hopeful side; where little is known, that of the place before."""
        hoped, guess = [], PRIOR_ACCEPTANCE
        for judged, accepted in zip(self._judged, self._accepted, strict=True):
            weight = judged + PRIOR_TOKENS
            guess = (accepted + PRIOR_TOKENS * guess) / weight
            hoped.append(min(1.0, guess + SPREADS * math.sqrt(guess * (1 - guess) / weight)))
        return hoped


def _place(before: int) -> int:
    return min(before.bit_length(), _PLACES - 1)


def all_right(chances: Sequence[float], before: int, tokens: float) -> float:
    """Return the chance that ``tokens`` more are right, behind ``before`` right ones; ``chances`` are ``Odds.hoped``'s.

    A part of a token counts as that power of its chance.
    """
    chance, at, end = 1.0, float(before), before + tokens
    for place in range(_place(before), _PLACES):
        here = (end if place == _PLACES - 1 else min(end, 1 << place)) - at
        if here > 0:
            chance *= math.pow(chances[place], here)
            at += here
    return chance


def tokens_to_overtake(round_trip_s: float, draft_s: float, token_s: float, unconfirmed: int) -> float:
    """Return how many more tokens a device must draft until one is there before the edge comes to its position.

    The n-th is in time once R + d + n d <= (u + n) t, for u drafted tokens that the device does not know to be
    committed; infinite where a draft takes as long as the edge's own token.
    """
    if draft_s >= token_s:
        return math.inf
    return max(0.0, (round_trip_s + draft_s - unconfirmed * token_s) / (token_s - draft_s))


class Overtaking:
    """What a device knows of itself, its channel and an edge that goes ahead, and what follows for its drafting."""

    def __init__(self, clock: Callable[[], float], round_trip: Callable[[], float | None]) -> None:
        """Begin without knowing anything, and so drafting.

        clock       seconds
        round_trip  the seconds of one now, as far as that is known
        """
        self._clock, self._round_trip = clock, round_trip
        self._odds = Odds()
        self.last_draft: tuple[int, float] | None = None  # tokens and seconds of the last one, where both are its own
        self._draft_s = Mean()  # one drafted token
        self._token_s = Mean()  # one token of the edge's own
        self._began: tuple[float, int] | None = None  # when the draft at work began, and after how many ids
        self._read = 0  # how many ids the drafter has read or written, at the least
        self._last_commit_s: float | None = None
        self._stretch = 0  # drafted tokens found right since the last miss or rest
        self._worth = True
        self._rested = 0  # committed tokens since the last stretch
        self._probe_left = 0  # tokens that the probe at work may still judge; 0: there is none

    @property
    def acceptance(self) -> float:
        """Return the estimated chance that one more drafted token is the target's own."""
        return self._odds.acceptance

    @property
    def worth(self) -> bool:
        """Return whether to draft; it changes with commits alone, and with a new stream."""
        return self._worth

    # ---- events ----

    def attached(self) -> None:
        """A new stream, or none: whoever verifies next is not ahead."""
        self._last_commit_s = None
        self._worth, self._rested, self._probe_left = True, 0, 0

    def drafting(self, length: int) -> None:
        """The drafter begins, after a path of ``length`` ids."""
        self._began = (self._clock(), length)

    def drafted(self, tokens: int, *, whole: bool) -> None:
        """The drafter wrote ``tokens``; ``whole``: it was not cut short."""
        self.last_draft = None
        if self._began is None:
            return
        (began_s, length), self._began = self._began, None
        # What it had to read first, a prompt or what was committed at rest, does not count as drafting.
        if tokens and whole and length - self._read <= 1:
            self.last_draft = tokens, self._clock() - began_s
            self._draft_s.add(self.last_draft[1] / tokens)
        self._read = length + tokens

    def committed(self, commit: Commit, ahead: Sequence[int]) -> None:
        """A commit came; ``ahead`` is what was drafted past the committed end before it, sent or not."""
        pairs = list(zip(ahead, commit.ids, strict=False))
        agreed = next((index for index, (mine, theirs) in enumerate(pairs) if mine != theirs), len(pairs))
        missed = agreed < len(pairs)
        for right in [True] * agreed + [False] * missed:
            self._odds.saw(self._stretch, right=right)
            self._stretch = self._stretch + 1 if right else 0
        accepted = Origin.ACCEPTED in commit.origins or Origin.MEANING in commit.origins
        self._paced(commit, by_edge=not accepted)
        if (accepted and not missed) or self._pays(0 if missed else len(ahead) - len(pairs)):
            self._worth, self._probe_left = True, 0
        elif self._worth:
            self._probe_left = 0 if missed else max(0, self._probe_left - agreed)
            self._worth = self._probe_left > 0
            self._rested = 0
        else:
            self._rested += len(commit.ids)
            if self._rested >= PROBE_EVERY_TOKENS:
                self._worth, self._stretch, self._probe_left = True, 0, PROBE_TOKENS

    # ---- the decision ----

    def _paced(self, commit: Commit, *, by_edge: bool) -> None:
        """Learn from the time since the commit before what a token of the edge's own takes."""
        now_s, pass_s = self._clock(), commit.timing.pass_s
        if by_edge and self._last_commit_s is not None and commit.ids:
            gap_s = max(now_s - self._last_commit_s, pass_s)  # shorter: the link held the commit before back
            self._token_s.add((min(gap_s, MOST_GAP * pass_s) if pass_s else gap_s) / len(commit.ids))
        self._last_commit_s = now_s

    def _pays(self, unconfirmed: int) -> bool:
        """Say whether drafting on behind the edge is expected to save enough of its time.

        If the unconfirmed tokens are right, and those that it takes to overtake it, the next pass finds drafts waiting:
        from then to the next miss no token of the device costs a pass, or all go at the drafter's pace. Set against the
        time of a mean stretch and its miss. For chances that are the same everywhere: a^(u + n) min(a, 1 - d / t), of
        which ``RoundCost.run_ahead_s`` has a stricter form.
        """
        round_trip_s, draft_s, token_s = self._round_trip(), self._draft_s.value, self._token_s.value
        if round_trip_s is None or draft_s is None or token_s is None:
            return True
        further = tokens_to_overtake(round_trip_s, draft_s, token_s, unconfirmed)
        if math.isinf(further):
            return False
        chances, stretch = self._odds.hoped(), self._stretch if self._worth else 0
        overtaken = stretch + unconfirmed + further
        then = chances[_place(int(overtaken))]
        longer = (1 - self.acceptance) / max(1 - then, 1 - MEMORY)
        gain = all_right(chances, stretch, unconfirmed + further) * min(then, 1 - draft_s / token_s) * longer
        return gain >= (WORTH / 2 if self._worth and not self._probe_left else WORTH)
