"""The relay carries every byte when and as its link says, and leaves nothing behind.

No test judges how soon something comes; some judge that it does not come too soon.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from random import Random

import pytest

from airdraft.link.shaping import Constant, Interrupted, Sampled, Shape
from tests.link.peers import Dial, Peer, Target, pair, relay_to, until

# ---- carrying ----


@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(Constant(0.005, 3e6), jitter_s=0.003),
        Shape(Constant(0.001), loss=0.05, retransmission_s=0.004),
        Shape(Sampled(lambda at_s: 0.0 if int(at_s * 100) % 4 == 0 else 5e6, lambda at_s: 0.002)),
        Shape(Constant(0.002, 4e6), queue_bytes=1, window_bytes=1),
    ],
    ids=["bare", "slow", "lossy", "interrupted", "narrow"],
)
@pytest.mark.parametrize("most_bytes", [None, 900])
async def test_every_byte_comes_through_in_order(
    shape: Shape, most_bytes: int | None, target: Target, dial: Dial
) -> None:
    sent_up, sent_down = Random(2).randbytes(200_000), Random(3).randbytes(150_000)
    async with relay_to(target, shape, shape) as relay:
        relay.slice(most_bytes)
        client = await dial(relay)
        server = await target.next()
        _, _, heard_up, heard_down = await asyncio.gather(
            client.says(sent_up), server.says(sent_down), server.hears(200_000), client.hears(150_000)
        )
        assert heard_up == sent_up
        assert heard_down == sent_down
        assert relay.carried_bytes == (200_000, 150_000)


async def test_no_frame_is_early_in_either_direction(target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.03)), Shape(Constant(0.01), jitter_s=0.005)) as relay:
        client, server = await pair(relay, target, dial)
        for _ in range(10):
            sent_s = time.monotonic()
            await client.says(b"frame")
            await server.hears(5)
            passed_s = time.monotonic()
            await server.says(b"answer")
            await client.hears(6)
            assert passed_s - sent_s >= 0.03
            assert time.monotonic() - passed_s >= 0.01


async def test_the_rate_is_not_exceeded(target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.0, 1e6))) as relay:
        client, server = await pair(relay, target, dial)
        began_s = time.monotonic()
        await asyncio.gather(client.says(bytes(150_000)), server.hears(150_000))
        assert time.monotonic() - began_s >= 0.15


async def test_connecting_costs_what_it_would_on_the_link(target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.02)), Shape(Constant(0.03))) as relay:
        began_s = time.monotonic()
        client = await dial(relay)
        await client.says(b"first")
        server = await target.next()
        await server.says(b"greeting")
        await server.hears(5)
        assert time.monotonic() - began_s >= 0.02 + 0.03 + 0.02
        await client.hears(8)
        assert time.monotonic() - began_s >= 2 * (0.02 + 0.03)


async def test_frames_are_not_written_in_one_piece_when_sliced(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        relay.slice(5)
        client = await dial(relay)
        server = await target.next()
        await client.says(bytes(400))
        reads: list[int] = []
        while sum(reads) < 400:
            reads.append(len(await server.reader.read(400)))
        assert len(reads) > 10
        relay.slice(None)
        await client.says(bytes(400))
        await server.hears(400)


async def test_a_slice_has_a_byte(target: Target) -> None:
    async with relay_to(target) as relay:
        with pytest.raises(ValueError, match="at least one byte"):
            relay.slice(0)


# ---- ends of streams ----


@pytest.mark.parametrize("first", ["client", "server"])
async def test_half_a_connection_stays_open_when_the_other_half_ends(first: str, target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.002)), Shape(Constant(0.002))) as relay:
        client, server = await pair(relay, target, dial)
        early, late = (client, server) if first == "client" else (server, client)
        await early.says(b"last words")
        early.writer.write_eof()
        assert await late.hears_all() == b"last words"
        for _ in range(3):
            await late.says(b"more")
            assert await early.hears(4) == b"more"
        late.writer.write_eof()
        assert await early.hears_all() == b""
        await until(lambda: relay.connections == 0)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_reset_is_passed_on_after_the_bytes_before_it(first: str, target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.02)), Shape(Constant(0.02))) as relay:
        client, server = await pair(relay, target, dial)
        early, late = (client, server) if first == "client" else (server, client)
        await early.says(b"last words")
        await until(lambda: relay.carried_bytes == (1, 1))
        early.resets()
        assert await late.hears(10) == b"last words"
        assert await late.is_reset()
        await until(lambda: relay.connections == 0)


async def test_who_cannot_be_carried_to_the_target_is_reset(target: Target, dial: Dial) -> None:
    async with Target().serves() as gone:
        pass
    async with relay_to(gone) as relay:
        assert await (await dial(relay)).is_reset()
        relay.retarget("127.0.0.1", target.port)
        await pair(relay, target, dial)


# ---- bounds and leftovers ----


async def test_who_writes_to_a_target_that_does_not_read_has_to_wait(target: Target, dial: Dial) -> None:
    total = 256 << 20  # far more than all kernel buffers
    async with relay_to(target, Shape(window_bytes=65_536)) as relay:
        client = await dial(relay)
        server = await target.next()
        server.reader._transport.pause_reading()  # type: ignore[attr-defined]
        writing = asyncio.ensure_future(client.says(bytes(total)))
        await until(lambda: relay._lanes()[0]._full)
        lane = relay._lanes()[0]
        assert lane._held_bytes <= 65_536 + 262_144  # what one read brings comes on top
        assert not writing.done()
        relay.cut()
        with pytest.raises(ConnectionError):
            await writing


async def test_nothing_is_left_when_a_relay_ends_amid_everything(dialled: list[Peer], dial: Dial) -> None:
    async def everything() -> None:
        async with Target().serves() as target:
            shape = Shape(Interrupted(Constant(0.01, 1e6), ((0.0, 1e9),)))
            async with relay_to(target, shape) as dark, relay_to(target) as relay:
                await pair(relay, target, dial)
                await (await dial(dark)).says(bytes(10_000))
                relay.black_hole()
                await dial(relay)
                relay.restore()
                relay.outage(1000.0)
                await dial(relay)
                relay.refuse()
        for peer in dialled:
            await peer.closes()

    await everything()
    files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    await everything()
    assert (len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())) == (files, tasks)


async def test_an_error_in_the_block_passes_and_everything_is_closed(target: Target, dial: Dial) -> None:
    clients: list[Peer] = []

    async def failing() -> None:
        async with relay_to(target) as relay:
            clients.extend(await pair(relay, target, dial))
            raise KeyError

    with pytest.raises(KeyError):
        await failing()
    assert await clients[0].is_reset()


@pytest.mark.parametrize("turns", range(5))
async def test_who_is_just_being_accepted_when_a_relay_ends_is_reset_too(turns: int, target: Target) -> None:
    async with relay_to(target) as relay:
        late = socket.create_connection(("127.0.0.1", relay.port))
        for _ in range(turns):
            await asyncio.sleep(0)
    with late, pytest.raises(ConnectionResetError):
        late.recv(1)
    assert relay.connections == 0
    gc.collect()  # a transport that nobody closed warns
