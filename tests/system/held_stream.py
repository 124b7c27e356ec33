"""A device process that opens a session at an edge, says so, and holds it until it is killed."""

from __future__ import annotations

import asyncio
import secrets
import sys

from airdraft.core.session import DeviceSession
from airdraft.core.types import Open, Opened, Plan, Prefix, Sampling
from airdraft.wire.client import EdgeConnection


async def main(address: str, max_tokens: int) -> None:
    async with EdgeConnection(address) as connection:
        described = await connection.describe()
        session = DeviceSession(
            secrets.token_bytes(16),
            described.identity,
            (5, 6, 7),
            sampling=Sampling(),
            stop_ids=(),
            max_tokens=max_tokens,
            limits=described.limits,
            plan=Plan(1),
        )
        stream = connection.generate(described.vocabulary)
        for output in session.attach(1, with_prefix=True):
            assert isinstance(output, (Open, Prefix))
            await stream.send(output)
        async for frame in stream:
            if isinstance(frame, Opened):
                print("holding", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
