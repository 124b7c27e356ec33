"""Worlds of rounds for the draft-length policies: simulated, with every chance known, so that the best is too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from coordinator.policy.costs import PassCost
from coordinator.policy.draft_length import DraftLength
from coordinator.policy.estimates import Drafted, Estimates, Judged, Passed, Sample
from coordinator.policy.rounds import LONGEST, Drafting, Outcome, RoundTime

SHAPES = ("flat", "falling", "rising")


def chances(acceptance: float, shape: str) -> tuple[float, ...]:
    """Return [LONGEST] the chance at each position of a draft, all before being right.

    Of the first eight the mean is ``acceptance``. ``falling``: chances of a miss rise by 12 % a position; ``rising``:
    they fall to a third of the first.
    """
    steps = np.arange(LONGEST)
    curve = {
        "flat": np.ones(LONGEST),
        "falling": 1.12 ** np.minimum(steps, 12),
        "rising": 0.33 + 0.67 * 0.75**steps,
    }[shape]
    misses = (1 - acceptance) * curve / curve[:8].mean()
    return tuple(np.clip(1 - misses, 0.02, 0.995).tolist())


@dataclass(frozen=True)
class World:
    """What rounds are like."""

    time: RoundTime
    chances: tuple[float, ...]  # [LONGEST] by position in a draft
    jitter: float = 0.15  # of round trips: a lognormal's sigma
    noise: float = 0.05  # of draft steps and passes
    sure: float = 2.0  # how much tokens differ: chances are Beta distributed, with so many samples' worth of evidence
    blur: float = 1.0  # of confidences, in logits, against a token's true chance

    @cached_property
    def survival(self) -> tuple[float, ...]:
        """Return [LONGEST + 1], as ``RoundTime.best`` takes it."""
        return (1.0, *np.cumprod(self.chances).tolist())

    def cost(self, draft_length: int) -> float:
        """Return the true mean seconds a token of a draft length."""
        return self.time.seconds(draft_length) / sum(self.survival[: draft_length + 1])

    @cached_property
    def best_cost(self) -> float:
        """Return the seconds a token of the best fixed length, by trying all."""
        return min(map(self.cost, range(1, LONGEST + 1)))


def world(
    round_trip_ms: float, acceptance: float, shape: str = "flat", draft_ms: float = 8.0, pass_ms: float = 30.0
) -> World:
    """Return a world of the paced setting: a further position costs a hundredth of a pass."""
    time = RoundTime(round_trip_ms / 1000, draft_ms / 1000, PassCost(pass_ms / 1000, pass_ms / 100_000))
    return World(time, chances(acceptance, shape))


@dataclass(frozen=True, slots=True)
class Round:
    """One that was run."""

    before: Drafting  # what was known when it began
    outcome: Outcome
    seconds: float


class Run:
    """A policy in a world, round after round."""

    def __init__(self, policy: DraftLength, start: World, seed: int, estimates: Estimates | None = None) -> None:
        """Begin knowing of costs what one sample tells, and of acceptance what ``estimates`` do."""
        self.policy, self.world, self.estimates = policy, start, estimates or Estimates()
        self._chance = np.random.default_rng(seed)
        self._at_s = 0.0
        self._observe(2, 1, None)

    def rounds(self, count: int) -> Iterator[Round]:
        """Run so many rounds."""
        for _ in range(count):
            yield self._round()

    def known(self) -> Drafting:
        """Return what a policy is told before a draft."""
        time = self.estimates.round_time()
        assert time is not None, "the first sample has all three"
        return Drafting(time, self.estimates.acceptance)

    def _round(self) -> Round:
        before = now = self.known()
        rights: list[bool] = []
        while self.policy.length(now) > now.drafted and now.drafted < LONGEST:
            right, confidence = self._token(now.drafted)
            rights.append(right)
            now = replace(now, drafted=now.drafted + 1, confidences=(*now.confidences, confidence))
        accepted = rights.index(False) if False in rights else len(rights)
        outcome = Outcome(len(rights), accepted, now.confidences)
        seconds = self._observe(max(1, len(rights)), len(rights) + 1, Judged(len(rights), accepted))
        self.policy.saw(outcome)
        return Round(before, outcome, seconds)

    def _token(self, position: int) -> tuple[bool, float]:
        """Draft one: whether it is right, and the drafter's confidence."""
        here, sure, blur = self.world.chances[position], self.world.sure, self.world.blur
        true = float(self._chance.beta(sure * here, sure * (1 - here)))
        logit = np.log(max(true, 1e-9) / max(1 - true, 1e-9)) + blur * self._chance.normal()
        return bool(self._chance.random() < true), float(1 / (1 + np.exp(-np.clip(logit, -20, 20))))

    def _observe(self, drafted: int, positions: int, judged: Judged | None) -> float:
        """Let a round's parts happen, tell the estimates, and return the seconds of all."""
        time, noise = self.world.time, self.world.noise
        trip = float(self._chance.lognormal(-(self.world.jitter**2) / 2, self.world.jitter)) * time.round_trip_s
        draft_s = drafted * time.draft_s * float(self._chance.lognormal(-(noise**2) / 2, noise))
        pass_s = time.target.seconds(positions) * float(self._chance.lognormal(-(noise**2) / 2, noise))
        total = trip + draft_s + pass_s
        self._at_s += total
        sample = Sample(self._at_s, trip, drafted=Drafted(drafted, draft_s), passed=Passed(positions, pass_s))
        self.estimates = self.estimates.updated(replace(sample, judged=judged))
        return total
