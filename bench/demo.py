"""``python -m bench demo``: one answer by several schedules at once, on an emulated radio link, at a stated pace.

The text is real: the demo pair writes it, over gRPC, through a relay that is the link. What the two models cost is
stated, since the demo pair's own speed tells nothing: it is *paced* as a target of 8 billion parameters on a GPU and a
drafter of 1 billion on a Jetson, and says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer

from airdraft.core.drafting import Drafter
from airdraft.core.session import Reattachment
from airdraft.core.types import Plan, Sampling
from airdraft.link.pacing import PacedDrafter, Pacer
from airdraft.link.relay import Relay
from airdraft.link.shaping import Constant, Shape
from airdraft.wire.client import EdgeConnection
from airdraft.wire.describe import Description
from bench.cells import PASS, Cell, Link, Models
from bench.demo_view import Lane, shown, summary
from bench.processes import EdgeFailed, paced_edges
from bench.prompts import held_out
from bench.radio_cells import cell_of, edge_draft
from bench.schedules import SCHEDULES
from device_client.attach import meet
from device_client.config import DeviceSettings
from device_client.drafters import load_drafter
from device_client.generate import open_session
from device_client.generation import Generation
from device_client.roaming import Roaming

LINK = Link(round_trip_s=0.040)
MODELS = Models()
RUNNERS = ("edge", "sync", "edge-spec", "run-ahead")
QUESTIONS = 3
CONNECT_S = 20.0


@dataclass(slots=True)
class Runner:
    """One schedule on its way: a device of its own, an edge of its own, a link of its own."""

    lane: Lane
    edge: str
    plan: Plan
    drafter: Drafter

    async def run(self, prompts: Sequence[str], description: Description, tokenizer: Tokenizer) -> None:
        """Let every prompt be answered, one after the other."""
        for number, prompt in enumerate(prompts, 1):
            settings = DeviceSettings(edge=(self.edge,))
            session = open_session(tokenizer.encode(prompt).ids, description, settings, Sampling())
            session.plan = self.plan
            roaming = Roaming(Reattachment(settings.edge, 0.0, random.random), self.lane, connect_s=CONNECT_S)
            connection, _ = await roaming.first(_at_once)
            roaming.met(connection.address, description)
            self.lane.begin(f"{number}. {prompt.strip()}", tokenizer)
            pacer = Pacer()
            with Generation(session, PacedDrafter(self.drafter, MODELS.draft_s, pacer), self.lane) as generation:
                await roaming.run(generation, description.vocabulary, connection)
            self.lane.end(session, roaming.traffic, generation.costs)
            self.lane.late_s += pacer.take_late_s()
        self.lane.done = True


async def _at_once(connection: EdgeConnection) -> None:
    """Ask nothing of an edge that is known."""


def run() -> int:
    """Show it; return the exit code."""
    prompts = held_out(5 + QUESTIONS)[5:]
    print(f"airdraft demo: {QUESTIONS} questions, {len(RUNNERS)} schedules, each on its own emulated link.")
    print(
        f"PACED as an 8B target ({1000 * PASS.fixed_s:.0f} ms a pass) and a 1B drafter "
        f"({1000 * MODELS.draft_s:.0f} ms a token) on a {1000 * LINK.round_trip_s:.0f} ms link; the words are the demo "
        "pair's own.\n",
        flush=True,
    )
    try:
        lanes = asyncio.run(_race([cell_of(name, LINK, MODELS) for name in RUNNERS], prompts))
    except EdgeFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(summary(lanes, SCHEDULES))
    commands = os.path.relpath(Path(sys.executable).parent)
    print("\nRedraw these numbers with their spread: python -m bench radio --bars (docs/benchmarks.md)")
    print(f"Try your own words: {commands}/edge_node serve --model demo, and in another shell")
    print(f"{commands}/device_client generate --draft-model demo 'Tom has 3 pens. He buys 4 more. How many now?'")
    return 0


async def _race(cells: Sequence[Cell], prompts: Sequence[str]) -> list[Lane]:
    import torch

    shape = Shape(Constant(one_way_s=LINK.round_trip_s / 2))
    async with AsyncExitStack() as stack:
        cache = Path(stack.enter_context(TemporaryDirectory()))
        edges = stack.enter_context(paced_edges([edge_draft(cell) for cell in cells]))
        async with EdgeConnection(edges[0]) as connection:
            description, tokenizer = await meet(connection, cache, CONNECT_S)
        torch.set_num_threads(1)  # the other core is the edges'
        runners: list[Runner] = []
        for cell, edge in zip(cells, edges, strict=True):
            host, _, port = edge.rpartition(":")
            relay = await stack.enter_async_context(
                Relay(host, int(port), random=random.Random(1), up=shape, down=shape)
            )
            plan = SCHEDULES[cell.schedule].plan(cell.draft_length)
            small = load_drafter("demo", None, description, Sampling())  # each device has its own
            runners.append(Runner(Lane(cell.schedule), relay.address, plan, small))
        lanes = [runner.lane for runner in runners]
        async with shown(lanes), asyncio.TaskGroup() as group:
            for runner in runners:
                group.create_task(runner.run(prompts, description, tokenizer))
        return lanes
