"""Audits: both wordings of a swap are finished on free rows, compared, and give way to whoever needs the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from prometheus_client import CollectorRegistry

from airdraft.core.types import Evidence
from edge_node.audits import MOST_TESTS, Audits, Swapped, mean_shortfall
from edge_node.kv_pool import KvPool
from edge_node.metrics_meaning import Audited, MeaningMetrics
from edge_node.step import Fill, Item, Outcome

STOP = 0
WRONG = 90
"""A text with this token in it comes to another answer."""

PROMPT = (11, 12, 13)
ANSWER, OTHER_ANSWER = 70, 71


class Rows:
    """A pool's rows, and a model that reads nothing but what they hold: text, an answer, the end."""

    def __init__(self, pool: KvPool) -> None:
        self.pool, self.rows = pool, [-1] * pool.rows
        self.shortfall = 0.0  # nats that the first token of a read ending falls short by
        self.positions: list[int] = []  # of each step

    def run(self, items: Sequence[Item]) -> list[Outcome]:
        for fill in self.pool.take_fills():
            self._fill(fill)
        self.positions.append(sum(len(item.span.tokens) for item in items))
        return [self._outcome(item) for item in items]

    def _fill(self, fill: Fill) -> None:
        source = [-1] * fill.rows if fill.source is None else self.rows[fill.source : fill.source + fill.rows]
        self.rows[fill.target : fill.target + fill.rows] = source

    def _outcome(self, item: Item) -> Outcome:
        first, span = item.extent.first, item.span
        assert span.parents is None
        assert span.start + len(span.tokens) <= item.extent.rows
        self.rows[first + span.start : first + span.start + len(span.tokens)] = span.tokens
        choices = tuple(self.after(self.rows[first : first + span.start + at + 1]) for at in span.wanted)
        if item.judged is None:
            return Outcome(choices)
        evidence = (Evidence(0, -self.shortfall, 0.0, 0.5, 0.0, 0.5, 0.0),) if self.shortfall else ()
        return Outcome(choices, evidence=evidence)

    @staticmethod
    def after(ids: Sequence[int]) -> int:
        assert -1 not in ids, "a row is read that was never written"
        if ids[-1] in (ANSWER, OTHER_ANSWER):
            return STOP
        if len(ids) < 16:
            return 20 + len(ids)
        return OTHER_ANSWER if WRONG in ids else ANSWER


def by_answer(own: Sequence[int], other: Sequence[int]) -> bool | None:
    return own[-2] == other[-2] if own[-1] == STOP else None


def swap(drafted: int, key: str = "head", risk: float = 0.02, before: int = 2, most: int = 40) -> Swapped:
    ids = (*PROMPT, *range(30, 30 + before))
    return Swapped(key, risk, ids, drafted, 50, len(PROMPT), most, frozenset({STOP}))


def audits(
    rows: int = 1024,
    share: float = 1.0,
    same: Callable[[Sequence[int], Sequence[int]], bool | None] = by_answer,
    most_waiting: int = 32,
) -> tuple[Audits, Rows, CollectorRegistry]:
    registry = CollectorRegistry()
    made = Audits(share, Random(3), MeaningMetrics(registry, "a:"), most_waiting=most_waiting)
    made.same = lambda key: same
    pool = KvPool(rows)
    made.begin(pool)
    return made, Rows(pool), registry


def count(registry: CollectorRegistry, outcome: Audited) -> float:
    return registry.get_sample_value("a:semantic_audits_total", {"outcome": outcome.name.lower()}) or 0.0


def finish(made: Audits, rows: Rows) -> int:
    steps = 0
    while items := made.items():
        made.stepped(rows.run(items))
        steps += 1
        assert steps < 500
    return steps


def test_a_harmless_and_a_harmful_swap_are_told_apart_and_leave_nothing_behind() -> None:
    made, rows, registry = audits()
    made.add(swap(51))
    made.add(swap(WRONG))
    finish(made, rows)
    assert count(registry, Audited.HARMLESS) == count(registry, Audited.HARMFUL) == 1
    assert len(made) == 0
    assert rows.pool.reserved_rows == 0


def test_one_harmful_swap_of_little_risk_makes_every_session_stricter_and_no_other_head() -> None:
    made, rows, _ = audits()
    ours, others = made.strictness("head"), made.strictness("another")
    assert ours() == others() == 1.0
    for _ in range(8):
        made.add(swap(WRONG, risk=0.005))
        finish(made, rows)
    assert ours() < 1.0
    assert others() == 1.0


def test_what_one_tenants_device_drafts_makes_no_other_tenant_stricter() -> None:
    made, rows, _ = audits()
    liar, honest = made.strictness("head", "liar"), made.strictness("head", "honest")
    for _ in range(40):
        made.add(replace(swap(WRONG, risk=0.005), tenant="liar"))
        finish(made, rows)
    assert liar() == 0.0
    assert honest() == 1.0
    for _ in range(32):
        assert not made.samples("head", "honest", stood=False)  # nor is what the liar lost sampled for others
    for number in range(2 * MOST_TESTS):
        made.strictness("head", f"tenant {number}")
    assert len(made._records) == MOST_TESTS


def test_an_ending_that_no_check_reads_is_compared_by_the_targets_own_score() -> None:
    for shortfall, outcome in ((0.0, Audited.HARMLESS), (0.3, Audited.HARMLESS), (9.0, Audited.HARMFUL)):
        made, rows, registry = audits(same=lambda own, other: None)
        rows.shortfall = shortfall
        made.add(swap(51))
        finish(made, rows)
        assert count(registry, outcome) == 1
        assert rows.pool.reserved_rows == 0


def test_a_swap_at_the_last_place_cannot_be_decided() -> None:
    made, rows, registry = audits(same=lambda own, other: None)
    made.add(swap(51, most=6))
    finish(made, rows)
    assert count(registry, Audited.UNDECIDED) == 1


def test_a_session_that_needs_the_rows_gets_them_at_once_and_the_audit_ends_all_the_same() -> None:
    made, rows, registry = audits(rows=192)
    made.add(swap(WRONG, before=4))
    for turn in range(6):
        items = made.items()
        assert items
        outcomes = rows.run(items)
        if turn == 4:  # before the step has ended for the front
            made.make_way(192)
            rows.pool.reserve("session", "", 192)
            made.stepped(outcomes)
            assert made.items() == ()
            rows.pool.release("session", ())
        else:
            made.stepped(outcomes)
    finish(made, rows)
    assert count(registry, Audited.HARMFUL) == 1


def test_audits_keep_their_rows_where_there_are_others() -> None:
    made, rows, _ = audits(rows=1024)
    made.add(swap(51))
    made.stepped(rows.run(made.items()))
    held = rows.pool.reserved_rows
    made.make_way(512)
    assert rows.pool.reserved_rows == held > 0


def test_of_two_texts_that_do_not_fit_together_one_comes_after_the_other() -> None:
    made, rows, registry = audits(rows=64)
    made.add(swap(51))
    finish(made, rows)
    assert count(registry, Audited.HARMLESS) == 1


def test_a_long_text_is_read_in_parts_so_that_nobody_waits_long() -> None:
    made, rows, registry = audits(same=lambda own, other: None, rows=4096)
    ids = (*PROMPT, *(20 + at % 10 for at in range(600)))
    made.add(Swapped("head", 0.1, ids, WRONG, 50, 3, 700, frozenset({STOP})))
    while items := made.items():
        if items[0].judged is not None:
            made.make_way(4097)  # what was read is lost just before the last pass
            rows.run(items)
            made.stepped([Outcome((1,))] * len(items))
            break
        made.stepped(rows.run(items))
    finish(made, rows)
    assert max(rows.positions) <= 128 + 64
    assert count(registry, Audited.HARMLESS) == 1


def test_what_a_session_has_read_is_not_read_again() -> None:
    made, rows, registry = audits()
    ids = tuple(range(100, 180))
    rows.pool.reserve("session", "", 128)
    rows.pool.pin("session", 80)
    rows.pool.unpin("session")
    rows.pool.advanced("session", 80)
    rows.pool.note_ids("session", lambda: ids)
    rows.rows[: len(ids)] = ids
    made.add(Swapped("head", 0.1, ids, 51, 50, 3, 100, frozenset({STOP})))
    finish(made, rows)
    assert max(rows.positions) <= 4
    assert count(registry, Audited.HARMLESS) == 1


def test_an_engine_that_dies_of_an_audit_is_not_asked_for_it_again() -> None:
    made, _, registry = audits()
    for _ in range(5):
        made.add(swap(51))
    assert made.items()
    made.lost()
    made.begin(KvPool(1024))
    assert count(registry, Audited.DROPPED) == 4
    assert len(made) == 1


def test_an_engine_that_died_of_something_else_costs_no_audit() -> None:
    made, rows, registry = audits()
    made.add(swap(WRONG))
    for _ in range(3):
        made.stepped(rows.run(made.items()))
    pool = KvPool(1024)
    made.begin(pool)
    finish(made, Rows(pool))
    assert count(registry, Audited.HARMFUL) == 1


def test_an_item_that_fails_is_given_up_alone() -> None:
    made, rows, registry = audits()
    made.add(swap(51))
    made.add(swap(52))
    outcomes = rows.run(made.items())
    made.stepped([Outcome(failure="broken"), *outcomes[1:]])
    finish(made, rows)
    assert count(registry, Audited.DROPPED) == count(registry, Audited.HARMLESS) == 1


def test_no_more_swaps_wait_than_may() -> None:
    made, _, registry = audits(most_waiting=3)
    for _ in range(5):
        made.add(swap(51))
    assert len(made) == 3
    assert count(registry, Audited.DROPPED) == 2


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_the_share_that_is_sampled_is_the_one_that_was_asked_for(share: float) -> None:
    made, _, _ = audits(share=share)
    sampled = sum(made.samples("head", stood=True) for _ in range(4000))
    assert abs(sampled - 4000 * share) <= 4 * (4000 * share * (1 - share)) ** 0.5


def test_what_would_have_stood_is_sampled_once_nothing_stands_any_more() -> None:
    made, _, _ = audits()
    assert not any(made.samples("head", stood=False) for _ in range(32))
    assert made.samples("head", stood=False)
    assert not made.samples("another", stood=False)
    assert made.samples("head", stood=True)
    assert not made.samples("head", stood=False)


def test_the_mean_shortfall_counts_every_token_of_the_ending() -> None:
    evidence = [Evidence(0, -3.0, -1.0, 0, 0, 0, 0), Evidence(3, -1.5, -1.0, 0, 0, 0, 0)]
    assert mean_shortfall(evidence, 5) == pytest.approx(0.5)
    assert mean_shortfall([], 5) == 0.0
