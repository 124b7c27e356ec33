"""Channels: the grid they stand on, what their statistics are to be, and that a seed says all."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from airdraft.link.cellular import HandOver, Street, truncated_shannon
from airdraft.link.channels import (
    CHANNELS,
    MBIT_S,
    NO_CELL,
    Channel,
    Direction,
    Radio,
    constant,
    geo_satellite,
    gilbert_elliott,
    leo_satellite,
    markov_lte,
    walk,
    wifi,
)
from airdraft.link.random_processes import dwelling, gauss_markov, lognormal, neighbouring, repetitions, smoothed
from airdraft.link.shaping import Air, Conditions

NAMES = sorted(CHANNELS)
LONG_S = 2000.0


def series(channel: Channel) -> list[NDArray[np.float64]]:
    both = [channel.up.rates_bytes_s, channel.up.delays_s, channel.down.rates_bytes_s, channel.down.delays_s]
    return both if channel.radio is None else [*both, channel.radio.rsrp_dbm, channel.radio.sinr_db]


def runs(values: NDArray[np.bool_], step_s: float) -> list[float]:
    """Return how long each run of True lasts, the cut ones at both ends apart."""
    edges = np.flatnonzero(np.diff(values))
    return [(end - start) * step_s for start, end in pairwise(edges) if values[start + 1]]


# ---- the grid ----


def test_a_direction_holds_each_sample_for_a_step_and_repeats() -> None:
    direction = Direction(0.5, np.array([8.0, 0.0, 4.0]), np.array([0.1, 0.2, 0.3]))
    assert [direction.rate_bytes_s(at_s) for at_s in (0.0, 0.49, 0.5, 1.0, 1.49, 1.5, 2.0)] == [8, 8, 0, 4, 4, 8, 0]
    assert direction.delay_s(1.6) == 0.1
    assert direction.duration_s == 1.5
    assert [direction.out(at_s) for at_s in (0.4, 0.6, 2.2)] == [False, True, True]
    assert direction.mean_rate_bytes_s == 4.0
    assert direction.outage_share == pytest.approx(1 / 3)
    assert direction.outages_s() == [(0.5, 1.0)]


@given(step=st.integers(0, 100_000), step_s=st.sampled_from([0.001, 0.01, 0.1, 1 / 3, 1.0]))
def test_a_time_computed_from_a_step_belongs_to_that_step(step: int, step_s: float) -> None:
    direction = Direction(step_s, np.arange(7, dtype=np.float64), np.zeros(7))
    assert direction.rate_bytes_s(step * step_s) == step % 7


@given(
    samples=st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.1, 0.2])), min_size=1, max_size=12),
    at_s=st.floats(0, 100),
)
def test_conditions_are_steady_until_they_say_so(samples: list[tuple[float, float]], at_s: float) -> None:
    rates, delays = np.array(samples).T
    direction = Direction(0.1, rates, delays)
    until_s = direction.steady_until_s(at_s)
    assert until_s > at_s
    offered = {(rate, delay) for rate, delay in samples}
    assert (until_s == math.inf) == (len(offered) == 1 or not rates.any())
    if until_s < math.inf:
        here, next_s = (direction.rate_bytes_s(at_s), direction.delay_s(at_s)), until_s
        middle_s = (at_s + until_s) / 2
        assert (direction.rate_bytes_s(middle_s), direction.delay_s(middle_s)) == here
        assert (direction.rate_bytes_s(next_s), direction.delay_s(next_s)) != here


def test_a_direction_is_what_the_shaping_of_a_link_asks_for() -> None:
    conditions: Conditions = Direction(1.0, np.array([10.0, 0.0, 5.0]), np.zeros(3))
    assert Air(conditions).leaves_s(0.5, 10) == pytest.approx(
        3.0
    )  # 5 in half a second, none in the next, 5 in the last
    silent: Conditions = Direction(1.0, np.zeros(3), np.array([0.1, 0.2, 0.3]))
    assert Air(silent).leaves_s(0.0, 1) == math.inf


def test_jitter_is_the_spread_of_the_delays_behind() -> None:
    direction = Direction(0.5, np.ones(6), np.array([0.1, 0.1, 0.3, 0.3, 0.3, 0.3]))
    assert direction.jitter_s(0.0) == 0.0
    assert direction.jitter_s(1.0) == pytest.approx(0.1)
    assert direction.jitter_s(2.5, window_s=1.5) == pytest.approx(0.0)


def test_samples_cannot_be_changed_from_either_side() -> None:
    rates = np.ones(3)
    direction = Direction(1.0, rates, np.ones(3))
    rates[0] = 7.0
    assert direction.rate_bytes_s(0.0) == 1.0
    with pytest.raises(ValueError, match="read-only"):
        direction.delays_s[0] = 2.0


@pytest.mark.parametrize(
    ("step_s", "rates", "delays"),
    [
        (0.0, [1.0], [1.0]),
        (math.nan, [1.0], [1.0]),
        (1.0, [], []),
        (1.0, [1.0, 2.0], [1.0]),
        (1.0, [[1.0]], [[1.0]]),
        (1.0, [-1.0], [1.0]),
        (1.0, [1.0], [-0.1]),
        (1.0, [math.inf], [1.0]),
        (1.0, [1.0], [math.nan]),
    ],
)
def test_impossible_samples_are_refused(step_s: float, rates: list[float], delays: list[float]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Direction(step_s, np.array(rates), np.array(delays))


def test_radio_facts_are_none_where_unknown() -> None:
    unknown = np.array([math.nan, math.nan])
    radio = Radio(1.0, np.array([-90.0, math.nan]), unknown, unknown, unknown, np.array([7, NO_CELL]), unknown)
    assert (radio.at(0.5).rsrp_dbm, radio.at(0.5).cell, radio.at(0.5).sinr_db) == (-90.0, 7, None)
    assert (radio.at(1.5).rsrp_dbm, radio.at(1.5).cell) == (None, None)
    assert radio.hand_overs_s() == []
    moved = Radio(1.0, unknown, unknown, unknown, unknown, np.array([1, 2]), unknown)
    assert moved.hand_overs_s() == [1.0]


# ---- random processes ----


def test_gauss_markov_has_its_deviation_and_correlation() -> None:
    course = gauss_markov(np.random.default_rng(3), 200_000, 0.01, 0.2)
    assert np.std(course) == pytest.approx(1.0, abs=0.03)
    assert np.corrcoef(course[:-20], course[20:])[0, 1] == pytest.approx(math.exp(-1), abs=0.03)


def test_lognormal_keeps_mean_and_deviation() -> None:
    values = lognormal(np.random.default_rng(3).standard_normal(200_000), 0.08, 0.04)
    assert values.min() > 0
    assert (values.mean(), values.std()) == (pytest.approx(0.08, rel=0.02), pytest.approx(0.04, rel=0.03))


@pytest.mark.parametrize("error", [0.0, 0.1, 0.5, 0.9])
def test_repetitions_are_geometric(error: float) -> None:
    counts = repetitions(np.random.default_rng(3), 200_000, error)
    assert counts.mean() == pytest.approx(error / (1 - error), rel=0.03)
    assert (counts >= 2).mean() == pytest.approx(error**2, abs=0.005)


def test_dwelling_times_and_shares_are_those_asked_for() -> None:
    states = dwelling(np.random.default_rng(3), 400_000, 0.01, dwell_s=(2.0, 0.5, 1.0), jump=neighbouring(3))
    assert np.mean(runs(states == 0, 0.01)) == pytest.approx(2.0, rel=0.1)
    assert np.mean(runs(states == 1, 0.01)) == pytest.approx(0.5, rel=0.1)
    weights = np.array([0.5 * 2.0, 1.0 * 0.5, 0.5 * 1.0])  # visits times dwell
    assert np.bincount(states) / len(states) == pytest.approx(weights / weights.sum(), abs=0.03)
    assert not ((states[1:] - states[:-1]) % 3 == 0)[states[1:] != states[:-1]].any()


def test_smoothing_approaches_a_step_at_its_time_constant() -> None:
    values = smoothed(np.concatenate(([0.0], np.ones(100))), 0.1, 1.0)
    assert values[10] == pytest.approx(1 - math.exp(-1))


# ---- every synthetic channel ----


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_says_all_and_another_says_another(name: str) -> None:
    first, again, other = CHANNELS[name](5, 60.0), CHANNELS[name](5, 60.0), CHANNELS[name](6, 60.0)
    assert all(np.array_equal(one, two) for one, two in zip(series(first), series(again), strict=True))
    alike = all(np.array_equal(one, two) for one, two in zip(series(first), series(other), strict=True))
    assert alike == (name == "constant")  # which has no jitter unless asked
    assert (first.name, first.seed, first.assumed) == (name, 5, ())


@pytest.mark.parametrize("name", NAMES)
def test_rates_and_delays_are_those_of_a_link(name: str) -> None:
    channel = CHANNELS[name](1, 300.0)
    for direction in (channel.up, channel.down):
        assert direction.duration_s == pytest.approx(300.0)
        assert direction.delays_s.min() > 0
        assert direction.delays_s.max() < 1.0
        assert 0 <= direction.outage_share < 0.2
        assert 0.1 * MBIT_S < direction.mean_rate_bytes_s < 1000 * MBIT_S
    assert channel.down.mean_rate_bytes_s > channel.up.mean_rate_bytes_s


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"walk"}))
def test_a_longer_channel_begins_with_the_shorter(name: str) -> None:
    short, long = CHANNELS[name](2, 40.0), CHANNELS[name](2, 90.0)
    for one, two in zip(series(short), series(long), strict=True):
        assert np.allclose(one, two[: len(one)], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("duration_s", [0.0, -1.0, math.nan, math.inf])
def test_a_channel_lasts_a_positive_time(name: str, duration_s: float) -> None:
    with pytest.raises(ValueError, match="positive time"):
        CHANNELS[name](1, duration_s)


@pytest.mark.parametrize("name", NAMES)
def test_the_shortest_channel_has_one_sample(name: str) -> None:
    assert len(CHANNELS[name](1, 1e-6).up.rates_bytes_s) == 1


# ---- one by one ----


def test_constant_is_what_it_is_set_to() -> None:
    channel = constant(1, 100.0, up_rate_bytes_s=1000.0, down_rate_bytes_s=2000.0, rtt_s=0.06, jitter_s=0.005)
    assert (channel.up.rate_bytes_s(33.3), channel.down.rate_bytes_s(99.9)) == (1000.0, 2000.0)
    assert channel.up.delays_s.min() == pytest.approx(0.03, abs=1e-4)
    assert np.mean(channel.up.delays_s) == pytest.approx(0.035, rel=0.02)
    assert np.std(channel.down.delays_s) == pytest.approx(0.005, rel=0.05)
    assert constant(1, 1.0, rtt_s=0.06).round_trip_s(0.5) == pytest.approx(0.06)


def test_gilbert_is_out_in_bursts_of_the_mean_asked_for() -> None:
    channel = gilbert_elliott(4, LONG_S, good_s=4.0, bad_s=0.3)
    lasted_s = [end - start for start, end in channel.down.outages_s()]
    assert channel.down.outage_share == pytest.approx(0.3 / 4.3, rel=0.2)
    assert np.mean(lasted_s) == pytest.approx(0.3, rel=0.15)
    assert len(lasted_s) == pytest.approx(LONG_S / 4.3, rel=0.15)
    assert channel.up.outages_s() == channel.down.outages_s()
    assert channel.down.mean_rate_bytes_s == pytest.approx(20 * MBIT_S * 0.99 * 4 / 4.3, rel=0.02)


def test_elliott_loses_a_share_of_the_bad_state_and_pays_in_delay() -> None:
    channel = gilbert_elliott(4, LONG_S, bad_loss=0.75, good_loss=0.0, rtt_s=0.05, repeat_s=0.01)
    bad = channel.up.rates_bytes_s < 0.5 * channel.up.rates_bytes_s.max()
    assert channel.up.outage_share == 0
    assert np.unique(channel.up.rates_bytes_s) == pytest.approx([0.25 * 5 * MBIT_S, 5 * MBIT_S])
    assert np.mean(channel.up.delays_s[bad]) == pytest.approx(0.025 + 0.01 * 3, rel=0.05)
    assert np.all(channel.up.delays_s[~bad] == 0.025)


def test_markov_lte_dwells_in_its_states() -> None:
    channel = markov_lte(2, LONG_S)
    dwell = np.array([0.3, 2.0, 4.0, 5.0, 4.0]) * np.array([0.5, 1, 1, 1, 0.5])
    shares = dwell / dwell.sum()
    assert channel.down.outage_share == pytest.approx(shares[0], rel=0.4)
    assert channel.down.mean_rate_bytes_s == pytest.approx(shares @ [0, 2, 8, 20, 40] * MBIT_S, rel=0.15)
    assert np.mean(runs(channel.down.rates_bytes_s == 0, 0.01)) == pytest.approx(0.3, rel=0.3)
    waited_s = np.mean(channel.up.delays_s) - np.mean(channel.down.delays_s)
    assert waited_s == pytest.approx(0.005, rel=0.1)  # half a grant cycle


def test_wifi_shares_the_air_and_stalls() -> None:
    channel = wifi(2, LONG_S, clear_s=10.0, stall_s=0.2)
    assert channel.up.outage_share == pytest.approx(0.2 / 10.2, rel=0.3)
    carried = channel.down.rates_bytes_s / (100 * MBIT_S)
    alone = carried > 0.75
    crowded = (carried > 0) & (carried < 0.25)
    assert np.median(carried[alone]) == pytest.approx(1.0, rel=0.05)
    assert np.median(carried[crowded]) == pytest.approx(1 / 5, rel=0.1)
    assert np.mean(channel.up.delays_s[crowded]) > np.mean(channel.up.delays_s[alone]) + 0.004
    assert np.std(channel.up.delays_s[crowded]) > 5 * np.std(channel.up.delays_s[alone])


def test_leo_is_assigned_anew_every_fifteen_seconds() -> None:
    channel = leo_satellite(2, 600.0)
    rates = channel.down.rates_bytes_s
    carried = rates > 0
    changes_s = (np.flatnonzero(np.diff(rates[carried])) + 1) * 0.01
    assert len(changes_s) == 40
    assert np.diff(np.flatnonzero(np.diff(rates[carried]))) * 0.01 == pytest.approx([15.0] * 39, abs=0.16)
    lasted_s = [end - start for start, end in channel.down.outages_s()]
    assert 10 <= len(lasted_s) <= 30
    assert all(0.04 <= length <= 0.16 for length in lasted_s)
    round_trips_s = channel.up.delays_s + channel.down.delays_s
    assert 0.04 < np.mean(round_trips_s) < 0.06
    slots = [round_trips_s[start : start + 1000].mean() for start in range(0, 60_000, 1500)]
    assert np.std(slots) > 0.003


def test_geo_is_far_away() -> None:
    channel = geo_satellite(2, LONG_S)
    assert np.mean(channel.up.delays_s + channel.down.delays_s) == pytest.approx(0.6, abs=0.01)
    assert channel.up.delays_s.min() > 0.25
    assert channel.down.mean_rate_bytes_s == pytest.approx(25 * MBIT_S, rel=0.15)
    assert channel.down.outage_share == 0


# ---- the walk ----


def test_path_loss_is_that_of_the_street_canyon() -> None:
    at_100_m = math.sqrt(100**2 - 10**2 - 8.5**2)  # along the street, for 100 m from antenna to antenna
    loss_db = Street().path_loss_db(np.array([at_100_m, 10 * at_100_m]))
    assert loss_db[0] == pytest.approx(22.4 + 35.3 * 2 + 21.3 * math.log10(3.5))
    assert loss_db[1] - loss_db[0] == pytest.approx(35.3, abs=0.2)


def test_truncated_shannon_is_cut_at_both_ends() -> None:
    rates = truncated_shannon(np.array([-10.1, 0.0, 10.0, 30.0]), attenuation=0.6, ceiling=4.4)
    assert rates == pytest.approx([0.0, 0.6, 0.6 * math.log2(11), 4.4])


def test_uplink_power_follows_the_loss_until_the_phone_gives_all() -> None:
    ratios_db = Street().up_sinr_db(np.array([90.0, 100.0, 140.0, 150.0]))
    assert ratios_db[0] - ratios_db[1] == pytest.approx(2.0)  # 80 % made up for
    assert ratios_db[2] - ratios_db[3] == pytest.approx(10.0)  # nothing left


def test_a_cell_is_left_only_for_one_better_by_hysteresis_and_for_long_enough() -> None:
    rules = HandOver(hysteresis_db=3.0, time_to_trigger_s=0.1, filter_s=1e-6)
    own = np.full(100, -80.0)
    better = np.full(100, -90.0)
    better[10:] = -77.5  # not by enough
    better[30:39] = -70.0  # not for long enough
    better[60:] = -76.0
    cells = rules.serving(np.stack([own, better]), 0.01)
    assert np.flatnonzero(cells)[0] == 69  # the tenth sample, after 0.1 s
    assert cells[70:].all()


def test_a_hand_over_is_a_gap_of_its_length() -> None:
    rules = HandOver(gap_s=(0.05, 0.3))
    cells = np.repeat([0, 1, 0], 1000)
    out = rules.gaps(np.random.default_rng(1), cells, 0.01)
    lasted_s = runs(out, 0.01)
    assert len(lasted_s) == 2
    assert all(0.05 <= length <= 0.3 for length in lasted_s)
    assert out[1000]
    assert out[2000]
    assert not out[:1000].any()


def test_a_walk_ends_in_the_other_cell() -> None:
    for seed in range(20):
        channel = walk(seed, 120.0)
        radio = channel.radio
        assert radio is not None
        assert (radio.at(0.0).cell, radio.at(119.9).cell) == (1, 2)
        assert len(radio.hand_overs_s()) % 2 == 1
        assert radio.at(60.0).speed_m_s == 1.4
        for at_s in radio.hand_overs_s():
            assert channel.up.out(at_s)
            assert channel.down.out(at_s)


def test_a_long_walk_turns_below_the_masts() -> None:
    radio = walk(3, 600.0).radio
    assert radio is not None
    assert {radio.at(at_s).cell for at_s in (0.0, 285.7, 571.4)} == {1}
    assert {radio.at(at_s).cell for at_s in (142.9, 428.6)} == {2}


def test_the_radio_of_a_walk_predicts_its_rate() -> None:
    channel = walk(7, 140.0)
    radio = channel.radio
    assert radio is not None
    assert np.all((radio.rsrp_dbm > -140) & (radio.rsrp_dbm < -30))
    assert radio.rsrq_db.max() <= -10.79  # ten times the logarithm of a twelfth: a carrier in full use
    assert radio.sinr_db.max() < 29.2  # what the mast's own distortion leaves
    carried = channel.down.rates_bytes_s > 0
    promised = truncated_shannon(radio.sinr_db, attenuation=0.6, ceiling=4.4) * 20e6 * 0.4 / 8
    assert np.allclose(channel.down.rates_bytes_s[carried], promised[carried])
    assert np.corrcoef(radio.rsrp_dbm - radio.neighbour_rsrp_dbm, channel.down.rates_bytes_s)[0, 1] > 0.5


def test_shadowing_has_its_deviation_and_correlations() -> None:
    street = Street()
    radio = walk(1, 40_000.0, step_s=0.5, street=street).radio
    assert radio is not None
    along_m = 200 - np.abs(0.7 * np.arange(len(radio.cell)) % 400 - 200)
    in_first = radio.cell == 1
    shadows_db = [
        np.where(in_first, radio.rsrp_dbm, radio.neighbour_rsrp_dbm) + street.path_loss_db(along_m),
        np.where(in_first, radio.neighbour_rsrp_dbm, radio.rsrp_dbm) + street.path_loss_db(200 - along_m),
    ]
    for shadow_db in shadows_db:
        assert np.std(shadow_db) == pytest.approx(7.82, rel=0.1)
        assert np.corrcoef(shadow_db[:-20], shadow_db[20:])[0, 1] == pytest.approx(math.exp(-14 / 13), abs=0.07)
    assert np.corrcoef(shadows_db[0], shadows_db[1])[0, 1] == pytest.approx(0.5, abs=0.1)  # one common to both sites
