"""Steps of semantic sessions: what the engine is asked, what waits for states, and when audits may have the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import cast

import pytest

from airdraft.core.meaning import pack_rows
from airdraft.core.paths import ids_digest, next_hash, root_hash
from airdraft.core.types import (
    Commit,
    Draft,
    EdgeFrame,
    Evidence,
    Hidden,
    HiddenProtocol,
    Identity,
    Limits,
    NeedHidden,
    Open,
    Origin,
    Prefix,
    Report,
    Sampling,
    Semantic,
    StateKind,
)
from airdraft.wire.describe import Description
from edge_node.audits import Audits
from edge_node.engine_process import EngineDied
from edge_node.granting import Granting
from edge_node.kv_pool import KvPool
from edge_node.metrics import EdgeMetrics
from edge_node.sessions import Entry, SessionTable, Terms
from edge_node.step import DraftStep, Item, Outcome, Step, StepDone
from edge_node.stepping import Stepping, Then
from edge_node.streams import Stream
from tests.edge_node.traffic import Mailbox
from tests.heads import DRAFTER, TARGET, head_by_gap

IDENTITY = Identity(TARGET, b"k" * 32)
LIMITS = Limits(context_tokens=96)
PROMPT = (1, 2, 3, 4)
CHOICE = 7
STATES = 6


class Engine:
    """Chooses 7 everywhere; another drafted token is worse by a tenth of its id, in nats."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.held: list[tuple[Step, Then]] = []
        self.holds = False
        self.watch: Callable[[Step], None] = lambda step: None

    def submit(self, ask: Step | DraftStep, then: Then) -> None:
        assert isinstance(ask, Step)
        self.watch(ask)
        self.steps.append(ask)
        if self.holds:
            self.held.append((ask, then))
        else:
            asyncio.get_running_loop().call_soon(then, self._answer(ask))

    def release(self) -> None:
        self.holds = False
        for ask, then in self.held:
            then(self._answer(ask))
        self.held.clear()

    def _answer(self, step: Step) -> StepDone:
        outcomes = tuple(Outcome((CHOICE,) * len(item.span.wanted), evidence=_evidence(item)) for item in step.items)
        return StepDone(step.number, outcomes, positions=1, computed=1, pass_s=0.01)


def _evidence(item: Item) -> tuple[Evidence, ...]:
    if item.judged is None:
        return ()
    drafts = item.span.tokens[len(item.span.tokens) - item.judged.nodes :]
    gaps = {node: token / 10 for node, token in enumerate(drafts) if token != CHOICE}
    return tuple(Evidence(node, -0.1 - gap, -0.1, 1.0, -0.1, 1.0, -0.1, None, (gap,)) for node, gap in gaps.items())


class Edge:
    """An edge's front without gRPC, its engine at hand."""

    def __init__(self, *, states: bool = False, share: float = 0.0, rows: int = 1024, run_ahead: bool = False) -> None:
        self.metrics = EdgeMetrics("tiny")
        granting = Granting([head_by_gap(state_width=STATES if states else 0, gaps=(0.0, 40.0), risks=(0.001, 0.9))])
        granting.serves(Description("tiny", TARGET, b"k" * 32, (0,), 100, LIMITS, "fast"))
        self.audits = Audits(share, Random(3), self.metrics.meaning)
        terms = Terms(most=8, keep_s=60, run_ahead=run_ahead)
        self.sessions = SessionTable(terms, self.metrics, granting=granting, audits=self.audits)
        self.stepping = Stepping(self.sessions, 64, widen_s=0.0, gathers=False)
        self.engine = Engine()
        self.sessions.begin(KvPool(rows))
        self.stepping.begin(self.engine)

    def opens(self, semantic: Semantic | None, number: int = 0, max_tokens: int = 40) -> Caller:
        session_id = bytes([number]) * 16
        length, digest = len(PROMPT), ids_digest(PROMPT)
        opened = Open(
            session_id, 1, IDENTITY, Sampling(), (0,), max_tokens, length, length, digest, 0, semantic=semantic
        )
        entry = self.sessions.admit(opened, LIMITS, "")
        caller = Caller(self, entry)
        frames = self.sessions.attach(entry, opened)
        entry.streams[1] = cast(Stream, caller.mail)
        self.stepping.told(entry, frames)
        caller.says(Prefix(1, 0, PROMPT))
        return caller

    async def becomes(self, true: Callable[[], bool]) -> None:
        """Wait until something is so; it may take a timer of the front."""
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"airdraft:{name}", {"model_name": "tiny"} | labels)
        assert found is not None, name
        return found


class Caller:
    """A device that says what the test wants."""

    def __init__(self, edge: Edge, entry: Entry) -> None:
        self.edge, self.entry = edge, entry
        self.mail = Mailbox()
        self.ids: list[int] = list(PROMPT)
        self.origins: list[Origin] = []
        self.seq = 0
        self.read = 0

    def says(self, frame: Prefix | Draft | Hidden | Report) -> None:
        self.edge.stepping.told(self.entry, self.edge.sessions.received(self.entry, frame))
        self.edge.stepping.ready(self.entry)

    def drafts(self, *tokens: int) -> None:
        self.seq += 1
        self.says(Draft(1, self.seq, len(self.ids), len(self.ids), path_hash(self.ids), tokens))

    def idles(self) -> None:
        self.seq += 1
        self.says(Draft(1, self.seq, len(self.ids), len(self.ids), path_hash(self.ids), idle=True))

    async def until(self, kind: type[EdgeFrame]) -> EdgeFrame:
        """Wait for the next frame of a kind, and read all up to it."""
        async with asyncio.timeout(10):
            while True:
                for frame in self.mail.frames[self.read :]:
                    self.read += 1
                    if isinstance(frame, Commit):
                        assert frame.base == len(self.ids)
                        self.ids += frame.ids
                        self.origins += frame.origins
                    if isinstance(frame, kind):
                        return frame
                await asyncio.sleep(0)

    async def begun(self) -> Caller:
        """Wait for the first token."""
        await self.until(Commit)
        return self


def path_hash(ids: Sequence[int]) -> bytes:
    end = root_hash(IDENTITY)
    for token in ids:
        end = next_hash(end, token)
    return end


def asking(protocol: HiddenProtocol = HiddenProtocol.TARGET_ONLY) -> Semantic:
    return Semantic(0.02, "head", protocol, DRAFTER, STATES, StateKind.INT8)


async def test_only_sessions_that_were_granted_it_are_judged() -> None:
    edge = Edge()
    edge.engine.holds = True
    callers = [edge.opens(semantic, number) for number, semantic in enumerate((None, asking(), Semantic(0.02)))]
    while edge.engine.held:
        edge.engine.release()
        edge.engine.holds = True
        await asyncio.sleep(0)
    for caller in callers:
        await caller.begun()
    edge.engine.holds = False
    for caller in callers:
        caller.drafts(7, 5, 7)
    texts = []
    for caller in callers:
        await caller.until(Commit)
        texts.append(caller.ids[5:])
    assert texts == [[7, 7], [7, 5, 7, 7], [7, 7]]
    verified = [item for step in edge.engine.steps for item in step.items if len(item.span.wanted) > 1]
    assert [item.judged is not None for item in verified] == [False, True, False]
    assert verified[1].judged is not None
    assert (verified[1].judged.nodes, verified[1].judged.head, verified[1].judged.own) == (3, 0, 0)
    assert callers[1].origins[1:] == [Origin.ACCEPTED, Origin.MEANING, Origin.ACCEPTED, Origin.BONUS]
    assert edge.value("committed_tokens_total", origin="meaning") == 1
    assert edge.value("meaning_risk_total") == pytest.approx(0.001 + 0.899 * 0.5 / 40, rel=1e-3)


async def test_a_result_waits_for_its_states_and_is_committed_when_they_come() -> None:
    edge = Edge(states=True)
    caller = await edge.opens(asking(HiddenProtocol.MISMATCH_FIRST)).begun()
    caller.drafts(7, 5, 7)
    asked = await caller.until(NeedHidden)
    assert isinstance(asked, NeedHidden)
    assert asked.hashes == (path_hash([*caller.ids, 7, 5]),)
    passes = len(edge.engine.steps)
    caller.drafts(7)  # nothing else is verified meanwhile
    await asyncio.sleep(0.02)
    assert len(edge.engine.steps) == passes
    caller.says(Hidden(1, asked.hashes, pack_rows([[1.0] * STATES], StateKind.INT8)))
    await caller.until(Commit)
    assert caller.ids[5:9] == [7, 5, 7, 7]
    assert edge.value("hidden_waits_total") == edge.value("hidden_wait_nodes_total") == 1
    assert edge.value("hidden_waits_late_total") == 0
    assert edge.value("spec_decode_num_accepted_tokens_total") == 3
    assert edge.value("spec_decode_num_drafts_total") == 1


async def test_states_that_do_not_come_are_waited_for_no_longer_than_they_may_though_the_engine_is_busy() -> None:
    edge = Edge(states=True)
    caller = await edge.opens(asking(HiddenProtocol.MISMATCH_FIRST)).begun()
    caller.drafts(7, 5, 7)
    await caller.until(NeedHidden)
    edge.engine.holds = True
    edge.opens(None, 1)
    await caller.until(Commit)
    assert edge.engine.held
    assert caller.ids[5:] == [7, 7]
    assert edge.value("hidden_waits_late_total") == 1
    assert edge.value("committed_tokens_total", origin="meaning") == 0


async def test_a_device_that_leaves_while_its_result_waits_finds_the_strict_one() -> None:
    edge = Edge(states=True)
    caller = await edge.opens(asking(HiddenProtocol.MISMATCH_FIRST)).begun()
    caller.drafts(7, 5, 7)
    await caller.until(NeedHidden)
    caller.entry.session.detached(1)
    edge.stepping.left(caller.entry)
    assert list(caller.entry.session.ids[5:]) == [7, 7]
    assert caller.entry.held is None


async def test_tokens_held_back_are_sent_when_their_time_has_come() -> None:
    edge = Edge(run_ahead=True)
    caller = await edge.opens(asking()).begun()
    caller.says(Report(1, provisional_s=0.05))
    first = len(caller.ids)
    began = asyncio.get_running_loop().time()
    caller.drafts(7)
    await caller.until(Commit)
    while not caller.origins.count(Origin.RUN_AHEAD) > 1:
        await caller.until(Commit)
    assert asyncio.get_running_loop().time() - began >= 0.05
    assert caller.ids[first:] == [7] * (len(caller.ids) - first)


async def test_audits_have_the_engine_only_while_nobody_has_work_for_it() -> None:
    edge = Edge(share=1.0)
    theirs: list[bool] = []

    def watch(step: Step) -> None:
        own = {(extent.first, extent.rows) for extent in map(edge.sessions.pool.extent_of, edge.sessions)}
        audited = [(item.extent.first, item.extent.rows) not in own for item in step.items]
        assert all(audited) or not any(audited)
        theirs.append(all(audited))
        if all(audited):
            assert all(entry.session.wish() is None for entry in edge.sessions)

    edge.engine.watch = watch
    callers = [await edge.opens(asking(), number).begun() for number in range(2)]
    for _ in range(4):
        for caller in callers:
            caller.drafts(7, 5, 7)
        for caller in callers:
            await caller.until(Commit)
    await edge.becomes(lambda: not len(edge.audits))
    assert True in theirs
    outcomes = ("harmless", "harmful", "undecided", "dropped")
    assert sum(edge.value("semantic_audits_total", outcome=outcome) for outcome in outcomes) == 8
    assert edge.sessions.pool.reserved_rows == sum(edge.sessions.pool.extent_of(one).rows for one in edge.sessions)


async def test_an_audit_does_not_begin_where_a_draft_is_about_to_come() -> None:
    edge = Edge(share=1.0)
    caller = await edge.opens(asking()).begun()
    caller.entry.answers.mean_s = 0.2
    caller.drafts(7, 5, 7)
    await caller.until(Commit)
    caller.entry.answers.mean_s, caller.entry.answers.deviation_s = 0.004, 0.0  # a pass takes 0.01
    edge.stepping.ready(caller.entry)
    passes = len(edge.engine.steps)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(edge.engine.steps) == passes
    await edge.becomes(lambda: not len(edge.audits))  # it did not come


async def test_a_session_gets_the_rows_that_audits_have() -> None:
    edge = Edge(share=1.0, rows=320)
    caller = await edge.opens(asking(), max_tokens=28).begun()
    caller.drafts(7, 5, 7)
    await caller.until(Commit)
    edge.engine.holds = True
    await edge.becomes(lambda: bool(edge.engine.held))
    assert edge.sessions.pool.reserved_rows > 128
    other = edge.opens(None, 1, max_tokens=80)
    edge.engine.release()
    await other.begun()
    assert edge.value("evictions_total") == 0


async def test_a_session_gets_the_rows_that_the_audits_of_a_step_at_work_lie_between() -> None:
    edge = Edge(share=1.0, rows=320)
    caller = await edge.opens(asking(), max_tokens=28).begun()
    caller.drafts(7, 5, 7)
    await caller.until(Commit)
    edge.engine.holds = True
    await edge.becomes(lambda: bool(edge.engine.held))
    edge.sessions.forget(caller.entry)  # rows are free on either side, and neither side has enough of them
    assert edge.sessions.pool.free_rows >= 192
    other = edge.opens(None, 1, max_tokens=92)
    edge.engine.release()
    await other.begun()


@pytest.mark.parametrize("asking_fails", [True, False])
async def test_a_bug_in_audits_costs_no_session(asking_fails: bool) -> None:
    edge = Edge(share=1.0)

    def watch(step: Step) -> None:
        own = [edge.sessions.pool.extent_of(entry) for entry in edge.sessions]
        if asking_fails and any(item.extent not in own for item in step.items):
            raise RuntimeError("an audit cannot be asked for")

    def unreadable(own: Sequence[int], other: Sequence[int]) -> bool | None:
        raise RuntimeError("an answer cannot be read")

    edge.engine.watch, edge.audits.same = watch, lambda key: unreadable
    caller = await edge.opens(asking()).begun()
    for _ in range(3):
        caller.drafts(7, 5, 7)
        await caller.until(Commit)
        await edge.becomes(lambda: not len(edge.audits))
    assert edge.value("semantic_audits_total", outcome="dropped") == 3
    assert edge.sessions.pool.reserved_rows == edge.sessions.pool.extent_of(caller.entry).rows


async def test_an_engine_that_dies_of_an_audit_costs_no_session() -> None:
    edge = Edge(share=1.0)
    caller = await edge.opens(asking()).begun()
    caller.drafts(7, 5, 7)
    await caller.until(Commit)
    edge.engine.holds = True
    await edge.becomes(lambda: bool(edge.engine.held))
    ((_, then),) = edge.engine.held
    edge.engine.held.clear()
    then(EngineDied("killed"))
    edge.engine.holds = False
    edge.sessions.begin(KvPool(1024))
    edge.stepping.begin(edge.engine)
    caller.drafts(7)
    await caller.until(Commit)
    assert edge.value("semantic_audits_total", outcome="dropped") == 1
    assert not caller.entry.suspect
