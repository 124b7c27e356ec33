"""When a device behind an edge that goes ahead of it rests: what it learns, and that it looks again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.session.overtaking import (
    PROBE_EVERY_TOKENS,
    PROBE_TOKENS,
    Odds,
    Overtaking,
    all_right,
    tokens_to_overtake,
)
from airdraft.core.types import Commit, Limits, Origin, Plan, Timing
from airdraft.link.shaping import Constant, Shape
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_text import MatchRun
from airdraft.link.simulation import Conduct, Link, SimulatedText, World
from coordinator.policy.costs import PassCost
from tests.core.worlds import VOCABULARY, alone, make_device, make_pair

PASS_S, DRAFT_S = 0.030, 0.008
RIGHT, WRONG = 1, 2


class Scene:
    """A rule under a clock that is set by hand, and an edge that goes ahead by a token a pass."""

    def __init__(self, round_trip_s: float | None, draft_s: float = DRAFT_S) -> None:
        self.now = 0.0
        self.round_trip_s, self.draft_s = round_trip_s, draft_s
        self.length = 10
        self.rule = Overtaking(lambda: self.now, lambda: self.round_trip_s)

    def draft(self, tokens: int = 1, *, read_s: float = 0.0, whole: bool = True) -> None:
        self.rule.drafting(self.length)
        self.now += read_s + tokens * self.draft_s
        self.rule.drafted(tokens, whole=whole)

    def commit(self, origin: Origin = Origin.RUN_AHEAD, ahead: Sequence[int] = (), after_s: float = PASS_S) -> None:
        """Let a token come that is RIGHT, with this much drafted before."""
        self.now += after_s
        self.length += 1
        commit = Commit(1, self.length - 1, (RIGHT,), self.length, b"", 0, (origin,), timing=Timing(pass_s=PASS_S))
        self.rule.committed(commit, ahead)

    def knowing(self, acceptance: float) -> Scene:
        """Let it learn the paces, and the acceptance from some hundred tokens; then miss."""
        round_trip_s, self.round_trip_s = self.round_trip_s, None  # and so it drafts all the time
        chance = Random(7)
        for _ in range(400):
            self.draft()
            right = chance.random() < acceptance
            self.commit(ahead=[RIGHT if right else WRONG], after_s=PASS_S - self.draft_s)
        self.round_trip_s = round_trip_s
        assert self.rule.worth
        self.draft()
        self.commit(ahead=[WRONG], after_s=PASS_S - self.draft_s)
        return self


@pytest.mark.parametrize(
    ("acceptance", "rtt_ms", "worth"),
    [
        (0.3, 0, True), (0.3, 30, True), (0.3, 150, False), (0.3, 300, False),
        (0.5, 60, True), (0.5, 300, False),
        (0.7, 100, True), (0.7, 700, False),
        (0.9, 300, True),
    ],
)  # fmt: skip
def test_it_rests_after_a_miss_where_overtaking_is_not_to_be_hoped_for(
    acceptance: float, rtt_ms: int, worth: bool
) -> None:
    scene = Scene(rtt_ms / 1e3).knowing(acceptance)
    assert scene.rule.acceptance == pytest.approx(acceptance, abs=0.08)
    assert scene.rule.worth is worth


def test_while_something_is_not_known_it_drafts() -> None:
    scene = Scene(None).knowing(0.1)
    assert scene.rule.worth  # no round trip
    scene = Scene(10.0)
    for _ in range(20):
        scene.commit(ahead=[WRONG])
        assert scene.rule.worth  # no drafted token yet, as for a drafter that reads a long prompt
    scene = Scene(10.0)
    for _ in range(20):
        scene.draft()
        scene.commit(Origin.ACCEPTED, ahead=[RIGHT])
        scene.commit(Origin.ACCEPTED, ahead=[WRONG])
        assert scene.rule.worth  # no token of the edge's own: it waits for its device


def test_ahead_of_the_edge_it_drafts_on_whatever_the_round_trip() -> None:
    scene = Scene(5.0).knowing(0.3)
    assert not scene.rule.worth
    scene.commit(Origin.ACCEPTED, ahead=[RIGHT, RIGHT])
    assert scene.rule.worth
    scene.commit(Origin.RECOVERED, ahead=[WRONG])
    assert not scene.rule.worth


def test_at_rest_it_drafts_one_stretch_in_so_many_tokens() -> None:
    scene = Scene(0.300).knowing(0.3)
    for _ in range(3):
        rested = 0
        while not scene.rule.worth:
            scene.commit()
            rested += 1
        assert rested == PROBE_EVERY_TOKENS
        scene.commit(ahead=[RIGHT, RIGHT])
        assert scene.rule.worth  # until it misses
        scene.commit(ahead=[WRONG])
        assert not scene.rule.worth


def test_a_probe_of_a_text_that_has_become_easy_ends_the_rest() -> None:
    scene = Scene(0.100).knowing(0.3)
    commits = drafted = 0
    while drafted < 100:
        assert commits < 1000
        commits += 1
        drafted = drafted + 1 if scene.rule.worth else 0
        scene.commit(ahead=[RIGHT] if scene.rule.worth else [])
    assert commits < 300


def test_a_probe_ends_though_it_never_misses() -> None:
    """A drafter slower than the edge may be right always, and never overtakes."""
    scene = Scene(0.100, draft_s=0.040).knowing(1.0)
    scene.commit(ahead=[RIGHT])
    assert not scene.rule.worth
    for _ in range(PROBE_EVERY_TOKENS):
        scene.commit()
    for _ in range(PROBE_TOKENS):
        assert scene.rule.worth
        scene.commit(ahead=[RIGHT])
    assert not scene.rule.worth


def test_a_better_channel_ends_the_rest_at_once() -> None:
    scene = Scene(0.300).knowing(0.5)
    assert not scene.rule.worth
    scene.round_trip_s = 0.030
    scene.commit()
    assert scene.rule.worth


def test_what_was_confirmed_since_the_miss_counts() -> None:
    """A stretch once begun is seen to its end: the nearer the edge, the fewer tokens that must be right."""
    scene = Scene(1.100).knowing(0.8)
    assert not scene.rule.worth
    scene.commit(ahead=[RIGHT] * 36)
    assert scene.rule.worth


def test_a_new_stream_is_not_behind() -> None:
    scene = Scene(0.300).knowing(0.3)
    assert not scene.rule.worth
    scene.rule.attached()
    assert scene.rule.worth


def test_reading_and_what_was_cut_short_do_not_count_as_drafting() -> None:
    scene = Scene(0.030)
    scene.draft(read_s=3.0)  # the prompt
    for number in range(40):
        scene.draft()
        scene.commit(ahead=[RIGHT if number % 5 else WRONG], after_s=PASS_S - DRAFT_S)
    scene.length += 30
    scene.draft(read_s=0.5)  # what was committed meanwhile
    scene.draft(1, read_s=0.5, whole=False)
    scene.commit(ahead=[WRONG])
    assert scene.rule.worth


def test_an_outage_is_not_the_edges_pace() -> None:
    """An edge that were so slow would be worth overtaking from any distance."""
    scene = Scene(0.600).knowing(0.4)
    assert not scene.rule.worth
    scene.commit(after_s=60.0)
    assert not scene.rule.worth


def test_how_many_tokens_it_takes_to_overtake() -> None:
    """Draft n is there at R + (n + 1) d; the edge comes to position n at n t."""
    assert tokens_to_overtake(0.0, DRAFT_S, PASS_S, 0) == pytest.approx(8 / 22)
    assert tokens_to_overtake(0.100, DRAFT_S, PASS_S, 0) == pytest.approx(108 / 22)
    assert tokens_to_overtake(0.100, DRAFT_S, PASS_S, 3) == pytest.approx(18 / 22)
    assert tokens_to_overtake(0.100, DRAFT_S, PASS_S, 4) == 0
    assert math.isinf(tokens_to_overtake(0.0, PASS_S, PASS_S, 0))


@given(st.floats(0.01, 1), st.integers(0, 40), st.floats(0, 100))
def test_equal_chances_multiply(chance: float, before: int, tokens: float) -> None:
    assert all_right([chance] * 6, before, tokens) == pytest.approx(chance**tokens)


@given(st.lists(st.floats(0.1, 1), min_size=6, max_size=6), st.integers(0, 40), st.integers(0, 40))
def test_each_token_has_the_chance_of_its_place(chances: list[float], before: int, tokens: int) -> None:
    product = math.prod(chances[min(at.bit_length(), 5)] for at in range(before, before + tokens))
    assert all_right(chances, before, tokens) == pytest.approx(product)


def test_the_odds_are_those_of_the_place_in_a_stretch() -> None:
    odds, chance, before = Odds(), Random(1), 0
    for _ in range(8000):
        right = chance.random() < (0.4 if before < 2 else 0.95)
        odds.saw(before, right=right)
        before = before + 1 if right else 0
    hoped = odds.hoped()
    assert hoped[:2] == [pytest.approx(0.4, abs=0.12)] * 2
    assert hoped[2:] == [pytest.approx(0.95, abs=0.06)] * 4
    assert 0.4 < odds.acceptance < 0.95


def test_it_does_not_rest_from_a_drafter_that_is_right_for_long_once_it_is_right() -> None:
    """By its mean acceptance it would: at 14 tokens to overtake, chances that are all alike come to nothing."""
    scene, even = Scene(0.300), Scene(0.300).knowing(0.5)
    for _ in range(20):
        for drafted in ([WRONG], [WRONG], [WRONG], [WRONG], [WRONG], [WRONG], [WRONG], [WRONG], *[[RIGHT]] * 32):
            scene.draft()
            scene.commit(ahead=drafted if scene.rule.worth else [], after_s=PASS_S - DRAFT_S)
    assert scene.rule.acceptance > 0.6
    scene.commit(ahead=[RIGHT] * 3)
    assert scene.rule.worth
    even.commit(ahead=[RIGHT] * 3)
    assert not even.rule.worth


# ---- in a session


def written(run: MatchRun, rtt_s: float, *, rests: bool) -> SimulatedText:
    way = Shape(Constant(rtt_s / 2))
    world = World(Costs(DRAFT_S, by_positions(PassCost(PASS_S, 0.0003).seconds)))
    conduct = Conduct(Plan(1, 64), Limits(1 << 24), run_ahead=True, overtaking=rests)
    return world.one_by_one([run], conduct, Link.of(way, way, Random(0)))[0]


def matches(acceptance: float, seed: int, tokens: int = 1500) -> MatchRun:
    chance = Random(seed)
    return MatchRun(tuple(range(1, tokens + 1)), tuple(chance.random() < acceptance for _ in range(tokens)))


@pytest.mark.parametrize("acceptance", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("rtt_ms", [0, 60, 120, 300])
def test_resting_costs_next_to_nothing(acceptance: float, rtt_ms: int) -> None:
    run = matches(acceptance, seed=rtt_ms)
    always, rests = (written(run, rtt_ms / 1e3, rests=rests) for rests in (False, True))
    assert rests.seconds <= always.seconds * 1.015  # 1 % in the long run
    assert rests.drafted <= always.drafted


@pytest.mark.parametrize(("acceptance", "rtt_ms"), [(0.3, 100), (0.3, 300), (0.5, 300)])
def test_where_drafts_are_hopeless_few_are_written(acceptance: float, rtt_ms: int) -> None:
    run = matches(acceptance, seed=rtt_ms)
    always, rests = (written(run, rtt_ms / 1e3, rests=rests) for rests in (False, True))
    assert rests.drafted < 0.25 * always.drafted
    assert rests.draft_s < 0.25 * always.draft_s


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.integers(1, 6),
    st.sampled_from([1, 3, 64]),
    st.sampled_from([1, 2, 5, 64]),
    st.booleans(),
)
def test_a_device_that_rests_when_it_likes_ends_its_text(
    seed: int, acceptance: float, length: int, outstanding: int, ahead_tokens: int, cut: bool
) -> None:
    """Whatever the rule says: the edge must not wait for a draft that does not come, nor for an ack."""
    chance = Random(seed)
    limits = Limits(4096, live_nodes=chance.choice([1, 3, 256]), ahead_tokens=ahead_tokens)
    prompt = [chance.randrange(VOCABULARY) for _ in range(5)]
    device = make_device(prompt, draft_length=length, outstanding=outstanding, max_tokens=60, limits=limits)
    device.overtaking = Moody(chance)
    pair = make_pair(device, draft=acceptance, limits=limits, up=lambda: chance.random() / 20)
    pair.attach(1)
    if cut:
        pair.run(events=chance.randrange(60))
        if not device.ended:
            pair.cut()
            pair.attach(2)
    pair.run()
    assert list(device.ids) == alone(prompt, 60)


class Moody(Overtaking):
    """Says anything."""

    def __init__(self, chance: Random) -> None:
        super().__init__(lambda: 0.0, lambda: None)
        self._chance = chance

    def committed(self, commit: Commit, ahead: Sequence[int]) -> None:
        super().committed(commit, ahead)
        self._worth = self._chance.random() < 0.5
