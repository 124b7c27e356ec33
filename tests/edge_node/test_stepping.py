"""What must not leave a device waiting, or a session behind: rare turns of the front, one at a time."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from airdraft.core.errors import MalformedFrame
from airdraft.core.paths import ids_digest
from airdraft.core.types import Open, Prefix, Sampling
from edge_node.engine_process import EngineDied
from edge_node.kv_pool import KvPool
from edge_node.step import Drafted, DraftStep, Outcome, Step, StepDone
from tests.edge_node.traffic import IDENTITY, Asked, Traffic

ASKED = Asked((1, 2, 3, 4), Sampling(), 40)


class Scripted:
    """A step runner that says 7 for every wanted row, or what it is told to."""

    def __init__(self) -> None:
        self.failure = ""

    def run(self, step: Step) -> StepDone:
        outcomes = tuple(
            Outcome(failure=self.failure) if self.failure else Outcome((7,) * len(item.span.wanted))
            for item in step.items
        )
        return StepDone(step.number, outcomes, positions=1, computed=1, pass_s=0.03)

    def draft(self, step: DraftStep) -> Drafted:
        return Drafted(step.number, tuple((7,) * item.count for item in step.items))


def traffic(rows: int = 1024, own_draft_tokens: int = 0) -> tuple[Traffic, Scripted]:
    runner = Scripted()
    return Traffic(runner, rows, Random(1), own_draft_tokens=own_draft_tokens), runner  # type: ignore[arg-type]


def test_a_pass_that_fails_ends_the_stream_that_came_while_it_ran() -> None:
    edge, runner = traffic()
    device = edge.arrives(ASKED)
    old = device.mail
    assert edge.attaches(device)  # the first stream is superseded while its pass is at work
    runner.failure = "broken"
    edge.steps()
    assert edge.failed == ["broken"]
    assert device.done
    assert old is not device.mail


def test_an_attach_that_proves_wrong_after_it_took_effect_leaves_nothing_behind() -> None:
    edge, _ = traffic()
    ids = [*ASKED.prompt, 9, 5]
    opened = Open(b"s" * 16, 1, IDENTITY, Sampling(), (9,), 40, 4, len(ids), ids_digest(ids), 0)
    for epoch in (1, 2, 3):
        attach = replace(opened, epoch=epoch)
        entry = edge.sessions.admit(attach, edge._limits, "")
        try:
            edge.sessions.attach(entry, attach)
            with pytest.raises(MalformedFrame, match="stop id"):
                edge.sessions.received(entry, Prefix(epoch, 0, tuple(ids)))
            entry.session.detached(epoch)
        except MalformedFrame:
            pass
        assert edge.sessions.attached == 0
    edge.now += 1e10
    edge.sessions.sweep()
    assert len(edge.sessions) == 0
    assert edge.sessions.pool.reserved_rows == 0


def test_a_smaller_pool_after_a_crash_sends_away_who_finds_no_room() -> None:
    edge, _ = traffic()
    devices = [edge.arrives(ASKED) for _ in range(3)]
    edge.steps()
    edge.engine.die()
    edge.stepping.stop()
    edge.sessions.begin(KvPool(128))
    edge.stepping.begin(edge.engine)
    edge.steps()
    assert sum("memory of this edge is in use" in device.mail.ended for device in devices) == 2
    assert sum(device.entry is not None for device in devices) == 1


def test_a_draft_that_kills_the_engine_is_not_asked_for_again() -> None:
    edge, _ = traffic(own_draft_tokens=4)
    device = edge.arrives(ASKED)
    edge.idles(device)
    for _ in range(20):
        if edge.engine.asked is not None and isinstance(edge.engine.asked[0], DraftStep):
            (_, then), edge.engine.asked = edge.engine.asked, None
            then(EngineDied("killed"))
            break
        edge.steps()
    else:
        raise AssertionError("the edge never drafted")
    edge.sessions.begin(KvPool(1024))
    edge.stepping.begin(edge.engine)
    for _ in range(80):
        assert edge.engine.asked is None or isinstance(edge.engine.asked[0], Step)
        edge.steps()
        if device.done:
            break
        edge.idles(device)
    assert len(device.answer) == ASKED.max_tokens


def test_a_talkative_device_keeps_its_place_in_the_queue_and_no_more() -> None:
    edge, _ = traffic()
    quiet, busy = edge.arrives(ASKED), edge.arrives(ASKED)
    assert busy.entry is not None
    since = busy.entry.ready_at
    for _ in range(5):
        edge.idles(busy)
    assert busy.entry.ready_at == since
    assert quiet.entry is not None


def test_an_engine_that_cannot_be_asked_does_not_stop_the_edge() -> None:
    edge, _ = traffic()
    submit, calls = edge.engine.submit, []

    def refuses(ask: Step | DraftStep, then: object) -> None:
        calls.append(ask)
        if len(calls) == 1:
            raise ValueError("cannot be written down")
        submit(ask, then)  # type: ignore[arg-type]

    edge.engine.submit = refuses  # type: ignore[method-assign]
    device = edge.arrives(ASKED)
    edge.ends()
    assert len(device.answer) == ASKED.max_tokens
