"""One session's trouble is told to it alone: the others get what they would have got without it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from airdraft.core.types import Sampling, Span
from edge_node.engine.item_faults import overlapping
from edge_node.engine.owners import RowOwners
from edge_node.engine.runner import StepRunner, out_of_memory
from edge_node.engine.sampling import Chosen, Part
from edge_node.step import Drafted, DraftItem, DraftStep, Extent, Fill, Item, Outcome, Step

VOCABULARY = 50
ROWS = 512
CONTEXT = 40
EXTENT = 48
BAD, NAN = 13, 17  # ids that the engine below cannot bear


@dataclass
class RowsEngine:
    """Rows that hold ids, and logits that are a hash of the path: whoever reads a wrong row chooses another token."""

    held: list[int] = field(default_factory=lambda: [-1] * ROWS)
    most: int = 10**9  # positions that fit its memory
    memory: Callable[[], Exception] = lambda: torch.OutOfMemoryError("CUDA out of memory")
    rows: int = ROWS
    context_tokens: int = CONTEXT
    computed: int = 0
    passes: list[int] = field(default_factory=list)  # positions of each

    def fill(self, fill: Fill) -> None:
        source = [-1] * fill.rows if fill.source is None else self.held[fill.source : fill.source + fill.rows]
        self.held[fill.target : fill.target + fill.rows] = source

    def extend(self, work: Sequence[tuple[Extent, Span]]) -> list[Tensor]:
        self.passes.append(sum(len(span.tokens) for _, span in work))
        if self.passes[-1] > self.most:
            raise self.memory()
        logits = []
        for extent, span in work:  # what comes before the offender has written its rows by then
            assert not span.gather
            logits.append(self._rows_of(extent, span))
            if BAD in span.tokens:
                raise RuntimeError("shapes do not match\n  at some kernel")
        self.computed += self.passes[-1]
        return logits

    def extend_with_states(self, work: Sequence[tuple[Extent, Span]]) -> tuple[list[Tensor], list[Tensor]]:
        logits = self.extend(work)
        return logits, [rows[:, :2] for rows in logits]

    def _rows_of(self, extent: Extent, span: Span) -> Tensor:
        first = extent.first
        before = tuple(self.held[first : first + span.start])
        self.held[first + span.start : first + span.start + len(span.tokens)] = span.tokens
        paths: list[tuple[int, ...]] = []
        for index, token in enumerate(span.tokens):
            parent = index - 1 if span.parents is None else span.parents[index]
            paths.append((*before, token) if parent < 0 else (*paths[parent], token))
        rows = torch.zeros(len(span.wanted), VOCABULARY + 3)
        for row, index in zip(rows, span.wanted, strict=True):
            row[next_token(paths[index])] = float("nan") if NAN in paths[index] else 1.0
        return rows


def next_token(path: Sequence[int]) -> int:
    return int.from_bytes(blake2b(repr(tuple(path)).encode(), digest_size=4).digest(), "big") % VOCABULARY


def greatest(logits: Tensor, parts: Sequence[Part], vocabulary: int, tie: float) -> list[Chosen | ValueError]:
    """Choose the greatest logit; the positions come back as near ties, for a test to see them."""
    chosen: list[Chosen | ValueError] = []
    at = 0
    for _, positions, _ in parts:
        rows = logits[at : at + len(positions)]
        at += len(positions)
        fine = bool(rows.isfinite().all())
        tokens = tuple(rows.argmax(dim=1).tolist()) if len(rows) else ()
        chosen.append(Chosen(tokens, tuple(positions)) if fine else ValueError("no finite number"))
    assert at == len(logits)
    return chosen


def runner_of(engine: RowsEngine) -> StepRunner:
    ticks = itertools.count()
    owners = RowOwners(ROWS)
    owners.wrote(Item(Extent(0, ROWS), Span(0, (0,) * ROWS), Sampling()))  # whatever a test finds in its rows
    return StepRunner(engine, VOCABULARY, owners=owners, choose=greatest, tie=0.0, clock=lambda: float(next(ticks)))


def item_at(place: int, tokens: Sequence[int] = (1, 2, 3), start: int = 0, **span: tuple[int, ...]) -> Item:
    wanted = span.pop("wanted", tuple(range(len(tokens))))
    return Item(Extent(place * EXTENT, EXTENT), Span(start, tuple(tokens), wanted=wanted, **span), Sampling())


def run(engine: RowsEngine, *items: Item) -> tuple[Outcome, ...]:
    return runner_of(engine).run(Step(1, items)).outcomes


# ---- what the numbers show ----

FAULTS = {
    "an id above": (item_at(1, (1, VOCABULARY)), "vocabulary"),
    "an id below": (item_at(1, (1, -1)), "vocabulary"),
    "no tokens": (item_at(1, ()), "without tokens"),
    "past the extent": (item_at(1, (1, 2, 3), start=EXTENT - 2), "in an extent of"),
    "a start below zero": (item_at(1, start=-1), "in an extent of"),
    "past the context": (item_at(1, (1, 2), start=CONTEXT - 1), "context"),
    "past the pool": (Item(Extent(ROWS - 8, 9), Span(0, (1,)), Sampling()), "of a pool of"),
    "before the pool": (Item(Extent(-1, 9), Span(0, (1,)), Sampling()), "of a pool of"),
    "a row that is not there": (item_at(1, wanted=(3,)), "wanted"),
    "a row below zero": (item_at(1, wanted=(-1,)), "wanted"),
    "too few parents": (item_at(1, parents=(-1, 0)), "parents"),
    "a parent that comes later": (item_at(1, parents=(-1, 1, 0)), "parent"),
    "a parent below the root": (item_at(1, parents=(-2, 0, 0)), "parent"),
    "gathered rows out of order": (item_at(1, start=5, gather=(6, 5)), "cannot become"),
    "gathered rows that go up": (item_at(1, start=5, gather=(1, 2)), "cannot become"),
    "more gathered rows than there are": (item_at(1, start=1, gather=(3, 4)), "cannot become"),
    "gathered rows past the extent": (item_at(1, start=5, gather=(6, EXTENT)), "cannot become"),
    "the engine's own exception": (item_at(1, (1, BAD, 2)), "failed with it, RuntimeError at test_runner.py:"),
    "logits that are no numbers": (item_at(1, (1, NAN, 2)), "finite"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_item_fails_alone(name: str) -> None:
    bad, words = FAULTS[name]
    good = [item_at(0), item_at(2, (4, 5), start=0), item_at(3, (6,))]
    alone = [run(RowsEngine(), item)[0] for item in good]
    outcomes = run(RowsEngine(), good[0], bad, *good[1:])
    assert [outcomes[0], *outcomes[2:]] == alone
    assert words in outcomes[1].failure
    assert outcomes[1].choices == ()
    assert "\n" not in outcomes[1].failure
    assert "shapes" not in outcomes[1].failure  # what an exception says may quote the item


def test_items_that_share_rows_all_fail() -> None:
    wide = Item(Extent(0, 100), Span(0, (1,), wanted=(0,)), Sampling())
    narrow = [Item(Extent(first, 8), Span(0, (1,), wanted=(0,)), Sampling()) for first in (10, 50, 100)]
    outcomes = run(RowsEngine(), narrow[0], wide, *narrow[1:])
    assert [bool(outcome.failure) for outcome in outcomes] == [True, True, True, False]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=8))
def test_shared_rows_are_found_whatever_the_order(extents: list[tuple[int, int]]) -> None:
    items = [Item(Extent(first, rows), Span(0, (1,)), Sampling()) for first, rows in extents]
    taken = [set(range(first, first + rows)) for first, rows in extents]
    clear = {i for i, mine in enumerate(taken) if not any(mine & other for j, other in enumerate(taken) if j != i)}
    found = overlapping(items)
    assert not found & clear
    # Of those that overlap, enough are named that the rest share nothing.
    rest = [taken[index] for index in range(len(items)) if index not in found]
    assert sum(map(len, rest)) == len(set().union(*rest))


# ---- what only the pass shows ----


def step_items(kinds: Sequence[str]) -> list[Item]:
    """Return an item a kind, each with six committed rows before it in the pool of ``prepared``."""
    tokens = {"good": (2, 3, 4), "bad": (2, BAD, 4), "nan": (2, 3, NAN), "wild": (2, VOCABULARY, 4)}
    items = []
    for place, kind in enumerate(kinds):
        own = tuple(token + 20 if token < 5 else token for token in tokens.get(kind, (5, 6, 7)))
        tree: dict[str, tuple[int, ...]] = {"parents": (-1, -1, 0)} if kind == "tree" else {}
        gather: dict[str, tuple[int, ...]] = {"gather": (5, 7)} if kind == "gather" else {}
        items.append(item_at(place, own, start=6, **tree, **gather))
    return items


def prepared(places: int) -> RowsEngine:
    engine = RowsEngine()
    for place in range(places):
        ids = [30 + (place * 7 + index) % 20 for index in range(9)]
        engine.held[place * EXTENT : place * EXTENT + len(ids)] = ids
    return engine


@given(st.lists(st.sampled_from(["good", "bad", "nan", "wild", "tree", "gather"]), min_size=1, max_size=10))
def test_the_others_get_what_they_get_without_the_offenders(kinds: list[str]) -> None:
    items = step_items(kinds)
    engine = prepared(len(kinds))
    outcomes = run(engine, *items)
    spoiled = {"bad", "nan", "wild"}
    for place, (kind, item, outcome) in enumerate(zip(kinds, items, outcomes, strict=True)):
        assert bool(outcome.failure) == (kind in spoiled)
        first = place * EXTENT
        alone = prepared(len(kinds))
        before = list(alone.held)
        assert run(alone, item)[0] == outcome
        # A failed item's rows before its span are what they were; a sound one's are those of its run alone.
        expected = before[first : first + 6] if kind in spoiled else alone.held[first : first + EXTENT]
        assert engine.held[first : first + len(expected)] == expected


def test_gathered_rows_are_read_before_the_span_writes_over_them() -> None:
    engine = prepared(2)
    kept = engine.held[:9]
    item = item_at(0, (1, 2), start=6, gather=(5, 7), wanted=(1,))
    (outcome, other) = run(engine, item, item_at(1, (BAD,), start=3))
    assert other.failure  # so that the first one ran twice
    path = [*kept[:4], kept[5], kept[7], 1, 2]
    assert outcome.choices == (next_token(path),)
    assert engine.held[:8] == path


def test_positions_of_the_choices_count_along_the_path() -> None:
    chain = item_at(0, (1, 2, 3), start=0, wanted=(0, 2))
    tree = item_at(1, (1, 2, 3, 4, 5), start=10, parents=(-1, 0, 0, 2, 1), wanted=(4, 0, 3, 2))
    outcomes = run(RowsEngine(), chain, tree)
    assert outcomes[0].near_ties == (1, 3)
    assert outcomes[1].near_ties == (13, 11, 13, 12)


def test_fills_come_before_the_spans_and_in_order() -> None:
    engine = prepared(1)
    kept = engine.held[:9]
    fills = (Fill(100, 4, 0), Fill(0, 9), Fill(200, 2, 102))
    item = Item(Extent(200, 8), Span(2, (9,), wanted=(0,)), Sampling())
    done = runner_of(engine).run(Step(7, (item,), fills))
    assert done.outcomes[0].choices == (next_token([*kept[2:4], 9]),)
    assert engine.held[:9] == [-1] * 9
    assert done.number == 7


def test_the_sampler_tells_a_bad_setting_to_its_own_session() -> None:
    runner = StepRunner(RowsEngine(), VOCABULARY)
    span = Span(0, (1, 2), wanted=(0, 1))
    kinds = [Sampling(), Sampling(temperature=-1.0), Sampling(presence_penalty=1.0), Sampling(temperature=0.5, top_k=1)]
    items = tuple(Item(Extent(place * EXTENT, EXTENT), span, sampling) for place, sampling in enumerate(kinds))
    outcomes = runner.run(Step(1, items)).outcomes
    assert [outcome.choices for outcome in outcomes] == [
        (next_token((1,)), next_token((1, 2))),
        (),
        (),
        outcomes[0].choices,
    ]
    assert "temperature" in outcomes[1].failure
    assert "penalties" in outcomes[2].failure


# ---- memory ----

OUT_OF_MEMORY: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    MemoryError,
]


@pytest.mark.parametrize("memory", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_split(memory: Callable[[], Exception]) -> None:
    items = [item_at(place, (place + 1,) * 4) for place in range(8)]
    roomy, tight = RowsEngine(), RowsEngine(most=9, memory=memory)
    assert run(tight, *items) == run(roomy, *items)
    assert max(tight.passes) == 32
    assert [count for count in tight.passes if count <= 9] == [8] * 4


def test_only_what_does_not_fit_alone_fails() -> None:
    items = [item_at(0), item_at(1, (5,) * 12), item_at(2)]
    first, large, last = run(RowsEngine(most=9), *items)
    assert "12 positions do not fit" in large.failure
    assert (first, last) == (run(RowsEngine(), items[0])[0], run(RowsEngine(), items[2])[0])


def test_the_hosts_own_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("memory format"))


# ---- counts ----


def test_counts_and_times_of_a_step() -> None:
    engine = RowsEngine()
    done = runner_of(engine).run(Step(3, (item_at(0), item_at(1, (VOCABULARY,)), item_at(2, (1, 2)))))
    assert (done.positions, done.computed) == (5, 5)
    assert (done.pass_s, done.host_s) == (1.0, 2.0)  # a tick each: start, around the pass, end


def test_time_counts_from_the_arrival() -> None:
    done = runner_of(RowsEngine()).run(Step(3, (item_at(0),)), arrived_s=-10.0)
    assert (done.pass_s, done.host_s) == (1.0, 11.0)


def test_a_step_of_fills_alone_runs_no_pass() -> None:
    engine = prepared(1)
    done = runner_of(engine).run(Step(1, (), (Fill(0, 9),)))
    assert (done.outcomes, done.positions, engine.passes) == ((), 0, [])
    assert engine.held[:9] == [-1] * 9


# ---- the edge's own drafter ----


@dataclass
class CountingDrafter:
    """Counts up from a path's last id; one session it cannot bear."""

    forgotten: list[int] = field(default_factory=list)

    def draft(self, items: Sequence[DraftItem]) -> list[tuple[int, ...]]:
        if any(item.session == 13 for item in items):
            raise RuntimeError("no")
        return [tuple(range(item.ids[-1] + 1, item.ids[-1] + 1 + item.count)) for item in items]

    def forget(self, sessions: Sequence[int]) -> None:
        self.forgotten += sessions


def drafted(drafter: CountingDrafter | None, *sessions: int) -> Drafted:
    items = tuple(DraftItem(session, Sampling(), (session,), 2) for session in sessions)
    runner = StepRunner(RowsEngine(), VOCABULARY, drafter, choose=greatest, tie=0.0)
    return runner.draft(DraftStep(5, items, forget=(9,)))


def test_drafts_come_back_in_order() -> None:
    drafter = CountingDrafter()
    answer = drafted(drafter, 4, 2)
    assert (answer.number, answer.tokens) == (5, ((5, 6), (3, 4)))
    assert answer.draft_s >= 0
    assert drafter.forgotten == [9]


def test_a_drafter_that_fails_drafts_nothing() -> None:
    drafter = CountingDrafter()
    assert drafted(drafter, 4, 13).tokens == ((), ())
    assert drafter.forgotten == [9, 4, 13]
    assert drafted(None, 4).tokens == ((),)
