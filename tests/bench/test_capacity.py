"""The capacity bench: its rule is a target, its devices keep the protocol, and gathering pays in the simulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from airdraft.core.types import Plan, Sampling, Span
from bench.capacity import RuleDrafter, measured, texts
from bench.capacity_devices import Pace
from bench.capacity_engine import RuleRunner, next_token, written
from bench.capacity_sim import simulated
from bench.engine_paced import SHARED
from bench.engine_paced_edge import paced_edge
from coordinator.policy.costs import PassCost
from edge_node.step import Extent, Item, Step

SAMPLED = 200


def test_the_rule_reads_a_tree_by_depth() -> None:
    chain = Span(5, (9, 8, 7), wanted=(0, 2))
    tree = Span(5, (9, 8, 7), parents=(-1, 0, 0), wanted=(1, 2))
    items = tuple(Item(Extent(0, 64), span, Sampling()) for span in (chain, tree))
    done = RuleRunner().run(Step(1, items))
    assert done.positions == 6
    assert done.outcomes[0].choices == (next_token(9, 5), next_token(7, 7))
    assert done.outcomes[1].choices == (next_token(8, 6), next_token(7, 6))


def test_the_drafter_misses_where_it_is_told_to_and_after_that() -> None:
    (run,) = texts(1, SAMPLED, seed=3)
    drafter, path = RuleDrafter(run), list(run.prompt)
    for right, token in zip(run.matched, run.ids, strict=True):
        assert (drafter.propose(path, 1, lambda: False) == [token]) == right
        path.append(token)
    miss = run.matched.index(False)
    drafted = drafter.propose(run.prompt, miss + 3, lambda: False)
    assert drafted[:miss] == list(run.ids[:miss])
    assert all(mine != theirs for mine, theirs in zip(drafted[miss:], run.ids[miss:], strict=False))
    assert written(run.prompt, SAMPLED) == run.ids


@pytest.mark.parametrize("sessions", [4, 16])
def test_holding_steps_back_saves_edge_seconds_and_leaves_all_at_least_plain(sessions: int) -> None:
    runs = texts(sessions, 400, seed=1)
    held = simulated(runs, 0.030, SHARED, plan=Plan(1, 64))
    greedy = simulated(runs, 0.030, SHARED, plan=Plan(1, 64), holds=False)
    assert held.over_plain > 1.05 * greedy.over_plain
    assert greedy.wall_over_plain > held.wall_over_plain  # not for nothing
    assert held.slowest_over_plain >= 1


def test_one_session_is_as_fast_as_without_company() -> None:
    runs = texts(1, 400, seed=1)
    held, greedy = (simulated(runs, 0.030, SHARED, plan=Plan(1, 64), holds=holds) for holds in (True, False))
    assert held == greedy


@pytest.mark.parametrize("plan", [Plan(0), Plan(1, 64), Plan(4, 64)])
def test_paced_devices_get_the_rules_text_and_busy_seconds_are_the_log(tmp_path: Path, plan: Plan) -> None:
    line = PassCost(0.004, 0.0001)
    log = tmp_path / "passes.log"
    with paced_edge(tmp_path, log, line, "bench.capacity_engine", ahead="ahead") as address:
        share, _ = measured(address, log, texts(3, 60, seed=2), Pace(0.002, 0.002, plan))
    assert share.sessions == 3
    assert 0 < share.busy_s <= share.seconds * 1.1
    assert share.slowest_tokens <= share.tokens / 3
