"""The noise is the published function, and the tests that chose it can tell good from bad."""

from __future__ import annotations

import numpy as np
import pytest

from airdraft.core.noise import draw_key, gumbel, gumbel_of, uniforms, uniforms_of
from bench.noise_choice import CANDIDATES, examine, grid, words

MASK = (1 << 64) - 1

# seed, position, id, and the 52 bits of u: the vectors that another implementation must give (ADR 0006).
VECTORS = [
    (0x0, 0, 0, 0xB49AB477BB868),
    (0x0, 0, 1, 0x238275BC38FCB),
    (0x0, 1, 0, 0x91A4E68C349C7),
    (0x1, 0, 0, 0xA7ED8821DCA10),
    (0x2A, 17, 151935, 0x5516D9A10CC96),
    (0xFFFFFFFFFFFFFFFF, 4095, 31999, 0x16D964469DA4C),
    (0x123456789ABCDEF, 131071, 262143, 0x05EC32A2863F9),
]


def spelled_out(seed: int, position: int, token: int) -> int:
    """Return the upper 52 bits by the formula of the module, in unbounded integers."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    key = mix((mix((seed + golden) & MASK) + (position + 1) * golden) & MASK)
    return mix((key + token * golden) & MASK) >> 12


@pytest.mark.parametrize(("seed", "position", "token", "bits"), VECTORS)
def test_published_vectors(seed: int, position: int, token: int, bits: int) -> None:
    assert spelled_out(seed, position, token) == bits
    (number,) = uniforms(seed, position, np.array([token])).tolist()
    assert number == bits * 2.0**-52 + 2.0**-53


def test_a_whole_vocabulary_is_the_formula_id_by_id() -> None:
    ids = np.arange(0, 151_936, 7)
    expected = [spelled_out(2**64 - 1, 4_095, token) for token in ids.tolist()]
    assert (uniforms(2**64 - 1, 4_095, ids) == np.array(expected) * 2.0**-52 + 2.0**-53).all()


def test_the_noise_of_an_id_does_not_depend_on_its_neighbours() -> None:
    ids = np.arange(20_000)
    some = ids[[3, 77, 9_999, 19_999]]
    assert (gumbel(5, 6, ids)[some] == gumbel(5, 6, some)).all()
    assert gumbel(5, 6, ids[:0]).shape == (0,)


def test_no_number_is_0_or_1_and_no_noise_is_infinite() -> None:
    extremes = np.array([0, (1 << 12) - 1, 1 << 63, MASK - (1 << 12), MASK], dtype=np.uint64)
    numbers = uniforms_of(extremes).tolist()
    assert numbers == [2.0**-53, 2.0**-53, 0.5 + 2.0**-53, 1 - 3 * 2.0**-53, 1 - 2.0**-53]
    assert np.isfinite(gumbel_of(extremes)).all()
    assert gumbel_of(extremes)[-1] == pytest.approx(53 * np.log(2))


@pytest.mark.parametrize(("seed", "position"), [(-1, 0), (1 << 64, 0), (0, -1)])
def test_a_seed_or_position_out_of_range_is_refused(seed: int, position: int) -> None:
    with pytest.raises(ValueError, match="below 2\\^64"):
        draw_key(seed, position)


def test_the_bench_examines_the_noise_that_is_in_use() -> None:
    ids = np.arange(100)
    hashes = grid(CANDIDATES["splitmix64"], words([3]), words([0, 8]), ids.astype(np.uint64))[0]
    for row, position in zip(hashes, (0, 8), strict=True):
        assert (uniforms_of(row) == uniforms(3, position, ids)).all()


def test_the_chosen_hash_passes_a_quick_examination() -> None:
    score = examine(CANDIDATES["splitmix64"], 1 << 14)
    assert score.passed, score


@pytest.mark.parametrize("name", ["single-multiply", "sum-of-fields"])
def test_a_planted_bad_hash_fails_the_same_examination(name: str) -> None:
    score = examine(CANDIDATES[name], 1 << 14)
    assert not score.passed
    assert score.p_values["pairs"] < 1e-6
    assert score.p_values["winners"] < 1e-6
