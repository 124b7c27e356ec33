"""Liveness: when an end asks, when it judges, and what it takes for a round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.session import Liveness
from airdraft.core.session.liveness import PATIENCE_S, ROUND_TRIPS, SILENCE_S

STARTS = [0.0, 1e6, -1e6]
seconds = st.floats(0, 100)


def asked(life: Liveness, now: float) -> int:
    """Look at ``now``; a ping must be due."""
    assert life.look(now) == "ping"
    return life.ping_number


def knowing(round_trip_s: float, start: float = 0.0) -> Liveness:
    return Liveness(start, round_trip_s=round_trip_s)


# ---- the limit ----


def test_without_a_round_trip_the_limit_is_patience() -> None:
    assert Liveness(0.0).limit_s == PATIENCE_S
    assert Liveness(0.0, patience_s=2.0).limit_s == 2.0


@given(st.floats(0, 10))
def test_the_limit_is_four_round_trips_and_never_under_a_second(round_trip_s: float) -> None:
    assert knowing(round_trip_s).limit_s == max(SILENCE_S, ROUND_TRIPS * round_trip_s)


# ---- when it asks, when it judges ----


@pytest.mark.parametrize("start", STARTS)
def test_a_silence_is_asked_into_at_thirds_and_judged_at_the_limit(start: float) -> None:
    life = Liveness(start, patience_s=3.0)
    seen: list[tuple[float, str]] = []
    while not seen or seen[-1][1] != "gone":
        when = life.next_look
        seen.append((round(when - start, 6), life.look(when)))
    assert [verdict for _, verdict in seen] == ["ping", "ping", "ping", "gone"]
    assert [when for when, _ in seen[1:]] == [1.0, 2.0, 3.0]


def test_the_first_look_pings_so_that_a_round_trip_is_known_soon() -> None:
    life = Liveness(7.0)
    assert life.next_look <= 7.0
    assert asked(life, 7.0) == 1


def test_pings_are_numbered_in_turn() -> None:
    life = Liveness(0.0, patience_s=3.0)
    assert [asked(life, now) for now in (0.0, 1.0, 2.0)] == [1, 2, 3]


def test_what_is_heard_puts_off_the_question_and_the_judgement() -> None:
    life = knowing(0.01)
    asked(life, 0.0)
    for tenth in range(1, 50):
        life.heard(tenth / 10)
        assert life.look(tenth / 10) == "well"
    assert life.look(4.9 + SILENCE_S / 4) == "well"
    assert life.look(4.9 + SILENCE_S / 3 + 1e-6) == "ping"
    assert life.look(4.9 + SILENCE_S + 1e-6) == "gone"


def test_a_busy_stream_is_asked_now_and_then_for_its_round_trip() -> None:
    life = knowing(0.01)
    pings = 0
    for tenth in range(601):
        life.heard(tenth / 10)
        pings += life.look(tenth / 10) == "ping"
    assert 6 <= pings <= 7


@given(st.lists(st.tuples(st.floats(0.001, 2), st.booleans()), max_size=60), st.sampled_from(STARTS))
def test_gone_is_said_after_the_limit_and_only_then(events: list[tuple[float, bool]], start: float) -> None:
    """Looking at each due time: never gone while something was heard within the limit, at once when nothing was."""
    life = knowing(0.1, start)
    now = heard = start
    for wait, speaks in events:
        end = now + wait
        while life.next_look <= end:
            now = max(now, life.next_look)
            if life.look(now) == "gone":
                assert now - heard >= life.limit_s - 1e-6
                return
        now = end
        assert now - heard < life.limit_s + 1e-6
        if speaks:
            heard = now
            life.heard(now)


@given(st.floats(0.001, 3), st.floats(0, 20))
def test_the_next_look_is_never_after_the_limit(round_trip_s: float, heard: float) -> None:
    life = knowing(round_trip_s)
    life.look(0.0)
    life.heard(heard)
    assert life.next_look <= heard + life.limit_s


# ---- an end that was stopped itself ----


@pytest.mark.parametrize("stopped_s", [1.5, 60.0, 1e6])
def test_a_stopped_end_asks_before_it_judges(stopped_s: float) -> None:
    life = knowing(0.01)
    asked(life, 0.0)
    life.heard(0.1)
    woken = 0.1 + stopped_s
    assert life.look(woken) == "ping"  # what came meanwhile is unread
    life.heard(woken + 0.01)
    assert life.look(woken + 0.02) == "well"


def test_a_stopped_end_judges_a_peer_that_does_not_answer_a_third_of_the_limit_later() -> None:
    life = knowing(0.01)
    asked(life, 0.0)
    assert life.look(60.0) == "ping"
    assert life.look(60.0 + SILENCE_S / 3 - 0.01) == "well"
    assert life.look(60.0 + SILENCE_S / 3 + 0.01) == "gone"


def test_a_late_look_within_the_limit_is_no_stop() -> None:
    life = knowing(0.01)
    asked(life, 0.0)
    assert life.look(0.9) == "ping"
    assert life.look(1.0) == "gone"


# ---- round trips ----


def test_the_first_answer_is_the_round_trip_and_later_ones_move_it_by_an_eighth() -> None:
    life = Liveness(0.0)
    life.acked(asked(life, 0.0), 0.08)
    assert life.round_trip_s == pytest.approx(0.08)
    life.heard(0.08)
    life.acked(asked(life, 0.5), 0.5 + 0.16)
    assert life.round_trip_s == pytest.approx(0.08 + (0.16 - 0.08) / 8)


def test_an_answer_counts_once_and_only_to_a_ping() -> None:
    life = Liveness(0.0)
    number = asked(life, 0.0)
    life.acked(number + 1, 0.01)
    assert life.round_trip_s is None
    life.acked(number, 0.1)
    life.acked(number, 0.4)
    assert life.round_trip_s == pytest.approx(0.1)


def test_an_answer_later_than_the_limit_is_no_sample() -> None:
    life = Liveness(0.0, patience_s=1.0)
    life.acked(asked(life, 0.0), 1.001)
    assert life.round_trip_s is None


def test_each_answer_is_matched_with_its_own_ping() -> None:
    life = Liveness(0.0, patience_s=3.0)
    first, second = asked(life, 0.0), asked(life, 1.0)
    life.acked(second, 1.1)
    assert life.round_trip_s == pytest.approx(0.1)
    life.acked(first, 0.1 + 0.1)
    assert life.round_trip_s == pytest.approx(0.1 + (0.2 - 0.1) / 8)


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=30))
def test_the_round_trip_stays_within_its_samples(samples: list[float]) -> None:
    life = Liveness(0.0)
    now = 0.0
    for sample in samples:
        now = max(now, life.next_look)
        number = asked(life, now)
        now += sample
        life.heard(now)
        life.acked(number, now)
    assert life.round_trip_s is not None
    assert min(samples) - 1e-6 <= life.round_trip_s <= max(samples) + 1e-6


def test_what_an_earlier_stream_knew_holds_from_the_start() -> None:
    life = knowing(2.0)
    assert life.limit_s == 8.0
    assert life.round_trip_s == 2.0
