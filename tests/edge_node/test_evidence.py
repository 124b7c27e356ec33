"""Evidence of a draft is what the model itself says of it, whoever else is in the step and however it is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from airdraft.core.acceptance_chain import SparseQ, quantise
from airdraft.core.types import Evidence, Sampling, Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.evidence import REST_WEIGHT, SCALARS, evidence_scalars, row_facts
from edge_node.engine.judging import Passed, TargetJudge
from edge_node.engine.misses import Miss
from edge_node.engine.runner import StepRunner
from edge_node.engine.target import Target
from edge_node.engine_messages import framed, read_answer, read_ask
from edge_node.step import Extent, Item, Judged, Outcome, Step, StepDone
from tests.edge_node.test_runner import RowsEngine, greatest
from tests.shapes import CONTEXT, SHAPES, plain_logits, shape, text

KNOWN = 100  # ids of the tokenizer: the models' other rows are padding
ROWS = 256
TOLERANCE = 1e-4
WIDTH = 8  # of the heads
STATE = 48

TREE = (-1, 0, 0, 1, 2, 4, 3, 6)
"""A committed token with two drafts under it, and a line under each."""


def head_of(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(WIDTH, 3 * STATE + 6, generator=generator) / math.sqrt(3 * STATE + 6)


def ids_of(length: int, seed: int) -> tuple[int, ...]:
    return tuple(token % KNOWN for token in text(length, seed))


def runner_of(name: str, judge: TargetJudge | None = None, **options: Any) -> StepRunner:
    target = Target(name, shape(name), "", KNOWN, (), CONTEXT, b"", None)
    engine = TargetEngine(target, 6 * ROWS, **options)
    made = TargetJudge(KNOWN, (head_of(1), head_of(2)), shape(name).get_input_embeddings())
    return StepRunner(engine, KNOWN, judge=judge or made)


def q_of(seed: int, size: int = 7) -> SparseQ:
    generator = np.random.default_rng(seed)
    return quantise(generator.choice(KNOWN, size, replace=False), generator.dirichlet(np.ones(size)))


def chain(place: int, judged: Judged | None, seed: int = 0, drafts: int = 9) -> Item:
    """Return a prompt of 12 tokens and drafts, of which a few follow the target."""
    ids = ids_of(12 + drafts, seed)
    span = Span(0, ids, wanted=tuple(range(11, 12 + drafts)))
    return Item(Extent(place * ROWS, ROWS), span, Sampling(), judged=judged)


def tree(place: int, judged: Judged | None, seed: int = 0) -> Item:
    span = Span(0, ids_of(len(TREE), seed), parents=TREE, wanted=tuple(range(len(TREE))))
    return Item(Extent(place * ROWS, ROWS), span, Sampling(), judged=judged)


def run(runner: StepRunner, *items: Item) -> tuple[Outcome, ...]:
    outcomes = runner.run(Step(1, items)).outcomes
    assert not any(outcome.failure for outcome in outcomes)
    return outcomes


def path_of(span: Span, index: int) -> list[int]:
    path: list[int] = []
    while index >= 0:
        path.append(span.tokens[index])
        index = index - 1 if span.parents is None else span.parents[index]
    return path[::-1]


def expected_of(name: str, item: Item, choices: Sequence[int], heads: Sequence[Tensor]) -> dict[int, Evidence]:
    """Return the evidence of an item by plain forwards of each path, in float64 from there on."""
    span, judged, model = item.span, item.judged, shape(name)
    assert judged is not None
    first = len(span.tokens) - judged.nodes
    found: dict[int, Evidence] = {}
    for index in range(first, len(span.tokens) - judged.own):
        path, parent = path_of(span, index), index - 1 if span.parents is None else span.parents[index]
        choice = choices[span.wanted.index(parent)]
        if choice == path[-1]:
            continue
        log_p, log_r = plain_logits(model, path)[-2:, :KNOWN].double().log_softmax(-1)
        scalars = (log_p[path[-1]], log_p[choice], _entropy(log_p), log_p.max(), _entropy(log_r), log_r.max())
        numbers = dict(zip(SCALARS, map(float, scalars), strict=True))
        q = judged.q[index - first] if index - first < len(judged.q) else None
        kl = None if q is None else _kl(log_p, q)
        partial: tuple[float, ...] = ()
        if judged.head >= 0:
            partial = _partial(model, path, choice, tuple(numbers.values()), heads[judged.head])
        found[index - first] = Evidence(index - first, **numbers, kl=kl, partial=partial)
    return found


def _entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum()


def _kl(log_p: Tensor, q: SparseQ) -> float:
    total = sum(q.weights) + REST_WEIGHT
    p = [math.exp(log_p[token]) for token in q.ids]
    pairs = [*zip(p, q.weights, strict=True), (1 - sum(p), REST_WEIGHT)]
    return sum(mine * math.log(mine * total / weight) for mine, weight in pairs)


def _partial(model: Any, path: list[int], choice: int, numbers: tuple[float, ...], head: Tensor) -> tuple[float, ...]:
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([path]), use_cache=False, output_hidden_states=True)
        embedded = model.get_input_embeddings()(torch.tensor([path[-1], choice]))
        features = torch.cat([output.hidden_states[-1][0, -1], *embedded, torch.tensor(numbers)])
        return tuple((head @ features).tolist())


def same(got: Sequence[Evidence], expected: Mapping[int, Evidence]) -> None:
    assert [evidence.node for evidence in got] == sorted(expected)
    for evidence in got:
        wanted = expected[evidence.node]
        assert np.allclose(evidence.partial, wanted.partial, atol=TOLERANCE)
        assert (evidence.kl is None) == (wanted.kl is None)
        for mine, other in zip(astuple(evidence)[1:8], astuple(wanted)[1:8], strict=True):
            assert mine is other or abs(mine - other) < TOLERANCE


# ---- against the model itself ----


@pytest.mark.parametrize("profile", ["fast", "strict"])
@pytest.mark.parametrize("name", SHAPES)
def test_evidence_is_what_plain_forwards_say(name: str, profile: str) -> None:
    q = (q_of(1), None, q_of(2, 1), q_of(3, 40))
    items = [
        chain(0, Judged(9, head=0, q=q)),
        tree(1, Judged(7, head=1)),
        chain(2, None, seed=3),
        tree(3, Judged(7, own=2, q=(None, q_of(4))), seed=4),
        chain(4, Judged(0, head=0), seed=5),
    ]
    outcomes = run(runner_of(name, profile=profile), *items)
    heads, told = (head_of(1), head_of(2)), 0
    for item, outcome in zip(items, outcomes, strict=True):
        if item.judged is None:
            assert outcome.evidence == ()
            continue
        expected = expected_of(name, item, outcome.choices, heads)
        same(outcome.evidence, expected)
        told += len(expected)
    assert told >= 15
    assert all(len(evidence.partial) == WIDTH for evidence in outcomes[0].evidence)
    assert {evidence.node for evidence in outcomes[0].evidence if evidence.kl is not None} <= {0, 2, 3}
    assert outcomes[4].evidence == ()


def test_the_targets_own_choices_need_no_evidence() -> None:
    runner, prompt = runner_of("llama"), ids_of(12, 0)
    ids = list(prompt)
    for _ in range(6):
        ids.append(int(plain_logits(shape("llama"), ids)[-1, :KNOWN].argmax()))
    ids[15] = (ids[15] + 1) % KNOWN
    span = Span(0, tuple(ids), wanted=tuple(range(11, len(ids))))
    (outcome,) = run(runner, Item(Extent(0, ROWS), span, Sampling(), judged=Judged(6)))
    nodes = [evidence.node for evidence in outcome.evidence]
    assert nodes[0] == 3  # the first wrong one; what follows it is judged after it
    assert 0 not in nodes


def test_with_rows_that_are_kept_in_int8_evidence_is_of_the_logits_that_chose() -> None:
    runner = runner_of("qwen3", kv_dtype="int8")
    item = chain(0, Judged(9, head=0, q=(q_of(1),)))
    (outcome,) = run(runner, item)
    engine = TargetEngine(Target("qwen3", shape("qwen3"), "", KNOWN, (), CONTEXT, b"", None), ROWS, kv_dtype="int8")
    (logits,), _ = engine.extend_with_states([(item.extent, item.span)])
    log_p = logits[:, :KNOWN].double().log_softmax(-1)
    assert len(outcome.evidence) >= 5
    for evidence in outcome.evidence:
        drafted, choice = item.span.tokens[12 + evidence.node], outcome.choices[evidence.node]
        assert abs(evidence.drafted_log_p - float(log_p[evidence.node, drafted])) < TOLERANCE
        assert abs(evidence.choice_log_p - float(log_p[evidence.node, choice])) < TOLERANCE
        assert abs(evidence.after_entropy - float(_entropy(log_p[evidence.node + 1]))) < TOLERANCE
        assert len(evidence.partial) == WIDTH


@pytest.mark.parametrize("profile", ["fast", "strict"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 5, top_p=0.9)], ids=["greedy", "sampled"])
def test_choices_are_the_same_bit_for_bit_beside_judged_items_and_in_them(profile: str, sampling: Sampling) -> None:
    exact = [replace(chain(0, None), sampling=sampling), replace(tree(1, None), sampling=sampling), chain(2, None, 3)]
    judged = [replace(exact[0], judged=Judged(9, 0, (q_of(1),))), exact[1], replace(exact[2], judged=Judged(9, 1))]
    plain, beside = run(runner_of("qwen2", profile=profile), *exact), run(runner_of("qwen2", profile=profile), *judged)
    assert [outcome.choices for outcome in beside] == [outcome.choices for outcome in plain]
    assert beside[1] == plain[1]
    assert beside[0].evidence
    assert beside[2].evidence


def test_a_pass_that_no_head_is_asked_for_keeps_no_states(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of("llama")

    def refuse(*_: object) -> None:
        raise AssertionError("states are kept")

    monkeypatch.setattr(TargetEngine, "extend_with_states", refuse)
    exact, judged = run(runner, chain(0, None), chain(1, Judged(9, q=(q_of(1),)), seed=1))
    assert exact.evidence == ()
    assert judged.evidence
    assert all(evidence.partial == () for evidence in judged.evidence)


def test_moved_rows_do_not_cost_an_item_its_evidence() -> None:
    runner, item = runner_of("llama"), chain(0, Judged(9))
    run(runner, Item(item.extent, Span(0, ids_of(14, 0)), Sampling()))
    span = Span(14, ids_of(5, 2), wanted=(0, 1, 2, 3, 4), gather=(12, 13))
    (outcome,) = run(runner, Item(item.extent, span, Sampling(), judged=Judged(4)))
    assert outcome.evidence


def test_a_node_whose_rows_are_not_wanted_has_no_evidence() -> None:
    span = Span(0, ids_of(8, 0), wanted=(3, 4, 6))
    (outcome,) = run(runner_of("llama"), Item(Extent(0, ROWS), span, Sampling(), judged=Judged(4)))
    assert [evidence.node for evidence in outcome.evidence] == [0]  # node 1's row lacks, and node 2's parent


# ---- what fails ----


def with_heads(*heads: Tensor) -> StepRunner:
    embed = shape("llama").get_input_embeddings()
    return runner_of("llama", TargetJudge(KNOWN, heads, embed))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_never_gets_out(number: float) -> None:
    broken = head_of(2)
    broken[3, 5] = number
    runner = with_heads(head_of(1), broken)
    fine, spoiled, bare = run(runner, chain(0, Judged(9, 0)), chain(1, Judged(9, 1), 1), chain(2, Judged(9), 2))
    assert fine.evidence
    assert bare.evidence
    assert spoiled.evidence == ()
    assert spoiled.choices == run(runner, chain(1, None, 1))[0].choices


@pytest.mark.parametrize("bad", [torch.zeros(WIDTH, 5), None], ids=["of another width", "not loaded"])
def test_a_head_that_fails_costs_its_own_items_their_evidence_alone(
    bad: Tensor | None, caplog: pytest.LogCaptureFixture
) -> None:
    runner = with_heads(*([head_of(1)] if bad is None else [head_of(1), bad]))
    items = [chain(place, Judged(9, head=place % 2), seed=place) for place in range(5)]
    outcomes = run(runner, *items)
    assert [bool(outcome.evidence) for outcome in outcomes] == [True, False, True, False, True]
    assert [outcome.choices for outcome in outcomes] == [
        run(runner, replace(item, judged=None))[0].choices for item in items
    ]
    assert "judging" in caplog.text


class Tired:
    """A judge that runs out of memory where more than one item is judged."""

    def evidence(self, items: Sequence[Item], passed: Passed, misses: Sequence[Miss]) -> dict[int, list[Evidence]]:
        if len({miss.item for miss in misses}) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {miss.item: [Evidence(miss.node, 0, 0, 0, 0, 0, 0)] for miss in misses}


def test_memory_that_runs_out_over_many_is_enough_for_each() -> None:
    runner = StepRunner(RowsEngine(), 50, judge=Tired(), choose=greatest)
    span = Span(0, (1, 2, 3), wanted=(0, 1, 2))
    items = tuple(Item(Extent(48 * place, 48), span, Sampling(), judged=Judged(2)) for place in range(5))
    outcomes = runner.run(Step(1, items)).outcomes
    assert all(len(outcome.evidence) == 1 for outcome in outcomes)


@pytest.mark.parametrize("judged", [Judged(10), Judged(-1), Judged(2, own=3), Judged(2, own=-1)])
def test_drafts_that_the_span_does_not_have_are_the_items_own_fault(judged: Judged) -> None:
    span = Span(0, (1, 2, 3), wanted=(0, 1, 2))
    bad, good = (Item(Extent(ROWS * at, ROWS), span, Sampling(), judged=one) for at, one in enumerate((judged, None)))
    outcomes = runner_of("llama").run(Step(1, (bad, good))).outcomes
    assert "drafts" in outcomes[0].failure
    assert not outcomes[1].failure


def test_ids_that_only_a_q_knows_are_no_reason_to_fail() -> None:
    q = SparseQ((3, KNOWN), (65_000, 535))
    (outcome,) = run(runner_of("llama"), chain(0, Judged(9, q=(q, q_of(1)))))
    assert outcome.evidence[0].node == 0
    assert outcome.evidence[0].kl is None
    assert outcome.evidence[1].kl is not None


# ---- the numbers alone ----


@pytest.mark.parametrize("vocabulary", [3, 300, 70_000])
def test_facts_of_rows_are_those_of_float64(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    before, after = (torch.randn(11, vocabulary, generator=generator) * 5 for _ in range(2))
    before[4, 1:], after[5, ::2] = -torch.inf, -torch.inf  # certainty, and ids that a model rules out
    drafted = torch.randint(vocabulary, (11,), generator=generator)
    drafted[4] = 0
    scalars = evidence_scalars(before, after, drafted, before.argmax(1))
    for at in range(11):
        log_p, log_r = (rows[at].double().log_softmax(-1) for rows in (before, after))
        entropies = [float(torch.special.entr(log.exp()).sum()) for log in (log_p, log_r)]
        best = float(log_p.max())
        expected = [float(log_p[drafted[at]]), best, entropies[0], best, entropies[1], float(log_r.max())]
        assert np.allclose(scalars[at].tolist(), expected, atol=1e-5)


def test_rows_are_left_as_they_were() -> None:
    logits = torch.randn(4, 50)
    kept = logits.clone()
    row_facts(logits, torch.arange(4))
    assert torch.equal(logits, kept)


def test_a_draft_that_cannot_be_has_no_evidence() -> None:
    logits = torch.zeros(3, 10)
    logits[0, 4] = -torch.inf
    item = Item(Extent(0, 64), Span(0, (1, 4, 5), wanted=(0, 1, 2)), Sampling(), judged=Judged(2))
    misses = [Miss(0, 0, 0, 1, 4, 9), Miss(0, 1, 1, 2, 5, 9)]
    told = TargetJudge(10).evidence([item], Passed(logits, [0]), misses)
    assert [evidence.node for evidence in told[0]] == [1]
    logits[1, 2] = torch.nan
    assert TargetJudge(10).evidence([item], Passed(logits, [0]), misses) == {}


# ---- between the processes ----


def test_what_is_asked_and_told_crosses_the_queue() -> None:
    step = Step(1, (chain(0, Judged(9, 2, (q_of(1), None), own=3, reflect=True)),))
    assert read_ask(framed(step)[4:]) == step
    evidence = Evidence(3, -1.5, -0.1, 0.5, -0.1, 2.0, -0.3, 0.25, (1.0, -2.5), -0.75)
    done = StepDone(1, (Outcome((1, 2), evidence=(evidence, Evidence(4, -1.5, -0.1, 0.5, -0.1, 2.0, -0.3))),))
    assert read_answer(framed(done)[4:]) == done
