"""The hostile bench: attacks are what they claim to be, victims are alike in both arms, ratios are right."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from typing import Any

import grpc
import pytest

from airdraft.core.errors import CreditsExceeded, SpecError
from airdraft.core.paths import HashedPath, root_hash
from airdraft.core.session import EdgeSession
from airdraft.core.types import Draft, Ping, Prefix
from airdraft.wire.convert import device_frame_from_proto, device_frame_to_proto
from airdraft.wire.server import SERVER_OPTIONS, add_verification
from bench.door import Ticket
from bench.hostile_attacks import Ground, lying, packed, wrong_drafts, wrong_frames
from bench.hostile_figures import Arm, Pair, gap_ratio, throughput_ratio
from bench.hostile_http2 import GENERATE, RudeConnection, headers
from bench.hostile_victims import Wish, wishes
from bench.stub_edge import DESCRIPTION, VOCABULARY, StubEngine
from bench.stub_server import HANDLER
from edge_node.engine.runner import StepRunner
from edge_node.engine_thread import EngineThread
from edge_node.kv_pool import KvPool
from edge_node.metrics import EdgeMetrics
from edge_node.service import EdgeService
from edge_node.sessions import SessionTable, Terms


def ground(seed: int = 1) -> Ground:
    return Ground("127.0.0.1:1", Ticket("", "", "", ""), DESCRIPTION, Random(seed))


# ---- attacks ----


def attached(where: Ground, prompt: tuple[int, ...]) -> EdgeSession:
    opened = where.opened(prompt, 512)
    session = EdgeSession(opened, DESCRIPTION.limits)
    session.attach(opened)
    session.received(Prefix(1, 0, prompt))
    return session


def test_wide_drafts_use_all_credits_and_break_no_rule() -> None:
    where = ground()
    prompt = where.prompt(16)
    session, path = attached(where, prompt), HashedPath(root_hash(DESCRIPTION.identity))
    path.extend(prompt)
    frames = wrong_frames(where, path, 0)
    for frame in frames:
        checked = device_frame_from_proto(device_frame_to_proto(frame), VOCABULARY, DESCRIPTION.limits)
        session.received(checked)
    assert session.live_nodes == DESCRIPTION.limits.live_nodes
    first = next(token for token in range(VOCABULARY) if token not in {frame.ids[0] for frame in frames})
    with pytest.raises(CreditsExceeded):
        session.received(Draft(1, len(frames) + 1, path.length, path.length, path.end, (first,)))


def refused(where: Ground, said: list[Any]) -> bool:
    """Say whether an edge's checks or a session end such a stream."""
    try:
        opened, *rest = (
            device_frame_from_proto(device_frame_to_proto(one), VOCABULARY, DESCRIPTION.limits) for one in said
        )
        session = EdgeSession(opened, DESCRIPTION.limits)  # type: ignore[arg-type]  # the first is an Open
        answers = session.attach(opened)  # type: ignore[arg-type]
        for one in rest:
            if one.epoch != 1:
                return True  # the service's check
            answers += session.received(one)
    except SpecError:
        return True
    return session.wish() is None  # taken, but it brings about no work


def test_every_lie_is_one() -> None:
    where = ground()
    ids = where.prompt(256)
    assert not refused(where, [where.opened(ids, 64), Prefix(1, 0, ids)])
    told = lying(where, ids)
    assert [refused(where, [opened, *rest]) for opened, rest in told] == [True] * len(told)


def test_every_gap_is_one() -> None:
    where = ground()
    ids = where.prompt(32)
    path = HashedPath(root_hash(DESCRIPTION.identity))
    path.extend(ids)
    attach = [where.opened(ids, 64), Prefix(1, 0, ids)]
    right = Draft(1, 1, len(ids), len(ids), path.end, where.prompt(4))
    assert not refused(where, [*attach, right])
    wrong = wrong_drafts(where, right)
    # The last one hangs under nothing that the edge knows: it costs the frame, and is no fault.
    assert [refused(where, [*attach, one]) for one in wrong[:-1]] == [True] * (len(wrong) - 1)


# ---- the rude client ----


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    service = EdgeService(SessionTable(Terms(8, 1.0), EdgeMetrics("stub")))
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_verification(server, service)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    engine = StubEngine(0.0, 0.0, 1 << 13)
    with EngineThread(StepRunner(engine, VOCABULARY)) as thread:
        service.ready(thread, DESCRIPTION, KvPool(engine.rows))
        try:
            yield f"127.0.0.1:{port}"
        finally:
            service.close()
            await server.stop(None)


async def test_the_rude_client_is_understood_and_ended_where_it_is_wrong() -> None:
    where = ground()
    prompt = where.prompt(8)
    async with asyncio.timeout(20), served() as address, RudeConnection(address, None) as rude:
        good, bad = (rude.open(headers(GENERATE, "x" * 300)) for _ in range(2))
        said = packed(where.opened(prompt, 512), Prefix(1, 0, prompt), *(Ping(1, number) for number in range(40)))
        assert await rude.send(good, said) == len(said)
        await rude.send(bad, packed(Prefix(1, 0, prompt)))
        await bad.ended.wait()
        assert rude.heard_bytes > 1000  # commits and the answers to pings
        assert not good.ended.is_set()
        rude.reset(good)
        assert good.ended_s is not None


async def test_who_does_not_read_gets_nothing_and_still_talks() -> None:
    where = ground()
    prompt = where.prompt(8)
    async with asyncio.timeout(20), served() as address, RudeConnection(address, None, reads=False) as rude:
        stream = rude.open(headers(GENERATE))
        await rude.send(stream, packed(where.opened(prompt, 512), Prefix(1, 0, prompt)))
        async with RudeConnection(address, None) as other:  # by the time that this one was answered …
            answered = other.open(headers(GENERATE))
            await other.send(answered, packed(Prefix(1, 0, prompt)))
            await answered.ended.wait()
        assert rude.heard_bytes < 200  # … that one had got settings and headers
        assert not stream.ended.is_set()


def handlers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == HANDLER]


async def test_a_refused_stream_that_reads_nothing_keeps_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airdraft.wire.server.PARTING_S", 0.1)
    async with asyncio.timeout(20), served() as address, RudeConnection(address, None, reads=False) as rude:
        stream = rude.open(headers(GENERATE))
        for _ in range(1000):  # gRPC tells nobody when it begins
            if working := handlers():
                break
            await asyncio.sleep(0.01)
        await rude.send(stream, packed(Prefix(1, 0, (1, 2, 3))))  # no stream begins with it
        await asyncio.wait(working)
        assert not stream.ended.is_set()  # its end waits behind the refusal that it does not read


# ---- victims ----


def test_victims_write_the_same_in_both_arms_but_for_the_mark() -> None:
    one, other = (list(islice(wishes(1, Wish(7, mark, 1.0)), 3)) for mark in (300, 301))
    assert [(prompt[2:], tokens) for prompt, tokens in one] == [(prompt[2:], tokens) for prompt, tokens in other]
    assert [prompt[:2] for prompt, _ in one] == [[1, 44]] * 3
    assert [prompt[:2] for prompt, _ in other] == [[1, 45]] * 3
    assert list(islice(wishes(2, Wish(7, 300, 1.0)), 3)) != one


# ---- figures ----


def text(arrivals: list[float], *, over: bool = True, right: bool = True) -> dict[str, Any]:
    return {
        "wanted_s": arrivals[0] - 0.5 if arrivals else 10.5,
        "arrivals_s": arrivals,
        "tokens": [4] * len(arrivals),
        "refusals": 0,
        "failures": 0,
        "over": over,
        "right": right,
    }


def arm(texts: list[dict[str, Any]], seconds: float = 2.0) -> Arm:
    return Arm.of({"began_s": 10.0, "texts": [texts]}, {}, front_s=0.5, seconds=seconds)


def test_gaps_end_with_the_arm_where_the_text_had_not() -> None:
    found = arm([text([10.6, 10.7, 11.0]), text([11.2], over=False), text([], over=False)])
    assert [pytest.approx(own) for own in found.gaps] == [(0.1, 0.3), (0.8,)]
    assert found.firsts == pytest.approx((0.5, 0.5, 1.5))
    assert found.tokens == (8, 8)
    assert (found.texts, found.right) == (3, 3)


def test_ratios_are_one_for_twins_and_tell_a_slow_arm() -> None:
    steady = [text([10.5 + 0.03 * index for index in range(40)]) for _ in range(4)]
    slow = [text([10.5 + 0.06 * index for index in range(20)]) for _ in range(4)]
    twins, halved = Pair("x", arm(steady), arm(steady)), Pair("x", arm(slow), arm(steady))
    assert gap_ratio([twins], 50) == pytest.approx((1.0, 1.0, 1.0))
    assert gap_ratio([halved], 50) == pytest.approx((2.0, 2.0, 2.0))
    assert throughput_ratio([twins])[0] == 1.0
    assert throughput_ratio([halved])[0] == 0.5


def test_an_attack_that_leaves_no_text_is_no_number_to_pass_with() -> None:
    steady = arm([text([10.5, 10.53, 10.56])])
    nothing = arm([text([], over=False)])
    ratio = gap_ratio([Pair("x", nothing, steady)])[0]
    assert not math.isnan(ratio)
    assert ratio > 10
    assert throughput_ratio([Pair("x", nothing, steady)])[0] == 0.0
