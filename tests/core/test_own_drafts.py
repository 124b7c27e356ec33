"""The edge's own drafter: it writes for a device that idles, and never changes the text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.session import EdgeSession
from airdraft.core.types import Commit, Draft, DraftWork, Limits, Open, Origin, PassResult, Prefix
from airdraft.link.virtual_time import NextDraft, RowEngine
from tests.core.worlds import VOCABULARY, alone, make_device, noisy_draft, pseudo_target

PROMPT = (1, 2, 3)


class IdleDevice:
    """A device that drafts nothing and acks as it must; the edge runs with a drafter of its own."""

    def __init__(self, draft: NextDraft, *, width: int, ahead_tokens: int = 64, max_tokens: int = 40,
                 stop_ids: tuple[int, ...] = ()) -> None:  # fmt: skip
        limits = Limits(4096, ahead_tokens=ahead_tokens)
        self.device = make_device(PROMPT, draft_length=0, max_tokens=max_tokens, stop_ids=stop_ids, limits=limits)
        self.engine, self.draft = RowEngine(pseudo_target), draft
        self.commits: list[Commit] = []
        opened, *rest = self.device.attach(1, with_prefix=True)
        assert isinstance(opened, Open)
        self.edge = EdgeSession(opened, limits, own_draft_tokens=width)
        for answer in self.edge.attach(opened):
            self.device.received(answer)
        for frame in rest:
            assert isinstance(frame, (Prefix, Draft))
            for answer in self.edge.received(frame):
                self.device.received(answer)

    def written(self, work: DraftWork) -> list[int]:
        path = list(work.path)
        for _ in range(work.count):
            token = self.draft(path)
            if token is None:
                break
            path.append(token)
        return path[len(work.path) :]

    def run(self) -> Sequence[int]:
        """Go on until nothing is to do; every commit reaches the device, and its answers the edge."""
        while True:
            work = self.edge.next_pass()
            if work is None:
                own = self.edge.own_draft()
                if own is None:
                    return self.device.ids
                assert self.edge.next_pass() is None  # the pass waits for its drafter
                assert self.edge.own_draft() is None
                self.edge.own_drafted(own, self.written(own))
                continue
            for commit in self.edge.finished_pass(work, PassResult(self.engine.extend(work.span))):
                assert isinstance(commit, Commit)
                self.commits.append(commit)
                for answer in self.device.received(commit):
                    if isinstance(answer, Draft):
                        self.edge.received(answer)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 12),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 70),
    st.integers(0, 40),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=2).map(tuple),
)
def test_the_text_is_the_targets_own(
    width: int, acceptance: float, ahead: int, max_tokens: int, stop_ids: tuple[int, ...]
) -> None:
    scene = IdleDevice(
        noisy_draft(acceptance), width=width, ahead_tokens=ahead, max_tokens=max_tokens, stop_ids=stop_ids
    )
    assert list(scene.run()) == alone(PROMPT, max_tokens, stop_ids)
    assert scene.device.ended


def test_a_perfect_drafter_at_the_edge_is_always_accepted() -> None:
    scene = IdleDevice(noisy_draft(1.0), width=4, max_tokens=41)
    scene.run()
    first, *others, last = scene.commits
    assert first.origins == (Origin.RUN_AHEAD,)
    assert all(commit.origins == (Origin.EDGE_DRAFT,) * 4 + (Origin.BONUS,) for commit in others)
    assert Origin.RECOVERED not in last.origins


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_it_runs_no_farther_than_the_edge_may(ahead: int) -> None:
    scene = IdleDevice(noisy_draft(1.0), width=8, ahead_tokens=ahead)
    scene.run()
    assert max(len(commit.ids) for commit in scene.commits) <= ahead


def test_a_devices_draft_goes_first_and_voids_what_the_edge_wrote() -> None:
    scene = IdleDevice(noisy_draft(1.0), width=4)
    work = scene.edge.next_pass()
    assert work is not None
    (commit,) = scene.edge.finished_pass(work, PassResult(scene.engine.extend(work.span)))
    assert isinstance(commit, Commit)
    own = scene.edge.own_draft()
    assert own is not None
    right = alone(PROMPT, 4)
    scene.edge.received(Draft(1, 2, 4, 4, own.path_hash, tuple(right[4:6])))
    work = scene.edge.next_pass()
    assert work is not None
    assert not work.own
    assert work.nodes == 2
    scene.edge.own_drafted(own, [0, 0, 0, 0])
    (commit,) = scene.edge.finished_pass(work, PassResult(scene.engine.extend(work.span)))
    assert isinstance(commit, Commit)
    assert commit.origins == (Origin.ACCEPTED, Origin.ACCEPTED, Origin.BONUS)
    assert scene.edge.next_pass() is None  # the device has more on its way, and what the edge wrote is overtaken
