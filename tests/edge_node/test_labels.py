"""The search for labels against a plain one; checks; and that what was begun is gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airdraft.core.types import Sampling
from edge_node.engine.evidence import SCALARS
from edge_node.engine.loading import load_target
from edge_node.engine.target import Target
from edge_node.labels.checks import CHECKS, number_of, passes
from edge_node.labels.mining import Mining, load_pair, mine
from edge_node.labels.problems import LabelsRefused, Problem, read_problems
from edge_node.labels.search import Pair, Settings, search
from edge_node.labels.shards import read_labels, read_manifest
from edge_node.labels.writer import Ending, Reading, Writer
from models.evaluate import greedy, load_model, rejections
from models.tokenizer import end_token, load_tokenizer
from models.wordproblems import check_answer, word_problem
from tests.shapes import plain_logits

DEMO = Path(__file__).parents[2] / "models" / "demo"
TOKENIZER = load_tokenizer(DEMO / "target")
END = end_token(TOKENIZER)
SCALARS_FROM = 3 * 128

numbers = CHECKS["number"]
texts = CHECKS["exact"]
code = CHECKS["unit-test"]
BLANK = Problem("")


@cache
def pair_of(places: int = 4, rollouts: int = 1) -> Pair:
    return Pair(*targets(), places, rollouts, 160)


@cache
def targets() -> tuple[Target, Target]:
    return load_pair("demo", "drafter", "cpu", "auto")


@cache
def problem(index: int) -> Problem:
    drawn = word_problem("held-out", index)
    return Problem(drawn.prompt, str(drawn.answer))


def prompt_ids(index: int) -> list[int]:
    ids: list[int] = TOKENIZER.encode(problem(index).prompt).ids
    return ids


def written(path: Path, count: int, *more: str) -> Path:
    lines = [json.dumps({"prompt": problem(at).prompt, "answer": problem(at).answer}) for at in range(count)]
    path.write_text("\n".join([*lines, *more]) + "\n", encoding="utf-8")
    return path


# ---- many texts side by side ----


def test_a_line_gives_the_models_own_rows_whatever_it_held_before() -> None:
    writer = Writer(targets()[0], 3, 160)
    ids, other = prompt_ids(0), prompt_ids(1)
    first, second = writer.new(), writer.new()
    writer.read([Reading(first, other, 0), Reading(second, ids[:9], 8)])
    rows = writer.read([Reading(first, ids, 3), Reading(second, ids, len(ids) - 1)])
    plain = plain_logits(targets()[0].model, ids)[:, : writer.vocabulary]
    assert torch.allclose(rows[0].logits, plain[3:], atol=1e-4)
    assert torch.allclose(rows[1].logits, plain[-1:], atol=1e-4)
    head: Any = targets()[0].model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert torch.allclose(head(rows[0].hidden)[:, : writer.vocabulary], rows[0].logits, atol=1e-4)
    (again,) = writer.read([Reading(first, ids, 0)])  # all of it is held, and wanted again
    assert torch.allclose(again.logits, plain, atol=1e-4)


def test_a_line_begins_with_what_another_holds() -> None:
    writer = Writer(targets()[0], 2, 160)
    ids = prompt_ids(0)
    one = writer.new()
    writer.read([Reading(one, ids, len(ids) - 1)])
    two = writer.new(one, len(ids) - 2)
    assert two.held == ids[:-2]
    (rows,) = writer.read([Reading(two, [*ids[:-2], 7, 8], len(ids) - 1)])
    assert torch.allclose(
        rows.logits, plain_logits(targets()[0].model, [*ids[:-2], 7, 8])[-1:, : writer.vocabulary], atol=1e-4
    )
    (kept,) = writer.read([Reading(one, [*ids, 3], len(ids))])
    assert torch.allclose(kept.logits, plain_logits(targets()[0].model, [*ids, 3])[-1:, : writer.vocabulary], atol=1e-4)


def test_texts_end_as_they_do_alone() -> None:
    writer = Writer(targets()[0], 4, 160)
    prompts = [prompt_ids(at) for at in range(4)]
    ends = greedy(load_model(DEMO / "target"), [tuple(prompt) for prompt in prompts], END)
    lines = [writer.new() for _ in prompts]
    got = writer.finish([Ending(line, prompt) for line, prompt in zip(lines, prompts, strict=True)], [160] * 4)
    assert got == [[*prompt, *end] for prompt, end in zip(prompts, ends, strict=True)]
    few = writer.finish(
        [Ending(line, prompt) for line, prompt in zip(lines, prompts, strict=True)], [len(prompts[0]) + 3] * 4
    )
    assert few[0] == got[0][: len(prompts[0]) + 3]


def test_sampled_endings_differ_by_their_seed_alone() -> None:
    writer = Writer(targets()[0], 3, 160)
    prompt, lines = prompt_ids(0), [writer.new() for _ in range(3)]
    chosen = [Sampling(1.5, seed) for seed in (1, 2, 1)]
    one, two, again = writer.finish(
        [Ending(line, prompt, sampling) for line, sampling in zip(lines, chosen, strict=True)], [120] * 3
    )
    assert one == again != two


# ---- the search ----


def plain_search(index: int) -> list[tuple[int, int, int, bool]]:
    """AutoJudge's search with whole forwards, one at a time: position, drafted, choice, harmful."""
    target, drafter = load_model(DEMO / "target"), load_model(DEMO / "drafter")
    prompt = tuple(prompt_ids(index))
    (answer,) = greedy(target, [prompt], END)
    reference, text, left = check_answer(TOKENIZER.decode(answer)), prompt + answer, len(prompt)
    found: list[tuple[int, int, int, bool]] = []
    while True:
        swaps = [one for one in rejections(drafter, [prompt], [text[len(prompt) :]]) if len(one.prefix) > left]
        swaps = [one for one in swaps if END not in (one.prefix[-1], text[len(one.prefix) - 1])]
        if not swaps:
            return found
        prefix = min((one.prefix for one in swaps), key=len)
        (end,) = greedy(target, [prefix], END)
        harmful = check_answer(TOKENIZER.decode((prefix + end)[len(prompt) :])) != reference
        found.append((len(prefix) - 1, prefix[-1], text[len(prefix) - 1], harmful))
        left = len(prefix)
        if not harmful:
            text = prefix + end


def test_the_search_finds_what_a_plain_one_finds() -> None:
    labels = search(pair_of(), [(at, problem(at)) for at in range(4)], Settings())
    for at in range(4):
        mine_ = [(one.position, one.drafted, one.choice, one.greedy_harm) for one in labels if one.problem == at]
        assert mine_ == plain_search(at)
    assert {one.greedy_harm for one in labels} == {True, False}
    assert all(one.harm == one.greedy_harm for one in labels)
    assert not {END} & {token for one in labels for token in (one.drafted, one.choice)}


def test_features_are_of_the_row_after_the_drafted_token() -> None:
    """The head reads the target's state after reading the token, both embeddings and what the logits came to."""
    (label,) = search(pair_of(), [(0, problem(0))], Settings())[:1]
    prompt = prompt_ids(0)
    (answer,) = greedy(load_model(DEMO / "target"), [tuple(prompt)], END)
    path = [*[*prompt, *answer][: label.position], label.drafted]
    logits = plain_logits(targets()[0].model, path)[-2:, : targets()[0].vocabulary]
    hidden = last_hidden(targets()[0], path)[-1]
    embeddings: Any = targets()[0].model.get_input_embeddings()
    weights = embeddings.weight
    p, r = logits.log_softmax(-1)
    expected = {
        "drafted_log_p": p[label.drafted], "choice_log_p": p[label.choice], "entropy": -(p.exp() * p).sum(),
        "max_log_p": p.max(), "after_entropy": -(r.exp() * r).sum(), "after_max_log_p": r.max(),
    }  # fmt: skip
    wanted = torch.cat(
        [hidden, weights[label.drafted], weights[label.choice], torch.stack([expected[n] for n in SCALARS])]
    )
    assert np.allclose(label.features, wanted.numpy(), rtol=2e-3, atol=2e-3)
    assert p.argmax() == label.choice


def test_the_state_is_the_one_that_wrote_the_drafted_token() -> None:
    (label,) = search(pair_of(), [(0, problem(0))], Settings())[:1]
    prompt = prompt_ids(0)
    (answer,) = greedy(load_model(DEMO / "target"), [tuple(prompt)], END)
    state = last_hidden(targets()[1], [*prompt, *answer][: label.position])[-1]
    assert np.allclose(label.state, state.numpy(), rtol=2e-3, atol=2e-3)
    head: Any = targets()[1].model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert int(head(state).argmax()) == label.drafted


def last_hidden(target: Target, ids: Sequence[int]) -> torch.Tensor:
    """What the LM head reads: [ids, d]."""
    with torch.inference_mode():
        states = target.model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    hidden: torch.Tensor = states.hidden_states[-1][0]
    return hidden


@pytest.mark.slow
def test_sampled_endings_make_a_share_of_what_a_greedy_one_decides() -> None:
    alone = search(pair_of(), [(at, problem(at)) for at in range(4)], Settings())
    soft = search(pair_of(4, 4), [(at, problem(at)) for at in range(4)], Settings(rollouts=4, temperature=1.0))
    assert [one[:4] for one in soft] == [one[:4] for one in alone]
    assert [one.greedy_harm for one in soft] == [one.greedy_harm for one in alone]
    assert {one.harm for one in soft} - {0.0, 1.0} <= {0.25, 0.5, 0.75}
    assert {one.harm for one in soft} & {0.25, 0.5, 0.75}


@pytest.mark.slow
def test_who_is_searched_beside_changes_nothing() -> None:
    settings = Settings(rollouts=2, temperature=1.0)
    together = search(pair_of(4, 4), [(at, problem(at)) for at in range(3)], settings)
    alone = [label for at in range(3) for label in search(pair_of(4, 4), [(at, problem(at))], settings)]
    assert sorted(one[:6] for one in together) == sorted(one[:6] for one in alone)


def test_places_come_back_after_a_search() -> None:
    pair = pair_of(1, 2)
    for at in range(3):
        assert search(pair, [(at, problem(at))], Settings(rollouts=2))


def test_own_score_reads_no_answer() -> None:
    labels = search(pair_of(), [(0, replace(problem(0), check="own-score"))], Settings())
    assert labels
    assert {one.harm for one in labels} <= {0.0, 1.0}
    (label,) = labels[:1]
    prompt = prompt_ids(0)
    (answer,) = greedy(load_model(DEMO / "target"), [tuple(prompt)], END)
    text = [*prompt, *answer]
    rest = text[label.position + 1 :]
    scores = []
    for token in (label.choice, label.drafted):
        rows = plain_logits(targets()[0].model, [*text[: label.position], token, *rest[:-1]])[label.position :]
        scores.append(float(rows[:, : targets()[0].vocabulary].log_softmax(-1)[range(len(rest)), rest].mean()))
    assert label.greedy_harm == (scores[1] < scores[0] - 0.1)


# ---- checks ----


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("so\n#### 42", "42"), ("#### 42 and #### 7", "42"), ("####-3", "-3"), ("#### 1,200", "1200"),
        ("#### 2.50", "2.5"), ("#### 2.0", "2"), ("#### 100", "100"), ("42", None), ("#### x", None), ("", None),
    ],
)  # fmt: skip
def test_numbers_are_read_after_the_marks(answer: str, number: str | None) -> None:
    assert number_of(answer) == number


def test_two_answers_without_a_number_are_not_the_same() -> None:
    assert numbers.same is not None
    assert numbers.same(BLANK, "#### 4", "other words\n#### 4")
    assert not numbers.same(BLANK, "#### 4", "#### 5")
    assert not numbers.same(BLANK, "none", "none")
    assert numbers.right(Problem("", "4.0"), "#### 4") is True
    assert numbers.right(BLANK, "#### 4") is None


def test_exact_forgives_spaces_alone() -> None:
    assert texts.same is not None
    assert texts.same(BLANK, "a  b\n", "a b")
    assert not texts.same(BLANK, "a b", "a B")


TESTS = "assert double(3) == 6"


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ("def double(n): return 2 * n", True),
        ("Here:\n```python\ndef double(n):\n    return n + n\n```\nIt doubles.", True),
        ("def double(n): return n", False),
        ("def double(n: return", False),
        ("import sys\nsys.exit(1)", False),
        ("def double(n):\n    x = bytearray(1 << 33)\n    return 2 * n", False),
        ("def double(n):\n    open('big', 'wb').write(bytes(1 << 22))\n    return 2 * n", False),
    ],
)
def test_code_is_judged_by_its_tests(answer: str, good: bool) -> None:
    assert code.right(Problem("", tests=TESTS), answer) is good


def test_code_that_never_ends_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_node.labels.checks.TEST_SECONDS", 1.0)
    assert not passes("while True: pass", "")
    assert not passes("import time\ntime.sleep(60)", "")


def test_code_sees_neither_the_environment_nor_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRDRAFT_SECRET", "x")
    assert passes("import os", "assert 'AIRDRAFT_SECRET' not in os.environ\nassert os.listdir() == []")


def test_code_is_as_good_as_a_reference_that_fails_too() -> None:
    assert code.same is not None
    given = Problem("", tests=TESTS)
    assert code.same(given, "pass", "pass")
    assert not code.same(given, "double = lambda n: 2 * n", "pass")
    with pytest.raises(LabelsRefused, match='needs "tests"'):
        code.same(BLANK, "", "")


# ---- prompt files ----


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: no JSON"), ("[]", "line 2: an object"), ('{"answer": "1"}', "line 2: an object"),
        ('{"prompt": ""}', "line 2: an object"), ('{"prompt": "x", "anwser": "1"}', "unknown key anwser"),
        ('{"prompt": "x", "tests": ["a"]}', "tests must be a text"), ('{"prompt": true}', "prompt must be a text"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_problem_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(LabelsRefused, match=words):
        read_problems(written(tmp_path / "prompts.jsonl", 1, line))


def test_a_prompt_file_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelsRefused, match="cannot be read"):
        read_problems(tmp_path / "none.jsonl")
    with pytest.raises(LabelsRefused, match="holds no problem"):
        read_problems(written(tmp_path / "empty.jsonl", 0))


def test_numbers_are_answers_too(tmp_path: Path) -> None:
    path = written(
        tmp_path / "prompts.jsonl", 0, '{"prompt": "x", "answer": 4}', "", '{"prompt": "y", "check": "exact"}'
    )
    assert read_problems(path) == [Problem("x", "4"), Problem("y", check="exact")]


# ---- mining ----


def mining(tmp_path: Path, **changes: object) -> Mining:
    prompts = tmp_path / "prompts.jsonl"
    if not prompts.exists():
        written(prompts, 5)
    given: dict[str, object] = {"model": "demo", "draft_model": "drafter", "prompts": prompts, "out": tmp_path / "out"}
    return Mining(**{**given, "settings": Settings(), "batch": 2, "device": "cpu"} | changes)  # type: ignore[arg-type]


def test_a_search_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    said: list[str] = []
    added = mine(mining(tmp_path), said.append)
    whole = read_labels(tmp_path / "out")
    assert added == len(whole.harm)
    assert said[-1] == f"3 of 3 batches, {added} labels, 0 s to go"
    (tmp_path / "out" / "shard-00001.npz").unlink()
    (tmp_path / "out" / "shard-00001.new").write_bytes(b"cut off")
    again = mine(mining(tmp_path), said.append)
    assert again == int(np.isin(whole.problem, (2, 3)).sum())
    for one, other in zip(read_labels(tmp_path / "out"), whole, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert mine(mining(tmp_path), said.append) == 0
    assert sorted(set(whole.problem.tolist())) == [0, 1, 2, 3, 4]
    assert whole.prompts() == {problem(at).digest for at in range(5)}
    assert read_manifest(tmp_path / "out").target_digest == load_target("demo").model_digest.hex()


def test_another_search_takes_another_folder(tmp_path: Path) -> None:
    mine(mining(tmp_path, batch=5), lambda text: None)
    changes: list[tuple[dict[str, object], str]] = [
        ({"settings": Settings(rollouts=2)}, "rollouts 1, and 2"),
        ({"draft_model": "drafter-40"}, "draft_model drafter, and drafter-40"),
        ({"batch": 2}, "batch 5, and 2"),
    ]
    for change, words in changes:
        with pytest.raises(LabelsRefused, match=words):
            mine(mining(tmp_path, **{"batch": 5, **change}), lambda text: None)
    written(tmp_path / "prompts.jsonl", 4)
    with pytest.raises(LabelsRefused, match="prompts_digest"):
        mine(mining(tmp_path, batch=5), lambda text: None)
    with pytest.raises(LabelsRefused, match="holds other files"):
        mine(mining(tmp_path, out=tmp_path), lambda text: None)


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    mine(mining(tmp_path, batch=5), lambda text: None)
    shard = tmp_path / "out" / "shard-00000.npz"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(LabelsRefused, match="shard-00000"):
        read_labels(tmp_path / "out")
    shard.unlink()
    with pytest.raises(LabelsRefused, match="no labels yet"):
        read_labels(tmp_path / "out")
    with pytest.raises(LabelsRefused, match="no folder of labels"):
        read_manifest(tmp_path)


def test_a_wrong_setting_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(LabelsRefused, match="rollouts and batch"):
        mine(mining(tmp_path, settings=Settings(rollouts=0)), lambda text: None)
    with pytest.raises(LabelsRefused, match="no check sums; choose one of number"):
        mine(mining(tmp_path, model="/none", settings=Settings(check="sums")), lambda text: None)
