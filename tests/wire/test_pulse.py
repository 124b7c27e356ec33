"""A stream's signs of life on a loop: what is pinged, and when it is looked at again."""

from __future__ import annotations

import asyncio

from airdraft.core.session import Liveness
from airdraft.core.session.liveness import SILENCE_S
from airdraft.core.types import Ping
from airdraft.wire.pulse import Pulse


async def test_the_first_ack_brings_the_next_look_forward() -> None:
    """Before any round trip is known a peer has seconds; once one is, a silence is asked into at once."""
    loop = asyncio.get_running_loop()
    pings: list[int] = []
    gone = asyncio.Event()
    pulse = Pulse(Liveness(loop.time()), pings.append, gone.set, loop.time)
    with pulse:
        assert pings == [1]
        assert pulse.looks_at > loop.time() + SILENCE_S
        pulse.heard(Ping(1, 1, ack=True))
        assert pulse.liveness.round_trip_s is not None
        assert pulse.looks_at <= loop.time() + SILENCE_S / 3
        async with asyncio.timeout(10):
            await gone.wait()
    assert pings == [1, 2, 3]  # asked twice before it is judged


async def test_nothing_happens_after_the_end() -> None:
    loop = asyncio.get_running_loop()
    pings: list[int] = []
    late = Liveness(loop.time(), round_trip_s=0.001)
    with Pulse(late, pings.append, lambda: pings.append(-1), loop.time) as pulse:
        pulse.heard(Ping(1, 7))  # the peer's own ping: heard, and no sample
    ended = loop.create_future()
    loop.call_later(0.5, ended.set_result, None)
    await ended
    assert pings == [1]
