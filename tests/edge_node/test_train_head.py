"""Training of a head: calibration, relabelling, the rehearsal of thresholds, and the commands of the guide."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from airdraft.core.meaning import Channel
from edge_node.__main__ import app
from edge_node.heads import load_head
from edge_node.labels.calibration import calibration_error, isotonic, ranking, upper95
from edge_node.labels.fitting import Recipe, fit
from edge_node.labels.mining import load_pair
from edge_node.labels.problems import Problem
from edge_node.labels.rehearsal import rehearse
from edge_node.labels.relabelling import (
    CHANNEL_MEAN,
    CHANNEL_SCALE,
    corners,
    drawn_channels,
    relabelling,
    round_bytes,
    round_cost_s,
)
from edge_node.labels.search import Pair
from edge_node.labels.speculate import Score, Written, write_answers
from edge_node.labels.training import score_of, split_of
from models.evaluate import greedy, load_model
from models.tokenizer import end_token, load_tokenizer
from models.wordproblems import word_problem
from tests.edge_node.test_heads import FEATURES, STATE
from tests.edge_node.test_heads import head as random_head

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"
TOKENIZER = load_tokenizer(DEMO / "target")
END = end_token(TOKENIZER)
MOST = 100


# ---- calibration ----


def test_pools_are_the_least_squares_fit_that_never_falls() -> None:
    logits = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    fitted = isotonic(logits, np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0]))
    assert fitted.x.tolist() == [0.0, 2.0, 4.5]  # pools of 1, 3 and 2
    assert fitted.y.tolist() == [0.5 / 2, 1.5 / 4, 2.5 / 3]


def test_a_calibration_makes_chances_of_scores() -> None:
    chance = np.random.default_rng(0)
    scores = chance.normal(size=20_000)
    truth = 1 / (1 + np.exp(-3 * scores - 1))
    harms = (chance.random(20_000) < truth).astype(np.float64)
    fitted = isotonic(scores[:10_000], harms[:10_000])
    risks = fitted.risks(scores[10_000:])
    assert (np.diff(fitted.x) > 0).all()
    assert (np.diff(fitted.y) >= 0).all()
    assert fitted.y.min() > 0  # no pool is proof that there is no harm
    assert calibration_error(risks, harms[10_000:]) < 0.02
    assert np.abs(risks - truth[10_000:]).mean() < 0.03
    assert calibration_error(risks**2, harms[10_000:]) > 0.05


def test_the_error_is_that_of_bins_of_equal_count() -> None:
    risks = np.linspace(0, 1, 1000)
    harms = (np.arange(1000) % 2).astype(np.float64)
    expected = np.mean([abs((low + 0.05) - 0.5) for low in np.arange(0, 1, 0.1)])
    assert calibration_error(risks, harms) == pytest.approx(expected, abs=1e-3)


def test_ranking_counts_pairs() -> None:
    chance = np.random.default_rng(1)
    scores, harmful = chance.integers(0, 6, 60).astype(float), chance.random(60) < 0.4
    pairs = [(bad > good) + (bad == good) / 2 for bad in scores[harmful] for good in scores[~harmful]]
    assert ranking(scores, harmful) == pytest.approx(np.mean(pairs))
    assert ranking(scores, np.ones(60, dtype=np.bool_)) == 0.5


@pytest.mark.parametrize(("worse", "count"), [(0, 300), (1, 300), (8, 1500), (40, 4000), (5, 10)])
def test_the_upper_end_is_where_so_few_are_seen_with_five_per_cent(worse: int, count: int) -> None:
    share = upper95(worse, count)
    seen = sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(worse + 1))
    assert seen == pytest.approx(0.05, abs=1e-6)
    assert share > worse / count


def test_no_loss_seen_is_no_proof_of_none() -> None:
    assert upper95(0, 1500) == pytest.approx(1 - 0.05 ** (1 / 1500))
    assert upper95(0, 1500) == pytest.approx(3 / 1500, rel=0.01)
    assert upper95(7, 7) == 1.0


# ---- training ----


def test_an_mlp_learns_what_a_logistic_head_cannot() -> None:
    chance = np.random.default_rng(2)
    inputs = (chance.normal(size=(4000, 4)) * [1, 50, 0.01, 1] + [0, 900, 3, 0]).astype(np.float32)
    harms = ((inputs[:, 0] > 0) ^ (inputs[:, 1] > 900)).astype(np.float32)
    areas = {}
    for kind in ("logistic", "mlp"):
        weights = fit(inputs[:3000], harms[:3000], Recipe(kind=kind, batch=64))
        areas[kind] = ranking(weights.logits(inputs[3000:]), harms[3000:] > 0.5)
    assert areas["mlp"] > 0.97
    assert areas["logistic"] < 0.7


def test_a_logistic_head_is_one_row_whose_output_is_itself() -> None:
    chance = np.random.default_rng(3)
    inputs = chance.normal(size=(500, 3)).astype(np.float32)
    weights = fit(inputs, (inputs[:, 0] > 0).astype(np.float32), Recipe(kind="logistic", batch=50))
    assert weights.first.shape == (1, 3)
    assert weights.out.tolist() == [1.0]
    assert weights.out_bias == 0.0
    assert not weights.relu
    assert np.allclose(weights.logits(inputs), inputs @ weights.first[0] + weights.bias[0], atol=1e-5)


def test_the_same_seed_trains_the_same_head() -> None:
    chance = np.random.default_rng(4)
    inputs, harms = chance.normal(size=(300, 5)).astype(np.float32), chance.random(300).astype(np.float32)
    one, two = (fit(inputs, harms, Recipe(width=4, epochs=2, seed=7)) for _ in range(2))
    assert np.array_equal(one.first, two.first)


def test_labels_of_a_problem_never_straddle() -> None:
    problems = np.repeat(np.arange(100), np.arange(100) % 7).astype(np.int32)
    split = split_of(problems, 0)
    assert (np.sum(split, axis=0) == 1).all()
    sets = [set(problems[part].tolist()) for part in split]
    assert not sets[0] & sets[1] | sets[1] & sets[2] | sets[0] & sets[2]
    assert all(sets)


@pytest.mark.parametrize("full", [True, False])
def test_many_risks_at_once_are_those_of_the_front(full: bool) -> None:
    """What the table is measured by is what a session is judged by."""
    head = random_head(full=full)
    chance = np.random.default_rng(5)
    features = chance.normal(size=(40, FEATURES)).astype(np.float32)
    states = chance.normal(size=(40, STATE)).astype(np.float32)
    tail, partials = head.tail, features @ head.target.T
    mean, scale = tail.channel_mean.astype(float), tail.channel_scale.astype(float)
    for standard in (None, np.array([2.0, -2.0], dtype=np.float32), np.array([-0.5, 1.0], dtype=np.float32)):
        at = Channel() if standard is None else Channel(*np.exp(standard * scale + mean).tolist())
        expected = [tail.risk(row, state, at) for row, state in zip(partials, states, strict=True)]
        assert score_of(head, standard)(features, states) == pytest.approx(expected, abs=1e-5)


# ---- relabelling ----


def test_a_dear_round_makes_more_harmless() -> None:
    harms = np.array([0.0, 0.25, 0.5, 0.75, 1.0] * 20, dtype=np.float32)
    problems = np.arange(100, dtype=np.int32)
    made = relabelling(harms, problems, round_bytes(16, 128), budget=0.2)  # 0.25 and 0.5 cost 0.15, 0.75 as well 0.3
    near, far = (np.log([[0.005, 500e6 / 8], [0.3, 0.5e6 / 8]]) - CHANNEL_MEAN) / CHANNEL_SCALE
    labels = {name: made.labels(harms[:5], np.tile(at, (5, 1))).tolist() for name, at in (("near", near), ("far", far))}
    assert labels == {"near": [0, 1, 1, 1, 1], "far": [0, 0, 0, 1, 1]}


def test_what_is_harmful_in_every_ending_is_so_everywhere() -> None:
    harms = np.ones(50, dtype=np.float32)
    made = relabelling(harms, np.arange(50, dtype=np.int32), 1e6, budget=1.0)
    assert made.labels(harms, drawn_channels(50, np.random.default_rng(0))).all()
    assert replace(made, price=1e6).labels(harms, drawn_channels(50, np.random.default_rng(0))).all()


def test_the_cost_of_a_round_is_its_time() -> None:
    standard = (np.log([[0.1, 1e6]]) - CHANNEL_MEAN) / CHANNEL_SCALE
    assert round_cost_s(standard.astype(np.float32), 5e5).tolist() == pytest.approx([0.6], rel=1e-5)
    assert round_bytes(16, 2048) == 16 * (4 + 2 * 2048)  # WISV's upload, in float16


def test_corners_are_where_no_report_reaches_beyond() -> None:
    tail = random_head().tail
    own = replace(tail, channel_mean=CHANNEL_MEAN, channel_scale=CHANNEL_SCALE)
    for channel, standard in corners():
        assert channel.round_trip_s is not None
        assert channel.up_bytes_s is not None
        farther = Channel(*np.exp(standard * 3 * CHANNEL_SCALE + CHANNEL_MEAN).tolist())
        partial, state = np.ones(tail.width), np.ones(STATE)
        assert own.logit(partial, state, channel) == pytest.approx(own.logit(partial, state, farther), abs=1e-4)


# ---- the rehearsal ----


@cache
def pair_of(places: int) -> Pair:
    return Pair(*load_pair("demo", "drafter", "cpu", "auto"), places, 0, 192)


@cache
def prompts() -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(TOKENIZER.encode(word_problem("held-out", at).prompt).ids) for at in range(6))


def answers(score: Score, thresholds: Sequence[float], *, draft_length: int = 8, places: int = 6) -> Written:
    return write_answers(pair_of(places), prompts(), thresholds, score, draft_length=draft_length, max_tokens=MOST)


def none_harmful(features: NDArray[np.float32], states: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.zeros(len(features))


def by_probability(features: NDArray[np.float32], states: NDArray[np.float32]) -> NDArray[np.float64]:
    """A made-up risk that differs from swap to swap: the target's doubt of the drafted token."""
    return np.clip(-features[:, -6].astype(float) / 20, 0, 1)


@pytest.mark.parametrize("draft_length", [1, 8, 16])
def test_a_threshold_of_zero_writes_the_targets_own_text(draft_length: int) -> None:
    written = answers(none_harmful, [0.0], draft_length=draft_length)
    own = greedy(load_model(DEMO / "target"), prompts(), END)
    assert [row[0] for row in written.texts] == own
    assert written.by_meaning.sum() == 0
    assert written.spent.sum() == 0
    assert (written.rounds[:, 0] * (draft_length + 1) >= [len(text) for text in own]).all()


def test_with_nothing_harmful_the_drafter_writes_but_for_bonus_and_end() -> None:
    written = answers(none_harmful, [1.0], draft_length=200 - 100)
    drafter = greedy(load_model(DEMO / "drafter"), prompts(), END)
    same = sum(row[0] == own for row, own in zip(written.texts, drafter, strict=True))
    assert same >= len(drafter) - 2  # where the two end elsewhere
    assert (written.rounds >= 1).all()
    assert written.by_meaning.sum() > 0


def test_thresholds_together_are_thresholds_alone() -> None:
    limits = [0.0, 0.1, 0.2, 0.3, 0.5, 1.0]
    together = answers(by_probability, limits)
    assert len({row[1:3] for row in [tuple(texts) for texts in together.texts]}) > 1
    for at, limit in enumerate(limits):
        alone = answers(by_probability, [limit])
        assert [row[0] for row in alone.texts] == [row[at] for row in together.texts]
        for name in ("rounds", "accepted", "by_meaning"):
            assert np.array_equal(getattr(alone, name)[:, 0], getattr(together, name)[:, at])
        assert np.allclose(alone.spent[:, 0], together.spent[:, at])


def test_few_places_make_the_same_texts() -> None:
    limits = [0.0, 0.2, 0.4, 1.0]
    assert answers(by_probability, limits, places=1).texts == answers(by_probability, limits).texts


def test_spent_adds_up_as_chances_do() -> None:
    written = answers(lambda features, states: np.full(len(features), 0.1), [0.1])
    assert np.allclose(written.spent, 1 - 0.9**written.by_meaning)


def test_a_risk_on_the_threshold_stands() -> None:
    at = answers(lambda features, states: np.full(len(features), 0.1), [0.0999, 0.1])
    assert at.by_meaning[:, 0].sum() == 0
    assert at.by_meaning[:, 1].sum() > 0


def test_what_is_lost_is_counted_against_the_true_answers() -> None:
    problems = [
        Problem(word_problem("held-out", at).prompt, str(word_problem("held-out", at).answer)) for at in range(6)
    ]
    given = {"check": "number", "draft_length": 8, "max_tokens": MOST, "thresholds": (0.01, 0.5)}
    lax = rehearse(pair_of(6), problems, none_harmful, **given)  # type: ignore[arg-type]
    written = answers(none_harmful, [0.01])
    wrong = sum(
        f"#### {one.answer}" not in TOKENIZER.decode(row[0]) for one, row in zip(problems, written.texts, strict=True)
    )
    assert wrong > 0
    assert lax.table.loss_mean.tolist() == [wrong / 6] * 2
    assert lax.table.loss_upper95.tolist() == [upper95(wrong, 6)] * 2
    assert lax.lengths[0] > lax.exact_length
    assert lax.table.threshold(0.01) == 0.0  # six problems bear nothing out
    strict = rehearse(pair_of(6), problems, lambda f, s: np.ones(len(f)), **given)  # type: ignore[arg-type]
    assert strict.table.loss_mean.tolist() == [0, 0]
    assert strict.table.loss_upper95.tolist() == [upper95(0, 6)] * 2
    blank = [replace(one, answer=None) for one in problems]  # the exact answer stands for the true one
    assert rehearse(pair_of(6), blank, none_harmful, **given).table.loss_mean.tolist() == [wrong / 6] * 2  # type: ignore[arg-type]


# ---- the commands ----


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exit_code, result.stderr


def guide() -> list[list[str]]:
    """The commands of the guide, in order, with few problems."""
    text = (ROOT / "docs" / "heads.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(re.sub(r"--count \d+", "--count 40", line)) for line in lines if line.strip()]


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_guides_commands_make_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each runs in the order of the page, on fewer problems: prompts, labels, heads, and a look at them."""
    from models import prompts as prompt_command

    monkeypatch.chdir(tmp_path)
    ran: list[str] = []
    for words in guide():
        if words[:3] == ["python", "-m", "models.prompts"]:
            at = words.index(">")
            monkeypatch.setattr("sys.argv", ["prompts", *words[3:at]])
            assert prompt_command.main() == 0
            Path(words[at + 1]).write_text(capsys.readouterr().out, encoding="utf-8")
            ran.append("prompts")
        elif words[:2] == ["edge_node", "serve"]:
            head = load_head(Path(words[words.index("--head") + 1]))
            assert head.manifest.labels > 0
            ran.append("serve")
        else:
            assert words[0] == "edge_node"
            code, told = command(*words[1:])
            assert code == 0, told
            ran.append(words[1])
    assert set(ran) == {"prompts", "mine-labels", "train-head", "serve"}
    made = [load_head(path) for path in tmp_path.glob("*.safetensors")]
    assert {one.manifest.features for one in made} == {"target-only", "draft+target"}


def test_what_cannot_be_trained_on_is_refused_in_one_line(tmp_path: Path) -> None:
    prompts_file, out = tmp_path / "prompts.jsonl", tmp_path / "head.safetensors"
    prompts_file.write_text('{"prompt": "Tom has 3 pens.\\n"}\n', encoding="utf-8")
    arguments = ("train-head", "--labels", tmp_path / "labels", "--prompts", prompts_file, "--out", out)
    code, told = command(*arguments)
    assert (code, told.count("\n")) == (2, 1)
    assert "is no folder of labels" in told
    assert command(*arguments, "--supervision", "cost-aware")[1] == (
        "edge_node: cost-aware supervision makes labels of the channel: add --channel\n"
    )
    assert command("mine-labels", "--prompts", prompts_file, "--out", tmp_path / "labels")[0] == 0
    code, told = command(*arguments)
    assert (code, told.count("\n")) == (2, 1)
    assert "1 problems of" in told
    prompts_file.write_text('{"prompt": "Tom has 4 pens.\\n"}\n', encoding="utf-8")
    assert "too few to train on" in command(*arguments)[1]
    assert "the labels are of another drafter" in command(*arguments, "--draft-model", "drafter-40")[1]
    assert not out.exists()
