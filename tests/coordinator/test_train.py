"""The network: asked as documented, trained to what the logs show, and refused where it is for something else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.costs import PassCost, RoundCost
from coordinator.policy.draft_length import ARMS, Network
from coordinator.policy.mlp import FEATURES, HIDDEN, Mlp, base_costs, features, from_json, inputs, shipped
from coordinator.policy.rounds import Drafting, Outcome, RoundTime
from coordinator.policy.train import Rounds, log_line, loss, main, train

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


def test_base_costs_are_the_synchronous_splits() -> None:
    known = features(TIME, AcceptanceByPosition(0.8))
    costs = base_costs(np.array(known), np.array([1.0, 4.0, 12.0])) * 0.03
    cost = RoundCost(0.06, 0.008, TIME.target, 0.8)
    assert costs == pytest.approx([cost.split_s(length) for length in (1, 4, 12)])


def test_a_network_is_the_layers_that_it_says_it_is() -> None:
    chance = np.random.default_rng(1)
    mlp = Mlp(chance.normal(size=(len(FEATURES) + 1, HIDDEN)), chance.normal(size=HIDDEN), chance.normal(size=HIDDEN))
    known = features(TIME, AcceptanceByPosition(0.6))
    for length, cost in mlp.costs(known, (3, 20)).items():
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
    rounds = Rounds.read(logged())
    mlp = train(rounds, steps=600)
    assert loss(plain(), rounds) == pytest.approx(0)
    assert loss(mlp, rounds) < -0.02
    now = Drafting(RoundTime(0.15, 0.008, PassCost(0.03, 0.0003)), AcceptanceByPosition(0.85))
    assert Network(plain()).length(now) >= 10
    assert Network(mlp).length(now) <= 6


def test_training_is_the_same_for_the_same_seed() -> None:
    rounds = Rounds.read(logged(5, 20))
    assert train(rounds, 4, steps=20).to_json() == train(rounds, 4, steps=20).to_json()
    assert train(rounds, 4, steps=20).to_json() != train(rounds, 5, steps=20).to_json()


def test_the_loss_is_least_at_the_ratio_of_means() -> None:
    """Rounds of one state: a factor that is the ratio of sums beats those beside it."""
    rounds = Rounds.read(logged(1, 400))
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
    mlp = train(Rounds.read(logged(5, 20)), steps=20)
    again = from_json(mlp.to_json())
    known = features(TIME, AcceptanceByPosition(0.7))
    assert list(again.costs(known, ARMS).values()) == pytest.approx(list(mlp.costs(known, ARMS).values()), rel=1e-4)


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


@pytest.mark.parametrize("line", ["[1, 2]", "no json", '{"a": 1}', "[" + ", ".join(["NaN"] * 9) + "]"])
def test_a_malformed_log_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match="line 3"):
        Rounds.read([*logged(1, 2), line])


def test_the_command_writes_weights_and_tells_of_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = tmp_path / "rounds.jsonl", tmp_path / "weights.json"
    log.write_text("\n".join(logged(5, 20)))
    assert main([str(log), "--out", str(out)]) == 0
    from_json(out.read_text())
    assert "100 rounds" in capsys.readouterr().err
    assert main([str(tmp_path / "absent")]) == 2
    log.write_text("")
    assert main([str(log)]) == 2
    assert "no round" in capsys.readouterr().err
