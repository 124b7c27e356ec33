"""The torch sampler makes the choices of the numpy sampler, for one session and for many at once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from airdraft.core import noise
from airdraft.core.sampling import choose
from airdraft.core.types import Sampling
from edge_node.engine.sampling import Chosen, Part, choose_batch, choose_rows, gumbel, keys_of
from tests.core.test_sampling import some_settings

ROWS = 20
SIZES = ((97, 128), (1_003, 1_024))  # tokenizer, rows of the head


def tree_paths(chance: np.random.Generator, vocabulary: int) -> list[list[int]]:
    """Return a path for each row: a shared prefix, then branches of their own."""
    prefix = chance.integers(0, vocabulary, int(chance.integers(0, 60))).tolist()
    branch = chance.integers(0, vocabulary, 6).tolist()
    return [
        prefix + branch[: int(chance.integers(0, 6))] + chance.integers(0, vocabulary, at % 4).tolist()
        for at in range(ROWS)
    ]


def compare(batches: int, seed: int) -> int:
    """Assert equal choices over random batches; return how many cases there were."""
    chance = np.random.default_rng(seed)
    for batch in range(batches):
        vocabulary, padded = SIZES[batch % 8 == 7]
        logits = (chance.standard_normal((ROWS, padded)) * chance.choice([0.2, 2, 6])).astype(np.float32)
        if batch % 3 == 0:
            logits = np.round(logits)  # ties at every boundary
        if batch % 5 == 0:
            logits[:, chance.integers(1, padded, 9)] = -math.inf
        logits[:, vocabulary:] += 30
        settings = some_settings(chance)
        if batch % 7 == 0:  # equal weights, of which top-p asks for a whole number
            logits[:, :vocabulary] = np.where(np.arange(vocabulary) % 3 == 0, 2.0, -40.0)
            settings = replace(settings, top_k=0, top_p=float(chance.choice([0.25, 0.5, 0.75])))
        paths = tree_paths(chance, vocabulary)
        expected = [choose(row, settings, vocabulary, path) for row, path in zip(logits, paths, strict=True)]
        assert list(choose_rows(torch.from_numpy(logits), settings, vocabulary, paths)) == expected, settings
    return batches * ROWS


def test_choices_equal_the_reference() -> None:
    assert compare(250, 1) == 5_000


@pytest.mark.slow
def test_choices_equal_the_reference_a_hundred_thousand_times() -> None:
    assert compare(5_000, 2) == 100_000


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_a_large_flat_row_is_sorted_in_full(top_p: float) -> None:
    chance = np.random.default_rng(4)
    logits = (0.01 * chance.standard_normal((3, 5_000))).astype(np.float32)
    paths = [[0] * length for length in (0, 9, 400)]
    settings = Sampling(temperature=1.0, seed=8, top_p=top_p)
    expected = [choose(row, settings, 5_000, path) for row, path in zip(logits, paths, strict=True)]
    assert list(choose_rows(torch.from_numpy(logits), settings, 5_000, paths)) == expected


@pytest.mark.parametrize("top_p", [0.5, math.nextafter(0.5, 1), math.nextafter(0.5, 0), 0.0, math.nextafter(1, 0)])
def test_top_p_ends_where_it_is_exactly_reached(top_p: float) -> None:
    settings = Sampling(temperature=1.0, seed=2, top_p=top_p)
    paths = [[0] * length for length in range(200)]
    row = np.zeros(8, dtype=np.float32)
    expected = [choose(row, settings, 8, path) for path in paths]
    assert list(choose_rows(torch.zeros(200, 8), settings, 8, paths)) == expected
    assert max(expected) == {0.5: 3, math.nextafter(0.5, 1): 4, math.nextafter(0.5, 0): 3, 0.0: 0}.get(top_p, 7)


def test_the_noise_has_the_bits_of_the_reference() -> None:
    seed, positions, ids = (1 << 64) - 3, [0, 17, 40_000], np.arange(0, 151_936, 11)
    found = gumbel(
        keys_of([(seed, position) for position in positions], torch.device("cpu"))[:, None], torch.from_numpy(ids)
    ).numpy()
    for row, position in zip(found, positions, strict=True):
        expected = noise.gumbel(seed, position, ids)
        assert np.abs(row - expected).max() < 1e-13  # exp and log may differ in the last bit, the hash may not


def test_argmax_ties_go_to_the_lowest_id() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 9.0], [5.0, 5.0, 5.0, 9.0]])
    assert choose_rows(logits, Sampling(), 3, [[], [1]]) == (1, 0)
    assert choose_rows(logits, Sampling(presence_penalty=1.0), 3, [[1], [0]]) == (2, 1)
    assert choose_rows(logits, Sampling(presence_penalty=2.0), 3, [[1, 2], [0, 1]]) == (0, 2)
    assert choose_rows(logits[:0], Sampling(), 3, []) == ()


@pytest.mark.parametrize("settings", [Sampling(), Sampling(temperature=1.0, top_k=2), Sampling(frequency_penalty=0.5)])
def test_bad_rows_and_settings_are_refused(settings: Sampling) -> None:
    good = [0.0, 1.0, 2.0]
    for bad in ([0.0, math.nan, 1.0], [-math.inf] * 3, [0.0, math.inf, 1.0]):
        with pytest.raises(ValueError, match="no finite number"):
            choose_rows(torch.tensor([good, bad]), settings, 3, [[0], [0]])
    with pytest.raises(ValueError, match="paths"):
        choose_rows(torch.tensor([good]), settings, 3, [])
    with pytest.raises(ValueError, match="top_p"):
        choose_rows(torch.tensor([good]), replace(settings, top_p=2.0), 3, [[]])


# ---- many sessions at once ----


def some_parts(chance: np.random.Generator, kinds: list[Sampling], vocabulary: int) -> list[Part]:
    """Return parts of 0 to 4 rows, settings of a few kinds with seeds of their own."""
    parts: list[Part] = []
    for _ in range(int(chance.integers(1, 14))):
        kind = kinds[int(chance.integers(0, len(kinds)))]
        paths = tree_paths(chance, vocabulary)[: int(chance.integers(0, 5))]
        unread = (kind.repetition_penalty, kind.presence_penalty, kind.frequency_penalty) == (1, 0, 0)
        settings = replace(kind, seed=int(chance.integers(0, 1 << 62)))
        parts.append((settings, [len(path) for path in paths], None if unread and chance.random() < 0.5 else paths))
    return parts


@pytest.mark.parametrize("tie", [0.0, 1e-3])
def test_a_batch_gives_each_session_what_it_gets_alone(tie: float) -> None:
    chance = np.random.default_rng(9)
    for number in range(60):
        vocabulary, padded = [(97, 128), (1_003, 1_024), (1_300, 1_300)][number % 3]
        kinds = [Sampling(), Sampling(temperature=0.7), some_settings(chance), some_settings(chance)]
        parts = some_parts(chance, kinds, vocabulary)
        rows = sum(len(positions) for _, positions, _ in parts)
        logits = (4 * chance.standard_normal((rows, padded))).astype(np.float32)
        outcomes = choose_batch(torch.from_numpy(logits), parts, vocabulary, tie)
        left = iter(logits)
        for (settings, positions, paths), outcome in zip(parts, outcomes, strict=True):
            ids = paths or [[0] * position for position in positions]
            assert isinstance(outcome, Chosen)
            assert list(outcome.tokens) == [choose(next(left), settings, vocabulary, path) for path in ids]
        assert next(left, None) is None


def test_a_part_that_cannot_be_chosen_for_harms_no_other() -> None:
    warm, penal = Sampling(temperature=1.0, seed=3), Sampling(presence_penalty=1.0)
    good, bad = [0.0, 4.0, 2.0], [0.0, math.nan, 1.0]
    logits = torch.tensor([good, bad, good, good, bad, good, good, good])
    parts: list[Part] = [
        (Sampling(), [5, 6], None),
        (warm, [5], None),
        (Sampling(), [9], None),
        (warm, [8], None),
        (replace(warm, top_p=2.0), [4], None),
        (penal, [4], None),
        (penal, [1], [[1]]),
        (warm, [], None),
    ]
    outcomes = choose_batch(logits, parts, 3, 0.1)
    words = [str(outcome) if isinstance(outcome, ValueError) else outcome.tokens for outcome in outcomes]
    (lone,) = choose_batch(logits[2:3], [(warm, [5], None)], 3, 0.1)
    assert words[1] == lone.tokens if isinstance(lone, Chosen) else False
    assert [words[at] for at in (2, 6, 7)] == [(1,), (1,), ()]
    for at, reason in ((0, "finite"), (3, "finite"), (4, "top_p"), (5, "paths")):
        assert reason in words[at]


def test_near_ties_are_counted_within_their_part() -> None:
    logits = torch.tensor([[0.0, 4.0, 2.0], [4.0, 4.05, 0.0], [0.0, 1.0, 9.0], [7.0, 0.0, 7.19]])
    parts: list[Part] = [(Sampling(), [1], None), (Sampling(temperature=1e-9), [2], None), (Sampling(), [3, 4], None)]
    assert choose_batch(logits, parts, 3, 0.1) == [Chosen((1,), ()), Chosen((1,), (0,)), Chosen((2, 2), (1,))]
    assert choose_batch(logits, parts, 3, 0) == [Chosen((1,)), Chosen((1,)), Chosen((2, 2))]


def test_parts_must_make_up_the_rows() -> None:
    with pytest.raises(ValueError, match="3 positions"):
        choose_batch(torch.zeros(2, 5), [(Sampling(), [1, 2], None), (Sampling(), [1], None)], 5, 0)
    with pytest.raises(ValueError, match="6 ids"):
        choose_batch(torch.zeros(1, 5), [(Sampling(), [1], None)], 6, 0)
    assert choose_batch(torch.zeros(0, 5), [], 5, 0) == []
    assert choose_batch(torch.zeros(0, 5), [(Sampling(temperature=1.0), [], None)], 5, 0.1) == [Chosen(())]


def test_rows_beyond_the_cells_of_a_pass_are_chosen_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(11, 50, generator=torch.Generator().manual_seed(1))
    part: Part = Sampling(temperature=1.0, seed=1, top_p=0.9), list(range(11)), None
    whole = choose_batch(logits, [part], 50, 0.2)
    monkeypatch.setattr("edge_node.engine.sampling._CPU_CELLS", 160)
    assert choose_batch(logits, [part], 50, 0.2) == whole
