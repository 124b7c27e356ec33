"""Tokens that the edge holds back for a draft of them: when they go out, and when another wording replaces them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from airdraft.core.meaning import MeaningJudge
from airdraft.core.paths import ids_digest, next_hash, root_hash
from airdraft.core.session import EdgeSession, RunAhead
from airdraft.core.types import Commit, Draft, EdgeFrame, Limits, Open, Origin, Pass, Prefix, Report, Sampling, Work
from airdraft.link.virtual_time import RowEngine
from tests.core.semantic_worlds import ASKED, harm, judge, judged_result
from tests.core.worlds import IDENTITY, alone, pseudo_target

PROMPT = (1, 2, 3)
HOLD_S = 0.5

ACCEPTED, MEANING, RECOVERED = Origin.ACCEPTED, Origin.MEANING, Origin.RECOVERED
RUN_AHEAD, EDGE_DRAFT = Origin.RUN_AHEAD, Origin.EDGE_DRAFT


class Scene:
    """An edge that runs ahead and holds back; its first token is committed."""

    def __init__(
        self, *, stop_ids: tuple[int, ...] = (), max_tokens: int = 30, share: float = 0.5, own: int = 0,
        limits: Limits | None = None, hold_s: float = HOLD_S, strictness: float = 1.0,
    ) -> None:  # fmt: skip
        self.now, self.seq = 0.0, 0
        self.opened = Open(
            b"s" * 16, 1, IDENTITY, Sampling(), stop_ids, max_tokens, 3, 3, ids_digest(PROMPT), 0, semantic=ASKED
        )  # fmt: skip
        self.judge: MeaningJudge = judge(share, control_ids=frozenset({49}))
        self.judge._strictness = lambda: strictness
        self.edge = EdgeSession(
            self.opened,
            limits or Limits(4096),
            run_ahead=RunAhead(lambda: self.now),
            own_draft_tokens=own,
            judge=self.judge,
            clock=lambda: self.now,
        )
        self.engine = RowEngine(pseudo_target)
        self.edge.attach(self.opened)
        self.edge.received(Prefix(1, 0, PROMPT))
        assert self.edge.received(Report(1, provisional_s=hold_s)) == []
        work = self.edge.next_pass()
        assert work is not None
        (commit,) = self.edge.finished_pass(work, judged_result(self.engine, pseudo_target, work))
        assert isinstance(commit, Commit)
        assert commit.origins == (RUN_AHEAD,)  # the first token goes out in every mode

    @property
    def line(self) -> list[int]:
        """The committed text and what is held back."""
        return list(self.edge._state.line_from(0))

    def begin(self) -> Pass:
        work = self.edge.next_pass()
        assert work is not None
        return work

    def end(self, work: Pass) -> list[EdgeFrame]:
        return self.edge.finished_pass(work, judged_result(self.engine, pseudo_target, work))

    def passed(self, times: int = 1) -> list[EdgeFrame]:
        frames: list[EdgeFrame] = []
        for _ in range(times):
            frames += self.end(self.begin())
        return frames

    def drafts(self, ids: Sequence[int], after: Sequence[int] | None = None, *, idle: bool = False) -> list[EdgeFrame]:
        """A frame of the device under the path ``after``, the committed text where it is not given."""
        path = list(self.edge.ids if after is None else after)
        end = root_hash(IDENTITY)
        for token in path:
            end = next_hash(end, token)
        self.seq += 1
        acked = min(len(path), self.edge.committed_length)
        return self.edge.received(Draft(1, self.seq, acked, len(path), end, tuple(ids), idle=idle))

    def other(self, path: Sequence[int], *, harmless: bool, share: float = 0.5) -> int:
        """A token that is not the target's after a path, and is or is not let stand."""
        own = pseudo_target(path)
        return next(
            token for token in range(49) if token != own and (harm(path, token) < share) == harmless
        )  # fmt: skip


def said(frames: Sequence[EdgeFrame]) -> tuple[tuple[int, ...], tuple[Origin, ...]]:
    (commit,) = frames
    assert isinstance(commit, Commit)
    return commit.ids, commit.origins


def test_what_runs_ahead_is_decoded_and_not_committed() -> None:
    scene = Scene()
    assert scene.passed(3) == []
    assert scene.edge.committed_length == 4
    assert scene.line == alone(PROMPT, 4)
    assert scene.edge.kv_length == 6
    assert scene.edge.rows_in_place == 4  # no more than there are committed ids
    assert scene.edge.wakes_s == HOLD_S


def test_a_draft_that_says_the_same_commits_at_once_without_a_pass() -> None:
    scene = Scene()
    scene.passed(3)
    right = alone(PROMPT, 10)
    assert said(scene.drafts(right[4:6])) == (tuple(right[4:6]), (ACCEPTED, ACCEPTED))
    assert scene.edge.live_nodes == 0
    assert scene.edge.wakes_s == HOLD_S  # for the third
    assert said(scene.drafts(right[6:9], right[:6])) == ((right[6],), (ACCEPTED,))
    assert scene.edge.live_nodes == 2
    work = scene.begin()
    assert (work.base, work.span.start, work.nodes, work.work) == (7, 6, 2, Work.VERIFY)
    assert said(scene.end(work)) == ((right[7], right[8]), (ACCEPTED, ACCEPTED))
    assert scene.line == alone(PROMPT, 7)  # the bonus is held back


def test_a_draft_that_says_the_same_while_a_pass_is_lost_is_judged_once() -> None:
    scene = Scene()
    scene.passed(3)
    text, right = list(scene.edge.ids), scene.line[4:6]
    scene.drafts([scene.other(text, harmless=True)])
    lost = scene.begin()
    assert scene.drafts(right, text) == []  # the pass is about to tell
    scene.edge.lost_pass(lost)
    work = scene.begin()
    assert work.span.tokens[-work.nodes :].count(right[0]) == 1
    ids, origins = said(scene.end(work))
    assert (list(ids), origins) == (right, (ACCEPTED, ACCEPTED))
    assert scene.line == alone(PROMPT, 4)
    scene.passed(2)
    assert scene.line == alone(PROMPT, 6)  # its rows are in place


def test_a_harmless_wording_replaces_what_is_held_back() -> None:
    scene = Scene()
    scene.passed(3)
    text = list(scene.edge.ids)
    other = scene.other(text, harmless=True)
    after = pseudo_target([*text, other])
    assert scene.drafts([other, after]) == []
    assert scene.edge.wakes_s is None  # a pass tells, no deadline
    work = scene.begin()
    assert (work.base, work.span.start, work.nodes, work.own) == (4, 3, 5, 3)
    assert work.judged
    assert said(scene.end(work)) == ((other, after), (MEANING, ACCEPTED))
    assert scene.line[:6] == [*text, other, after]
    assert len(scene.line) == 7
    assert scene.judge.spent > 0
    scene.passed(2)
    assert scene.line == alone([*text, other, after], 3)  # its rows are in place


def test_a_harmful_wording_dies_and_all_that_is_held_back_goes_out_with_the_next() -> None:
    scene = Scene()
    scene.passed(3)
    right = alone(PROMPT, 8)
    scene.drafts([scene.other(right[:4], harmless=False), 5, 6])
    assert said(scene.passed()) == (tuple(right[4:8]), (RECOVERED, RUN_AHEAD, RUN_AHEAD, RUN_AHEAD))
    assert scene.edge.live_nodes == 0
    assert scene.judge.spent == 0
    scene.passed(2)
    assert scene.line == alone(PROMPT, 7)


def test_a_line_may_say_the_same_for_a_while_and_then_differ() -> None:
    scene = Scene()
    scene.passed(4)
    right = alone(PROMPT, 8)
    other = scene.other(right[:6], harmless=True)
    assert said(scene.drafts([*right[4:6], other])) == (tuple(right[4:6]), (ACCEPTED, ACCEPTED))
    work = scene.begin()
    assert (work.base, work.nodes, work.own) == (6, 3, 2)
    assert said(scene.end(work))[0] == (other,)


def test_a_device_with_nothing_on_its_way_gets_it_at_once() -> None:
    scene = Scene()
    scene.passed(2)
    right = alone(PROMPT, 6)
    assert said(scene.drafts([], idle=True)) == (tuple(right[4:6]), (RUN_AHEAD, RUN_AHEAD))
    work = scene.begin()
    assert work.work is Work.DECODE
    assert said(scene.end(work)) == (tuple(alone(PROMPT, 4)[6:7]), (RUN_AHEAD,))


def test_a_deadline_is_kept_token_by_token_pass_in_flight_or_not() -> None:
    scene = Scene()
    scene.passed()
    scene.now = 0.1
    scene.passed()
    right = alone(PROMPT, 6)
    scene.now = HOLD_S - 0.01
    assert scene.edge.due() == []
    work = scene.begin()
    scene.now = HOLD_S
    assert said(scene.edge.due()) == ((right[4],), (RUN_AHEAD,))
    assert scene.edge.wakes_s == pytest.approx(HOLD_S + 0.1)
    assert scene.edge.due() == []
    assert scene.end(work) == []
    assert scene.line == alone(PROMPT, 4)
    scene.now = HOLD_S + 0.1
    assert said(scene.edge.due())[0] == (right[5],)


def test_a_plan_that_holds_nothing_back_any_more_gets_it_at_once() -> None:
    scene = Scene()
    scene.passed(2)
    assert len(said(scene.edge.received(Report(1)))[0]) == 2
    assert said(scene.passed())[1] == (RUN_AHEAD,)


def test_a_draft_that_comes_while_a_pass_runs_counts_and_the_pass_does_too() -> None:
    scene = Scene()
    scene.passed(2)
    right = alone(PROMPT, 8)
    work = scene.begin()
    assert said(scene.drafts(right[4:7])) == (tuple(right[4:6]), (ACCEPTED, ACCEPTED))
    assert said(scene.end(work)) == ((right[6],), (ACCEPTED,))  # what it decoded the device had drafted already


def test_a_frame_that_comes_while_the_branch_is_judged_waits_for_the_verdict() -> None:
    scene = Scene()
    scene.passed(2)
    right = alone(PROMPT, 8)
    scene.drafts([scene.other(right[:4], harmless=False)])
    work = scene.begin()
    assert scene.drafts([right[4]], right[:4]) == []  # it says the same as the edge
    assert scene.drafts([], right[:4], idle=True) == []
    assert scene.edge.due() == []
    assert scene.edge.wakes_s is None  # nothing is due before the verdict
    assert said(scene.end(work)) == (tuple(right[4:7]), (RECOVERED, RUN_AHEAD, RUN_AHEAD))


def test_where_a_draft_may_not_stand_no_pass_is_spent_on_it() -> None:
    scene = Scene()
    scene.passed(2)
    assert said(scene.drafts([49])) == (tuple(alone(PROMPT, 3)[4:6]), (RECOVERED, RUN_AHEAD))  # a control token
    assert scene.edge.live_nodes == 0
    strict = Scene(strictness=0.0)
    assert said(strict.passed())[1] == (RUN_AHEAD,)  # nothing could come of holding it back


def test_a_stop_token_that_is_held_back_ends_the_text_only_once_it_is_committed() -> None:
    right = alone(PROMPT, 30)
    at = next(index for index in range(6, 30) if right[index] not in right[3:index])
    scene = Scene(stop_ids=(right[at],))
    assert scene.passed(at - 3) == []
    assert scene.edge.wish() is None  # nothing comes after it
    assert scene.edge.stop is None
    assert said(scene.drafts(right[4:at]))[0] == tuple(right[4:at])
    assert scene.edge.stop is None
    scene.now = HOLD_S
    (commit,) = scene.edge.due()
    assert isinstance(commit, Commit)
    assert commit.ids == (right[at],)
    assert commit.stop is scene.edge.stop is not None


def test_what_is_held_back_never_passes_the_most_tokens_and_the_last_one_is_the_targets() -> None:
    scene = Scene(max_tokens=3)
    assert scene.passed(2) == []
    assert scene.edge.wish() is None
    right = alone(PROMPT, 3)
    other = scene.other(right[:5], harmless=True)
    (commit,) = scene.drafts([right[4], other])
    assert isinstance(commit, Commit)
    assert (commit.ids, commit.origins) == (tuple(right[4:6]), (ACCEPTED, RECOVERED))
    assert commit.stop is not None


def test_it_runs_no_farther_than_it_may() -> None:
    scene = Scene(limits=Limits(4096, ahead_tokens=4))
    assert scene.passed(3) == []  # one is committed and not acked
    assert scene.edge.wish() is None
    right = alone(PROMPT, 10)
    assert said(scene.drafts([right[4]], right[:4]))[0] == (right[4],)
    assert scene.edge.wish() is not None  # the ack went along


def test_a_device_that_is_back_gets_what_was_held_back() -> None:
    scene = Scene()
    scene.passed(2)
    right = alone(PROMPT, 6)
    scene.edge.detached(1)
    again = Open(
        b"s" * 16, 2, IDENTITY, Sampling(), (), 30, 3, 4, ids_digest(right[:4]), None, semantic=ASKED
    )  # fmt: skip
    _, commit = scene.edge.attach(again)
    assert said([commit]) == (tuple(right[4:6]), (RUN_AHEAD, RUN_AHEAD))
    assert said(scene.passed())[0] == (pseudo_target(right[:6]),)  # nothing is held back until the plan asks again


def test_another_text_drops_what_was_held_back() -> None:
    scene = Scene()
    scene.passed(2)
    text = (*alone(PROMPT, 1), 7, 8)
    again = Open(b"s" * 16, 2, IDENTITY, Sampling(), (), 30, 3, 6, ids_digest(text), 0, semantic=ASKED)
    scene.edge.attach(again)
    scene.edge.received(Prefix(2, 0, text))
    assert scene.line == list(text)
    assert said(scene.passed())[0] == (pseudo_target(text),)


def test_rows_and_passes_that_are_lost_are_made_again() -> None:
    scene = Scene()
    scene.passed(3)
    scene.engine.rows.clear()
    scene.edge.evicted()
    work = scene.begin()
    assert work.span.start == 0
    scene.edge.lost_pass(work)
    assert scene.end(scene.begin()) == []
    assert scene.line == alone(PROMPT, 5)
    text = list(scene.edge.ids)
    other = scene.other(text, harmless=True)
    scene.drafts([other])
    scene.engine.rows.clear()
    scene.edge.evicted()
    work = scene.begin()
    scene.edge.lost_pass(work)
    assert said(scene.passed()) == ((other,), (MEANING,))
    scene.edge.evicted(ids_too=True)
    scene.engine.rows.clear()
    assert scene.edge.wish() is None
    scene.edge.received(Prefix(1, 0, (*text, other)))
    assert scene.passed() == []
    assert scene.line == alone([*text, other], 1)


def test_a_branch_without_room_beside_what_is_held_back_dies() -> None:
    scene = Scene()
    scene.passed(2)
    right = alone(PROMPT, 7)
    scene.drafts([scene.other(right[:4], harmless=True)])
    work = scene.edge.next_pass(1)
    assert work is not None
    assert work.nodes == 0
    assert said(scene.end(work)) == (tuple(right[4:7]), (RECOVERED, RUN_AHEAD, RUN_AHEAD))


@pytest.mark.parametrize("room", [2, 3, 4])
def test_a_branch_in_little_room_is_judged_all_the_same(room: int) -> None:
    for harmless in (True, False):
        scene = Scene()
        scene.passed(3)
        right = alone(PROMPT, 8)
        other = scene.other(right[:4], harmless=harmless)
        scene.drafts([other, 5])
        work = scene.edge.next_pass(room)
        assert work is not None
        assert len(work.span.tokens) == room
        ids, origins = said(scene.end(work))
        assert origins[0] is (MEANING if harmless else RECOVERED)
        assert harmless or list(ids) == right[4 : 4 + len(ids)]
        scene.passed(2)
        assert scene.line == alone(scene.line[:4], len(scene.line) - 4) or harmless


def test_what_the_edges_own_drafter_wrote_is_held_back_too() -> None:
    scene = Scene(own=3)
    assert scene.edge.next_pass() is None  # the pass waits for its drafter
    own = scene.edge.own_draft()
    assert own is not None
    scene.edge.own_drafted(own, alone(own.path, own.count)[len(own.path) :])
    assert scene.passed() == []
    kinds = scene.edge._state.provisional.origins
    assert kinds == (*(EDGE_DRAFT,) * own.count, RUN_AHEAD)
    scene.now = HOLD_S
    assert said(scene.edge.due())[1] == kinds


def test_a_session_whose_edge_does_not_run_ahead_holds_nothing_back() -> None:
    scene = Scene()
    edge = EdgeSession(scene.opened, Limits(4096), judge=judge(1.0), clock=lambda: 0.0)
    edge.attach(scene.opened)
    edge.received(Prefix(1, 0, PROMPT))
    edge.received(Report(1, provisional_s=1.0))
    engine = RowEngine(pseudo_target)
    for ids in ((), (pseudo_target(alone(PROMPT, 1)),)):
        if ids:
            end = root_hash(IDENTITY)
            for token in edge.ids:
                end = next_hash(end, token)
            edge.received(Draft(1, 1, 4, 4, end, ids))
        work = edge.next_pass()
        assert work is not None
        assert said(edge.finished_pass(work, judged_result(engine, pseudo_target, work)))[0]
    assert edge.committed_length == 6
