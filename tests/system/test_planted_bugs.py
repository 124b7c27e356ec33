"""Bugs planted on purpose, one at a time: each must be caught by a named check, and the checks pass without them.

The rules that need the drafter's distribution plant theirs in ``tests/core/test_acceptance.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core import sampling as sampler
from airdraft.core.noise import draw_key
from airdraft.core.session.cache_rows import CacheRows
from airdraft.core.types import Pass, Sampling
from airdraft.wire.client import EdgeConnection
from device_client.drafters import torch_model
from device_client.drafters.torch_model import TorchDrafter
from edge_node.kv_pool import KvPool
from tests.shapes import VOCABULARY, plain_logits, shape
from tests.system.loopback import ask, edge_on_loopback
from tests.system.test_equality import shape_target
from tests.system.test_sampling import written_alone

SETTINGS = Sampling(0.8, seed=11, top_p=0.95, repetition_penalty=1.5, frequency_penalty=1.0)
PROMPT = (5, 6, 7, 8)
LENGTH = 80

# ---- the checks ----


async def text_is_the_targets() -> None:
    """The edge's text equals the target's alone, with a drafter of another mind."""
    target = shape_target("llama")
    expected = written_alone(target, PROMPT, SETTINGS, LENGTH)
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        drafter = TorchDrafter(shape("llama", seed=1), VOCABULARY, SETTINGS)
        answer = await ask(edge, connection, PROMPT, drafter, draft_length=4, max_tokens=LENGTH, sampling=SETTINGS)
    assert answer.ids == expected


async def a_perfect_drafter_is_always_accepted() -> None:
    """The target as its own drafter: both ends make the same choice everywhere."""
    target = shape_target("llama")
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        drafter = TorchDrafter(target.model, VOCABULARY, SETTINGS)
        answer = await ask(edge, connection, PROMPT, drafter, draft_length=4, max_tokens=LENGTH, sampling=SETTINGS)
    assert answer.session.tally.drafted > 0
    assert answer.session.tally.acceptance == 1.0


async def drafts_are_the_drafters_own() -> None:
    """After every miss the drafter goes on as it would without a cache."""
    target, model = shape_target("llama"), shape("llama", seed=1)
    proposals: list[tuple[tuple[int, ...], list[int]]] = []

    class Recorded(TorchDrafter):
        def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
            proposals.append((tuple(path), super().propose(path, count, cancelled)))
            return proposals[-1][1]

    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        drafter = Recorded(model, VOCABULARY, Sampling())
        answer = await ask(edge, connection, PROMPT, drafter, draft_length=3, max_tokens=LENGTH)
    assert answer.session.tally.missed > 5
    for path, tokens in proposals:
        ids = list(path)
        for token in tokens:
            assert token == int(plain_logits(model, ids)[-1].argmax())
            ids.append(token)


async def two_sessions_at_once_keep_their_own_text() -> None:
    """Two texts that are written in turn do not meet."""
    target = shape_target("llama")
    prompts = [(1, 2, 3), (90, 80, 70, 60)]
    expected = [written_alone(target, prompt, Sampling(), LENGTH) for prompt in prompts]
    async with edge_on_loopback(target) as edge, EdgeConnection(edge.address) as connection:
        answers = await asyncio.gather(
            *(
                ask(
                    edge, connection, prompt, TorchDrafter(shape("llama", seed=1), VOCABULARY),
                    draft_length=2, max_tokens=LENGTH,
                )
                for prompt in prompts
            )
        )  # fmt: skip
    assert [answer.ids for answer in answers] == expected


CHECKS: tuple[Callable[[], Awaitable[None]], ...] = (
    text_is_the_targets,
    a_perfect_drafter_is_always_accepted,
    drafts_are_the_drafters_own,
    two_sessions_at_once_keep_their_own_text,
)

# ---- the bugs ----

Patch = pytest.MonkeyPatch


def on_the_device(patch: Patch, change: Callable[..., tuple[Any, ...]]) -> None:
    right = sampler.choose
    patch.setattr(torch_model, "choose", lambda *arguments: right(*change(*arguments)))


def noise_without_position_on_the_edge(patch: Patch) -> None:
    right = draw_key
    patch.setattr("edge_node.engine.sampling.draw_key", lambda seed, position: right(seed, 0))


def noise_without_position_on_the_device(patch: Patch) -> None:
    right = draw_key
    patch.setattr(sampler, "draw_key", lambda seed, position: right(seed, 0))


def temperature_on_one_side(patch: Patch) -> None:
    def warmer(logits: NDArray[np.float32], *rest: Any) -> tuple[Any, ...]:
        return (logits / np.float32(0.8), *rest)

    on_the_device(patch, warmer)


def normaliser_on_one_side(patch: Patch) -> None:
    """It cancels in the choice, but not under a repetition penalty, which asks for the sign of a logit."""

    def normalised(logits: NDArray[np.float32], *rest: Any) -> tuple[Any, ...]:
        return (logits - np.log(np.exp(logits).sum()), *rest)

    on_the_device(patch, normalised)


def penalties_from_the_wrong_row(patch: Patch) -> None:
    right = Pass.row_paths

    def shifted(self: Pass) -> list[Sequence[int]]:
        # Each row counts the ids of the first one, at its own position.
        paths = right(self)
        return [(*paths[0], *path[len(paths[0]) - 1 : -1]) for path in paths]

    patch.setattr(Pass, "row_paths", shifted)


def roll_back_off_by_one_on_the_edge(patch: Patch) -> None:
    right = CacheRows.took

    def took(self: CacheRows, base: int, rows: Sequence[int]) -> None:
        right(self, base, rows)
        self.length += 1

    patch.setattr(CacheRows, "took", took)


def roll_back_off_by_one_on_the_device(patch: Patch) -> None:
    def lacking(self: TorchDrafter, path: list[int]) -> list[int]:
        shared = 0
        while shared < min(len(self._held), len(path) - 1) and self._held[shared] == path[shared]:
            shared += 1
        self._cache.crop(min(0, shared - len(self._held) + 1))  # a wrong row stays
        del self._held[shared:]
        return path[shared:]

    patch.setattr(TorchDrafter, "_lacking", lacking)


def rows_of_two_sessions_are_the_same(patch: Patch) -> None:
    right = KvPool.extent_of
    patch.setattr(KvPool, "extent_of", lambda self, owner: structs.replace(right(self, owner), first=0))


BUGS: dict[Callable[[Patch], None], Callable[[], Awaitable[None]]] = {
    noise_without_position_on_the_edge: text_is_the_targets,
    noise_without_position_on_the_device: a_perfect_drafter_is_always_accepted,
    temperature_on_one_side: a_perfect_drafter_is_always_accepted,
    normaliser_on_one_side: a_perfect_drafter_is_always_accepted,
    penalties_from_the_wrong_row: a_perfect_drafter_is_always_accepted,
    roll_back_off_by_one_on_the_edge: text_is_the_targets,
    roll_back_off_by_one_on_the_device: drafts_are_the_drafters_own,
    rows_of_two_sessions_are_the_same: two_sessions_at_once_keep_their_own_text,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_checks_pass_without_a_bug(check: Callable[[], Awaitable[None]]) -> None:
    await check()


@pytest.mark.parametrize(("bug", "check"), BUGS.items(), ids=lambda entry: entry.__name__)
async def test_a_planted_bug_is_caught(
    bug: Callable[[Patch], None], check: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - an assertion, or the bug's own crash
        await check()
    assert not isinstance(caught.value, TypeError | AttributeError)  # the bug itself must be well made
