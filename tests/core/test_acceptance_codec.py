"""The sparse q: what a device samples from is what it sends, to the last bit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.acceptance_chain import WEIGHT_TOTAL, SparseQ, quantise


@st.composite
def sparse_qs(draw: st.DrawFn) -> SparseQ:
    ids = sorted(draw(st.sets(st.integers(0, 151_935), min_size=1, max_size=40)))
    ends = sorted(draw(st.sets(st.integers(1, WEIGHT_TOTAL - 1), min_size=len(ids) - 1, max_size=len(ids) - 1)))
    return SparseQ(tuple(ids), tuple(np.diff([0, *ends, WEIGHT_TOTAL]).tolist()))


def test_every_id_is_sampled_on_exactly_its_share_of_the_uniforms() -> None:
    q = SparseQ((3, 40, 41, 151_935), (1, 30_000, 5_534, 30_000))
    ids = [q.sample((step + 0.5) / WEIGHT_TOTAL) for step in range(WEIGHT_TOTAL)]
    assert ids == sorted(ids)
    assert tuple(ids.count(one) for one in q.ids) == q.weights
    assert q.probabilities().tolist() == [weight / WEIGHT_TOTAL for weight in q.weights]


@given(sparse_qs())
def test_the_ends_of_the_uniforms_fall_on_the_first_and_last_id(q: SparseQ) -> None:
    assert q.sample(0.0) == q.ids[0]
    assert q.sample(np.nextafter(1.0, 0.0)) == q.ids[-1]


@given(sparse_qs())
def test_quantising_what_was_quantised_changes_nothing(q: SparseQ) -> None:
    assert quantise(q.ids, q.probabilities()) == q
    assert quantise(q.ids[::-1], q.probabilities()[::-1]) == q
    assert q.distribution().probabilities.sum() == pytest.approx(1, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=64).filter(lambda row: sum(row) > 1e-3), st.booleans())
def test_no_probability_moves_by_a_whole_weight(values: list[float], single: bool) -> None:
    exact = np.array(values) / np.sum(values)
    row = exact.astype(np.float32) if single else exact
    q = quantise(range(0, 3 * len(values), 3), row)
    kept = dict(zip(q.ids, q.probabilities(), strict=True))
    moved = [abs(kept.get(3 * at, 0.0) - one) for at, one in enumerate(exact)]
    assert max(moved) < 1 / WEIGHT_TOTAL + 1e-6
    assert all(exact[one // 3] > 0 for one in q.ids)


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        ((), (), "add up to"),
        ((1, 2), (WEIGHT_TOTAL,), "2 ids for 1 weights"),
        ((2, 1), (1, WEIGHT_TOTAL - 1), "ascend"),
        ((1, 1), (1, WEIGHT_TOTAL - 1), "ascend"),
        ((-1, 1), (1, WEIGHT_TOTAL - 1), "ascend"),
        ((1, 2), (0, WEIGHT_TOTAL), "1 or more"),
        ((1, 2), (-1, WEIGHT_TOTAL + 1), "1 or more"),
        ((1, 2), (1, WEIGHT_TOTAL), "add up to"),
        ((1, 2), (1, 1), "add up to"),
    ],
)
def test_a_malformed_q_is_refused(ids: tuple[int, ...], weights: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SparseQ(ids, weights)


@pytest.mark.parametrize(
    ("ids", "row", "message"),
    [
        ([], [], "add up to 1"),
        ([1, 2], [1.0], "2,) ids for (1,)"),
        ([1, 2], [-0.5, 1.5], "0 or more"),
        ([1, 2], [0.5, 0.4], "add up to 1"),
        ([1, 2], [np.nan, 1.0], "0 or more"),
        ([1, 2], [np.inf, 1.0], "add up to 1"),
        ([1, 1], [0.5, 0.5], "twice"),
        ([1, 2, 1], [0.5, 0.5, 0.0], "twice"),
        ([-1, 2], [0.5, 0.5], "ascend"),
    ],
)
def test_what_is_no_distribution_is_not_quantised(ids: list[int], row: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        quantise(ids, row)
