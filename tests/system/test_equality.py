"""Text over gRPC is the target's own: equal to the edge alone and to transformers' ``generate``, token for token.

Acceptance is asserted as hard as text, since a broken drafter or core only lowers it.
"""

from __future__ import annotations

import random

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.types import Origin
from airdraft.wire.client import EdgeConnection
from device_client.drafters.torch_model import TorchDrafter, load_torch_drafter
from edge_node.engine.loading import load_target
from edge_node.engine.target import Target
from models.wordproblems import word_problem
from tests.shapes import CONTEXT, SHAPES, VOCABULARY, greedy, shape
from tests.system.loopback import ListedDrafter, Loopback, ask, edge_on_loopback

DRAFT_LENGTHS = range(13)
ANSWER = 20


def shape_target(name: str) -> Target:
    """A random-weight model as a target, without a tokenizer: these tests speak ids."""
    return Target(name, shape(name), "", VOCABULARY, (), CONTEXT, name.encode().ljust(32, b"."), None)


async def check_shape(edge: Loopback, connection: EdgeConnection, target: Target, number: int) -> int:
    """Answer one random prompt with a drafter that errs now and then; return how many drafts were accepted."""
    chance = random.Random(number)
    prompt = [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 40))]
    expected = greedy(target.model, prompt, ANSWER)
    draft_length = number % len(DRAFT_LENGTHS)
    drafter = ListedDrafter([*prompt, *expected], VOCABULARY, error_every=chance.choice([2, 5, 9]), salt=number)
    answer = await ask(edge, connection, prompt, drafter, draft_length=draft_length, max_tokens=ANSWER)
    assert answer.ids == expected == answer.recorder.ids
    tally = answer.session.tally
    assert (tally.drafted > 0) == (draft_length > 0)
    if draft_length == 0:
        assert tally.by_origin[Origin.RUN_AHEAD] == ANSWER
    return tally.accepted


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "prompts", [pytest.param(range(13), id="13"), pytest.param(range(13, 100), id="87", marks=pytest.mark.slow)]
)
async def test_every_shape(name: str, prompts: range) -> None:
    target = shape_target(name)
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        accepted = [await check_shape(edge, connection, target, number) for number in prompts]
    assert sum(accepted) > len(prompts) * 5


@pytest.mark.parametrize("name", SHAPES)
async def test_the_target_as_its_own_drafter_is_always_accepted(name: str) -> None:
    target = shape_target(name)
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        for draft_length in (1, 4, 12):
            drafter = TorchDrafter(target.model, VOCABULARY)
            answer = await ask(
                edge, connection, [5, 6, 7], drafter, draft_length=draft_length, max_tokens=ANSWER, outstanding=2
            )
            assert answer.ids == greedy(target.model, [5, 6, 7], ANSWER)
            assert answer.session.tally.acceptance == 1.0
            assert answer.session.tally.by_origin[Origin.ACCEPTED] > 0
            assert answer.session.tally.by_origin[Origin.RECOVERED] == 0


@pytest.fixture(scope="module")
def demo() -> Target:
    return load_target("demo", revision=None, device="cpu", dtype="float32", max_context=2048)


@pytest.mark.parametrize(
    "prompts", [pytest.param(range(26), id="26"), pytest.param(range(26, 100), id="74", marks=pytest.mark.slow)]
)
async def test_the_demo_pair(demo: Target, prompts: range) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(demo.tokenizer_json)
    drafter, _ = load_torch_drafter("demo", vocabulary=demo.vocabulary)
    drafted = accepted = rounds = committed = 0
    async with edge_on_loopback(demo) as edge, EdgeConnection(edge.address) as connection:
        for number in prompts:
            prompt = tokenizer.encode(word_problem("held-out", number).prompt).ids
            expected = demo_text(demo, prompt)
            alone = await ask(edge, connection, prompt, drafter, draft_length=0, max_tokens=ANSWER * 4)
            assert alone.ids == expected
            assert alone.session.tally.drafted == 0
            draft_length = number % len(DRAFT_LENGTHS)
            answer = await ask(edge, connection, prompt, drafter, draft_length=draft_length, max_tokens=ANSWER * 4)
            assert answer.ids == expected
            drafted += answer.session.tally.drafted
            if draft_length:
                accepted += answer.session.tally.accepted
                rounds += answer.session.tally.rounds
                committed += answer.session.tally.committed
            traffic = answer.traffic
            assert traffic.draft_bytes <= 28 * traffic.draft_frames + 4 * traffic.draft_tokens
    assert drafted > 0
    assert accepted > 0.2 * drafted
    assert committed > 1.5 * rounds


def demo_text(demo: Target, prompt: list[int]) -> list[int]:
    """What ``generate`` writes, cut after the stop id."""
    ids = greedy(demo.model, prompt, ANSWER * 4)
    ends = [index for index, token in enumerate(ids) if token in demo.stop_ids]
    return ids[: ends[0] + 1] if ends else ids
