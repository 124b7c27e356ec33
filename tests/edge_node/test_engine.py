"""The engine gives the model's own logits whatever way a text is cut into spans, and whoever else is in the pass."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from airdraft.core.types import Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.target import Target
from edge_node.step import Extent, Fill
from tests.shapes import CONTEXT, SHAPES, VOCABULARY, WINDOW, greedy, plain_logits, shape, text

TOLERANCE = 1e-4
LONG = 3 * WINDOW + 5

every_shape = pytest.mark.parametrize("name", SHAPES)


ROWS = 256
"""Of an extent: the context and a tree at its end."""


def engine_of(name: str, attention: str = "sdpa", **options: Any) -> TargetEngine:
    """Return an engine of four extents, poisoned: whatever reads a row that it should not gets no number."""
    target = Target(name, shape(name, attention=attention), "", VOCABULARY, (), CONTEXT, b"", None)
    return TargetEngine(target, 4 * ROWS, **{"poison": True} | options)


def place(index: int) -> Extent:
    return Extent(index * ROWS, ROWS)


def rows_of(engine: TargetEngine, cache: Extent, ids: list[int], sizes: tuple[int, ...]) -> Tensor:
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
    logits = rows_of(engine, place(1), ids, sizes)
    assert logits.dtype == torch.float32
    assert off(logits, plain_logits(shape(name), ids)) < TOLERANCE


@every_shape
def test_verified_drafts_give_the_greedy_text(name: str) -> None:
    """Five positions a pass, of which some were drafted wrong: rejected rows are overwritten from a smaller start."""
    engine, ids, count = engine_of(name), text(LONG), 40
    expected = greedy(shape(name), ids, count)
    cache = place(1)
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
    cache = place(1)
    span = Span(length, tuple(nodes), parents=PARENTS, wanted=tuple(range(len(nodes))))
    engine.extend([(cache, Span(0, tuple(ids)))])
    (logits,) = engine.extend([(cache, span)])
    for node in range(len(nodes)):
        path = [nodes[index] for index in path_to(node, PARENTS)]
        assert off(logits[node], plain_logits(shape(name), [*ids, *path])[-1]) < TOLERANCE


@every_shape
def test_a_branch_longer_than_the_window_forgets_by_position_and_not_by_row(name: str) -> None:
    engine, ids, nodes = engine_of(name), text(LONG), text(2 * WINDOW + 6, seed=2)
    # Two branches in turns: a node's parent stands two rows before it, so rows and positions drift apart.
    parents = (-1, -1, *range(len(nodes) - 2))
    cache = place(1)
    span = Span(LONG, tuple(nodes), parents=parents, wanted=(len(nodes) - 2, len(nodes) - 1))
    engine.extend([(cache, Span(0, tuple(ids)))])
    (logits,) = engine.extend([(cache, span)])
    for row, branch in enumerate((nodes[::2], nodes[1::2])):
        assert off(logits[row], plain_logits(shape(name), [*ids, *branch])[-1]) < TOLERANCE


@every_shape
def test_a_chain_written_with_parents_is_the_chain(name: str) -> None:
    engine, ids = engine_of(name), text(LONG)
    span = Span(0, tuple(ids), parents=tuple(range(-1, LONG - 1)), wanted=tuple(range(LONG)))
    assert off(engine.extend([(place(1), span)])[0], plain_logits(shape(name), ids)) < TOLERANCE


@every_shape
def test_going_on_from_a_gathered_branch_is_exact(name: str) -> None:
    engine, ids, nodes = engine_of(name), text(LONG), text(len(PARENTS), seed=1)
    cache = place(1)
    branch = path_to(8, PARENTS)  # rows 0, 3, 5, 8 of the tree
    tree = Span(LONG, tuple(nodes), parents=PARENTS)
    engine.extend([(cache, Span(0, tuple(ids)))])
    engine.extend([(cache, tree)])
    start = LONG + len(branch)
    later = text(6, seed=3)
    gather = tuple(LONG + node for node in branch)
    (logits,) = engine.extend([(cache, Span(start, tuple(later), wanted=tuple(range(6)), gather=gather))])
    whole = [*ids, *(nodes[node] for node in branch), *later]
    assert off(logits, plain_logits(shape(name), whole)[start:]) < TOLERANCE


@every_shape
def test_sessions_do_not_disturb_one_another(name: str) -> None:
    engine, texts = engine_of(name), (text(LONG, seed=4), text(LONG, seed=5))
    caches = (place(1), place(2))
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
        (logits,) = engine.extend([(place(1), Span(0, tuple(ids), wanted=wanted))])
        assert logits.shape == (len(wanted), VOCABULARY)
        assert not wanted or off(logits, plain[list(wanted)]) < TOLERANCE


def test_a_full_context_is_computed_and_one_more_token_is_not() -> None:
    engine, ids = engine_of("llama"), text(CONTEXT)
    cache = place(1)
    logits = rows_of(engine, cache, ids, (CONTEXT - 3, 3))
    assert off(logits, plain_logits(shape("llama"), ids)) < TOLERANCE
    with pytest.raises(AssertionError):
        engine.extend([(cache, Span(CONTEXT, (1,)))])


@pytest.mark.parametrize(
    ("extent", "span", "fault"),
    [
        (place(0), Span(ROWS - 1, (1, 2)), "2 tokens from 255 on"),
        (place(0), Span(-1, (1,)), "1 tokens from -1"),
        (place(0), Span(0, ()), "0 tokens"),
        (place(4), Span(0, (1,)), "of a pool of 1024"),
        (place(0), Span(CONTEXT, (1,)), "position 192 in a context of 192"),
        (place(0), Span(CONTEXT - 1, (1, 2), parents=(-1, 0)), "position 192"),
        (place(0), Span(2, (1,), gather=(ROWS,)), "rows .256,. of 256"),
        (place(0), Span(1, (1,), gather=(2, 3)), "2 rows do not fit before 1"),
        (Extent(ROWS - 1, 64), Span(0, (1,)), "another item's"),
    ],
)
def test_a_span_that_does_not_fit_is_found_before_anything_runs(extent: Extent, span: Span, fault: str) -> None:
    engine, ids = engine_of("llama"), tuple(text(12))
    engine.extend([(place(0), Span(0, ids[:8]))])
    with pytest.raises(AssertionError, match=fault):
        engine.extend([(place(0), Span(0, (1, 2, 3))), (extent, span)] if extent != place(0) else [(extent, span)])
    (logits,) = engine.extend([(place(0), Span(8, ids[8:], wanted=(3,)))])
    assert off(logits[0], plain_logits(shape("llama"), list(ids))[-1]) < TOLERANCE


def test_siblings_may_end_past_the_context_as_long_as_no_path_does() -> None:
    engine, ids = engine_of("llama"), text(CONTEXT)
    engine.extend([(place(0), Span(0, tuple(ids[:-1])))])
    twins = Span(CONTEXT - 1, (ids[-1], 5), parents=(-1, -1), wanted=(0, 1))
    (logits,) = engine.extend([(place(0), twins)])
    assert off(logits[0], plain_logits(shape("llama"), ids)[-1]) < TOLERANCE
    assert off(logits[1], plain_logits(shape("llama"), [*ids[:-1], 5])[-1]) < TOLERANCE


def test_a_failed_forward_leaves_the_rows_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ids = engine_of("llama"), text(20)
    engine.extend([(place(1), Span(0, tuple(ids[:10])))])
    monkeypatch.setattr(shape("llama", attention="sdpa").lm_head, "forward", _boom)
    with pytest.raises(RuntimeError, match="boom"):
        engine.extend([(place(1), Span(8, (9, 9, 9), wanted=(2,)))])
    monkeypatch.undo()
    (logits,) = engine.extend([(place(1), Span(8, tuple(ids[8:]), wanted=(11,)))])
    assert off(logits[0], plain_logits(shape("llama"), ids)[-1]) < TOLERANCE


def _boom(*_: object) -> None:
    raise RuntimeError("boom")


WAYS: dict[str, dict[str, Any]] = {
    "apart": {"together": False},
    "together": {"together": True},
    "strict": {"profile": "strict"},
}
every_way = pytest.mark.parametrize("way", list(WAYS))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_way
@every_shape
def test_a_wide_pass_gives_every_span_what_it_gets_alone(name: str, way: str, attention: str) -> None:
    """Prefills, verifications, trees and single tokens of four sessions in one pass, poison all around."""
    engine, texts = engine_of(name, attention, **WAYS[way]), [text(LONG + 40, seed=seed) for seed in range(4)]
    lengths = (LONG, 3, LONG - 2, 0)
    engine.extend([(place(i), Span(0, tuple(texts[i][:n]))) for i, n in enumerate(lengths) if n])
    widths = (5, 4, len(PARENTS), 37)
    spans = [
        Span(n, tuple(texts[i][n : n + width]), wanted=tuple(range(width)))
        for i, (n, width) in enumerate(zip(lengths, widths, strict=True))
    ]
    spans[2] = Span(spans[2].start, spans[2].tokens, parents=PARENTS, wanted=spans[2].wanted)
    order = [2, 0, 3, 1]
    logits = dict(zip(order, engine.extend([(place(i), spans[i]) for i in order]), strict=True))
    for i, (n, width) in enumerate(zip(lengths, widths, strict=True)):
        for node in range(width):
            path = [spans[i].tokens[at] for at in path_to(node, spans[i].parents or tuple(range(-1, width - 1)))]
            assert off(logits[i][node], plain_logits(shape(name), [*texts[i][:n], *path])[-1]) < TOLERANCE
    singles = [Span(n + 1, (texts[i][n + 1],), wanted=(0,)) for i, n in enumerate(lengths)]
    for i, row in enumerate(engine.extend([(place(i), single) for i, single in enumerate(singles)])):
        assert off(row[0], plain_logits(shape(name), texts[i][: lengths[i] + 2])[-1]) < TOLERANCE


@every_way
def test_no_row_is_computed_that_nobody_asked_for_but_what_strict_pads(way: str) -> None:
    engine = engine_of("llama", **WAYS[way])
    before = engine.positions, engine.computed
    engine.extend([(place(0), Span(0, (1, 2, 3), wanted=(2,))), (place(1), Span(0, tuple(range(10))))])
    padded = 16 if way == "strict" else 13
    assert (engine.positions - before[0], engine.computed - before[1]) == (13, padded)


@every_way
def test_rows_that_were_copied_serve_another_session(way: str) -> None:
    engine, ids = engine_of("qwen2-sliding", **WAYS[way]), text(30)
    engine.extend([(place(2), Span(0, tuple(ids[:20])))])
    engine.fill(Fill(place(0).first, 20, source=place(2).first))
    engine.fill(Fill(place(2).first, ROWS))
    (logits,) = engine.extend([(place(0), Span(20, tuple(ids[20:]), wanted=tuple(range(10))))])
    assert off(logits, plain_logits(shape("qwen2-sliding"), ids)[20:]) < TOLERANCE


def test_copies_read_before_they_write() -> None:
    engine, ids = engine_of("llama"), text(30)
    engine.extend([(Extent(10, 64), Span(0, tuple(ids[:25])))])
    for target, source in ((3, 10), (20, 3)):
        engine.fill(Fill(target, 25, source=source))
    (logits,) = engine.extend([(Extent(20, 64), Span(25, tuple(ids[25:]), wanted=(4,)))])
    assert off(logits[0], plain_logits(shape("llama"), ids)[-1]) < TOLERANCE


@pytest.mark.parametrize("options", [{}, {"kv_dtype": "int8"}], ids=["auto", "int8"])
def test_a_cleared_row_that_is_read_shows(options: dict[str, Any]) -> None:
    engine = engine_of("llama", **options)
    engine.extend([(place(0), Span(0, (1, 2, 3, 4)))])
    engine.fill(Fill(1, 1))
    (logits,) = engine.extend([(place(0), Span(4, (5,), wanted=(0,)))])
    assert logits.isnan().all()


INT8_TOLERANCE = 0.01
"""Rounding may move a key by one step of 127 where a float's last bit differs between two shapes."""


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_shape
def test_int8_rows_give_the_same_logits_whatever_way_a_text_is_cut(name: str, attention: str) -> None:
    engine, ids = engine_of(name, attention, kv_dtype="int8"), text(60)
    whole = rows_of(engine, place(0), ids, (60,))
    cut = rows_of(engine, place(1), ids, (7, 1, 1, 20, 5, 26))
    assert off(cut, whole) < INT8_TOLERANCE
    error = off(whole, plain_logits(shape(name), ids))
    assert 10 * off(cut, whole) < error < 0.3  # of a spread of one: rounded, and no more


def test_int8_rows_take_little_more_than_a_quarter() -> None:
    sizes = []
    for kv_dtype in ("auto", "int8"):
        engine = engine_of("llama", kv_dtype=kv_dtype)
        assert engine.row_bytes == 0
        engine.extend([(place(0), Span(0, (1,)))])
        sizes.append(engine.row_bytes)
    assert sizes == [2 * 2 * 2 * 12 * 4, 2 * 2 * 2 * (12 + 4)]  # layers, keys and values, heads, width


@every_shape
def test_random_schedules_of_three_sessions_give_each_its_own_text(name: str) -> None:
    chance, engine = random.Random(name), engine_of(name)
    texts = [text(120, seed=10 + seed) for seed in range(3)]
    plain = [plain_logits(shape(name), ids) for ids in texts]
    done = [0, 0, 0]
    while min(done) < 100:
        work, expected = [], []
        for i in chance.sample(range(3), chance.randint(1, 3)):
            start = chance.choice((done[i], max(0, done[i] - chance.randint(0, 6))))
            end = min(120, start + chance.choice((1, 1, 2, 5, 17)))
            if start < end:
                work.append((place(i), Span(start, tuple(texts[i][start:end]), wanted=tuple(range(end - start)))))
                expected.append(plain[i][start:end])
                done[i] = end
        for got, rows in zip(engine.extend(work), expected, strict=True):
            assert off(got, rows) < TOLERANCE


def test_no_work_is_no_pass() -> None:
    engine = engine_of("llama")
    assert engine.extend([]) == []
    assert engine.computed == 0


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="fast or strict, not exact"):
        engine_of("llama", profile="exact")
    with pytest.raises(ValueError, match="auto or int8, not int4"):
        engine_of("llama", kv_dtype="int4")
