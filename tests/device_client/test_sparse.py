"""What goes up of a drafter's distribution: few entries, the drafted token always among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.drafters.sparse import most_likely


def test_the_likeliest_tokens_go_up_with_their_shares() -> None:
    logits = np.log(np.array([0.4, 0.1, 0.3, 0.2], np.float32))
    q = most_likely(logits, 0, entries=2)
    assert q.ids == (0, 2)
    assert q.probabilities() == pytest.approx([4 / 7, 3 / 7], abs=1e-4)


def test_a_token_that_was_hardly_likely_goes_up_too() -> None:
    logits = np.zeros(50, np.float32)
    logits[7], logits[9] = 40.0, -60.0
    q = most_likely(logits, 9)
    assert len(q.ids) <= 8
    assert 9 in q.ids
    assert q.probabilities()[q.ids.index(7)] > 0.999


@given(st.integers(1, 40), st.data())
def test_of_any_logits_it_is_a_distribution_that_holds_the_token(size: int, data: st.DataObject) -> None:
    logits = np.array(data.draw(st.lists(st.floats(-1e4, 1e4, width=32), min_size=size, max_size=size)), np.float32)
    token = data.draw(st.integers(0, size - 1))
    q = most_likely(logits, token)
    assert token in q.ids
    assert len(q.ids) <= 8
    assert q.probabilities().sum() == pytest.approx(1.0)
