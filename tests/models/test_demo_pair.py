"""The shipped weights: one tokenizer that encodes any text, files of the stated kind, a target that solves problems."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from models.evaluate import greedy, load_model
from models.tokenizer import end_token, load_tokenizer, train_tokenizer
from models.wordproblems import END, MAX_VALUE, check_answer, word_problem

DEMO = Path(__file__).parents[2] / "models" / "demo"
NAMES = ("target", "drafter", "drafter-40", "drafter-60")
TOKENIZER = load_tokenizer(DEMO / "target")


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_every_number_of_the_problems_is_one_token() -> None:
    assert all(len(TOKENIZER.encode(f" {value}").ids) == 1 for value in range(1, MAX_VALUE + 1))


@pytest.mark.slow
def test_the_tokenizer_is_what_the_command_makes() -> None:
    assert json.loads(train_tokenizer().to_str()) == json.loads((DEMO / "target" / "tokenizer.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_folder_is_complete(name: str) -> None:
    folder = DEMO / name
    assert (folder / "tokenizer.json").read_bytes() == (DEMO / "target" / "tokenizer.json").read_bytes()
    assert "synthetic" in (folder / "README.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == TOKENIZER.get_vocab_size()
    assert config["eos_token_id"] == end_token(TOKENIZER) == TOKENIZER.token_to_id(END)
    with safe_open(folder / "model.safetensors", "np") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}  # noqa: SIM118


def test_all_weights_fit_in_the_repository() -> None:
    assert sum(file.stat().st_size for file in DEMO.rglob("*.safetensors")) <= 40_000_000


def test_the_target_solves_held_out_problems() -> None:
    problems = [word_problem("held-out", i) for i in range(20)]
    prompts = [tuple(TOKENIZER.encode(p.prompt).ids) for p in problems]
    completions = greedy(load_model(DEMO / "target"), prompts, end_token(TOKENIZER))
    right = sum(check_answer(TOKENIZER.decode(c)) == p.answer for c, p in zip(completions, problems, strict=True))
    assert right >= 19
