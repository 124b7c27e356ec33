"""In strict a position's logits have the same bits alone, in a crowd, in pieces, on a branch and replayed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.types import Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.strict import CPU_LADDERS, Ladder, numerics_digest, proven
from edge_node.engine.target import Target
from edge_node.step import Extent, Fill
from tests.shapes import CONTEXT, VOCABULARY, shape, text

SESSIONS = 4
PLACE_ROWS = 512
"""Of the pool, for each session; its extent there may be smaller, and changes places."""

EXTENTS = (64, 128, 256)
"""Rows that an extent may have: the bits do not depend on it."""

KINDS = [
    ("llama", "sdpa", "auto"),
    ("llama", "eager", "auto"),
    ("llama", "sdpa", "int8"),
    ("qwen2", "sdpa", "auto"),
    ("qwen2-sliding", "sdpa", "auto"),
    ("qwen2-sliding", "sdpa", "int8"),
    ("gemma3", "sdpa", "auto"),
]


def target_of(name: str, attention: str = "sdpa") -> Target:
    return Target(name, shape(name, attention=attention), "", VOCABULARY, (), CONTEXT, b"", None)


@cache
def ladder_of(name: str, attention: str, kv_dtype: str) -> Ladder:
    """Return what a probe found here: once, because the tests below make many engines."""
    ladder = TargetEngine(target_of(name, attention), 64, profile="strict", kv_dtype=kv_dtype).ladder
    assert ladder is not None
    return ladder


def engine_of(name: str, attention: str, kv_dtype: str) -> TargetEngine:
    ladder = ladder_of(name, attention, kv_dtype)
    options: dict[str, Any] = {"profile": "strict", "kv_dtype": kv_dtype, "ladder": ladder, "poison": True}
    return TargetEngine(target_of(name, attention), (SESSIONS + 1) * PLACE_ROWS, **options)


@cache
def alone(name: str, attention: str, kv_dtype: str, seed: int) -> Tensor:
    """Return the logits [CONTEXT, V] of a text, one token a pass and nobody else there."""
    engine, ids = engine_of(name, attention, kv_dtype), text(CONTEXT, seed=seed)
    extent = Extent(0, 256)
    passes = [engine.extend([(extent, Span(at, (token,), wanted=(0,)))])[0] for at, token in enumerate(ids)]
    return torch.cat(passes)


@dataclass
class Session:
    """A text, its extent, and the branch that the next span has to gather."""

    ids: list[int]
    bits: Tensor
    extent: Extent
    done: int = 0
    branch: tuple[int, ...] = field(default=())

    def piece(self, chance: random.Random) -> tuple[Span, list[tuple[int, int]]]:
        """Return a span, and which of its wanted rows give the logits of which position."""
        start, gather = self.done + len(self.branch), self.branch
        if not gather and chance.random() < 0.3:
            start -= min(start, chance.randint(1, 9))  # rolled back, and drafted again
        self.branch = ()
        room = min(CONTEXT, self.extent.rows) - start
        if chance.random() < 0.4:
            return self._tree(chance, start, gather, min(room, 6))
        count = min(room, chance.choice((1, 1, 2, 3, 5, 8, 20, 70)))
        wanted = tuple(sorted(chance.sample(range(count), chance.randint(0, count))))
        self.done = start + count
        span = Span(start, tuple(self.ids[start : start + count]), wanted=wanted, gather=gather)
        return span, [(row, start + node) for row, node in enumerate(wanted)]

    def _tree(
        self, chance: random.Random, start: int, gather: tuple[int, ...], most: int
    ) -> tuple[Span, list[tuple[int, int]]]:
        """Draft the text itself as one branch among wrong ones, in any order that puts parents first."""
        truth = [-1] * chance.randint(1, most)  # node of each depth
        parents: list[int] = []
        tokens: list[int] = []
        depth = 0
        while depth < len(truth):
            if parents and len(parents) < self.extent.rows - start - len(truth) and chance.random() < 0.4:
                parents.append(chance.randrange(-1, len(parents)))
                tokens.append(chance.randrange(VOCABULARY))
                if self._depth(parents, len(parents) - 1) + start >= CONTEXT:
                    del parents[-1], tokens[-1]
                continue
            parents.append(truth[depth - 1] if depth else -1)
            tokens.append(self.ids[start + depth])
            truth[depth] = len(parents) - 1
            depth += 1
        self.done, self.branch = start, tuple(start + node for node in truth)
        wanted = tuple(range(len(tokens)))
        span = Span(start, tuple(tokens), parents=tuple(parents), wanted=wanted, gather=gather)
        return span, [(node, start + at) for at, node in enumerate(truth)]

    @staticmethod
    def _depth(parents: Sequence[int], node: int) -> int:
        depth = 0
        while parents[node] >= 0:
            node, depth = parents[node], depth + 1
        return depth

    @property
    def over(self) -> bool:
        return self.done + len(self.branch) >= min(CONTEXT, self.extent.rows)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "attention", "kv_dtype"), KINDS)
def test_any_schedule_gives_the_bits_of_one_token_at_a_time_alone(
    name: str, attention: str, kv_dtype: str, seed: int
) -> None:
    chance, engine = random.Random(seed), engine_of(name, attention, kv_dtype)
    free = list(range(SESSIONS + 1))
    sessions = [
        Session(text(CONTEXT, seed=i), alone(name, attention, kv_dtype, i), _opened(engine, chance, free))
        for i in range(SESSIONS)
    ]
    judged = 0
    while judged < 600:
        for session in sessions:
            if session.over or chance.random() < 0.05:
                _moved(engine, chance, session, free)
        chosen = chance.sample(sessions, chance.randint(1, SESSIONS))
        pieces = [session.piece(chance) for session in chosen]
        logits = engine.extend([(session.extent, span) for session, (span, _) in zip(chosen, pieces, strict=True)])
        for session, (_, expected), got in zip(chosen, pieces, logits, strict=True):
            for row, position in expected:
                assert torch.equal(got[row], session.bits[position]), f"position {position} in {session.extent}"
                judged += 1


def _opened(engine: TargetEngine, chance: random.Random, free: list[int]) -> Extent:
    """Lend a place that another had, cleared as the front would clear it."""
    extent = Extent(free.pop(chance.randrange(len(free))) * PLACE_ROWS, chance.choice((64, 128, 192, 320)))
    engine.fill(Fill(extent.first, extent.rows))
    return extent


def _moved(engine: TargetEngine, chance: random.Random, session: Session, free: list[int]) -> None:
    """Evict a session and begin it again, with or without a copy of its first rows, in an extent of another size."""
    left = session.extent
    session.extent = _opened(engine, chance, free)
    kept = chance.randint(0, min(session.done, session.extent.rows - 1, left.rows)) if chance.random() < 0.5 else 0
    if kept == CONTEXT:
        kept -= 1
    if kept:
        engine.fill(Fill(session.extent.first, kept, source=left.first))
    session.done, session.branch = kept, ()
    free.append(left.first // PLACE_ROWS)


def test_a_span_wider_than_the_greatest_rung_is_cut_and_gives_the_same_bits() -> None:
    engine, ids = engine_of(*KINDS[0]), text(CONTEXT)
    before = engine.computed
    (logits,) = engine.extend([(Extent(0, 256), Span(0, tuple(ids), wanted=tuple(range(CONTEXT))))])
    assert engine.computed - before == 3 * 64
    assert torch.equal(logits, alone(*KINDS[0], 0))


def test_a_wide_tree_is_cut_and_gives_the_same_bits() -> None:
    """A comb: every node of the text has a wrong sibling before it, so that rows run twice as fast as positions."""
    engine, ids, depth = engine_of(*KINDS[3]), text(CONTEXT), 60
    tokens, parents, truth = list[int](), list[int](), list[int]()
    for at in range(depth):
        above = truth[-1] if truth else -1
        tokens += [(ids[at] + 1) % VOCABULARY, ids[at]]
        parents += [above, above]
        truth.append(len(tokens) - 1)
    span = Span(0, tuple(tokens), parents=tuple(parents), wanted=tuple(truth))
    (logits,) = engine.extend([(Extent(0, 256), span)])
    assert torch.equal(logits, alone(*KINDS[3], 0)[:depth])


# ---- which sizes may be used ----


@dataclass
class Shifty:
    """Logits that depend on the ids, and on a whim."""

    whim: float = 0.0
    beside: float = 0.0  # that neighbours cause
    context_tokens: int = 1000

    def extend(self, work: Sequence[tuple[Extent, Span]]) -> list[Tensor]:
        noise = self.whim + (self.beside if len(work) > 1 else 0.0)
        return [torch.tensor([[span.tokens[node] + noise] for node in span.wanted]) for _, span in work]

    def fill(self, fill: Fill) -> None:
        pass


def test_rungs_of_another_opinion_are_dropped() -> None:
    whims = {8: 1.0, 16: 0.0, 32: 0.0, 64: 1.0, 128: 0.0}
    ladders = [Ladder((8, 16, 32, 64, 128), (8,))]
    found = proven("tiny", ladders, VOCABULARY, lambda ladder: Shifty(whims[ladder.rungs[0]]))
    assert found == Ladder((16, 32, 128), (8,))


def test_of_parties_as_large_the_one_with_the_greatest_rung_stays() -> None:
    found = proven(
        "tiny", [Ladder((8, 16, 32, 64), (8,))], VOCABULARY, lambda ladder: Shifty(float(ladder.rungs[0] > 16))
    )
    assert found.rungs == (32, 64)


def test_the_next_ladder_is_tried_where_one_disagrees_with_itself() -> None:
    ladders = [Ladder((4, 8), (4, 8)), Ladder((8, 16), (8,))]
    found = proven("tiny", ladders, VOCABULARY, lambda ladder: Shifty(beside=float(ladder.groups == (4, 8))))
    assert found == ladders[1]


def test_a_model_whose_rows_depend_on_their_neighbours_is_refused_in_one_line() -> None:
    with pytest.raises(CheckpointRefused, match=r"tiny gives .* other bits .* use --profile fast") as refused:
        proven("tiny", CPU_LADDERS, VOCABULARY, lambda ladder: Shifty(beside=1e-6))
    assert "\n" not in str(refused.value)


def test_a_real_model_that_mixes_its_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = shape("llama", seed=3)
    made = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda states: made(states + 1e-6 * states.mean(dim=1, keepdim=True)))
    with pytest.raises(CheckpointRefused, match="use --profile fast"):
        TargetEngine(replace(target_of("llama"), model=model), 64, profile="strict")


def test_extents_have_whole_blocks() -> None:
    with pytest.raises(AssertionError, match="100 rows are no multiple of 64"):
        engine_of(*KINDS[0]).extend([(Extent(0, 100), Span(0, (1,)))])


def test_a_context_shorter_than_the_probe_is_no_hindrance() -> None:
    engine = TargetEngine(replace(target_of("llama"), context_tokens=2), 64, profile="strict")
    (logits,) = engine.extend([(Extent(0, 64), Span(0, (1, 2), wanted=(1,)))])
    assert logits.shape == (1, VOCABULARY)


# ---- the name of the bits ----


def test_the_digest_tells_what_changes_the_bits_apart() -> None:
    target = target_of("llama")
    ladder = Ladder((8, 16), (8,))
    names = {
        numerics_digest(target, "fast"),
        numerics_digest(target, "fast", "int8"),
        numerics_digest(target_of("llama", "eager"), "fast"),
        numerics_digest(target, "strict", ladder=ladder),
        numerics_digest(target, "strict", ladder=Ladder((8,), (8,))),
        numerics_digest(target, "strict", "int8", ladder),
    }
    assert len(names) == 6
    assert numerics_digest(target, "fast") == TargetEngine(target, 64).numerics
    assert numerics_digest(target, "strict", "int8", ladder).startswith("strict/float32/int8/cpu/")


def test_threads_are_part_of_the_strict_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    target, ladder = target_of("llama"), Ladder((8,), (8,))
    before = numerics_digest(target, "strict", ladder=ladder), numerics_digest(target, "fast")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert numerics_digest(target, "strict", ladder=ladder) != before[0]
    assert numerics_digest(target, "fast") == before[1]
