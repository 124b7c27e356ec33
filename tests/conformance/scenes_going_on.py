"""The scenes of going on: signs of life, drains, journals, and drafts that are written between streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from airdraft.core.session import Journalled
from airdraft.core.types import (
    Drain,
    NeedPrefix,
    Opened,
    Origin,
    Ping,
    Prefix,
    RefusalCode,
    Refused,
    StopReason,
)
from tests.conformance.kit import Json
from tests.conformance.receipts import KEY
from tests.conformance.recording import LIMITS, PROMPT, HandDevice, HandEdge, setup_of
from tests.conformance.scenes_receipts import receipt_of
from tests.core.worlds import VOCABULARY, alone

Files = dict[str, Json]

RIGHT = alone(PROMPT, 60)
OTHER_KEY = KEY[::-1]


# ---- signs of life ----


def pings() -> Files:
    """A ping of the stream's own epoch is answered at once, whatever is missing or at work; acks are not answered."""
    device = HandDevice(setup_of(draft_length=2))
    device.received(Ping(1, 1))  # no stream
    device.attach()
    device.received(Ping(1, 7))  # before Opened
    device.received(Ping(1, 7, ack=True))
    device.received(Ping(2, 8))
    device.drafted(RIGHT[3:5])
    device.received(Ping(1, 0))
    device.received(Ping(1, (1 << 32) - 1))
    device.commit(RIGHT[3:6], Origin.ACCEPTED, seq=1)
    device.detached()
    device.received(Ping(1, 9))
    device.attach(2)
    device.received(Ping(1, 10))
    device.received(Ping(2, 1))
    device.tape.apply({"finish": {"length": 6}})
    device.received(Ping(2, 2))
    edge = HandEdge()
    edge.open(prefix=False)
    edge.received(Ping(1, 7))  # before the prefix
    edge.received(Ping(1, 7, ack=True))
    edge.received(Ping(2, 8))
    edge.received(Prefix(1, 0, PROMPT))
    edge.received(Ping(1, 9))  # a pass is at work
    edge.passed()
    edge.leave()
    edge.received(Ping(1, 10))
    edge.open(RIGHT[:4], epoch=2, prefix=False)
    edge.received(Ping(1, 11))
    edge.received(Ping(2, 0))
    edge.finish(4, epoch=2)
    edge.received(Ping(2, 1))
    return {"device": device.tape.content(), "edge": edge.tape.content()}


def drained() -> Files:
    """An edge drains: the stream goes on to the next commit, then the device takes its text to another edge."""
    hand = HandDevice(setup_of(draft_length=3))
    hand.attach()
    hand.received(Opened(1, 0, 3, LIMITS))
    hand.drafted(RIGHT[3:6])
    hand.received(Drain(2, 1.0, ("edge-9.example:50051",)))  # of no stream that there is
    hand.received(Drain(1, 30.5, ("edge-2.example:50051", "[2001:db8::1]:443")))
    hand.commit(RIGHT[3:7], Origin.ACCEPTED, seq=1)
    hand.drafted(RIGHT[7:10])  # still in its time
    hand.detached()
    hand.attach(2, with_prefix=False, limits=replace(LIMITS, frame_nodes=2))
    hand.received(Opened(2, 0, 7, replace(LIMITS, frame_nodes=2)))
    hand.received(NeedPrefix(2, 0))
    hand.commit(RIGHT[7:9], Origin.ACCEPTED, epoch=2, seq=1)
    hand.received(Drain(2, 0.0))
    return _device(hand)


# ---- between streams ----


def drafting_detached() -> Files:
    """Work is offered without a stream, up to one frame; what was sent counts as unsent and goes out behind Open."""
    hand = HandDevice(setup_of(draft_length=3, outstanding=2, max_tokens=40))
    hand.detached()  # before any stream
    hand.drafted(RIGHT[3:6])
    hand.attach()
    hand.received(Opened(1, 0, 3, LIMITS))
    begun = len(hand.tape.steps) - 1
    hand.detached()  # in the middle of the drafter's work
    hand.drafted(RIGHT[6:9], step=begun)
    hand.attach(2, with_prefix=False)  # all six in one frame
    hand.commit(RIGHT[3:9], Origin.ACCEPTED, epoch=2, seq=1)
    hand.detached()
    stale = len(hand.tape.steps) - 1
    hand.drafted(RIGHT[9:10])  # fewer than asked: it has no more to say here
    hand.attach(3, with_prefix=False, limits=replace(LIMITS, live_nodes=1))
    hand.commit([_wrong(RIGHT[9])], Origin.RECOVERED, epoch=3, seq=1)
    hand.detached()
    hand.drafted([4, 5, 6], step=stale)  # void by now
    hand.drafted([1, 2, 3], step=len(hand.tape.steps) - 2)  # one fits the limits of the edge of before
    hand.attach(4, with_prefix=False, limits=replace(LIMITS, frame_nodes=2))  # which are not this one's
    hand.drafted([2])
    return _device(hand)


def journalled() -> Files:
    """A device made from a journal drafts, attaches above the epoch kept, with the text and the receipt kept."""
    kept = Journalled(4, RIGHT[3:7], receipt_of(7, 4))
    hand = HandDevice(setup_of(draft_length=3, journalled=kept))
    hand.detached()
    hand.drafted(RIGHT[7:10])
    hand.attach(5)
    hand.received(Refused(5, RefusalCode.STALE_EPOCH, "attach with a higher one", "epoch", highest_epoch=5))
    hand.attach(6, with_prefix=False)
    hand.received(Opened(6, 0, 7, LIMITS))
    hand.received(NeedPrefix(6, 0))
    hand.commit(RIGHT[7:11], Origin.ACCEPTED, epoch=6, seq=1, receipt=receipt_of(11, 6))
    hand.detached()
    hand.attach(7, with_prefix=False)
    return _device(hand)


def journalled_epoch() -> Files:
    """A journal that was written before the first stream: epoch 1 may have been used, and is not used again."""
    hand = HandDevice(setup_of(draft_length=0, max_tokens=1, journalled=Journalled(1)))
    hand.detached()
    hand.attach(2)
    hand.commit(RIGHT[3:4], epoch=2, stop=StopReason.MAX_TOKENS)
    return _device(hand)


def journalled_end() -> Files:
    """A journal whose text has ended: there is nothing to draft and nothing to attach for."""
    kept = Journalled(2, RIGHT[3:7], stop=StopReason.MAX_TOKENS)
    hand = HandDevice(setup_of(max_tokens=4, journalled=kept))
    hand.detached()
    hand.tape.apply({"finish": {"length": 7}})
    return _device(hand)


def next_epoch() -> Files:
    """The next epoch is above any that was used or that a refusal named; one above 2^31 - 1 is a fault."""
    highest = (1 << 31) - 1
    hand = HandDevice(setup_of(draft_length=2))
    hand.attach(1)
    hand.received(_stale(1, 7))
    hand.attach(8)
    hand.received(_stale(7, 20))  # of a stream that is gone
    hand.received(_stale(8, 3))  # no lower for it
    hand.attach(9)
    hand.received(Refused(9, RefusalCode.RETRY_LATER, "no room now", highest_epoch=11, ends_stream=False))
    hand.received(_stale(9, highest + 1))
    hand.detached()
    hand.attach(12)
    hand.received(_stale(12, highest))
    hand.attach(highest + 1)
    hand.commit(RIGHT[3:5], epoch=highest + 1)
    return _device(hand)


def _stale(epoch: int, highest: int) -> Refused:
    return Refused(epoch, RefusalCode.STALE_EPOCH, "attach with a higher one", "epoch", highest_epoch=highest)


def _wrong(token: int) -> int:
    return (token + 1) % VOCABULARY


def _device(hand: HandDevice) -> Files:
    return {"device": hand.tape.content()}


def _edge(hand: HandEdge) -> Files:
    return {"edge": hand.tape.content()}


SCENES: Sequence[Callable[[], Files]] = (
    pings,
    drained,
    drafting_detached,
    journalled,
    journalled_epoch,
    journalled_end,
    next_epoch,
)
