"""Streams that keep a place and do not use it end; those that are used, or wait for the edge, do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from airdraft.core.errors import LimitReached
from airdraft.core.session import EdgeSession
from airdraft.core.types import StopReason
from edge_node.stream_watch import PATIENCE, StreamWatch


@dataclass(slots=True)
class Text:
    """A session as the watch sees it."""

    committed_length: int = 400
    complete: bool = False
    stop: StopReason | None = None


@dataclass(slots=True)
class Scene:
    """A watch, of which the test is both clocks."""

    now: float = 0.0
    wall: float = 1e9
    owes: bool = False
    ended: list[LimitReached] = field(default_factory=list)
    text: Text = field(default_factory=Text)

    def watch(self, until_s: float = float("inf")) -> StreamWatch:
        return StreamWatch(PATIENCE, self.ended.append, lambda: self.now, until_s=until_s, wall=lambda: self.wall)

    def attaches(self, watch: StreamWatch) -> None:
        watch.attached(cast(EdgeSession, self.text), lambda: self.owes)

    def passes(self, seconds: float, watch: StreamWatch) -> None:
        """Let time pass as the loop would: the timer that is set goes off when it is due."""
        end = self.now + seconds
        while watch.looks_s <= end:
            step_s = max(1e-3, watch.looks_s - self.now)
            self.wall, self.now = self.wall + step_s, self.now + step_s
            watch._look()
        self.wall += max(0.0, end - self.now)
        self.now = max(end, self.now)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_stream_that_says_nothing_ends(scene: Scene) -> None:
    with scene.watch() as watch:
        scene.passes(4.9, watch)
        assert not scene.ended
        scene.passes(0.2, watch)
    (error,) = scene.ended
    assert "no Open came within 5 s" in error.message
    assert error.retry_after_s > 0


async def test_a_promised_text_has_the_time_that_its_length_needs(scene: Scene) -> None:
    scene.text.committed_length = 4000  # 10 s, and 10 s more at 400 tokens a second
    with scene.watch() as watch:
        scene.passes(3.0, watch)
        scene.attaches(watch)
        scene.passes(19.8, watch)
        assert not scene.ended
        scene.passes(0.5, watch)
    assert "not here in time" in scene.ended[0].message


async def test_a_text_that_comes_in_time_goes_on(scene: Scene) -> None:
    with scene.watch() as watch:
        scene.attaches(watch)
        scene.passes(9.0, watch)
        scene.text.complete = True
        for _ in range(100):
            scene.text.committed_length += 1
            scene.passes(60.0, watch)
    assert not scene.ended


async def test_a_text_that_goes_nowhere_ends_unless_the_edge_is_why(scene: Scene) -> None:
    scene.text.complete = scene.owes = True
    with scene.watch() as watch:
        scene.attaches(watch)
        scene.passes(1000.0, watch)
        assert not scene.ended
        scene.owes = False
        scene.passes(85.0, watch)
        assert not scene.ended
        scene.passes(70.0, watch)
    assert "nothing was written for 120 s" in scene.ended[0].message


async def test_a_text_that_has_ended_waits_for_its_finish_but_not_for_ever(scene: Scene) -> None:
    scene.text.complete = True
    with scene.watch() as watch:
        scene.attaches(watch)
        scene.passes(50.0, watch)
        scene.text.stop = StopReason.MAX_TOKENS
        scene.passes(31.0, watch)
        assert not scene.ended  # it was found out within a quarter of the idle time
        scene.passes(40.0, watch)
    assert "no Finish came" in scene.ended[0].message


async def test_a_stream_ends_with_its_credential(scene: Scene) -> None:
    scene.text.complete = scene.owes = True
    with scene.watch(until_s=scene.wall + 100) as watch:
        scene.attaches(watch)
        scene.passes(99.0, watch)
        assert not scene.ended
        scene.passes(2.0, watch)
    assert "attach with a fresh token" in scene.ended[0].message
    assert scene.ended[0].retry_after_s == 0


async def test_a_wall_clock_that_is_set_forward_is_noticed(scene: Scene) -> None:
    scene.text.complete = scene.owes = True
    with scene.watch(until_s=scene.wall + 86400) as watch:
        scene.attaches(watch)
        scene.passes(60.0, watch)
        assert not scene.ended
        scene.wall += 86400
        scene.passes(31.0, watch)
    assert "fresh token" in scene.ended[0].message


async def test_an_ended_credential_opens_nothing(scene: Scene) -> None:
    with scene.watch(until_s=scene.wall - 1):
        assert len(scene.ended) == 1
