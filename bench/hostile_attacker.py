"""The attacker: ``python -m bench.hostile_attacker ADDRESS TICKET …``, on the devices' core behind a 20 Mbit/s link.

It reads lines of JSON: which attack (``bench.hostile_attacks``), for how many seconds, and the seed; and answers with
what it did. ``reap`` opens 500 stalled streams once. The honest tenant who takes
its place writes from here too, over the same link and with the same niceness.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from random import Random

from airdraft.link.channels import MBIT_S
from airdraft.link.relay import Relay
from airdraft.link.shaping import Constant, Shape
from bench.door import Ticket
from bench.hostile_attacks import STALLED, Ground, attacked, hold
from bench.hostile_http2 import RudeStream
from bench.processes import pin

RATE_MBIT_S = 20.0
ONE_WAY_S = 0.005
NICENESS = 10


def link() -> Shape:
    """Return one direction of the attacker's link."""
    return Shape(Constant(ONE_WAY_S, RATE_MBIT_S * MBIT_S))


async def reaped(grounds: Sequence[Ground], seconds: float) -> dict[str, float]:
    """Hold ``STALLED`` streams for so long, spread over several tenants, since one may not have so many.

    Return how many were opened, and how many of them had not heard of their end.
    """
    held: list[RudeStream] = []
    tasks = [asyncio.create_task(hold(ground, STALLED // len(grounds), again=False, held=held)) for ground in grounds]
    await asyncio.wait(tasks, timeout=seconds)
    open_still = sum(stream.ended_s is None for stream in held)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return {"opened": len(held), "not_told": open_still, **sum((ground.did for ground in grounds), Counter[str]())}


async def serve(address: str, tickets: Sequence[Ticket]) -> None:
    """Attack as each line of the input says; the first ticket is the attacker's own, the others only ``reap`` uses."""
    ticket = tickets[0]
    async with ticket.connection(address) as first:
        served = await first.describe()
    host, _, port = address.rpartition(":")
    async with Relay(host, int(port), random=Random(1), up=link(), down=link()) as relay:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            told = json.loads(line)
            grounds = [Ground(relay.address, own, served, Random(told["seed"])) for own in tickets]
            up_before = relay.carried_bytes[0]
            if told["attack"] == "reap":
                answer = await reaped(grounds[1:], told["seconds"])
            else:
                answer = await attacked(told["attack"], grounds[0], told["seconds"])
                answer["up_mbit_s"] = (relay.carried_bytes[0] - up_before) / told["seconds"] / MBIT_S
            relay.cut()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    pin(1)
    os.nice(NICENESS)
    asyncio.run(serve(sys.argv[1], [Ticket.of(word) for word in sys.argv[2:]]))
