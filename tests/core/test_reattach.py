"""Reattachment: which edge is tried next and when, by exact draws of the jitter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.errors import (
    BadAck,
    BadReceipt,
    CreditsExceeded,
    Draining,
    EdgeFault,
    EdgeUnreachable,
    Forbidden,
    LimitReached,
    MalformedFrame,
    ModelMismatch,
    OutOfOrder,
    Overloaded,
    PrefixMismatch,
    SessionMismatch,
    SpecError,
    StaleEpoch,
    Superseded,
    TokenizerMismatch,
    TooLong,
    Unauthenticated,
    Unsupported,
    UnsupportedVersion,
)
from airdraft.core.session import Attempt, Reattachment
from airdraft.core.session.reattach import (
    FIRST_JITTER_S,
    LONGEST_JITTER_S,
    PENDING_S,
    STRIKES,
    UNFIT,
)

ALMOST_ONE = math.nextafter(1.0, 0.0)
FOR_EVER = 1e9
PROTOCOL_FAULTS = (BadAck, CreditsExceeded, MalformedFrame, OutOfOrder, PrefixMismatch)


def routes(
    *edges: str, give_up_s: float = FOR_EVER, uniform: float | Callable[[], float] = 0.0, begun: float | None = 100.0
) -> Reattachment:
    """Return a choice among edges, with a loss at ``begun`` unless that is None."""
    draw = uniform if callable(uniform) else lambda: uniform
    chosen = Reattachment(edges or ("a", "b", "c"), give_up_s, draw)
    if begun is not None:
        chosen.begin(begun)
    return chosen


def tried(chosen: Reattachment, count: int, now: float = 100.0, error: SpecError | None = None) -> list[str]:
    """Make attempts that fail one after the other."""
    names = []
    for _ in range(count):
        attempt = chosen.next(now)
        now = attempt.at
        chosen.started(attempt.edge, now, None)
        chosen.failed(attempt.edge, error or EdgeUnreachable("gone"), now)
        names.append(attempt.edge)
    return names


# ---- which edge ----


def test_the_first_attempt_is_due_at_once_at_the_first_edge() -> None:
    assert routes().next(100.0) == Attempt("a", 100.0)


def test_the_edge_of_before_is_tried_first_and_then_the_others_in_turn() -> None:
    chosen = routes(begun=None)
    chosen.begin(0.0)
    chosen.attached("b")
    chosen.held()
    chosen.failed("b", EdgeUnreachable("cut"), 100.0)
    assert tried(chosen, 7) == ["b", "a", "c", "b", "a", "c", "b"]


def test_edges_that_the_current_one_named_come_before_those_of_the_list() -> None:
    chosen = routes("a", "b", begun=None)
    chosen.learned(("x", "b", "y"))
    chosen.begin(100.0)
    assert tried(chosen, 5) == ["a", "x", "y", "b", "a"]


def test_an_edge_is_learned_once() -> None:
    chosen = routes("a")
    chosen.learned(("a", "x"))
    chosen.learned(("x",))
    assert tried(chosen, 4) == ["a", "x", "a", "x"]


def test_others_counts_edges_that_are_fit() -> None:
    chosen = routes("a", "b")
    assert chosen.others
    chosen.failed("b", ModelMismatch("another"), 100.0)
    assert not chosen.others
    assert not routes("a").others


def test_a_hanging_attempt_is_joined_by_one_at_the_next_edge() -> None:
    chosen = routes()
    chosen.started("a", 100.0, None)
    assert chosen.next(100.0) == Attempt("b", 100.0 + PENDING_S)


@pytest.mark.parametrize(("round_trip_s", "wait_s"), [(None, PENDING_S), (0.01, PENDING_S), (0.5, 1.5)])
def test_a_hanging_attempt_has_three_round_trips(round_trip_s: float | None, wait_s: float) -> None:
    chosen = routes()
    chosen.started("a", 100.0, round_trip_s)
    assert chosen.next(100.0).at == pytest.approx(100.0 + wait_s)


# ---- full jitter ----


def test_a_lucky_draw_goes_at_once() -> None:
    chosen = routes("a", uniform=0.0)
    for _ in range(20):
        chosen.started("a", 100.0, None)
        chosen.failed("a", EdgeUnreachable("gone"), 100.0)
        assert chosen.next(100.0).at == 100.0


def test_the_bound_of_the_jitter_doubles_to_its_longest() -> None:
    chosen = routes("a", uniform=ALMOST_ONE)
    waits = []
    for _ in range(8):
        chosen.failed("a", EdgeUnreachable("gone"), 100.0)
        waits.append(chosen.next(100.0).at - 100.0)
        chosen.started("a", 100.0, None)
    assert waits == pytest.approx([min(LONGEST_JITTER_S, FIRST_JITTER_S * 2**tries) for tries in range(8)])


def test_ages_of_attempts_do_not_overflow_the_bound() -> None:
    chosen = routes("a", uniform=ALMOST_ONE)
    for _ in range(5000):
        chosen.started("a", 100.0, None)
    chosen.failed("a", EdgeUnreachable("gone"), 100.0)
    assert chosen.next(100.0).at == pytest.approx(100.0 + LONGEST_JITTER_S)


@given(st.lists(st.floats(0, ALMOST_ONE), min_size=1, max_size=20))
def test_each_wait_is_the_draw_times_its_bound(draws: list[float]) -> None:
    left = iter(draws)
    used: list[float] = []

    def uniform() -> float:
        used.append(next(left, 0.0))
        return used[-1]

    chosen = routes("a", uniform=uniform)
    for tries in range(len(draws)):
        chosen.failed("a", EdgeUnreachable("gone"), 100.0)
        bound = min(LONGEST_JITTER_S, FIRST_JITTER_S * 2**tries)
        assert chosen.next(100.0).at == pytest.approx(100.0 + used[-1] * bound)
        chosen._tries += 1  # an attempt, without the draw of ``started``


def test_a_token_puts_the_bound_back() -> None:
    chosen = routes("a", uniform=ALMOST_ONE)
    tried(chosen, 6)
    chosen.held()
    chosen.failed("a", EdgeUnreachable("gone"), 500.0)
    assert chosen.next(500.0).at == pytest.approx(500.0 + FIRST_JITTER_S)


def test_an_edge_that_answers_and_fails_before_a_token_does_not_put_it_back() -> None:
    chosen = routes("a", uniform=ALMOST_ONE)
    for _ in range(6):
        chosen.started("a", 100.0, None)
        chosen.attached("a")
        chosen.failed("a", EdgeUnreachable("gone"), 100.0)
    assert chosen.next(100.0).at == pytest.approx(100.0 + LONGEST_JITTER_S)


# ---- what edges say ----


@pytest.mark.parametrize("kind", [Overloaded, Draining])
@pytest.mark.parametrize("retry_after_s", [0.0, 3.0])
def test_an_edge_that_names_a_time_is_not_tried_before(kind: type[SpecError], retry_after_s: float) -> None:
    chosen = routes("a")
    chosen.failed("a", kind("later", retry_after_s=retry_after_s), 100.0)
    assert chosen.next(100.0) == Attempt("a", 100.0 + max(retry_after_s, FIRST_JITTER_S))


def test_others_are_tried_while_one_asks_for_patience() -> None:
    chosen = routes()
    chosen.failed("a", Draining("going", retry_after_s=50.0), 100.0)
    assert set(tried(chosen, 6, error=EdgeUnreachable("gone"))) == {"b", "c"}
    assert {chosen.next(151.0).edge for _ in range(3)} <= {"a", "b", "c"}
    assert "a" in tried(chosen, 3, now=151.0)


def test_of_edges_that_all_ask_for_patience_the_first_to_be_ready_is_waited_for() -> None:
    chosen = routes("a", "b")
    chosen.failed("a", Overloaded("full", retry_after_s=9.0), 100.0)
    chosen.failed("b", Overloaded("full", retry_after_s=4.0), 100.0)
    assert chosen.next(100.0) == Attempt("b", 104.0)


def test_a_stale_epoch_is_retried_at_once_at_the_same_edge() -> None:
    chosen = routes(uniform=ALMOST_ONE)
    chosen.started("a", 100.0, None)
    chosen.started("b", 100.3, None)
    chosen.failed("b", StaleEpoch("higher", highest_epoch=9), 100.4)
    assert chosen.next(100.4) == Attempt("b", 100.4)


def test_a_stale_epoch_is_retried_where_each_edge_is_tried_once() -> None:
    chosen = routes("a", give_up_s=0.0)
    chosen.started("a", 100.0, None)
    chosen.failed("a", StaleEpoch("higher", highest_epoch=9), 100.1)
    assert chosen.next(100.1) == Attempt("a", 100.1)


def test_a_superseded_device_stops() -> None:
    chosen = routes()
    with pytest.raises(Superseded):
        chosen.failed("a", Superseded("a twin"), 100.0)


@pytest.mark.parametrize("kind", UNFIT)
def test_an_unfit_edge_is_never_tried_again(kind: type[SpecError]) -> None:
    chosen = routes()
    chosen.failed("b", kind("no"), 100.0)
    assert set(tried(chosen, 8)) == {"a", "c"}


def test_an_edge_that_refuses_a_receipt_is_asked_once_more_without_one() -> None:
    chosen = routes("a", give_up_s=0.0)
    assert tried(chosen, 1) == ["a"]
    chosen.failed("a", BadReceipt("not for this"), 100.0)
    assert tried(chosen, 1) == ["a"]
    chosen.failed("a", BadReceipt("own text only"), 100.0)
    with pytest.raises(BadReceipt, match="own text only"):
        chosen.next(200.0)


def test_what_is_unfit_is_named() -> None:
    expected = {
        Forbidden,
        ModelMismatch,
        SessionMismatch,
        TokenizerMismatch,
        TooLong,
        Unauthenticated,
        Unsupported,
        UnsupportedVersion,
    }
    assert set(UNFIT) == expected


def test_who_has_used_up_a_limit_comes_back_when_there_is_more() -> None:
    chosen = routes("a")
    chosen.failed("a", LimitReached("too many prompts", retry_after_s=7.0), 100.0)
    assert chosen.next(100.0).at == pytest.approx(107.0)


def test_where_all_edges_are_unfit_the_reason_is_told() -> None:
    chosen = routes("a", "b")
    chosen.failed("a", ModelMismatch("another model"), 100.0)
    chosen.failed("b", TooLong("too long"), 100.0)
    with pytest.raises(ModelMismatch, match="another model"):
        chosen.next(100.0)


def test_an_edge_that_contradicts_itself_waits_while_another_is_tried() -> None:
    chosen = routes("a", "b")
    chosen.failed("a", EdgeFault("hash"), 100.0)
    assert chosen.next(100.0).edge == "b"
    assert "a" in tried(chosen, 2, now=100.0 + LONGEST_JITTER_S)


def test_the_only_edge_is_tried_again_though_it_contradicted_itself() -> None:
    chosen = routes("a")
    chosen.failed("a", EdgeFault("hash"), 100.0)
    assert chosen.next(100.0) == Attempt("a", 100.0 + LONGEST_JITTER_S)


@pytest.mark.parametrize("kind", PROTOCOL_FAULTS)
def test_the_last_strike_is_raised(kind: type[SpecError]) -> None:
    chosen = routes("a")
    for _ in range(STRIKES - 1):
        chosen.failed("a", kind("wrong"), 100.0)
    with pytest.raises(kind):
        chosen.failed("a", kind("wrong"), 100.0)


def test_strikes_in_a_row_are_those_without_a_token_between() -> None:
    chosen = routes("a")
    for _ in range(3 * STRIKES):
        for _ in range(STRIKES - 1):
            chosen.failed("a", OutOfOrder("wrong"), 100.0)
        chosen.held()


def test_other_errors_are_no_strikes() -> None:
    chosen = routes("a")
    for _ in range(3 * STRIKES):
        chosen.failed("a", EdgeUnreachable("gone"), 100.0)
        chosen.failed("a", Overloaded("full"), 100.0)


# ---- when it is over ----


@pytest.mark.parametrize("edges", [("a",), ("a", "b", "c")])
def test_without_time_each_edge_is_tried_once(edges: Sequence[str]) -> None:
    chosen = routes(*edges, give_up_s=0.0)
    assert tried(chosen, len(edges)) == list(edges)
    with pytest.raises(EdgeUnreachable, match="gone"):
        chosen.next(200.0)


def test_without_time_each_edge_is_tried_once_though_all_hang() -> None:
    chosen = routes("a", "b", give_up_s=0.0)
    for edge in ("a", "b"):
        assert chosen.next(100.0).edge == edge
        chosen.started(edge, 100.0, None)
    with pytest.raises(EdgeUnreachable):
        chosen.next(200.0)


def test_without_time_a_new_loss_tries_each_edge_again() -> None:
    chosen = routes("a", "b", give_up_s=0.0)
    tried(chosen, 2)
    chosen.held()
    chosen.begin(300.0)
    assert tried(chosen, 2, now=300.0) == ["a", "b"]


def test_time_is_over_so_long_after_the_loss() -> None:
    chosen = routes("a", give_up_s=10.0)
    chosen.failed("a", EdgeUnreachable("gone"), 104.0)
    assert chosen.over_at == 110.0
    chosen.next(109.99)
    with pytest.raises(EdgeUnreachable, match="10 s; last: gone"):
        chosen.next(110.0)


def test_only_a_token_ends_the_count() -> None:
    chosen = routes("a", give_up_s=10.0)
    chosen.attached("a")
    chosen.failed("a", EdgeUnreachable("gone"), 108.0)
    assert chosen.over_at == 110.0
    chosen.held()
    assert chosen.over_at == math.inf
    chosen.failed("a", EdgeUnreachable("gone"), 120.0)
    assert chosen.over_at == 130.0


def test_a_second_loss_does_not_begin_the_count_anew() -> None:
    chosen = routes("a", give_up_s=10.0, begun=100.0)
    chosen.begin(105.0)
    assert chosen.over_at == 110.0


def test_attempts_are_counted_and_not_seconds_where_there_is_no_time() -> None:
    assert routes("a", give_up_s=0.0).over_at == math.inf


def test_the_reason_is_that_of_the_last_failure_until_a_token() -> None:
    chosen = routes("a", "b")
    assert chosen.reason is None
    error = Overloaded("full")
    chosen.failed("a", EdgeUnreachable("gone"), 100.0)
    chosen.failed("b", error, 100.0)
    assert chosen.reason is error
    chosen.held()
    assert chosen.reason is None


# ---- in general ----

errors = st.sampled_from(
    [
        EdgeUnreachable("gone"),
        Overloaded("full", retry_after_s=2.0),
        Draining("going", retry_after_s=5.0),
        EdgeFault("hash"),
        StaleEpoch("higher", highest_epoch=4),
    ]
)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(errors, st.floats(0, ALMOST_ONE), st.floats(0, 3)), min_size=1, max_size=40),
)
def test_no_attempt_is_early_late_or_at_an_edge_that_asked_for_patience(
    count: int, failures: list[tuple[SpecError, float, float]]
) -> None:
    draws = iter([draw for _, draw, _ in failures for _ in range(2)])
    chosen = routes(*(f"edge-{index}" for index in range(count)), uniform=lambda: next(draws))
    now, patience = 100.0, dict.fromkeys((f"edge-{index}" for index in range(count)), 0.0)
    for error, _, wait in failures:
        attempt = chosen.next(now)
        assert attempt.at >= now
        assert attempt.at >= patience[attempt.edge]
        assert attempt.at <= max(now + LONGEST_JITTER_S, min(patience.values())) + PENDING_S + LONGEST_JITTER_S
        now = attempt.at
        chosen.started(attempt.edge, now, None)
        now += wait
        chosen.failed(attempt.edge, error, now)
        if isinstance(error, Overloaded | Draining):
            patience[attempt.edge] = now + error.retry_after_s


@pytest.mark.parametrize("start", [0.0, 1e6])
def test_clocks_may_start_anywhere(start: float) -> None:
    chosen = routes("a", begun=start)
    assert chosen.next(start) == Attempt("a", start)


def test_a_clock_may_be_below_zero() -> None:
    chosen = routes("a", begun=-500.0)
    assert chosen.next(-500.0) == Attempt("a", -500.0)
