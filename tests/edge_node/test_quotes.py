"""A session is told what holds for it, when it attaches and when that has changed, and no more often than is of use."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import cast

import pytest

from airdraft.core.errors import Overloaded
from airdraft.core.types import Commit, Opened, Quote, Report, Sampling
from coordinator.policy.costs import PassCost
from edge_node.engine.runner import StepRunner
from edge_node.quotes import TELL_S
from edge_node.sessions import Entry
from edge_node.step import Step, StepDone
from edge_node.stepping import Stepping
from tests.edge_node.test_stepping import Scripted
from tests.edge_node.traffic import Asked, Device, Traffic

ASKED = Asked((1, 2, 3, 4), Sampling(), 180)
STEP_S = 0.03


class Paced(Scripted):
    """A step runner whose steps have the positions that they were asked for."""

    def run(self, step: Step) -> StepDone:
        positions = sum(len(item.span.tokens) for item in step.items)
        done = super().run(step)
        return StepDone(step.number, done.outcomes, positions, positions, STEP_S + 0.0002 * positions)


def traffic(*, own_draft_tokens: int = 0) -> Traffic:
    runner = cast("StepRunner", Paced())
    return Traffic(runner, 1 << 14, Random(1), run_ahead=True, own_draft_tokens=own_draft_tokens)


def steps(edge: Traffic, count: int) -> list[Quote]:
    """Let steps follow one another without a pause; return the quotes that the first device was told in commits."""
    told: list[Quote] = []
    for _ in range(count):
        edge.now += STEP_S
        edge.engine.finish()
        told += [frame.quote for frame in edge.devices[0].mail.frames if isinstance(frame, Commit) and frame.quote]
        for device in edge.devices:
            edge.reads(device)
            if device.entry is not None and len(device.ids) % 20 == 0:
                edge.idles(device)  # an ack
    return told


def entry_of(device: Device) -> Entry:
    assert device.entry is not None
    return device.entry


def told_at_attach(edge: Traffic, device: Device) -> Quote:
    """Attach as the service does; return the quote of what is sent."""
    opened = Opened(device.epoch, 0, 4, edge._limits)
    (frame,) = edge.stepping.quotes.told(entry_of(device), [opened])
    assert isinstance(frame, Opened)
    assert frame.quote is not None
    return frame.quote


def test_a_session_is_told_of_company_and_when_it_is_gone() -> None:
    edge = traffic()
    first = edge.arrives(ASKED)
    alone = told_at_attach(edge, first)
    assert (alone.edge_second_price, alone.step_sessions, alone.runs_ahead) == (1, 0, True)
    (known,) = steps(edge, 12)[-1:]
    assert known.fixed_s == pytest.approx(STEP_S + 0.0002, rel=0.05)
    assert (known.step_sessions, known.step_positions, known.edge_second_price) == (1, 1, 1)
    for _ in range(5):
        edge.arrives(ASKED)
    crowded = steps(edge, 150)
    assert 2 <= len(crowded) <= 150 * STEP_S / TELL_S + 1
    assert crowded[-1].edge_second_price == pytest.approx(6, rel=0.2)
    assert crowded[-1].step_sessions == pytest.approx(6, rel=0.2)
    assert crowded[-1].step_positions == pytest.approx(6, rel=0.2)
    assert steps(edge, 1) == []


def test_a_session_that_was_alone_in_its_steps_is_told_of_those_who_might_share_them() -> None:
    """Where all devices are waited for steps have one session each; they need not."""
    edge = traffic()
    first = edge.arrives(ASKED)
    told_at_attach(edge, first)
    steps(edge, 12)
    edge.stepping.quotes.writing = lambda: 5
    quote = edge.stepping.quotes.of(entry_of(first))
    assert (quote.step_sessions, quote.step_positions) == (5, 5)


def test_a_steady_load_is_told_once() -> None:
    edge = traffic()
    device = edge.arrives(ASKED)
    told_at_attach(edge, device)
    assert len(steps(edge, 80)) <= 2  # what a pass costs is not known before the first one


def test_a_session_that_nobody_told_of_a_quote_hears_of_none() -> None:
    edge = traffic()
    edge.arrives(ASKED)
    assert steps(edge, 40) == []


def test_a_new_stream_is_told_anew() -> None:
    edge = traffic()
    device = edge.arrives(ASKED)
    told_at_attach(edge, device)
    assert entry_of(device).told is not None
    edge.attaches(device)
    assert entry_of(device).told is None


def test_the_edges_own_drafter_is_quoted_as_it_adapts() -> None:
    edge = traffic(own_draft_tokens=4)
    device = edge.arrives(ASKED)
    edge.stepping._line.add(1, STEP_S)
    assert told_at_attach(edge, device).own_draft_tokens == 4
    entry = entry_of(device)
    entry.own_length.saw(8, 8)
    entry.own_length.best(PassCost(STEP_S), 0.001)
    edge.stepping.quotes.draft_s = 0.001
    quote = edge.stepping.quotes.of(entry)
    assert quote.own_draft_tokens == 4
    assert quote.own_acceptance == entry.own_length.acceptance > 0.5
    assert quote.own_draft_s == 0.001
    for _ in range(20):
        entry.own_length.saw(4, 0)
    for _ in range(100):
        entry.own_length.best(PassCost(STEP_S), 0.03)
        quote = edge.stepping.quotes.of(entry)
        assert (quote.own_draft_tokens, quote.own_draft_s, quote.own_acceptance) == (0, 0, 0)  # a try is no offer


def test_whoever_asks_without_a_session_hears_what_the_next_one_gets() -> None:
    edge = traffic(own_draft_tokens=3)
    quote = edge.stepping.quotes.of()
    assert quote == replace(Quote(), runs_ahead=True, edge_second_price=1.0, own_draft_tokens=3)


def test_own_drafts_grow_shorter_with_the_load() -> None:
    """Where a position costs a fifth of a pass, what pays for one session does not for eight that share a step."""

    def shared(stepping: Stepping, sessions: int) -> int:
        stepping.quotes.load.stepped(stepping._clock() + 1e6 * sessions, sessions, sessions)
        device = entry_of(edge.devices[0])
        for _ in range(30):
            device.own_length.saw(4, 2)
        stepping.quotes.stepped([], stepping.cost)
        cost = stepping.quotes.shared_cost
        device.own_length.best(cost, 0.0)
        return device.own_length.worth

    edge = traffic(own_draft_tokens=4)
    edge.arrives(ASKED)
    assert edge.stepping.quotes.shared_cost is None
    for positions in (1, 5, 1, 5, 1, 5):
        edge.stepping._line.add(positions, 0.043 + 0.0076 * (positions - 1))
    lengths = [shared(edge.stepping, sessions) for sessions in (1, 4, 64)]
    assert lengths[0] > lengths[1] > lengths[2] == 0


# ---- places ----


def test_a_session_that_is_held_is_taken_back_whoever_waits() -> None:
    edge = traffic()
    edge.sessions.terms = replace(edge.sessions.terms, most=2)
    first, second = edge.arrives(ASKED), edge.arrives(ASKED)
    third = edge.arrives(ASKED)
    assert third.entry is None
    edge.leaves(first)
    edge.sessions.places_changed()
    assert edge.attaches(first)
    assert not edge.attaches(third)
    assert second.entry is not None


def test_a_newcomer_waits_behind_one_that_was_refused_and_a_place_is_told() -> None:
    edge = traffic()
    edge.sessions.terms = replace(edge.sessions.terms, most=1)
    first = edge.arrives(ASKED)
    edge.now += 4.0
    second = edge.arrives(ASKED)
    edge.cancels(first)
    edge.sessions.places_changed()
    third = edge.arrives(ASKED)
    assert third.entry is None
    assert edge.attaches(second)
    assert not edge.attaches(third)


def test_an_edge_admits_as_many_as_get_the_rate_that_is_promised() -> None:
    edge = traffic()
    edge.sessions.terms = replace(edge.sessions.terms, least_rate=1 / (STEP_S + 0.0012))
    for positions in (1, 8) * 20:
        edge.stepping._line.add(positions, STEP_S + 0.0002 * positions)
    admitted = [edge.arrives(ASKED).entry is not None for _ in range(8)]
    assert admitted == [True] * 6 + [False] * 2


def test_a_refusal_says_when_and_metrics_count_who_waits() -> None:
    edge = traffic()
    edge.sessions.terms = replace(edge.sessions.terms, most=1)
    edge.arrives(ASKED)
    refused = edge.arrives(ASKED)
    value = edge.metrics.registry.get_sample_value
    assert value("airdraft:admission_waiting", {"model_name": "tiny"}) == 1
    edge.now += 1000.0
    with pytest.raises(Overloaded) as error:
        edge.sessions.admission.claim(("", refused.session_id), 0, {})
    assert error.value.retry_after_s == 30.0
    assert value("airdraft:edge_second_price", {"model_name": "tiny"}) == pytest.approx(1, abs=0.01)


def test_waiting_devices_are_part_of_the_price() -> None:
    edge = traffic()
    edge.sessions.terms = replace(edge.sessions.terms, most=1)
    device = edge.arrives(ASKED)
    waiting = [edge.arrives(ASKED) for _ in range(3)]
    for _ in range(4):
        steps(edge, 30)
        assert not any(edge.attaches(other) for other in waiting)
    assert edge.stepping.quotes.of(entry_of(device)).edge_second_price == pytest.approx(1 + 3, rel=0.1)


def test_a_device_that_is_waited_for_is_not_gone_ahead_of() -> None:
    edge = traffic()
    device = edge.arrives(ASKED)
    steps(edge, 3)
    before = len(device.ids)
    entry_of(device).session.received(Report(device.epoch, waits=True))
    steps(edge, 10)
    assert len(device.ids) <= before + 1
    assert entry_of(device).session.waits
