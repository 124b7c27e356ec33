"""Estimates of the channel: a step is seen within ten samples, noise is none, and sizes tell rates."""

from __future__ import annotations

import math
import random

import pytest

from coordinator.policy.channel import Direction, Loss, Rates, Recent, RoundTrip


def trips(level_s: float, count: int, chance: random.Random, jitter: float = 0.15, spikes: float = 0.0) -> list[float]:
    """Return round trips around a level, some five times as long."""
    return [level_s * math.exp(chance.gauss(0, jitter)) * (5 if chance.random() < spikes else 1) for _ in range(count)]


def feed(values: list[float], recent: Recent | None = None, every_s: float = 0.1) -> Recent:
    recent = recent or Recent()
    begin_s = recent.at_s[-1] if recent.at_s else 0.0
    for index, value in enumerate(values, 1):
        recent = recent.updated(value, begin_s + index * every_s)
    return recent


def middle(recent: Recent) -> float:
    value = recent.quantile(0.5)
    assert value is not None
    return value


@pytest.mark.parametrize("times", [0.2, 0.5, 0.7, 1.5, 3.0, 10.0])
@pytest.mark.parametrize("spikes", [0.0, 0.05])
def test_ten_samples_after_a_step_the_median_is_the_new_one(times: float, spikes: float) -> None:
    errors = []
    for seed in range(60):
        chance = random.Random(seed)
        before = feed(trips(0.06, 60, chance, spikes=spikes))
        after = feed(trips(0.06 * times, 10, chance, spikes=spikes), before)
        errors.append(abs(middle(after) / (0.06 * times) - 1))
    assert sorted(errors)[int(0.9 * len(errors))] < 0.25
    assert sum(errors) / len(errors) < 0.12


def test_a_clean_step_is_followed_after_four_samples() -> None:
    recent = feed([0.05, 0.06, 0.05, 0.06] * 5)
    assert middle(feed([0.2] * 3, recent)) <= 0.06
    assert middle(feed([0.2] * 4, recent)) == 0.2


@pytest.mark.parametrize("spikes", [0.0, 0.1])
def test_a_steady_link_keeps_its_memory(spikes: float) -> None:
    recent, dropped = Recent(), 0
    for value in trips(0.06, 3000, random.Random(5), spikes=spikes):
        now = feed([value], recent)
        dropped += len(now.values) < len(recent.values)
        recent = now
    assert dropped < 0.01 * 3000
    assert middle(recent) == pytest.approx(0.06, rel=0.15)


def test_quantiles_are_those_of_the_samples() -> None:
    recent = feed([0.010 + 0.001 * (7 * index % 20) for index in range(40)], every_s=1e-6)
    quantiles = [recent.quantile(share) for share in (0.05, 0.5, 0.95)]
    assert quantiles == pytest.approx([0.011, 0.0195, 0.028], abs=0.002)
    assert Recent().quantile(0.5) is None


def test_what_was_before_a_long_silence_hardly_counts() -> None:
    recent = feed([0.05] * 30)
    assert middle(recent.updated(0.3, recent.at_s[-1] + 0.1)) == 0.05
    assert middle(recent.updated(0.3, recent.at_s[-1] + 60)) == 0.3


def test_the_trend_is_in_seconds_a_second() -> None:
    rising = feed([0.05 + 0.002 * index for index in range(16)], every_s=0.5)
    assert rising.trend() == pytest.approx(0.004, rel=0.01)
    assert feed([0.05] * 20).trend() == 0
    assert feed([0.05, 0.5, 5]).trend() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no sample"):
        Recent().updated(value, 0)
    with pytest.raises(ValueError, match="is none"):
        Direction().updated(10, value)
    with pytest.raises(ValueError, match="is none"):
        RoundTrip().updated(-0.1, 0)


def frames(
    bytes_s: float, count: int, chance: random.Random, offset_s: float = 0.03, jitter_s: float = 0.001
) -> list[tuple[int, float]]:
    sizes = [34 + 4 * chance.randint(1, 20) for _ in range(count)]
    return [(size, offset_s + size / bytes_s + chance.gauss(0, jitter_s)) for size in sizes]


def rate_of(samples: list[tuple[int, float]], direction: Direction | None = None) -> Direction:
    direction = direction or Direction()
    for sample in samples:
        direction = direction.updated(*sample)
    return direction


@pytest.mark.parametrize("offset_s", [0.03, -5.0])
@pytest.mark.parametrize("seed", range(5))
def test_sizes_tell_the_rate_of_a_slow_link_and_clocks_need_not_agree(offset_s: float, seed: int) -> None:
    """50 kbit/s: a byte takes 0.16 ms, the frames' difference 13 ms, noise 1 ms."""
    direction = rate_of(frames(6250, 40, random.Random(seed), offset_s))
    assert direction.bytes_s == pytest.approx(6250, rel=0.25)
    assert direction.propagation_s == pytest.approx(offset_s, abs=0.003)


def test_a_fast_link_hardly_ever_passes_for_a_slow_one() -> None:
    """Of a rate of 12.5 MB/s nothing can be seen behind a noise of 5 ms: what is believed must cost next to nothing."""
    ids_s = [4 * rate_of(frames(12.5e6, 20, random.Random(seed), 0.03, 0.005)).byte_s for seed in range(200)]
    assert sum(cost > 0 for cost in ids_s) < 40
    assert sum(ids_s) / len(ids_s) < 0.0002


def test_a_prompt_tells_the_rate_until_short_frames_do() -> None:
    short = [(46, 0.0304), (46, 0.0312), (50, 0.0301), (46, 0.0308)] * 3
    direction = rate_of([*short, (4096, 0.03 + 4096 / 20_000), *short])
    assert direction.bytes_s == pytest.approx(20_000, rel=0.05)


def test_a_change_of_rate_is_followed_within_ten_frames() -> None:
    chance = random.Random(3)
    direction = rate_of(frames(50_000, 40, chance))
    assert rate_of(frames(5_000, 10, chance), direction).bytes_s == pytest.approx(5000, rel=0.25)


def test_frames_of_one_size_say_nothing_of_the_rate() -> None:
    assert rate_of([(46, 0.03 + 0.001 * index) for index in range(30)]).bytes_s == math.inf
    assert Direction().propagation_s is None


def test_directions_are_apart() -> None:
    chance, rates = random.Random(1), Rates()
    for up, down in zip(frames(6250, 30, chance), frames(50_000, 30, chance, jitter_s=1e-4), strict=True):
        rates = rates.updated(up, down)
    assert rates.up.bytes_s == pytest.approx(6250, rel=0.25)
    assert rates.down.bytes_s == pytest.approx(50_000, rel=0.25)
    assert rates.updated(up=(50, 0.03)).down is rates.down


def test_loss_begins_small_is_counted_and_forgotten() -> None:
    loss = Loss()
    assert loss.share == pytest.approx(0.01)
    for index in range(500):
        loss = loss.updated(lost=index % 5 == 0)
    assert loss.share == pytest.approx(0.18, abs=0.04)  # 20 %, a tenth of the way to the prior
    for _ in range(500):
        loss = loss.updated(lost=False)
    assert loss.share < 0.01
