"""The published rules, spelled out candidate by candidate in plain Python: what the vectors are made from.

Nothing here is shared with ``airdraft.core``, so that the vectors are not the code's own opinion. Logarithms and
exponentials are correctly rounded, so that the files are the same wherever they are made.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from hashlib import blake2b, sha256
from struct import pack, unpack
from typing import Any

from airdraft.core.types import Sampling

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
DIGITS = 60
CLEAR = 1e-6
"""How far a vector's winner stays ahead: no rounding of a logarithm decides any of them."""


# ---- hashes ----


def fixed32(value: int) -> bytes:
    """Return four bytes, little end first."""
    return value.to_bytes(4, "little")


def root_hash(model_digest: bytes, tokenizer_digest: bytes, sampler_version: str) -> bytes:
    """Return h(0)."""
    parts = (model_digest, tokenizer_digest, sampler_version.encode())
    return blake2b(b"".join(fixed32(len(part)) + part for part in parts), digest_size=8).digest()


def next_hash(parent: bytes, token: int) -> bytes:
    """Return h(i+1)."""
    return blake2b(parent + fixed32(token), digest_size=8).digest()


def ids_digest(ids: Sequence[int]) -> bytes:
    """Return BLAKE2b-256 of the ids."""
    return blake2b(b"".join(fixed32(token) for token in ids), digest_size=32).digest()


# ---- noise ----


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def key(seed: int, position: int) -> int:
    """Return the word that all candidates of a position share."""
    return _mix((_mix((seed + GOLDEN) & MASK) + (position + 1) * GOLDEN) & MASK)


def word(seed: int, position: int, token: int) -> int:
    """Return a candidate's hash."""
    return _mix((key(seed, position) + token * GOLDEN) & MASK)


def uniform(hashed: int) -> float:
    """Return the number that a hash stands for; exact."""
    return (hashed >> 12) * 2.0**-52 + 2.0**-53


def gumbel(u: float) -> float:
    """Return -log(-log(u)), rounded once."""
    with localcontext(prec=DIGITS):
        return float(-(-(Decimal(u).ln())).ln())


# ---- sampler ----


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the rule gives for one row."""

    survivors: list[int]
    scores: list[float]
    choice: int


def draw(logits: Sequence[float], sampling: Sampling, vocabulary: int, path: Sequence[int]) -> Drawn:
    """Return the survivors, their scores and the choice at position ``len(path)``.

    Asserts that no decision hangs on the last bits of a logarithm or an exponential.
    """
    scores = _scores(logits[:vocabulary], sampling, path)
    ranked = sorted(scores, key=lambda token: (-scores[token], token))
    if sampling.temperature == 0:
        return Drawn(ranked[:1], [scores[ranked[0]]], ranked[0])
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    if sampling.top_p < 1:
        kept = [_top_p(ranked, scores, sampling.top_p, shift) for shift in (0, -4, 4)]
        assert kept[0] == kept[1] == kept[2], "top-p hangs on a rounding"
        ranked = kept[0]
    if sampling.min_p > 0:
        bound = scores[ranked[0]] + _log(sampling.min_p)
        assert sampling.min_p == 1 or all(abs(scores[token] - bound) > CLEAR for token in ranked)
        ranked = [token for token in ranked if scores[token] >= bound]
    ids = sorted(ranked)
    totals = {token: scores[token] + gumbel(uniform(word(sampling.seed, len(path), token))) for token in ids}
    best = sorted(ids, key=lambda token: -totals[token])
    assert len(best) == 1 or totals[best[0]] - totals[best[1]] > CLEAR, "a near tie"
    return Drawn(ids, [scores[token] for token in ids], best[0])


def _scores(logits: Sequence[float], sampling: Sampling, path: Sequence[int]) -> dict[int, float]:
    counts = Counter(path)
    scores: dict[int, float] = {}
    for token, logit in enumerate(logits):
        if token in counts:
            repetition = sampling.repetition_penalty
            logit = logit / repetition if logit > 0 else logit * repetition
            logit -= sampling.presence_penalty
            logit -= sampling.frequency_penalty * counts[token]
        if logit > -math.inf:
            scores[token] = logit / (sampling.temperature or 1.0)
    return scores


def _top_p(ranked: Sequence[int], scores: dict[int, float], top_p: float, shift: int) -> list[int]:
    """Return the smallest set that has the mass, with every weight that is not exact moved by ``shift``."""
    top = scores[ranked[0]]
    weights = {token: _weight(scores[token] - top, shift) for token in ranked}
    total = sum(weights.values())
    target = max(1, min(total, math.ceil(top_p * float(total))))
    kept, mass = [], 0
    for token in sorted(ranked, key=lambda token: (-weights[token], token)):
        if mass >= target:
            break
        mass += weights[token]
        kept.append(token)
    return sorted(kept, key=lambda token: (-scores[token], token))


def _weight(difference: float, shift: int) -> int:
    if difference == 0:
        return 1 << 40
    with localcontext(prec=DIGITS):
        return max(0, math.floor(Decimal(1 << 40) * Decimal(difference).exp()) + shift)


def _log(value: float) -> float:
    with localcontext(prec=DIGITS):
        return float(Decimal(value).ln())


# ---- receipts ----


def key_name(secret: bytes) -> bytes:
    """Return the four bytes by which a receipt names its key."""
    return blake2b(secret, digest_size=4, person=b"receipt key").digest()


def hmac_sha256(secret: bytes, message: bytes) -> bytes:
    """Return RFC 2104's HMAC with SHA-256, whose blocks are 64 bytes."""
    block = (sha256(secret).digest() if len(secret) > 64 else secret).ljust(64, b"\0")
    inner = sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


@dataclass(frozen=True, slots=True)
class Signed:
    """What a receipt vouches for."""

    session_id: bytes
    epoch: int  # of the commit
    prompt_length: int
    sampling: Sampling
    ids: Sequence[int]
    tenant: str = ""
    identity: tuple[bytes, bytes, str] = (bytes(range(32)), bytes(range(32, 64)), "gumbel-splitmix64-1")
    spent: float | None = None  # by meaning, a number that float32 holds; None: an exact session

    @property
    def told(self) -> bytes:
        """Return what a semantic session's receipt tells beside: a float32."""
        return b"" if self.spent is None else pack("<f", self.spent)

    @property
    def message(self) -> bytes:
        """Return the bytes that are signed: seven parts, and what is spent if that is told, each after its length."""
        of = self.sampling
        settings = pack("<d", of.temperature) + of.seed.to_bytes(8, "little") + fixed32(of.top_k)
        for value in (of.top_p, of.min_p, of.repetition_penalty, of.presence_penalty, of.frequency_penalty):
            settings += pack("<d", value)
        root = root_hash(*self.identity)
        parts = [self.tenant.encode(), self.session_id, root, fixed32(self.epoch), fixed32(self.prompt_length)]
        parts += [settings, ids_digest(self.ids), *([self.told] if self.told else [])]
        return b"".join(fixed32(len(part)) + part for part in parts)

    def receipt(self, secret: bytes) -> bytes:
        """Return the 24 or 28 bytes: the key's name, the epoch, what is spent, half of the HMAC."""
        return key_name(secret) + fixed32(self.epoch) + self.told + hmac_sha256(secret, self.message)[:16]


# ---- tokenizer ----


def canonical_tokenizer(content: dict[str, Any]) -> str:
    """Return the text that a tokenizer's digest is taken of."""
    model, added = content["model"], content.get("added_tokens") or []
    listed = isinstance(model["vocab"], list)
    tokens = {index: entry[0] for index, entry in enumerate(model["vocab"])} if listed else {}
    if not listed:
        tokens = {index: token for token, index in model["vocab"].items()}
    tokens |= {token["id"]: token["content"] for token in added}
    fields = {
        "added": sorted([token["id"], token["content"]] for token in added),
        "kind": model.get("type") or "BPE",
        "merges": [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges") or []],
        "normalizer": content.get("normalizer"),
        "scores": [entry[1] for entry in model["vocab"]] if listed else None,
        "tokens": [[index, tokens[index]] for index in sorted(tokens)],
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


# ---- states ----


def _float32(value: float) -> float:
    number: float = unpack("<f", pack("<f", value))[0]
    return number


def _fp8_value(code: int) -> float:
    """Return the number of an e4m3 code."""
    exponent, fraction = (code >> 3) & 15, code & 7
    size = fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
    return -size if code & 128 else size


def _nearest_fp8(size: float) -> int:
    """Return the code below 127 whose number is nearest, of two the even one."""
    return min(range(127), key=lambda code: (abs(_fp8_value(code) - size), code % 2))


def state_row(numbers: Sequence[float], kind: str) -> bytes:
    """Return a row of numbers that float32 holds: their greatest size is 127 scales in INT8, 448 in FP8.

    A scale below 2^-126, which float32 holds with few bits only, makes a row of zeros.
    """
    scale = _float32(max(map(abs, numbers)) / (127 if kind == "INT8" else 448))
    scale = 0.0 if scale < 2.0**-126 else scale
    shares = [number / scale if scale else 0.0 for number in numbers]
    if kind == "INT8":
        codes = [max(-127, min(127, round(share))) & 255 for share in shares]
    else:
        codes = [_nearest_fp8(min(abs(share), 448.0)) | (128 if share < 0 else 0) for share in shares]
    return pack("<f", scale) + bytes(codes)


def read_state_row(row: bytes, kind: str) -> list[float]:
    """Return a row's numbers, each the product of code and scale in float32."""
    (scale,) = unpack("<f", row[:4])
    values = [(code - 256 if code > 127 else code) if kind == "INT8" else _fp8_value(code) for code in row[4:]]
    return [_float32(value * scale) for value in values]
