"""``python -m bench overhead``: what a round costs outside the two models, on loopback.

A round goes from one commit read by the device to the next. Its overhead is what is left after the drafter's and the
target's own seconds, each measured on the thread that runs the model: event loops, thread hops, both cores, protobuf,
gRPC, loopback. The edge node is a process of its own on one core, the device another; no channel is emulated. Beside it
stands what bare gRPC costs in the same setting (``bench.echo``), in turn with it, since shared machines change speed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from airdraft.core.types import Sampling, Timing
from airdraft.wire.client import EdgeConnection
from bench.echo import floor_s
from bench.figures import Result
from bench.processes import edge_node, pin
from bench.prompts import held_out
from device_client.attach import meet
from device_client.config import DeviceSettings
from device_client.display import PipeDisplay
from device_client.drafters import load_drafter
from device_client.generate import open_session
from device_client.generation import Generation, Moment

DRAFT_LENGTH = 4
BLOCK = 12
"""Prompts between two measurements of the floor."""


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one synchronous round."""

    total_s: float
    to_draft_s: float  # from the commit to the drafter's first instruction
    draft_s: float
    to_wire_s: float  # from the drafter's last instruction to the frame's hand-over to gRPC
    queue_s: float  # on the edge, from the frame's arrival to the pass
    pass_s: float

    @property
    def overhead_s(self) -> float:
        return self.total_s - self.draft_s - self.pass_s

    @property
    def wire_s(self) -> float:
        """Return what is left: gRPC and loopback both ways, conversion, the edge's way from pass to stream."""
        return self.overhead_s - self.to_draft_s - self.to_wire_s - self.queue_s


def rounds_of(moments: Sequence[Moment]) -> list[Round]:
    """Return the complete rounds among a pump's moments: commit, draft, drafted, sent, commit."""
    rounds: list[Round] = []
    for start, begun, done, sent, end in zip(
        *(itertools.islice(moments, skip, None) for skip in range(5)), strict=False
    ):
        kinds = (start.kind, begun.kind, done.kind, sent.kind, end.kind)
        if kinds != ("commit", "draft", "drafted", "sent", "commit"):
            continue
        timing = end.timing or Timing()
        rounds.append(
            Round(
                end.at_s - start.at_s,
                begun.at_s - start.at_s,
                done.at_s - begun.at_s,
                sent.at_s - done.at_s,
                timing.queue_s,
                timing.pass_s,
            )
        )
    return rounds


async def _measure(address: str, prompts: Sequence[str], cache: Path) -> tuple[list[Round], int]:
    settings = DeviceSettings(edge=(address,), draft_model="demo", draft_length=DRAFT_LENGTH)
    rounds: list[Round] = []
    accepted = 0
    async with EdgeConnection(address) as connection:
        description, tokenizer = await meet(connection, cache, 10.0)
        drafter = load_drafter(settings.draft_model, None, description, Sampling())
        for number, prompt in enumerate(prompts):
            session = open_session(tokenizer.encode(prompt).ids, description, settings, Sampling())
            stream = connection.generate(description.vocabulary)
            display = PipeDisplay()
            with display.showing(tokenizer), Generation(session, drafter, display) as generation:
                await generation.over(stream)
            accepted += session.tally.accepted
            if number:  # the first one warms caches up
                rounds += rounds_of(generation.costs.moments)
    return rounds, accepted


def run(*, quick: bool) -> Result:
    """Measure; print a breakdown; return the figures."""
    import torch

    torch.set_num_threads(1)
    pin(1)
    prompts = held_out(12 if quick else 240)
    rounds: list[Round] = []
    floors: list[float] = []
    accepted = 0
    with TemporaryDirectory() as cache, edge_node(["--model", "demo"], core=0) as address:
        for block in range(0, len(prompts), BLOCK):  # interleaved: the machine's speed changes within a minute
            floors += floor_s(60)[10:]
            more, right = asyncio.run(_measure(address, prompts[block : block + BLOCK], Path(cache)))
            rounds, accepted = rounds + more, accepted + right
    assert accepted, "no draft was accepted: these would not be the rounds of a working pair"
    result = Result("overhead")
    parts = {
        "round_overhead_ms_median": [entry.overhead_s for entry in rounds],
        "device_to_draft_ms_median": [entry.to_draft_s for entry in rounds],
        "device_to_wire_ms_median": [entry.to_wire_s for entry in rounds],
        "edge_queue_ms_median": [entry.queue_s for entry in rounds],
        "wire_and_rest_ms_median": [entry.wire_s for entry in rounds],
        "draft_ms_median": [entry.draft_s for entry in rounds],
        "pass_ms_median": [entry.pass_s for entry in rounds],
        "round_ms_median": [entry.total_s for entry in rounds],
        "grpc_floor_ms_median": floors,
    }
    for name, seconds in parts.items():
        result.add_median(name, [value * 1000 for value in seconds])
    overheads = [entry.overhead_s * 1000 for entry in rounds]
    result.figures["round_overhead_ms_p95"] = round(float(np.percentile(overheads, 95)), 6)
    result.samples["round_overhead_ms_p95"] = len(overheads)
    for name, value in result.figures.items():
        print(f"{name:<28} {value:8.3f}")
    return result
