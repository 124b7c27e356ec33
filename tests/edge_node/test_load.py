"""Under load every session gets the text that it would get alone: bit for bit in strict, up to near ties in fast."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random

import pytest
import torch

from airdraft.core.types import Sampling
from edge_node.engine.engine import TargetEngine
from edge_node.engine.runner import StepRunner
from edge_node.engine.target import Target
from tests.edge_node.traffic import Asked, Device, Traffic, hash_of
from tests.shapes import CONTEXT, VOCABULARY, shape

SAMPLINGS = (
    Sampling(),
    Sampling(temperature=1.0, seed=7),
    Sampling(temperature=0.8, seed=2**63 + 5, top_k=20, top_p=0.9),
    Sampling(temperature=1.2, seed=11, min_p=0.05, repetition_penalty=1.2, presence_penalty=0.3),
)
SHARED = tuple(range(3, 60, 2))
"""How many prompts begin: sessions of one tenant find one another's rows."""


def target_of(name: str, dtype: torch.dtype = torch.float32) -> Target:
    model = shape(name)
    if dtype != torch.float32:
        model = copy.deepcopy(model)
        model.to(dtype=dtype)  # type: ignore[call-arg]
    return Target(name, model, "", VOCABULARY, (), CONTEXT, b"", None)


@dataclass(slots=True)
class Alone:
    """Texts that each had the engine to itself, a position a pass."""

    runner: StepRunner
    after: set[bytes] = field(default_factory=set)  # where its near ties were
    known: dict[Asked, list[int]] = field(default_factory=dict)

    def text(self, asked: Asked) -> list[int]:
        """Return prompt and answer."""
        asked = replace(asked, tenant="")
        if asked not in self.known:
            traffic = Traffic(self.runner, 512, Random(0))
            device = traffic.arrives(asked)
            traffic.ends()
            assert len(device.answer) == asked.max_tokens
            self.known[asked] = device.ids
            self.after |= traffic.metrics.after
        return self.known[asked]


def setting(profile: str, dtype: torch.dtype = torch.float32, tie: float = 0.0) -> tuple[StepRunner, Alone]:
    """Return a step runner, and the texts that its engine writes alone."""
    target = target_of("llama", dtype)
    crowded, alone = (
        StepRunner(TargetEngine(target, rows, profile=profile, poison=True), VOCABULARY, tie=tie)
        for rows in (1 << 14, 512)
    )
    return crowded, Alone(alone)


@lru_cache
def strict() -> tuple[StepRunner, Alone]:
    return setting("strict")


def asked_of(chance: Random, tenants: Sequence[str] = ("a", "b")) -> Asked:
    """Return one of some hundred wishes, so that texts alone need not be made anew for each."""
    kind = Random(chance.randrange(120))
    shared = SHARED[: kind.choice((0, 20, len(SHARED)))]
    own = tuple(kind.randrange(VOCABULARY) for _ in range(kind.randint(1, 40)))
    return Asked((*shared, *own), kind.choice(SAMPLINGS), kind.randint(1, 24), chance.choice(tenants))


def happens(traffic: Traffic, alone: Alone, chance: Random, devices: int, error: float) -> None:
    """Let one thing happen."""
    here = [device for device in traffic.devices if not device.done]
    if len(traffic.devices) < devices and (not here or chance.random() < 0.3):
        traffic.arrives(asked_of(chance))
        return
    if not here or chance.random() < 0.35:
        traffic.steps()
        return
    device = chance.choice(here)
    if device.entry is None:
        traffic.attaches(device)
    elif chance.random() < 0.75:
        traffic.drafts(device, alone.text(device.asked), error)
    else:
        rare = (traffic.idles, traffic.idles, traffic.idles, traffic.leaves, traffic.leaves, traffic.cancels)
        chance.choice((*rare, traffic.evicts))(device)


def played(runner: StepRunner, alone: Alone, seed: int, devices: int, *, deaths: bool = False) -> Traffic:
    """Return what became of one random schedule."""
    chance = Random(seed)
    rows = chance.choice((1024, 2048, 1 << 14))
    traffic = Traffic(runner, rows, chance, positions=chance.choice((8, 48, 256)))
    error = chance.choice((0.0, 0.2, 0.6))
    for _ in range(devices * chance.randint(4, 16)):
        happens(traffic, alone, chance, devices, error)
        if deaths and chance.random() < 0.01:
            traffic.engine_dies()
    traffic.ends()
    assert not traffic.failed
    return traffic


def differing(traffic: Traffic, alone: Alone) -> list[tuple[Device, int]]:
    """Return the devices whose text is not a beginning of the one alone, and the position where it departs."""
    found = []
    for device in traffic.devices:
        truth = alone.text(device.asked)
        at = next((at for at, (got, due) in enumerate(zip(device.ids, truth, strict=False)) if got != due), None)
        if at is not None:
            found.append((device, at))
        elif device.entry is not None:
            assert len(device.ids) == len(truth)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_sixty_four_sessions_in_strict_get_what_each_gets_alone(seed: int) -> None:
    runner, alone = strict()
    traffic = played(runner, alone, seed, 64, deaths=True)
    assert not differing(traffic, alone)
    assert max(len(step.outcomes) for step in traffic.engine.steps) > 4
    assert traffic.sessions.pool.hits > 0


def schedules(first: int, count: int) -> int:
    """Play small schedules; return how many sessions ended in another text than alone."""
    runner, alone = strict()
    return sum(len(differing(played(runner, alone, seed, 1 + seed % 6), alone)) for seed in range(first, first + count))


@pytest.mark.slow
def test_random_schedules_in_strict() -> None:
    assert schedules(1000, 150) == 0


@pytest.mark.slow
def test_sixty_four_sessions_in_fast_differ_after_counted_near_ties_alone() -> None:
    """In bfloat16 rounding turns choices all the time; each of them was counted."""
    runner, alone = setting("fast", torch.bfloat16, tie=0.25)
    flips = 0
    for seed in range(6):
        traffic = played(runner, alone, seed, 64)
        for device, at in differing(traffic, alone):
            flips += 1
            where = hash_of(device.ids[:at])
            assert where in traffic.metrics.after | alone.after, f"{device.asked.sampling} differs at {at}"
    assert flips > 2


@pytest.mark.slow
def test_fast_in_float32_gives_the_same_texts() -> None:
    runner, alone = setting("fast", tie=1e-3)
    for seed in range(3):
        traffic = played(runner, alone, seed, 64)
        for device, at in differing(traffic, alone):
            assert hash_of(device.ids[:at]) in traffic.metrics.after | alone.after


def test_rows_of_a_text_that_its_device_took_back_are_not_shared() -> None:
    """A device comes back with another text of the same session: the rows of the first one are nobody's any more."""
    _, alone = strict()
    prompt = tuple(range(40, 80))
    first, other = Asked(prompt, SAMPLINGS[1], 24), Asked((*prompt, 1, 2, 3, 4), SAMPLINGS[0], 12)
    traffic = Traffic(strict()[0], 4096, Random(1))
    device = traffic.arrives(first)
    while len(device.answer) < 20:
        traffic.steps()
        traffic.idles(device)
    traffic.leaves(device)
    traffic.steps()
    traffic.arrives(Asked((9, 9, 9), SAMPLINGS[0], 4))  # keeps the engine at work: the next step takes all who come now
    device.ids[len(prompt) :] = [1, 2, 3, 4, *other.prompt[:10]]
    traffic.attaches(device)
    rival = traffic.arrives(Asked(tuple(device.ids), SAMPLINGS[0], 8))
    traffic.ends()
    assert rival.ids == alone.text(rival.asked)
