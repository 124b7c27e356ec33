"""Sessions of two tenants, crowded into a pool that is always too small: nobody reads what is another's.

Every prompt has ids in it that are its tenant's secret. A text that is the target's own, token for token, has nothing
of another text in it; rows that nobody may read are NaN, and would show. That rows never changed hands by mistake is
counted beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.callers import Caller
from airdraft.core.drafting import NgramDrafter
from airdraft.core.errors import EdgeUnreachable, LimitReached, Overloaded
from airdraft.core.session import Committed
from airdraft.wire.access import Access
from airdraft.wire.client import EdgeConnection
from device_client.generation import Generation
from edge_node.sessions import Terms
from edge_node.tenants import Tenants
from tests.shapes import VOCABULARY, greedy
from tests.system.loopback import ListedDrafter, Loopback, Recorder, ask, edge_on_loopback, session_for
from tests.system.test_equality import shape_target

TENANTS = ("red", "blue")
SECRET = {name: tuple(Random(name).randrange(VOCABULARY) for _ in range(8)) for name in TENANTS}
STEM = tuple(range(40, 70))
"""How the prompts of both tenants begin: rows that each would find with the other."""

TOKENS = 10
AT_ONCE = 12
EXTENTS = 5
"""Texts that the pool has room for."""


@dataclass(frozen=True, slots=True)
class Named:
    """Takes a bearer for the tenant's name: who may come is not what is tested here."""

    def admit(self, bearer: str, certificate: bytes) -> Caller:
        return Caller(bearer)


@dataclass(slots=True)
class Leaver(Recorder):
    """Reads along, and drops the stream once there are some tokens."""

    after: int = 0  # 0: stays
    left: bool = False

    def committed(self, event: Committed) -> None:
        self.events.append(event)
        self.ids.extend(event.ids)
        if self.after and len(self.ids) >= self.after and not self.left:
            self.left = True
            raise EdgeUnreachable("the stream is dropped here")


@asynccontextmanager
async def two_tenants(folder: Path, pool_rows: int, connections: int = 1) -> AsyncIterator[tuple[Loopback, Links]]:
    """Run an edge, and connections of each tenant to it."""
    tenants = Tenants(opens_s=1e9, opens_burst=1e9)
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(
            edge_on_loopback(
                shape_target("llama"),
                pool_rows=pool_rows,
                terms=Terms(most=64, keep_s=60),
                gatekeeper=Named(),
                tenants=tenants,
            )
        )
        links: Links = {}
        for name in TENANTS:
            key = folder / name
            key.write_text(name)
            made = [EdgeConnection(edge.address, Access(key_file=key)) for _ in range(connections)]
            links[name] = [await stack.enter_async_context(connection) for connection in made]
        yield edge, links


Links = dict[str, list[EdgeConnection]]


def prompt_of(tenant: str, number: int) -> tuple[int, ...]:
    """Return one of a tenant's prompts: what both begin with, the secret, and a few ids of its own."""
    chance = Random(f"{tenant} {number}")
    return (*STEM, *SECRET[tenant], *(chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 20))))


@cache
def alone(tenant: str, number: int) -> tuple[int, ...]:
    """Return what the target writes after a prompt when nobody else is there."""
    return tuple(greedy(shape_target("llama").model, list(prompt_of(tenant, number)), TOKENS))


async def text_of(edge: Loopback, link: EdgeConnection, tenant: str, number: int, chance: Random) -> tuple[int, ...]:
    """Let a device get its text, however often it is sent away; some leave in its midst and come back."""
    prompt, due = prompt_of(tenant, number), alone(tenant, number)
    session = session_for(edge, prompt, draft_length=chance.randint(0, 6), max_tokens=TOKENS)
    watcher = Leaver(after=chance.choice((0, 0, 1, 4)))
    drafter = ListedDrafter([*prompt, *due], VOCABULARY, error_every=chance.choice((2, 5)), salt=number)
    with Generation(session, drafter, watcher) as generation:
        while not session.ended:
            try:
                await generation.over(link.generate(VOCABULARY))
            except (Overloaded, LimitReached):
                await asyncio.sleep(0.01)
            except EdgeUnreachable:
                assert watcher.left, "a stream ended that nobody left"
                await asyncio.sleep(0.02 * chance.random())  # others want the rows meanwhile
    return tuple(session.ids[len(prompt) :])


def counted(edge: Loopback, name: str) -> float:
    """Return a counter of the edge's."""
    metrics = edge.service.sessions.metrics
    value = metrics.registry.get_sample_value(f"airdraft:{name}_total", {"model_name": metrics.model_name})
    assert value is not None
    return value


def holds(text: Sequence[int], part: Sequence[int]) -> bool:
    return any(tuple(text[at : at + len(part)]) == tuple(part) for at in range(len(text)))


async def crowded(folder: Path, sessions: int, wishes: int) -> None:
    chance = Random(sessions)
    waiting = iter([(chance.choice(TENANTS), chance.randrange(wishes)) for _ in range(sessions)])
    wrong: list[str] = []
    done = 0

    async with two_tenants(folder, EXTENTS * 192, connections=2) as (edge, links):

        async def devices(place: int) -> None:
            nonlocal done
            for tenant, number in waiting:
                text = await text_of(edge, links[tenant][place % 2], tenant, number, chance)
                done += 1
                if text != alone(tenant, number):
                    wrong.append(tenant)
                others = (name for name in TENANTS if name != tenant)
                wrong.extend(f"the secret of {name}" for name in others if holds(text, SECRET[name]))

        async with asyncio.timeout(400), asyncio.TaskGroup() as group:
            for place in range(AT_ONCE):
                group.create_task(devices(place))
        assert (wrong, done) == ([], sessions)
        assert counted(edge, "isolation_faults") == 0
        assert counted(edge, "pass_failures") == 0
        assert counted(edge, "evictions") > sessions / 20
        assert counted(edge, "prefix_cache_hits") > 0
        assert counted(edge, "replayed_positions") > 0


@pytest.mark.parametrize(("sessions", "wishes"), [(40, 6), pytest.param(1000, 24, marks=pytest.mark.slow)])
async def test_interleaved_sessions_of_two_tenants_read_nothing_of_one_another(
    sessions: int, wishes: int, tmp_path: Path
) -> None:
    """``wishes`` are the different prompts of a tenant: the same ones come again, and find their rows."""
    await crowded(tmp_path, sessions, wishes)


async def test_no_tenant_finds_rows_of_another_and_each_finds_its_own(tmp_path: Path) -> None:
    prompt = prompt_of("red", 0)
    async with two_tenants(tmp_path, 1 << 12) as (edge, links):

        async def found(tenant: str) -> float:
            before = counted(edge, "prefix_cache_hits")
            answer = await ask(edge, links[tenant][0], prompt, NgramDrafter(), draft_length=0, max_tokens=4)
            assert tuple(answer.ids) == alone("red", 0)[:4]
            return counted(edge, "prefix_cache_hits") - before

        assert await found("red") == 0
        assert await found("blue") == 0
        assert await found("red") == len(prompt) - 1
        assert await found("blue") == len(prompt) - 1
        assert counted(edge, "isolation_faults") == 0


async def test_a_session_is_its_tenants_whoever_knows_its_id(tmp_path: Path) -> None:
    """Another tenant that presents a session's id opens one of its own, and gets nothing of the first."""
    async with two_tenants(tmp_path, 1 << 12) as (edge, links):
        first = session_for(edge, prompt_of("red", 1), draft_length=0, max_tokens=TOKENS)
        stream = links["red"][0].generate(VOCABULARY)
        with Generation(first, NgramDrafter(), Recorder()) as generation:
            running = asyncio.create_task(generation.over(stream))
            while len(first.ids) == first.prompt_length:
                await asyncio.sleep(0.001)
            stolen = session_for(edge, prompt_of("blue", 1), draft_length=0, max_tokens=TOKENS)
            stolen.session_id = first.session_id
            with Generation(stolen, NgramDrafter(), Recorder()) as theft:
                await theft.over(links["blue"][0].generate(VOCABULARY))
            await running
        assert tuple(stolen.ids[stolen.prompt_length :]) == alone("blue", 1)
        assert tuple(first.ids[first.prompt_length :]) == alone("red", 1)
