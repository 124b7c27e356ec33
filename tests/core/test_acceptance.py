"""The acceptance rules against enumeration: every draft, and the uniforms integrated exactly."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_loader

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from airdraft.core import acceptance
from airdraft.core.acceptance import ACCEPTANCE_RULES, Ending, Judge, Verdict, lenient, rejection, typical
from airdraft.core.acceptance_chain import Chain, Distribution, Uniforms, quantise
from airdraft.core.types import Origin, StopReason

LARGEST = math.nextafter(1.0, 0.0)
EXACT = 1e-9  # of a probability found by bisecting thresholds to 1e-12

A, R, B, AHEAD = Origin.ACCEPTED, Origin.RECOVERED, Origin.BONUS, Origin.RUN_AHEAD
LOSSLESS = [name for name, rule in ACCEPTANCE_RULES.items() if rule.lossless]
every_rule = pytest.mark.parametrize("name", ACCEPTANCE_RULES)
lossless_rule = pytest.mark.parametrize("name", LOSSLESS)


# ---- a world of both models' distributions after every prefix ----


@dataclass(frozen=True)
class World:
    """Two models over ``vocabulary`` ids and drafts of ``length``; ``claimed`` is the q that the rule is told."""

    vocabulary: int
    length: int
    p: dict[tuple[int, ...], Distribution]
    q: dict[tuple[int, ...], Distribution]
    claimed: dict[tuple[int, ...], Distribution]

    def drafts(self) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield every draft with its probability."""
        for tokens in itertools.product(range(self.vocabulary), repeat=self.length):
            probability = math.prod(self.q[tokens[:i]].probability(token) for i, token in enumerate(tokens))
            if probability > 0:
                yield tokens, probability

    def chain(self, tokens: tuple[int, ...]) -> Chain:
        prefixes = [tokens[:i] for i in range(len(tokens) + 1)]
        draft = tuple(self.claimed[prefix] for prefix in prefixes[:-1])
        return Chain(tokens, tuple(self.p[prefix] for prefix in prefixes), draft)

    def of_target(self, tokens: tuple[int, ...], start: int = 0) -> float:
        return math.prod(self.p[tokens[:i]].probability(tokens[i]) for i in range(start, len(tokens)))


def truncated(row: NDArray[np.float64], keep: int) -> Distribution:
    """Return the ``keep`` most probable ids of a row, renormalised."""
    ids = np.sort(np.argsort(-row, kind="stable")[:keep])
    return Distribution(ids, row[ids] / row[ids].sum())


def world(
    seed: int, vocabulary: int = 3, length: int = 2, keep_p: int = 3, keep_q: int = 3, truth: bool = True
) -> World:
    """Make a random world; p or q keep their most probable ids, and q is what its codec makes of it."""
    chance = np.random.default_rng(seed)
    p, q, claimed = {}, {}, {}
    for depth in range(length + 1):
        for prefix in itertools.product(range(vocabulary), repeat=depth):
            row = chance.dirichlet(np.ones(vocabulary))
            p[prefix] = truncated(row, keep_p)
            guess = 0.5 * row + 0.5 * chance.dirichlet(np.ones(vocabulary))
            kept = truncated(guess, keep_q)
            q[prefix] = quantise(kept.ids, kept.probabilities).distribution()
            claimed[prefix] = q[prefix] if truth else Distribution.dense(guess)
    return World(vocabulary, length, p, q, claimed)


def outcomes(rule: Judge, chain: Chain) -> dict[tuple[int, ...], float]:
    """Return what a rule emits on a chain with its probability over the uniforms.

    What is emitted is a step function of each uniform that takes no value twice, so steps are found by bisection, one
    uniform after the other, those to come at their greatest.
    """
    count = len(chain.tokens)
    found: dict[tuple[int, ...], float] = {}

    def emitted(uniforms: tuple[float, ...]) -> tuple[int, ...]:
        filled = np.array(uniforms + (LARGEST,) * (2 * count + 1 - len(uniforms)))
        return tuple(rule(chain, Uniforms(filled[:count], filled[count:])).ids)

    def steps(fixed: tuple[float, ...], low: float, high: float, at_low: object, at_high: object) -> list[float]:
        if at_low == at_high:
            return []
        if high - low < 1e-12:
            return [high]
        middle = (low + high) / 2
        at_middle = emitted((*fixed, middle))
        return steps(fixed, low, middle, at_low, at_middle) + steps(fixed, middle, high, at_middle, at_high)

    def integrate(fixed: tuple[float, ...], weight: float) -> None:
        if len(fixed) == 2 * count + 1:
            ids = emitted(fixed)
            found[ids] = found.get(ids, 0.0) + weight
            return
        edges = [0.0, *steps(fixed, 0.0, LARGEST, emitted((*fixed, 0.0)), emitted((*fixed, LARGEST))), 1.0]
        for low, high in itertools.pairwise(edges):
            integrate((*fixed, min((low + high) / 2, LARGEST)), weight * (high - low))

    integrate((), 1.0)
    return found


def text_error(rule: Judge, world: World) -> float:
    """Return how far the text's distribution is from the target's: the greatest error of any sequence of n + 1 ids.

    Each emitted piece is continued by the target alone, as the next rounds would.
    """
    off = {ids: -world.of_target(ids) for ids in itertools.product(range(world.vocabulary), repeat=world.length + 1)}
    for tokens, chance in world.drafts():
        for ids, weight in outcomes(rule, world.chain(tokens)).items():
            for text in off:
                if text[: len(ids)] == ids:
                    off[text] += chance * weight * world.of_target(text, len(ids))
                elif ids[: len(text)] == text:  # only a rule that emits too much
                    off[text] += chance * weight
    return max(map(abs, off.values()))


def mean_accepted(rule: Judge, world: World) -> float:
    return sum(
        chance * weight * (len(ids) - 1)
        for tokens, chance in world.drafts()
        for ids, weight in outcomes(rule, world.chain(tokens)).items()
    )


def first_token(rule: Judge, world: World) -> NDArray[np.float64]:
    """Return the distribution of the first token emitted, [V]."""
    row = np.zeros(world.vocabulary)
    for tokens, chance in world.drafts():
        for ids, weight in outcomes(rule, world.chain(tokens)).items():
            row[ids[0]] += chance * weight
    return row


def judged(name: str) -> Judge:
    return ACCEPTANCE_RULES[name].judge


def dense(distribution: Distribution, size: int) -> NDArray[np.float64]:
    row = np.zeros(size)
    row[distribution.ids] = distribution.probabilities
    return row


# ---- the text is the target's ----

SEEDS = (2, 5)  # between them they catch every bug planted below
TRUNCATIONS = {"full": (3, 3), "q truncated": (3, 2), "p truncated": (2, 3), "both": (2, 2)}


@pytest.mark.parametrize("keep", TRUNCATIONS.values(), ids=TRUNCATIONS)
@lossless_rule
def test_the_text_is_the_targets(name: str, keep: tuple[int, int]) -> None:
    for seed in SEEDS:
        assert text_error(judged(name), world(seed, keep_p=keep[0], keep_q=keep[1])) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (5, 2)], ids=str)
@lossless_rule
def test_the_text_is_the_targets_in_larger_worlds(name: str, shape: tuple[int, int]) -> None:
    assert text_error(judged(name), world(7, *shape, keep_p=4, keep_q=3)) < EXACT


@pytest.mark.parametrize("name", sorted(set(ACCEPTANCE_RULES) - set(LOSSLESS)))
def test_the_rules_that_the_table_calls_lossy_are(name: str) -> None:
    assert text_error(judged(name), world(0)) > 0.01


def test_exact_needs_no_honest_drafter_and_the_others_do() -> None:
    lie = world(0, keep_q=2, truth=False)
    assert text_error(judged("exact"), lie) < EXACT
    assert text_error(judged("rejection"), lie) > 0.01
    assert text_error(judged("block"), lie) > 0.01


# ---- how much is accepted ----


def test_rejection_accepts_one_minus_the_total_variation() -> None:
    for seed in range(5):
        one = world(seed, vocabulary=4, length=1, keep_p=3, keep_q=3)
        p, q = dense(one.p[()], 4), dense(one.q[()], 4)
        assert mean_accepted(rejection, one) == pytest.approx(np.minimum(p, q).sum(), abs=EXACT)


def test_block_accepts_at_least_as_much_as_rejection() -> None:
    gains = [
        mean_accepted(judged("block"), toy) - mean_accepted(rejection, toy)
        for toy in (world(seed) for seed in range(3))
    ]
    assert min(gains) > -EXACT
    assert max(gains) > 0.01


def test_exact_without_shared_noise_accepts_what_both_would_say() -> None:
    one = world(3, vocabulary=4, length=1, keep_p=4, keep_q=4)
    expected = float(dense(one.p[()], 4) @ dense(one.q[()], 4))
    assert mean_accepted(judged("exact"), one) == pytest.approx(expected, abs=EXACT)


# ---- the lossy rules and their limits ----


@pytest.mark.parametrize("lenience", [0.3, 0.7])
def test_lenient_says_no_token_more_than_its_share_over_lenience(lenience: float) -> None:
    for seed in range(3):
        toy = world(seed, vocabulary=4, length=1, keep_p=4, keep_q=4)
        p, q = dense(toy.p[()], 4), dense(toy.q[()], 4)
        kept = np.minimum(q, p / lenience)
        expected = kept + (1 - kept.sum()) * np.maximum(p - q, 0) / np.maximum(p - q, 0).sum()
        said = first_token(partial(lenient, lenience=lenience), toy)
        assert said == pytest.approx(expected, abs=EXACT)
        assert (said <= p / lenience + EXACT).all()
        assert mean_accepted(partial(lenient, lenience=lenience), toy) == pytest.approx(kept.sum(), abs=EXACT)


def test_lenient_at_one_is_rejection() -> None:
    assert text_error(partial(lenient, lenience=1.0), world(0)) < EXACT
    for chain, uniforms in random_judgements(300):
        assert lenient(chain, uniforms, lenience=1.0) == rejection(chain, uniforms)


def test_typical_accepts_by_its_threshold_and_draws_from_p() -> None:
    for seed in range(3):
        toy = world(seed, vocabulary=4, length=1, keep_p=4, keep_q=4)
        p, q = dense(toy.p[()], 4), dense(toy.q[()], 4)
        kept = q * (p > min(0.3, 0.8 * math.exp((p * np.log(p)).sum())))
        said = first_token(partial(typical, epsilon=0.3, delta=0.8), toy)
        assert said == pytest.approx(kept + (1 - kept.sum()) * p, abs=EXACT)


def test_typical_at_its_strict_limit_is_the_target_alone_and_at_the_lax_one_takes_what_p_can_say() -> None:
    strict, lax = partial(typical, epsilon=1.0, delta=math.inf), partial(typical, epsilon=0.0)
    toy = world(1, keep_p=2)
    assert text_error(strict, toy) < EXACT
    assert mean_accepted(strict, toy) == 0
    for tokens, _ in toy.drafts():
        possible = [toy.p[tokens[:i]].probability(token) > 0 for i, token in enumerate(tokens)]
        expected = possible.index(False) if False in possible else len(tokens)
        assert {len(ids) - 1 for ids in outcomes(lax, toy.chain(tokens))} == {expected}


@pytest.mark.parametrize("lenience", [0.0, -1.0, 1.5, math.nan])
def test_lenience_outside_its_range_is_refused(lenience: float) -> None:
    with pytest.raises(ValueError, match="lenience"):
        lenient(*next(random_judgements(1)), lenience=lenience)


@pytest.mark.parametrize(("epsilon", "delta"), [(-0.1, 0.3), (0.1, -1.0), (math.nan, 0.3), (0.1, math.nan)])
def test_typical_settings_outside_their_range_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="epsilon and delta"):
        typical(*next(random_judgements(1)), epsilon=epsilon, delta=delta)


# ---- one-hot cases: nothing is left to chance ----


def certain(tokens: tuple[int, ...], target: tuple[int, ...], size: int = 4) -> Chain:
    rows = np.eye(size)
    return Chain(
        tokens, tuple(Distribution.dense(rows[t]) for t in target), tuple(Distribution.dense(rows[t]) for t in tokens)
    )


@pytest.mark.parametrize("uniform", [0.0, 0.5, LARGEST])
@pytest.mark.parametrize(
    ("tokens", "target", "ids", "origins"),
    [
        ((), (2,), (2,), (AHEAD,)),
        ((1,), (1, 3), (1, 3), (A, B)),
        ((1,), (0, 3), (0,), (R,)),
        ((1, 2, 3), (1, 2, 3, 0), (1, 2, 3, 0), (A, A, A, B)),
        ((1, 2, 3), (1, 0, 3, 0), (1, 0), (A, R)),
        ((1, 2, 3), (0, 2, 3, 0), (0,), (R,)),
        ((1, 2, 3), (1, 2, 0, 0), (1, 2, 0), (A, A, R)),
    ],
    ids=str,
)
@every_rule
def test_certain_models_leave_nothing_to_chance(
    name: str,
    tokens: tuple[int, ...],
    target: tuple[int, ...],
    ids: tuple[int, ...],
    origins: tuple[Origin, ...],
    uniform: float,
) -> None:
    chance = Uniforms(np.full(len(tokens), uniform), np.full(len(tokens) + 1, uniform))
    verdict = judged(name)(certain(tokens, target), chance)
    assert verdict == Verdict(ids, origins)
    assert verdict.accepted == len(ids) - 1


@every_rule
def test_equal_models_reject_nothing_by_ratio(name: str) -> None:
    row = Distribution.dense([0.2, 0.3, 0.5])
    chain = Chain((0, 2, 1), (row,) * 4, (row,) * 3)
    verdict = judged(name)(chain, Uniforms(np.full(3, LARGEST), np.full(4, 0.1)))
    if name in ("rejection", "block", "lenient"):
        assert verdict == Verdict((0, 2, 1, 0), (A, A, A, B))


def test_models_equal_but_for_rounding_still_give_a_token_of_the_target() -> None:
    p, q = Distribution.dense([0.3, 0.7 - 1e-16, 0.0]), Distribution.dense([0.3, 0.7, 0.0])
    assert p.probability(1) < q.probability(1)
    for name in ("rejection", "block"):  # token 1 is rejected at the greatest uniform, and no residual is left
        verdict = judged(name)(Chain((1,), (p, p), (q,)), Uniforms(np.array([LARGEST]), np.array([LARGEST] * 2)))
        assert verdict.ids[-1] in (0, 1)


def random_judgements(count: int, seed: int = 5) -> Iterator[tuple[Chain, Uniforms]]:
    """Yield chains of 0 to 4 tokens over 12 ids, p and q truncated, with uniforms."""
    chance = np.random.default_rng(seed)
    for _ in range(count):
        length = int(chance.integers(0, 5))
        target = tuple(
            truncated(chance.dirichlet(np.full(12, 0.5)), int(chance.integers(1, 13))) for _ in range(length + 1)
        )
        wider = (0.7 * dense(p, 12) + 0.3 * chance.dirichlet(np.full(12, 0.5)) for p in target[:-1])
        guesses = [truncated(row, int(chance.integers(2, 13))) for row in wider]
        codes = [quantise(guess.ids, guess.probabilities) for guess in guesses]
        tokens = tuple(code.sample(chance.random()) for code in codes)
        chain = Chain(tokens, target, tuple(code.distribution() for code in codes))
        yield chain, Uniforms(chance.random(length), chance.random(length + 1))


@every_rule
def test_every_token_is_one_that_the_target_can_say_and_no_rejected_one_comes_back(name: str) -> None:
    for chain, uniforms in random_judgements(300):
        verdict = judged(name)(chain, uniforms)
        assert all(p.probability(token) > 0 for token, p in zip(verdict.ids, chain.target, strict=False))
        assert verdict.ids[: verdict.accepted] == chain.tokens[: verdict.accepted]
        if verdict.origins[-1] is R and name in ("rejection", "lenient", "exact"):
            at = verdict.accepted
            assert verdict.ids[at] != chain.tokens[at]
            if name != "exact":
                assert chain.target[at].probability(verdict.ids[at]) > chain.draft[at].probability(verdict.ids[at])


@given(st.lists(st.floats(0, LARGEST), min_size=9, max_size=9), st.integers(0, 10_000))
def test_no_uniforms_break_a_rule(uniforms: list[float], seed: int) -> None:
    chain, _ = next(random_judgements(1, seed))
    count = len(chain.tokens)
    chance = Uniforms(np.array(uniforms[:count]), np.array(uniforms[count : 2 * count + 1]))
    for rule in ACCEPTANCE_RULES.values():
        verdict = rule.judge(chain, chance)
        assert len(verdict.ids) == len(verdict.origins) == verdict.accepted + 1 <= count + 1
        assert chain.target[verdict.accepted].probability(verdict.ids[-1]) > 0


# ---- what is committed ----


@pytest.mark.parametrize(
    ("final_length", "ids", "path", "stop"),
    [
        (100, (4, 5, 6), (0, 1), None),
        (12, (4, 5), (0, 1), StopReason.MAX_TOKENS),
        (11, (4,), (0,), StopReason.MAX_TOKENS),
        (13, (4, 5, 6), (0, 1), StopReason.MAX_TOKENS),
    ],
)
def test_a_walk_ends_where_the_text_does(
    final_length: int, ids: tuple[int, ...], path: tuple[int, ...], stop: StopReason | None
) -> None:
    verdict = Verdict.of((4, 5, 9), 2, 6)
    walk = verdict.walk(10, Ending(frozenset(), final_length))
    assert (walk.ids, walk.path, walk.stop) == (ids, path, stop)
    assert walk.origins == verdict.origins[: len(ids)]
    stopped = verdict.walk(10, Ending(frozenset({4}), final_length))
    assert (stopped.ids, stopped.path, stopped.stop) == ((4,), (0,), StopReason.STOP_TOKEN)


# ---- planted bugs, each caught by the check that the tests above use ----


def mutant(rule: str, old: str, new: str) -> Judge:
    """Return a rule of a copy of the module in which ``old`` reads ``new``."""
    source = inspect.getsource(acceptance)
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
    loader = _Source(source.replace(old, new))
    spec = spec_from_loader(acceptance.__name__, loader)
    assert spec is not None
    copy = module_from_spec(spec)
    loader.exec_module(copy)
    judge: Judge = getattr(copy, rule)
    return judge


class _Source(InspectLoader):
    """Loads a module from its text."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        """Return the text."""
        return self._source


RESIDUAL = "left = residual(p, chain.draft[accepted], scale)"
BUGS = {
    "p drawn in place of the residual": ("rejection", RESIDUAL, "left = weights"),
    "residual not renormalised": ("rejection", RESIDUAL, f"{RESIDUAL}; left[-1] = 1 - left[:-1].sum()"),
    "block stops at the first failed test": (
        "block",
        "if u < passes:",
        "if u >= passes:\n            break\n        if True:",
    ),
    "block's residual forgets the weight": ("block", "uniforms, tau, weight_tau)", "uniforms, tau)"),
    "block's test forgets the weight": ("block", "chain.draft[done], weight).sum()", "chain.draft[done]).sum()"),
    "lenience without saying so": ("rejection", "_by_ratio(chain, uniforms, 1.0)", "_by_ratio(chain, uniforms, 0.8)"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_text_check_catches(bug: str) -> None:
    rule, old, new = BUGS[bug]
    broken = mutant(rule, old, new)
    assert max(text_error(broken, world(seed)) for seed in SEEDS) > 0.001


def test_the_text_check_catches_a_bonus_after_a_rejection() -> None:
    def broken(chain: Chain, uniforms: Uniforms) -> Verdict:
        verdict = rejection(chain, uniforms)
        if verdict.origins[-1] is not R:
            return verdict
        extra = chain.target[verdict.accepted + 1].draw(float(uniforms.draw[verdict.accepted + 1]))
        return Verdict((*verdict.ids, extra), (*verdict.origins, B))

    assert text_error(broken, world(0)) > 0.001


def test_the_text_check_catches_q_before_truncation() -> None:
    for name in ("rejection", "block"):
        assert text_error(judged(name), world(0, keep_q=2)) < EXACT
        assert text_error(judged(name), world(0, keep_q=2, truth=False)) > 0.001


def test_the_acceptance_check_catches_one_test_for_all_positions() -> None:
    """A rule that uses the first uniform for every position still emits p first, but accepts and writes otherwise."""
    old = "zip(chain.tokens, chain.target[:-1], chain.draft, uniforms.accept, strict=True)"
    broken = mutant("rejection", old, old.replace("uniforms.accept", "[uniforms.accept[0]] * len(chain.tokens)"))
    toy = world(0)
    assert first_token(broken, toy) == pytest.approx(dense(toy.p[()], 3), abs=EXACT)
    assert text_error(broken, toy) > 0.001


# ---- malformed chains ----

ROW = Distribution.dense([0.5, 0.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distribution(np.array([1, 0]), np.array([0.5, 0.5])), "ascend"),
        (lambda: Distribution(np.array([1, 1]), np.array([0.5, 0.5])), "ascend"),
        (lambda: Distribution(np.array([-1, 1]), np.array([0.5, 0.5])), "ascend"),
        (lambda: Distribution(np.array([0, 1]), np.array([-0.5, 1.5])), "add up"),
        (lambda: Distribution(np.array([0, 1]), np.array([0.5, 0.4])), "add up"),
        (lambda: Distribution(np.array([0, 1]), np.array([np.nan, 1.0])), "add up"),
        (lambda: Distribution(np.array([0, 1, 2]), np.array([0.5, 0.5])), "ids for"),
        (lambda: Distribution.dense([]), "ids for"),
        (lambda: Chain((0,), (ROW,), (ROW,)), "one more target row"),
        (lambda: Chain((0, 1), (ROW, ROW, ROW), (ROW,)), "argument"),
        (lambda: Chain((2,), (ROW, ROW), (ROW,)), "no probability in the q"),
        (lambda: Chain((0,), (ROW, ROW), (Distribution.dense([0.0, 1.0]),)), "no probability in the q"),
        (lambda: Uniforms(np.array([0.5]), np.array([0.5])), "one more"),
        (lambda: Uniforms(np.array([1.0]), np.array([0.5, 0.5])), r"\[0, 1\)"),
        (lambda: Uniforms(np.array([0.5]), np.array([0.5, np.nan])), r"\[0, 1\)"),
    ],
)
def test_malformed_input_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@every_rule
def test_uniforms_of_another_length_are_refused(name: str) -> None:
    chain = Chain((0, 1), (ROW,) * 3, (ROW,) * 2)
    for count in (0, 1, 3):
        with pytest.raises(ValueError, match=r"longer|shorter|uniforms"):
            judged(name)(chain, Uniforms(np.full(count, 0.1), np.full(count + 1, 0.1)))


@every_rule
def test_a_rule_that_needs_q_refuses_a_chain_without_it(name: str) -> None:
    chain, uniforms = Chain((0, 1), (ROW,) * 3), Uniforms(np.full(2, 0.1), np.full(3, 0.1))
    if ACCEPTANCE_RULES[name].needs_q:
        with pytest.raises(ValueError, match="shorter"):
            judged(name)(chain, uniforms)
    else:
        assert judged(name)(chain, uniforms).accepted >= 0
