"""What a device drafts, and what it says of its drafts, moves no token of an exact session's text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.acceptance_chain import WEIGHT_TOTAL, SparseQ
from airdraft.core.callers import Caller
from airdraft.core.drafting import NgramDrafter
from airdraft.core.errors import BadReceipt, EdgeUnreachable, MalformedFrame, SpecError, error_of
from airdraft.core.paths import next_hash, root_hash
from airdraft.core.receipts import ReceiptKey
from airdraft.core.types import Commit, Draft, Open, Origin, Prefix, Refused, Sampling
from airdraft.wire.access import Access
from airdraft.wire.client import EdgeConnection
from device_client.generation import Generation
from edge_node.sessions import Terms
from tests.shapes import VOCABULARY
from tests.system.loopback import Loopback, Recorder, ask, edge_on_loopback, session_for
from tests.system.test_equality import shape_target

PROMPT = (5, 6, 7)
TOKENS = 24
FRAME = 8
SAMPLINGS = {"greedy": Sampling(), "sampled": Sampling(temperature=1.0, seed=7)}

Lie = Callable[[Sequence[int], Random], dict[str, Any]]
"""What a frame says where these are the tokens that come next."""


def others(due: Sequence[int], chance: Random) -> tuple[int, ...]:
    return tuple((token + chance.randrange(1, VOCABULARY)) % VOCABULARY for token in due)


def nearly(due: Sequence[int], chance: Random) -> tuple[int, ...]:
    """Right up to its last token."""
    return (*due[:-1], (due[-1] + 1) % VOCABULARY)


def q_with(ids: Sequence[int], weight: int) -> tuple[SparseQ, ...]:
    """Claim of each id that it was sampled from a distribution which gave it this weight."""
    found = []
    for token in ids:
        other = (token + 1) % VOCABULARY
        weights = {token: weight, other: WEIGHT_TOTAL - weight} if weight < WEIGHT_TOTAL else {token: weight}
        found.append(SparseQ(tuple(sorted(weights)), tuple(weights[one] for one in sorted(weights))))
    return tuple(found)


def claims(choose: Callable[[Sequence[int], Random], tuple[int, ...]], weight: int, probability: float) -> Lie:
    def lie(due: Sequence[int], chance: Random) -> dict[str, Any]:
        ids = choose(due, chance)
        return {"ids": ids, "q": q_with(ids, weight), "probabilities": (probability,) * len(ids)}

    return lie


def every_sibling_but_the_right_one(due: Sequence[int], chance: Random) -> dict[str, Any]:
    ids = tuple(token for token in range(40) if token != due[0])[:32]
    return {"ids": ids, "parents": (-1,) * len(ids)}


LIES: dict[str, Lie] = {
    "garbage": lambda due, chance: {"ids": tuple(chance.randrange(VOCABULARY) for _ in due)},
    "always wrong": lambda due, chance: {"ids": others(due, chance)},
    "nearly right": lambda due, chance: {"ids": nearly(due, chance)},
    "as much as a frame holds": lambda due, chance: {"ids": tuple(chance.choices(range(VOCABULARY), k=32))},
    "every sibling but the right one": every_sibling_but_the_right_one,
    "the same token over and over": lambda due, chance: {"ids": (due[0],) * 16},
    "wrong, and it was hardly sampled": claims(others, 1, 0.0),
    "wrong, and it was certain": claims(others, WEIGHT_TOTAL, 1.0),
    "nearly right, and it was hardly sampled": claims(nearly, 1, 1e-38),
    "right, and it could not have been sampled": claims(lambda due, chance: tuple(due), 1, 0.0),
}


@pytest.fixture(scope="module")
def texts() -> dict[str, list[int]]:
    """What the edge writes for nobody's drafts, by sampling."""

    async def write() -> dict[str, list[int]]:
        async with edge_on_loopback(shape_target("llama")) as edge, EdgeConnection(edge.address) as connection:
            return {
                name: (
                    await ask(
                        edge, connection, PROMPT, NgramDrafter(), draft_length=0, max_tokens=TOKENS, sampling=sampling
                    )
                ).ids
                for name, sampling in SAMPLINGS.items()
            }

    return asyncio.run(write())


def hash_of(edge: Loopback, ids: Sequence[int]) -> bytes:
    path = root_hash(edge.description.identity)
    for token in ids:
        path = next_hash(path, token)
    return path


@dataclass(slots=True)
class Liar:
    """A device that drafts by hand, frame by frame."""

    edge: Loopback
    lie: Lie
    due: Sequence[int]  # prompt and answer
    sampling: Sampling
    chance: Random = field(default_factory=lambda: Random(5))
    accepted: int = 0
    commits: list[Commit] = field(default_factory=list)

    async def reads(self, connection: EdgeConnection) -> list[int]:
        """Return the answer that the edge commits."""
        session = session_for(self.edge, PROMPT, draft_length=FRAME, max_tokens=TOKENS, sampling=self.sampling)
        stream, ids, seq = connection.generate(VOCABULARY), list(PROMPT), 1
        for frame in session.attach(1, with_prefix=True):
            assert isinstance(frame, (Open, Prefix))
            await stream.send(frame)
        await stream.send(self.draft(ids, seq))
        async for answer in committed(stream):
            assert answer.base == len(ids)
            ids += answer.ids
            self.commits.append(answer)
            self.accepted += answer.origins.count(Origin.ACCEPTED)
            if answer.stop is None:
                seq += 1
                await stream.send(self.draft(ids, seq))
        return ids[len(PROMPT) :]

    def draft(self, ids: Sequence[int], seq: int) -> Draft:
        due = self.due[len(ids) : len(ids) + FRAME]
        return Draft(1, seq, len(ids), len(ids), hash_of(self.edge, ids), **self.lie(due, self.chance))


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_no_lie_moves_a_token(sampling: str, texts: dict[str, list[int]]) -> None:
    due, accepted = [*PROMPT, *texts[sampling]], {}
    async with edge_on_loopback(shape_target("llama")) as edge, EdgeConnection(edge.address) as connection:
        for name, lie in LIES.items():
            liar = Liar(edge, lie, due, SAMPLINGS[sampling])
            async with asyncio.timeout(30):
                assert await liar.reads(connection) == texts[sampling], name
            accepted[name] = liar.accepted
        honest = Liar(edge, lambda right, chance: {"ids": tuple(right)}, due, SAMPLINGS[sampling])
        assert await honest.reads(connection) == texts[sampling]
    assert accepted["always wrong"] == accepted["every sibling but the right one"] == 0
    assert accepted["wrong, and it was hardly sampled"] == accepted["wrong, and it was certain"] == 0
    assert accepted["nearly right, and it was hardly sampled"] == accepted["nearly right"] > 0
    assert accepted["right, and it could not have been sampled"] == honest.accepted > TOKENS / 2


@pytest.mark.parametrize("probability", [float("nan"), -0.1, 1.1, float("inf")])
async def test_what_is_no_probability_is_refused(probability: float, texts: dict[str, list[int]]) -> None:
    async with edge_on_loopback(shape_target("llama")) as edge, EdgeConnection(edge.address) as connection:
        lie = claims(nearly, 1, probability)
        with pytest.raises(MalformedFrame, match="probabilities: outside 0 to 1"):
            await Liar(edge, lie, [*PROMPT, *texts["greedy"]], Sampling()).reads(connection)


# ---- receipts ----


@dataclass(frozen=True, slots=True)
class Named:
    """Takes a bearer for the tenant's name."""

    def admit(self, bearer: str, certificate: bytes) -> Caller:
        return Caller(bearer)


@dataclass(slots=True)
class Stops(Recorder):
    """Leaves after the first tokens."""

    def committed(self, event: Any) -> None:
        self.ids.extend(event.ids)
        if len(self.ids) >= 6:
            raise EdgeUnreachable("enough")


async def test_a_receipt_of_one_tenant_is_none_of_another(tmp_path: Path) -> None:
    terms = Terms(most=8, keep_s=60, receipts=ReceiptKey(b"k" * 32), own_text_only=True)
    for name in ("red", "blue"):
        (tmp_path / name).write_text(name)
    async with edge_on_loopback(shape_target("llama"), terms=terms, gatekeeper=Named()) as edge, asyncio.timeout(30):

        async def goes_on(tenant: str, opened: Open, ids: Sequence[int]) -> list[int]:
            async with EdgeConnection(edge.address, Access(key_file=tmp_path / tenant)) as connection:
                stream, written = connection.generate(VOCABULARY), list(ids)
                await stream.send(opened)
                await stream.send(Prefix(opened.epoch, 0, tuple(ids)))
                await stream.send(Draft(opened.epoch, 1, len(ids), len(ids), hash_of(edge, ids), idle=True))
                async for answer in committed(stream):
                    written += answer.ids
                return written

        session = session_for(edge, PROMPT, draft_length=0, max_tokens=TOKENS)
        async with EdgeConnection(edge.address, Access(key_file=tmp_path / "red")) as connection:
            with Generation(session, NgramDrafter(), Stops()) as generation, pytest.raises(EdgeUnreachable):
                await generation.over(connection.generate(VOCABULARY))
        ids = list(session.ids)
        (opened,) = (frame for frame in session.attach(2, with_prefix=False) if isinstance(frame, Open))
        assert opened.receipt
        with pytest.raises(BadReceipt):
            await goes_on("blue", opened, ids)
        with pytest.raises(BadReceipt):
            await goes_on("blue", replace(opened, session_id=bytes(16)), ids)
        assert len(await goes_on("red", replace(opened, epoch=3), ids)) == len(PROMPT) + TOKENS


async def committed(stream: Any) -> AsyncIterator[Commit]:
    """Yield commits to the end of a text. Raises what the edge refuses."""
    async for answer in stream:
        if isinstance(answer, Refused):
            error: SpecError = error_of(answer)
            raise error
        if isinstance(answer, Commit):
            yield answer
            if answer.stop is not None:
                stream.cancel()
                return
