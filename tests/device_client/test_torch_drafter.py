"""The torch drafter drafts its model's greedy text from any path, whatever it drafted before."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from airdraft.checkpoint import CheckpointRefused
from device_client.drafters.torch_model import TorchDrafter, load_torch_drafter
from tests.checkpoints import save, save_tokenizer
from tests.shapes import CONTEXT, SHAPES, VOCABULARY, WINDOW, greedy, shape, text


def never() -> bool:
    return False


def after(asked: int) -> Callable[[], bool]:
    """Say yes from the ``asked`` + 1st time on."""
    times = count()
    return lambda: next(times) >= asked


@pytest.mark.parametrize("name", SHAPES)
def test_proposals_are_the_greedy_text_after_any_rollback(name: str) -> None:
    drafter, chance = TorchDrafter(shape(name), VOCABULARY), random.Random(0)
    path = text(3 * WINDOW)
    for turn in range(10):
        assert drafter.propose(path, 5, never) == greedy(shape(name), path, 5), turn
        keep = chance.choice([len(path), len(path) - 1, chance.randrange(1, len(path))])
        path = path[:keep] + text(chance.randrange(0, 6), seed=turn)


def test_a_path_that_takes_up_the_proposal_goes_on() -> None:
    drafter, path = TorchDrafter(shape("llama"), VOCABULARY), text(12)
    expected = greedy(shape("llama"), path, 12)
    for _ in range(3):
        path += drafter.propose(path, 4, never)
    assert path[12:] == expected


def test_cancelled_cuts_a_proposal_short_and_harms_none_later() -> None:
    drafter, path = TorchDrafter(shape("llama"), VOCABULARY), text(12)
    expected = greedy(shape("llama"), path, 8)
    assert drafter.propose(path, 8, after(0)) == []
    assert drafter.propose(path, 8, after(3)) == expected[:3]
    assert drafter.propose(path, 8, never) == expected


def test_drafting_ends_with_the_context() -> None:
    drafter = TorchDrafter(shape("gpt2"), VOCABULARY)
    assert len(drafter.propose(text(CONTEXT - 3), 8, never)) == 3
    assert drafter.propose(text(CONTEXT), 8, never) == []
    assert drafter.propose(text(CONTEXT + 5), 8, never) == []


def test_nothing_follows_an_empty_path() -> None:
    assert TorchDrafter(shape("llama"), VOCABULARY).propose([], 4, never) == []


def test_padding_rows_are_never_drafted() -> None:
    free = TorchDrafter(shape("llama"), VOCABULARY)
    bound = TorchDrafter(shape("llama"), 20)
    paths = [text(6, seed=seed) for seed in range(8)]
    assert max(max(free.propose(path, 6, never)) for path in paths) >= 20
    assert max(max(bound.propose(path, 6, never)) for path in paths) < 20


def test_a_folder_is_loaded_with_its_tokenizer(tmp_path: Path) -> None:
    folder = save(shape("qwen3"), tmp_path / "drafter")
    drafter, tokenizer_json = load_torch_drafter(str(folder), vocabulary=100)
    assert "w99" in tokenizer_json
    path = text(8)
    assert drafter.propose(path, 6, never) == TorchDrafter(shape("qwen3"), 100).propose(path, 6, never)


@pytest.mark.parametrize("reference", ["demo", "demo-drafter"])
def test_the_demo_drafter_loads(reference: str) -> None:
    drafter, tokenizer_json = load_torch_drafter(reference, vocabulary=300)
    assert len(drafter.propose([3, 4, 5], 4, never)) == 4
    assert "<|end|>" in tokenizer_json


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "drafter")
    save_tokenizer(folder, VOCABULARY + 1)
    with pytest.raises(CheckpointRefused, match="embeds 128 of its 129 tokens"):
        load_torch_drafter(str(folder), vocabulary=100)


def test_a_missing_folder_is_one_line() -> None:
    with pytest.raises(CheckpointRefused, match=r"^\./nowhere is not a folder; [^\n]+$"):
        load_torch_drafter("./nowhere", vocabulary=100)
