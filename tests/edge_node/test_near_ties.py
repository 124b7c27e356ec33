"""No choice that rounding could turn goes unnamed, and few are named that it could not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from airdraft.core.noise import gumbel
from airdraft.core.types import Sampling
from edge_node.engine import choices, sampling
from edge_node.engine.choices import leaders
from edge_node.engine.sampling import Chosen, choose_batch
from tests.core.test_sampling import some_settings

Logits = NDArray[np.float32]
Scores = NDArray[np.float64]
Paths = list[list[int]]

WARM = Sampling(temperature=1.0, seed=5)
CUTS = {
    "top-k": replace(WARM, top_k=6),
    "top-p": replace(WARM, top_p=0.6),
    "min-p": replace(WARM, min_p=0.4),
    "top-k and top-p": replace(WARM, top_k=12, top_p=0.8, temperature=0.8),
    "all three": replace(WARM, top_k=20, top_p=0.9, min_p=0.1, temperature=1.4),
}

# ---- what an adversary does to the logits ----


def chosen(logits: Logits, settings: Sampling, paths: Paths, tie: float) -> Chosen:
    part = settings, [len(path) for path in paths], paths
    (outcome,) = choose_batch(torch.from_numpy(logits), [part], logits.shape[1], tie)
    assert isinstance(outcome, Chosen)
    return outcome


def moved(logits: Logits, signs: Scores, tie: float) -> Logits:
    """Return the logits moved by ``signs`` times ``tie``, and in no case by more than ``tie``."""
    exact = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = (exact + signs * tie).astype(np.float32)
        too_far = np.abs(found.astype(np.float64) - exact) > tie
    return np.where(too_far, np.nextafter(found, logits), found)


def scores_of(logits: Logits, settings: Sampling, paths: Paths) -> Scores:
    """Return the penalised and tempered logits."""
    scores = logits.astype(np.float64)
    for row, path in zip(scores, paths, strict=True):
        ids, counts = np.unique(np.array(path, dtype=np.int64), return_counts=True)
        repetition = settings.repetition_penalty
        row[ids] = np.where(row[ids] > 0, row[ids] / repetition, row[ids] * repetition)
        row[ids] -= settings.presence_penalty + settings.frequency_penalty * counts
    return scores / (settings.temperature or 1.0)


def attacks(
    scores: Scores, totals: Scores, winners: NDArray[np.int64], chance: np.random.Generator
) -> Iterator[Scores]:
    """Yield which way every logit goes [R, V]: at random, and as it helps a rival in or the winner out.

    A rival, or the winner itself, stands at the boundary: it goes one way, all above it another, all below a third.
    """
    rows = np.arange(len(scores))
    yield chance.uniform(-1, 1, scores.shape)
    yield chance.choice([-1.0, 1.0], scores.shape)
    rivals = totals.copy()
    rivals[rows, winners] = -math.inf
    nearest = np.argsort(-rivals, axis=1)[:, :4].T
    lure = np.where(scores < scores[rows, winners][:, None], totals, -math.inf).argmax(axis=1)
    for pivot in (winners, scores.argmax(axis=1), lure, *nearest):
        above = scores > scores[rows, pivot][:, None]
        for up, down in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            signs = np.where(above, float(up), float(down))
            signs[rows, pivot] = 1
            signs[rows, winners] = -1
            yield signs
    signs = np.full(scores.shape, 1.0)
    signs[rows, winners] = -1
    yield signs


def turned(logits: Logits, settings: Sampling, paths: Paths, tie: float, seed: int) -> tuple[set[int], set[int]]:
    """Return the rows that some attack turned and those that were named."""
    calm = chosen(logits, settings, paths, tie)
    assert chosen(logits, settings, paths, 0).tokens == calm.tokens
    winners = np.array(calm.tokens)
    scores = scores_of(logits, settings, paths)
    totals = scores
    if settings.temperature:
        ids = np.arange(logits.shape[1])
        totals = scores + np.array([gumbel(settings.seed, len(path), ids) for path in paths])
    flipped: set[int] = set()
    for signs in attacks(scores, totals, winners, np.random.default_rng(seed)):
        after = chosen(moved(logits, signs, tie), settings, paths, 0)
        assert after.near_ties == ()
        flipped |= set(np.flatnonzero(np.array(after.tokens) != winners).tolist())
    return flipped, set(calm.near_ties)


def make_rows(chance: np.random.Generator, rows: int, vocabulary: int, spread: float) -> tuple[Logits, Paths]:
    logits = (spread * chance.standard_normal((rows, vocabulary))).astype(np.float32)
    return logits, [chance.integers(0, vocabulary, int(chance.integers(0, 30))).tolist() for _ in range(rows)]


def missed(settings: Sampling, tie: float, rounds: int = 4, rows: int = 50, vocabulary: int = 60) -> tuple[int, int]:
    """Return how many of the rows that an attack turned were not named, and how many it turned."""
    chance = np.random.default_rng(3)
    lost = found = 0
    for seed in range(rounds):
        logits, paths = make_rows(chance, rows, vocabulary, float(chance.choice([0.3, 1, 2])))
        flipped, named = turned(logits, replace(settings, seed=seed), paths, tie, seed)
        lost, found = lost + len(flipped - named), found + len(flipped)
    return lost, found


# ---- soundness ----


@pytest.mark.parametrize("tie", [0.1, 0.01])
@pytest.mark.parametrize("cut", CUTS)
def test_what_can_turn_at_a_boundary_is_named(cut: str, tie: float) -> None:
    lost, found = missed(CUTS[cut], tie)
    assert found > 200 * tie
    assert lost == 0


def sweep(rounds: int, seed: int) -> int:
    """Assert that no attack on random rows under random settings goes unnamed; return how many rows turned."""
    chance = np.random.default_rng(seed)
    count = 0
    for number in range(rounds):
        vocabulary = int(chance.choice([3, 17, 97, 97, 1_500]))
        logits, paths = make_rows(chance, 24, vocabulary, float(chance.choice([0.2, 1, 4])))
        if number % 4 == 0:
            logits = np.round(logits * 8) / np.float32(8)  # ties, and boundaries with several on them
        if number % 5 == 0:
            logits[:, chance.integers(1, vocabulary, vocabulary // 3)] = -math.inf
        settings, tie = some_settings(chance), float(chance.choice([0.3, 0.1, 0.1, 1e-2, 1e-4]))
        flipped, named = turned(logits, settings, paths, tie, number)
        assert flipped <= named, (settings, tie, number)
        count += len(flipped)
    return count


@pytest.mark.slow
def test_no_attack_turns_a_row_that_was_not_named() -> None:
    assert sweep(40, 1) > 100


@pytest.mark.slow
def test_no_attack_of_very_many_turns_a_row_that_was_not_named() -> None:
    assert sweep(800, 2) > 3_000


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(-40, 40), min_size=5, max_size=5), min_size=1, max_size=4),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 1e-9, 1e-3, 0.5, 1.0, 30.0, 1e9]),
        seed=st.integers(0, (1 << 64) - 1),
        top_k=st.integers(0, 6),
        top_p=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1 - 2.0**-30, math.nextafter(1, 0), 1.0]),
        min_p=st.sampled_from([0.0, 1e-6, 0.2, 1.0]),
        repetition_penalty=st.sampled_from([1e-3, 0.5, 1.0, 1.3, 1e3]),
        presence_penalty=st.sampled_from([0.0, 1.0, -100.0]),
        frequency_penalty=st.sampled_from([0.0, 0.5]),
    ),
    st.sampled_from([1e-6, 1e-3, 0.05, 0.5, 4.0]),
)
def test_no_setting_hides_a_choice_that_can_turn(eighths: list[list[int]], settings: Sampling, tie: float) -> None:
    logits: Logits = (np.array(eighths) / 8).astype(np.float32)
    paths = [[at % 5] * at for at in range(len(logits))]
    flipped, named = turned(logits, settings, paths, tie, 0)
    assert flipped <= named


# ---- planted mistakes ----

Patch = pytest.MonkeyPatch


def with_fates(patch: Patch, change: Callable[[Any], Any]) -> None:
    right = choices._survivors

    def wrong(*arguments: Any) -> Any:
        field, fates = right(*arguments)
        return field, change(fates)

    patch.setattr(choices, "_survivors", wrong)


def the_winner_never_drops_out(patch: Patch) -> None:
    with_fates(patch, lambda fates: replace(fates, sure=torch.ones_like(fates.sure)))


def nobody_enters(patch: Patch) -> None:
    with_fates(patch, lambda fates: replace(fates, possible=fates.kept))


def the_mass_of_top_p_stands_still(patch: Patch) -> None:
    patch.setattr(choices, "_share", lambda share, drift: share)


def temperature_does_not_matter(patch: Patch) -> None:
    patch.setattr(sampling, "_drift", lambda settings, tie: 2 * tie)


def only_one_logit_moves(patch: Patch) -> None:
    right = sampling._drift
    patch.setattr(sampling, "_drift", lambda settings, tie: right(settings, tie / 2))


COLD = replace(WARM, temperature=0.2)
MISTAKES: list[tuple[Callable[[Patch], None], Sampling]] = [
    *((the_winner_never_drops_out, CUTS[cut]) for cut in ("top-k", "top-p", "min-p")),
    *((nobody_enters, CUTS[cut]) for cut in ("top-k", "top-p", "min-p")),
    (the_mass_of_top_p_stands_still, CUTS["top-p"]),
    (temperature_does_not_matter, COLD),
    (temperature_does_not_matter, replace(WARM, repetition_penalty=3.0)),
    (only_one_logit_moves, WARM),
    (only_one_logit_moves, Sampling(repetition_penalty=1.0001)),
]


@pytest.mark.parametrize(("plant", "settings"), MISTAKES)
def test_the_attacks_find_a_mistake(plant: Callable[[Patch], None], settings: Sampling, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    lost, _ = missed(settings, 0.1, rounds=8)
    assert lost > 0


# ---- tightness ----


@pytest.mark.parametrize(
    ("settings", "percent"),
    [
        (Sampling(), 0.2),
        (WARM, 0.1),
        (replace(WARM, top_k=50), 0.15),
        (replace(WARM, top_p=0.95), 0.15),
        (replace(WARM, min_p=0.05), 0.15),
        (replace(WARM, top_p=0.95, repetition_penalty=1.1, frequency_penalty=0.2), 0.15),
    ],
)
@pytest.mark.slow
def test_few_rows_are_named(settings: Sampling, percent: float) -> None:
    chance, rows = np.random.default_rng(11), 2_000
    named = 0
    for spread in (1, 2, 3):
        logits = (spread * chance.standard_normal((rows, 1_000))).astype(np.float32)
        paths = [[at % 1_000, 7, 7] * (at % 9) for at in range(rows)]
        named += len(chosen(logits, settings, paths, 1e-4).near_ties)
    assert named < 3 * rows * percent / 100


@pytest.mark.parametrize("settings", [Sampling(), WARM, *CUTS.values()])
@pytest.mark.slow
def test_most_that_are_named_can_turn(settings: Sampling) -> None:
    chance = np.random.default_rng(12)
    logits, paths = make_rows(chance, 2_000, 60, 1.0)
    flipped, named = turned(logits, settings, paths, 0.01, 1)
    assert len(flipped) > 0.7 * len(named) > 7


@pytest.mark.parametrize("temperature", [1e-9, 1e-4])
def test_a_clear_winner_at_a_low_temperature_is_not_named(temperature: float) -> None:
    settings = Sampling(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1)
    logits = np.array([[0, 1, 3, 2], [0, 3, 2.9992, 1]], dtype=np.float32)
    assert chosen(logits, settings, [[], []], 1e-3) == Chosen((2, 1), (1,))


# ---- the first of the greatest, by blocks ----


@pytest.mark.parametrize("count", [1, 255, 1_024, 1_025, 1_279, 1_280, 2_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leaders_are_the_first_of_the_greatest(count: int, dtype: torch.dtype) -> None:
    chance = torch.Generator().manual_seed(count)
    values = torch.randint(-3_000, 40, (300, count), generator=chance).to(dtype) / 8
    values[::3, 1::7] = -math.inf
    padded = torch.cat([values, torch.full((300, 5), 99.0, dtype=dtype)], dim=1)[:, :count]  # rows with a stride
    winners, near = leaders(padded, 0.3)
    assert winners.tolist() == np.argmax(values.numpy(), axis=1).tolist()
    within = (values >= values.amax(dim=1, keepdim=True) - 0.3).sum(dim=1) > 1
    assert near is not None
    assert near.tolist() == within.tolist()
    assert count < 256 or 10 < within.sum() < 290
    again, nothing = leaders(padded, 0)
    assert (again.tolist(), nothing) == (winners.tolist(), None)
