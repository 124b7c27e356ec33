"""A drafter at the edge, over real gRPC: devices that draft nothing still get several tokens a pass."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.drafting import NgramDrafter
from airdraft.core.types import Origin, Sampling
from airdraft.wire.client import EdgeConnection
from edge_node.engine.drafter import BatchDrafter, EngineDrafter, SessionDrafters, load_drafter
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target
from edge_node.sessions import Terms
from edge_node.step import DraftItem
from tests.checkpoints import save
from tests.shapes import CONTEXT, VOCABULARY, shape
from tests.system.loopback import ask, edge_on_loopback
from tests.system.test_equality import shape_target
from tests.system.test_sampling import written_alone

PROMPT = (5, 6, 7, 8)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, seed=3, top_p=0.9, frequency_penalty=0.5)])
@pytest.mark.parametrize("same", [True, False])
async def test_the_text_is_the_targets_own_and_a_perfect_drafter_is_always_accepted(
    sampling: Sampling, same: bool
) -> None:
    target = shape_target("llama")
    small = target if same else shape_target("qwen2")
    drafter = BatchDrafter(TargetEngine(small, 4 * CONTEXT), VOCABULARY)
    terms = Terms(most=4, keep_s=60, own_draft_tokens=4, own_draft_adapts=False)
    async with (
        edge_on_loopback(target, terms=terms, drafter=drafter) as edge,
        EdgeConnection(edge.address) as connection,
    ):
        answer = await ask(edge, connection, PROMPT, NgramDrafter(), draft_length=0, max_tokens=81, sampling=sampling)
    assert answer.ids == written_alone(target, PROMPT, sampling, 81)
    origins = answer.session.tally.by_origin
    assert origins[Origin.ACCEPTED] == 0
    if same:
        assert origins[Origin.RECOVERED] == 0
        assert origins[Origin.EDGE_DRAFT] == 64
        assert answer.session.tally.rounds == 17


def test_a_drafter_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    target = load_target("demo")
    other = save(shape("llama"), tmp_path)
    with pytest.raises(CheckpointRefused, match="different tokenizers"):
        load_drafter(str(other), target, device="cpu", dtype="auto")


def test_the_same_word_comes_from_a_batch_and_from_a_drafter_alone() -> None:
    """Sessions that take turns, more of them than have a place, with paths that change their mind."""
    target = shape_target("llama")
    chance = random.Random(5)
    batch = BatchDrafter(TargetEngine(target, 3 * CONTEXT), VOCABULARY)
    texts = [[chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 30))] for _ in range(5)]
    samplings = [Sampling(), *(Sampling(0.9, seed=seed, top_p=0.95) for seed in range(4))]
    for _ in range(20):
        chosen = chance.sample(range(5), chance.choice((3, 5)))
        counts = [chance.randint(1, 4) for _ in chosen]
        items = [
            DraftItem(index, samplings[index], tuple(texts[index]), count)
            for index, count in zip(chosen, counts, strict=True)
        ]
        for index, count, written in zip(chosen, counts, batch.draft(items), strict=True):
            alone = EngineDrafter(TargetEngine(target, CONTEXT), VOCABULARY, samplings[index])
            assert list(written) == alone.propose(texts[index], count, lambda: False)
            kept = chance.randint(0, count)
            texts[index] += [*written[:kept], chance.randrange(VOCABULARY)]
        if chance.random() < 0.2:
            batch.forget([chosen[0]])


def test_an_ngram_drafter_learns_each_text_once_and_begins_anew_where_it_changed() -> None:
    drafters = SessionDrafters(lambda sampling: NgramDrafter())
    assert drafters.draft([DraftItem(1, Sampling(), (7, 8, 9, 7, 8), 2)]) == [(9, 7)]
    assert drafters.draft([DraftItem(1, Sampling(), (7, 8, 9, 7, 8, 9, 5, 7, 8), 1)]) == [(9,)]
    assert drafters.draft([DraftItem(1, Sampling(), (4, 4, 1, 4, 4), 1)]) == [(1,)]
    drafters.forget([1, 2])
