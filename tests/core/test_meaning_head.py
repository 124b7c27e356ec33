"""A head's front part against a plain recomputation, and what no head may be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airdraft.core.meaning import CHANNEL_REACH, Channel, HeadTail, RiskTable

CHANCE = np.random.default_rng(7)
TABLE = RiskTable(np.array([0.1, 0.2]), np.array([0.01, 0.02]), np.array([0.0, 0.01]))
H, D = 5, 3


def f32(*shape: int) -> Any:
    return CHANCE.normal(size=shape).astype(np.float32)


def a_head(*, reads: bool = True, hears: bool = True, relu: bool = True, **changes: Any) -> HeadTail:
    tail = HeadTail(
        "pair",
        "draft+target" if reads else "target-only",
        f32(H),
        f32(H),
        0.25,
        np.array([-2.0, 0.0, 3.0]),
        np.array([0.05, 0.4, 0.9]),
        TABLE,
        "relu" if relu else "identity",
        f32(H, D) if reads else None,
        f32(H, 2) if hears else None,
        np.array([-3.0, 11.0], dtype=np.float32),
        np.array([1.5, 2.0], dtype=np.float32),
    )
    return replace(tail, **changes)


def plainly(tail: HeadTail, partial: Any, state: Any, channel: Channel) -> float:
    """The risk, number by number."""
    total = tail.out_bias
    inputs = [0.0, 0.0]
    for index, told in enumerate((channel.round_trip_s, channel.up_bytes_s)):
        if told is not None:
            z = (math.log(told) - float(tail.channel_mean[index])) / float(tail.channel_scale[index])
            inputs[index] = min(2.0, max(-2.0, z))
    for unit in range(H):
        hidden = float(partial[unit]) + float(tail.bias[unit])
        if tail.draft is not None:
            hidden += sum(float(tail.draft[unit, at]) * float(state[at]) for at in range(D))
        if tail.channel is not None:
            hidden += sum(float(tail.channel[unit, at]) * inputs[at] for at in range(2))
        total += float(tail.out[unit]) * (max(0.0, hidden) if tail.activation == "relu" else hidden)
    x, y = tail.calibration_x, tail.calibration_y
    if total <= x[0]:
        return float(y[0])
    for left in range(len(x) - 1):
        if total <= x[left + 1]:
            return float(y[left] + (y[left + 1] - y[left]) * (total - x[left]) / (x[left + 1] - x[left]))
    return float(y[-1])


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "told", [Channel(), Channel(0.05, 1e6), Channel(0.05), Channel(None, 1e3), Channel(900.0, 1.0)]
)
def test_a_head_computes_what_it_says(draft: bool, channel: bool, relu: bool, told: Channel) -> None:
    tail = a_head(reads=draft, hears=channel, relu=relu)
    for _ in range(20):
        partial, state = f32(H), f32(D)
        assert tail.risk(partial, state, told) == pytest.approx(plainly(tail, partial, state, told), abs=1e-6)
    if not draft:
        assert tail.risk(partial, None, told) == tail.risk(partial, state, told)


def test_what_is_missing_or_no_number_makes_it_strict() -> None:
    tail = a_head()
    partial, state = f32(H), f32(D)
    assert tail.risk(partial, None) == 1.0
    assert tail.risk(partial, f32(D + 1)) == 1.0
    assert tail.risk(f32(H + 1), state) == 1.0
    assert tail.risk((), state) == 1.0
    for bad in (np.nan, np.inf, -np.inf):
        assert tail.risk(np.where(np.arange(H) == 1, bad, partial), state) == 1.0
        assert tail.risk(partial, np.where(np.arange(D) == 1, bad, state)) == 1.0
    with pytest.raises(ValueError, match="a state of"):
        tail.logit(partial)
    with pytest.raises(ValueError, match="a partial of"):
        tail.logit(partial[1:], state)


def test_no_report_takes_a_channel_farther_than_was_measured() -> None:
    tail = a_head()
    partial, state = f32(H), f32(D)
    corners = [
        tail.risk(partial, state, Channel(math.exp(-3.0 + 1.5 * a), math.exp(11.0 + 2.0 * b)))
        for a in (-CHANNEL_REACH, CHANNEL_REACH)
        for b in (-CHANNEL_REACH, CHANNEL_REACH)
    ]
    for told in (Channel(0.0, 0.0), Channel(1e300, 1e300), Channel(1e-300, 1e300), Channel(1e6, 1e-9)):
        assert min(corners) - 1e-9 <= tail.risk(partial, state, told) <= max(corners) + 1e-9


BAD: list[tuple[dict[str, Any], str]] = [
    ({"bias": np.zeros(H + 1, np.float32)}, "no one width"),
    ({"out": np.zeros((H, 1), np.float32)}, "no one width"),
    ({"draft": np.zeros((H + 1, D), np.float32)}, "draft part"),
    ({"draft": None}, "draft part"),
    ({"features": "target-only"}, "draft part"),
    ({"features": "all"}, "no head has the features"),
    ({"activation": "gelu"}, "activation"),
    ({"channel": np.zeros((H, 3), np.float32)}, "channel part"),
    ({"channel_scale": np.array([1.0, 0.0], np.float32)}, "above 0"),
    ({"channel_mean": np.zeros(3, np.float32)}, "two means"),
    ({"bias": np.full(H, np.nan, np.float32)}, "not finite"),
    ({"out": np.full(H, np.inf, np.float32)}, "not finite"),
    ({"draft": np.full((H, D), np.nan, np.float32)}, "not finite"),
    ({"channel": np.full((H, 2), np.inf, np.float32)}, "not finite"),
    ({"out_bias": math.nan}, "not finite"),
    ({"calibration_x": np.array([0.0, 0.0, 1.0])}, "ascend"),
    ({"calibration_y": np.array([0.5, 0.4, 0.6])}, "never fall"),
    ({"calibration_y": np.array([-0.1, 0.4, 0.6])}, "between 0 and 1"),
    ({"calibration_y": np.array([0.1, 0.4, 1.6])}, "between 0 and 1"),
    ({"calibration_y": np.array([0.1, 0.4])}, "as many logits"),
    ({"calibration_x": np.array([]), "calibration_y": np.array([])}, "at least one"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_is_no_head_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_head(**change)


# ---- risk tables ----


def test_a_cap_gives_the_greatest_threshold_that_never_passed_it() -> None:
    table = RiskTable(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.004, 0.012, 0.008, 0.02]), np.zeros(4))
    assert table.threshold(0.01) == 0.1  # 0.3 was good luck: 0.2 had lost more
    assert table.threshold(0.012) == 0.3
    assert table.threshold(0.5) == 0.4
    assert table.threshold(0.003) == 0.0
    for nothing in (0.0, -1.0, math.nan):
        assert table.threshold(nothing) == 0.0


@pytest.mark.parametrize(
    ("thresholds", "upper", "message"),
    [
        ([0.2, 0.1], [0.0, 0.0], "ascend"),
        ([0.0, 0.1], [0.0, 0.0], "ascend"),
        ([0.1, 1.1], [0.0, 0.0], "ascend"),
        ([0.1, 0.2], [0.0], "as many"),
        ([], [], "at least one"),
        ([0.1, 0.2], [0.0, math.nan], "not finite"),
    ],
)
def test_what_is_no_table_is_refused(thresholds: list[float], upper: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RiskTable(np.array(thresholds), np.array(upper), np.zeros(len(thresholds)))
