"""Semantic sessions over real gRPC: what stands by meaning is marked and valid, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from random import Random
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

import torch
from tokenizers import Tokenizer

from airdraft.checkpoint import DEMO_FOLDERS
from airdraft.core.errors import EdgeUnreachable
from airdraft.core.paths import next_hash, root_hash
from airdraft.core.session import DeviceSession, Output
from airdraft.core.types import (
    Draft,
    EdgeFrame,
    Granted,
    HiddenProtocol,
    NeedHidden,
    Open,
    Opened,
    Origin,
    Plan,
    Prefix,
    Semantic,
    StateRows,
)
from airdraft.wire.client import EdgeConnection, EdgeStream
from device_client.drafters.torch_model import TorchDrafter, load_torch_drafter
from device_client.generation import Generation
from edge_node.audit_checks import same_by
from edge_node.audits import Audits
from edge_node.engine.loading import load_target
from edge_node.engine.target import Target
from edge_node.heads import HeadFile, HeadRefused, load_head
from edge_node.labels.checks import number_of
from edge_node.metrics import EdgeMetrics
from edge_node.metrics_meaning import Audited
from edge_node.sessions import Terms
from models.wordproblems import word_problem
from tests.heads import head_by_gap
from tests.shapes import greedy
from tests.system.loopback import Answer, Loopback, Recorder, ask, edge_on_loopback, session_for
from tests.system.test_resume import KEY, LENGTH, PROMPT, relay_to, start
from tests.system.test_resume import TARGET as RESUMED

MOST = 80
MOST_GAP = (0.1 - 0.001) / (0.9 - 0.001) * 40 + 1e-3
"""Nats: what the lax head's table lets stand under a cap of 0.02."""

SHIPPED = DEMO_FOLDERS[0] / "heads" / "drafter.safetensors"
PROTOCOLS = list(HiddenProtocol)


@pytest.fixture(scope="module")
def demo() -> Target:
    return load_target("demo", revision=None, device="cpu", dtype="float32", max_context=2048)


@pytest.fixture(scope="module")
def drafter(demo: Target) -> TorchDrafter:
    return load_torch_drafter("demo", vocabulary=demo.vocabulary)[0]


def prompts(demo: Target, count: int, first: int = 0) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(demo.tokenizer_json)
    return [tokenizer.encode(word_problem("held-out", number).prompt).ids for number in range(first, first + count)]


def head_for(demo: Target, drafter: TorchDrafter, *, lax: bool = True, states: bool = False) -> HeadFile:
    """A head that lets stand what is not far from the target's own choice, or hardly anything."""
    return head_by_gap(
        f"{'lax' if lax else 'strict'}{' with states' if states else ''}",
        target=demo.model_digest,
        drafter=drafter.digest(),
        target_width=128,
        state_width=drafter.state_width if states else 0,
        gaps=(0.0, 40.0 if lax else 1e-6),
        risks=(0.001, 0.9),
    )


def wish(drafter: TorchDrafter, protocol: HiddenProtocol = HiddenProtocol.TARGET_ONLY, cap: float = 0.02) -> Semantic:
    return Semantic(cap, "head", protocol, drafter.digest(), drafter.state_width)


def own_text(demo: Target, prompt: Sequence[int]) -> list[int]:
    ids = greedy(demo.model, list(prompt), MOST)
    ends = [index for index, token in enumerate(ids) if token in demo.stop_ids]
    return ids[: ends[0] + 1] if ends else ids


def origins_of(answer: Answer) -> list[Origin]:
    return [origin for event in answer.recorder.events for origin in event.origins]


@torch.inference_mode()
def check_valid(
    demo: Target, drafter: TorchDrafter, prompt: Sequence[int], answer: Answer, most_gap: float = MOST_GAP
) -> int:
    """Check every token against both models, read with the text as it became; return how many stand by meaning."""
    text = [*prompt, *answer.ids]
    logits = demo.model(torch.tensor([text])).logits[0, len(prompt) - 1 : -1]
    meant = 0
    for at, (token, origin) in enumerate(zip(answer.ids, origins_of(answer), strict=True)):
        best = float(logits[at, : demo.vocabulary].max())
        if origin is Origin.MEANING:
            meant += 1
            assert 0 < best - float(logits[at, token]) <= most_gap
            assert token not in demo.stop_ids
            assert drafter.propose(text[: len(prompt) + at], 1, lambda: False) == [token]
        else:
            assert float(logits[at, token]) > best - 1e-3
    return meant


async def test_drafted_tokens_stand_by_meaning_and_are_marked(demo: Target, drafter: TorchDrafter) -> None:
    meant = rounds = exact_rounds = 0
    async with (
        edge_on_loopback(demo, heads=[head_for(demo, drafter)]) as edge,
        EdgeConnection(edge.address) as connection,
    ):
        assert (await connection.describe()).acceptance_modes[:2] == ("exact", "head")
        for prompt in prompts(demo, 8):
            answer = await ask(
                edge, connection, prompt, drafter, draft_length=8, max_tokens=MOST, semantic=wish(drafter)
            )
            assert answer.granted == Granted(0.02, "head")
            found = check_valid(demo, drafter, prompt, answer)
            assert found == answer.session.tally.by_origin[Origin.MEANING]
            assert (answer.session.tally.spent > 0) == (found > 0)
            exact = await ask(edge, connection, prompt, drafter, draft_length=8, max_tokens=MOST)
            meant += found
            rounds += answer.session.tally.rounds
            exact_rounds += exact.session.tally.rounds
        value = edge.service.sessions.metrics.registry.get_sample_value
        labels = {"model_name": demo.name}
        assert value("airdraft:committed_tokens_total", labels | {"origin": "meaning"}) == meant
        assert (value("airdraft:meaning_risk_total", labels) or 0.0) >= 0.001 * meant
        assert value("airdraft:semantic_sessions_total", labels | {"granted": "as_asked"}) == 8
    assert meant > 8
    assert rounds < exact_rounds


@pytest.mark.parametrize("cap", [0.005, 0.02])
async def test_no_tolerance_is_the_exact_text_token_for_token(demo: Target, drafter: TorchDrafter, cap: float) -> None:
    """A cap that no threshold keeps, and a head that lets nothing stand."""
    heads = [head_for(demo, drafter, lax=cap == 0.005)]
    async with edge_on_loopback(demo, heads=heads) as edge, EdgeConnection(edge.address) as connection:
        for prompt in prompts(demo, 6):
            asked = wish(drafter, cap=cap)
            answer = await ask(edge, connection, prompt, drafter, draft_length=8, max_tokens=MOST, semantic=asked)
            assert answer.ids == own_text(demo, prompt)
            assert Origin.MEANING not in origins_of(answer)
            assert (answer.granted.max_loss == 0) == (cap == 0.005)
            assert ("keeps a loss of 0.005" in answer.granted.reason) == (cap == 0.005)


@pytest.mark.parametrize("run_ahead", [False, True])
async def test_exact_sessions_in_the_same_steps_do_not_change(
    demo: Target, drafter: TorchDrafter, run_ahead: bool
) -> None:
    terms = Terms(most=64, keep_s=60, run_ahead=run_ahead)
    texts = prompts(demo, 6)
    async with edge_on_loopback(demo, terms=terms, heads=[head_for(demo, drafter)]) as edge:

        async def one(prompt: list[int], asked: Semantic | None) -> Answer:
            own = load_torch_drafter("demo", vocabulary=demo.vocabulary)[0]
            async with EdgeConnection(edge.address) as connection:
                return await ask(edge, connection, prompt, own, draft_length=6, max_tokens=MOST, semantic=asked)

        wishes = (None, wish(drafter))
        answers = await asyncio.gather(*(one(prompt, asked) for prompt in texts for asked in wishes))
    assert [answer.ids for answer in answers[::2]] == [own_text(demo, prompt) for prompt in texts]
    assert sum(check_valid(demo, drafter, text, answer) for text, answer in zip(texts, answers[1::2], strict=True)) > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_every_protocol_writes_valid_text(demo: Target, drafter: TorchDrafter, protocol: HiddenProtocol) -> None:
    states = protocol is not HiddenProtocol.TARGET_ONLY
    heads = [head_for(demo, drafter, states=states)]
    meant, asked = 0, 0.0
    async with edge_on_loopback(demo, heads=heads) as edge, EdgeConnection(edge.address) as connection:
        for prompt in prompts(demo, 5):
            answer = await ask(
                edge, connection, prompt, drafter, draft_length=8, max_tokens=MOST, semantic=wish(drafter, protocol)
            )
            assert answer.granted.protocol is protocol
            meant += check_valid(demo, drafter, prompt, answer)
        value = edge.service.sessions.metrics.registry.get_sample_value
        asked = value("airdraft:hidden_waits_total", {"model_name": demo.name}) or 0
        assert value("airdraft:hidden_waits_late_total", {"model_name": demo.name}) == 0
    assert meant > 0
    assert (asked > 0) == (protocol is HiddenProtocol.MISMATCH_FIRST)


async def test_states_that_do_not_come_make_the_edge_strict_and_not_silent(demo: Target, drafter: TorchDrafter) -> None:
    """The device asks for mismatch-first and then answers nothing: past the deadline the text is the target's own."""
    (prompt,) = prompts(demo, 1)
    async with (
        edge_on_loopback(demo, heads=[head_for(demo, drafter, states=True)]) as edge,
        EdgeConnection(edge.address) as connection,
    ):
        session = session_for(
            edge,
            prompt,
            draft_length=8,
            max_tokens=30,
            semantic=wish(drafter, HiddenProtocol.MISMATCH_FIRST),
        )
        told = session.received
        session.received = lambda frame: [] if isinstance(frame, NeedHidden) else told(frame)  # type: ignore[method-assign]
        recorder = Recorder()
        async with asyncio.timeout(60):
            with Generation(session, drafter, recorder) as generation:
                await generation.over(connection.generate(edge.description.vocabulary))
        value = edge.service.sessions.metrics.registry.get_sample_value
        assert (value("airdraft:hidden_waits_late_total", {"model_name": demo.name}) or 0) > 0
    assert recorder.ids == own_text(demo, prompt)[:30]


class Boaster:
    """A session that reports, right after it was opened, what it likes."""

    def __init__(self, session: DeviceSession, says: tuple[float | None, ...]) -> None:
        self._session, self._says, self._received = session, says, session.received

    def received(self, frame: EdgeFrame) -> list[Output]:
        outputs = self._received(frame)
        if isinstance(frame, Opened):
            outputs += self._session.channel(*self._says)
        return outputs


async def test_what_a_device_says_of_its_link_makes_it_no_laxer(demo: Target, drafter: TorchDrafter) -> None:
    (prompt,) = prompts(demo, 1, first=3)
    answers = []
    async with (
        edge_on_loopback(demo, heads=[head_for(demo, drafter)]) as edge,
        EdgeConnection(edge.address) as connection,
    ):
        for miss_s, round_trip_s, up_bytes_s in ((None, None, None), (1e6, 1e6, 1e-3), (0.0, 1e6, 1e-3)):
            session = session_for(edge, prompt, draft_length=8, max_tokens=MOST, semantic=wish(drafter))
            if miss_s is not None:
                session.received = Boaster(session, (miss_s, round_trip_s, up_bytes_s)).received  # type: ignore[method-assign]
            recorder = Recorder()
            async with asyncio.timeout(60):
                with Generation(session, drafter, recorder) as generation:
                    stream = connection.generate(edge.description.vocabulary)
                    await generation.over(stream)
            answers.append(Answer(session, stream.traffic, recorder))
    silent, boasting, cheap = answers
    assert check_valid(demo, drafter, prompt, boasting) > 0  # and none of them is further from the target's own choice
    # The first draft was sent before the session was opened, and may be judged before the report is read.
    assert Origin.MEANING in origins_of(silent)[9:]
    assert Origin.MEANING not in origins_of(cheap)[9:]


def test_a_head_of_another_model_does_not_serve(demo: Target, drafter: TorchDrafter) -> None:
    async def serve() -> None:
        head = head_by_gap(target=b"x" * 32, drafter=drafter.digest(), target_width=128)
        async with edge_on_loopback(demo, heads=[head]):
            pass

    with pytest.raises(HeadRefused, match="another target"):
        asyncio.run(serve())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x00\x00\xc0\x7f" + bytes(128), "scale"),
        (b"\x00\x00\x80\x7f" + bytes(128), "scale"),
        (b"\x00\x00\x80\x3f" + bytes(64), "bytes"),
    ],
    ids=["NaN", "infinite", "too few"],
)
async def test_states_that_are_none_end_the_stream(
    demo: Target, drafter: TorchDrafter, data: bytes, words: str
) -> None:
    (prompt,) = prompts(demo, 1)
    asked = wish(drafter, HiddenProtocol.FULL_HIDDEN)
    async with (
        edge_on_loopback(demo, heads=[head_for(demo, drafter, states=True)]) as edge,
        EdgeConnection(edge.address) as connection,
        asyncio.timeout(30),
    ):
        session = session_for(edge, prompt, draft_length=8, max_tokens=MOST, semantic=asked)
        stream = connection.generate(edge.description.vocabulary)
        for frame in session.attach(1, with_prefix=True):
            assert isinstance(frame, Open | Prefix)
            await stream.send(frame)
        at = len(prompt)
        refused = Draft(1, 1, at, at, path_hash(edge, prompt), (5,), states=StateRows((0,), data))
        received = await anext(aiter(stream))
        assert isinstance(received, Opened)
        assert received.granted.protocol is HiddenProtocol.FULL_HIDDEN
        await stream.send(refused)
        with pytest.raises(EdgeUnreachable, match=words):
            await all_of(stream)


async def all_of(stream: EdgeStream) -> None:
    async for _ in stream:
        pass


def path_hash(edge: Loopback, ids: Sequence[int]) -> bytes:
    end = root_hash(edge.description.identity)
    for token in ids:
        end = next_hash(end, token)
    return end


async def test_an_edge_that_dies_is_replaced_by_one_that_goes_on_with_what_was_spent() -> None:
    head = head_by_gap(
        target=RESUMED.model_digest, drafter=b"d" * 32, target_width=width(RESUMED), gaps=(0.0, 1e9), risks=(0.002, 0.9)
    )
    terms = Terms(most=16, keep_s=60.0, receipts=KEY)
    async with (
        edge_on_loopback(RESUMED, terms=terms, heads=[head]) as first,
        edge_on_loopback(RESUMED, terms=terms, heads=[head]) as second,
        relay_to(first) as relay,
        asyncio.timeout(60),
    ):
        asked = Semantic(0.02, "head", drafter_digest=b"d" * 32)
        session = session_for(first, PROMPT, draft_length=3, max_tokens=LENGTH, semantic=asked)
        text = start(first, [relay.address, second.address], session=session)
        await text.reader.has_read(40)
        relay.refuse()
        relay.cut()
        spent = session.tally.spent
        meant = session.tally.by_origin[Origin.MEANING]
        assert spent == pytest.approx(1 - 0.998**meant, rel=1e-3)
        await text.running
        assert text.reader.backs == [second.address]
        later = session.tally.by_origin[Origin.MEANING] - meant
        assert meant > 0
        assert later > 0
        assert session.tally.spent == pytest.approx(1 - 0.998 ** (meant + later), rel=1e-3)
        assert len(text.reader.ids) == LENGTH


def width(target: Target) -> int:
    embeddings: Any = target.model.get_input_embeddings()
    found: int = embeddings.weight.shape[1]
    return found


async def test_another_wish_at_a_second_attach_is_refused() -> None:
    head = head_by_gap(target=RESUMED.model_digest, drafter=b"d" * 32, target_width=width(RESUMED))
    asked = Semantic(0.02, "head", drafter_digest=b"d" * 32)
    async with (
        edge_on_loopback(RESUMED, heads=[head]) as edge,
        EdgeConnection(edge.address) as connection,
        asyncio.timeout(30),
    ):
        session = session_for(edge, PROMPT, draft_length=3, max_tokens=LENGTH, semantic=asked)
        (opened, *_) = session.attach(1, with_prefix=True)
        assert isinstance(opened, Open)
        first = connection.generate(edge.description.vocabulary)
        await first.send(opened)
        async for frame in first:
            assert isinstance(frame, Opened)
            break
        for other in (None, replace(asked, max_loss=0.05), replace(asked, rule="typical")):
            again = connection.generate(edge.description.vocabulary)
            await again.send(replace(opened, epoch=2, semantic=other))
            with pytest.raises(EdgeUnreachable, match="opened with other settings"):
                await all_of(again)
        first.cancel()


async def test_tokens_that_stood_are_audited_when_nobody_waits(demo: Target, drafter: TorchDrafter) -> None:
    made: list[Audits] = []

    def audits(metrics: EdgeMetrics) -> Audits:
        made.append(Audits(1.0, Random(5), metrics.meaning))
        made[0].same = lambda key: same_by("number", Tokenizer.from_str(demo.tokenizer_json).decode)
        return made[0]

    async with (
        edge_on_loopback(demo, heads=[head_for(demo, drafter)], audits=audits) as edge,
        EdgeConnection(edge.address) as connection,
        asyncio.timeout(120),
    ):
        meant = 0
        for prompt in prompts(demo, 4):
            answer = await ask(
                edge, connection, prompt, drafter, draft_length=8, max_tokens=MOST, semantic=wish(drafter)
            )
            meant += check_valid(demo, drafter, prompt, answer)
        while len(made[0]):
            await asyncio.sleep(0.01)
        value = edge.service.sessions.metrics.registry.get_sample_value
        outcomes = {
            outcome: value("airdraft:semantic_audits_total", {"model_name": demo.name, "outcome": outcome.name.lower()})
            for outcome in Audited
        }
        assert sum(found or 0 for found in outcomes.values()) == meant > 0
        assert (outcomes[Audited.HARMLESS] or 0) > meant / 2
        assert edge.service.sessions.pool.reserved_rows == 0


@pytest.mark.parametrize("provisional_s", [0.05, 1.0])
async def test_tokens_held_back_for_a_draft_leave_the_text_valid(
    demo: Target, drafter: TorchDrafter, provisional_s: float
) -> None:
    terms = Terms(most=64, keep_s=60, run_ahead=True)
    meant = 0
    async with (
        edge_on_loopback(demo, terms=terms, heads=[head_for(demo, drafter)]) as edge,
        EdgeConnection(edge.address) as connection,
    ):
        for prompt in prompts(demo, 5):
            session = session_for(edge, prompt, draft_length=2, max_tokens=MOST, semantic=wish(drafter))
            session.plan = Plan(2, 4, 8, provisional_s=provisional_s)
            stream = connection.generate(edge.description.vocabulary)
            recorder = Recorder()
            async with asyncio.timeout(60):
                with Generation(session, drafter, recorder) as generation:
                    await generation.over(stream)
            meant += check_valid(demo, drafter, prompt, Answer(session, stream.traffic, recorder))
    assert meant > 0


@pytest.mark.skipif(not SHIPPED.exists(), reason="the demo pair has no head yet")
@pytest.mark.slow
async def test_the_shipped_head_makes_the_demo_pair_quicker_and_keeps_its_answers(
    demo: Target, drafter: TorchDrafter
) -> None:
    read = Tokenizer.from_str(demo.tokenizer_json).decode
    right = kept = meant = rounds = exact_rounds = 0
    async with (
        edge_on_loopback(demo, heads=[load_head(SHIPPED)]) as edge,
        EdgeConnection(edge.address) as connection,
    ):
        for prompt in prompts(demo, 30, first=500):
            asked = wish(drafter, cap=0.01)
            answer = await ask(edge, connection, prompt, drafter, draft_length=16, max_tokens=MOST, semantic=asked)
            assert answer.granted.max_loss == 0.01
            meant += check_valid(demo, drafter, prompt, answer, inf)
            exact = await ask(edge, connection, prompt, drafter, draft_length=16, max_tokens=MOST)
            number = number_of(read(exact.ids))
            right += number is not None
            kept += number is not None and number == number_of(read(answer.ids))
            rounds += answer.session.tally.rounds
            exact_rounds += exact.session.tally.rounds
    assert meant > 30
    assert rounds < 0.8 * exact_rounds
    assert kept >= right - 2
