"""Forecasts of a link: they learn from facts that say something, and lose next to nothing by those that do not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.radio_facts import RadioFacts
from coordinator.policy.radio import LEAST_BYTES_S, Hedged, LinkForecast, LinkSample

STRONG, WEAK = RadioFacts(sinr_db=20.0, rsrp_dbm=-75.0), RadioFacts(sinr_db=0.0, rsrp_dbm=-105.0)


def after(values: Sequence[float], facts: Sequence[RadioFacts | None] = ()) -> Hedged:
    """Return a forecast that heard each of ``facts`` before the value in its place."""
    forecast = Hedged.beginning(LEAST_BYTES_S)
    for index, value in enumerate(values):
        told = facts[index] if index < len(facts) else None
        forecast = (forecast if told is None else forecast.heard(told)).updated(value)
    return forecast


def test_nothing_is_forecast_before_anything_is_seen() -> None:
    assert Hedged.beginning(LEAST_BYTES_S).next() is None
    assert Hedged.beginning(LEAST_BYTES_S).heard(STRONG).next() is None
    assert LinkForecast().updated(LinkSample()).round_trip_s.next() is None


def test_a_steady_value_stays() -> None:
    assert after([1e6] * 50).next() == pytest.approx(1e6, rel=0.01)
    assert after([1e6]).next() == pytest.approx(1e6)
    assert after([0.0] * 3).next() == pytest.approx(LEAST_BYTES_S), "an outage has a floor"


def test_facts_that_the_rate_follows_are_believed_and_move_the_forecast() -> None:
    chance = np.random.default_rng(1)
    facts = [STRONG if strong else WEAK for strong in chance.random(300) < 0.5]
    values = [(8e6 if each is STRONG else 1e6) * math.exp(0.1 * chance.standard_normal()) for each in facts]
    told = after(values, facts)
    assert told.trust > 0.9
    strong, weak = told.heard(STRONG).next(), told.heard(WEAK).next()
    assert strong == pytest.approx(8e6, rel=0.25)
    assert weak == pytest.approx(1e6, rel=0.25)


def test_facts_that_say_nothing_cost_next_to_nothing() -> None:
    chance = np.random.default_rng(2)
    without = with_facts = Hedged.beginning(LEAST_BYTES_S)
    errors = np.zeros(2)
    for _ in range(600):
        value = 1e6 * math.exp(0.5 * chance.standard_normal())
        with_facts = with_facts.heard(RadioFacts(sinr_db=float(chance.uniform(-5, 25)), rsrp_dbm=-90.0))
        for index, forecast in enumerate((without, with_facts)):
            if (expected := forecast.next()) is not None:
                errors[index] += abs(math.log(expected / value))
        without, with_facts = without.updated(value), with_facts.updated(value)
    assert with_facts.trust < 0.2
    assert errors[1] < 1.01 * errors[0]


def test_back_on_a_network_it_goes_on_from_where_that_was() -> None:
    wifi, lte = RadioFacts(technology="wifi"), RadioFacts(technology="lte")
    trips = Hedged.beginning(1e-4)
    for each in [wifi] * 30 + [lte] * 30:  # one change: no time to learn whether to believe it
        trips = trips.heard(each).updated(0.01 if each is wifi else 0.06)
    assert trips.next() == pytest.approx(0.06, rel=0.2)
    assert trips.heard(wifi).next() == pytest.approx(0.01, rel=0.2)
    assert trips.heard(wifi).heard(lte).next() == pytest.approx(0.06, rel=0.2)
    assert trips.heard(RadioFacts(technology="nr")).next() == trips.next(), "a network never seen is like the last"


def test_facts_missing_now_or_then_change_nothing() -> None:
    told = after([1e6, 2e6, 1e6, 2e6], [STRONG, WEAK, STRONG, WEAK])
    assert told.heard(RadioFacts()).informed.next() == pytest.approx(told.heard(WEAK).informed.next(), abs=0.01)
    untold = after([1e6, 2e6, 1e6, 2e6])
    assert untold.heard(STRONG).next() == untold.next()


def test_quantiles_hold_as_often_as_they_say() -> None:
    chance = np.random.default_rng(3)
    forecast, held = Hedged.beginning(1e-4), {0.1: 0, 0.5: 0, 0.9: 0}
    for _ in range(2000):
        trip_s = 0.05 * math.exp(0.3 * chance.standard_normal())
        for quantile in held:
            expected = forecast.next(quantile)
            held[quantile] += expected is not None and trip_s <= expected
        forecast = forecast.updated(trip_s)
    for quantile, count in held.items():
        assert count / 2000 == pytest.approx(quantile, abs=0.05)


def test_no_such_quantile_and_no_such_value() -> None:
    with pytest.raises(ValueError, match="no quantile"):
        after([1e6]).next(1.1)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="no value"):
            Hedged.beginning(LEAST_BYTES_S).updated(value)


def test_a_link_learns_each_of_its_values_apart() -> None:
    forecast = LinkForecast().updated(LinkSample(STRONG, round_trip_s=0.05, up_bytes_s=1e6))
    assert forecast.round_trip_s.next() == pytest.approx(0.05)
    assert forecast.up_bytes_s.next() == pytest.approx(1e6)
    assert forecast.down_bytes_s.next() is None
    before = LinkForecast()
    before.updated(LinkSample(STRONG, 0.05, 1e6, 1e6))
    assert before.round_trip_s.next() is None, "frozen"


number = st.one_of(st.none(), st.floats(-200, 50))


@given(
    samples=st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(0, 1e12)),
            st.one_of(
                st.none(),
                st.builds(
                    RadioFacts,
                    technology=st.sampled_from([None, "wifi", "lte", "nr"]),
                    sinr_db=number,
                    rsrp_dbm=number,
                    rssi_dbm=number,
                    down_link_bytes_s=st.one_of(st.none(), st.floats(1, 1e11)),
                ),
            ),
        ),
        max_size=60,
    )
)
def test_whatever_comes_a_forecast_is_a_rate(samples: list[tuple[float | None, RadioFacts | None]]) -> None:
    forecast = LinkForecast()
    for value, facts in samples:
        forecast = forecast.updated(LinkSample(facts, up_bytes_s=value))
        expected = forecast.up_bytes_s.next(0.9)
        assert expected is None or (math.isfinite(expected) and expected > 0)
