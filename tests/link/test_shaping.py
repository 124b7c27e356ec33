"""The arithmetic of a link: order, rate, delay, loss and outages hold for every offer at every time."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.link.shaping import (
    MAX_BACKOFF,
    NEVER,
    Air,
    Conditions,
    Constant,
    Interrupted,
    Passage,
    Sampled,
    Shape,
    Stream,
)

STEP_S = 0.25
RATES = st.sampled_from([0.0, 1.0, 300.0, 1e4, 1e6])
DELAYS = st.floats(0, 2)
OFFERS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5000)), min_size=1, max_size=30)


def stepped(rates: list[float], delays: list[float]) -> Sampled:
    """Return conditions of steps; the last rate stays and is above 0."""
    lasting = [*rates, 1000.0]

    def at(values: list[float], at_s: float) -> float:
        return values[min(round(at_s / STEP_S), len(values) - 1)]

    return Sampled(lambda at_s: at(lasting, at_s), lambda at_s: at(delays, at_s), STEP_S)


CONDITIONS: st.SearchStrategy[Conditions] = st.one_of(
    st.builds(Constant, DELAYS, st.sampled_from([300.0, 1e4, 1e6, math.inf])),
    st.builds(stepped, st.lists(RATES, max_size=12), st.lists(DELAYS, min_size=1, max_size=12)),
    st.builds(
        lambda delay_s, start, long: Interrupted(Constant(delay_s, 1e4), ((start, start + long),)),
        DELAYS,
        st.floats(0, 3),
        st.floats(0.01, 3),
    ),
)
SHARES = st.sampled_from([0.0, 0.3])
SHAPES = st.builds(Shape, CONDITIONS, jitter_s=SHARES, loss=SHARES, segment_bytes=st.just(500))


def passages(stream: Stream, offers: list[tuple[float, int]]) -> list[tuple[float, int, Passage]]:
    """Offer pieces after the given gaps; return when each was offered, its size, its passage."""
    now, made = 0.0, []
    for gap_s, size in offers:
        now += gap_s
        made.append((now, size, stream.passage(now, size)))
    return made


def capacity(conditions: Conditions, start: float, end: float) -> float:
    """Return how many bytes may leave between two times, summed in small steps."""
    total = 0.0
    while start < end:
        until = min(end, conditions.steady_until_s(start))
        rate = conditions.rate_bytes_s(start)
        total += 0.0 if rate == 0 else rate * (until - start)
        start = until
    return total


@given(SHAPES, OFFERS, st.integers(0, 99))
def test_no_piece_overtakes_comes_early_or_arrives_in_an_outage(
    shape: Shape, offers: list[tuple[float, int]], seed: int
) -> None:
    made = passages(Stream(shape, Air(shape.conditions), Random(seed)), offers)
    for at_s, _, passage in made:
        assert passage.leaves_s >= at_s
        assert passage.arrives_s >= passage.leaves_s + shape.conditions.delay_s(passage.leaves_s)
        assert shape.conditions.rate_bytes_s(passage.arrives_s) > 0
    for (_, _, one), (_, _, other) in pairwise(made):
        assert one.leaves_s <= other.leaves_s
        assert one.arrives_s <= other.arrives_s


@given(SHAPES, OFFERS)
def test_over_no_window_leaves_more_than_the_rate_allows(shape: Shape, offers: list[tuple[float, int]]) -> None:
    made = passages(Stream(shape, Air(shape.conditions), Random(0)), offers)
    for first in range(len(made)):
        sent = 0
        for last in range(first + 1, len(made)):
            sent += made[last][1]
            allowed = capacity(shape.conditions, made[first][2].leaves_s, made[last][2].leaves_s)
            if allowed < math.inf and shape.conditions.rate_bytes_s(made[first][2].leaves_s) < math.inf:
                assert sent <= allowed * (1 + 1e-9) + 1e-3


@given(st.lists(RATES, max_size=12), st.floats(0, 4), st.integers(1, 5000))
def test_a_free_link_takes_no_longer_than_its_rate_asks(rates: list[float], at_s: float, size: int) -> None:
    conditions = stepped(rates, [0.0])
    leaves_s = Air(conditions).leaves_s(at_s, size)
    assert capacity(conditions, at_s, leaves_s) == pytest.approx(size, rel=1e-6)


@given(CONDITIONS, OFFERS)
def test_streams_share_one_rate(conditions: Conditions, offers: list[tuple[float, int]]) -> None:
    air, alone = Air(conditions), Air(conditions)
    streams = [Stream(Shape(conditions), air, Random(0)) for _ in range(2)]
    single = Stream(Shape(conditions), alone, Random(0))
    now = 0.0
    for number, (gap_s, size) in enumerate(offers):
        now += gap_s
        assert streams[number % 2].passage(now, size).leaves_s == single.passage(now, size).leaves_s


def test_constant_conditions_give_the_textbook_time() -> None:
    stream = Stream(Shape(Constant(0.02, 1000.0)), Air(Constant(0.02, 1000.0)), Random(0))
    assert stream.arrival_s(1.0, 100) == pytest.approx(1.12)
    assert stream.arrival_s(1.0, 100) == pytest.approx(1.22)  # behind the first
    assert stream.arrival_s(5.0, 100) == pytest.approx(5.12)  # on a link that is free again


def test_what_is_under_way_or_waits_when_an_outage_begins_arrives_after_it() -> None:
    conditions = Interrupted(Constant(0.1, 1000.0), ((1.0, 3.0),))
    stream = Stream(Shape(conditions), Air(conditions), Random(0))
    assert stream.passage(0.8, 100) == pytest.approx((0.9, 3.0))
    assert stream.passage(0.9, 200) == pytest.approx((3.1, 3.2))
    assert stream.passage(0.9, 0) == pytest.approx((3.1, 3.2))


def test_a_link_that_never_comes_back_delivers_nothing_and_says_so() -> None:
    dark = Constant(0.1, 0.0)
    stream = Stream(Shape(dark), Air(dark), Random(0))
    assert stream.passage(0.0, 1) == NEVER
    assert stream.passage(9.0, 0) == NEVER


def test_nothing_leaves_before_the_stream_opens() -> None:
    stream = Stream(Shape(Constant(0.1)), Air(Constant(0.1)), Random(0), opens_s=2.0)
    assert stream.passage(1.0, 10) == (2.0, 2.1)


def test_a_lost_segment_delays_itself_and_all_behind_it() -> None:
    shape = Shape(Constant(0.01), loss=0.05, retransmission_s=0.2)
    arrivals = [round(late_s, 6) for late_s in lateness(shape, [0.001 * number for number in range(20_000)], 100)]
    first = arrivals.index(0.2)
    assert arrivals[:first] == [0.0] * first
    assert arrivals[first : first + 3] == [0.2, 0.199, 0.198]


def test_as_many_segments_are_lost_as_asked_and_repairs_back_off() -> None:
    shape = Shape(Constant(), loss=0.2, retransmission_s=0.1, segment_bytes=100)
    waits = [round(late_s, 6) for late_s in lateness(shape, [100.0 * number for number in range(20_000)], 100)]
    assert waits.count(0.0) / len(waits) == pytest.approx(0.8, abs=0.015)
    assert waits.count(0.1) / len(waits) == pytest.approx(0.16, abs=0.015)
    assert waits.count(0.3) / len(waits) == pytest.approx(0.032, abs=0.008)  # lost twice: 0.1 and 0.2
    triple = [round(late_s, 6) for late_s in lateness(shape, [100.0 * number for number in range(5_000)], 300)]
    assert triple.count(0.0) / len(triple) == pytest.approx(0.8**3, abs=0.03)


def test_backing_off_has_an_end() -> None:
    class Unlucky(Random):
        left = MAX_BACKOFF + 3

        def random(self) -> float:
            self.left -= 1
            return 0.0 if self.left >= 0 else 0.99

    shape = Shape(Constant(), loss=0.5, retransmission_s=1.0)
    steps = [2.0**power for power in range(MAX_BACKOFF)] + [2.0**MAX_BACKOFF] * 3
    assert Stream(shape, Air(shape.conditions), Unlucky()).arrival_s(0.0, 1) == sum(steps)


def test_jitter_spreads_evenly_over_what_was_asked() -> None:
    late = lateness(Shape(Constant(0.5), jitter_s=0.4), [float(number) for number in range(5000)], 10)
    assert 0 <= min(late) < 0.01
    assert 0.39 < max(late) < 0.4 + 1e-9
    assert sum(late) / len(late) == pytest.approx(0.2, abs=0.01)


def lateness(shape: Shape, times: list[float], size: int) -> list[float]:
    """Return by how much each piece comes later than the delay asks."""
    stream = Stream(shape, Air(shape.conditions), Random(5))
    return [stream.arrival_s(at_s, size) - at_s - shape.conditions.delay_s(at_s) for at_s in times]


def test_long_writes_are_offered_finely_only_where_it_shows() -> None:
    def piece_bytes(shape: Shape) -> int:
        return Stream(shape, Air(shape.conditions), Random(0)).piece_bytes(0.0)

    assert piece_bytes(Shape(Constant(bytes_s=1e4))) == 1448
    assert piece_bytes(Shape(Constant(bytes_s=1e7))) == 10_000
    assert piece_bytes(Shape(Constant(bytes_s=1e12))) == piece_bytes(Shape()) == 65_536
    assert piece_bytes(Shape(loss=0.01)) == 1448


@given(st.integers(0, 10**7), st.sampled_from([0.1, 1 / 49, 1e-3, 0.3]))
def test_steps_follow_one_another_without_standing_still(index: int, step_s: float) -> None:
    conditions = Sampled(lambda at_s: at_s, lambda at_s: 0.0, step_s)
    at_s = index * step_s
    assert conditions.rate_bytes_s(at_s) <= at_s < conditions.steady_until_s(at_s)
    assert conditions.steady_until_s(at_s) - at_s <= step_s * 1.001


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.0}, {"loss": -0.1}, {"jitter_s": -1.0}, {"retransmission_s": -1.0}, {"queue_bytes": 0}]
)
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Shape(**wrong)  # type: ignore[arg-type]
