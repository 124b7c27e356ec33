"""Schedules of faults: drawn by a seed, played to their end, and made short where one fails."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airdraft.core.session import EdgeSession
from airdraft.link.virtual_world import Wire
from tests.core.worlds import VOCABULARY
from tests.link.faults_actions import FAULTS, Step, happen
from tests.link.faults_history import Caught
from tests.link.faults_trial import Setting, Trial


@dataclass(frozen=True, slots=True)
class Schedule:
    """A setting and what is done to it."""

    setting: Setting
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a schedule."""

    applied: Counter[str] = field(default_factory=Counter)
    caught: Caught | None = None
    finish_s: float = 0.0


def draw_setting(chance: random.Random, *, seeded: bool) -> Setting:
    """Draw a world's numbers."""
    pick = chance.choice
    return Setting(
        seed=chance.getrandbits(32),
        sampling=pick((1, 2, 3)) if seeded else 0,
        edges=pick((2, 2, 3)),
        keys=pick((0, 1, 2)),
        draft_length=chance.randrange(13),
        outstanding=pick((1, 2, 3, 4)),
        acceptance=pick((0.0, 0.3, 0.7, 0.9, 1.0, 1.0)),
        mute_every=pick((0, 0, 2, 5)),
        live_nodes=pick((1, 2, 3, 8, 256)),
        live_nodes_elsewhere=pick((1, 2, 3, 8, 256)),
        own_draft_tokens=pick((0, 0, 1, 4)),
        near_ties=pick((0.0, 0.0, 0.0, 0.1)),
        dies=chance.random() < 0.3,
        ahead_tokens=pick((1, 2, 5, 64)),
        chunk=pick((1, 3, 64)),
        prompt=chance.randint(1, 40),
        max_tokens=pick((0, 1, chance.randrange(60), 30, 45, 60, 60, 60)),
        stops=tuple(chance.randrange(VOCABULARY) for _ in range(pick((0, 0, 1)))),
        delay_s=pick((0.005, 0.02, 0.1)),
        pass_s=pick((0.01, 0.01, 0.3)),
        clock_offset_s=pick((0.0, 1e3, 1e6)),
        give_up_s=pick((1e9, 1e9, 1e9, 20.0, 0.0)),
        siblings=chance.random() < 0.15,
    )


PIPELINED: dict[str, Any] = {"draft_length": 1, "outstanding": 64}
PEARL: dict[str, Any] = {"outstanding": 1, "ahead": 1, "first_alone": True, "bonus": False}
PROACTIVE: dict[str, Any] = {"outstanding": 1, "ahead": 1}
SPLIT: dict[str, Any] = {"outstanding": 1, "split": True}
AS_DRAWN: dict[str, Any] = {}
_CONDUCTS = (AS_DRAWN, PIPELINED, PIPELINED | {"rests": True}, PEARL, PROACTIVE, SPLIT)


def conduct(seed: int) -> dict[str, Any]:
    """Return which schedule device and edges follow, as settings.

    It takes no number from the chance that draws the rest: what a seed stands for must not change with what is tried.
    """
    number, run_ahead = divmod(seed // 2, 2)  # greedy and seeded texts take turns, and both get each
    return {**_CONDUCTS[number % len(_CONDUCTS)], "run_ahead": bool(run_ahead)}


SEMANTIC: tuple[dict[str, Any], ...] = (
    {},
    {"meaning": "target-only", "near_ties": 0.0},
    {"meaning": "mismatch-first", "near_ties": 0.0, "stateless": 0.2},
    {"meaning": "full-hidden", "near_ties": 0.0, "stateless": 0.2},
    {"meaning": "margin-first", "near_ties": 0.0},
    {"meaning": "target-only", "near_ties": 0.0, "strictness": 0.0},
)
_HELD_S = (0.0, 0.05, 0.3, 0.3, 5.0)


def semantic(seed: int) -> dict[str, Any]:
    """Return what a seed's session lets stand by meaning, and how long its edge holds back what is its own.

    As ``conduct``, and apart from it: each way to draft meets each protocol.
    """
    number = seed // 2 // 2 // len(_CONDUCTS)
    variant, held = SEMANTIC[number % len(SEMANTIC)], _HELD_S[(seed // 2 + number) % len(_HELD_S)]
    return {**variant, "provisional_s": held} if variant else {}


def draw_step(chance: random.Random, kinds: Sequence[str] = tuple(FAULTS)) -> Step:
    """Draw one step of one of the ``kinds``."""
    return Step(
        chance.choice(kinds),
        pause=chance.choice((0, 0, 1, 2, 4, 8, 16, 32)),
        a=chance.randrange(8),
        b=chance.randrange(12),
        share=chance.random(),
    )


def draw(
    seed: int,
    *,
    seeded: bool,
    steps: tuple[int, int] = (8, 20),
    kinds: Sequence[str] = tuple(FAULTS),
    conducts: bool = True,
) -> Schedule:
    """Draw a schedule by its seed; without ``conducts`` every edge waits for a device that fills its frames."""
    chance = random.Random(seed)
    setting = replace(draw_setting(chance, seeded=seeded), **(conduct(seed) | semantic(seed) if conducts else {}))
    return Schedule(setting, tuple(draw_step(chance, kinds) for _ in range(chance.randint(*steps))))


def play(schedule: Schedule, wire: Wire | None = None, core: type[EdgeSession] = EdgeSession) -> Outcome:
    """Run a schedule to its end, or to the first broken promise."""
    trial = None
    try:
        trial = Trial(schedule.setting, wire, core)
        for step in schedule.steps:
            happen(trial, step)
        trial.settle()
    except Caught as caught:
        return Outcome(trial.applied if trial else Counter(), caught)
    return Outcome(trial.applied, None, trial.finish_s)


def shrunk(schedule: Schedule, check: str, core: type[EdgeSession] = EdgeSession) -> Schedule:
    """Leave out steps for as long as the same check still catches it."""
    index = len(schedule.steps) - 1
    while index >= 0:
        shorter = replace(schedule, steps=schedule.steps[:index] + schedule.steps[index + 1 :])
        caught = play(shorter, core=core).caught
        if caught is not None and caught.check == check:
            schedule, index = shorter, len(shorter.steps)
        index -= 1
    return schedule
