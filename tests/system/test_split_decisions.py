"""Split decisions over real gRPC: the device draws what replaces a miss, and the text is that of every other plan."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from tokenizers import Tokenizer

from airdraft.core.drafting import Drafter
from airdraft.core.errors import EdgeFault
from airdraft.core.rows import TargetRow
from airdraft.core.types import Origin, Plan, Sampling
from airdraft.wire.client import EdgeConnection
from device_client.drafters.torch_model import load_torch_drafter
from device_client.generation import Generation
from edge_node.engine.loading import load_target
from edge_node.engine.rows import missed_rows
from edge_node.engine.target import Target
from models.wordproblems import word_problem
from tests.system.loopback import Answer, ListedDrafter, Loopback, Recorder, edge_on_loopback, session_for
from tests.system.test_equality import shape_target
from tests.system.test_sampling import written_alone

SAMPLINGS = {
    "greedy": Sampling(),
    "temperature 1": Sampling(1.0, seed=11),
    "penalised": Sampling(0.9, seed=5, top_p=0.95, repetition_penalty=1.2),
}
SPLIT = {
    "sync": Plan(4, split=True),
    "two in flight": Plan(3, 2, split=True),
    "pipelined": Plan(1, 64, split=True),
    "a frame ahead": Plan(3, ahead=1, first_alone=True, split=True),
}
PROMPT = (5, 6, 7, 8)
ANSWER = 40


async def written(
    edge: Loopback,
    connection: EdgeConnection,
    drafter: Drafter,
    plan: Plan,
    sampling: Sampling,
    prompt: Sequence[int] = PROMPT,
    count: int = ANSWER,
) -> Answer:
    session = session_for(edge, prompt, draft_length=0, max_tokens=count, sampling=sampling)
    session.plan = plan
    stream, recorder = connection.generate(edge.description.vocabulary), Recorder()
    async with asyncio.timeout(60):
        with Generation(session, drafter, recorder) as generation:
            await generation.over(stream)
    return Answer(session, stream.traffic, recorder)


def drafter_of(target: Target, sampling: Sampling) -> ListedDrafter:
    """Return a drafter that is wrong at one position in three."""
    return ListedDrafter([*PROMPT, *written_alone(target, PROMPT, sampling, ANSWER)], target.vocabulary, 3)


def assert_drew(answer: Answer, plan: Plan) -> None:
    """No token but a recovered one was drawn from a row; a commit that waits behind another frame goes without one."""
    tally = answer.session.tally
    if plan.split:
        assert 3 <= tally.drawn <= tally.by_origin[Origin.RECOVERED]
    else:
        assert tally.drawn == 0


@pytest.mark.parametrize("name", SAMPLINGS)
async def test_the_text_is_that_of_every_other_plan(name: str) -> None:
    target, sampling = shape_target("llama"), SAMPLINGS[name]
    alone = written_alone(target, PROMPT, sampling, ANSWER)
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        for plan in (Plan(0), Plan(4), *SPLIT.values()):
            answer = await written(edge, connection, drafter_of(target, sampling), plan, sampling)
            assert answer.ids == alone, plan
            assert_drew(answer, plan)


@pytest.mark.parametrize("name", ["greedy", "temperature 1"])
async def test_the_demo_pair_and_what_it_costs(name: str) -> None:
    """Beside the frames of any synchronous text: a float32 up a drafted token, a row down a miss."""
    target, sampling = load_target("demo", device="cpu", dtype="float32", max_context=2048), SAMPLINGS[name]
    prompt = Tokenizer.from_str(target.tokenizer_json).encode(word_problem("held-out", 3).prompt).ids
    drafter, _ = load_torch_drafter("demo", vocabulary=target.vocabulary, sampling=sampling)
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        plain = await written(edge, connection, drafter, Plan(4), sampling, prompt, 80)
        split = await written(edge, connection, drafter, Plan(4, split=True), sampling, prompt, 80)
    assert split.ids == plain.ids
    traffic, tally = split.traffic, split.session.tally
    assert_drew(split, Plan(4, split=True))
    assert 0 <= traffic.draft_bytes - 8 * traffic.draft_tokens <= 31 * traffic.draft_frames
    down = traffic.bytes_down - plain.traffic.bytes_down
    assert 2 * target.vocabulary * tally.drawn - 64 <= down <= 4 * target.vocabulary * tally.drawn + 64


# ---- edges that lie ----


def turned(row: TargetRow | None) -> TargetRow | None:
    """Return a row that gives another token."""
    if row is None:
        return None
    logits = row.logits
    logits[int(logits.argmin())] = 1e4
    return TargetRow.of(logits)


def test_a_turned_row_gives_another_token() -> None:
    row = turned(TargetRow.of(np.arange(5, dtype=np.float32)))
    assert row is not None
    assert row.logits.argmax() == 0


@pytest.mark.parametrize("name", ["greedy", "temperature 1"])
async def test_an_edge_whose_row_says_another_token_is_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, sampling = shape_target("llama"), SAMPLINGS[name]
    alone, drafter = written_alone(target, PROMPT, sampling, ANSWER), drafter_of(target, sampling)

    def lying(*arguments: Any) -> list[TargetRow | None]:
        return [turned(row) for row in missed_rows(*arguments)]

    monkeypatch.setattr("edge_node.engine.runner.missed_rows", lying)
    recorder = Recorder()
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        session = session_for(edge, PROMPT, draft_length=0, max_tokens=ANSWER, sampling=sampling)
        session.plan = SPLIT["sync"]
        with Generation(session, drafter, recorder) as generation:
            async with asyncio.timeout(60):
                with pytest.raises(EdgeFault, match="a commit's row gives"):
                    await generation.over(connection.generate(target.vocabulary))
                assert 0 < len(recorder.ids) < ANSWER
                assert recorder.ids == alone[: len(recorder.ids)]
                monkeypatch.undo()
                async with edge_on_loopback(target) as honest, EdgeConnection(honest.address) as other:
                    await generation.over(other.generate(target.vocabulary), limits=honest.description.limits)
    assert recorder.ids == alone
    assert session.tally.drawn > 0
