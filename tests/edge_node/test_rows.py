"""The rows that an engine hands out: of the first miss alone, and each gives the token that was chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

import torch
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.acceptance import Ending
from airdraft.core.rows import TargetRow
from airdraft.core.sampling import choose
from airdraft.core.session.passes import walked
from airdraft.core.types import Origin, Pass, Sampling, Span
from edge_node.engine.rows import missed_at, missed_rows
from edge_node.engine.sampling import Chosen, Part, choose_batch
from edge_node.engine_messages import FrameSplitter, framed, read_answer, read_ask
from edge_node.step import Extent, Item, Outcome, Step, StepDone

VOCABULARY = 600
PADDED = 608
PATH = tuple(range(40))
SAMPLINGS = {
    "greedy": Sampling(),
    "temperature 1": Sampling(1.0, seed=3),
    "truncated": Sampling(0.7, seed=5, top_k=50, top_p=0.9, min_p=0.01),
    "penalised": Sampling(1.0, seed=7, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.1),
}


@st.composite
def spans(draw: st.DrawFn) -> tuple[Span, int, tuple[int, ...]]:
    """Return a verifying span over few ids, how many of its tokens are drafts, and choices after its wanted rows."""
    lacking, nodes = draw(st.integers(1, 3)), draw(st.integers(0, 8))
    drafts: list[int] = []
    parents: list[int] = []
    for index in range(nodes):
        parent = lacking - 1 + draw(st.integers(0, index))
        taken = {drafts[other] for other in range(index) if parents[other] == parent}  # a node stands once
        free = [token for token in range(10) if token not in taken]
        parents.append(parent)
        drafts.append(draw(st.sampled_from(free)) if draw(st.booleans()) else free[0])
    wanted = tuple(range(lacking - 1, lacking + nodes))
    choices = tuple(draw(st.integers(0, 2)) for _ in wanted)
    tree = (*range(-1, lacking - 1), *parents)
    chain = tree == tuple(range(-1, lacking + nodes - 1))
    return Span(5, (*[9] * lacking, *drafts), None if chain else tree, wanted), nodes, choices


@given(spans())
def test_the_row_is_that_of_the_recovered_token(drawn: tuple[Span, int, tuple[int, ...]]) -> None:
    span, nodes, choices = drawn
    base = 5 + len(span.tokens) - nodes
    done = Pass(1, base, b"", span, Sampling(), 0, nodes, range(base))
    walk = walked(done, choices, Ending(frozenset(), 1000))
    at = missed_at(span, choices)
    assert (at is not None) == (walk.origins[-1] is Origin.RECOVERED)
    if at is not None:
        assert at == (walk.path[-1] + 1 if walk.path else 0)
        assert choices[at] == walk.ids[-1]


def test_a_prefill_misses_nothing() -> None:
    assert missed_at(Span(0, (1, 2, 3)), ()) is None


def logits_of(rows: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(0, spread, (rows, PADDED)).astype(np.float32)
    values[:, VOCABULARY:] = 99  # padding, which must not go out
    return torch.from_numpy(values)


def part_of(sampling: Sampling, rows: int) -> Part:
    paths = [(*PATH, *range(extra)) for extra in range(rows)]
    return sampling, [len(path) for path in paths], paths


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_device_draws_what_the_edge_has_chosen(name: str) -> None:
    sampling = SAMPLINGS[name]
    halves = 0
    for seed in range(60):
        logits = logits_of(3, seed)
        part = part_of(sampling, 3)
        (chosen,) = choose_batch(logits, [part], VOCABULARY, 0.0)
        assert isinstance(chosen, Chosen)
        span = Span(len(PATH) - 1, (39, chosen.tokens[0], (chosen.tokens[1] + 1) % VOCABULARY), wanted=(0, 1, 2))
        item = Item(Extent(0, 64), span, sampling, row=True)
        (row,) = missed_rows([item], [logits], [part], [chosen], VOCABULARY, choose_batch)
        assert row is not None
        assert len(row.data) == VOCABULARY * (2 if row.half else 4)
        assert part[2] is not None
        assert choose(row.logits, sampling, VOCABULARY, part[2][1]) == chosen.tokens[1]
        halves += row.half
    assert halves >= 50


def only_row(sampling: Sampling, logits: torch.Tensor) -> TargetRow:
    """Return what goes out for a draft that is missed at once."""
    (chosen,) = choose_batch(logits, [part_of(sampling, 1)], VOCABULARY, 0.0)
    assert isinstance(chosen, Chosen)
    span = Span(39, (39, (chosen.tokens[0] + 1) % VOCABULARY), wanted=(0, 1))
    twice, again = torch.cat([logits, logits]), Chosen((chosen.tokens[0], 0))
    item = Item(Extent(0, 64), span, sampling, row=True)
    (row,) = missed_rows([item], [twice], [part_of(sampling, 2)], [again], VOCABULARY, choose_batch)
    assert row is not None
    assert choose(row.logits, sampling, VOCABULARY, PATH) == chosen.tokens[0]
    return row


def test_a_row_that_float16_would_turn_goes_out_whole() -> None:
    logits = torch.zeros(1, PADDED)
    logits[0, 5], logits[0, 6] = 20.0, 20.001  # equal in float16, where the lower id would win
    assert not only_row(Sampling(), logits).half
    logits[0, 6] = 20.5
    assert only_row(Sampling(), logits).half


def test_a_row_beyond_float16_goes_out_whole() -> None:
    logits = torch.zeros(1, PADDED)
    logits[0, 5] = 1e5
    assert not only_row(Sampling(), logits).half


def test_rows_go_to_those_who_ask_and_miss() -> None:
    logits = [logits_of(2, seed) for seed in range(4)]
    parts = [part_of(Sampling(), 2) for _ in logits]
    chosen: list[Chosen | ValueError] = list(choose_batch(torch.cat(logits), parts, VOCABULARY, 0.0))
    chosen[3] = ValueError("no finite number")

    def item(index: int, *, right: bool, row: bool) -> Item:
        one = chosen[index]
        token = one.tokens[0] if isinstance(one, Chosen) else 0
        tokens = (39, token if right else (token + 1) % VOCABULARY)
        return Item(Extent(64 * index, 64), Span(39, tokens, wanted=(0, 1)), Sampling(), row=row)

    items = [
        item(0, right=False, row=True),
        item(1, right=False, row=False),
        item(2, right=True, row=True),
        item(3, right=False, row=True),
    ]
    rows = missed_rows(items, logits, parts, chosen, VOCABULARY, choose_batch)
    assert [row is not None for row in rows] == [True, False, False, False]
    assert rows[0] is not None
    assert np.array_equal(rows[0].logits, logits[0][0, :VOCABULARY].half().float().numpy())


def test_rows_cross_the_queue() -> None:
    row = TargetRow.of(np.arange(VOCABULARY, dtype=np.float32))
    outcomes = (Outcome((1, 2), row=row), Outcome((3,)))
    (payload,) = FrameSplitter().fed(framed(StepDone(4, outcomes)))
    assert read_answer(payload) == StepDone(4, outcomes)
    items: Sequence[Item] = (Item(Extent(0, 8), Span(0, (1,), wanted=(0,)), Sampling(), row=True),)
    (payload,) = FrameSplitter().fed(framed(Step(4, tuple(items))))
    assert read_ask(payload) == Step(4, tuple(items))
