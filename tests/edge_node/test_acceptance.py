"""The torch rules give the reference's verdicts, and their text is the target's over 200,000 drafts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from airdraft.core.acceptance import ACCEPTANCE_RULES, Judge, Verdict
from airdraft.core.acceptance import lenient as reference_lenient
from airdraft.core.acceptance import typical as reference_typical
from airdraft.core.acceptance_chain import WEIGHT_TOTAL, Chain, Distribution, Uniforms, quantise
from edge_node.engine.acceptance import (
    BATCHED_RULES,
    BatchedRule,
    ChainBatch,
    UniformBatch,
    VerdictBatch,
    lenient,
    typical,
)
from tests.core.test_acceptance import random_judgements

ROUNDING = 1e-12  # a uniform this near its threshold may fall on either side
LARGEST = float(np.nextafter(1.0, 0.0))

every_rule = pytest.mark.parametrize("name", ACCEPTANCE_RULES)
lossless_rule = pytest.mark.parametrize("name", [name for name, rule in ACCEPTANCE_RULES.items() if rule.lossless])


def test_every_rule_has_a_twin() -> None:
    assert list(BATCHED_RULES) == list(ACCEPTANCE_RULES)


# ---- the same verdicts for the same uniforms ----


@cache
def judgements(count: int, seed: int) -> list[tuple[Chain, Uniforms]]:
    return list(random_judgements(count, seed))


def judged(rule: BatchedRule, chains: list[Chain], uniforms: list[Uniforms]) -> list[Verdict]:
    return rule(ChainBatch.of(chains), UniformBatch.of(uniforms)).verdicts(chains)


def nudged(judge: Judge, chain: Chain, uniforms: Uniforms) -> set[Verdict]:
    """Return what the reference says where any of the uniforms moves by the rounding or stays."""
    moves = np.array((-ROUNDING, 0.0, ROUNDING))
    accepts = itertools.product(*(np.clip(u + moves, 0, LARGEST) for u in uniforms.accept))
    draws = [np.clip(uniforms.draw + move, 0, LARGEST) for move in moves]
    return {judge(chain, Uniforms(np.array(accept), draw)) for accept in accepts for draw in draws}


def disagreements(judge: Judge, rule: BatchedRule, asked: list[tuple[Chain, Uniforms]]) -> int:
    """Count the chains that the twin judges otherwise; fail where that is more than rounding."""
    chains, uniforms = [chain for chain, _ in asked], [chance for _, chance in asked]
    count = 0
    for chain, chance, got in zip(chains, uniforms, judged(rule, chains, uniforms), strict=True):
        if got != judge(chain, chance):
            count += 1
            assert got in nudged(judge, chain, chance)
    return count


@every_rule
def test_a_twin_agrees_with_its_reference(name: str) -> None:
    judge = ACCEPTANCE_RULES[name].judge
    assert disagreements(judge, BATCHED_RULES[name], judgements(800, 11)) == 0


@pytest.mark.slow
@every_rule
def test_a_twin_agrees_with_its_reference_on_many_chains(name: str) -> None:
    judge = ACCEPTANCE_RULES[name].judge
    assert disagreements(judge, BATCHED_RULES[name], judgements(20_000, 12)) == 0


def test_the_comparison_sees_another_rule() -> None:
    with pytest.raises(AssertionError):
        disagreements(ACCEPTANCE_RULES["rejection"].judge, BATCHED_RULES["block"], judgements(300, 13))


def test_the_twins_take_the_same_settings() -> None:
    some = judgements(300, 13)
    for lenience in (0.2, 1.0):
        judge, rule = partial(reference_lenient, lenience=lenience), partial(lenient, lenience=lenience)
        assert disagreements(judge, rule, some) == 0
    for epsilon, delta in ((0.0, 0.0), (0.5, 0.7), (1.0, 9.0)):
        judge = partial(reference_typical, epsilon=epsilon, delta=delta)
        assert disagreements(judge, partial(typical, epsilon=epsilon, delta=delta), some) == 0
    batch, uniforms = ChainBatch.of([some[0][0]]), UniformBatch.of([some[0][1]])
    with pytest.raises(ValueError, match="lenience"):
        lenient(batch, uniforms, lenience=0.0)
    with pytest.raises(ValueError, match="epsilon"):
        typical(batch, uniforms, epsilon=-1.0)


@cache
def at_thresholds(count: int) -> list[tuple[Chain, Uniforms]]:
    """Return judgements whose uniforms are the very thresholds: ratios to accept by, ends of shares to draw by."""
    found = []
    for chain, uniforms in judgements(count, 14):
        ratios = [
            p.probability(token) / q.probability(token)
            for token, p, q in zip(chain.tokens, chain.target[:-1], chain.draft, strict=True)
        ]
        ends = [
            np.cumsum(p.probabilities)[int(u * p.ids.size)] for p, u in zip(chain.target, uniforms.draw, strict=True)
        ]
        accept = np.minimum(ratios, LARGEST).reshape(len(chain.tokens))
        found.append((chain, Uniforms(accept, np.minimum(ends, LARGEST))))
    return found


@pytest.mark.parametrize("name", ["exact", "rejection", "block"])
def test_at_a_threshold_a_twin_differs_by_no_more_than_rounding(name: str) -> None:
    count = disagreements(ACCEPTANCE_RULES[name].judge, BATCHED_RULES[name], at_thresholds(500))
    assert count < 0.05 * 500


@every_rule
def test_no_padding_reaches_a_verdict(name: str) -> None:
    """Chains judged together and alone give the same; no token at all is a batch too."""
    chains, uniforms = (list(parts) for parts in zip(*judgements(60, 15), strict=True))
    together = judged(BATCHED_RULES[name], chains, uniforms)
    assert len({len(chain.tokens) for chain in chains}) == 5
    for chain, chance, verdict in zip(chains, uniforms, together, strict=True):
        assert judged(BATCHED_RULES[name], [chain], [chance]) == [verdict]
    batch = ChainBatch.of(chains)
    live = batch.live()
    noisy = replace(
        batch,
        tokens=torch.where(live, batch.tokens, 3),
        draft=torch.where(live[..., None], batch.draft, 0.125),
        draft_ids=torch.where(live[..., None], batch.draft_ids, torch.arange(batch.draft_ids.shape[-1])),
    )
    assert BATCHED_RULES[name](noisy, UniformBatch.of(uniforms)).verdicts(chains) == together


def test_models_equal_but_for_rounding_still_give_a_token_of_the_target() -> None:
    p, q = Distribution.dense([0.3, 0.7 - 1e-16, 0.0]), Distribution.dense([0.3, 0.7, 0.0])
    chance = Uniforms(np.array([LARGEST]), np.array([LARGEST] * 2))
    for name in ("rejection", "block"):
        (verdict,) = judged(BATCHED_RULES[name], [Chain((1,), (p, p), (q,))], [chance])
        assert verdict.ids[-1] in (0, 1)


# ---- the text's distribution over 200,000 drafts ----

VOCABULARY, DRAFTS = 32, 200_000
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Toy:
    """Both models over 32 ids; a row depends on whether the token before it is even or odd.

    p        [2, V]
    q        [2, V]  what drafts are sampled from
    claimed  [2, V]  what the rule is told, q where the device is honest
    """

    p: Rows
    q: Rows
    claimed: Rows


def keep(rows: Rows, count: int) -> Rows:
    kept = np.where(np.argsort(np.argsort(-rows, axis=-1), axis=-1) < count, rows, 0.0)
    normalised: Rows = kept / kept.sum(-1, keepdims=True)
    return normalised


def coded(rows: Rows) -> Rows:
    """Return what is left of q by its codec."""
    out = np.zeros_like(rows)
    for row, q in zip(out, (quantise(range(len(row)), row) for row in rows), strict=True):
        row[list(q.ids)] = q.probabilities()
    return out


def toy(keep_p: int, keep_q: int, truth: bool = True) -> Toy:
    """Make a toy of p and q at a total variation of a quarter or so, like a decent drafter."""
    chance = np.random.default_rng(21)
    scores = 2.0 * chance.standard_normal((2, VOCABULARY))
    guess = scores + 0.7 * chance.standard_normal((2, VOCABULARY))
    p, full = (np.exp(rows) / np.exp(rows).sum(-1, keepdims=True) for rows in (scores, guess))
    q = coded(keep(full, keep_q))
    return Toy(keep(p, keep_p), q, q if truth else full)


def drawn(rows: Rows, uniforms: Rows) -> NDArray[np.int64]:
    """Return one id a row by its shares, [B]; of a quantised q it is ``SparseQ.sample``."""
    ends = np.cumsum(rows, axis=-1)
    at: NDArray[np.int64] = (ends <= (uniforms * ends[:, -1])[:, None]).sum(-1)
    return at


def texts(rule: BatchedRule, toy: Toy, length: int = 2) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first ids of 200,000 texts, [B, length + 1], and how many draft tokens were accepted, [B].

    Where a rule emits fewer, the target goes on alone.
    """
    chance, part = np.random.default_rng(31), 20_000
    found = [texts_of_part(rule, toy, chance, part, length) for _ in range(DRAFTS // part)]
    return np.concatenate([ids for ids, _ in found]), np.concatenate([accepted for _, accepted in found])


def texts_of_part(
    rule: BatchedRule, toy: Toy, chance: np.random.Generator, count: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    before = np.zeros((count, 1), dtype=np.int64)
    tokens = before
    for _ in range(length):
        token = drawn(toy.q[tokens[:, -1] % 2], chance.random(count))
        tokens = np.concatenate([tokens, token[:, None]], axis=1)
    parity = tokens % 2
    ids = torch.arange(VOCABULARY).expand(count, length + 1, VOCABULARY).contiguous()
    batch = ChainBatch(
        torch.from_numpy(tokens[:, 1:].copy()),
        torch.full((count,), length),
        ids,
        torch.from_numpy(toy.p[parity]),
        ids[:, :-1].contiguous(),
        torch.from_numpy(toy.claimed[parity[:, :-1]]),
    )
    accept, draw = (torch.from_numpy(chance.random((count, width))) for width in (length, length + 1))
    verdict = rule(batch, UniformBatch(accept, draw))
    accepted = verdict.accepted.numpy()
    text = np.concatenate([tokens[:, 1:], before], axis=1)
    text[np.arange(count), accepted] = verdict.added.numpy()
    for at in range(1, length + 1):
        alone = drawn(toy.p[text[:, at - 1] % 2], chance.random(count))
        text[:, at] = np.where(at > accepted, alone, text[:, at])
    return text, accepted


def distances(ids: NDArray[np.int64], toy: Toy) -> tuple[float, float]:
    """Return the greatest total variation from p at a position given the class before, and the worst chi-square excess.

    The excess is the chi-square over its critical value at 1e-6; above 1 the text is not the target's.
    """
    variation, excess = 0.0, 0.0
    for at in range(ids.shape[1]):
        classes = ids[:, at - 1] % 2 if at else np.zeros(len(ids), dtype=np.int64)
        for parity in np.unique(classes):
            counts = np.bincount(ids[classes == parity, at], minlength=VOCABULARY).astype(np.float64)
            expected = toy.p[parity] * counts.sum()
            variation = max(variation, float(np.abs(counts - expected).sum() / counts.sum() / 2))
            excess = max(excess, chi_square(counts, expected))
    return variation, excess


def chi_square(counts: Rows, expected: Rows) -> float:
    """Return chi-square over its critical value at 1e-6 (Wilson and Hilferty 1931); what cannot come must not."""
    if counts[expected == 0].sum() > 0:
        return float("inf")
    rare = (expected < 5) & (expected > 0)
    common = expected >= 5
    got = np.append(counts[common], counts[rare].sum())
    wanted = np.append(expected[common], expected[rare].sum())
    got, wanted = got[wanted > 0], wanted[wanted > 0]
    freedom = len(got) - 1
    critical = freedom * (1 - 2 / (9 * freedom) + 4.7534 * (2 / (9 * freedom)) ** 0.5) ** 3
    return float(((got - wanted) ** 2 / wanted).sum() / critical)


TOYS = {
    "full": (VOCABULARY, VOCABULARY),
    "q truncated": (VOCABULARY, 10),
    "p truncated": (10, VOCABULARY),
    "both": (10, 10),
}


@pytest.mark.parametrize(
    "kept",
    [pytest.param(TOYS[k], id=k, marks=[] if k in ("full", "both") else pytest.mark.slow) for k in TOYS],
)
@lossless_rule
def test_the_text_is_the_targets(name: str, kept: tuple[int, int]) -> None:
    world = toy(*kept)
    ids, _ = texts(BATCHED_RULES[name], world)
    variation, excess = distances(ids, world)
    assert variation <= 0.01
    assert excess < 1


@pytest.mark.parametrize("name", ["typical", "lenient"])
def test_the_check_sees_that_the_lossy_rules_are(name: str) -> None:
    world = toy(*TOYS["full"])
    variation, excess = distances(texts(BATCHED_RULES[name], world)[0], world)
    assert variation > 0.01
    assert excess > 1


def test_rejection_accepts_one_minus_the_total_variation_and_block_no_less() -> None:
    world = toy(*TOYS["both"])
    overlap = np.minimum(world.p, world.q).sum(-1)
    accepted = texts(BATCHED_RULES["rejection"], world)[1]
    rate = (accepted > 0).mean()
    assert abs(rate - overlap[0]) < 4 * np.sqrt(overlap[0] * (1 - overlap[0]) / DRAFTS)
    more = texts(BATCHED_RULES["block"], world)[1]
    assert more.mean() - accepted.mean() > 4 * np.sqrt((more.var() + accepted.var()) / DRAFTS)


def test_exact_accepts_what_both_would_say() -> None:
    world = toy(*TOYS["both"])
    rate = (texts(BATCHED_RULES["exact"], world)[1] > 0).mean()
    agreement = float(world.p[0] @ world.q[0])
    assert abs(rate - agreement) < 4 * np.sqrt(agreement * (1 - agreement) / DRAFTS)


def coupled(toy: Toy, length: int) -> NDArray[np.int64]:
    """Return how many draft tokens ``exact`` accepts where both ends add the same Gumbel noise, [B]."""
    chance = np.random.default_rng(41)
    before, alive = np.zeros(DRAFTS, dtype=np.int64), np.ones(DRAFTS, dtype=np.bool_)
    accepted = np.zeros(DRAFTS, dtype=np.int64)
    with np.errstate(divide="ignore"):
        p, q = np.log(toy.p), np.log(toy.q)
    for _ in range(length):
        noise = chance.gumbel(size=(DRAFTS, VOCABULARY))
        drafted = (q[before % 2] + noise).argmax(-1)
        alive &= drafted == (p[before % 2] + noise).argmax(-1)
        accepted += alive
        before = drafted
    return accepted


def test_shared_noise_accepts_nearly_as_much_as_rejection() -> None:
    """Daliri, Musco, Suresh 2024: equal with probability sum_j 1 / sum_i max(p_i/p_j, q_i/q_j)."""
    world = toy(*TOYS["full"])
    ratios = [
        np.maximum(world.p[0] / p, world.q[0] / q).sum() for p, q in zip(world.p[0], world.q[0], strict=True) if q
    ]
    equal, overlap = (1 / np.array(ratios)).sum(), np.minimum(world.p, world.q).sum(-1)[0]
    rate = (coupled(world, 1) > 0).mean()
    assert abs(rate - equal) < 4 * np.sqrt(equal * (1 - equal) / DRAFTS)
    assert overlap / (2 - overlap) <= equal <= overlap


FIGURES = {  # docs/adr/0007: tokens a pass with 4 draft tokens; full, both truncated
    "exact": (1.174, 1.223),
    "rejection": (3.472, 3.231),
    "block": (3.668, 3.394),
    "typical": (3.746, 4.368),
    "lenient": (4.932, 4.521),
}


@pytest.mark.slow
def test_the_figures_of_the_decision_record() -> None:
    worlds = [toy(*TOYS[kept]) for kept in ("full", "both")]
    for name, expected in FIGURES.items():
        got = [float(texts(BATCHED_RULES[name], world, 4)[1].mean()) + 1 for world in worlds]
        assert got == pytest.approx(expected, abs=0.01)
    assert [float(coupled(world, 4).mean()) + 1 for world in worlds] == pytest.approx((3.189, 2.870), abs=0.015)


def residual_of_p(batch: ChainBatch, uniforms: UniformBatch) -> VerdictBatch:
    verdict = BATCHED_RULES["rejection"](batch, uniforms)
    rows = torch.arange(len(verdict.accepted)), verdict.accepted
    ends = batch.target[rows].cumsum(-1)
    return VerdictBatch(verdict.accepted, (ends <= uniforms.draw[rows][:, None]).sum(-1).clamp(max=VOCABULARY - 1))


def bonus_after_a_rejection(batch: ChainBatch, uniforms: UniformBatch) -> VerdictBatch:
    """Keep a rejected first token's successor: the draft's second token follows the recovered one."""
    verdict = BATCHED_RULES["rejection"](batch, uniforms)
    batch.tokens[:, 0] = torch.where(verdict.accepted == 0, verdict.added, batch.tokens[:, 0])
    again = BATCHED_RULES["rejection"](replace(batch, draft=batch.draft.clone()), uniforms)
    recovered = verdict.accepted == 0
    return VerdictBatch(
        torch.where(recovered, 1, verdict.accepted), torch.where(recovered, batch.tokens[:, 1], again.added)
    )


@pytest.mark.parametrize("rule", [residual_of_p, bonus_after_a_rejection])
def test_the_check_catches(rule: Callable[[ChainBatch, UniformBatch], VerdictBatch]) -> None:
    world = toy(*TOYS["both"])
    assert distances(texts(rule, world)[0], world)[1] > 1


@pytest.mark.parametrize("name", ["rejection", "block"])
def test_the_check_catches_q_before_truncation(name: str) -> None:
    world = toy(*TOYS["both"], truth=False)
    assert distances(texts(BATCHED_RULES[name], world)[0], world)[1] > 1


@pytest.mark.slow
@lossless_rule
def test_the_references_text_is_the_targets(name: str) -> None:
    """The numpy rule itself, one chain at a time, on the same 200,000 drafts."""

    def one_by_one(batch: ChainBatch, uniforms: UniformBatch) -> VerdictBatch:
        judge = ACCEPTANCE_RULES[name].judge
        rows = {parity: Distribution.dense(world.p[parity]) for parity in (0, 1)}
        guesses = {parity: Distribution.dense(world.claimed[parity]) for parity in (0, 1)}
        verdicts = []
        accepts, draws = uniforms.accept.numpy(), uniforms.draw.numpy()
        for tokens, accept, draw in zip(batch.tokens.tolist(), accepts, draws, strict=True):
            before = [0, *(token % 2 for token in tokens)]
            chain = Chain(tuple(tokens), tuple(rows[c] for c in before), tuple(guesses[c] for c in before[:-1]))
            verdicts.append(judge(chain, Uniforms(accept, draw)))
        return VerdictBatch(of(verdicts, lambda one: one.accepted), of(verdicts, lambda one: one.ids[-1]))

    world = toy(*TOYS["both"])
    ids, _ = texts(one_by_one, world)
    variation, excess = distances(ids, world)
    assert variation <= 0.01
    assert excess < 1


def of(verdicts: list[Verdict], value: Callable[[Verdict], int]) -> Tensor:
    return torch.tensor([value(verdict) for verdict in verdicts])


def test_a_toys_drafts_are_what_the_codec_samples() -> None:
    q = quantise(range(VOCABULARY), toy(*TOYS["both"]).q[0])
    uniforms = (np.arange(0, WEIGHT_TOTAL, 7) + 0.5) / WEIGHT_TOTAL
    rows = np.broadcast_to(toy(*TOYS["both"]).q[0], (len(uniforms), VOCABULARY))
    assert drawn(rows, uniforms).tolist() == [q.sample(float(u)) for u in uniforms]
