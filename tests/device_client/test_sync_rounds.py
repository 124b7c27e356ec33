"""Rounds of a device that waits: what is logged of them can be trained from, whatever became of the stream."""

from __future__ import annotations

import io

import pytest

from airdraft.core.paths import next_hash, root_hash
from airdraft.core.session import DeviceSession
from airdraft.core.types import Commit, Origin, Plan, Quote
from coordinator.policy.estimates import Drafted, Sample
from coordinator.policy.plan import OBJECTIVES
from coordinator.policy.plan import Plan as Weighed
from coordinator.policy.planner import Planner
from coordinator.policy.rounds import LONGEST
from coordinator.policy.train import row_of
from device_client.sync_rounds import SyncRounds
from tests.core.worlds import IDENTITY, make_device


def rounds(log: io.StringIO) -> SyncRounds:
    planner = Planner(OBJECTIVES["latency"], Weighed("split", 4, 4))
    planner.quoted(Quote(0.03, 0.0003))
    planner.sampled(Sample(0.0, 0.05, drafted=Drafted(4, 0.032)))
    return SyncRounds(planner, None, log)


def draft(made: SyncRounds, session: DeviceSession) -> tuple[int, ...]:
    work = session.draft_work()
    assert work is not None
    made.begins(session, work)
    tokens = tuple(range(10, 10 + work.count))
    session.drafted(work, tokens)
    return tokens


def commit(session: DeviceSession, ids: tuple[int, ...]) -> None:
    end = root_hash(IDENTITY)
    for token in (*session.ids, *ids):
        end = next_hash(end, token)
    base = len(session.ids)
    session.received(Commit(session.epoch, base, ids, base + len(ids), end, 1, (Origin.ACCEPTED,) * len(ids)))


@pytest.mark.parametrize("lost", [False, True])
def test_a_round_that_a_lost_stream_took_is_not_counted_twice(lost: bool) -> None:
    log = io.StringIO()
    made, session = rounds(log), make_device(draft_length=8, max_tokens=200)
    session.attach(1, with_prefix=True)
    tokens = draft(made, session)
    if lost:
        session.detached()
        made.lost()
        session.attach(2, with_prefix=True)  # sends the same drafts again
    commit(session, (*tokens, 1))
    made.answered(session)
    rows = [row_of(line) for line in log.getvalue().splitlines()]
    assert [row[-3] for row in rows] == ([] if lost else [8])


def test_frames_that_no_policy_would_draft_are_not_logged() -> None:
    log = io.StringIO()
    made, session = rounds(log), make_device(draft_length=LONGEST + 8, max_tokens=200)
    session.plan = Plan(LONGEST + 8)
    session.attach(1, with_prefix=True)
    commit(session, (*draft(made, session), 1))
    made.answered(session)
    assert not log.getvalue()
