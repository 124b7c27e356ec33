"""When a step is held back for drafts, whom that may not keep waiting, and what ends it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from airdraft.core.session import Wish
from airdraft.core.types import Report, Sampling, Work
from coordinator.policy.costs import PassCost
from edge_node.gathering import Gathering
from edge_node.scheduling import MOST_HELD, Waiting
from edge_node.sessions import Entry
from tests.edge_node.test_stepping import Scripted
from tests.edge_node.traffic import Asked, Device, Traffic

COST = PassCost(0.03, 0.0002)
STEP_S = 0.032


class Edge:
    """An edge that goes ahead of so many devices, each past its prompt; time passes when the test says so."""

    def __init__(self, devices: int) -> None:
        self.now = 100.0
        self.traffic = Traffic(Scripted(), 4096, Random(1), run_ahead=True)  # type: ignore[arg-type]
        self.traffic.sessions._clock = lambda: self.now
        self.traffic.sessions.company.thrifty = True
        self.devices = [self.traffic.arrives(Asked((1, 2, 3), Sampling(), 100)) for _ in range(devices)]
        self.asked, self.asks = 0, asyncio.Event()
        self.gathering = Gathering(self.traffic.sessions, lambda: self.now, self._go, gathers=True)
        self.gathering.stepped(STEP_S)
        self.traffic.steps()  # a prompt
        self.traffic.steps()  # the others

    def _go(self) -> None:
        self.asked += 1
        self.asks.set()

    def waiting(self) -> list[Waiting[Entry]]:
        while self.traffic.engine.asked is not None:
            self.traffic.stepping._engine = None  # the front stands still
            self.traffic.steps()
        self.gathering.counted(COST)
        entries = [entry_of(device) for device in self.devices]
        return [Waiting(entry, "", wish, self.now) for entry in entries if (wish := entry.session.wish()) is not None]

    def gives_lead(self, seconds: float) -> None:
        for device in self.devices:
            rule = entry_of(device).run_ahead
            assert rule is not None
            rule._lead_s, rule._committed_s, rule._dry = seconds, self.now, 0


def entry_of(device: Device) -> Entry:
    assert device.entry is not None
    return device.entry


async def test_a_step_is_held_back_while_all_have_a_lead_and_no_longer() -> None:
    edge = Edge(4)
    waiting = edge.waiting()
    assert len(waiting) == 4
    edge.gives_lead(0.0)
    assert not edge.gathering.waits(waiting, COST)
    edge.gives_lead(0.2)
    assert edge.gathering.waits(waiting, COST)
    assert all(edge.gathering.joins(one.who) for one in waiting)
    edge.now += MOST_HELD * COST.fixed_s
    assert not edge.gathering.waits(waiting, COST)
    assert not any(edge.gathering.joins(one.who) for one in waiting)


async def test_one_session_without_a_lead_keeps_nobody_waiting() -> None:
    edge = Edge(4)
    waiting = edge.waiting()
    edge.gives_lead(0.2)
    rule = waiting[2].who.run_ahead
    assert rule is not None
    rule._lead_s = -0.01
    assert not edge.gathering.waits(waiting, COST)


async def test_a_prompt_and_a_suspect_are_not_held_back() -> None:
    edge = Edge(4)
    waiting = edge.waiting()
    edge.gives_lead(0.2)
    waiting[1].who.suspect = True
    assert not edge.gathering.waits(waiting, COST)
    waiting[1].who.suspect = False
    late = edge.traffic.arrives(Asked((5, 6, 7, 8), Sampling(), 100))
    edge.devices.append(late)
    assert len(edge.waiting()) == 5
    assert not edge.gathering.waits(edge.waiting(), COST)


async def test_a_session_alone_is_not_held_back_and_before_the_first_step_nobody_is() -> None:
    edge = Edge(1)
    edge.gives_lead(0.2)
    assert not edge.gathering.waits(edge.waiting(), COST)
    edge = Edge(4)
    edge.gives_lead(0.2)
    assert not edge.gathering.waits(edge.waiting(), None)


@pytest.mark.parametrize(("worth", "least"), [(2, 0), (0, 1)])
async def test_what_the_edge_wrote_is_weighed_behind_the_devices_draft(worth: int, least: int) -> None:
    """On an engine where positions cost, only the likely ones join; a try of the edge's own drafter always does."""
    edge = Edge(4)
    edge.waiting()
    edge.gathering.counted(COST)
    entries = [entry_of(device) for device in edge.devices]
    edge.traffic.drafts(edge.devices[0], [1, 2, 3, *[7] * 90], error=0.0)
    theirs = entries[0].session.live_nodes
    for entry in entries:
        rule = entry.run_ahead
        assert rule is not None
        rule._judged, rule._accepted, rule._dry = 10.0, 9.9, 0
        entry.own_length.worth = worth
        for _ in range(10):
            entry.own_length.saw(1, 0)
    waiting = [
        Waiting(entries[0], "", Wish(Work.VERIFY, 1 + theirs + 2), edge.now),
        Waiting(entries[1], "", Wish(Work.RUN_AHEAD, 1 + 2), edge.now),
        Waiting(entries[2], "", Wish(Work.RUN_AHEAD, 1), edge.now),
    ]
    granted = [one.wish.positions - 1 for one in edge.gathering.worth(waiting, PassCost(0.03, 0.005))]
    assert granted == [theirs, least, 0]
    assert [one.wish.positions - 1 for one in edge.gathering.worth(waiting, PassCost(0.03))] == [theirs + 2, 2, 0]


def asks_to_wait(edge: Edge, device: Device) -> None:
    """Let a device ask the edge to wait for it, and draft."""
    entry = entry_of(device)
    entry.session.received(Report(device.epoch, waits=True))
    edge.traffic.drafts(device, [1, 2, 3, *[7] * 90], error=0.0)


async def test_a_step_of_devices_that_are_all_waited_for_is_gathered_as_an_edge_that_waits_does() -> None:
    edge = Edge(3)
    edge.waiting()
    for device in edge.devices:
        asks_to_wait(edge, device)
    waiting = edge.waiting()[:2]
    late = entry_of(edge.devices[2])
    late.answers.owed_since, late.answers.mean_s = edge.now, 0.4 * COST.fixed_s
    assert edge.gathering.waits(waiting, COST)
    assert not edge.gathering.joins(waiting[0].who)  # the next draft may be the one that is due
    edge.now += 0.4 * COST.fixed_s + 1e-6
    assert not edge.gathering.waits(waiting, COST)


async def test_in_a_mixed_step_those_that_go_ahead_decide_and_a_draft_is_held_no_longer_than_among_its_like() -> None:
    edge = Edge(4)
    edge.waiting()
    asks_to_wait(edge, edge.devices[0])
    waiting = edge.waiting()
    assert len(waiting) == 4
    edge.gives_lead(0.0)
    assert not edge.gathering.waits(waiting, COST)  # nobody that goes ahead has a lead
    edge.gives_lead(2.0)
    assert edge.gathering.waits(waiting, COST)
    edge.now += 0.49 * COST.fixed_s
    assert edge.gathering.waits(waiting, COST)
    edge.now += 0.02 * COST.fixed_s
    assert not edge.gathering.waits(waiting, COST)
    assert edge.gathering.waits(waiting[1:], COST)  # without it they may be held for longer


@pytest.mark.parametrize("thrifty", [False, True])
async def test_nobody_starves_where_some_are_waited_for_and_others_gone_ahead_of(thrifty: bool) -> None:
    traffic = Traffic(Scripted(), 4096, Random(4), run_ahead=True, gathers=True)  # type: ignore[arg-type]
    traffic.sessions.company.thrifty = thrifty
    writing = [traffic.arrives(Asked((1, 2, 3), Sampling(), 30)) for _ in range(6)]
    for device in writing[:3]:
        entry_of(device).session.received(Report(device.epoch, waits=True))
    ended: list[Device] = []
    async with asyncio.timeout(30):
        while len(ended) < 6:
            for device in writing:
                if device.entry is not None and not device.done and entry_of(device).session.live_nodes < 4:
                    traffic.drafts(device, [1, 2, 3, *[7] * 30], error=0.2)
            traffic.steps()
            traffic.now += 0.002
            ended += [device for device in writing if device.done and device not in ended]
            await asyncio.sleep(0)
    assert [device.answer for device in writing] == [[7] * 30] * 6


async def test_the_end_of_a_wait_asks_again_once() -> None:
    edge = Edge(4)
    waiting = edge.waiting()
    edge.gives_lead(0.03)  # waits for a millisecond or two
    assert edge.gathering.waits(waiting, COST)
    assert edge.gathering.waits(waiting, COST)  # an event asked: the first timer is void
    await edge.asks.wait()
    edge.gathering.end()
    assert edge.asked == 1


@pytest.mark.parametrize("devices", [1, 6])
async def test_texts_end_whatever_is_held_back(devices: int) -> None:
    traffic = Traffic(Scripted(), 4096, Random(2), run_ahead=True, gathers=True)  # type: ignore[arg-type]
    writing = [traffic.arrives(Asked((1, 2, 3), Sampling(), 30)) for _ in range(devices)]
    async with asyncio.timeout(30):
        while not all(device.done for device in writing):
            for device in writing:
                if device.entry is not None and entry_of(device).session.live_nodes < 16:
                    traffic.drafts(device, [1, 2, 3, *[7] * 30], error=0.2)
            traffic.steps()
            traffic.now += 0.002
            await asyncio.sleep(0)
    assert [device.answer for device in writing] == [[7] * 30] * devices


async def test_a_plain_step_is_a_pass_and_about_the_shortest_turn() -> None:
    edge = Edge(4)
    waiting = edge.waiting()
    edge.gives_lead(0.0)
    for turn_s in (0.002, 0.002, 0.002, 0.002, 0.002, 0.005, 0.005):
        assert not edge.gathering.waits(waiting, COST)
        edge.now += STEP_S + turn_s
        edge.gathering.stepped(STEP_S)
        edge.gives_lead(0.0)
    edge.gathering.counted(COST)
    assert edge.traffic.sessions.company.plain_s == pytest.approx(COST.seconds(4) + 0.002, abs=2e-4)
    assert not edge.gathering.waits([], COST)  # nothing to do
    edge.now += 10.0
    edge.gathering.stepped(STEP_S)  # what was idle is no turn
    edge.gathering.counted(COST)
    assert edge.traffic.sessions.company.plain_s == pytest.approx(COST.seconds(4) + 0.002, abs=2e-4)


async def test_a_session_that_thinks_better_of_a_step_is_left_out_of_it() -> None:
    traffic = Traffic(Scripted(), 4096, Random(3), run_ahead=True)  # type: ignore[arg-type]
    first, second = (traffic.arrives(Asked((1, 2, 3), Sampling(), 5)) for _ in range(2))
    session = entry_of(first).session
    session.next_pass = lambda positions=0: None  # type: ignore[method-assign]  # as a rule may that looks at the time
    for _ in range(10):
        traffic.steps()
    assert second.answer == [7] * 5
    del session.next_pass
    traffic.ends()
    assert first.answer == [7] * 5
