"""The observer of the padding bench: it finds a leak that is there, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the bench extra")
pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.cells import PADDING
from bench.pad import Extent as Extents
from bench.pad import Session, Sessions, planted
from bench.pad_guess import features, guessed, merged

PROMPTS = 4


def test_segments_that_are_close_are_one_message() -> None:
    chunks = [(1.0, 100), (1.0004, 40), (1.0005, -9), (1.0011, 5), (1.0030, 7)]
    assert merged(chunks) == [(1.0, 145), (1.0005, -9), (1.0030, 7)]


def padded(prompt: int, chance: np.random.Generator) -> Session:
    """A padded session as it should be: a grid each way, with a timer's error."""
    late = chance.uniform(0, 0.001, (2, 70))
    chunks = [(PADDING.interval_s * n + late[0, n], 276) for n in range(64)]
    chunks += [(PADDING.interval_s * (n + 0.5) + late[1, n], -1044) for n in range(64)]
    return Session(prompt, sorted(chunks), (), 1.0)


def share_right(sessions: list[Session]) -> dict[str, float]:
    rows = features([session.chunks for session in sessions], PADDING.interval_s)
    asked = np.asarray([session.prompt for session in sessions])
    return {name: float(right.mean()) for name, right in guessed(rows, asked).items()}


@pytest.mark.slow
def test_a_planted_leak_is_found_and_nothing_else() -> None:
    chance = np.random.default_rng(3)
    sessions = [padded(prompt, chance) for prompt in range(PROMPTS) for _ in range(25)]
    assert max(share_right(sessions).values()) < 0.5  # of 0.25 by chance; 100 sessions
    leaking = [planted(session) for session in sessions]
    assert [len(session.chunks) for session in leaking] == [len(session.chunks) for session in sessions]
    assert max(share_right(leaking).values()) > 0.9


@pytest.mark.slow
def test_every_arm_is_measured_between_real_processes() -> None:
    sessions = Sessions(Extents(prompts=2, sessions=2, devices=2, tokens=8))
    sessions.run()
    assert {arm: len(found) for arm, found in sessions.of.items()} == {"plain": 4, "sized": 4, "padded": 4}
    assert sessions.failed == 0
    for prompt in range(2):
        texts = {one.ids for found in sessions.of.values() for one in found if one.prompt == prompt}
        assert len(texts) == 1
        assert len(texts.pop()) == 8
