"""A drafter at the edge, over real gRPC: devices that draft nothing still get several tokens a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.drafting import NgramDrafter
from airdraft.core.types import Origin, Sampling
from airdraft.wire.client import EdgeConnection
from edge_node.engine.drafter import EngineDrafter, load_drafter
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target
from edge_node.sessions import SessionTable
from tests.checkpoints import save
from tests.shapes import VOCABULARY, shape
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
    engine = TargetEngine(small)
    table = SessionTable(most=4, keep_s=60, own_draft_tokens=4)
    async with edge_on_loopback(target, table=table) as edge, EdgeConnection(edge.address) as connection:
        edge.service.ready(
            TargetEngine(target), edge.description, lambda chosen: EngineDrafter(engine, VOCABULARY, 192, chosen)
        )
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
    assert isinstance(load_drafter("ngram", target, device="cpu", dtype="auto")(Sampling()), NgramDrafter)
