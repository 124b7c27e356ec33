"""State rows: what they cost, what they keep, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.meaning import pack_rows, row_bytes, unpack_rows
from airdraft.core.meaning.states import FP8_VALUES
from airdraft.core.types import StateKind


def e4m3(code: int) -> float:
    """The value of a code, bit by bit."""
    sign = -1.0 if code >> 7 else 1.0
    exponent, fraction = (code >> 3) & 15, code & 7
    if exponent == 15 and fraction == 7:
        return float("nan")
    if exponent == 0:
        return sign * fraction * 2.0**-9
    value = 1.0
    for bit in range(3):
        value += ((fraction >> (2 - bit)) & 1) * 2.0 ** -(bit + 1)
    return float(sign * value * 2.0 ** (exponent - 7))


def test_fp8_holds_the_256_values_of_e4m3() -> None:
    assert FP8_VALUES.shape == (256,)
    for code in range(256):
        value = e4m3(code)
        if value != value:
            assert np.isnan(FP8_VALUES[code])
        else:
            assert FP8_VALUES[code] == value
    known = {
        0x00: 0.0,
        0x01: 2.0**-9,
        0x07: 7 * 2.0**-9,
        0x08: 2.0**-6,
        0x38: 1.0,
        0x3C: 1.5,
        0x7E: 448.0,
        0xFE: -448.0,
    }
    assert {code: float(FP8_VALUES[code]) for code in known} == known
    assert np.isnan(FP8_VALUES[[0x7F, 0xFF]]).all()


def test_every_fp8_value_comes_back_as_itself_and_halves_go_to_the_even_code() -> None:
    finite = FP8_VALUES[np.isfinite(FP8_VALUES)]
    row = finite[None, :]  # its greatest is 448, so that the scale is 1
    assert np.array_equal(unpack_rows(pack_rows(row, StateKind.FP8), 1, row.shape[1], StateKind.FP8), row)
    for code in (0, 1, 7, 8, 0x37, 0x38, 0x7D):
        half = (float(FP8_VALUES[code]) + float(FP8_VALUES[code + 1])) / 2
        even = code if code % 2 == 0 else code + 1
        for sign in (1, -1):
            packed = pack_rows([[448.0, sign * half]], StateKind.FP8)
            assert unpack_rows(packed, 1, 2, StateKind.FP8)[0, 1] == sign * FP8_VALUES[even]


rows = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=width, max_size=width), min_size=1, max_size=4
    )
)


@given(rows)
def test_int8_moves_a_number_by_half_a_scale_at_most(values: list[list[float]]) -> None:
    given_rows = np.array(values)
    packed = pack_rows(given_rows, StateKind.INT8)
    assert len(packed) == len(values) * row_bytes(given_rows.shape[1])
    back = unpack_rows(packed, len(values), len(values[0]), StateKind.INT8)
    scale = np.abs(given_rows).max(axis=1, keepdims=True) / 127
    assert (np.abs(back - given_rows) <= scale * (0.5 + 1e-4) + 1e-35).all()


@given(rows)
def test_fp8_moves_a_number_by_a_sixteenth_of_itself_at_most(values: list[list[float]]) -> None:
    given_rows = np.array(values)
    back = unpack_rows(pack_rows(given_rows, StateKind.FP8), len(values), len(values[0]), StateKind.FP8)
    scale = np.abs(given_rows).max(axis=1, keepdims=True) / 448
    bound = np.maximum(np.abs(given_rows) / 16, scale * 2.0**-10) * (1 + 1e-4)
    assert (np.abs(back - given_rows) <= bound + 1e-35).all()


@pytest.mark.parametrize("kind", StateKind)
def test_a_row_of_zeros_and_no_rows_come_back(kind: StateKind) -> None:
    assert np.array_equal(unpack_rows(pack_rows(np.zeros((2, 3)), kind), 2, 3, kind), np.zeros((2, 3)))
    assert unpack_rows(pack_rows(np.zeros((0, 3)), kind), 0, 3, kind).shape == (0, 3)


@pytest.mark.parametrize("kind", StateKind)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_no_state_is_not_packed(kind: StateKind, bad: float) -> None:
    with pytest.raises(ValueError, match=r"not finite|too great"):
        pack_rows([[1.0, bad]], kind)
    with pytest.raises(ValueError, match="two axes"):
        pack_rows([1.0, 2.0], kind)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<f", 1.0) + b"\x01", "bytes are not"),
        (struct.pack("<f", 1.0) + b"\x01\x02\x03", "bytes are not"),
        (b"", "bytes are not"),
        (struct.pack("<f", float("nan")) + b"\x01\x02", "scale"),
        (struct.pack("<f", float("inf")) + b"\x01\x02", "scale"),
        (struct.pack("<f", -1.0) + b"\x01\x02", "scale"),
        (struct.pack("<f", 3e38) + b"\x70\x02", "too great"),
    ],
)
def test_what_is_no_row_is_refused(data: bytes, message: str) -> None:
    for kind in StateKind:
        with pytest.raises(ValueError, match=message):
            unpack_rows(data, 1, 2, kind)


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_fp8_codes_that_are_no_number_are_refused(code: int) -> None:
    with pytest.raises(ValueError, match="not a number"):
        unpack_rows(struct.pack("<fB", 1.0, code), 1, 1, StateKind.FP8)
    assert unpack_rows(struct.pack("<fB", 1.0, code), 1, 1, StateKind.INT8)[0, 0] == (127 if code == 0x7F else -1)
    with pytest.raises(ValueError, match="are none"):
        unpack_rows(b"", 0, 0, StateKind.INT8)
