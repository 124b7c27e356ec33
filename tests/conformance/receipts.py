"""The vectors of receipts: what an edge signs, and what it makes of a receipt that a device presents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from airdraft.core.types import Sampling
from tests.conformance.kit import Json, sampling_json
from tests.conformance.rules import Signed, key_name

ABOUT = (
    "What edges of one key sign and check; to a device a receipt is opaque. message is what is signed, each part after "
    "its length as 4 bytes; a receipt is key_name, epoch as 4 bytes, 16 bytes of HMAC-SHA256; in a semantic session "
    "what meaning has spent, a float32, stands before the HMAC. presented: a text and its receipt in an Open of that "
    "epoch, and whether it is the fleet's own, none, or refused."
)
KEY = bytes(range(32))
_GREATEST = (1 << 32) - 1
_EVERY = Sampling(0.8, (1 << 64) - 1, 40, 0.95, 0.05, 1.1, 0.5, -0.25)
_OTHER = (b"\xff" * 32, bytes(range(32, 64)), "gumbel-splitmix64-1")
_PLAIN = Signed(bytes(range(16)), 3, 3, Sampling(), (1, 2, 3, 4, 5))
_SEMANTIC = replace(_PLAIN, spent=0.015625)
_SPENT_NOTHING = replace(_PLAIN, spent=0.0)


def content() -> Json:
    """Return what is signed and what is presented."""
    signed = [
        {"name": name, "key_name": key_name(key).hex(), "message": of.message.hex(), **_case(key, of, of.receipt(key))}
        for name, key, of in _signed()
    ]
    presented = [
        {"name": name, "verdict": verdict, **_case(key, of, receipt)}
        for name, verdict, key, of, receipt in _presented()
    ]
    return {"signed": signed, "presented": presented}


def _case(key: bytes, of: Signed, receipt: bytes) -> Json:
    return {
        "key": key.hex(),
        "tenant": of.tenant,
        "session_id": of.session_id.hex(),
        "model_digest": of.identity[0].hex(),
        "tokenizer_digest": of.identity[1].hex(),
        "sampler_version": of.identity[2],
        "epoch": of.epoch,
        "prompt_length": of.prompt_length,
        "sampling": sampling_json(of.sampling),
        "ids": list(of.ids),
        **({} if of.spent is None else {"spent": of.spent}),
        "receipt": receipt.hex(),
    }


def _signed() -> Iterator[tuple[str, bytes, Signed]]:
    yield "plain", KEY, _PLAIN
    yield "every setting", KEY, replace(_PLAIN, sampling=_EVERY)
    yield "a tenant", KEY, replace(_PLAIN, tenant="tenänt")
    yield "another session", KEY, replace(_PLAIN, session_id=b"\xff" * 16)
    yield "the greatest epoch and prompt", KEY, replace(_PLAIN, epoch=_GREATEST, prompt_length=1 << 30)
    yield "the prompt alone", KEY, replace(_PLAIN, ids=(1, 2, 3))
    yield "another model", KEY, replace(_PLAIN, identity=_OTHER)
    yield "a long text", KEY, replace(_PLAIN, ids=tuple(range(300)))
    yield "a key of 64 bytes", bytes(range(64)), _PLAIN
    yield "a key of 65 bytes", bytes(range(65)), _PLAIN
    yield "a semantic session that has spent nothing", KEY, _SPENT_NOTHING
    yield "a semantic session", KEY, _SEMANTIC


def _presented() -> Iterator[tuple[str, str, bytes, Signed, bytes]]:
    """Yield name, verdict, the edge's key, what the Open of the next epoch presents, and its receipt."""
    good, later = _PLAIN.receipt(KEY), replace(_PLAIN, epoch=4)
    yield "in the next epoch", "own", KEY, later, good
    yield "in a much later epoch", "own", KEY, replace(later, epoch=_GREATEST), good
    yield "in the epoch that it signs", "refused", KEY, _PLAIN, good
    yield "no receipt", "none", KEY, later, b""
    yield "of another key", "none", KEY, later, _PLAIN.receipt(KEY[::-1])
    yield "23 bytes", "none", KEY, later, good[:-1]
    yield "25 bytes", "none", KEY, later, good + b"\0"
    yield "another key's name", "none", KEY, later, key_name(KEY[::-1]) + good[4:]
    yield "another epoch named", "refused", KEY, later, good[:4] + b"\x02" + good[5:]
    yield "a flipped bit", "refused", KEY, later, good[:-1] + bytes([good[-1] ^ 1])
    yield "the name and zeros", "refused", KEY, later, key_name(KEY) + bytes(20)
    yield "another text", "refused", KEY, replace(later, ids=(1, 2, 3, 4, 6)), good
    yield "a shorter text", "refused", KEY, replace(later, ids=(1, 2, 3, 4)), good
    yield "another session", "refused", KEY, replace(later, session_id=b"\xff" * 16), good
    yield "another prompt length", "refused", KEY, replace(later, prompt_length=2), good
    yield "another seed", "refused", KEY, replace(later, sampling=Sampling(seed=1)), good
    yield "another model", "refused", KEY, replace(later, identity=_OTHER), good
    yield "another tenant", "refused", KEY, replace(later, tenant="b"), good
    yield "of a semantic session", "own", KEY, replace(_SEMANTIC, epoch=4), (spent := _SEMANTIC.receipt(KEY))
    yield "less spent than was", "refused", KEY, replace(_SEMANTIC, epoch=4), spent[:8] + bytes(4) + spent[12:]
    yield "without what was spent", "refused", KEY, replace(_SEMANTIC, epoch=4), spent[:8] + spent[12:]
    yield "27 bytes", "none", KEY, replace(_SEMANTIC, epoch=4), spent[:-1]
    yield "29 bytes", "none", KEY, replace(_SEMANTIC, epoch=4), spent + b"\0"
