"""``python -m bench hostile``: what other tenants notice of one that attacks the edge.

The edge is the process that is served, with its defaults, TLS, certificates and a key for each tenant, pinned to one
core; its model is a stub whose passes take what those of a 14B model do, and whose text can be checked. Three tenants
write texts without a pause (``bench.hostile_victims``). The attacker (``bench.hostile_attacks``) shares the other core
with their devices, nicer than they are, behind a link of 20 Mbit/s; in its place, over the same link, writes one more
honest tenant: that is the baseline. Each attack and its baseline take turns, with the same prompts. A third process,
nicer still, keeps that core busy in both, so that the devices never find it asleep in one and at work in the other.

    gap         between two commits of a text; one that had not ended when an arm ended counts as it was
    throughput  victims' committed tokens a second
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.door import door
from bench.engine_paced import SHARED
from bench.figures import REPOSITORY, Result
from bench.hostile_attacks import ATTACKS
from bench.hostile_figures import Arm, Pair, add_figures, table
from bench.processes import ONE_THREAD, EdgeFailed
from bench.stub_server import StubServer, stub_server

VICTIMS = 3
STALLING = 10
"""Tenants over which the stalled streams are spread whose end is timed: one may not have as many open."""

SETTLE_S = 0.5
"""Between two arms."""

REAP_LIMIT_S, REAP_LOOK_S = 22.0, 0.2

_BURN = "import os; os.nice(19); os.sched_setaffinity(0, {int(%r)})\nwhile True: pass"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    seconds: float  # of an arm
    repeats: int  # of each attack with its baseline
    attacks: Sequence[str] = tuple(ATTACKS)


QUICK = Size(2.5, 1, ("wide", "resumes", "all"))
BARS = Size(8.0, 3)


@dataclass(slots=True)
class Told:
    """A process that does what it is told by lines of JSON."""

    process: asyncio.subprocess.Process

    async def do(self, **words: Any) -> dict[str, Any]:
        """Tell it; return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        line = await self.process.stdout.readline()
        if not line:
            raise EdgeFailed("a process of the bench has ended; its message stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def told(module: str, *words: str) -> AsyncIterator[Told]:
    """Run such a process until the block ends. Raises EdgeFailed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | ONE_THREAD,
        cwd=REPOSITORY,
        limit=1 << 26,
    )
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != b"ready\n":
            raise EdgeFailed("a process of the bench did not start; its message stands above")
        yield Told(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def burner(core: int = 1) -> AsyncIterator[None]:
    """Keep a core busy with what gives way to all else."""
    cores = sorted(os.sched_getaffinity(0))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _BURN % cores[core % len(cores)])
    try:
        yield
    finally:
        process.kill()
        await process.wait()


@dataclass(slots=True)
class Field:
    """Who is there."""

    edge: StubServer
    victims: Told
    attacker: Told
    arms: int = field(default=0)

    async def arm(self, attack: str, seed: int, seconds: float) -> Arm:
        """Let the victims write while somebody attacks, or is ``honest``."""
        self.arms += 1
        front_s = self.edge.front_s
        written, did = await asyncio.gather(
            self.victims.do(seed=seed, mark=self.arms, seconds=seconds),
            self.attacker.do(attack=attack, seed=seed, seconds=seconds),
        )
        front_s = self.edge.front_s - front_s
        await asyncio.sleep(SETTLE_S)
        return Arm.of(written, did, front_s=front_s, seconds=seconds)

    async def reap(self) -> dict[str, float]:
        """Return how long the edge was at work on any of the stalled streams, and on how many at most.

        Counted at the edge, since a device that reads nothing is not told of its stream's end. From the first one's
        opening.
        """
        loop = asyncio.get_running_loop()
        stalling = asyncio.create_task(self.attacker.do(attack="reap", seed=1, seconds=REAP_LIMIT_S))
        began_s = last_s = loop.time()
        most = 0
        while not stalling.done():
            held = await self.edge.held()
            if held.calls or held.attached:
                last_s = loop.time()
            elif not most:
                began_s = loop.time()
            most = max(most, held.calls)
            await asyncio.sleep(REAP_LOOK_S)
        return {"longest_s": last_s - began_s, "most": most, **stalling.result()}

    async def pair(self, attack: str, seed: int, seconds: float) -> Pair:
        """Measure an attack beside its baseline; which one comes first takes turns."""
        first = "honest" if seed % 2 else attack
        one = await self.arm(first, seed, seconds)
        other = await self.arm(attack if first == "honest" else "honest", seed, seconds)
        return Pair(attack, *((other, one) if first == "honest" else (one, other)))


@asynccontextmanager
async def battlefield(folder: Path) -> AsyncIterator[Field]:
    """Start everybody. Raises EdgeFailed."""
    entrance = door(folder, VICTIMS + 1 + STALLING)
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(
            stub_server(
                {**entrance.settings, "model": "stub"},
                pass_s=SHARED.fixed_s,
                position_s=SHARED.per_position_s,
                log=folder / "edge.log",
            )
        )
        words = [edge.address, *(ticket.word for ticket in entrance.tickets[:VICTIMS])]
        victims = await stack.enter_async_context(told("bench.hostile_victims", *words))
        words = [edge.address, *(ticket.word for ticket in entrance.tickets[VICTIMS:])]
        attacker = await stack.enter_async_context(told("bench.hostile_attacker", *words))
        await stack.enter_async_context(burner())
        yield Field(edge, victims, attacker)


async def measure(size: Size) -> tuple[list[Pair], Mapping[str, float]]:
    """Measure every pair, then how fast stalled streams are reaped. Raises EdgeFailed."""
    pairs: list[Pair] = []
    with TemporaryDirectory() as name:
        async with battlefield(Path(name)) as there:
            await there.arm("honest", 999, 1.0)  # warms everybody up
            for repeat in range(size.repeats):
                for index, attack in enumerate(size.attacks):
                    pairs.append(await there.pair(attack, 100 * repeat + index + repeat, size.seconds))
                    print(pairs[-1].line, file=sys.stderr, flush=True)
            reaped = await there.reap()
    return pairs, reaped


def run(*, quick: bool) -> Result:
    """Measure; print a table of the attacks; return the figures."""
    pairs, reaped = asyncio.run(measure(QUICK if quick else BARS))
    result = Result("hostile")
    add_figures(result, pairs, reaped)
    print(table(result, sorted({pair.attack for pair in pairs}, key=list(ATTACKS).index)))
    return result
