"""The bench of re-attaching: its stub model's cache tells a wrong row, and every kind of loss is got over."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.types import Span
from bench.resume import KINDS, Extent, Stall, Trials, figures, measure
from bench.stub_edge import VOCABULARY, StubEngine, stub_text
from edge_node.step import Extent as Rows
from edge_node.step import Fill

PROMPT = (5, 6, 7, 8)
ROWS = Rows(32, 32)
tokens = st.integers(0, VOCABULARY - 1)


def choices(engine: StubEngine, span: Span) -> list[int]:
    return [int(row.argmax()) for row in engine.extend([(ROWS, span)])[0]]


def written(engine: StubEngine, prompt: Sequence[int], count: int) -> list[int]:
    """Write a text a token at a time."""
    ids, rows = list(prompt), 0
    while len(ids) < len(prompt) + count:
        lacking = tuple(ids[rows:])
        rows, start = len(ids), rows
        ids += choices(engine, Span(start, lacking, wanted=(len(lacking) - 1,)))
    return ids[len(prompt) :]


def stub(rows: int = 128) -> StubEngine:
    return StubEngine(0, 0, rows)


@given(st.lists(tokens, min_size=1, max_size=40))
def test_the_engine_writes_the_text_that_is_known_beforehand(prompt: list[int]) -> None:
    assert written(stub(), prompt, 8) == stub_text(prompt, 8)


@given(wrong=tokens, place=st.integers(0, len(PROMPT) - 1))
def test_a_wrong_row_writes_another_path(wrong: int, place: int) -> None:
    engine = stub()
    changed = [*PROMPT[:place], wrong, *PROMPT[place + 1 :]]
    right, other = engine.write(ROWS, Span(0, PROMPT)), engine.write(ROWS, Span(0, tuple(changed)))
    same = changed == list(PROMPT)
    assert (other[-1] == right[-1]) == same
    assert (stub_text(changed, 16) == stub_text(PROMPT, 16)) == same


def test_branches_and_moved_rows_are_those_of_a_tree() -> None:
    engine = stub()
    first, second, third = stub_text(PROMPT, 3)
    off = (first + 1) % VOCABULARY
    tree = Span(0, (*PROMPT, off, first, second), (-1, 0, 1, 2, 3, 3, 5), wanted=(3, 4, 5, 6))
    after_prompt, after_off, after_first, after_second = choices(engine, tree)
    assert [after_prompt, after_first, after_second] == [first, second, third]
    assert after_off == stub_text((*PROMPT, off), 1)[0]
    (follows,) = choices(engine, Span(6, (third,), wanted=(0,), gather=(5, 6)))
    assert [third, follows] == stub_text(PROMPT, 4)[2:]


def test_rows_that_were_cleared_or_never_written_are_not_read_and_copies_are() -> None:
    engine = stub()
    engine.write(ROWS, Span(0, PROMPT))
    engine.fill(Fill(64, 3, 32))
    follows = engine.write(Rows(64, 32), Span(3, (9,)))
    assert follows == engine.write(ROWS, Span(3, (9,)))
    engine.fill(Fill(34, 1))
    with pytest.raises(AssertionError, match="row 2 of the session was never written"):
        engine.write(ROWS, Span(3, (9,)))


def test_the_worse_way_out_of_a_black_hole_is_the_figure_and_what_went_wrong_is_counted() -> None:
    trials = Trials(Extent(trials=1, outage_s=0.1, outages_at_once=1))
    for number, kind in enumerate(KINDS):
        trials.stalls[kind] += [Stall(number + 1.0, 0, 0, 0, 0, right=kind != "warm")] * 3
    trials.lost = 2
    found = figures(trials).figures
    assert found["black_hole_p99_s"] == found["black_hole_other_p99_s"] > found["black_hole_same_p99_s"]
    assert found["warm_p99_ms"] == 1000 * (KINDS.index("warm") + 1)
    assert (found["mismatches"], found["lost"]) == (3, 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_texts_get_over_every_kind_of_loss() -> None:
    trials = await measure(Extent(trials=2, outage_s=1.5, outages_at_once=2))
    assert {kind: len(stalls) for kind, stalls in trials.stalls.items()} == dict.fromkeys(KINDS, 2)
    stalls = [stall for kind in KINDS for stall in trials.stalls[kind]]
    assert trials.lost == 0
    assert all(stall.right for stall in stalls)
    parts = ((stall.detect_s, stall.wait_s, stall.connect_s, stall.commit_s) for stall in stalls)
    for stall, seconds in zip(stalls, parts, strict=True):
        assert min(seconds) >= 0
        assert sum(seconds) == pytest.approx(stall.total_s)
    for kind in ("black_hole_same", "black_hole_other"):
        assert all(stall.detect_s > 0.5 for stall in trials.stalls[kind]), "nothing but silence tells of a black hole"
