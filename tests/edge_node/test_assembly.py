"""An engine as its process puts it together: how large its pool is, what it says of itself, why it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from airdraft.checkpoint import files_digest
from airdraft.core.types import Sampling, Span
from edge_node.engine.assembly import PoolTooSmall, assemble, host_memory_bytes, pool_rows, text_rows
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target
from edge_node.engine.runner import StepRunner
from edge_node.engine_messages import Load, Loaded, LoadFailed
from edge_node.heads import save_head
from edge_node.step import DraftItem, DraftStep, Extent, Item, Judged, Outcome, Step
from tests.checkpoints import TOKENS, edit_json, save
from tests.heads import head_by_gap
from tests.shapes import CONTEXT, shape

# ---- the size of the pool ----


def test_the_operators_word_counts_but_one_text_fits() -> None:
    def rows(wanted: int) -> int:
        return pool_rows(wanted=wanted, memory_bytes=0, row_bytes=8, text_rows=320, max_sessions=2)

    assert [rows(1), rows(320), rows(321), rows(9999)] == [320, 320, 384, 10048]


def test_memory_decides_where_nobody_says() -> None:
    def rows(memory_bytes: int) -> int:
        return pool_rows(wanted=None, memory_bytes=memory_bytes, row_bytes=1000, text_rows=128, max_sessions=3)

    assert [rows(128_000), rows(191_999), rows(192_000), rows(10**9)] == [128, 128, 192, 384]
    with pytest.raises(PoolTooSmall, match="max-context"):
        rows(127_999)


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 40), st.integers(1, 200))
def test_the_pool_fits_memory_and_a_text_fits_the_pool(memory: int, row: int, grains: int, sessions: int) -> None:
    text = 64 * grains
    try:
        rows = pool_rows(wanted=None, memory_bytes=memory, row_bytes=row, text_rows=text, max_sessions=sessions)
    except PoolTooSmall:
        assert memory < text * row
        return
    assert text <= rows <= text * sessions
    assert rows * row <= memory
    assert rows % 64 == 0
    assert rows == text * sessions or (rows + 64) * row > memory


def test_a_texts_extent_holds_its_draft_nodes() -> None:
    assert [text_rows(context) for context in (1, 64, 65, 4096)] == [128, 128, 192, 4160]


def host(root: Path, *, limit: str | None, held: int = 0) -> int:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal:  900 kB\nMemAvailable:     700 kB\nBuffers:  1 kB\n")
    if limit is not None:
        groups = root / "sys/fs/cgroup"
        groups.mkdir(parents=True)
        (groups / "memory.max").write_text(f"{limit}\n")
        (groups / "memory.current").write_text(f"{held}\n")
    return host_memory_bytes(root)


@pytest.mark.parametrize(
    ("limit", "held", "available"),
    [
        (None, 0, 700 * 1024),
        ("max", 5, 700 * 1024),
        ("500", 100, 400),
        ("500", 600, 0),
        (str(10**9), 5, 700 * 1024),
    ],
)
def test_a_container_has_what_its_limit_leaves(tmp_path: Path, limit: str | None, held: int, available: int) -> None:
    assert host(tmp_path, limit=limit, held=held) == available


# ---- a real one ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(shape("llama"), tmp_path_factory.mktemp("models") / "tiny")


def load_of(folder: Path, **settings: object) -> Load:
    return Load(**({"model": str(folder), "device": "cpu", "max_context": 100, "max_sessions": 3} | settings))  # type: ignore[arg-type]


def assembled(load: Load) -> tuple[StepRunner, Loaded]:
    built = assemble(load, lambda text: None)
    assert not isinstance(built, LoadFailed), built.message
    return built


def item_at(first: int, rows: int, tokens: tuple[int, ...], start: int = 0) -> Item:
    return Item(Extent(first, rows), Span(start, tokens, wanted=tuple(range(len(tokens)))), Sampling())


def test_it_says_what_it_serves(folder: Path) -> None:
    runner, loaded = assembled(load_of(folder))
    assert (loaded.name, loaded.vocabulary, loaded.stop_ids) == ("tiny", TOKENS, (0,))
    assert (loaded.context_tokens, loaded.rows) == (100, 3 * 192)
    assert loaded.row_bytes == 2 * 2 * 2 * 12 * 4  # keys and values, layers, heads, width, float32
    assert loaded.numerics.startswith("fast/float32/cpu/")
    assert assembled(load_of(folder, max_context=10**6))[1].context_tokens == CONTEXT
    good, bad = run(runner, item_at(0, 192, (1, 2, 3)), item_at(192, 192, (1, TOKENS)))
    assert len(good.choices) == 3
    assert "vocabulary" in bad.failure


def test_its_settings_are_heard(folder: Path) -> None:
    _, strict = assembled(load_of(folder, profile="strict", kv_tokens=700))
    _, small = assembled(load_of(folder, kv_dtype="int8"))
    assert strict.rows == 704
    assert strict.numerics.startswith("strict/")
    assert small.row_bytes < 2 * 2 * 2 * 12 * 4 / 2
    assert "int8" in small.numerics


@pytest.mark.parametrize("name", ["ngram", "itself"])
def test_its_drafter_drafts(folder: Path, name: str) -> None:
    runner, _ = assembled(load_of(folder, draft_model=str(folder) if name == "itself" else name))
    items = tuple(DraftItem(session, Sampling(), (7, 8, 9, 7, 8), 2) for session in range(3))
    drafts = runner.draft(DraftStep(1, items)).tokens
    assert [len(tokens) for tokens in drafts] == [2] * 3
    if name == "itself":
        (chosen,) = run(runner, item_at(0, 192, (7, 8, 9, 7, 8)))
        assert {tokens[0] for tokens in drafts} == {chosen.choices[-1]}
    without, _ = assembled(load_of(folder))
    assert without.draft(DraftStep(2, items)).tokens == ((),) * 3


def refused(load: Load) -> LoadFailed:
    built = assemble(load, lambda text: None)
    assert isinstance(built, LoadFailed)
    return built


def test_a_checkpoint_that_cannot_be_loaded_is_refused(folder: Path, tmp_path: Path) -> None:
    assert refused(load_of(folder, model=str(tmp_path / "none"))).kind == "checkpoint"
    broken = save(shape("llama"), tmp_path / "broken")
    edit_json(broken / "config.json", auto_map={"AutoConfig": "x.Y"})
    assert "auto_map" in refused(load_of(broken)).message


def test_a_pool_that_memory_cannot_hold_is_refused(folder: Path) -> None:
    failed = refused(load_of(folder, kv_tokens=1 << 50))
    assert failed.kind == "machine"
    assert "--kv-tokens" in failed.message


# ---- semantic heads ----


def saved_head(folder: Path, where: Path, **changes: Any) -> str:
    """Write a head for the model in ``folder``, which tells a token's risk by its log-probabilities."""
    path = where / "head.safetensors"
    head = head_by_gap(**{"target": files_digest(folder), "target_width": 48, **changes})
    save_head(path, head)
    return str(path)


@pytest.mark.parametrize("profile", ["fast", "strict"])
def test_its_heads_read_drafts(folder: Path, tmp_path: Path, profile: str) -> None:
    path = saved_head(folder, tmp_path)
    runner, _ = assembled(load_of(folder, heads=(path, path), profile=profile))
    item = replace(item_at(0, 192, (1, 2, 3, 4, 5)), judged=Judged(4, head=1))
    (outcome,) = run(runner, item)
    assert len(outcome.evidence) >= 2
    for evidence in outcome.evidence:
        assert evidence.partial == pytest.approx((evidence.choice_log_p - evidence.drafted_log_p,), abs=1e-4)


def test_a_head_that_is_for_another_model_or_broken_is_refused(folder: Path, tmp_path: Path) -> None:
    def message(path: str) -> str:
        failed = refused(load_of(folder, heads=(path,)))
        assert (failed.kind, "\n" in failed.message) == ("checkpoint", False)
        return failed.message

    assert "another target" in message(saved_head(folder, tmp_path, target=b"x" * 32))
    assert "states of 12 numbers, and the target's have 48" in message(saved_head(folder, tmp_path, target_width=12))
    assert "cannot be read" in message(str(tmp_path / "none.safetensors"))


# ---- isolation, on a real model ----

OFFENDERS: dict[str, Callable[[int], Item]] = {
    "an id past the vocabulary": lambda first: item_at(first, 192, (1, TOKENS + 5)),
    "rows that are no numbers": lambda first: item_at(first, 192, (1, 2), start=20),
    "past the context": lambda first: item_at(first, 192, (1, 2), start=99),
}


@pytest.fixture(scope="module", params=["fast", "strict"])
def runner(folder: Path, request: pytest.FixtureRequest) -> StepRunner:
    """An engine of which rows 192 to 384 are no numbers."""
    engine = TargetEngine(load_target(str(folder), device="cpu", max_context=100), 600, profile=request.param)
    runner = StepRunner(engine, TOKENS)
    run(runner, item_at(0, 192, (1,)))  # now the rows are there
    engine.poison_rows(192, 192)
    return runner


@pytest.mark.parametrize("name", OFFENDERS)
def test_a_bad_item_leaves_the_others_as_they_are(runner: StepRunner, name: str) -> None:
    good = [item_at(0, 192, (5, 6, 7)), item_at(384, 192, (8, 9, 10, 11))]
    alone = [run(runner, item)[0] for item in good]
    first, bad, last = run(runner, good[0], OFFENDERS[name](192), good[1])
    assert bad.failure
    assert [first, last] == alone
    assert len(last.choices) == 4


def run(runner: StepRunner, *items: Item) -> tuple[Outcome, ...]:
    return runner.run(Step(1, items)).outcomes
