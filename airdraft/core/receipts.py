"""Receipts: an edge's word that a text is its fleet's own, so that the next edge need not take a device's (DESIGN §4).

A receipt is 24 bytes, opaque to the device: 4 that name the key, the epoch of the commit as 4, and the first 16 of an
HMAC-SHA256 over tenant, session, the identity's h(0), epoch, prompt length, sampling and BLAKE2b-256 of all ids (RFC
2104 allows half of a digest). That of a semantic session, or of one that was semantic before, is 28: before the HMAC,
and under it, stands as a float32 what meaning has spent so far, so that the next edge goes on with it. Edges that share
a key accept one another's; to any other the text is a new prompt.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b, sha256
from struct import Struct

import numpy as np

from airdraft.core.paths import root_hash
from airdraft.core.types import Open, Sampling

KEY_BYTES = 32
RECEIPT_BYTES = 24
SPENT_RECEIPT_BYTES = 28
_KEY_NAME_BYTES = 4
_MAC_BYTES = 16
_EPOCH = Struct("<I")
_SPENT = Struct("<f")
_LENGTH = Struct("<I")
_SAMPLING = Struct("<dQIddddd")


class ReceiptKey:
    """What the edges of a fleet sign and check with."""

    def __init__(self, secret: bytes, tenant: str = "") -> None:
        """Take a secret of at least ``KEY_BYTES``; receipts of one ``tenant`` are refused for another.

        Raises ValueError where the secret is shorter.
        """
        if len(secret) < KEY_BYTES:
            raise ValueError(f"a receipt key has at least {KEY_BYTES} bytes, this one has {len(secret)}")
        self._secret, self._tenant = secret, tenant.encode()
        self.name = blake2b(secret, digest_size=_KEY_NAME_BYTES, person=b"receipt key").digest()

    def of(self, tenant: str) -> ReceiptKey:
        """Return the key that signs and checks for a tenant: of the same name, so that an edge knows its own."""
        return self if tenant.encode() == self._tenant else ReceiptKey(self._secret, tenant)

    def sign(self, opened: Open, epoch: int, ids_digest: bytes, spent: float | None = None) -> bytes:
        """Return the receipt of a commit: of the session that ``opened`` began, at ``epoch``, with all ids so far.

        ``spent`` is what meaning has spent of it; it is rounded up. None: the session is exact, and always was.
        """
        told = b"" if spent is None else _SPENT.pack(_rounded_up(spent))
        return self.name + _EPOCH.pack(epoch) + told + self._mac(opened, epoch, ids_digest, told)

    def knows(self, receipt: bytes) -> bool:
        """Say whether a receipt claims to be by this key; any other is as good as none."""
        return len(receipt) in (RECEIPT_BYTES, SPENT_RECEIPT_BYTES) and receipt.startswith(self.name)

    def accepts(self, opened: Open) -> bool:
        """Say whether the receipt in ``opened`` is this key's, of an earlier epoch, for what ``opened`` presents."""
        receipt = opened.receipt
        if not self.knows(receipt):
            return False
        (epoch,) = _EPOCH.unpack_from(receipt, _KEY_NAME_BYTES)
        told, mac = receipt[_KEY_NAME_BYTES + _EPOCH.size : -_MAC_BYTES], receipt[-_MAC_BYTES:]
        return epoch < opened.epoch and hmac.compare_digest(mac, self._mac(opened, epoch, opened.digest, told))

    def spent(self, opened: Open) -> float:
        """Return what meaning has spent by the receipt in ``opened``; 0.0 where it is not accepted or of exact text."""
        if len(opened.receipt) != SPENT_RECEIPT_BYTES or not self.accepts(opened):
            return 0.0
        (spent,) = _SPENT.unpack_from(opened.receipt, _KEY_NAME_BYTES + _EPOCH.size)
        return min(1.0, float(spent))

    def _mac(self, opened: Open, epoch: int, ids_digest: bytes, told: bytes) -> bytes:
        parts = (
            self._tenant,
            opened.session_id,
            root_hash(opened.identity),
            _EPOCH.pack(epoch),
            _LENGTH.pack(opened.prompt_length),
            _packed(opened.sampling),
            ids_digest,
            *((told,) if told else ()),
        )
        mac = hmac.new(self._secret, digestmod=sha256)
        for part in parts:
            mac.update(_LENGTH.pack(len(part)))  # so that no part can pass for the end of another
            mac.update(part)
        return mac.digest()[:_MAC_BYTES]


def _rounded_up(spent: float) -> float:
    """Return the least float32 that is not below ``spent``: going from edge to edge it must not shrink."""
    (rounded,) = _SPENT.unpack(_SPENT.pack(spent))
    return float(rounded) if rounded >= spent else float(np.nextafter(np.float32(rounded), np.float32(np.inf)))


def _packed(sampling: Sampling) -> bytes:
    zero = 0.0  # added, it makes -0.0 the 0.0 that it equals
    return _SAMPLING.pack(
        sampling.temperature + zero,
        sampling.seed,
        sampling.top_k,
        sampling.top_p + zero,
        sampling.min_p + zero,
        sampling.repetition_penalty + zero,
        sampling.presence_penalty + zero,
        sampling.frequency_penalty + zero,
    )
