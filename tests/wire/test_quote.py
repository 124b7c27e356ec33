"""A quote crosses the wire unchanged or not at all; what nobody can plan by is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.errors import MalformedFrame
from airdraft.core.types import Limits, Opened, Quote
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import edge_frame_from_proto, edge_frame_to_proto
from airdraft.wire.describe import Description, description_from_proto, description_to_proto

QUOTE = Quote(0.028, 0.00015, True, 2.5, 3.0, 7.5, 4, 0.008, 0.8)
OPENED = Opened(3, 7, 9, Limits(4096))
DESCRIPTION = Description("a model", bytes(32), bytes(range(32)), (2,), 1000, Limits(4096), "fast/float32/cpu")
NUMBERS = (
    "fixed_s",
    "per_position_s",
    "edge_second_price",
    "step_sessions",
    "step_positions",
    "own_draft_s",
    "own_acceptance",
)

numbers = st.floats(0, 1e6)
small = st.floats(0, 1e6, width=32)
quotes = st.builds(
    Quote,
    numbers,
    numbers,
    st.booleans(),
    numbers,
    small,
    small,
    st.integers(0, 10**6),
    small,
    st.floats(0, 1, width=32),
)


def opened_around(opened: Opened) -> Opened:
    message = pb.EdgeFrame.FromString(edge_frame_to_proto(opened).SerializeToString())
    frame = edge_frame_from_proto(message, 1000)
    assert isinstance(frame, Opened)
    return frame


def described_around(description: Description) -> Description:
    sent = description_to_proto(description, include_tokenizer=True).SerializeToString()
    return description_from_proto(pb.DescribeResponse.FromString(sent))


@given(st.none() | quotes)
def test_a_quote_survives_in_both_answers(quote: Quote | None) -> None:
    assert opened_around(replace(OPENED, quote=quote)) == replace(OPENED, quote=quote)
    assert described_around(replace(DESCRIPTION, quote=quote)) == replace(DESCRIPTION, quote=quote)


def test_an_edge_that_knows_nothing_yet_still_gives_a_quote() -> None:
    """All at their defaults, a quote is there: empty on the wire, and not the same as none."""
    assert opened_around(replace(OPENED, quote=Quote())).quote == Quote()
    assert described_around(replace(DESCRIPTION, quote=Quote())).quote == Quote()


def test_without_a_quote_nothing_is_sent() -> None:
    without, empty = edge_frame_to_proto(OPENED), edge_frame_to_proto(replace(OPENED, quote=Quote()))
    assert not without.opened.HasField("quote")
    assert empty.ByteSize() == without.ByteSize() + 2  # a tag and a length of 0


def test_a_quote_is_cheap_enough_to_stand_in_many_an_answer() -> None:
    full = edge_frame_to_proto(replace(OPENED, quote=QUOTE))
    assert full.ByteSize() - edge_frame_to_proto(OPENED).ByteSize() <= 56


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("value", [-1e-9, 1.1e6, float("inf"), float("-inf"), float("nan")])
def test_nobody_plans_by_such_a_number(number: str, value: float) -> None:
    frame = edge_frame_to_proto(replace(OPENED, quote=QUOTE))
    described = description_to_proto(replace(DESCRIPTION, quote=QUOTE), include_tokenizer=False)
    setattr(frame.opened.quote, number, value)
    setattr(described.quote, number, value)
    with pytest.raises(MalformedFrame) as caught:
        edge_frame_from_proto(frame, 1000)
    assert caught.value.field == number
    with pytest.raises(MalformedFrame) as caught:
        description_from_proto(described)
    assert caught.value.field == number


@given(st.binary(max_size=120))
def test_random_bytes_for_a_quote_are_a_quote_or_refused(data: bytes) -> None:
    message = description_to_proto(DESCRIPTION, include_tokenizer=False)
    try:
        message.quote.MergeFromString(data)
        quote = description_from_proto(message).quote
    except (DecodeError, MalformedFrame):
        return
    assert quote is not None
    assert all(0 <= getattr(quote, number) <= 1e6 for number in NUMBERS)
