"""What an edge does with the drafter's states: those that come along, and those that it asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from airdraft.core.errors import MalformedFrame
from airdraft.core.meaning import RULES, HeadTail, MeaningJudge, RiskTable, pack_rows
from airdraft.core.paths import ids_digest, next_hash, root_hash
from airdraft.core.session import EdgeSession, RunAhead
from airdraft.core.session.judging import HIDDEN_WAIT_S
from airdraft.core.session.passes import Verified
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Evidence,
    Finish,
    Granted,
    Hidden,
    HiddenProtocol,
    Limits,
    NeedHidden,
    Open,
    Origin,
    Pass,
    PassResult,
    Prefix,
    Report,
    Sampling,
    Semantic,
    StateKind,
    StateRows,
)
from airdraft.link.virtual_time import RowEngine
from tests.core.worlds import IDENTITY, pseudo_target

PROMPT = (1, 2, 3)
WIDTH = 2
# Its risk is the first number of the drafter's state.
TAIL = HeadTail(
    "states",
    "draft+target",
    np.zeros(1, np.float32),
    np.ones(1, np.float32),
    0.0,
    np.array([0.0, 1.0]),
    np.array([0.0, 1.0]),
    RiskTable(np.array([0.1]), np.array([0.01]), np.zeros(1)),
    draft=np.array([[1.0, 0.0]], np.float32),
)
GOOD, BAD = 0.05, 0.9


def hashes(path: Sequence[int]) -> list[bytes]:
    """The path hash after each token of a path."""
    found, end = [], root_hash(IDENTITY)
    for token in path:
        end = next_hash(end, token)
        found.append(end)
    return found


def rows(risks: Sequence[float]) -> bytes:
    return pack_rows(np.array([[risk, 1.0] for risk in risks]).reshape(-1, WIDTH), StateKind.INT8)


class Scene:
    """An edge whose device has drafted a line, and an engine whose head has partials of 0."""

    def __init__(self, protocol: HiddenProtocol, *, ahead: bool = False) -> None:
        self.now = 0.0
        asked = Semantic(0.01, "head", protocol, b"d" * 32, WIDTH, StateKind.INT8)
        self.judge = MeaningJudge(Granted(0.01, "head", protocol), RULES["head"], TAIL, vocabulary=50)
        self.opened = Open(
            b"s" * 16, 1, IDENTITY, Sampling(), (), 40, 3, 3, ids_digest(PROMPT), 0, semantic=asked
        )  # fmt: skip
        run_ahead = RunAhead(lambda: self.now) if ahead else None
        self.edge = EdgeSession(
            self.opened, Limits(4096), run_ahead=run_ahead, judge=self.judge, clock=lambda: self.now
        )  # fmt: skip
        self.engine = RowEngine(pseudo_target)
        self.edge.attach(self.opened)
        self.edge.received(Prefix(1, 0, PROMPT))
        (commit,) = self.passed()
        assert isinstance(commit, Commit)
        self.text = [*PROMPT, *commit.ids]

    def line(self, *right: bool) -> list[int]:
        """Tokens after the text, each the target's own or one beside it."""
        path = list(self.text)
        for one in right:
            token = pseudo_target(path)
            path.append(token if one else (token + 1) % 50)
        return path[len(self.text) :]

    def drafts(self, ids: Sequence[int], states: StateRows | None = None) -> list[EdgeFrame]:
        base = len(self.text)
        return self.edge.received(Draft(1, 1, base, base, hashes(self.text)[-1], tuple(ids), states=states))

    def run(self) -> tuple[Pass, PassResult]:
        work = self.edge.next_pass()
        assert work is not None
        choices = self.engine.extend(work.span)
        ids = work.span.tokens[len(work.span.tokens) - work.nodes :]
        verified = Verified.of(work, choices)
        wrong = [node for node in range(verified.theirs) if ids[node] != verified.choices[verified.parents[node]]]
        told = tuple(Evidence(node, -1.0, -0.5, 1.0, -0.5, 1.0, -0.5, partial=(0.0,)) for node in wrong)
        return work, PassResult(choices, evidence=told if work.judged else ())

    def passed(self) -> list[EdgeFrame]:
        return self.edge.finished_pass(*self.run())

    def asks(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """Draft a line; return what the edge asks for."""
        assert self.drafts(ids) == []
        (need,) = self.passed()
        assert isinstance(need, NeedHidden)
        return need.hashes


def origins(frames: Sequence[EdgeFrame]) -> tuple[Origin, ...]:
    (commit,) = frames
    assert isinstance(commit, Commit)
    return commit.origins


ACCEPTED, MEANING, RECOVERED, BONUS = Origin.ACCEPTED, Origin.MEANING, Origin.RECOVERED, Origin.BONUS


def test_states_that_come_along_are_judged_with_their_token() -> None:
    for risks, expected in (
        ((GOOD, GOOD, GOOD, GOOD), (ACCEPTED, MEANING, ACCEPTED, MEANING, BONUS)),
        ((BAD, GOOD, BAD, BAD), (ACCEPTED, MEANING, ACCEPTED, RECOVERED)),
        ((GOOD, BAD, GOOD, GOOD), (ACCEPTED, RECOVERED)),
    ):
        scene = Scene(HiddenProtocol.FULL_HIDDEN)
        scene.drafts(scene.line(True, False, True, False), StateRows((0, 1, 2, 3), rows(risks)))
        assert origins(scene.passed()) == expected
        assert scene.judge.spent == pytest.approx(1 - (1 - GOOD) ** expected.count(MEANING), rel=0.1)


def test_a_token_whose_state_did_not_come_is_strict() -> None:
    scene = Scene(HiddenProtocol.MARGIN_FIRST)
    scene.drafts(scene.line(False, False), StateRows((0,), rows([GOOD])))
    assert origins(scene.passed()) == (MEANING, RECOVERED)


def test_the_edge_asks_for_the_mismatches_that_the_walk_may_come_to_and_waits() -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    ids = scene.line(True, False, True, False, True)
    path_hashes = hashes([*scene.text, *ids])[len(scene.text) :]
    assert scene.asks(ids) == (path_hashes[1], path_hashes[3])
    assert scene.edge.wish() is None  # no other pass runs while it waits
    assert scene.edge.wakes_s == HIDDEN_WAIT_S
    assert scene.edge.due() == []
    frames = scene.edge.received(Hidden(1, (path_hashes[1], path_hashes[3]), rows([GOOD, BAD])))
    assert origins(frames) == (ACCEPTED, MEANING, ACCEPTED, RECOVERED)
    assert scene.edge.wakes_s is None
    swaps = scene.edge.take_swaps()
    assert [(swap.position, swap.drafted, swap.stood) for swap in swaps] == [(5, ids[1], True)]
    assert scene.edge.take_swaps() == ()


@pytest.mark.parametrize(("risk", "expected"), [(GOOD, (MEANING, ACCEPTED)), (BAD, (RECOVERED, Origin.RUN_AHEAD))])
def test_it_asks_for_a_wording_that_differs_from_what_is_held_back(risk: float, expected: tuple[Origin, ...]) -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST, ahead=True)
    scene.edge.received(Report(1, provisional_s=10.0))
    assert scene.passed() == []  # the target's own choice, held back
    ids = scene.line(False, True)
    (asked,) = scene.asks(ids)
    assert asked == hashes([*scene.text, ids[0]])[-1]
    assert origins(scene.edge.received(Hidden(1, (asked,), rows([risk])))) == expected


def test_nothing_is_asked_for_where_no_mismatch_may_stand() -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    scene.drafts(scene.line(True, True))
    assert origins(scene.passed()) == (ACCEPTED, ACCEPTED, BONUS)
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    wrong = scene.line(False)
    scene.judge._control_ids = frozenset(wrong)
    scene.drafts(wrong)
    assert origins(scene.passed()) == (RECOVERED,)


def test_past_the_deadline_it_decides_strictly_and_drops_what_comes_late() -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    ids = scene.line(True, False, True)
    (asked,) = scene.asks(ids)
    scene.now = HIDDEN_WAIT_S
    frames = scene.edge.due()
    assert origins(frames) == (ACCEPTED, RECOVERED)
    assert scene.edge.due() == []
    assert scene.edge.received(Hidden(1, (asked,), rows([GOOD]))) == []


def test_an_answer_that_leaves_a_node_out_decides_it_strictly() -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    first, _ = scene.asks(scene.line(False, False, True))
    assert origins(scene.edge.received(Hidden(1, (first,), rows([GOOD])))) == (MEANING, RECOVERED)
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    scene.asks(scene.line(False))
    assert origins(scene.edge.received(Hidden(1, (), b""))) == (RECOVERED,)


def test_drafts_that_come_while_it_waits_are_verified_after() -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    ids = scene.line(False, True)
    (asked,) = scene.asks(ids)
    end = hashes([*scene.text, *ids])
    more = pseudo_target([*scene.text, *ids])
    scene.edge.received(Draft(1, 2, len(scene.text), len(end), end[-1], (more,)))
    assert origins(scene.edge.received(Hidden(1, (asked,), rows([GOOD])))) == (MEANING, ACCEPTED)
    assert origins(scene.passed()) == (ACCEPTED,)  # more is on its way: its own wording may be as good


def test_a_device_that_leaves_gets_the_strict_verdict_when_it_is_back() -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    scene.asks(scene.line(True, False))
    scene.edge.detached(1)
    assert scene.edge.committed_length == len(scene.text) + 2
    assert scene.edge.wakes_s is None


def test_a_new_stream_voids_what_waits() -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    ids = scene.line(True, False)
    (asked,) = scene.asks(ids)
    again = Open(
        b"s" * 16, 2, IDENTITY, Sampling(), (), 40, 3, 4, ids_digest(scene.text), None, semantic=scene.opened.semantic
    )  # fmt: skip
    scene.edge.attach(again)
    assert scene.edge.committed_length == len(scene.text)
    assert scene.edge.received(Hidden(1, (asked,), rows([GOOD]))) == []  # of the stream before
    assert scene.edge.received(Hidden(2, (asked,), rows([GOOD]))) == []  # not asked for on this one
    scene.now = 10 * HIDDEN_WAIT_S
    assert scene.edge.due() == []
    scene.edge.received(Draft(2, 1, 4, 4, hashes(scene.text)[-1], tuple(ids)))
    (need,) = scene.passed()
    assert isinstance(need, NeedHidden)
    scene.edge.received(Finish(2, 4))
    assert scene.edge.due() == []


def test_rows_that_are_lost_while_it_waits_are_computed_again() -> None:
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    (asked,) = scene.asks(scene.line(False, True))
    scene.engine.rows.clear()
    assert scene.edge.evicted() == []
    frames = scene.edge.received(Hidden(1, (asked,), rows([GOOD])))
    assert origins(frames) == (MEANING, ACCEPTED, BONUS)
    assert scene.edge.kv_length == 0
    scene.text = list(scene.edge.ids)
    scene.edge.received(Draft(1, 2, 7, 7, hashes(scene.text)[-1], tuple(scene.line(True))))
    work, result = scene.run()
    assert work.span.start == 0
    assert origins(scene.edge.finished_pass(work, result)) == (ACCEPTED, BONUS)


@pytest.mark.parametrize(
    ("protocol", "frame"),
    [
        (HiddenProtocol.FULL_HIDDEN, StateRows((0,), b"\0" * 5)),
        (HiddenProtocol.FULL_HIDDEN, StateRows((0, 1), rows([0.1]))),
        (HiddenProtocol.FULL_HIDDEN, StateRows((3,), rows([0.1]))),
        (HiddenProtocol.MARGIN_FIRST, StateRows((0,), b"\x00\x00\xc0\x7f\x01\x01")),
        (HiddenProtocol.TARGET_ONLY, StateRows((0,), rows([0.1]))),
        (HiddenProtocol.MISMATCH_FIRST, StateRows((0,), rows([0.1]))),
    ],
)
def test_states_that_are_none_or_not_granted_end_the_stream(protocol: HiddenProtocol, frame: StateRows) -> None:
    scene = Scene(protocol)
    with pytest.raises(MalformedFrame):
        scene.drafts(scene.line(True, True, True), frame)


def test_an_exact_session_takes_no_states() -> None:
    opened = Open(b"s" * 16, 1, IDENTITY, Sampling(), (), 40, 3, 3, ids_digest(PROMPT), 0)
    unwanted: list[DeviceFrame] = [
        Draft(1, 1, 3, 3, hashes(PROMPT)[-1], (1,), states=StateRows((0,), rows([0.1]))),
        Hidden(1, (), b""),
    ]
    for frame in unwanted:
        edge = EdgeSession(opened, Limits(4096))
        edge.attach(opened)
        edge.received(Prefix(1, 0, PROMPT))
        with pytest.raises(MalformedFrame):
            edge.received(frame)
    scene = Scene(HiddenProtocol.MISMATCH_FIRST)
    (asked,) = scene.asks(scene.line(False))
    with pytest.raises(MalformedFrame):
        scene.edge.received(Hidden(1, (asked,), b"\0"))


def test_a_session_with_a_judge_needs_a_clock() -> None:
    scene = Scene(HiddenProtocol.TARGET_ONLY)
    with pytest.raises(ValueError, match="clock"):
        EdgeSession(scene.opened, Limits(4096), judge=scene.judge)
