"""A link that swallows everything while both sockets look healthy: the device is pipelined, the edge runs ahead.

Both ends stop at their bounds, the user is told, and when the link is back the text goes on as if nothing had been.
"""

from __future__ import annotations

import asyncio
import io
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.session import Committed, DeviceSession, EdgeSession, Reattachment
from airdraft.core.types import Limits, Sampling
from airdraft.link.relay import Relay
from bench.schedules import SCHEDULES
from device_client.display import PipeDisplay
from device_client.generation import Generation
from device_client.roaming import Roaming
from edge_node.engine.drafter import BatchDrafter
from edge_node.engine.engine import TargetEngine
from edge_node.sessions import Terms
from tests.shapes import CONTEXT, VOCABULARY, greedy
from tests.system.loopback import ListedDrafter, Loopback, edge_on_loopback
from tests.system.test_equality import shape_target

PROMPT = (5, 6, 7)
LENGTH = 120
CREDITS = 16
AHEAD = 32
"""More than the credits and one: how far the edge gets is its own doing."""

TARGET = shape_target("llama")
LIMITS = Limits(TARGET.context_tokens, live_nodes=CREDITS, ahead_tokens=AHEAD)


@dataclass(slots=True)
class Counting(ListedDrafter):
    """A drafter that counts what it has drafted."""

    drafted: int = 0

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Go on with the text."""
        tokens = ListedDrafter.propose(self, path, count, cancelled)
        self.drafted += len(tokens)
        return tokens


@dataclass(slots=True)
class Text:
    """One generation under way, and its user, who reads the text and the notices on standard error."""

    session: DeviceSession
    drafter: Counting
    roaming: Roaming = field(init=False)
    generation: Generation = field(init=False)
    notices: io.StringIO = field(default_factory=io.StringIO)
    ids: list[int] = field(default_factory=list)
    drafted_before: int = 0  # what the drafter had drafted when the last commit came
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def committed(self, event: Committed) -> None:
        self.roaming.held()
        self.ids.extend(event.ids)
        self.drafted_before = self.drafter.drafted
        self.came.set()

    def drafted(self, ahead: Sequence[int]) -> None:
        assert len(ahead) <= CREDITS

    async def has(self, count: int) -> None:
        while len(self.ids) < count:
            self.came.clear()
            await self.came.wait()

    async def run(self, address: str) -> None:
        display = PipeDisplay(err=self.notices)
        self.roaming = Roaming(Reattachment([address], 60.0, random.Random(1).random), display, connect_s=5.0)
        with Generation(self.session, self.drafter, self) as self.generation:
            connection, _ = await self.roaming.first(lambda connection: connection.describe())
            await self.roaming.run(self.generation, VOCABULARY, connection)


@dataclass(slots=True)
class Scene:
    """An edge that runs ahead, a relay to it, and a text under way over both."""

    edge: Loopback
    relay: Relay
    text: Text
    running: asyncio.Task[None]

    @property
    def held(self) -> EdgeSession:
        """Return the edge's end of the session."""
        (entry,) = self.edge.service.sessions
        return entry.session

    def sizes(self) -> dict[str, int]:
        """Return how much either end keeps of the session and of what is on its way."""
        device, edge = self.text.session, self.held
        return {
            "drafted": len(device.ahead),
            "flying": device._ahead.frames_flying,
            "hashes": len(device._hashes._hashes),
            "outgoing": self.text.generation._outgoing.qsize(),
            "moments": len(self.text.generation.costs.moments),
            "nodes": edge.live_nodes,
            "committed": edge.committed_length,
            "edge hashes": len(edge._text.path._hashes),
            "sessions": len(self.edge.service.sessions),
        }


def expected() -> list[int]:
    return greedy(TARGET.model, list(PROMPT), LENGTH)


@asynccontextmanager
async def under_way(name: str) -> AsyncIterator[Scene]:
    """Begin a text by a schedule of the bench; the edge's drafter, where it has one, is always right."""
    schedule = SCHEDULES[name]
    own_tokens = schedule.own_length(4)
    terms = Terms(4, 60.0, own_draft_tokens=own_tokens, own_draft_adapts=False, run_ahead=schedule.run_ahead)
    drafter = BatchDrafter(TargetEngine(TARGET, 4 * CONTEXT), VOCABULARY) if own_tokens else None
    async with edge_on_loopback(TARGET, limits=LIMITS, terms=terms, drafter=drafter) as edge:
        host, _, port = edge.address.rpartition(":")
        async with Relay(host, int(port), random=random.Random(2)) as relay, asyncio.timeout(60):
            session = DeviceSession(
                secrets.token_bytes(16),
                edge.description.identity,
                PROMPT,
                sampling=Sampling(),
                stop_ids=edge.description.stop_ids,
                max_tokens=LENGTH,
                limits=LIMITS,
                plan=schedule.plan(4),
            )
            text = Text(session, Counting([*PROMPT, *expected()], VOCABULARY, error_every=7))
            yield Scene(edge, relay, text, asyncio.ensure_future(text.run(relay.address)))


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("schedule", "lost"), [("run-ahead", "both"), ("run-ahead", "up"), ("run-ahead", "down"), ("hybrid", "both")]
)
async def test_both_ends_stop_at_their_bounds_and_the_text_goes_on(schedule: str, lost: str) -> None:
    async with under_way(schedule) as scene:
        text, relay = scene.text, scene.relay
        await text.has(20)
        relay.black_hole(up=lost != "down", down=lost != "up")
        if lost != "down":
            await until(lambda: scene.held.committed_length - scene.held._drafts.acked >= AHEAD)
            assert scene.held.attached, "it has stopped for want of acks, before it took the device for gone"
            assert scene.held.committed_length - scene.held._drafts.acked == AHEAD
            assert scene.held.wish() is None
            assert scene.held.wakes_s is None
        await until(lambda: "reconnecting" in text.notices.getvalue())
        await until(lambda: not scene.held.attached)
        before = scene.sizes()
        at_rest = len(text.ids)
        # One more may have been at work when the last commit came, in vain.
        assert text.drafter.drafted - text.drafted_before <= CREDITS + 1
        await until(lambda: relay.connections > 3)  # what is tried anew hangs as well
        assert scene.sizes() == before
        assert len(text.ids) == at_rest
        relay.restore()
        await scene.running
        assert text.ids == expected()
        told, back = text.notices.getvalue().splitlines()
        assert "the text so far is kept" in told
        assert "silent" in told or lost == "up"  # there the edge notices first, and ends the stream in gRPC's words
        assert "going on with edge" in back
