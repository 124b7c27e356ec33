"""The engine gives the model's own logits whatever way a text is cut into spans."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from airdraft.core.types import Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.kv import SessionCache
from edge_node.engine.target import Target
from tests.shapes import CONTEXT, SHAPES, VOCABULARY, WINDOW, greedy, plain_logits, shape, text

TOLERANCE = 1e-4
LONG = 3 * WINDOW + 5

every_shape = pytest.mark.parametrize("name", SHAPES)


def engine_of(name: str, attention: str = "sdpa") -> TargetEngine:
    model = shape(name, attention=attention)
    return TargetEngine(Target(name, model, "", VOCABULARY, (), CONTEXT, b"", None))


def rows_of(engine: TargetEngine, cache: SessionCache, ids: list[int], sizes: tuple[int, ...]) -> Tensor:
    """Feed ``ids`` in spans of the given sizes; return the logits of every row."""
    logits, start = [], 0
    for size in sizes:
        span = Span(start, tuple(ids[start : start + size]), wanted=tuple(range(size)))
        logits += engine.extend([(cache, span)])
        start += size
    assert start == len(ids)
    return torch.cat(logits)


def off(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sizes", [(90,), (40, 1, 1, 5, 43), (1,) * 90], ids=["one", "mixed", "single"])
@every_shape
def test_any_split_gives_the_logits_of_one_forward(name: str, sizes: tuple[int, ...], attention: str) -> None:
    engine, ids = engine_of(name, attention), text(90)
    logits = rows_of(engine, engine.open(), ids, sizes)
    assert logits.dtype == torch.float32
    assert off(logits, plain_logits(shape(name), ids)) < TOLERANCE


@every_shape
def test_verified_drafts_give_the_greedy_text(name: str) -> None:
    """Five positions a pass, of which some were drafted wrong: rejected rows are overwritten from a smaller start."""
    engine, ids, count = engine_of(name), text(LONG), 40
    expected = greedy(shape(name), ids, count)
    cache = engine.open()
    (logits,) = engine.extend([(cache, Span(0, tuple(ids), wanted=(LONG - 1,)))])
    answer = logits.argmax(dim=-1).tolist()
    passes = 0
    while len(answer) < count:
        draft = expected[len(answer) : len(answer) + 4]
        wrong = passes % 5  # the draft's first wrong token, none where it is past the end
        if wrong < len(draft):
            draft = [*draft[:wrong], (draft[wrong] + 1) % VOCABULARY, *draft[wrong + 1 :]]
        start = LONG + len(answer) - 1
        span = Span(start, (answer[-1], *draft), wanted=tuple(range(len(draft) + 1)))
        choices = engine.extend([(cache, span)])[0].argmax(dim=-1).tolist()
        accepted = next((index for index, token in enumerate(draft) if token != choices[index]), len(draft))
        assert accepted == min(wrong, len(draft))
        answer += choices[: accepted + 1]
        passes += 1
    assert answer[:count] == expected


PARENTS = (-1, 0, -1, 0, 2, 3, 1, 4, 5)
"""A tree of two roots and two branches under the first."""


def path_to(node: int, parents: tuple[int, ...]) -> list[int]:
    path: list[int] = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [3, LONG])
@every_shape
def test_a_tree_gives_each_node_the_logits_of_its_own_path(name: str, length: int, attention: str) -> None:
    engine, ids, nodes = engine_of(name, attention), text(length), text(len(PARENTS), seed=1)
    cache = engine.open()
    span = Span(length, tuple(nodes), parents=PARENTS, wanted=tuple(range(len(nodes))))
    logits = engine.extend([(cache, Span(0, tuple(ids))), (cache, span)])[1]
    for node in range(len(nodes)):
        path = [nodes[index] for index in path_to(node, PARENTS)]
        assert off(logits[node], plain_logits(shape(name), [*ids, *path])[-1]) < TOLERANCE


@every_shape
def test_a_branch_longer_than_the_window_forgets_by_position_and_not_by_row(name: str) -> None:
    engine, ids, nodes = engine_of(name), text(LONG), text(2 * WINDOW + 6, seed=2)
    # Two branches in turns: a node's parent stands two rows before it, so rows and positions drift apart.
    parents = (-1, -1, *range(len(nodes) - 2))
    cache = engine.open()
    span = Span(LONG, tuple(nodes), parents=parents, wanted=(len(nodes) - 2, len(nodes) - 1))
    logits = engine.extend([(cache, Span(0, tuple(ids))), (cache, span)])[1]
    for row, branch in enumerate((nodes[::2], nodes[1::2])):
        assert off(logits[row], plain_logits(shape(name), [*ids, *branch])[-1]) < TOLERANCE


@every_shape
def test_a_chain_written_with_parents_is_the_chain(name: str) -> None:
    engine, ids = engine_of(name), text(LONG)
    span = Span(0, tuple(ids), parents=tuple(range(-1, LONG - 1)), wanted=tuple(range(LONG)))
    assert off(engine.extend([(engine.open(), span)])[0], plain_logits(shape(name), ids)) < TOLERANCE


@every_shape
def test_going_on_from_a_gathered_branch_is_exact(name: str) -> None:
    engine, ids, nodes = engine_of(name), text(LONG), text(len(PARENTS), seed=1)
    cache = engine.open()
    branch = path_to(8, PARENTS)  # rows 0, 3, 5, 8 of the tree
    tree = Span(LONG, tuple(nodes), parents=PARENTS)
    engine.extend([(cache, Span(0, tuple(ids))), (cache, tree)])
    start = LONG + len(branch)
    later = text(6, seed=3)
    gather = tuple(LONG + node for node in branch)
    (logits,) = engine.extend([(cache, Span(start, tuple(later), wanted=tuple(range(6)), gather=gather))])
    whole = [*ids, *(nodes[node] for node in branch), *later]
    assert off(logits, plain_logits(shape(name), whole)[start:]) < TOLERANCE


@every_shape
def test_sessions_do_not_disturb_one_another(name: str) -> None:
    engine, texts = engine_of(name), (text(LONG, seed=4), text(LONG, seed=5))
    caches = (engine.open(), engine.open())
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    for start in range(0, LONG, 4):
        spans = [Span(start, tuple(ids[start : start + 4])) for ids in texts]
        spans = [Span(span.start, span.tokens, wanted=tuple(range(len(span.tokens)))) for span in spans]
        for kept, logits in zip(rows, engine.extend(list(zip(caches, spans, strict=True))), strict=True):
            kept.append(logits)
    for kept, ids in zip(rows, texts, strict=True):
        assert off(torch.cat(kept), plain_logits(shape(name), ids)) < TOLERANCE


@every_shape
def test_only_wanted_rows_come_back_in_their_order(name: str) -> None:
    engine, ids = engine_of(name), text(12)
    plain = plain_logits(shape(name), ids)
    for wanted in ((), (11,), (10, 11), (0, 4, 7), (3,)):
        (logits,) = engine.extend([(engine.open(), Span(0, tuple(ids), wanted=wanted))])
        assert logits.shape == (len(wanted), VOCABULARY)
        assert not wanted or off(logits, plain[list(wanted)]) < TOLERANCE


def test_a_full_context_is_computed_and_one_more_token_is_not() -> None:
    engine, ids = engine_of("llama"), text(CONTEXT)
    cache = engine.open()
    logits = rows_of(engine, cache, ids, (CONTEXT - 3, 3))
    assert off(logits, plain_logits(shape("llama"), ids)) < TOLERANCE
    with pytest.raises(AssertionError):
        engine.extend([(cache, Span(CONTEXT, (1,)))])


def test_a_span_beyond_the_rows_held_is_a_bug_of_the_caller() -> None:
    engine = engine_of("llama")
    cache = engine.open()
    engine.extend([(cache, Span(0, (1, 2, 3)))])
    with pytest.raises(AssertionError, match="holds 3 rows"):
        engine.extend([(cache, Span(4, (1,)))])
    engine.extend([(cache, Span(1, (5,)))])
    with pytest.raises(AssertionError, match="holds 2 rows"):
        engine.extend([(cache, Span(3, (1,)))])
    with pytest.raises(AssertionError, match="rows"):
        engine.extend([(cache, Span(2, (1,), gather=(2,)))])


def test_a_failed_forward_leaves_the_rows_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ids = engine_of("llama"), text(20)
    cache = engine.open()
    engine.extend([(cache, Span(0, tuple(ids[:10])))])
    monkeypatch.setattr(shape("llama", attention="sdpa").lm_head, "forward", _boom)
    with pytest.raises(RuntimeError, match="boom"):
        engine.extend([(cache, Span(8, (9, 9, 9), wanted=(2,)))])
    monkeypatch.undo()
    assert cache.rows == 8
    (logits,) = engine.extend([(cache, Span(8, tuple(ids[8:]), wanted=(11,)))])
    assert off(logits[0], plain_logits(shape("llama"), ids)[-1]) < TOLERANCE


def _boom(*_: object) -> None:
    raise RuntimeError("boom")
