"""``python -m bench noise``: which counter-based hash makes the noise (ADR 0006).

Every candidate maps (seed, position, id) to 64 bits, of which the noise uses the upper 52. It faces the structured
inputs that sampling gives it: small seeds, consecutive positions, all ids. Each test yields a p-value; a family's score
is the least one times the number of its tests, and below ``ALPHA`` the candidate fails. Nothing is drawn: the inputs
are fixed, so the table is the same on every machine, times apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.figures import Result

Words = NDArray[np.uint64]
Hash = Callable[[Words, Words, Words], Words]

ALPHA = 1e-6
USED_BITS = 52
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
VOCABULARY = 151_936


def words(values: Iterable[int]) -> Words:
    """Return integers as an array of 64-bit words."""
    return np.array(list(values), dtype=np.uint64)


def _fold(x: Words, right: int) -> Words:
    return x ^ (x >> np.uint64(right))


def splitmix(x: Words) -> Words:
    """Return the finaliser of SplitMix64: Stafford's variant 13 of MurmurHash3's (Steele, Lea, Flood 2014)."""
    x = _fold(x, 30) * np.uint64(0xBF58476D1CE4E5B9)
    x = _fold(x, 27) * np.uint64(0x94D049BB133111EB)
    return _fold(x, 31)


def murmur(x: Words) -> Words:
    """Return the 64-bit finaliser of MurmurHash3."""
    x = _fold(x, 33) * np.uint64(0xFF51AFD7ED558CCD)
    x = _fold(x, 33) * np.uint64(0xC4CEB9FE1A85EC53)
    return _fold(x, 33)


def xxh(x: Words) -> Words:
    """Return the avalanche of XXH64."""
    x = _fold(x, 33) * np.uint64(0xC2B2AE3D27D4EB4F)
    x = _fold(x, 29) * np.uint64(0x165667B19E3779F9)
    return _fold(x, 32)


def pcg(x: Words) -> Words:
    """Return PCG's output function RXS-M-XS after one step of its generator (O'Neill 2014)."""
    x = x * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    x = (x ^ (x >> ((x >> np.uint64(59)) + np.uint64(5)))) * np.uint64(12605985483714917081)
    return _fold(x, 43)


def _key(seed: Words, position: Words) -> Words:
    """Return the word that stands for one draw; its cost is paid once a position, so it is mixed in full."""
    return splitmix(splitmix(seed + GOLDEN) + (position + np.uint64(1)) * GOLDEN)


def keyed(finaliser: Callable[[Words], Words]) -> Hash:
    """Return the hash that walks SplitMix64's sequence of ids from a key of seed and position."""
    return lambda seed, position, ids: finaliser(_key(seed, position) + ids * GOLDEN)


def keyed_twice(seed: Words, position: Words, ids: Words) -> Words:
    """Return two finalisers a candidate, with a key word before each."""
    key = _key(seed, position)
    return splitmix(splitmix(key + ids * GOLDEN) ^ splitmix(key ^ GOLDEN))


def one_multiply(seed: Words, position: Words, ids: Words) -> Words:
    """Return the first half of the finaliser, under the same key."""
    x = _fold(_key(seed, position) + ids * GOLDEN, 30) * np.uint64(0xBF58476D1CE4E5B9)
    return _fold(x, 31)


def sum_of_fields(seed: Words, position: Words, ids: Words) -> Words:
    """Return one finaliser over a sum, the key that a hurried hand writes: diagonals share their noise."""
    return splitmix((seed + position + ids) * GOLDEN)


def single_multiply(seed: Words, position: Words, ids: Words) -> Words:
    """Return a multiplicative hash of a linear key: planted to fail."""
    return (seed * np.uint64(0xD1342543DE82EF95) + position * np.uint64(0xBF58476D1CE4E5B9) + ids) * GOLDEN


def philox(seed: Words, position: Words, ids: Words) -> Words:
    """Return the two words of Philox-2x32-10 (Salmon et al. 2011), keyed by the folded seed and position."""
    low = np.uint64(0xFFFFFFFF)
    key = _key(seed, position)
    left, right = ids ^ (key >> np.uint64(32)), np.broadcast_to(np.uint64(0), ids.shape)
    key = key & low
    for _ in range(10):
        product = left * np.uint64(0xD256D193)
        left, right = (product >> np.uint64(32)) ^ key ^ right, product & low
        key = (key + np.uint64(0x9E3779B9)) & low
    return (left << np.uint64(32)) | right


CANDIDATES: dict[str, Hash] = {
    "splitmix64": keyed(splitmix),
    "murmur3": keyed(murmur),
    "xxh64": keyed(xxh),
    "pcg-rxs-m-xs": keyed(pcg),
    "splitmix64-twice": keyed_twice,
    "philox2x32-10": philox,
    "one-multiply": one_multiply,
    "sum-of-fields": sum_of_fields,
    "single-multiply": single_multiply,
}


# ---- p-values ----


def two_sided(z: float) -> float:
    """Return the chance of a normal deviate at least as far from 0 as ``z``."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi_square_p(counts: NDArray[np.int64], expected: float | NDArray[np.float64], constraints: int = 1) -> float:
    """Return the two-sided p-value of counts against what was expected, after Wilson and Hilferty 1931."""
    free = counts.size - constraints
    statistic = float(((counts - expected) ** 2 / expected).sum())
    spread = 2 / (9 * free)
    return two_sided(((statistic / free) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def kolmogorov_p(sample: NDArray[np.float64]) -> float:
    """Return the asymptotic p-value of a sample against the uniform distribution on (0, 1)."""
    count = sample.size
    ordered = np.sort(sample, axis=None)
    steps = np.arange(count) / count
    distance = max(float((ordered - steps).max()), float((steps + 1 / count - ordered).max()))
    scaled = distance * (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count))
    terms = [2 * (-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 101)]
    return min(1.0, max(0.0, sum(terms))) if scaled > 0.3 else 1.0


def top(hashes: Words, bits: int) -> NDArray[np.int64]:
    """Return the first bits of each hash."""
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def low(hashes: Words, bits: int) -> NDArray[np.int64]:
    """Return the last of the used bits of each hash."""
    return ((hashes >> np.uint64(64 - USED_BITS)) & np.uint64((1 << bits) - 1)).astype(np.int64)


def buckets(values: NDArray[np.int64], count: int) -> float:
    """Return the p-value of ``values`` in [0, count) against the uniform distribution."""
    return chi_square_p(np.bincount(values.ravel(), minlength=count), values.size / count)


def uniform(hashes: Words) -> NDArray[np.float64]:
    """Return the numbers in (0, 1) that the noise makes of hashes."""
    return (hashes >> np.uint64(12)).astype(np.float64) * 2.0**-52 + 2.0**-53


def gumbel(hashes: Words) -> NDArray[np.float64]:
    """Return the noise that the sampler adds."""
    noise: NDArray[np.float64] = -np.log(-np.log(uniform(hashes)))
    return noise


# ---- the tests, by family ----

SEEDS = (0, 1, 2, 41, 0xFFFFFFFFFFFFFFFF, 0x0123456789ABCDEF)


def axis(start: int, count: int, stride: int = 1) -> Words:
    """Return ``count`` consecutive values."""
    return np.arange(count, dtype=np.uint64) * np.uint64(stride) + np.uint64(start)


def grid(hashes: Hash, seeds: Words, positions: Words, ids: Words) -> Words:
    """Return the hashes [seed, position, id] of a box."""
    return hashes(seeds[:, None, None], positions[None, :, None], ids[None, None, :])


def avalanche(hashes: Hash, size: int) -> Iterator[float]:
    """Every input bit flips every used output bit half of the time."""
    count = max(256, size >> 6)
    walk = np.arange(count, dtype=np.uint64)
    starts = {
        "near zero": (walk >> np.uint64(6), walk & np.uint64(63), walk * np.uint64(7) % np.uint64(VOCABULARY)),
        "spread": (splitmix(walk + GOLDEN), splitmix(walk) >> np.uint64(44), splitmix(walk ^ GOLDEN) >> np.uint64(47)),
    }
    for fields in starts.values():
        before = hashes(*fields)
        for field, width in enumerate((64, 20, 17)):
            for bit in range(width):
                flipped = [value ^ np.uint64(1 << bit) if at == field else value for at, value in enumerate(fields)]
                changed = hashes(flipped[0], flipped[1], flipped[2]) ^ before
                bits = np.unpackbits(changed.view(np.uint8).reshape(-1, 8)[:, ::-1], axis=1)[:, :USED_BITS]
                z = np.abs(2 * bits.sum(axis=0, dtype=np.int64) - count).max() / math.sqrt(count)
                yield min(1.0, two_sided(float(z)) * USED_BITS)


def uniformity(hashes: Hash, size: int) -> Iterator[float]:
    """The numbers are uniform along ids, along positions and along seeds, in their first and in their last bits."""
    for seed in SEEDS:
        along_ids = grid(hashes, words([seed]), axis(seed % 100, size >> 12), axis(0, 1 << 12))
        along_positions = grid(hashes, words([seed]), axis(0, size >> 4), axis(1000, 1 << 4))
        along_seeds = grid(hashes, axis(seed, size >> 6), axis(17, 1 << 3), axis(0, 1 << 3, 37))
        for box in (along_ids, along_positions, along_seeds):
            yield buckets(top(box, 10), 1 << 10)
            yield buckets(low(box, 10), 1 << 10)
            yield kolmogorov_p(uniform(box))
        draws = grid(hashes, words([seed]), axis(7, size >> 12), axis(0, 1 << 12))[0]
        for part in (top(draws, 8), low(draws, 8)):  # neither lumpy nor too even within a draw
            cells = part + (np.arange(len(part)) << 8)[:, None]
            counts = np.bincount(cells.ravel(), minlength=len(part) << 8)
            yield chi_square_p(counts, 16.0, constraints=len(part))


PAIRS: dict[str, tuple[int, int, int]] = {
    "next id": (0, 0, 1),
    "next but one": (0, 0, 2),
    "id + 64": (0, 0, 64),
    "id + 4096": (0, 0, 4096),
    "next position": (0, 1, 0),
    "position + 64": (0, 64, 0),
    "position + 4096": (0, 4096, 0),
    "next seed": (1, 0, 0),
    "seed + 2^32": (1 << 32, 0, 0),
    "seed + golden": (int(GOLDEN), 0, 0),
    "rising diagonal": (0, 1, 1),
    "id + position": (0, 1, -1),
    "seed + position": (1, -1, 0),
    "seed + id": (1, 0, -1),
}


def pairs(hashes: Hash, size: int) -> Iterator[float]:
    """A number says nothing of its neighbour along any line: grid of buckets and correlation of the noise."""
    side = 1 << 5
    for seed in (2, 0x0123456789ABCDEF):
        line = top(grid(hashes, words([seed]), axis(3, size >> 12), axis(0, 1 << 12)), 4)[0]
        yield buckets((line[:, :-2] << 8) + (line[:, 1:-1] << 4) + line[:, 2:], 1 << 12)
        box = (words([seed])[:, None, None], axis(3, size >> 10)[None, :, None], axis(5, 1 << 10)[None, None, :])
        first = hashes(*box)
        shifted = [
            hashes(*(value + np.uint64(by % (1 << 64)) for value, by in zip(box, shift, strict=True)))
            for shift in PAIRS.values()
        ]
        shifted += [  # ids and positions that differ in the same bit share their exclusive or
            hashes(box[0], box[1] ^ np.uint64(mask), box[2] ^ np.uint64(mask)) for mask in (1, 2, 64)
        ]
        shifted.append(hashes(box[0], box[2], box[1]))  # the fields are told apart
        for second in shifted:
            apart = np.broadcast_to(box[1] != box[2] if second is shifted[-1] else np.True_, first.shape)
            yield buckets(top(first, 5)[apart] * side + top(second, 5)[apart], side * side)
            left, right = gumbel(first)[apart], gumbel(second)[apart]
            yield two_sided(float(np.corrcoef(left, right)[0, 1]) * math.sqrt(left.size))


def winners(hashes: Hash, size: int) -> Iterator[float]:
    """Who wins among equal candidates is uniform, and independent of the draw before, of the next seed, of the rest."""
    for seed, stride in ((0, 1), (1, 1), (7, 97), (0xFFFFFFFFFFFFFFFF, 4096), (11, 1)):
        for count in (16, 37):
            ids = axis(0, count, stride)
            draws = grid(hashes, axis(seed, 4), axis(0, size >> 6), ids).argmax(axis=2)
            yield buckets(draws, count)
            yield buckets(draws[:, :-1] * count + draws[:, 1:], count * count)
            yield buckets(draws[:-1] * count + draws[1:], count * count)
            other = grid(hashes, axis(seed, 4), axis(0, size >> 6), axis(count * stride, count, stride)).argmax(axis=2)
            yield buckets(draws * count + other, count * count)
    for seed in (3, 4):  # the greatest of many: its own distribution is known in full
        most = uniform(grid(hashes, words([seed]), axis(0, size >> 10), axis(0, 1 << 10)).max(axis=2))
        yield kolmogorov_p(most ** (1 << 10))


def collisions(hashes: Hash, size: int) -> Iterator[float]:
    """Values recur as often as chance has it (birthday counts in the first and in the last bits)."""
    count = min(size, 1 << 18)
    bits = 2 * int(math.log2(count)) - 7
    boxes = (
        grid(hashes, axis(0, 1), axis(0, 1), axis(0, count)),
        grid(hashes, axis(0, 1), axis(0, count), axis(0, 1)),
        grid(hashes, axis(0, count), axis(0, 1), axis(0, 1)),
        grid(hashes, axis(0, 4), axis(0, count >> 8), axis(0, 1 << 6)),
        grid(hashes, axis(0, count >> 10), axis(0, 1 << 5), axis(0, 1 << 5)),
        grid(hashes, axis(0, 4, 1 << 40), axis(0, count >> 8, 1 << 10), axis(0, 1 << 6, 1 << 11)),
    )
    for box in boxes:
        for part in (top(box, bits), low(box, bits)):
            found = part.size - np.unique(part).size
            mean = part.size - (1 << bits) * -math.expm1(part.size * math.log1p(-1 / (1 << bits)))
            yield two_sided((found - mean) / math.sqrt(mean))


FAMILIES: dict[str, Callable[[Hash, int], Iterator[float]]] = {
    "avalanche": avalanche,
    "uniformity": uniformity,
    "pairs": pairs,
    "winners": winners,
    "collisions": collisions,
}


@dataclass(frozen=True, slots=True)
class Score:
    """How one candidate did: the corrected p-value of its worst test in each family, and its time."""

    p_values: dict[str, float]
    tests: int
    full_ms: float = math.nan

    @property
    def passed(self) -> bool:
        return min(self.p_values.values()) >= ALPHA


def examine(hashes: Hash, size: int = 1 << 20) -> Score:
    """Put one candidate through every family; ``size`` is about the number of hashes a test."""
    p_values, tests = {}, 0
    for name, family in FAMILIES.items():
        found = list(family(hashes, size))
        tests += len(found)
        p_values[name] = min(1.0, min(found) * len(found))
    return Score(p_values, tests)


def time_ms(hashes: Hash, repeats: int = 21) -> float:
    """Return the least time of a whole vocabulary, in pieces that stay in the cache."""
    ids = axis(0, VOCABULARY)
    seed, position, piece = words([5]), words([9]), 1 << 13
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for at in range(0, VOCABULARY, piece):
            hashes(seed, position, ids[at : at + piece])
        seconds.append(time.perf_counter() - start)
    return min(seconds) * 1000


def run(*, quick: bool) -> Result:
    """Examine every candidate; print the table of ADR 0006."""
    result = Result("noise")
    print(f"{'candidate':<18}" + "".join(f"{name:>12}" for name in FAMILIES) + f"{'ms':>8}  verdict")
    for name, hashes in CANDIDATES.items():
        score = examine(hashes, 1 << 16 if quick else 1 << 20)
        spent = time_ms(hashes)
        row = "".join(f"{value:>12.1e}" for value in score.p_values.values())
        print(f"{name:<18}{row}{spent:>8.2f}  {'passes' if score.passed else 'FAILS'}")
        figure = name.replace("-", "_")
        result.figures[f"{figure}_p"] = min(score.p_values.values())
        result.figures[f"{figure}_ms"] = round(spent, 3)
        result.samples[f"{figure}_p"] = score.tests
    return result
