"""The sampler is its rule: each processor by hand, all of them against a plain reference, the draws against chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from airdraft.core import sampling as sampler
from airdraft.core.noise import gumbel
from airdraft.core.sampling import check, choose, coupled_choice, probabilities, survivors
from airdraft.core.types import Sampling
from bench.noise_choice import CANDIDATES, axis, chi_square_p, grid, words
from bench.noise_choice import gumbel as gumbel_of_hashes

Row = NDArray[np.float32]
WARM = Sampling(temperature=1.0)
DRAWS = 200_000


def row(*values: float) -> Row:
    return np.array(values, dtype=np.float32)


def left(logits: Row, sampling: Sampling, path: Sequence[int] = (), vocabulary: int | None = None) -> list[int]:
    ids, _ = survivors(logits, sampling, len(logits) if vocabulary is None else vocabulary, path)
    return [int(token) for token in ids]


def plain(logits: Row, sampling: Sampling, vocabulary: int, path: Sequence[int]) -> tuple[list[int], list[float]]:
    """Return the survivors and their scores by the rule, candidate by candidate."""
    counts = Counter(path)
    scores: dict[int, float] = {}
    for token, logit in enumerate(logits[:vocabulary].tolist()):
        if token in counts:
            repetition = sampling.repetition_penalty
            logit = logit / repetition if logit > 0 else logit * repetition
            logit -= sampling.presence_penalty
            logit -= sampling.frequency_penalty * counts[token]
        if logit > -math.inf:
            scores[token] = logit / (sampling.temperature or 1.0)
    ranked = sorted(scores, key=lambda token: (-scores[token], token))
    if sampling.temperature == 0:
        ranked = ranked[:1]
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    if sampling.top_p < 1:
        top = scores[ranked[0]]
        weights = {token: math.floor(2.0**40 * float(np.exp(scores[token] - top))) for token in ranked}
        ranked.sort(key=lambda token: (-weights[token], token))
        target, mass, kept = max(1, math.ceil(sampling.top_p * float(sum(weights.values())))), 0, []
        for token in ranked:
            if mass >= target:
                break
            mass += weights[token]
            kept.append(token)
        ranked = kept
    if sampling.min_p > 0:
        bound = max(scores[token] for token in ranked) + math.log(sampling.min_p)
        ranked = [token for token in ranked if scores[token] >= bound]
    ids = sorted(ranked)
    return ids, [scores[token] for token in ids]


def agree(logits: Row, sampling: Sampling, vocabulary: int, path: Sequence[int]) -> int:
    """Assert that survivors, scores and choice are the reference's; return the number of survivors."""
    ids, scores = survivors(logits, sampling, vocabulary, path)
    expected, expected_scores = plain(logits, sampling, vocabulary, path)
    assert ids.tolist() == expected, sampling
    assert scores.tolist() == expected_scores, sampling
    if sampling.temperature == 0:
        winner = expected[0]
    else:
        winner = expected[
            int(np.argmax(np.array(expected_scores) + gumbel(sampling.seed, len(path), np.array(expected))))
        ]
    assert choose(logits, sampling, vocabulary, path) == winner, sampling
    return len(expected)


def some_settings(chance: np.random.Generator) -> Sampling:
    def pick(*values: float) -> float:
        return float(chance.choice(values))

    return Sampling(
        temperature=pick(0, 0.3, 0.7, 1, 1, 1.5),
        seed=int(chance.integers(0, 1 << 63)) * 2 + 1,
        top_k=int(pick(0, 0, 1, 5, 40, 10_000)),
        top_p=pick(1, 1, 0.95, 0.9, 0.5, 0.25, 0.0),
        min_p=pick(0, 0, 0.02, 0.3, 1),
        repetition_penalty=pick(1, 1, 1.2, 0.8),
        presence_penalty=pick(0, 0, 0.5, -0.5),
        frequency_penalty=pick(0, 0, 0.25, -0.3),
    )


# ---- temperature 0 and padding ----


def test_greedy_takes_the_lowest_of_equals_and_never_padding() -> None:
    logits = row(1, 3, 2, 3, 9)
    assert choose(logits, Sampling(), 4, [4]) == 1
    assert choose(logits, Sampling(), 5, []) == 4
    assert left(logits, Sampling(), vocabulary=4) == [1]


def test_padding_never_wins_at_any_temperature() -> None:
    logits = row(0, 0, 0, 50)
    for position in range(200):
        assert choose(logits, WARM, 3, [0] * position) < 3
    assert left(logits, replace(WARM, top_p=0.5), vocabulary=3) == [0, 1]
    assert left(logits, replace(WARM, top_k=1), vocabulary=3) == [0]


def test_penalties_act_at_temperature_0() -> None:
    assert choose(row(2, 1.5, 0), Sampling(presence_penalty=0.75), 3, [0]) == 1
    assert choose(row(2, 1.5, 0), Sampling(presence_penalty=0.5), 3, [0]) == 0  # a tie: the lowest id
    assert choose(row(1.5, 2, 0), Sampling(presence_penalty=0.5), 3, [1]) == 0
    assert choose(row(2, 1.5, 0), Sampling(frequency_penalty=0.25), 3, [0, 0, 0]) == 1
    assert choose(row(2, 1.5, 0), Sampling(frequency_penalty=0.25), 3, [0]) == 0
    assert choose(row(2, 1.5, 0), Sampling(presence_penalty=1.0), 3, [0, 1, 2]) == 0  # nothing left unpenalised
    assert choose(row(1, -math.inf), Sampling(presence_penalty=100.0), 2, [0]) == 0


# ---- penalties ----


def test_repetition_divides_what_is_positive_and_multiplies_the_rest() -> None:
    _, scores = survivors(row(3, -3, 0, 3), replace(WARM, repetition_penalty=1.5), 4, [0, 1, 2, 0])
    assert scores.tolist() == [2, -4.5, 0, 3]


def test_presence_counts_once_and_frequency_every_time_after_repetition() -> None:
    settings = replace(WARM, repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    _, scores = survivors(row(3, -3, 5, 0), settings, 4, [0, 0, 1, 0])
    assert scores.tolist() == [1.5 - 0.5 - 0.75, -6 - 0.5 - 0.25, 5, 0]


def test_penalties_come_before_temperature_and_truncation() -> None:
    settings = Sampling(temperature=0.5, presence_penalty=1.0, top_k=2)
    ids, scores = survivors(row(3, 2.5, 2.25, 0), settings, 4, [0])
    assert (ids.tolist(), scores.tolist()) == ([1, 2], [5.0, 4.5])


def test_path_ids_outside_the_tokenizer_count_for_nothing_but_length() -> None:
    settings = replace(WARM, presence_penalty=9.0)
    assert survivors(row(1, 2, 3, 4), settings, 3, [3, 77, -1])[1].tolist() == [1, 2, 3]


# ---- truncation ----


def test_top_k_keeps_the_lowest_ids_among_equals_at_its_boundary() -> None:
    logits = row(1, 2, 1, 3, 1)
    assert left(logits, replace(WARM, top_k=3)) == [0, 1, 3]
    assert left(logits, replace(WARM, top_k=4)) == [0, 1, 2, 3]
    assert left(logits, replace(WARM, top_k=5)) == left(logits, replace(WARM, top_k=99)) == [0, 1, 2, 3, 4]
    assert left(logits, replace(WARM, top_k=0)) == [0, 1, 2, 3, 4]
    assert left(np.zeros(5_000, dtype=np.float32), replace(WARM, top_k=3)) == [0, 1, 2]


def test_top_p_stops_where_it_is_exactly_reached() -> None:
    logits = np.zeros(8, dtype=np.float32)
    assert left(logits, replace(WARM, top_p=0.5)) == [0, 1, 2, 3]
    assert left(logits, replace(WARM, top_p=math.nextafter(0.5, 1))) == [0, 1, 2, 3, 4]
    assert left(logits, replace(WARM, top_p=math.nextafter(0.5, 0))) == [0, 1, 2, 3]
    assert left(np.zeros(10, dtype=np.float32), replace(WARM, top_p=0.9)) == list(range(9))


def test_top_p_takes_the_likely_first_and_the_lowest_ids_among_equals() -> None:
    logits = row(0, 1, 0, 1, 0)  # masses 1, e, 1, e, 1: of 8.44
    assert left(logits, replace(WARM, top_p=0.3)) == [1]
    assert left(logits, replace(WARM, top_p=0.6)) == [1, 3]
    assert left(logits, replace(WARM, top_p=0.7)) == [0, 1, 3]
    assert left(logits, replace(WARM, top_p=0.8)) == [0, 1, 2, 3]


def test_top_p_0_keeps_one_and_1_keeps_all() -> None:
    logits = row(0, 1, 1, -80)
    assert left(logits, replace(WARM, top_p=0.0)) == [1]
    assert left(logits, WARM) == [0, 1, 2, 3]
    assert left(logits, replace(WARM, top_p=math.nextafter(1, 0))) == [0, 1, 2]  # e^-81 weighs nothing in integers


def test_min_p_keeps_what_reaches_its_share_of_the_greatest() -> None:
    exact = float(np.float32(2.0))
    logits = row(exact, exact - math.log(4), exact - 1.5, exact)
    assert left(logits, replace(WARM, min_p=0.24)) == [0, 1, 3]
    assert left(logits, replace(WARM, min_p=0.26)) == [0, 3]
    assert left(logits, replace(WARM, min_p=0.22)) == [0, 1, 2, 3]
    assert left(logits, replace(WARM, min_p=1.0)) == [0, 3]


def test_the_order_of_the_processors() -> None:
    masses = row(*np.log([0.4, 0.3, 0.2, 0.1]).tolist())
    assert left(masses, replace(WARM, top_p=0.65)) == [0, 1]
    assert left(masses, replace(WARM, top_k=2, top_p=0.65)) == [0, 1]  # 4/7 alone does not reach 0.65
    assert left(masses, replace(WARM, top_k=2, top_p=0.55)) == [0]  # it does reach 0.55, of what top-k left
    assert left(masses, replace(WARM, top_p=0.55)) == [0, 1]
    hot = replace(WARM, temperature=10.0)
    assert left(masses, replace(hot, top_p=0.65)) == [0, 1, 2]  # temperature came before top-p
    assert left(masses, replace(hot, min_p=0.85)) == [0, 1, 2, 3]  # and before min-p: 4^-0.1 = 0.87
    assert left(masses, replace(WARM, top_p=0.95, min_p=0.6)) == [0, 1]  # min-p takes from what top-p left


def test_minus_infinity_never_survives() -> None:
    logits = row(-math.inf, 0, -math.inf, 0)
    for settings in (WARM, replace(WARM, top_k=3), replace(WARM, top_p=0.99), replace(WARM, min_p=0.1)):
        assert left(logits, settings) == [1, 3]
    penal = replace(WARM, presence_penalty=0.5, top_k=3)
    assert left(logits, penal, path=[0, 1]) == [1, 3]


@pytest.mark.parametrize("settings", [Sampling(), WARM, replace(WARM, top_k=2), Sampling(presence_penalty=0.1)])
def test_rows_without_a_finite_greatest_are_refused(settings: Sampling) -> None:
    for bad in (row(0, math.nan, 1), row(*[-math.inf] * 3), row(0, math.inf, 1)):
        with pytest.raises(ValueError, match="greatest logit"):
            choose(bad, settings, 3, [0])
    assert choose(row(5, 1, math.nan), settings, 2, [1]) in (0, 1)  # padding may hold anything
    with pytest.raises(ValueError, match="2 logits"):
        survivors(row(0, 1), settings, 3, [])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-0.1, math.nan, math.inf, 1e-12)),
        ("seed", (-1, 1 << 64)),
        ("top_k", (-1,)),
        ("top_p", (-0.1, 1.1, math.nan)),
        ("min_p", (-0.1, 1.1, math.nan)),
        ("repetition_penalty", (0.0, -1.0, math.inf, math.nan)),
        ("presence_penalty", (math.inf, math.nan)),
        ("frequency_penalty", (-math.inf, math.nan)),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        settings = Sampling(**{"temperature": 1.0, name: value})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=name):
            check(settings)
        with pytest.raises(ValueError, match=name):
            choose(row(0, 1), settings, 2, [])


# ---- against the plain reference ----


def test_every_processor_together_is_the_reference() -> None:
    chance = np.random.default_rng(7)
    truncated = 0
    for case in range(3_000):
        vocabulary = int(chance.integers(1, 60))
        logits = (chance.standard_normal(vocabulary + 4) * chance.choice([0.1, 2, 8])).astype(np.float32)
        if case % 3 == 0:
            logits = np.round(logits * 2) / 2  # ties everywhere
        if case % 5 == 0:
            logits[chance.random(len(logits)) < 0.3] = -math.inf
            logits[0] = 1
        path = chance.integers(0, vocabulary + 4, int(chance.integers(0, 30))).tolist()
        truncated += agree(logits, some_settings(chance), vocabulary, path) < vocabulary
    assert truncated > 1_000


def shapes(chance: np.random.Generator, count: int) -> dict[str, Row]:
    by_rank = 20 - 1.5 * np.log(chance.permutation(count) + 1.0)
    return {
        "zipf": by_rank.astype(np.float32),
        "zipf with ties": (np.round(by_rank * 4) / 4).astype(np.float32),
        "normal": (2.5 * chance.standard_normal(count)).astype(np.float32),
        "flat": np.full(count, 3.25, dtype=np.float32),
        "two values": np.where(chance.random(count) < 0.001, 4, 0).astype(np.float32),
        "far": (1e30 * chance.standard_normal(count)).astype(np.float32),
    }


@pytest.mark.parametrize("kind", shapes(np.random.default_rng(0), 1))
def test_large_vocabularies_take_short_cuts_to_the_same_survivors(kind: str) -> None:
    chance = np.random.default_rng(len(kind))
    for _ in range(8):
        logits = shapes(chance, 9_000)[kind]
        base = Sampling(temperature=float(chance.choice([0.6, 1, 1.3])), seed=int(chance.integers(0, 99)))
        path = chance.integers(0, 9_000, 300).tolist()
        for settings in (
            base,
            replace(base, top_k=50),
            replace(base, top_k=5_000, top_p=0.8),
            replace(base, top_p=float(chance.choice([0.5, 0.9, 0.95]))),
            replace(base, min_p=0.05),
            replace(base, top_p=0.9, frequency_penalty=0.5, repetition_penalty=1.3),
            replace(base, top_p=0.9, presence_penalty=-40.0),  # the greatest is a penalised one
            replace(base, frequency_penalty=0.5),
        ):
            agree(logits, settings, 8_990, path)


def test_top_p_really_takes_its_short_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = shapes(np.random.default_rng(1), 9_000)["zipf"]
    expected = plain(logits, replace(WARM, top_p=0.9), 9_000, [])[0]
    monkeypatch.setattr(sampler._Row, "all", None)
    monkeypatch.setattr(sampler._Row, "mass", None)
    assert left(logits, replace(WARM, top_p=0.9)) == expected


def test_top_p_weighs_all_where_the_error_of_the_tail_could_decide() -> None:
    """The nucleus ends exactly at the mass asked for: a float32 sum of the tail cannot tell on which side."""
    logits = np.full(1 << 14, -8.0, dtype=np.float32)
    logits[:32] = 0
    one, small = 1 << 40, math.floor(2.0**40 * float(np.exp(-8.0)))
    total = 32 * one + ((1 << 14) - 32) * small
    for count in (3, 16, 31):
        edge = count * one / total
        for top_p in (edge, math.nextafter(edge, 1), math.nextafter(edge, 0), edge * (1 + 1e-12), edge * (1 - 1e-12)):
            settings = replace(WARM, top_p=top_p)
            assert left(logits, settings) == plain(logits, settings, len(logits), [])[0]
    assert len(left(logits, replace(WARM, top_p=16 * one / total * (1 + 1e-12)))) == 17
    assert len(left(logits, replace(WARM, top_p=16 * one / total * (1 - 1e-12)))) == 16


def test_equal_weights_on_both_sides_of_the_depth_that_top_p_looks_to() -> None:
    """Logits an ulp apart have one weight in integers: then the lower id comes first, though its logit is less."""
    top_p = 1 - 1e-5
    bound = np.float32(-(sampler._DEPTHS[0] - math.log1p(-top_p)))
    logits = np.full(25_000, -80, dtype=np.float32)
    logits[:200] = np.nextafter(bound, np.float32(-99))
    logits[200:10_200] = np.nextafter(bound, np.float32(0))
    logits[20_000] = 0
    settings = replace(WARM, top_p=top_p)
    ids = left(logits, settings)
    assert ids == plain(logits, settings, len(logits), [])[0]
    assert ids[0] == 0
    assert 9_000 < len(ids) < 10_000


def test_the_cheap_test_for_losers_never_drops_a_winner() -> None:
    chance = np.random.default_rng(3)
    for case in range(60):
        scores = chance.standard_normal(30_000) * chance.choice([0, 1e-3, 1, 4, 1e6])
        ids = np.sort(chance.choice(60_000, 30_000, replace=False))
        expected = ids[np.argmax(scores + gumbel(case, 2 * case, ids))]
        assert coupled_choice(ids, scores, case, 2 * case) == expected


def test_equal_totals_go_to_the_lowest_id() -> None:
    """Scores so great that the noise is lost in them: every candidate has the same total."""
    logits = np.full(30_000, 1e30, dtype=np.float32)
    logits[:9_000] = 0
    assert choose(logits, WARM, 30_000, []) == 9_000
    assert choose(logits, replace(WARM, top_p=0.9), 30_000, []) == 9_000
    assert choose(logits, replace(WARM, presence_penalty=-0.5), 30_000, [12_000]) == 9_000


def test_the_choice_hangs_on_seed_and_position_and_on_no_other_part_of_the_path() -> None:
    logits = np.zeros(1_000, dtype=np.float32)
    first = [choose(logits, WARM, 1_000, [0] * length) for length in range(40)]
    assert first == [choose(logits, WARM, 1_000, list(range(length))) for length in range(40)]
    assert len(set(first)) > 30
    other = [choose(logits, replace(WARM, seed=1), 1_000, [0] * length) for length in range(40)]
    assert sum(left == right for left, right in zip(first, other, strict=True)) < 5


# ---- against chance ----

TOY = (2.0 * np.random.default_rng(5).standard_normal(36)).astype(np.float32)
TOY_PATH = [3, 3, 3, 5, 8, 30, 30]
CONFIGURATIONS = {
    "plain": Sampling(temperature=1.0, seed=11),
    "cold": Sampling(temperature=0.6, seed=0),
    "hot": Sampling(temperature=1.8, seed=(1 << 64) - 1),
    "top-k": Sampling(temperature=1.0, seed=3, top_k=6),
    "top-p": Sampling(temperature=1.0, seed=4, top_p=0.8),
    "min-p": Sampling(temperature=1.2, seed=5, min_p=0.1),
    "penalties": Sampling(temperature=0.9, seed=6, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2),
    "all": Sampling(
        temperature=1.1, seed=7, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.2, frequency_penalty=0.3
    ),
}


def draws(logits: Row, sampling: Sampling, start: int) -> NDArray[np.int64]:
    """Return the tokens [DRAWS] of as many positions from ``start`` on."""
    ids, scores = survivors(logits, sampling, 32, TOY_PATH)
    positions, words_of_ids = axis(start, DRAWS), ids.astype(np.uint64)
    noise = gumbel_of_hashes(grid(CANDIDATES["splitmix64"], words([sampling.seed]), positions, words_of_ids)[0])
    tokens: NDArray[np.int64] = ids[np.argmax(noise + scores, axis=1)]
    return tokens


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_tokens_are_drawn_from_the_probabilities(name: str) -> None:
    sampling = CONFIGURATIONS[name]
    start = len(TOY_PATH)
    tokens = draws(TOY, sampling, start)
    for length in range(start, start + 300):  # padding ids lengthen a path and count for nothing else
        path = TOY_PATH + [35] * (length - start)
        assert choose(TOY, sampling, 32, path) == tokens[length - start]
    ids, p = probabilities(TOY, sampling, 32, TOY_PATH)
    assert p.sum() == pytest.approx(1)
    counts = np.bincount(tokens, minlength=32)
    assert counts[ids].sum() == DRAWS
    assert 0.5 * np.abs(counts[ids] / DRAWS - p).sum() <= 0.01
    often = p * DRAWS >= 5
    cells = np.append(counts[ids][often], counts[ids][~often].sum())
    expected = np.append(p[often], p[~often].sum()) * DRAWS
    if expected[-1] < 5:
        cells, expected = np.append(cells[:-2], cells[-2:].sum()), np.append(expected[:-2], expected[-2:].sum())
    assert chi_square_p(cells, expected) > 1e-6


def test_probabilities_are_the_softmax_of_the_survivors() -> None:
    ids, p = probabilities(row(0, 1, 2, 9), replace(WARM, top_k=2), 3, [])
    assert ids.tolist() == [1, 2]
    assert p.tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    ids, p = probabilities(row(0, 1, 2, 9), Sampling(), 3, [])
    assert (ids.tolist(), p.tolist()) == ([2], [1.0])


@pytest.mark.parametrize("sharpness", [0.3, 0.7, 1.5])
def test_two_ends_with_the_same_noise_agree_as_often_as_theory_says(sharpness: float) -> None:
    """The share is the sum over j of 1 / sum over i of max(p_i / p_j, q_i / q_j) (Daliri, Musco, Suresh 2024)."""
    sampling = Sampling(temperature=1.0, seed=23)
    other = (TOY + sharpness * np.random.default_rng(9).standard_normal(36)).astype(np.float32)
    _, p = probabilities(TOY, sampling, 32, [])
    _, q = probabilities(other, sampling, 32, [])
    share = float((1 / np.maximum(p[:, None] / p, q[:, None] / q).sum(axis=0)).sum())
    found = float((draws(TOY, sampling, 50) == draws(other, sampling, 50)).mean())
    assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / DRAWS)
    assert 0.3 < share < 0.95
