"""A head that claims too little, on a style that it does not know: audits bring the loss back under the cap."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import count
from math import comb
from random import Random

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from tokenizers import Tokenizer

from airdraft.core.types import Semantic
from airdraft.wire.client import EdgeConnection
from device_client.drafters.torch_model import load_torch_drafter
from edge_node.audit_checks import same_by
from edge_node.audits import Audits
from edge_node.engine.loading import load_target
from edge_node.engine.target import Target
from edge_node.heads import HeadFile
from edge_node.labels.checks import number_of
from edge_node.metrics import EdgeMetrics
from models.wordproblems import word_problem
from tests.heads import head_by_gap
from tests.system.loopback import Loopback, ask, edge_on_loopback

CAP = 0.02
MOST = 80
AT_ONCE = 6
MOST_AUDITS = 200
DRAFTER = "models/demo/drafter-60"


def too_lax(target: Target, drafter: bytes) -> HeadFile:
    """A head that says of tokens 12 nats away what is true of those next to the target's own."""
    return head_by_gap(
        target=target.model_digest,
        drafter=drafter,
        target_width=128,
        gaps=(0.0, 12.0),
        risks=(0.002, 0.05),
        thresholds=(0.05,),
        losses=(CAP / 2,),
    )


class Sampling(Random):
    """Samples everything while it is on, until it has sampled so many."""

    left, on = MOST_AUDITS, False

    def random(self) -> float:
        """Return 0 for a sample, 1 for none."""
        if not self.on or not self.left:
            return 1.0
        self.left -= 1
        return 0.0


class Users:
    """They ask for one problem after the other, some at a time, and compare the answers with the target's own."""

    def __init__(self, edge: Loopback, connection: EdgeConnection, target: Target) -> None:
        self._edge, self._connection = edge, connection
        self._tokenizer = Tokenizer.from_str(target.tokenizer_json)
        self._drafters = [load_torch_drafter(DRAFTER, vocabulary=target.vocabulary)[0] for _ in range(AT_ONCE)]
        self._asked = Semantic(CAP, "head", drafter_digest=self._drafters[0].digest())
        self._numbers: Iterator[int] = count(2000)

    async def ask(self, *, also_exact: bool = True) -> tuple[int, int]:
        """Ask some problems; return how many had an answer, and how many of these became another."""
        wishes = (None, self._asked) if also_exact else (self._asked,)
        outcomes = await asyncio.gather(*(self._one(at, wishes) for at in range(AT_ONCE)))
        return sum(number is not None for number, _ in outcomes), sum(
            number is not None and other != number for number, other in outcomes
        )

    async def loss(self, rounds: int) -> tuple[int, int]:
        """Return how many answers of some rounds of problems became others, and how many there were."""
        answers = [await self.ask() for _ in range(rounds)]
        return sum(lost for _, lost in answers), sum(had for had, _ in answers)

    async def _one(self, place: int, wishes: Sequence[Semantic | None]) -> tuple[str | None, str | None]:
        prompt = self._tokenizer.encode(word_problem("held-out", next(self._numbers)).prompt).ids
        drafter = self._drafters[place]
        numbers = []
        for semantic in wishes:
            answer = await ask(
                self._edge, self._connection, prompt, drafter, draft_length=8, max_tokens=MOST, semantic=semantic
            )
            numbers.append(number_of(self._tokenizer.decode(answer.ids)))
        return numbers[0], numbers[-1]


def as_likely(lost: int, of: int, cap: float) -> float:
    """Return how likely so many or more are lost where the loss is at the cap."""
    return 1 - sum(comb(of, k) * cap**k * (1 - cap) ** (of - k) for k in range(lost))


@pytest.mark.slow
async def test_audits_bring_the_loss_back_under_the_cap_within_200_swaps() -> None:
    target = load_target("demo", revision=None, device="cpu", dtype="float32", max_context=512)
    digest = load_torch_drafter(DRAFTER, vocabulary=target.vocabulary)[0].digest()
    sampling, made = Sampling(), list[Audits]()

    def audits(metrics: EdgeMetrics) -> Audits:
        made.append(Audits(0.5, sampling, metrics.meaning, most_waiting=MOST_AUDITS))
        read = Tokenizer.from_str(target.tokenizer_json).decode
        made[0].same = lambda key: same_by("number", read)
        return made[0]

    async with (
        edge_on_loopback(target, heads=[too_lax(target, digest)], audits=audits) as edge,
        EdgeConnection(edge.address) as connection,
        asyncio.timeout(600),
    ):
        users = Users(edge, connection, target)
        before = await users.loss(4)
        sampling.on = True
        for _ in range(30):
            await users.ask(also_exact=False)
            while len(made[0]):
                await asyncio.sleep(0.005)
            if not sampling.left or made[0].strictness("made")() * 0.05 < 0.002:  # nothing stands any more
                break
        sampling.on = False
        strictness = made[0].strictness("made")()
        after = await users.loss(12)
    assert as_likely(*before, CAP) < 1e-6, "the head was not lax enough to show anything"
    assert strictness < 0.5
    assert as_likely(*after, CAP) > 0.05
    assert after[0] / after[1] < before[0] / before[1] / 10
