"""A lane holds its source back, keeps its order through stops, and its alarm rings in time."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from random import Random

from airdraft.link.alarm import Alarm
from airdraft.link.lane import Content, Ending, Lane
from airdraft.link.shaping import Air, Constant, Sampled, Shape, Stream
from tests.link.peers import EVENTUALLY_S, until


class Recorder:
    """Source and sink of a lane."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.heard: list[Content] = []

    def pause(self) -> None:
        self.log.append("pause")

    def resume(self) -> None:
        self.log.append("resume")

    def write(self, data: bytes) -> None:
        self.heard.append(data)

    def end(self, ending: Ending) -> None:
        self.heard.append(ending)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def lane_on(shape: Shape, clock: Clock, recorder: Recorder) -> Lane:
    lane = Lane(Stream(shape, Air(shape.conditions), Random(0)), recorder, clock, Random(0))
    lane.reach(recorder)
    return lane


async def test_the_source_waits_while_the_queue_is_full() -> None:
    clock, recorder = Clock(), Recorder()
    lane = lane_on(Shape(Constant(1.0, 1000.0), segment_bytes=100, queue_bytes=300), clock, recorder)
    lane.offer(bytes(299))
    assert recorder.log == []
    lane.offer(bytes(1))
    assert recorder.log == ["pause"]
    clock.now_s = 0.15
    lane.writable(True)
    assert recorder.log == ["pause", "resume"]  # a hundred bytes have left, though nothing has arrived
    assert recorder.heard == []
    clock.now_s = 1.25
    lane.writable(True)
    assert recorder.heard == [bytes(200)]  # two pieces were due
    lane.close()


async def test_the_source_waits_while_too_much_is_under_way_or_the_sink_is_slow() -> None:
    clock, recorder = Clock(), Recorder()
    lane = lane_on(Shape(Constant(1.0), window_bytes=500), clock, recorder)
    lane.offer(bytes(500))
    assert recorder.log == ["pause"]
    lane.writable(False)
    clock.now_s = 2.0
    lane.offer(b"more")
    assert recorder.heard == []
    lane.writable(True)
    assert recorder.heard == [bytes(500)]
    assert recorder.log == ["pause", "resume"]
    lane.close()


async def test_a_stopped_lane_keeps_the_order_of_what_flew_and_what_waited() -> None:
    clock, recorder = Clock(), Recorder()
    lane = lane_on(Shape(Constant(1.0, 100.0), segment_bytes=100), clock, recorder)
    lane.offer(b"a" * 100)  # leaves at 1, arrives at 2
    lane.offer(b"b" * 100)
    lane.offer(Ending.EOF)
    clock.now_s = 1.5
    lane.hold(clock.now_s)
    clock.now_s = 5.0
    lane.writable(True)
    assert recorder.heard == []
    lane.release(clock.now_s)
    assert recorder.heard == [b"a" * 100]
    clock.now_s = 7.01
    lane.writable(True)
    assert recorder.heard == [b"a" * 100, b"b" * 100, Ending.EOF]
    lane.close()


async def test_what_is_sent_anew_after_a_stop_finds_the_link_of_that_time() -> None:
    clock, recorder = Clock(), Recorder()
    slow_once = Sampled(lambda at_s: 100.0, lambda at_s: 50.0 if at_s < 1 else 0.0, 0.5)
    lane = lane_on(Shape(slow_once), clock, recorder)
    lane.offer(bytes(40))  # would leave at 0.4 and arrive at 50.4
    clock.now_s = 0.2
    lane.hold(clock.now_s)
    clock.now_s = 2.0
    lane.release(clock.now_s)
    clock.now_s = 2.5
    lane.writable(True)
    assert recorder.heard == [bytes(40)]
    lane.close()


async def test_a_source_goes_on_when_bytes_have_left_long_before_they_arrive() -> None:
    recorder = Recorder()
    shape = Shape(Constant(1000.0, 1e5), queue_bytes=100)
    lane = Lane(Stream(shape, Air(shape.conditions), Random(0)), recorder, time.monotonic, Random(0))
    lane.reach(recorder)
    lane.offer(bytes(100))
    await until(lambda: recorder.log == ["pause", "resume"])
    assert recorder.heard == []
    lane.close()


async def test_a_source_that_waits_may_go_on_into_a_black_hole() -> None:
    recorder = Recorder()
    lane = lane_on(Shape(Constant(math.inf), window_bytes=1), Clock(), recorder)
    lane.offer(b"full")
    lane.swallow()
    lane.offer(b"nothing")
    assert recorder.log == ["pause", "resume"]
    assert recorder.heard == []
    lane.close()


async def test_an_alarm_rings_once_for_the_last_setting() -> None:
    rung: list[float] = []
    ringing = asyncio.Event()

    def ring() -> None:
        rung.append(time.monotonic())
        ringing.set()

    alarm = Alarm(ring)
    alarm.set(1000.0)
    began_s = time.monotonic()
    alarm.set(0.02)
    async with asyncio.timeout(EVENTUALLY_S):
        await ringing.wait()
    assert rung[0] - began_s >= 0.02
    ringing.clear()
    alarm.set(0.0)
    alarm.set(math.inf)
    other = asyncio.Event()
    second = Alarm(other.set)
    second.set(-1.0)
    async with asyncio.timeout(EVENTUALLY_S):
        await other.wait()
    assert len(rung) == 1
    for each in (alarm, second, alarm):
        each.close()
    assert len(rung) == 1


async def test_an_alarm_set_anew_in_the_turn_in_which_it_rang_does_not_ring_yet() -> None:
    rung: list[int] = []

    def ring(own: int) -> None:
        rung.append(own)
        alarms[1 - own].set(1000.0)

    alarms = [Alarm(partial(ring, own)) for own in range(2)]
    for alarm in alarms:
        alarm.set(0.0)
    await until(lambda: bool(rung))
    await asyncio.sleep(0)
    assert len(rung) == 1
    for alarm in alarms:
        alarm.close()
