"""A tenant's sessions take no more positions than it may use, whoever of them asks, and nobody else waits for that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import cast

from airdraft.core.callers import Allowance, Caller
from airdraft.core.errors import LimitReached
from airdraft.core.session import Wish
from airdraft.core.types import RefusalCode, Sampling, Work
from edge_node.metrics import EdgeMetrics
from edge_node.scheduling import Waiting
from edge_node.sessions import Entry
from edge_node.step import Step
from edge_node.tenants import BURST_S, Tenants
from edge_node.throttling import LONGEST_WAIT_S, Throttle
from tests.edge_node.test_stepping import Scripted
from tests.edge_node.traffic import Asked, Device, Traffic

RATE = 10.0
BURST = int(BURST_S * RATE)


@dataclass(slots=True)
class Mail:
    """A stream as the throttle sees it."""

    failure: Exception | None = None

    def end(self, failure: Exception) -> None:
        self.failure = failure


@dataclass(slots=True)
class Edge:
    """A throttle of which the test is the clock; tenant "a" is bounded, others are not."""

    now: float = 0.0
    metrics: EdgeMetrics = field(default_factory=EdgeMetrics)
    tenants: Tenants = field(init=False)
    throttle: Throttle = field(init=False)

    def __post_init__(self) -> None:
        self.tenants = Tenants(clock=lambda: self.now)
        self.tenants.of(Caller("a", allowance=Allowance(positions_s=RATE)))
        self.throttle = Throttle(self.tenants, self.metrics, lambda: self.now)

    def joining(self, *waiting: Waiting[Entry]) -> tuple[list[int], float]:
        joining, until_s = self.throttle.joining(waiting)
        return [one.wish.positions for one in joining], until_s

    def passes(self, one: Waiting[Entry], positions: int, nodes: int = 0) -> None:
        span = SimpleNamespace(tokens=(0,) * positions)
        work = SimpleNamespace(span=span, nodes=nodes, work=one.wish.work)
        self.throttle.passed(one.who, work)  # type: ignore[arg-type]

    @property
    def refused(self) -> float:
        counted = self.metrics.registry.get_sample_value(
            "airdraft:refusals_total", {"model_name": "", "code": RefusalCode.LIMIT_REACHED.name.lower()}
        )
        return counted or 0.0


def one(positions: int, tenant: str = "a", since_s: float = 0.0, work: Work = Work.VERIFY) -> Waiting[Entry]:
    entry = cast(Entry, SimpleNamespace(tenant=tenant, streams={1: Mail()}))
    return Waiting(entry, tenant, Wish(work, positions), since_s)


def ended(waiting: Waiting[Entry]) -> LimitReached | None:
    failure = waiting.who.streams[1].failure
    assert failure is None or isinstance(failure, LimitReached)
    return failure


def test_those_who_waited_longest_share_what_is_there_to_the_last_position() -> None:
    edge = Edge()
    late, early, middle = one(9, since_s=3.0), one(9, since_s=1.0), one(9, since_s=2.0)
    assert edge.joining(late, early, middle) == ([9, 9, 2], math.inf)
    for waiting, positions in ((early, 9), (middle, 9), (late, 2)):
        edge.passes(waiting, positions)
    assert edge.joining(late) == ([], 0.1)
    edge.now = 0.1
    assert edge.joining(late) == ([1], math.inf)
    edge.now = 0.5
    assert edge.joining(late) == ([5], math.inf)


def test_another_tenant_is_not_held_back_and_a_prompt_was_paid_before() -> None:
    edge = Edge()
    edge.passes(one(BURST), BURST)
    prompt = one(500, work=Work.PREFILL)
    joining, _ = edge.joining(one(5), one(7, tenant="b"), prompt)
    assert joining == [7, 500]
    edge.passes(prompt, 500, nodes=3)  # but the draft behind it was not
    assert edge.throttle.until_s(prompt.who) == 0.4
    assert edge.throttle.until_s(one(1, tenant="b").who) is None


def test_who_would_wait_for_too_long_is_told_to_come_back() -> None:
    edge = Edge()
    edge.passes(one(BURST), BURST)
    line = [one(8, since_s=float(index)) for index in range(5)]
    assert edge.joining(*line) == ([], 0.1)
    waits = [None if (error := ended(waiting)) is None else error.retry_after_s for waiting in line]
    assert waits == [None, None, None, 2.5, 3.3]
    assert all(wait > LONGEST_WAIT_S for wait in waits if wait is not None)
    assert edge.refused == 2
    edge.joining(*line)
    assert edge.refused == 2  # and is told once


def test_an_edge_without_bounds_holds_nobody() -> None:
    edge = Edge()
    crowd = [one(65, tenant=f"t{index % 7}") for index in range(100)]
    assert edge.joining(*crowd) == ([65] * 100, math.inf)


# ---- in the stepping of an edge ----


class Scene:
    """Two tenants' devices at an edge that decodes for them; only one tenant is bounded."""

    def __init__(self, rate: float) -> None:
        self.edge = Traffic(Scripted(), 4096, Random(1))  # type: ignore[arg-type]
        self.edge.sessions.tenants.of(Caller("a", allowance=Allowance(positions_s=rate)))
        self.bounded = [self.edge.arrives(Asked((1, 2, 3), Sampling(), 100, "a")) for _ in range(2)]
        self.free = self.edge.arrives(Asked((4, 5, 6), Sampling(), 100, "b"))
        self.decoded = {"a": 0, "b": 0}

    def step(self) -> bool:
        """Let the engine do what it is asked, and count; devices ack all that comes."""
        asked = self.edge.engine.asked
        if asked is None:
            return False
        assert isinstance(asked[0], Step)
        names = {entry.owner: entry.tenant for entry in self.edge.sessions}
        for item in asked[0].items:
            if item.span.start:
                self.decoded[names[item.owner]] += len(item.span.tokens)
        self.edge.steps()
        for device in (*self.bounded, self.free):
            if device.entry is not None and not device.done:
                self.edge.idles(device)
        return True

    def finished(self, device: Device) -> bool:
        return len(device.answer) == device.asked.max_tokens


async def test_a_tenant_without_positions_left_sits_out_and_the_other_writes_to_the_end() -> None:
    scene = Scene(rate=RATE)
    while scene.step():
        pass
    assert scene.finished(scene.free)
    assert scene.decoded["a"] == BURST  # not one more: no time has passed
    assert sum(len(device.answer) for device in scene.bounded) == BURST + len(scene.bounded)  # and prompts' tokens
    assert scene.edge.stepping._alarm is not None  # asks again when there is a position
    scene.edge.now += 0.35
    scene.edge.stepping._go()
    while scene.step():
        pass
    assert scene.decoded["a"] == BURST + 3
    for _ in range(100):
        scene.edge.now += BURST_S
        scene.edge.stepping._go()
        while scene.step():
            pass
    assert all(scene.finished(device) for device in scene.bounded)


async def test_without_a_bound_both_write_at_once() -> None:
    scene = Scene(rate=1e6)
    while scene.step():
        pass
    assert all(scene.finished(device) for device in (*scene.bounded, scene.free))
