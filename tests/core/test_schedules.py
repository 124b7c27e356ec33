"""Random schedules over both cores: whatever happens to frames, the text is the target's own."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.types import Draft, Limits, Origin
from tests.core.worlds import VOCABULARY, alone, make_device, make_pair


@dataclass(frozen=True)
class Scene:
    """One random schedule."""

    seed: int
    draft_length: int
    outstanding: int
    acceptance: float
    live_nodes: int
    ahead_tokens: int
    chunk: int
    prompt: int
    max_tokens: int
    stops: tuple[int, ...]
    mute_every: int  # the drafter has nothing to say on one path in so many; 0: always something
    faults: tuple[str, ...]


scenes = st.builds(
    Scene,
    seed=st.integers(0, 2**32),
    draft_length=st.integers(0, 12),
    outstanding=st.integers(1, 4),
    acceptance=st.sampled_from([0.0, 0.3, 0.7, 0.9, 1.0]),
    live_nodes=st.sampled_from([1, 2, 3, 8, 256]),
    ahead_tokens=st.sampled_from([1, 2, 5, 64]),
    chunk=st.sampled_from([1, 3, 64]),
    prompt=st.integers(1, 40),
    max_tokens=st.integers(0, 60),
    stops=st.lists(st.integers(0, VOCABULARY - 1), max_size=2).map(tuple),
    mute_every=st.sampled_from([0, 2, 5]),
    faults=st.lists(st.sampled_from(["cut", "cut and forget", "evict rows", "evict ids", "new edge"]), max_size=5).map(
        tuple
    ),
)


@settings(max_examples=400, deadline=None)
@given(scenes)
def test_text_is_the_targets_own(scene: Scene) -> None:
    chance = random.Random(scene.seed)
    limits = Limits(4096, live_nodes=scene.live_nodes, ahead_tokens=scene.ahead_tokens, prefix_chunk_tokens=scene.chunk)
    prompt = [chance.randrange(VOCABULARY) for _ in range(scene.prompt)]
    device = make_device(
        prompt,
        draft_length=scene.draft_length,
        outstanding=scene.outstanding,
        max_tokens=scene.max_tokens,
        stop_ids=scene.stops,
        limits=limits,
    )
    pair = make_pair(
        device,
        draft=scene.acceptance,
        limits=limits,
        up=lambda: chance.random() / 20,
        down=lambda: chance.random() / 20,
    )
    if scene.mute_every:
        speak = pair.draft
        pair.draft = lambda path: None if sum(path) % scene.mute_every == 0 else speak(path)
    epoch = 1
    pair.attach(epoch, with_prefix=chance.random() < 0.8)
    for fault in scene.faults:
        pair.run(events=chance.randrange(40))
        if device.ended:
            break
        if fault.startswith("cut"):
            pair.cut()
            if fault != "cut":
                pair.replace_edge()
        elif fault == "new edge":
            pair.replace_edge()
            pair.cut()
        else:
            pair.evict(ids_too=fault == "evict ids")
            continue
        epoch += 1
        pair.attach(epoch, with_prefix=chance.random() < 0.5)
    pair.run()
    assert not pair.lost
    assert list(device.ids) == alone(prompt, scene.max_tokens, scene.stops)
    assert device.ended
    assert [token for event in pair.commits for token in event.ids] == list(device.ids)[scene.prompt :]
    assert all(frame.base >= frame.acked for frame in pair.sent if isinstance(frame, Draft))


@pytest.mark.parametrize("draft_length", range(1, 13))
@pytest.mark.parametrize("outstanding", [1, 2])
def test_a_perfect_drafter_is_always_accepted(draft_length: int, outstanding: int) -> None:
    device = make_device(draft_length=draft_length, outstanding=outstanding, max_tokens=200)
    pair = make_pair(device, draft=1.0)
    pair.attach(1)
    pair.run()
    assert device.tally.acceptance == 1.0
    assert device.tally.missed == 0
    assert device.tally.drafted > 0
    assert device.tally.by_origin[Origin.RECOVERED] == 0
    if outstanding == 1 and draft_length > 1:
        assert device.tally.tokens_per_round > draft_length * 0.8  # as many as a round can hold, but for the ends


@pytest.mark.parametrize("acceptance", [0.3, 0.6, 0.8])
def test_acceptance_is_the_drafters_own(acceptance: float) -> None:
    """A core that loses, doubles or misplaces drafts would still give the right text, but accept fewer of them."""
    device = make_device(draft_length=4, max_tokens=4000, limits=Limits(8192))
    pair = make_pair(device, draft=acceptance, limits=Limits(8192))
    pair.attach(1)
    pair.run()
    tally = device.tally
    rate = tally.accepted / (tally.accepted + tally.missed)
    trials = tally.accepted + tally.missed
    assert abs(rate - acceptance) < 4 * (acceptance * (1 - acceptance) / trials) ** 0.5
    expected = (1 - acceptance**5) / (1 - acceptance)  # Leviathan et al. 2023: mean tokens a round
    assert tally.tokens_per_round == pytest.approx(expected, rel=0.06)
