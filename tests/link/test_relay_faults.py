"""The relay fails on command, and only as commanded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import grpc
import pytest

from airdraft.link.relay import Refusal
from airdraft.link.shaping import NEVER, Constant, Shape
from tests.link.peers import Dial, Target, pair, relay_to, until


async def test_a_cut_resets_every_connection_at_both_ends(target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(5.0))) as relay:
        peers = [(await dial(relay), await target.next()) for _ in range(3)]
        await peers[0][0].says(b"never heard")
        relay.cut()
        for peer in [end for ends in peers for end in ends]:
            assert await peer.is_reset()
        await until(lambda: relay.connections == 0)
        assert relay.carried_bytes == (0, 0)


async def test_after_a_cut_one_may_connect_again(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        client, _ = await pair(relay, target, dial)
        relay.cut()
        assert await client.is_reset()
        await pair(relay, target, dial)


async def test_a_black_hole_takes_all_bytes_and_tells_nobody(target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.05))) as relay:
        client, server = await pair(relay, target, dial)
        await client.says(b"under way")
        await until(lambda: bool(relay._lanes()[0]._pieces))
        relay.black_hole()
        await client.says(b"lost")
        await server.says(b"lost too")
        client.writer.write_eof()
        late = await dial(relay)
        await late.says(b"nobody there")
        hearing = [asyncio.ensure_future(peer.reader.read()) for peer in (client, server, late)]
        relay.restore()
        await server.says(b"still lost")
        await pair(relay, target, dial)  # a new connection works; had the others delivered, it would be by now
        assert not any(task.done() for task in hearing)
        assert relay.carried_bytes == (2, 2)
        relay.cut()
        ends = await asyncio.gather(*hearing, return_exceptions=True)
        assert all(isinstance(end, ConnectionResetError) for end in ends)


async def test_a_black_hole_may_lie_in_one_direction(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        client, server = await pair(relay, target, dial)
        relay.black_hole(down=False)
        await client.says(b"lost")
        await server.says(b"heard")
        assert await client.hears(5) == b"heard"
        assert relay.carried_bytes == (1, 6)
        relay.restore()
        await server.says(b"dead now")
        await pair(relay, target, dial)
        assert relay.carried_bytes == (2, 7)


async def test_a_dead_connection_is_forgotten_when_both_ends_have_left(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        client, server = await pair(relay, target, dial)
        relay.black_hole()
        late = await dial(relay)
        relay.restore()
        await client.closes()
        await late.closes()
        await until(lambda: relay.connections == 1)  # the late one never had a second end
        await server.closes()
        await until(lambda: relay.connections == 0)


async def test_restoring_what_was_never_broken_harms_nothing(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        client, server = await pair(relay, target, dial)
        relay.restore()
        relay.resume()
        await client.says(b"on")
        assert await server.hears(2) == b"on"


async def test_what_is_sent_while_stopped_arrives_after(target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.01, 1e6)), Shape(Constant(0.01))) as relay, relay_to(target) as other:
        client, server = await pair(relay, target, dial)
        await client.says(b"a" * 3000)
        await until(lambda: bool(relay._lanes()[0]._pieces))
        relay.stop()
        carried = relay.carried_bytes
        await client.says(b"b" * 3000)
        await server.says(b"c" * 3000)
        client.writer.write_eof()
        late = await dial(relay)
        await late.says(b"d")
        await pair(other, target, dial)  # time passes
        assert relay.carried_bytes == carried
        assert target.peers.empty()
        relay.resume()
        assert await server.hears_all() == b"a" * 3000 + b"b" * 3000
        assert await client.hears(3000) == b"c" * 3000
        assert await (await target.next()).hears(1) == b"d"


async def test_what_waited_during_a_stop_leaves_at_the_link_s_rate(target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.0, 1e6))) as relay:
        client, server = await pair(relay, target, dial)
        relay.stop()
        await client.says(bytes(100_000))
        await until(lambda: relay._lanes()[0]._held_bytes == 100_000)
        resumed_s = time.monotonic()
        relay.resume()
        await server.hears(100_000)
        assert time.monotonic() - resumed_s >= 0.1


async def test_a_stop_costs_what_waits_no_more_than_its_own_time(target: Target, dial: Dial) -> None:
    async with relay_to(target, Shape(Constant(0.0, 1e4))) as relay:
        client, _ = await pair(relay, target, dial)
        lane = relay._lanes()[0]
        await client.says(bytes(100_000))
        await until(lambda: lane._held_bytes > 90_000)
        relay.stop()
        relay.resume()
        assert lane._pieces[-1].passage.leaves_s <= relay.now_s + 10.0


async def test_who_connects_and_writes_while_stopped_sends_it_only_then(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        relay.stop()
        late = await dial(relay)
        await late.says(b"waits")
        await until(lambda: bool(relay._lanes() and relay._lanes()[0]._pieces))
        assert relay._lanes()[0]._pieces[0].passage == NEVER


async def test_who_gives_up_while_stopped_never_reaches_the_target(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        relay.stop()
        waiting = await dial(relay)
        await until(lambda: relay.connections == 1)
        waiting.resets()
        await until(lambda: relay.connections == 0)
        relay.resume()
        await pair(relay, target, dial)
        assert len(target.all) == 1


async def test_a_stop_outlasts_the_outage_before_it(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay, relay_to(target) as other:
        client, server = await pair(relay, target, dial)
        relay.outage(0.0)
        relay.stop()
        await client.says(b"late")
        await pair(other, target, dial)  # time passes
        assert relay.carried_bytes == (1, 1)
        relay.resume()
        assert await server.hears(4) == b"late"


async def test_an_outage_ends_by_itself_and_the_last_word_on_it_counts(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        client, server = await pair(relay, target, dial)
        relay.outage(1000.0)
        began_s = time.monotonic()
        relay.outage(0.05)
        await client.says(b"late")
        assert await server.hears(4) == b"late"
        assert time.monotonic() - began_s >= 0.049


async def test_a_cut_reaches_those_who_wait_during_a_stop(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        relay.stop()
        waiting = await dial(relay)
        await until(lambda: relay.connections == 1)
        relay.cut()
        assert await waiting.is_reset()
        await until(lambda: relay.connections == 0)
        relay.resume()
        await pair(relay, target, dial)
        assert len(target.all) == 1


async def test_a_relay_that_is_closed_refuses_and_takes_up_its_port_again(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        client, server = await pair(relay, target, dial)
        relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            await dial(relay)
        await client.says(b"still here")
        assert await server.hears(10) == b"still here"
        relay.admit()
        relay.admit()
        await pair(relay, target, dial)


async def test_a_relay_may_accept_and_reset(target: Target, dial: Dial) -> None:
    async with relay_to(target) as relay:
        relay.refuse(Refusal.RESET)
        assert await (await dial(relay)).is_reset()
        relay.admit()
        await pair(relay, target, dial)
        assert len(target.all) == 1


async def test_after_a_walk_new_connections_reach_the_other_edge(target: Target, dial: Dial) -> None:
    async with Target().serves() as other, relay_to(target) as relay:
        client, server = await pair(relay, target, dial)
        relay.retarget("127.0.0.1", other.port)
        await pair(relay, other, dial)
        await client.says(b"old")
        assert await server.hears(3) == b"old"


# ---- gRPC ----


@asynccontextmanager
async def grpc_echo() -> AsyncIterator[Target]:
    async def echo(frames: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for frame in frames:
            yield frame

    server = grpc.aio.server()
    method: Any = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", {"Echo": method}),))
    target = Target()
    target.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield target
    finally:
        await server.stop(None)


async def test_grpc_streams_pass_slices_and_end_at_a_cut() -> None:
    shape = Shape(Constant(0.002, 2e6), jitter_s=0.002, loss=0.02, retransmission_s=0.01)
    async with grpc_echo() as target, relay_to(target, shape, shape) as relay:
        relay.slice(7)
        async with grpc.aio.insecure_channel(relay.address) as channel:
            call: Any = channel.stream_stream("/Test/Echo")()
            for size in (1, 100, 5000):
                frame = Random(size).randbytes(size)
                await call.write(frame)
                assert await call.read() == frame
            relay.cut()
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call.read()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            again: Any = channel.stream_stream("/Test/Echo")(wait_for_ready=True)
            await again.write(b"back")
            assert await again.read() == b"back"
            again.cancel()
