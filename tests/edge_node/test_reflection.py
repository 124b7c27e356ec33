"""A second opinion is what the target says where it reads its draft again; the session goes on as if nobody asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from airdraft.core.types import Evidence, Sampling, Span
from edge_node.engine.assembly import assemble
from edge_node.engine.engine import TargetEngine
from edge_node.engine.judging import TargetJudge
from edge_node.engine.reflection import Reflection
from edge_node.engine.runner import StepRunner
from edge_node.engine.target import Target
from edge_node.engine_messages import Load, LoadFailed
from edge_node.reflective import QUESTION, CannotReflect, asking_ids, cannot_reflect
from edge_node.step import Extent, Item, Judged, Outcome, Step
from tests.checkpoints import TOKENS, edit_json, save
from tests.shapes import CONTEXT, plain_logits, shape, text

TEMPLATE = """{{ bos_token }}{%- for message in messages %}
w5 {{ 'w7' if message.role == 'user' else 'w8' }} {{ message['content'] }} w6
{% endfor %}
{% if add_generation_prompt %}w5 w8 {% endif %}"""

ROWS = 192
PLACES = 3
TOLERANCE = 1e-4
TREE = (-1, 0, 0, 1, 2, 4, 3, 6)
"""Of a committed token and its drafts; the first line is 1, 3, 6, 7."""
FIRST_LINE = (1, 3, 6, 7)


def words() -> str:
    known = {f"w{index}": index for index in range(TOKENS)}
    tokenizer = Tokenizer(WordLevel(known, unk_token="w1"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer.to_str()


ASKING = asking_ids(TEMPLATE, words())


def runner_of(scratch_rows: int = ROWS, *, name: str = "llama", **options: Any) -> StepRunner:
    target = Target(name, shape(name), "", TOKENS, (), CONTEXT, b"", None)
    engine = TargetEngine(target, PLACES * ROWS + scratch_rows, **{"poison": True} | options)
    reflection = Reflection(engine, Extent(PLACES * ROWS, scratch_rows), ASKING)
    return StepRunner(engine, TOKENS, judge=TargetJudge(TOKENS, reflection=reflection))


def ids_of(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(token % TOKENS for token in text(length, seed))


def chain(place: int, *, length: int = 20, drafts: int = 6, reflect: bool = True, seed: int = 0) -> Item:
    span = Span(0, ids_of(length + drafts, seed), wanted=tuple(range(length - 1, length + drafts)))
    return Item(Extent(place * ROWS, ROWS), span, Sampling(), judged=Judged(drafts, reflect=reflect))


def run(runner: StepRunner, *items: Item) -> tuple[Outcome, ...]:
    outcomes = runner.run(Step(1, items)).outcomes
    assert not any(outcome.failure for outcome in outcomes)
    return outcomes


def second_opinion(held: tuple[int, ...], line: list[int], at: int, drafted: int, choice: int, name: str) -> float:
    ids = [*held, *line, *ASKING, *line[:at]]
    row = plain_logits(shape(name), ids)[-1]
    return float(row[drafted] - row[choice])


def told_by_a_plain_forward(item: Item, outcome: Outcome, name: str = "llama") -> list[Evidence]:
    """Return the evidence that was reflected, after a look at each number."""
    span, nodes = item.span, item.judged.nodes if item.judged else 0
    first = len(span.tokens) - nodes
    found = [evidence for evidence in outcome.evidence if evidence.reflected is not None]
    line = list(span.tokens[first:])
    for evidence in found:
        choice = outcome.choices[evidence.node]
        wanted = second_opinion(span.tokens[:first], line, evidence.node, line[evidence.node], choice, name)
        assert evidence.reflected is not None
        assert abs(evidence.reflected - wanted) < TOLERANCE
    return found


# ---- the second opinion ----


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
@pytest.mark.parametrize("profile", ["fast", "strict"])
def test_it_is_that_of_a_plain_forward(profile: str, name: str) -> None:
    runner = runner_of(2 * ROWS, profile=profile, name=name)
    items = [chain(0), chain(1, length=31, drafts=1, seed=2), chain(2, seed=3, reflect=False)]
    outcomes = run(runner, *items)
    for item, outcome in list(zip(items, outcomes, strict=True))[:2]:
        assert outcome.evidence
        assert len(told_by_a_plain_forward(item, outcome, name)) == len(outcome.evidence)
    assert outcomes[2].evidence
    assert all(evidence.reflected is None for evidence in outcomes[2].evidence)


def test_of_a_tree_the_first_line_is_read_again() -> None:
    prompt, nodes = ids_of(10), ids_of(len(TREE), 1)
    parents = (*range(-1, 9), *(9 + parent + 1 if parent >= 0 else 9 for parent in TREE))
    span = Span(0, (*prompt, *nodes), parents=parents, wanted=tuple(range(9, 18)))
    runner = runner_of()
    item = Item(Extent(0, ROWS), span, Sampling(), judged=Judged(len(TREE), reflect=True))
    (outcome,) = run(runner, item)
    row_of = {index: row for row, index in enumerate(span.wanted)}
    line = [0, *FIRST_LINE]
    seen = set()
    for evidence in outcome.evidence:
        if evidence.node not in line:
            assert evidence.reflected is None
            continue
        at, choice = line.index(evidence.node), outcome.choices[row_of[parents[evidence.node + 10]]]
        tokens = [nodes[node] for node in line]
        wanted = second_opinion(prompt, tokens, at, nodes[evidence.node], choice, "llama")
        assert evidence.reflected is not None
        assert abs(evidence.reflected - wanted) < TOLERANCE
        seen.add(evidence.node)
    assert len(seen) >= 3


def test_drafts_of_the_edge_are_not_read_again() -> None:
    item = chain(0)
    own = Item(item.extent, item.span, item.sampling, judged=Judged(6, own=2, reflect=True))
    (outcome,) = run(runner_of(), own)
    nodes = {evidence.node for evidence in outcome.evidence if evidence.reflected is not None}
    assert nodes
    assert nodes <= {0, 1, 2, 3}


@pytest.mark.parametrize("profile", ["fast", "strict"])
def test_sessions_take_turns_where_scratch_rows_hold_one(profile: str, caplog: pytest.LogCaptureFixture) -> None:
    runner = runner_of(128, profile=profile)
    items = [chain(place, seed=place, length=15 + place) for place in range(3)]
    for item, outcome in zip(items, run(runner, *items), strict=True):
        assert len(told_by_a_plain_forward(item, outcome)) == len(outcome.evidence) > 0
    assert not caplog.text


@pytest.mark.parametrize("profile", ["fast", "strict"])
def test_rows_of_earlier_passes_are_read_where_they_stand(profile: str) -> None:
    runner, ids = runner_of(profile=profile), ids_of(40)
    run(runner, Item(Extent(ROWS, ROWS), Span(0, ids[:25]), Sampling()))
    span = Span(24, ids[24:], wanted=tuple(range(9, 16)))  # the last of 34 committed tokens, and six drafts
    (outcome,) = run(runner, Item(Extent(ROWS, ROWS), span, Sampling(), judged=Judged(6, reflect=True)))
    whole = Item(Extent(0, ROWS), Span(0, ids, wanted=tuple(range(33, 40))), Sampling(), judged=Judged(6))
    assert len(told_by_a_plain_forward(whole, outcome)) == len(outcome.evidence) > 0


def test_a_text_that_leaves_no_room_is_judged_without() -> None:
    def first_is_not_read(runner: StepRunner, long: Item, short: Item) -> None:
        outcomes = run(runner, long, short)
        assert outcomes[0].evidence
        assert all(evidence.reflected is None for evidence in outcomes[0].evidence)
        assert told_by_a_plain_forward(short, outcomes[1])

    first_is_not_read(runner_of(2 * ROWS), chain(0, length=150), chain(1))  # in the context
    first_is_not_read(runner_of(64), chain(0, length=60), chain(1, length=2, drafts=2))  # in the scratch rows


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("profile", ["fast", "strict"])
def test_the_session_goes_on_as_if_nobody_had_asked(profile: str, kv_dtype: str) -> None:
    def two_steps(*, reflect: bool) -> list[Outcome]:
        runner = runner_of(profile=profile, kv_dtype=kv_dtype)
        first = run(runner, chain(0, reflect=reflect), chain(1, seed=1, reflect=reflect))
        later = Span(23, ids_of(5, 9), wanted=(0, 1, 2, 3, 4))
        return [*first, *run(runner, Item(Extent(0, ROWS), later, Sampling()), chain(2, reflect=reflect))]

    plain, asked = two_steps(reflect=False), two_steps(reflect=True)
    assert [outcome.choices for outcome in asked] == [outcome.choices for outcome in plain]
    assert asked[0].evidence[0].reflected is not None


# ---- the turn that asks ----


def test_the_turn_ends_the_answer_asks_and_begins_the_next_one() -> None:
    question = [1] * len(QUESTION.split())  # words that this tokenizer does not know
    assert list(ASKING) == [6, 5, 7, *question, 6, 5, 8]


REFUSED = {
    "none": (None, words(), "no chat template"),
    "empty": ("", words(), "no chat template"),
    "no answer": ("{{ messages[-1]['content'] }}", words(), "does not show"),
    "no question": ("{{ messages[1]['content'] }}", words(), "does not show"),
    "its own refusal": ("{{ raise_exception('roles must\n alternate') }}", words(), "roles must alternate"),
    "no template": ("{% for", words(), "cannot be filled in"),
    "a way out": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", words(), "cannot be filled in"),
    "no tokenizer": (TEMPLATE, "{", "tokenizer cannot be read"),
    "endless": (TEMPLATE + "{{ 'w9 ' * 300 }}", words(), "tokens of a question"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_asked_says_why_in_one_line(name: str) -> None:
    template, tokenizer, reason = REFUSED[name]
    assert reason in cannot_reflect(template, tokenizer)
    assert "\n" not in cannot_reflect(template, tokenizer)
    with pytest.raises(CannotReflect, match=reason):
        asking_ids(template, tokenizer)
    assert cannot_reflect(TEMPLATE, words()) == ""


# ---- as the process puts it together ----


def test_rows_for_questions_are_kept_from_the_front(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "tiny")
    edit_json(folder / "tokenizer_config.json", chat_template=TEMPLATE)
    load = Load(str(folder), device="cpu", max_context=100, max_sessions=3, reflect=True)
    built = assemble(load, lambda _: None)
    assert not isinstance(built, LoadFailed)
    runner, loaded = built
    assert loaded.rows == 3 * 192
    span = Span(0, ids_of(16), wanted=tuple(range(9, 16)))
    item = Item(Extent(2 * 192, 192), span, Sampling(), judged=Judged(6, reflect=True))
    (outcome,) = run(runner, item)
    assert len(told_by_a_plain_forward(item, outcome)) == len(outcome.evidence) > 0


def test_a_model_that_cannot_be_asked_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "tiny")
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    refused = assemble(Load(str(folder), device="cpu", max_context=100, reflect=True), lambda _: None)
    assert isinstance(refused, LoadFailed)
    assert refused.kind == "checkpoint"
    assert "cannot be asked about its drafts: it has no chat template" in refused.message
