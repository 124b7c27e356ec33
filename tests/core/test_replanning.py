"""A plan that changes in mid-text: what the device asks of the edge, what the edge does, and the same text."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from airdraft.core.session import Committed, DeviceSession, EdgeSession, RunAhead
from airdraft.core.types import Draft, Limits, Open, Opened, PassResult, Plan, Prefix, Quote, Report, Work
from airdraft.link.virtual_time import RowEngine, chained
from tests.core.worlds import alone, make_device, noisy_draft, pseudo_target

PROMPT = (1, 2, 3)
TOKENS = 60
PLANS = [
    Plan(0),
    Plan(0, own_draft=False),
    Plan(1, 64),
    Plan(1, 64, waits=True),
    Plan(5),
    Plan(5, waits=True, own_draft=False),
    Plan(3, 2),
]


def edge_of(opened: Open, *, runs_ahead: bool, own: int = 0) -> EdgeSession:
    rule = RunAhead(lambda: 0.0) if runs_ahead else None
    return EdgeSession(opened, Limits(4096, live_nodes=16), own_draft_tokens=own, run_ahead=rule)


@pytest.mark.parametrize("runs_ahead", [True, False])
@pytest.mark.parametrize("own", [0, 3])
@pytest.mark.parametrize("seed", range(12))
def test_the_text_is_the_same_whatever_is_planned_on_the_way(runs_ahead: bool, own: int, seed: int) -> None:
    """Frames, passes, drafts and plans in any order; when all have come to rest, the text is over."""
    chance = Random(seed)
    device = make_device(PROMPT, max_tokens=TOKENS, limits=Limits(4096, live_nodes=16))
    opened, *rest = device.attach(1, with_prefix=True)
    assert isinstance(opened, Open)
    edge = edge_of(opened, runs_ahead=runs_ahead, own=own)
    quote = Quote(0.03, 0.0003, runs_ahead)
    up, down = list(rest), [*edge.attach(opened)]
    draft, engine = noisy_draft(0.7), RowEngine(pseudo_target)
    told = (False, True)
    for _ in range(20_000):
        if device.ended:
            break
        step = chance.randrange(5)
        if step == 0 and up:
            frame: Any = up.pop(0)
            if isinstance(frame, Report):
                assert (frame.waits, frame.own_draft) != told, "nothing is told twice"
                told = frame.waits, frame.own_draft
            down += edge.received(frame)
        elif step == 1 and down:
            said = down.pop(0)
            if isinstance(said, Opened):
                said = replace(said, quote=quote)
            up += [output for output in device.received(said) if not isinstance(output, Committed)]
        elif step == 2:
            wish = edge.own_draft()
            if wish is not None:
                edge.own_drafted(wish, chained(draft, wish))
            work = edge.next_pass()
            if work is not None:
                assert not (edge.waits and work.work is Work.RUN_AHEAD)
                down += edge.finished_pass(work, PassResult(engine.extend(work.span)))
        elif step == 3:
            job = device.draft_work()
            if job is not None:
                up += device.drafted(job, chained(draft, job))
        elif chance.random() < 0.2:
            up += device.replan(chance.choice(PLANS))
    assert list(device.ids) == alone(PROMPT, TOKENS)


def opened_pair(
    *, runs_ahead: bool = True, plan: Plan | None = None
) -> tuple[DeviceSession, EdgeSession, list[object]]:
    device = make_device(PROMPT, max_tokens=TOKENS)
    if plan is not None:
        device.plan = plan
    opened, prefix, *rest = device.attach(1, with_prefix=True)
    assert isinstance(opened, Open)
    assert isinstance(prefix, Prefix)
    edge = edge_of(opened, runs_ahead=runs_ahead)
    edge.attach(opened)
    edge.received(prefix)
    return device, edge, list(rest)


def test_a_plan_that_asks_for_nothing_unusual_says_nothing() -> None:
    _, _, rest = opened_pair(plan=Plan(1, 64))
    assert not any(isinstance(frame, Report) for frame in rest)


def test_what_a_plan_asks_goes_up_with_the_attach_and_again_on_each_stream() -> None:
    device = make_device(PROMPT)
    device.plan = Plan(4, waits=True)
    for epoch in (1, 2):
        reports = [out for out in device.attach(epoch, with_prefix=True) if isinstance(out, Report)]
        assert reports == [Report(epoch, waits=True)]
        device.detached()


def test_an_edge_that_was_asked_to_wait_decodes_only_for_an_idle_device() -> None:
    _, edge, _ = opened_pair()
    engine = RowEngine(pseudo_target)

    def run() -> Work | None:
        work = edge.next_pass()
        if work is not None:
            edge.finished_pass(work, PassResult(engine.extend(work.span)))
        return None if work is None else work.work

    assert run() in (Work.PREFILL, Work.DECODE)
    while run() is Work.PREFILL:
        pass
    assert run() is Work.RUN_AHEAD
    edge.received(Report(1, waits=True))
    assert edge.waits
    assert run() is None
    length = len(PROMPT)
    edge.received(Draft(1, 1, length, length, bytes(8), idle=True))
    assert run() is Work.DECODE
    edge.received(Report(1))
    assert not edge.waits


def test_an_edge_that_never_goes_ahead_waits_whatever_is_asked() -> None:
    _, edge, _ = opened_pair(runs_ahead=False)
    edge.received(Report(1, waits=False))
    assert edge.waits


def test_a_new_attach_begins_without_wishes() -> None:
    device, edge, _ = opened_pair(plan=Plan(4, waits=True))
    edge.received(Report(1, waits=True, own_draft=False))
    opened = device.attach(2, with_prefix=True)[0]
    assert isinstance(opened, Open)
    edge.attach(opened)
    assert not edge.waits
