"""When an edge goes ahead of its device, and when it sits a step out: the rule, its purse, and what it is worth."""

from __future__ import annotations

from random import Random

import pytest

from airdraft.core.session import Company, RunAhead
from airdraft.core.session.run_ahead import DRY, FEW, MOST_AHEAD, MOST_BEHIND, SPENT
from airdraft.core.types import Limits, Plan
from airdraft.link.shaping import Constant, Shape
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_text import MatchRun
from airdraft.link.simulation import Conduct, Link, World
from coordinator.policy.costs import PassCost

PASS_S, DRAFT_S = 0.030, 0.008
TARGET = PassCost(PASS_S, 0.0003)


class Scene:
    """A rule under a clock that is set by hand, and a device that drafts a token every 8 ms."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rule = RunAhead(lambda: self.now)
        self.rule.passed(PASS_S, nodes=0, accepted=0, committed=1, length=10, live=False)

    def frames(self, count: int, end: int, acked: int) -> None:
        for index in range(count):
            self.now += DRAFT_S
            self.rule.framed(acked, end + index, 1, agrees=True, length=end)


def test_a_session_sits_out_for_a_draft_that_is_due_and_no_longer() -> None:
    scene = Scene()
    scene.frames(3, 10, 10)  # the last one ends at 12
    until = scene.rule.sits_out(12, 10)
    assert until is not None
    assert 0 < until - scene.now < 1.6 * DRAFT_S
    scene.now += 2 * DRAFT_S
    assert scene.rule.sits_out(12, 10) is None  # it is late: the line may have broken


def test_it_goes_ahead_where_no_live_draft_can_come() -> None:
    scene = Scene()
    assert scene.rule.sits_out(10, 10) is None  # nothing came yet
    scene.frames(3, 10, 10)
    assert scene.rule.sits_out(14, 10) is None  # one frame more does not reach past the end
    scene.rule.passed(PASS_S, nodes=1, accepted=0, committed=1, length=12, live=False)  # the line was contradicted
    assert scene.rule.sits_out(12, 10) is None
    scene.frames(2, 12, 11)
    assert scene.rule.sits_out(13, 11) is None  # the device does not know yet
    scene.frames(2, 13, 12)
    assert scene.rule.sits_out(14, 12) is not None


def test_waiting_is_paid_from_a_purse_however_it_ends() -> None:
    scene = Scene()
    paid = 0.0
    for _ in range(50):
        scene.frames(3, 10, 10)
        until = scene.rule.sits_out(12, 10)
        if until is None:
            break
        paid += until - scene.now
        scene.now = until
        scene.rule.goes_on()
    assert paid == pytest.approx(PASS_S)  # one pass, since no draft has saved anything
    scene.rule.passed(PASS_S, nodes=3, accepted=3, committed=4, length=16, live=False)
    assert scene.rule.purse_s == pytest.approx(3 * PASS_S)


def matches(acceptance: float, tokens: int, seed: int) -> MatchRun:
    chance = Random(seed)
    return MatchRun(tuple(range(1, tokens + 1)), tuple(chance.random() < acceptance for _ in range(tokens)))


def rate(run: MatchRun, rtt_s: float, conduct: Conduct) -> float:
    shape = Shape(Constant(rtt_s / 2))
    world = World(Costs(DRAFT_S, by_positions(TARGET.seconds)))
    (text,) = world.one_by_one([run], conduct, Link.of(shape, shape, Random(0)))
    return (text.tokens - text.arrivals[0][1]) / text.seconds


def ahead(frame: int = 1) -> Conduct:
    return Conduct(Plan(frame, 64), Limits(1 << 24), run_ahead=True)


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("rtt_ms", [0, 10, 30, 60, 100, 200, 300])
def test_it_never_loses_against_the_edge_alone(acceptance: float, rtt_ms: int) -> None:
    run = matches(acceptance, 400, seed=rtt_ms)
    assert rate(run, rtt_ms / 1e3, ahead()) >= 0.97 / PASS_S


@pytest.mark.parametrize(("rtt_ms", "least"), [(0, 1.80), (10, 1.60), (30, 1.42), (60, 1.25), (100, 1.13), (200, 1.02)])
@pytest.mark.parametrize("frame", [1, 2, 4])
def test_what_it_is_worth_with_a_good_drafter(rtt_ms: int, least: float, frame: int) -> None:
    """Frames longer than what the device drafts in a pass must not leave it behind for ever."""
    run = matches(0.8, 2500, seed=3)
    assert rate(run, rtt_ms / 1e3, ahead(frame)) * PASS_S >= least * (1 if frame == 1 else 0.97)


# ---- in company ----


def together(sessions: int, plain_s: float = 0.030) -> tuple[Scene, Company]:
    """A scene whose rule shares its engine."""
    scene, company = Scene(), Company(sessions, plain_s)
    scene.rule = RunAhead(lambda: scene.now, company)
    return scene, company


def commit(scene: Scene, tokens: int, after_s: float, nodes: int = 1) -> None:
    scene.now += after_s
    scene.rule.passed(PASS_S, nodes=nodes, accepted=tokens - 1, committed=tokens, length=10, live=True)


def test_in_company_nobody_sits_out_and_alone_nothing_has_changed() -> None:
    scene = Scene()
    scene.frames(3, 10, 10)
    alone = scene.rule.sits_out(12, 10)
    assert alone is not None
    scene.rule._company.sessions = 2  # another session came
    assert scene.rule.sits_out(12, 10) is None
    scene.rule._company.sessions = 1
    assert scene.rule.sits_out(12, 10) == alone


def test_a_session_without_a_lead_waits_for_no_longer_than_a_plain_step() -> None:
    scene, _ = together(16)
    assert scene.rule.begins_by(0.030) is None  # nothing is committed yet
    commit(scene, 1, 0.0)
    assert scene.rule.begins_by(0.030) == pytest.approx(scene.now)
    assert scene.rule.begins_by(0.020) == pytest.approx(scene.now + 0.010)
    commit(scene, 1, 0.050)  # late: that much is to be made up first
    assert scene.rule.lead_s < 0
    assert scene.rule.begins_by(0.030) == pytest.approx(scene.now)


def test_what_drafts_saved_is_lead_and_a_share_of_it_may_be_waited_for() -> None:
    scene, company = together(16)
    commit(scene, 1, 0.0)
    for _ in range(5):
        commit(scene, 4, 0.040)
    kept = company.kept
    assert 0 < kept < 0.05
    lead_s = 5 * (4 * 0.030 * (1 - kept) - 0.040)
    assert scene.rule.lead_s == pytest.approx(lead_s)
    assert scene.rule.begins_by(0.030) == pytest.approx(scene.now + SPENT * lead_s)
    commit(scene, 1, 0.030 + SPENT * lead_s)
    assert scene.rule.lead_s == pytest.approx(lead_s * (1 - SPENT) - 0.030 * kept)


def test_few_sessions_keep_all_that_their_drafts_save() -> None:
    for sessions in (1, FEW):
        scene, _ = together(sessions)
        commit(scene, 1, 0.0)
        for _ in range(20):
            commit(scene, 8, 0.035)
        assert scene.rule.lead_s <= 0


def test_lead_and_lateness_are_bounded() -> None:
    scene, _ = together(64)
    commit(scene, 1, 0.0)
    commit(scene, 1, 1e3)  # the device was away
    assert scene.rule.lead_s == pytest.approx(-MOST_BEHIND * 0.030)
    for _ in range(1000):
        commit(scene, 9, 0.035)
    assert scene.rule.lead_s == pytest.approx(MOST_AHEAD * 0.030)


def test_the_lead_of_a_device_that_fell_silent_is_not_spent() -> None:
    scene, _ = together(16)
    commit(scene, 1, 0.0)
    for _ in range(20):
        commit(scene, 8, 0.035)
    for _ in range(DRY):
        assert (scene.rule.begins_by(0.030) or 0.0) > scene.now
        commit(scene, 1, 0.030, nodes=0)
    assert scene.rule.begins_by(0.030) == pytest.approx(scene.now)
    commit(scene, 2, 0.030)
    assert (scene.rule.begins_by(0.030) or 0.0) > scene.now


def test_time_away_from_the_edge_counts_for_nothing() -> None:
    scene, _ = together(16)
    commit(scene, 1, 0.0)
    commit(scene, 4, 0.030)
    lead_s = scene.rule.lead_s
    scene.rule.attached()
    commit(scene, 1, 10.0)
    assert scene.rule.lead_s == lead_s


def test_a_draft_that_is_not_worth_its_place_is_verified_now_and_then() -> None:
    scene = Scene()
    probed = []
    for _ in range(2 * DRY):
        scene.rule.passed(PASS_S, nodes=0, accepted=0, committed=1, length=10, live=False)
        probed.append(scene.rule.probes)
    assert 1 <= sum(probed) <= 2
    scene.rule.passed(PASS_S, nodes=1, accepted=1, committed=2, length=12, live=False)
    assert not scene.rule.probes


def test_rows_of_a_prompt_are_no_measure_of_a_token() -> None:
    scene = Scene()
    saved_s = scene.rule.purse_s
    scene.rule.passed(6 * PASS_S, nodes=0, accepted=0, committed=1, length=11, live=False, alone=False)
    scene.rule.passed(6 * PASS_S, nodes=2, accepted=2, committed=3, length=14, live=False, alone=False)
    assert scene.rule.purse_s == pytest.approx(saved_s)


def test_a_wait_that_a_lost_link_ended_is_not_paid_for() -> None:
    scene = Scene()
    scene.frames(3, 10, 10)
    assert scene.rule.sits_out(12, 10) is not None
    scene.now += 20.0
    scene.rule.attached()
    scene.rule.goes_on()
    assert scene.rule.purse_s == pytest.approx(PASS_S)
