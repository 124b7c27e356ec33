"""The noise that the device and the edge share: a published hash of (seed, position, id), named ``splitmix64-1``.

With all arithmetic on unsigned 64-bit words that wrap, ``>>`` filling with zeros and

    mix(x):  x ^= x >> 30;  x *= 0xBF58476D1CE4E5B9;  x ^= x >> 27;  x *= 0x94D049BB133111EB;  x ^= x >> 31

(the finaliser of SplitMix64: Steele, Lea, Flood 2014), the noise of a candidate is

    key     = mix(mix(seed + g) + (position + 1) * g)        g = 0x9E3779B97F4A7C15
    u       = (mix(key + id * g) >> 12) * 2^-52 + 2^-53      exact in float64, never 0 or 1
    gumbel  = -log(-log(u))

ADR 0006 holds the tests that chose it and the vectors that another implementation must give.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOISE_VERSION = "splitmix64-1"

GOLDEN = 0x9E3779B97F4A7C15
FOLDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_FOLD = 31

_WORD = (1 << 64) - 1
_ONE = np.uint64(0x3FF0000000000000)  # the exponent of the numbers from 1 to 2


def draw_key(seed: int, position: int) -> int:
    """Return the 64-bit word that every candidate of one draw shares.

    Raises ValueError where the seed or the position is no unsigned 64-bit number.
    """
    if not (0 <= seed <= _WORD and 0 <= position <= _WORD):
        raise ValueError(f"seed {seed} and position {position} must be at least 0 and below 2^64")
    return _mix(_mix(seed + GOLDEN) + (position + 1) * GOLDEN)


def words(key: int, ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the hash of each of the ids [N] under a draw key; fastest for pieces that stay in the cache."""
    word = ids.view(np.uint64) * np.uint64(GOLDEN)
    word += np.uint64(key)
    shifted = np.empty_like(word)
    for fold, factor in FOLDS:
        np.right_shift(word, np.uint64(fold), out=shifted)
        word ^= shifted
        word *= np.uint64(factor)
    np.right_shift(word, np.uint64(LAST_FOLD), out=shifted)
    word ^= shifted
    return word


def uniforms_of(word: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return the number in the open interval (0, 1) that each hash stands for: an odd multiple of 2^-53."""
    numbers = ((word >> np.uint64(12)) | _ONE).view(np.float64)  # 1 + (word >> 12) * 2^-52, without a conversion
    numbers -= 1 - 2.0**-53
    return numbers


def gumbel_of(word: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return the Gumbel noise that each hash stands for."""
    noise = uniforms_of(word)
    for _ in range(2):
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return noise


def uniforms(seed: int, position: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the uniform number of each of the ids [N] at a position."""
    return uniforms_of(words(draw_key(seed, position), ids))


def gumbel(seed: int, position: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the Gumbel noise of each of the ids [N] at a position."""
    return gumbel_of(words(draw_key(seed, position), ids))


def _mix(word: int) -> int:
    word &= _WORD
    for fold, factor in FOLDS:
        word = (word ^ word >> fold) * factor & _WORD
    return word ^ word >> LAST_FOLD
