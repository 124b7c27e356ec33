"""State rows as they go up: a drafter's hidden states as bytes, one scale a row.

A row is a float32 scale, little end first, and one byte a number: int8, or fp8 e4m3 (``fn``: no infinities, two NaN
codes; Micikevicius et al. 2022, arXiv 2209.05433). Width and kind come from the attach, never from the row itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airdraft.core.types import StateKind

SCALE_BYTES = 4
INT8_MOST = 127
FP8_MOST = 448.0
"""The greatest number that e4m3 holds."""

_NAN_CODES = (0x7F, 0xFF)


def _fp8_values() -> NDArray[np.float32]:
    """Return the value of each e4m3 code, [256]: sign, 4 bits of exponent (bias 7), 3 bits of fraction."""
    codes = np.arange(256)
    exponent, fraction = (codes >> 3) & 0xF, codes & 0x7
    values = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    values[list(_NAN_CODES)] = np.nan
    return np.where(codes & 0x80, -values, values).astype(np.float32)


FP8_VALUES = _fp8_values()
_FP8_BETWEEN = (FP8_VALUES[:126].astype(np.float64) + FP8_VALUES[1:127].astype(np.float64)) / 2


def row_bytes(width: int) -> int:
    """Return how many bytes a row of ``width`` numbers takes."""
    return SCALE_BYTES + width


def pack_rows(rows: ArrayLike, kind: StateKind) -> bytes:
    """Return state rows, [n, w], as bytes.

    A number moves by at most half a scale with int8, and with fp8 by a sixteenth of itself or 2^-10 of a scale,
    whatever is more. Raises ValueError where a number is not finite, or too great for a float32.
    """
    values = np.asarray(rows, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"state rows have two axes, not {values.ndim}")
    if not np.isfinite(values).all():
        raise ValueError("a state is not finite")
    most = np.abs(values).max(axis=1, initial=0.0)
    if (most > np.finfo(np.float32).max).any():
        raise ValueError("a state is too great for a float32")
    scales = (most / (INT8_MOST if kind is StateKind.INT8 else FP8_MOST)).astype("<f4")
    # The scale is what the other end reads; one that float32 holds with few bits only makes a row of zeros.
    scales[scales < np.finfo(np.float32).tiny] = 0.0
    divisors = np.where(scales > 0, scales, 1.0).astype(np.float64)[:, None]
    shares = np.where(scales[:, None] > 0, values / divisors, 0.0)
    codes = _int8_codes(shares) if kind is StateKind.INT8 else _fp8_codes(shares)
    packed = np.empty((len(values), row_bytes(values.shape[1])), dtype=np.uint8)
    packed[:, :SCALE_BYTES] = scales[:, None].view(np.uint8)
    packed[:, SCALE_BYTES:] = codes
    return packed.tobytes()


def unpack_rows(data: bytes, count: int, width: int, kind: StateKind) -> NDArray[np.float32]:
    """Return the ``count`` state rows, [count, width], that ``pack_rows`` made.

    Raises ValueError where the size is another, a scale is negative or not finite, a number is none, or a product
    passes what a float32 holds.
    """
    if count < 0 or width <= 0:
        raise ValueError(f"{count} rows of {width} numbers are none")
    if len(data) != count * row_bytes(width):
        raise ValueError(f"{len(data)} bytes are not {count} rows of {row_bytes(width)}")
    packed = np.frombuffer(data, dtype=np.uint8).reshape(count, row_bytes(width))
    scales = np.ascontiguousarray(packed[:, :SCALE_BYTES]).view("<f4").astype(np.float32)  # [count, 1]
    if not (np.isfinite(scales) & (scales >= 0)).all():
        raise ValueError("a scale is negative or not finite")
    codes = packed[:, SCALE_BYTES:]
    values = codes.view(np.int8).astype(np.float32) if kind is StateKind.INT8 else FP8_VALUES[codes]
    if not np.isfinite(values).all():
        raise ValueError("a state is not a number")
    with np.errstate(over="ignore"):
        rows: NDArray[np.float32] = values * scales
    if not np.isfinite(rows).all():
        raise ValueError("a state is too great")
    return rows


def _int8_codes(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(shares), -INT8_MOST, INT8_MOST).astype(np.int8).view(np.uint8)


def _fp8_codes(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the nearest code of each number, ties to the even one."""
    sizes = np.minimum(np.abs(shares), FP8_MOST)
    codes = np.searchsorted(_FP8_BETWEEN, sizes, side="left")
    tied = (codes < len(_FP8_BETWEEN)) & (sizes == _FP8_BETWEEN[np.minimum(codes, len(_FP8_BETWEEN) - 1)])
    codes = np.where(tied & (codes % 2 == 1), codes + 1, codes)
    return (codes | np.where(shares < 0, 0x80, 0)).astype(np.uint8)
