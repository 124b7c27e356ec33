"""The network: asked as documented, trained to what the logs show, and refused where it is for something else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from coordinator.__main__ import app
from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.costs import PassCost, RoundCost
from coordinator.policy.draft_length import ARMS, Network
from coordinator.policy.mlp import FEATURES, HIDDEN, LengthCosts, Mlp, base_costs, features, from_json, inputs, shipped
from coordinator.policy.rounds import Drafting, Outcome, RoundTime
from coordinator.policy.train import LEAST_ROUNDS, Rounds, log_line, loss, row_of, train

TIME = RoundTime(0.06, 0.008, PassCost(0.03, 0.0003))


def plain() -> Mlp:
    return Mlp(np.zeros((len(FEATURES) + 1, HIDDEN)), np.zeros(HIDDEN), np.zeros(HIDDEN))


def logged(worlds: int = 60, rounds: int = 60) -> list[str]:
    """Return a log in which long drafts fare worse than equal chances say: from the fifth token on all are wrong."""
    chance, lines = np.random.default_rng(3), []
    for _ in range(worlds):
        time = RoundTime(float(chance.uniform(0, 0.2)), 0.008, PassCost(0.03, 0.0003))
        known = AcceptanceByPosition(float(chance.uniform(0.4, 0.9)))
        for _ in range(rounds):
            drafted = int(chance.choice(ARMS))
            right = chance.random(4) < known.prior
            accepted = min(drafted, int(np.argmin([*right, False])))
            lines.append(log_line(Drafting(time, known), Outcome(drafted, accepted), time.seconds(drafted)))
    return lines


def rounds_of(lines: list[str]) -> Rounds:
    return Rounds.of(row_of(line) for line in lines)


def test_base_costs_are_the_synchronous_splits() -> None:
    known = features(TIME, AcceptanceByPosition(0.8))
    costs = base_costs(np.array(known), np.array([1.0, 4.0, 12.0])) * 0.03
    cost = RoundCost(0.06, 0.008, TIME.target, 0.8)
    assert costs == pytest.approx([cost.split_s(length) for length in (1, 4, 12)])


def test_a_network_is_the_layers_that_it_says_it_is() -> None:
    chance = np.random.default_rng(1)
    mlp = Mlp(chance.normal(size=(len(FEATURES) + 1, HIDDEN)), chance.normal(size=HIDDEN), chance.normal(size=HIDDEN))
    known = features(TIME, AcceptanceByPosition(0.6))
    for length, cost in zip((3, 20), LengthCosts(mlp, (3, 20))(known), strict=True):
        (read,) = inputs(np.array(known), np.array([float(length)]))
        hidden = [max(0.0, float(read @ mlp.hidden[:, unit] + mlp.bias[unit])) for unit in range(HIDDEN)]
        factor = max(0.2, 1 + sum(value * out for value, out in zip(hidden, mlp.out, strict=True)))
        assert cost == pytest.approx(factor * base_costs(np.array(known), np.array([float(length)]))[0])


def test_a_network_that_learnt_nothing_chooses_by_equal_chances() -> None:
    for prior in (0.4, 0.7, 0.9):
        cost = RoundCost(0.06, 0.008, TIME.target, prior)
        chosen = Network(plain()).length(Drafting(TIME, AcceptanceByPosition(prior)))
        assert chosen == min(ARMS, key=cost.split_s)


def test_training_finds_what_equal_chances_cannot_say() -> None:
    rounds = rounds_of(logged())
    mlp = train(rounds, steps=600)
    assert loss(plain(), rounds) == pytest.approx(0)
    assert loss(mlp, rounds) < -0.02
    now = Drafting(RoundTime(0.15, 0.008, PassCost(0.03, 0.0003)), AcceptanceByPosition(0.85))
    assert Network(plain()).length(now) >= 10
    assert Network(mlp).length(now) <= 8


def test_training_is_the_same_for_the_same_seed() -> None:
    rounds = rounds_of(logged(5, 20))
    assert train(rounds, 4, steps=20).to_json() == train(rounds, 4, steps=20).to_json()
    assert train(rounds, 4, steps=20).to_json() != train(rounds, 5, steps=20).to_json()


def test_the_loss_is_least_at_the_ratio_of_means() -> None:
    """Rounds of one state: a factor that is the ratio of sums beats those beside it."""
    rounds = rounds_of(logged(1, 400))
    base = base_costs(rounds.known, rounds.lengths)
    chance = rounds.known[:, 0]
    scale = (1 - chance) / (1 - chance ** (rounds.lengths + 1))
    ratio = float((scale * rounds.passes / base).sum() / (scale * rounds.tokens).sum())

    def constant(factor: float) -> Mlp:
        out = np.zeros(HIDDEN)
        out[0] = factor - 1
        bias = np.zeros(HIDDEN)
        bias[0] = 1
        return Mlp(np.zeros((len(FEATURES) + 1, HIDDEN)), bias, out)

    losses = [loss(constant(factor), rounds) for factor in (0.9 * ratio, ratio, 1.1 * ratio)]
    assert losses[1] == min(losses)


def test_weights_survive_the_way_through_a_file() -> None:
    mlp = train(rounds_of(logged(5, 20)), steps=20)
    again = from_json(mlp.to_json())
    known = features(TIME, AcceptanceByPosition(0.7))
    assert LengthCosts(again, ARMS)(known) == pytest.approx(LengthCosts(mlp, ARMS)(known), rel=1e-4)


def test_weights_for_something_else_are_refused() -> None:
    told = json.loads(plain().to_json())
    with pytest.raises(ValueError, match="train them again"):
        from_json(json.dumps({**told, "features": ["acceptance"]}))
    with pytest.raises(ValueError, match="train them again"):
        from_json(json.dumps({**told, "bias": [0.0]}))


def test_the_shipped_weights_are_small_corrections() -> None:
    for prior in (0.4, 0.6, 0.8, 0.9):
        for round_trip_s in (0.0, 0.06, 0.2):
            now = Drafting(RoundTime(round_trip_s, 0.008, TIME.target), AcceptanceByPosition(prior))
            known = np.array(features(now.time, now.acceptance))
            factors = shipped().factor(inputs(known, np.array(ARMS, dtype=np.float64)))
            assert 0.6 < factors.min() <= factors.max() < 1.6


@pytest.mark.parametrize(
    ("text", "said"),
    [("{}", "'features'"), ("[1]", "not weights"), ("{", "not weights"), ("null", "not weights"), ("", "not weights")],
)
def test_text_that_is_no_weights_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_json(text)
    told = json.loads(plain().to_json())
    with pytest.raises(ValueError, match="not all finite"):
        from_json(json.dumps({**told, "bias": [float("nan")] * HIDDEN}))


# ---- logs ----


def test_a_round_survives_the_way_through_a_log() -> None:
    now = Drafting(TIME, AcceptanceByPosition(0.8).updated(4, 2))
    row = row_of(log_line(now, Outcome(5, 3), 0.13))
    assert row == pytest.approx((*features(now.time, now.acceptance), 5, 4, 0.13 / 0.03), rel=1e-4)
    free = RoundTime(0.06, 0.008, PassCost(0.0))  # an edge whose passes seem to cost nothing
    assert row_of(log_line(Drafting(free, now.acceptance), Outcome(1, 0), 0.07))[-1] == pytest.approx(7e4)


GOOD = (0.7, 0.7, 0.7, 1.0, 0.2, 0.01, 4, 3, 3.5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1, 2]", "2 numbers, not 6 features"),
        ("no json", "not a list of numbers"),
        ('{"a": 1}', "not a list of numbers"),
        ("7", "not a list of numbers"),
        ("", "not a list of numbers"),
        (json.dumps([*GOOD[:-1], float("nan")]), "out of its range"),
        (json.dumps([1.0, *GOOD[1:]]), "out of its range"),
        (json.dumps([*GOOD[:-1], -1.0]), "out of its range"),
        (json.dumps([*GOOD[:6], 4, 6, 3.5]), "a draft of 4 tokens does not bring in 6"),
        (json.dumps([*GOOD[:6], 400, 6, 3.5]), "the longest is 32"),
    ],
)
def test_a_line_that_is_no_round_is_refused(line: str, said: str) -> None:
    assert row_of(json.dumps(GOOD)) == pytest.approx(GOOD)
    with pytest.raises(ValueError, match=said):
        row_of(line)


def test_rounds_that_teach_nothing_are_refused() -> None:
    lines = logged(1, LEAST_ROUNDS)
    rounds_of(lines).check()
    with pytest.raises(ValueError, match=rf"{LEAST_ROUNDS - 1} rounds .* too few"):
        rounds_of(lines[1:]).check()
    with pytest.raises(ValueError, match="all drafts have 4 tokens"):
        rounds_of([json.dumps(GOOD)] * LEAST_ROUNDS).check()
    undrafted = json.dumps([*GOOD[:6], 0, 1, 3.5])
    with pytest.raises(ValueError, match=r"^0 rounds"):
        rounds_of([undrafted] * LEAST_ROUNDS).check()


def test_few_rounds_of_one_link_leave_choices_on_others_alone() -> None:
    """Rounds at a round trip of 20 ms alone: at 300 ms the network says about what it says untrained."""
    chance = np.random.default_rng(5)
    near, far = (RoundTime(trip_s, 0.008, PassCost(0.03, 0.0003)) for trip_s in (0.02, 0.3))
    lines = []
    for _ in range(LEAST_ROUNDS):
        known, drafted = AcceptanceByPosition(float(chance.uniform(0.5, 0.8))), int(chance.choice(ARMS[:6]))
        accepted = min(drafted, int(chance.geometric(1 - known.prior)) - 1)
        lines.append(log_line(Drafting(near, known), Outcome(drafted, accepted), near.seconds(drafted)))
    mlp = train(rounds_of(lines), steps=600)
    state = np.array(features(far, AcceptanceByPosition(0.9)))
    assert np.abs(mlp.factor(inputs(state, np.array(ARMS, dtype=np.float64))) - 1).max() < 0.35


def test_the_rounds_to_try_a_network_on_are_none_that_it_was_trained_on() -> None:
    rounds = rounds_of(logged(10, 100))
    trained_on, tried_on = rounds.parted(3)
    assert len(trained_on) + len(tried_on) == len(rounds)
    assert 0.15 < len(tried_on) / len(rounds) < 0.25
    assert sorted([*trained_on.passes, *tried_on.passes]) == sorted(rounds.passes)


# ---- the command ----


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train-draft-length", *map(str, arguments)])


def test_the_command_writes_weights_that_a_policy_takes(tmp_path: Path) -> None:
    first, second, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "weights.json"
    lines = logged(30, 60)
    first.write_text("\n".join(lines[:900]))
    second.write_text("\n".join(lines[900:]) + "\n")
    done = command(first, second, "--out", out)
    assert done.exit_code == 0
    assert done.stdout.startswith("1800 rounds; loss on ")
    assert ": -0.0" in done.stdout
    now = Drafting(RoundTime(0.15, 0.008, PassCost(0.03, 0.0003)), AcceptanceByPosition(0.85))
    assert Network(from_json(out.read_text())).length(now) < Network(plain()).length(now)


def test_the_command_tells_what_is_wrong_and_where(tmp_path: Path) -> None:
    log, out = tmp_path / "rounds.jsonl", tmp_path / "weights.json"
    absent = command(log, "--out", out)
    assert (absent.exit_code, absent.stderr) == (2, f"coordinator: {log}: No such file or directory\n")
    log.write_text("\n".join([*logged(1, 2), "[1, 2]"]))
    torn = command(log, "--out", out)
    assert (torn.exit_code, torn.stderr) == (
        2,
        f"coordinator: {log}:3: 2 numbers, not 6 features, length, tokens and passes\n",
    )
    log.write_bytes(b"\xff\xfe\x00")
    assert f"{log}:1: not a list of numbers" in command(log, "--out", out).stderr
    log.write_text("\n".join(logged(1, 50)))
    few = command(log, "--out", out)
    assert few.exit_code == 2
    assert few.stderr.startswith("coordinator: 50 rounds with a drafted token are too few")
    assert not out.exists()
    log.write_text("\n".join(logged(20, 60)))
    nowhere = command(log, "--out", tmp_path / "no" / "weights.json")
    assert (nowhere.exit_code, nowhere.stderr.startswith("coordinator: ")) == (2, True)
