"""Device and edge both draft: the edge makes a live line longer, and verifies its own beside the device's."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.errors import CreditsExceeded
from airdraft.core.paths import HashedPath, root_hash
from airdraft.core.session import EdgeSession, RunAhead
from airdraft.core.types import Commit, Draft, DraftWork, Limits, Open, Origin, Pass, PassResult, Prefix, Work
from airdraft.link.virtual_time import RowEngine, chained
from tests.core.worlds import IDENTITY, VOCABULARY, alone, make_device, noisy_draft, pseudo_target

PROMPT = (1, 2, 3)
TOKENS = 40
TEXT = alone(PROMPT, TOKENS)


def wrong(token: int) -> int:
    return (token + 1) % VOCABULARY


class Scene:
    """An edge with a drafter of its own, and a device whose frames are written by hand."""

    def __init__(self, *, width: int = 4, bonus: bool = True, run_ahead: bool = True) -> None:
        self.now, self.seq = 0.0, 0
        limits = Limits(4096)
        opened, *rest = make_device(PROMPT, max_tokens=TOKENS, limits=limits).attach(1, with_prefix=True)
        assert isinstance(opened, Open)
        rule = RunAhead(lambda: self.now) if run_ahead else None
        self.edge = EdgeSession(opened, limits, own_draft_tokens=width, run_ahead=rule, bonus=bonus)
        self.edge.attach(opened)
        self.engine = RowEngine(pseudo_target)
        self.commits: list[Commit] = []
        for frame in rest:
            assert isinstance(frame, Prefix)
            self.edge.received(frame)

    def drafts(self, base: int, ids: Sequence[int], *, acked: int | None = None) -> None:
        """Let a frame come that goes on from the text's first ``base`` ids."""
        self.seq += 1
        path = HashedPath(root_hash(IDENTITY))
        path.extend(TEXT[:base])
        self.edge.received(Draft(1, self.seq, len(PROMPT) if acked is None else acked, base, path.end, tuple(ids)))

    def write(self, *, acceptance: float = 1.0, salt: int = 0) -> DraftWork | None:
        """Let the edge's own drafter write, if it is to."""
        work = self.edge.own_draft()
        if work is not None:
            self.edge.own_drafted(work, chained(noisy_draft(acceptance, salt), work))
        return work

    def run(self) -> Pass | None:
        """Make a pass, if there is one."""
        work = self.edge.next_pass()
        if work is not None:
            for frame in self.edge.finished_pass(work, PassResult(self.engine.extend(work.span))):
                assert isinstance(frame, Commit)
                self.commits.append(frame)
        return work

    def first_token(self) -> None:
        """Get over the prefill, which asks for no draft."""
        assert self.edge.own_draft() is None
        assert self.run() is not None
        assert self.edge.committed_length == 4


def test_what_nobody_drafted_is_drafted_by_the_edge_which_then_goes_ahead() -> None:
    scene = Scene()
    scene.first_token()
    wish = scene.write()
    assert wish is not None
    assert wish.path == tuple(TEXT[:4])
    assert scene.edge.wish().work is Work.RUN_AHEAD  # type: ignore[union-attr]  # a gift, which gives way under load
    work = scene.run()
    assert work is not None
    assert work.own == work.nodes == 4
    assert scene.commits[-1].origins == (Origin.EDGE_DRAFT,) * 4 + (Origin.BONUS,)


def test_a_live_line_is_made_longer_up_to_what_the_edge_would_draft_itself() -> None:
    scene = Scene()
    scene.first_token()
    scene.drafts(4, TEXT[4:6])
    wish = scene.write()
    assert wish is not None
    assert wish.path == tuple(TEXT[:6])
    assert wish.count == 2
    work = scene.run()
    assert work is not None
    assert (work.nodes, work.own, work.work) == (4, 2, Work.VERIFY)
    assert scene.commits[-1].origins == (Origin.ACCEPTED,) * 2 + (Origin.EDGE_DRAFT,) * 2 + (Origin.BONUS,)


def test_a_line_that_is_long_enough_is_verified_as_it_is() -> None:
    scene = Scene(width=4)
    scene.first_token()
    scene.drafts(4, TEXT[4:8])
    assert scene.edge.own_draft() is None
    work = scene.run()
    assert work is not None
    assert (work.nodes, work.own) == (4, 0)


@pytest.mark.parametrize("who", ["device", "edge"])
def test_two_lines_are_verified_side_by_side(who: str) -> None:
    scene = Scene()
    scene.first_token()
    wish = scene.write(acceptance=1.0 if who == "edge" else 0.0)
    assert wish is not None
    scene.drafts(4, [wrong(TEXT[4]), 7] if who == "edge" else TEXT[4:6])
    work = scene.run()
    assert work is not None
    assert (work.nodes, work.own) == (6, 4)
    assert work.span.parents is not None
    origin = Origin.EDGE_DRAFT if who == "edge" else Origin.ACCEPTED
    count = 4 if who == "edge" else 2
    assert scene.commits[-1].origins[:count] == (origin,) * count
    assert scene.commits[-1].ids[:count] == tuple(TEXT[4 : 4 + count])


def test_what_both_wrote_is_verified_once_and_is_the_devices() -> None:
    scene = Scene()
    scene.first_token()
    scene.write()
    scene.drafts(4, TEXT[4:6])
    work = scene.run()
    assert work is not None
    assert (work.nodes, work.own) == (4, 2)
    assert work.span.parents is None
    assert scene.commits[-1].origins == (Origin.ACCEPTED,) * 2 + (Origin.EDGE_DRAFT,) * 2 + (Origin.BONUS,)


def test_the_edge_writes_less_where_the_device_drafts_too() -> None:
    scene = Scene(width=6)
    scene.first_token()
    for _ in range(8):
        length = scene.edge.committed_length
        scene.drafts(length, [wrong(TEXT[length])])
        scene.write(acceptance=0.0)
        scene.run()
    wish = scene.edge.own_draft()
    assert wish is not None
    assert 1 <= wish.count < 5


@pytest.mark.parametrize("bonus", [True, False])
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 1 << 30), width=st.integers(0, 6))
def test_the_text_is_the_targets_own(bonus: bool, seed: int, width: int) -> None:
    """Frames right, wrong, behind and stale, own drafts right and wrong, and passes, in any order."""
    chance = Random(seed)
    scene = Scene(width=width, bonus=bonus, run_ahead=True)
    acked = len(PROMPT)
    for _ in range(2000):
        length = scene.edge.committed_length
        if scene.edge.stop is not None:
            break
        verb = chance.choice(["draft", "write", "pass", "pass", "time"])
        if verb == "draft":
            acked = chance.randint(acked, length)
            base = min(chance.randint(max(acked, length - 3), length + 1), len(TEXT) - 1)
            ids = [
                token if chance.random() < 0.8 else wrong(token) for token in TEXT[base : base + chance.randint(1, 4)]
            ]
            scene.drafts(base, ids, acked=acked) if base <= length else None
        elif verb == "write":
            scene.write(acceptance=0.6, salt=chance.randint(0, 3))
        elif verb == "pass":
            scene.run()
        else:
            scene.now += 0.02
    assert scene.edge.ids == TEXT
    assert sum(len(commit.ids) for commit in scene.commits) == TOKENS


def test_a_withheld_bonus_is_left_to_the_next_draft() -> None:
    scene = Scene(width=0, bonus=False, run_ahead=False)
    scene.first_token()
    scene.drafts(4, TEXT[4:6])
    scene.run()
    assert scene.commits[-1].ids == tuple(TEXT[4:6])
    scene.drafts(6, TEXT[6:8])
    scene.run()
    scene.drafts(8, [wrong(TEXT[8])])
    scene.run()
    assert scene.commits[-1].ids == (TEXT[8],)
    assert scene.commits[-1].origins == (Origin.RECOVERED,)
    assert scene.edge.ids == TEXT[:9]


class Heard(RunAhead):
    """Keeps what it was told of the last pass."""

    last: dict[str, object]

    def passed(self, pass_s: float, **told: object) -> None:
        self.last = told
        super().passed(pass_s, **told)  # type: ignore[arg-type]


@pytest.mark.parametrize("right", [True, False])
def test_a_line_that_ends_with_the_text_is_contradicted_only_where_it_differs(right: bool) -> None:
    """The draft of a position comes while the edge's own pass for it is under way."""
    scene = Scene(width=0)
    rule = scene.edge._state.run_ahead = Heard(lambda: scene.now)
    scene.first_token()
    work = scene.edge.next_pass()
    assert work is not None
    assert work.work is Work.RUN_AHEAD
    scene.drafts(4, [TEXT[4] if right else wrong(TEXT[4])])
    scene.edge.finished_pass(work, PassResult(scene.engine.extend(work.span)))
    assert rule.last["live"] is right


def test_a_prefill_says_nothing_of_a_pass_for_one_token() -> None:
    scene = Scene(width=0)
    rule = scene.edge._state.run_ahead = Heard(lambda: scene.now)
    scene.run()
    assert rule.last["alone"] is False
    scene.run()
    assert rule.last["alone"] is True


def test_frames_that_wait_for_the_prefix_cost_credits_each() -> None:
    limits = Limits(4096, live_nodes=8)
    opened, *_ = make_device(PROMPT, max_tokens=TOKENS, limits=limits).attach(1, with_prefix=True)
    assert isinstance(opened, Open)
    edge = EdgeSession(opened, limits)
    edge.attach(opened)
    path = HashedPath(root_hash(IDENTITY))
    path.extend(PROMPT)
    drafts = [Draft(1, seq, len(PROMPT), len(PROMPT), path.end, (7,)) for seq in range(1, 10)]
    for draft in drafts[:-1]:
        edge.received(draft)
    with pytest.raises(CreditsExceeded):
        edge.received(drafts[-1])
