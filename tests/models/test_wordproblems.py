"""The generator: its corpus is frozen, its solutions are right, and training never sees a held-out problem."""

import re

import pytest

from models.phrasing import CHOICES, PREFERENCE, TARGET_STYLE, Style, drafter_style
from models.wordproblems import (
    CORPUS_SHA256,
    END,
    MAX_VALUE,
    Problem,
    Split,
    check_answer,
    corpus_sha256,
    drill,
    is_held_out,
    plan,
    word_problem,
)

FACT = re.compile(
    r"(\d+) (\+|plus|and|-|minus|less|from|off|\*|times|x) (\d+) (?:=|is|makes|equals|gives|leaves) (\d+)\."
)
DRAFTER_STYLE = drafter_style("drafter", overlap=0.5)


def holds(left: int, operator: str, right: int, result: int) -> bool:
    if operator in {"from", "off"}:
        return right - left == result
    if operator in {"-", "minus", "less"}:
        return left - right == result
    return (left * right if operator in {"*", "times", "x"} else left + right) == result


def facts(problem: Problem) -> list[tuple[int, str, int, int]]:
    return [(int(a), operator, int(b), int(c)) for a, operator, b, c in FACT.findall(problem.solution)]


def test_the_corpus_is_the_frozen_one() -> None:
    assert corpus_sha256() == CORPUS_SHA256


def test_a_document_does_not_depend_on_what_was_made_before() -> None:
    first = word_problem("train", 7)
    word_problem("train", 8)
    drill(7)
    assert word_problem("train", 7) == first


@pytest.mark.parametrize("split", ["train", "held-out"])
@pytest.mark.parametrize("style", [TARGET_STYLE, DRAFTER_STYLE], ids=lambda style: style.name)
def test_every_step_holds_and_the_last_gives_the_answer(split: Split, style: Style) -> None:
    for index in range(500):
        problem = word_problem(split, index, style)
        found = facts(problem)
        assert len(found) == len(plan(split, index).steps)
        assert all(holds(*fact) and fact[3] <= MAX_VALUE for fact in found)
        assert found[-1][3] == problem.answer == check_answer(problem.completion)
        assert problem.completion.endswith(f"\n#### {problem.answer}{END}")


def test_every_fact_of_a_drill_holds() -> None:
    for index in range(500):
        found = facts(drill(index))
        assert len(found) == 4
        assert all(holds(*fact) for fact in found)


def test_the_question_is_the_same_in_every_style_and_the_solution_is_not() -> None:
    pairs = [(word_problem("train", i), word_problem("train", i, DRAFTER_STYLE)) for i in range(100)]
    assert all(ours.question == theirs.question and ours.answer == theirs.answer for ours, theirs in pairs)
    assert any(ours.solution != theirs.solution for ours, theirs in pairs)


def test_no_held_out_problem_is_in_the_training_split() -> None:
    assert all(is_held_out(plan("held-out", i).key) for i in range(500))
    assert not any(is_held_out(plan("train", i).key) for i in range(5000))
    trained = {word_problem("train", i).question for i in range(5000)}
    assert trained.isdisjoint(word_problem("held-out", i).question for i in range(500))


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7, 1.0])
def test_a_style_agrees_with_the_target_in_the_stated_share_of_the_slots(overlap: float) -> None:
    style = drafter_style("drafter", overlap)
    agreed = sum(style.preferred[slot] == TARGET_STYLE.preferred[slot] for slot in CHOICES)
    assert agreed == round(overlap * len(CHOICES))


def test_more_overlap_agrees_wherever_less_overlap_does() -> None:
    little, much = drafter_style("little", 0.4), drafter_style("much", 0.8)
    assert all(much.preferred[slot] == 0 for slot in CHOICES if little.preferred[slot] == 0)


def test_the_preferred_wording_is_written_as_often_as_stated() -> None:
    documents = [word_problem("train", i) for i in range(2000)]
    slot = ("first", "marker")
    share = sum(d.solution.startswith(CHOICES[slot][0]) for d in documents) / len(documents)
    assert share == pytest.approx(PREFERENCE + (1 - PREFERENCE) / len(CHOICES[slot]), abs=0.03)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("It is 4.\n#### 42<|end|>", 42), ("#### 7\n#### 8", 7), ("no answer", None), ("#### many", None), ("", None)],
)
def test_check_answer(text: str, answer: int | None) -> None:
    assert check_answer(text) == answer
