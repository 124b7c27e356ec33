"""What a tenant may use, whichever of its devices asks; and that a crowd of names leaves nothing behind."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from airdraft.core.callers import EVERYBODY, Allowance, Caller
from airdraft.core.errors import BadReceipt, LimitReached, Overloaded
from airdraft.core.paths import ids_digest
from airdraft.core.receipts import ReceiptKey
from airdraft.core.types import Limits, Open, Sampling
from edge_node.admission import MOST_WAITING
from edge_node.kv_pool import KvPool
from edge_node.metrics import EdgeMetrics
from edge_node.sessions import Entry, SessionTable, Terms
from edge_node.tenants import (
    BURST_S,
    FRAME_S,
    ID_S,
    MOST_TENANTS,
    OPENS_BURST,
    OPENS_S,
    READING_BURST_S,
    STREAMS,
    Tenants,
)
from tests.edge_node.traffic import IDENTITY


class Edge:
    """The tenants of an edge of which the test is the clock."""

    def __init__(self, allowance: Allowance | None = None, most: int = MOST_TENANTS) -> None:
        self.now = 0.0
        self.tenants = Tenants(allowance, most=most, clock=lambda: self.now)

    def opens(self, caller: Caller) -> float | None:
        """Open a stream and drop it; return after how long to come back where it was refused."""
        try:
            with self.tenants.stream(caller):
                return None
        except LimitReached as error:
            return error.retry_after_s


def caller(name: str, **allowance: float) -> Caller:
    return Caller(name, allowance=Allowance(**allowance) if allowance else None)  # type: ignore[arg-type]


def test_a_tenant_opens_so_many_streams_a_second_and_another_does_not_notice() -> None:
    edge = Edge()
    opened = sum(edge.opens(caller("a")) is None for _ in range(1000))
    assert opened == OPENS_BURST
    assert edge.opens(caller("a")) == 1.0
    assert edge.opens(caller("b")) is None
    for tick in range(1, 1001):
        edge.now = tick * 0.01
        opened += edge.opens(caller("a")) is None
    assert OPENS_BURST + OPENS_S * 10 - 1 <= opened <= OPENS_BURST + OPENS_S * 10


def test_a_tenant_has_so_many_streams_open_and_gets_another_when_one_ends() -> None:
    edge = Edge()
    held = [edge.tenants.stream(caller("a")) for _ in range(STREAMS)]
    for one in held:
        one.__enter__()
    edge.now = 100.0
    assert edge.opens(caller("a")) == 1.0
    assert edge.opens(caller("b")) is None
    held.pop().__exit__(None, None, None)
    assert edge.opens(caller("a")) is None
    for one in held:
        one.__exit__(None, None, None)


def test_everybody_is_no_tenant_of_their_own_to_bound() -> None:
    edge = Edge()
    held = [edge.tenants.stream(EVERYBODY) for _ in range(10 * STREAMS)]
    for one in held:
        one.__enter__()
    assert edge.tenants.of(EVERYBODY).streams == 10 * STREAMS
    for one in held:
        one.__exit__(None, None, None)


def test_what_a_credential_does_not_say_the_edge_says() -> None:
    edge = Edge(Allowance(positions_s=100, prefill_s=200, sessions=3, streams=4))
    assert edge.tenants.of(caller("a")).allowance == Allowance(100, 200, 3, 4)
    assert edge.tenants.of(caller("b", prefill_s=7)).allowance == Allowance(100, 7, 3, 4)
    assert edge.tenants.of(EVERYBODY).allowance == Allowance(100, 200, 3, 0)


def test_prompts_are_charged_whole_and_paid_before_the_next() -> None:
    edge = Edge(Allowance(prefill_s=100))
    tenant = edge.tenants.of(caller("a"))
    burst = 100 * BURST_S
    tenant.may_prefill(edge.now)
    tenant.prefills(1000, edge.now)
    with pytest.raises(LimitReached, match=r"100 positions a second .* used up; try again in 8\.0 s") as refused:
        tenant.may_prefill(edge.now)
    assert refused.value.retry_after_s == (1000 - burst) / 100
    edge.tenants.of(caller("b")).may_prefill(edge.now)  # another tenant
    tenant.found(200, edge.now)  # the cache had these
    edge.now = 6.0
    tenant.may_prefill(edge.now)


def test_another_credential_of_the_same_tenant_finds_what_was_used() -> None:
    edge = Edge()
    edge.tenants.of(caller("a", prefill_s=10)).prefills(1000, 0.0)
    tenant = edge.tenants.of(caller("a", prefill_s=100))
    with pytest.raises(LimitReached):
        tenant.may_prefill(0.0)
    assert tenant.prefill is not None
    assert tenant.prefill.wait_s(0.0) == 9.8
    assert edge.tenants.of(caller("a")).prefill is None  # and one without a bound has none


def test_what_a_tenant_says_beyond_its_share_is_put_off_where_others_speak_too() -> None:
    edge = Edge()
    with edge.tenants.stream(caller("loud")) as loud, edge.tenants.stream(caller("quiet")) as quiet:
        assert not any(edge.tenants.reads(loud, 256) for _ in range(10_000))  # it is alone
        edge.now = 1.0
        edge.tenants.reads(quiet, 4)
        edge.now = 1.3  # speakers are counted a few times a second
        read, until_s = 0, edge.now + 20.0
        waits, next_quiet_s = list[float](), edge.now
        while edge.now < until_s:
            edge.now += edge.tenants.reads(loud, 256) + 1e-4
            read += 1
            if edge.now >= next_quiet_s:
                waits.append(edge.tenants.reads(quiet, 4))
                next_quiet_s += 0.02
    frame_s = FRAME_S + 256 * ID_S
    assert 0.24 * 20 <= read * frame_s <= 0.25 * 20 + READING_BURST_S + frame_s
    assert len(waits) > 900
    assert max(waits) == 0.0


def test_nobody_is_put_off_where_nobody_says_who_they_are() -> None:
    edge = Edge()
    with edge.tenants.stream(EVERYBODY) as everybody, edge.tenants.stream(caller("other")) as other:
        for _ in range(1000):
            edge.now += 1e-3
            edge.tenants.reads(other, 4)
            assert edge.tenants.reads(everybody, 4000) == 0.0


@pytest.mark.parametrize("names", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_crowd_of_names_leaves_nothing_behind(names: int) -> None:
    edge = Edge(Allowance(positions_s=10, prefill_s=10, streams=2))
    most = 0
    for number in range(names):
        edge.now += 0.001
        assert edge.opens(caller(f"tenant {number}")) is None
        most = max(most, len(edge.tenants))
    assert most <= 200  # those of the last moments, whose buckets are not full again
    edge.now += 60.0
    for number in range(100):
        edge.opens(caller(f"late {number}"))
    assert len(edge.tenants) <= 200


def test_the_table_never_holds_more_than_it_says_and_forgets_nobody_who_owes() -> None:
    edge = Edge(Allowance(prefill_s=1), most=50)
    for number in range(50):
        edge.tenants.of(caller(f"debtor {number}")).prefills(1000, edge.now)
    assert edge.opens(caller("new")) == 1.0
    assert len(edge.tenants) == 50
    edge.now = 500.0
    with pytest.raises(LimitReached):
        edge.tenants.of(caller("debtor 7")).may_prefill(edge.now)
    edge.now = 1001.0
    assert edge.opens(caller("new")) is None
    assert len(edge.tenants) < 50


def test_a_tenant_with_a_stream_is_never_forgotten() -> None:
    edge = Edge()
    with edge.tenants.stream(caller("here")) as tenant:
        edge.now = 1e6
        for number in range(1000):
            edge.opens(caller(f"other {number}"))
        assert edge.tenants.of(caller("here")) is tenant
    assert sys.getsizeof(edge.tenants._tenants) < 1 << 20


# ---- in the table of sessions ----


def table(clock: Callable[[], float] = time.monotonic, receipts: ReceiptKey | None = None) -> SessionTable:
    made = SessionTable(Terms(most=8, keep_s=1e9, receipts=receipts), EdgeMetrics(), clock)
    made.begin(KvPool(1 << 14))
    return made


def opened(session: int, ids: tuple[int, ...] = (1, 2, 3)) -> Open:
    return Open(session.to_bytes(16, "big"), 2, IDENTITY, Sampling(), (), 40, 3, len(ids), ids_digest(ids), 0)


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_crowd_of_sessions_of_as_many_tenants_is_no_more_than_has_places(count: int) -> None:
    now, admitted, attached = 0.0, 0, deque[Entry]()
    edge = table(lambda: now)
    for number in range(count):
        now += 0.01 if number % 20 else 100.0  # now and then who waits has lost its turn
        attach = opened(number)
        try:
            entry = edge.admit(attach, Limits(context_tokens=100), f"tenant {number}")
        except Overloaded:
            if attached:  # the oldest leaves without a word
                attached.popleft().session.detached(attach.epoch)
            continue
        edge.attach(entry, attach)
        attached.append(entry)
        admitted += 1
    assert admitted >= count // 5
    assert len(edge) <= 8
    assert len(edge.admission) <= MOST_WAITING
    assert edge.pool.reserved_rows <= edge.pool.rows


def test_an_edge_takes_a_tenants_receipts_and_no_other_tenants() -> None:
    key, ids = ReceiptKey(b"k" * 32), (1, 2, 3, 4)
    edge = table(receipts=key)
    for session, (signed_for, presented_by) in enumerate([("a", "a"), ("a", "b"), ("", "a"), ("a", "")]):
        attach = opened(session, ids)
        attach = replace(attach, receipt=key.of(signed_for).sign(attach, 1, ids_digest(ids)))
        entry = edge.admit(attach, Limits(context_tokens=100), presented_by)
        if signed_for == presented_by:
            edge.attach(entry, attach)
            assert entry.session.attested
        else:
            with pytest.raises(BadReceipt):
                edge.attach(entry, attach)
