"""The scenes of receipts: what a device keeps and presents, what an edge signs, takes and refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airdraft.core.types import RefusalCode, Refused, Sampling
from airdraft.link.virtual_time import constant
from tests.conformance.kit import Json
from tests.conformance.receipts import KEY
from tests.conformance.recording import PROMPT, SESSION_ID, HandDevice, HandEdge, Scene, setup_of
from tests.conformance.rules import Signed
from tests.core.worlds import VOCABULARY, alone, noisy_draft

Files = dict[str, Json]

RIGHT = alone(PROMPT, 60)
OTHER_KEY = KEY[::-1]


def receipt_of(length: int, epoch: int, key: bytes = KEY) -> bytes:
    """Return the receipt of a commit that made the right text so long."""
    return Signed(SESSION_ID, epoch, len(PROMPT), Sampling(), RIGHT[:length]).receipt(key)


def receipts_kept() -> Files:
    """A device presents the receipt of its last commit; a commit without one leaves none, a fault changes nothing."""
    hand = HandDevice(setup_of(draft_length=0, max_tokens=40))
    hand.attach()
    hand.commit(RIGHT[3:5], receipt=receipt_of(5, 1))
    hand.detached()
    hand.attach(2, with_prefix=False)
    hand.commit(RIGHT[5:6], epoch=2, receipt=receipt_of(6, 2))
    hand.commit(RIGHT[6:7], epoch=2, hashed=bytes(8), receipt=b"of a fault")
    hand.detached()
    hand.attach(3, with_prefix=False)
    hand.commit(RIGHT[6:7], epoch=2, receipt=b"of another epoch")
    hand.received(Refused(3, RefusalCode.BAD_RECEIPT, "the receipt is not for what it came with", "receipt"))
    hand.attach(4, with_prefix=False)
    hand.commit(RIGHT[6:8], epoch=4)  # an edge that signs nothing
    hand.detached()
    hand.attach(5, with_prefix=False)
    hand.commit(RIGHT[8:9], epoch=5, receipt=b"\xff" * 64)  # opaque: another edge's need not have 24 bytes
    hand.detached()
    hand.attach(6, with_prefix=False)
    return _device(hand)


def receipts_two_edges() -> Files:
    """Two edges of one key: the text is signed to its end, over a cut and over the loss of the first edge."""
    setup = setup_of(draft_length=3, outstanding=2, max_tokens=20)
    scene = Scene(setup, noisy_draft(0.8), receipt_key=KEY, up=constant(0.03), down=constant(0.03))
    scene.pair.attach(1)
    scene.pair.run(seconds=0.2)
    scene.pair.cut()
    scene.pair.attach(2, with_prefix=False)
    scene.pair.run(seconds=0.1)
    scene.pair.cut()
    scene.pair.replace_edge()
    scene.pair.run(seconds=0.1)
    scene.pair.attach(3, with_prefix=False)
    scene.pair.run()
    return scene.files()


def receipts_signed() -> Files:
    """An edge with a key signs what it wrote, anew in each epoch; a text that is not its own it signs no more."""
    hand = HandEdge(receipt_key=KEY)
    hand.open()
    hand.passed()
    hand.draft(RIGHT[:4], RIGHT[4:6])
    hand.passed()
    hand.leave()
    hand.open(RIGHT[:4], epoch=2, prefix=False, receipt=receipt_of(4, 1))  # repeated, with a receipt of this epoch
    hand.leave(2)
    hand.open(RIGHT[:7], epoch=3, prefix=False)  # none is needed for what this edge holds
    hand.draft(RIGHT[:7], [], epoch=3, idle=True)
    hand.passed()
    hand.leave(3)
    hand.open([*RIGHT[:4], _wrong(RIGHT[4])], epoch=4)
    hand.passed()  # the pass of epoch 3 is void
    hand.passed()
    return _edge(hand)


def _presented(receipt: bytes) -> Files:
    """Return a fresh edge to which a text of seven comes with this receipt, and comes again."""
    hand = HandEdge(receipt_key=KEY)
    hand.open(RIGHT[:7], epoch=3, receipt=receipt)
    hand.draft(RIGHT[:7], [], epoch=3, idle=True)
    hand.passed()
    hand.leave(3)
    hand.open(RIGHT[:7], epoch=4, prefix=False, receipt=receipt)
    return _edge(hand)


def receipt_good() -> Files:
    """A fresh edge of the same key takes the text for the fleet's own: its commits are signed."""
    return _presented(receipt_of(7, 2))


def receipt_none() -> Files:
    """A fresh edge takes a text without a receipt for a new prompt: the text goes on, unsigned."""
    return _presented(b"")


def receipt_of_another_key() -> Files:
    """To an edge of another key a receipt is none: the text goes on, unsigned."""
    return _presented(receipt_of(7, 2, OTHER_KEY))


def receipt_forged() -> Files:
    """A receipt that names this edge's key and is wrong ends the stream; with the right one the text goes on."""
    good = receipt_of(7, 2)
    hand = HandEdge(receipt_key=KEY)
    flipped, renamed = good[:-1] + bytes([good[-1] ^ 1]), good[:4] + b"\x01" + good[5:]
    for forged in (flipped, renamed, receipt_of(6, 2), receipt_of(7, 3)):
        hand.open(RIGHT[:7], epoch=3, prefix=False, receipt=forged)
    hand.open(RIGHT[:7], epoch=3, receipt=good)
    hand.draft(RIGHT[:7], [], epoch=3, idle=True)
    hand.passed()
    hand.open(RIGHT[:7], epoch=3, prefix=False, receipt=receipt_of(6, 2))  # the epoch comes first
    hand.open(RIGHT[:7], epoch=4, prefix=False, receipt=receipt_of(6, 2))  # the older stream stays
    hand.draft(RIGHT[:8], [], epoch=3, idle=True)
    hand.passed()
    return _edge(hand)


def own_text_only() -> Files:
    """An edge that goes on with its fleet's text alone takes a prompt, or a text with a good receipt."""
    hand = HandEdge(receipt_key=KEY, own_text_only=True)
    hand.open(RIGHT[:7], epoch=2, prefix=False)
    hand.open(RIGHT[:7], epoch=2, prefix=False, receipt=receipt_of(7, 1, OTHER_KEY))
    hand.open(RIGHT[:7], epoch=2, receipt=receipt_of(7, 1))
    hand.draft(RIGHT[:7], [], epoch=2, idle=True)
    hand.passed()
    hand.leave(2)
    hand.open(RIGHT[:7], epoch=3, prefix=False)  # what this edge holds needs none
    hand.leave(3)
    hand.open([*RIGHT[:7], _wrong(RIGHT[7])], epoch=4, prefix=False)
    hand.open(epoch=4, prefix=False)
    return _edge(hand)


def _wrong(token: int) -> int:
    return (token + 1) % VOCABULARY


def _device(hand: HandDevice) -> Files:
    return {"device": hand.tape.content()}


def _edge(hand: HandEdge) -> Files:
    return {"edge": hand.tape.content()}


SCENES: Sequence[Callable[[], Files]] = (
    receipts_kept,
    receipts_two_edges,
    receipts_signed,
    receipt_good,
    receipt_none,
    receipt_of_another_key,
    receipt_forged,
    own_text_only,
)
