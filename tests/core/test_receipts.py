"""Receipts: what is signed is accepted, and nothing else is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.errors import BadReceipt
from airdraft.core.paths import ids_digest
from airdraft.core.receipts import RECEIPT_BYTES, ReceiptKey
from airdraft.core.session import EdgeSession
from airdraft.core.types import Commit, Limits, Open, PassResult, Prefix, Sampling
from tests.core.worlds import IDENTITY, alone, pseudo_target

KEY = ReceiptKey(b"k" * 32)
IDS = (1, 2, 3, 4, 5)


def opened_with_receipt(key: ReceiptKey, epoch: int = 4) -> Open:
    """An attach that presents two generated ids with the receipt of the epoch before."""
    opened = Open(b"s" * 16, epoch, IDENTITY, Sampling(0.5, 7), (9,), 40, 3, len(IDS), ids_digest(IDS), 0)
    return replace(opened, receipt=key.sign(opened, epoch - 1, ids_digest(IDS)))


def test_a_tenants_receipts_are_no_other_tenants() -> None:
    ours, theirs = KEY.of("ours"), KEY.of("theirs")
    opened = opened_with_receipt(ours)
    assert ours.accepts(opened)
    assert ReceiptKey(b"k" * 32, "ours").accepts(opened)  # another edge of the fleet
    assert KEY.of("") is KEY
    for other in (theirs, KEY, KEY.of("our"), theirs.of("")):
        assert other.knows(opened.receipt)  # the key is this fleet's, and what it came with is not
        assert not other.accepts(opened)
    assert theirs.of("ours").accepts(opened)


def forgeries(good: Open, count: int, *, seed: int) -> Iterator[Open]:
    """Attaches that differ from a good one in the receipt's bits or in what it signs."""
    chance = random.Random(seed)
    for _ in range(count):
        kind = chance.randrange(8)
        receipt = bytearray(good.receipt)
        receipt[chance.randrange(len(receipt))] ^= 1 << chance.randrange(8)
        flipped = bytes(receipt)
        digest = bytearray(good.digest)
        digest[chance.randrange(32)] ^= 1 << chance.randrange(8)
        session = bytearray(good.session_id)
        session[chance.randrange(16)] ^= 1 << chance.randrange(8)
        yield [
            replace(good, receipt=flipped),
            replace(good, receipt=chance.randbytes(chance.choice([1, RECEIPT_BYTES, 40]))),
            replace(good, receipt=good.receipt[: chance.randrange(1, RECEIPT_BYTES)]),
            replace(good, digest=bytes(digest)),
            replace(good, session_id=bytes(session)),
            replace(good, prompt_length=chance.choice([1, 2, 4])),
            replace(good, sampling=replace(good.sampling, seed=chance.getrandbits(64))),
            replace(good, epoch=chance.randrange(1, 4)),  # at or below the epoch that was signed
        ][kind]


def test_what_was_signed_is_accepted_by_every_edge_with_the_key_and_by_no_other() -> None:
    good = opened_with_receipt(KEY)
    assert KEY.accepts(good)
    assert ReceiptKey(b"k" * 32).accepts(replace(good, epoch=900))
    assert not ReceiptKey(b"x" * 32).accepts(good)
    assert not ReceiptKey(b"k" * 32, tenant="other").accepts(good)
    assert not KEY.accepts(replace(good, receipt=b""))


def test_no_forgery_is_accepted() -> None:
    assert not any(KEY.accepts(opened) for opened in forgeries(opened_with_receipt(KEY), 2000, seed=1))


@given(st.binary(max_size=31))
def test_a_short_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        ReceiptKey(secret)


def committed_by(opened: Open, ids: Sequence[int], key: ReceiptKey | None) -> tuple[EdgeSession, Commit]:
    """A fresh edge, and its first commit after the ids that a device presents."""
    edge = EdgeSession(opened, Limits(4096), key)
    edge.attach(opened)
    edge.received(Prefix(opened.epoch, 0, tuple(ids)))
    work = edge.next_pass()
    assert work is not None
    (commit,) = edge.finished_pass(work, PassResult((pseudo_target(ids),)))
    assert isinstance(commit, Commit)
    return edge, commit


def test_a_text_stays_attested_over_edges_that_share_a_key() -> None:
    ids, receipt = list(IDS[:3]), b""
    for epoch in range(1, 20):
        opened = replace(
            opened_with_receipt(KEY), epoch=epoch, length=len(ids), digest=ids_digest(ids), receipt=receipt
        )
        edge, commit = committed_by(opened, ids, KEY)
        assert edge.attested
        ids, receipt = [*ids, *commit.ids], commit.receipt
        assert len(receipt) == RECEIPT_BYTES
    assert ids == alone(IDS[:3], 19)


@pytest.mark.parametrize("receipt", [b"", ReceiptKey(b"x" * 32).sign(opened_with_receipt(KEY), 3, ids_digest(IDS))])
def test_text_without_a_receipt_of_ours_is_a_new_prompt_and_is_not_signed(receipt: bytes) -> None:
    edge, commit = committed_by(replace(opened_with_receipt(KEY), receipt=receipt), IDS, KEY)
    assert commit.receipt == b""
    assert not edge.attested
    opened = replace(opened_with_receipt(KEY), receipt=receipt)
    strict = EdgeSession(opened, Limits(4096), KEY, own_text_only=True)
    with pytest.raises(BadReceipt, match="begin anew"):
        strict.attach(opened)


def test_an_edge_without_a_key_signs_nothing() -> None:
    _, commit = committed_by(opened_with_receipt(KEY), IDS, None)
    assert commit.receipt == b""


def test_what_meaning_has_spent_outlives_a_stay_at_an_edge_where_the_session_is_exact() -> None:
    opened = opened_with_receipt(KEY)
    opened = replace(opened, receipt=KEY.sign(opened, 3, ids_digest(IDS), 0.25))
    _, commit = committed_by(opened, IDS, KEY)
    assert commit.spent == 0.0  # nobody takes a risk here
    ids = (*IDS, *commit.ids)
    back = replace(opened, epoch=5, length=len(ids), digest=ids_digest(ids), receipt=commit.receipt)
    assert KEY.spent(back) == 0.25
