"""Rounds of many texts side by side are those of one text alone: real models, real heads, the bench's own drafter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.types import Sampling
from bench.match_runs import Pair as Reference
from bench.semantic_cells import pair_of, problems, unchanged
from bench.semantic_contestants import Setting, named
from bench.semantic_drafter import Ask, BatchedDrafter
from bench.semantic_pair import Pair
from bench.semantic_rounds import FIRST_PROBLEM, Fleet, Written
from models.wordproblems import word_problem

COUNT = 6
EXACT, OURS = Setting("exact", 16), Setting("target_only", 16)
ZERO = replace(OURS, max_loss=1e-6, tag="tolerance 0")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return pair_of("drafter")


@pytest.fixture(scope="module")
def texts(pair: Pair) -> list[Written]:
    settings = [*named((16,), ("exact", "kl_judge", "full_hidden", "mismatch_first", "target_only")), ZERO]
    return Fleet(pair).write(problems(pair, 0, COUNT), settings)


def of(texts: Sequence[Written], setting: Setting) -> dict[int, Written]:
    return {text.problem: text for text in texts if text.setting == setting}


def test_exact_texts_are_the_targets_own(texts: list[Written]) -> None:
    reference = Reference()
    for number, text in of(texts, EXACT).items():
        run = reference.run(word_problem("held-out", FIRST_PROBLEM + number).prompt, Sampling())
        assert text.ids == run.ids
        # Rounds follow from the matches: each ends with the first miss, or with the draft.
        rounds, at = 0, 1
        while at < len(run.ids):
            end = next(
                (place for place in range(at, at + 16) if place >= len(run.ids) or not run.matched[place]), at + 16
            )
            rounds, at = rounds + 1, min(end + 1, len(run.ids))
        assert text.rounds == rounds


def test_every_problem_is_written_in_every_setting(texts: list[Written]) -> None:
    assert len(texts) == 6 * COUNT
    assert {text.problem for text in texts} == set(range(COUNT))
    assert all(text.ended and text.tokens == len(text.ids) - 1 for text in texts), "the first token needs no round"


def test_a_tolerance_of_nothing_is_exact(texts: list[Written]) -> None:
    exact = of(texts, EXACT)
    for number, text in of(texts, ZERO).items():
        assert text.ids == exact[number].ids
        assert (text.rounds, text.by_meaning) == (exact[number].rounds, 0)


def test_meaning_saves_rounds_and_counts_what_it_did(texts: list[Written]) -> None:
    exact, ours = of(texts, EXACT), of(texts, OURS)
    assert sum(text.rounds for text in ours.values()) < sum(text.rounds for text in exact.values())
    assert sum(text.by_meaning for text in ours.values()) > 0
    assert all(text.spent > 0 for text in ours.values() if text.by_meaning)
    assert all(text.spent == 0 == text.by_meaning for text in exact.values())


def test_both_protocols_of_one_head_write_the_same_and_weigh_differently(texts: list[Written]) -> None:
    whole, asked = of(texts, Setting("full_hidden", 16)), of(texts, Setting("mismatch_first", 16))
    assert {number: text.ids for number, text in whole.items()} == {number: text.ids for number, text in asked.items()}
    assert all(text.asked == 0 for text in whole.values())
    assert sum(text.asked for text in asked.values()) > 0
    up = [sum(text.bytes_up for text in one.values()) for one in (whole, asked, of(texts, OURS))]
    assert up[0] > 2 * up[1] > 2 * up[2]
    drafted = sum(text.drafted for text in whole.values())
    assert up[0] > 132 * drafted, "a scale and a byte for each number of every state"


def test_lines_are_those_of_a_text_alone_wherever_they_part(pair: Pair) -> None:
    prompts = [problem.prompt for problem in problems(pair, 50, 3)]
    batched = BatchedDrafter(pair.small, 3, pair.room)
    together = batched.draft([Ask(place, prompt) for place, prompt in enumerate(prompts)], 12)
    for place, (prompt, line) in enumerate(zip(prompts, together, strict=True)):
        alone = BatchedDrafter(pair.small, 1, pair.room).draft([Ask(0, prompt)], 12)[0]
        assert line.tokens == alone.tokens
        parted = (*prompt, *line.tokens[:4], 7)
        again = batched.draft([Ask(place, parted)], 12)[0]
        assert again.tokens == BatchedDrafter(pair.small, 1, pair.room).draft([Ask(0, parted)], 12)[0].tokens
        assert len(again.rows) == len(again.tokens)
        assert len(again.q(len(again.tokens))) == len(again.tokens)


def test_exact_texts_do_not_change_beside_semantic_ones() -> None:
    assert unchanged("drafter", 0, 3, (EXACT, OURS), "strict") == (3, 3)
