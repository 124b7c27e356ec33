"""Beside the logits: the states that the LM head made them of, row by row, whatever way they were computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from airdraft.core.types import Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.target import Target
from edge_node.step import Extent
from tests.shapes import CONTEXT, SHAPES, VOCABULARY, plain_logits, shape, text

ROWS = 256
TREE = (-1, 0, -1, 0, 2, 3, 1, 4, 5)
TOLERANCE = 1e-4

Work = list[tuple[Extent, Span]]


def target_of(name: str, model: PreTrainedModel | None = None) -> Target:
    return Target(name, model or shape(name), "", VOCABULARY, (), CONTEXT, b"", None)


def plain_states(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Return the last hidden states [len(ids), d] of one forward without cache, as transformers tells them."""
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    states: Tensor = output.hidden_states[-1][0]
    return states


def mixed_work() -> Work:
    """Return spans of four sessions: a prefill with its last row wanted, a tree, a chain with gaps, and nothing."""
    tree = Span(0, tuple(text(len(TREE), seed=2)), parents=TREE, wanted=tuple(range(len(TREE))))
    return [
        (Extent(0, ROWS), Span(0, tuple(text(70)), wanted=(69,))),
        (Extent(ROWS, ROWS), tree),
        (Extent(2 * ROWS, ROWS), Span(0, tuple(text(20, seed=3)), wanted=(3, 11, 19))),
        (Extent(3 * ROWS, ROWS), Span(0, tuple(text(5, seed=4)))),
    ]


def paths_of(span: Span) -> list[list[int]]:
    paths: list[list[int]] = []
    for index, token in enumerate(span.tokens):
        parent = index - 1 if span.parents is None else span.parents[index]
        paths.append([*(paths[parent] if parent >= 0 else []), token])
    return [paths[index] for index in span.wanted]


def states_are_the_models(engine: TargetEngine, model: PreTrainedModel) -> None:
    work = mixed_work()
    alone = engine.extend(work)
    logits, states = engine.extend_with_states(work)
    assert [list(one.shape) for one in states] == [[len(span.wanted), 48] for _, span in work]
    assert all(one.dtype == torch.float32 for one in states)
    assert all(torch.equal(before, after) for before, after in zip(alone, logits, strict=True))
    for (_, span), got in zip(work, states, strict=True):
        for state, path in zip(got, paths_of(span), strict=True):
            assert float((state - plain_states(model, path)[-1]).abs().max()) < TOLERANCE


@pytest.mark.parametrize("options", [{}, {"together": True}, {"profile": "strict"}], ids=["wide", "together", "strict"])
@pytest.mark.parametrize("name", SHAPES)
def test_states_are_those_of_a_plain_forward(name: str, options: dict[str, Any]) -> None:
    states_are_the_models(TargetEngine(target_of(name), 4 * ROWS, **options), shape(name))


class Whole(torch.nn.Module):
    """A model that cannot leave rows out of its head."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "_model" else getattr(self._model, name)

    def forward(self, **inputs: Any) -> Any:
        return self._model(**inputs)


@pytest.mark.parametrize("profile", ["fast", "strict"])
def test_a_model_whose_head_computes_all_rows_gives_those_that_are_wanted(profile: str) -> None:
    model: Any = Whole(shape("llama"))
    states_are_the_models(TargetEngine(target_of("llama", model), 4 * ROWS, profile=profile), shape("llama"))


def test_a_span_cut_into_several_forwards_keeps_its_rows_in_order() -> None:
    engine, ids = TargetEngine(target_of("llama"), ROWS, profile="strict"), text(150)
    before = engine.computed
    _, (states,) = engine.extend_with_states([(Extent(0, ROWS), Span(0, tuple(ids), wanted=tuple(range(150))))])
    assert engine.computed - before > 150
    assert float((states - plain_states(shape("llama"), ids)).abs().max()) < TOLERANCE


def test_strict_states_have_the_same_bits_in_any_company() -> None:
    engine = TargetEngine(target_of("qwen2"), 4 * ROWS, profile="strict")
    work = mixed_work()
    together = engine.extend_with_states(work)[1]
    for one, expected in zip(work, together, strict=True):
        assert torch.equal(engine.extend_with_states([one])[1][0], expected)


def test_the_head_makes_the_logits_of_them() -> None:
    model: Any = shape("gpt2")
    engine, ids = TargetEngine(target_of("gpt2"), ROWS), text(12)
    _, (states,) = engine.extend_with_states([(Extent(0, ROWS), Span(0, tuple(ids), wanted=(11,)))])
    assert torch.allclose(model.get_output_embeddings()(states), plain_logits(model, ids)[-1:], atol=TOLERANCE)


def test_nothing_is_left_on_the_model() -> None:
    model: Any = shape("llama")
    engine = TargetEngine(target_of("llama"), ROWS)
    engine.extend_with_states([(Extent(0, ROWS), Span(0, (1, 2), wanted=(1,)))])
    assert engine.extend_with_states([]) == ([], [])
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_a_head_that_cannot_be_watched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = shape("llama")
    engine = TargetEngine(replace(target_of("llama"), context_tokens=64), ROWS)
    work: Work = [(Extent(0, ROWS), Span(0, (1, 2), wanted=(1,)))]
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with pytest.raises(RuntimeError, match="names no LM head"):
        engine.extend_with_states(work)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: model.model.embed_tokens)
    engine.extend(work)  # its logits are still to be had
    monkeypatch.setattr(model, "get_output_embeddings", lambda: torch.nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match="ran 0 times"):
        engine.extend_with_states(work)
