"""The torch drafter drafts its model's greedy text from any path, whatever it drafted before."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airdraft.checkpoint import CheckpointRefused, files_digest
from airdraft.core.drafting import confidences_of, q_of, state_width_of, states_of
from airdraft.core.types import Sampling
from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.costs import PassCost
from coordinator.policy.draft_length import Confidence
from coordinator.policy.rounds import Drafting, RoundTime
from device_client.draft_stop import FramePolicy
from device_client.drafters.torch_model import CUT_TOKENS, TorchDrafter, load_torch_drafter
from tests.checkpoints import save, save_tokenizer
from tests.shapes import CONTEXT, SHAPES, VOCABULARY, WINDOW, greedy, shape, text

KNOWN = Drafting(RoundTime(0.06, 0.008, PassCost(0.03)), AcceptanceByPosition())


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


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("prompt", [2, 12])
def test_a_cut_at_any_layer_of_any_token_harms_no_later_proposal(name: str, prompt: int) -> None:
    """The layers hold unequally many rows then; a row that were left over would show in the next proposals."""
    path, tokens = text(prompt), 4
    expected = greedy(shape(name), path, tokens)
    other = path[:-1] + text(3, seed=1)
    elsewhere = greedy(shape(name), other, tokens)
    cuts, drafter = 0, TorchDrafter(shape(name), VOCABULARY)
    while (proposal := drafter.propose(path, tokens, after(cuts))) != expected:
        assert proposal == expected[: len(proposal)]
        again = drafter.propose(path, tokens, after(cuts))  # with what the cut before left behind
        assert again == expected[: len(again)]
        assert drafter.propose(other, tokens, never) == elsewhere
        again = drafter.propose(path, tokens, after(cuts + 2))
        assert again == expected[: len(again)]
        assert drafter.propose(path, tokens, never) == expected
        cuts, drafter = cuts + 1, TorchDrafter(shape(name), VOCABULARY)
    layers = shape(name).config.num_hidden_layers
    asks = 1 + layers + 1  # before the token, before each layer, before the head
    assert cuts == tokens * asks - (0 if prompt <= CUT_TOKENS else asks - 1)


def test_a_long_read_is_finished_once_begun() -> None:
    """It is needed in any case; given up at each commit of a fast edge, a prompt would never be read."""
    drafter, path = TorchDrafter(shape("llama"), VOCABULARY), text(40)
    assert len(drafter.propose(path, 1, after(1))) == 1
    asked = count()
    drafter.propose([*path, 5], 1, lambda: next(asked) < 0)
    assert next(asked) == 4  # one id was left to read: the token, two layers and the head


def test_drafters_of_one_model_are_cut_each_by_its_own() -> None:
    first, second = (TorchDrafter(shape("llama"), VOCABULARY) for _ in range(2))
    path = text(3)
    assert first.propose(path, 4, after(6)) == greedy(shape("llama"), path, 1)
    assert second.propose(path, 4, never) == greedy(shape("llama"), path, 4)


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


def test_a_cut_is_of_the_drafters_own_forward_alone() -> None:
    """Another thread runs the same model in the midst of a drafted token."""
    model, path, others = shape("llama"), text(12), list[list[int]]()
    drafter, asked, here = TorchDrafter(model, VOCABULARY), count(), threading.current_thread()
    drafter.propose(path, 1, never)

    def cancelled() -> bool:
        if threading.current_thread() is not here:
            return True
        if next(asked) == 2:
            other = threading.Thread(target=lambda: others.append(greedy(model, path, 3)))
            other.start()
            other.join()
        return False

    assert drafter.propose(path, 3, cancelled) == greedy(model, path, 3)
    assert others == [greedy(model, path, 3)]


def test_confidences_are_the_top_probabilities_of_the_tokenizers_rows() -> None:
    """Of a vocabulary smaller than the embedding, and whatever the sampling."""
    model, path = shape("llama"), text(12)
    for sampling in (Sampling(), Sampling(temperature=0.3, seed=5)):
        drafter = TorchDrafter(model, 100, sampling)
        proposal = drafter.propose(path, 4, never)
        with torch.inference_mode():
            logits: Any = model(input_ids=torch.tensor([[*path, *proposal]])).logits
        top = torch.softmax(logits[0, 11:15, :100].double(), -1).max(-1).values
        assert drafter.confidences == pytest.approx(top.tolist(), rel=1e-4)
        assert confidences_of(drafter) is drafter.confidences


def test_confidences_are_those_of_the_proposal_at_hand_however_it_was_cut() -> None:
    drafter, path = TorchDrafter(shape("llama"), VOCABULARY), text(12)
    drafter.propose(path, 4, never)
    whole = list(drafter.confidences)
    for cuts in range(8):
        proposal = drafter.propose(path, 4, after(cuts))
        assert drafter.confidences == pytest.approx(whole[: len(proposal)], rel=1e-4)
    drafter.propose(path, 0, never)
    assert drafter.confidences == []


def test_a_policy_ends_a_proposal_between_two_tokens() -> None:
    """The drafter asks at each layer; what a frame took is there as a whole, and the next proposal is untouched."""
    drafter, path = TorchDrafter(shape("llama"), VOCABULARY), text(12)
    expected = greedy(shape("llama"), path, 8)
    drafter.propose(path, 8, never)
    sure = list(drafter.confidences)
    threshold = sorted(sure)[3]
    doubts = next(index for index, value in enumerate(sure) if value <= threshold)
    frame = FramePolicy(Confidence(threshold * 1.0001), drafter).frame(KNOWN)
    assert frame.propose(drafter, path, 8, never) == expected[: doubts + 1]
    assert frame.confidences == pytest.approx(sure[: doubts + 1], rel=1e-4)
    assert drafter.propose([*path, *expected[: doubts + 1]], 7 - doubts, never) == expected[doubts + 1 :]


def head_inputs(model: Any, path: list[int]) -> Any:
    """What the LM head reads at every row of the path, [n, width]."""
    read: list[Any] = []
    head: Any = model.get_output_embeddings()
    with head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0])), torch.inference_mode():
        model(input_ids=torch.tensor([path]))
    return read[0][0].float().numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_a_tokens_state_is_what_the_head_read_when_it_wrote_it(name: str) -> None:
    model: Any = shape(name)
    path = text(12)
    drafter = TorchDrafter(model, 100, Sampling(temperature=0.7, seed=3))
    assert state_width_of(drafter) == model.get_output_embeddings().in_features
    for turn in range(2):  # the second time most of the path is in the cache
        proposal = drafter.propose(path, 4, never)
        expected = head_inputs(model, [*path, *proposal])[len(path) - 1 : -1]
        assert np.stack(drafter.states) == pytest.approx(expected, rel=1e-3, abs=1e-4), turn
        assert states_of(drafter) is drafter.states
        path = [*path, *proposal[:2]]


def test_every_token_has_a_state_however_the_proposal_was_cut() -> None:
    drafter, path = TorchDrafter(shape("llama"), VOCABULARY), text(12)
    drafter.tells_q = True
    drafter.propose(path, 4, never)
    whole = list(drafter.states)
    for cuts in range(12):
        proposal = drafter.propose(path, 4, after(cuts))
        assert len(drafter.states) == len(drafter.q) == len(drafter.confidences) == len(proposal)
        for mine, known in zip(drafter.states, whole, strict=False):
            assert mine == pytest.approx(known, rel=1e-3, abs=1e-4)


def test_the_state_is_of_the_drafters_own_forward_alone() -> None:
    """Another thread reads the same model between two layers of a drafted token."""
    model, path = shape("llama"), text(12)
    drafter, here = TorchDrafter(model, VOCABULARY), threading.current_thread()
    drafter.propose(path, 2, never)
    alone = list(drafter.states)

    def cancelled() -> bool:
        if threading.current_thread() is here:
            other = threading.Thread(target=lambda: greedy(model, text(9, seed=4), 1))
            other.start()
            other.join()
        return False

    drafter.propose(path, 2, cancelled)
    assert np.stack(drafter.states) == pytest.approx(np.stack(alone), rel=1e-3, abs=1e-4)


def test_q_is_told_once_it_is_asked_for() -> None:
    model, path = shape("llama"), text(12)
    drafter = TorchDrafter(model, 100)
    drafter.propose(path, 3, never)
    assert list(q_of(drafter)) == []
    drafter.tells_q = True
    proposal = drafter.propose(path, 3, never)
    with torch.inference_mode():
        logits: Any = model(input_ids=torch.tensor([[*path, *proposal]])).logits
    rows = torch.softmax(logits[0, 11:14, :100].double(), -1)
    assert len(drafter.q) == 3
    for token, row, q in zip(proposal, rows, drafter.q, strict=True):
        top = torch.topk(row, 8)
        assert set(q.ids) == set(top.indices.tolist())
        assert token in q.ids
        expected = (row[list(q.ids)] / top.values.sum()).tolist()
        assert q.probabilities() == pytest.approx(expected, abs=1e-4)


def test_the_digest_is_that_of_the_files(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "drafter")
    save_tokenizer(folder, 100)
    drafter, _ = load_torch_drafter(str(folder), vocabulary=100)
    assert drafter.digest() == files_digest(folder)
    assert TorchDrafter(shape("llama"), VOCABULARY).digest() == b""
