"""Text at any temperature over gRPC: the same as the edge's alone, for any drafter and any draft length."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from tokenizers import Tokenizer

from airdraft.core.drafting import Drafter, NgramDrafter
from airdraft.core.sampling import choose
from airdraft.core.types import Sampling
from airdraft.wire.client import EdgeConnection
from device_client.drafters.torch_model import TorchDrafter, load_torch_drafter
from edge_node.engine.loading import load_target
from edge_node.engine.target import Target
from models.wordproblems import word_problem
from tests.shapes import VOCABULARY, plain_logits, shape
from tests.system.loopback import Loopback, ask, edge_on_loopback
from tests.system.test_equality import shape_target

ANSWER = 24


def random_sampling(chance: random.Random) -> Sampling:
    """Any mixture of settings; each processor is off in about half of them."""

    def maybe(value: float, off: float) -> float:
        return value if chance.random() < 0.5 else off

    return Sampling(
        temperature=chance.choice([0.0, 0.7, 1.0]),
        seed=chance.getrandbits(64),
        top_k=int(maybe(chance.choice([1, 5, 20, 60]), 0)),
        top_p=maybe(chance.choice([0.3, 0.8, 0.95]), 1.0),
        min_p=maybe(chance.choice([0.02, 0.2]), 0.0),
        repetition_penalty=maybe(chance.choice([0.9, 1.2, 1.5]), 1.0),
        presence_penalty=maybe(chance.choice([-0.3, 0.5]), 0.0),
        frequency_penalty=maybe(chance.choice([-0.1, 0.2]), 0.0),
    )


def written_alone(target: Target, prompt: Sequence[int], sampling: Sampling, count: int) -> list[int]:
    """What the target writes by itself: plain forwards without cache, the numpy sampler, one token at a time."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count and not (len(ids) > len(prompt) and ids[-1] in target.stop_ids):
        logits = plain_logits(target.model, ids)[-1].numpy()
        ids.append(choose(logits, sampling, target.vocabulary, ids))
    return ids[len(prompt) :]


async def check(
    edge: Loopback, connection: EdgeConnection, target: Target, drafter: Drafter, prompt: list[int], number: int
) -> int:
    """Ask once with random settings; return how many drafts were accepted."""
    chance = random.Random(number)
    sampling = random_sampling(chance)
    if isinstance(drafter, TorchDrafter):
        drafter.sampling = sampling
    length = number % 13
    answer = await ask(
        edge, connection, prompt, drafter, draft_length=length, max_tokens=ANSWER, sampling=sampling,
        outstanding=chance.choice([1, 3]),
    )  # fmt: skip
    assert answer.ids == written_alone(target, prompt, sampling, ANSWER), (number, sampling, length)
    return answer.session.tally.accepted


@pytest.mark.parametrize(
    "numbers", [pytest.param(range(26), id="26"), pytest.param(range(26, 120), id="94", marks=pytest.mark.slow)]
)
async def test_the_demo_pair(numbers: range) -> None:
    target = load_target("demo", device="cpu", dtype="float32", max_context=2048)
    tokenizer = Tokenizer.from_str(target.tokenizer_json)
    drafter, _ = load_torch_drafter("demo", vocabulary=target.vocabulary)
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        accepted = [
            await check(
                edge, connection, target, drafter,
                tokenizer.encode(word_problem("held-out", number).prompt).ids, number,
            )
            for number in numbers
        ]  # fmt: skip
    assert sum(accepted) > 2 * len(numbers)


@pytest.mark.parametrize(
    "numbers", [pytest.param(range(26), id="26"), pytest.param(range(26, 100), id="74", marks=pytest.mark.slow)]
)
async def test_a_random_model_that_drafts_for_itself_or_not(numbers: range) -> None:
    target = shape_target("llama")
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        for number in numbers:
            prompt = [random.Random(number).randrange(VOCABULARY) for _ in range(number % 17 + 1)]
            own = TorchDrafter(shape("llama"), VOCABULARY)
            accepted = await check(edge, connection, target, own, prompt, number)
            assert accepted > 0 or number % 13 == 0
            await check(edge, connection, target, NgramDrafter(), prompt, number)


async def test_a_target_that_drafts_for_itself_is_always_accepted_at_any_temperature() -> None:
    """The noise is shared: the same model at both ends makes the same choice at every position."""
    target = shape_target("qwen3")
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        for sampling in (
            Sampling(1.0, seed=7),
            Sampling(0.7, seed=8, top_p=0.9, repetition_penalty=1.3),
            Sampling(1.3, seed=2**64 - 1, top_k=40, frequency_penalty=0.3),
        ):
            drafter = TorchDrafter(target.model, VOCABULARY, sampling)
            answer = await ask(edge, connection, [5, 6, 7], drafter, draft_length=5, max_tokens=40, sampling=sampling)
            assert answer.session.tally.acceptance == 1.0
            assert answer.session.tally.drafted > 20


async def test_seeds_matter_and_repeat() -> None:
    target = shape_target("llama")
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:

        async def text(seed: int) -> list[int]:
            sampling = Sampling(1.0, seed=seed)
            return (
                await ask(edge, connection, [1], NgramDrafter(), draft_length=3, max_tokens=30, sampling=sampling)
            ).ids

        assert await text(1) == await text(1)
        assert len({tuple(await text(seed)) for seed in range(5)}) == 5
