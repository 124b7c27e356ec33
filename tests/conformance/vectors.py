"""The vector files: hashes, noise, sampler, tokenizers, and the wire."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.rows import TargetRow
from airdraft.core.types import (
    SAMPLER_VERSION,
    Commit,
    DeviceFrame,
    Draft,
    Drain,
    EdgeFrame,
    Finish,
    Identity,
    Limits,
    NeedPrefix,
    Open,
    Opened,
    Origin,
    Ping,
    Prefix,
    RefusalCode,
    Refused,
    Sampling,
    StopReason,
    Timing,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import device_frame_to_proto, edge_frame_to_proto
from airdraft.wire.describe import Description, description_to_proto
from tests.conformance import receipts, rules, vectors_semantic
from tests.conformance.kit import VERSION, Json, down_frame, proto_json, sampling_json, up_frame

GREATEST_ID = (1 << 32) - 1
GREATEST_SEED = (1 << 64) - 1
GREATEST = (1 << 32) - 1  # of the wire's integers


def files() -> dict[str, Json]:
    """Return every vector file by its name."""
    return {
        "paths.json": paths(),
        "noise.json": noise(),
        "sampler.json": sampler(),
        "tokenizers.json": tokenizers(),
        "receipts.json": _head("receipts", receipts.ABOUT) | receipts.content(),
        "wire.json": wire(),
        "states.json": _head("states", vectors_semantic.ABOUT) | vectors_semantic.states(),
    }


def _head(kind: str, about: str) -> Json:
    return {"kind": kind, "version": VERSION, "about": about}


# ---- hashes ----


def paths() -> Json:
    """Return path hashes and ids digests."""
    model, tokenizer = bytes(range(32)), bytes(range(32, 64))
    identities = [
        (model, tokenizer, SAMPLER_VERSION),
        (bytes(32), bytes(32), SAMPLER_VERSION),
        (b"", b"", ""),
        (model, b"", SAMPLER_VERSION),
        (b"", model, SAMPLER_VERSION),
        (model + tokenizer, b"", SAMPLER_VERSION),
        (model, tokenizer, "sämpler-1"),
    ]
    roots = [
        {
            "model_digest": parts[0].hex(),
            "tokenizer_digest": parts[1].hex(),
            "sampler_version": parts[2],
            **_hash(rules.root_hash(*parts)),
        }
        for parts in identities
    ]
    root = rules.root_hash(*identities[0])
    chains = []
    for ids in ([0], [GREATEST_ID], [0, 0, 0], [1, 2, 3, 151_935], [3, 2, 1], [256, 65_536, 16_777_216], [*range(40)]):
        value, hashes = root, []
        for token in ids:
            value = rules.next_hash(value, token)
            hashes.append(value.hex())
        chains.append({"root": root.hex(), "ids": ids, "hashes": hashes, "end_fixed64": _hash(value)["fixed64"]})
    digests = [
        {"ids": ids, "digest": rules.ids_digest(ids).hex()}
        for ids in ([], [0], [GREATEST_ID], [1, 2, 3], [3, 2, 1], [*range(100)])
    ]
    about = "h(0) of identities, h(i+1) along chains, BLAKE2b-256 of ids. fixed64 is how the wire holds a path hash."
    return _head("paths", about) | {"roots": roots, "chains": chains, "digests": digests}


def _hash(value: bytes) -> Json:
    return {"hash": value.hex(), "fixed64": str(int.from_bytes(value, "little"))}


# ---- noise ----


def noise() -> Json:
    """Return noise over the corners of seeds, positions and ids."""
    seeds = [0, 1, 42, 1 << 63, GREATEST_SEED]
    positions = [0, 1, 17, 4095, 131_071, (1 << 31) - 1, 1 << 31]
    ids = [0, 1, 2, 31_999, 151_935, 1 << 20]
    cases = []
    for seed in seeds:
        for position in positions:
            words = [rules.word(seed, position, token) for token in ids]
            numbers = [rules.uniform(word) for word in words]
            cases.append(
                {
                    "seed": str(seed),
                    "position": position,
                    "key": f"{rules.key(seed, position):016x}",
                    "words": [f"{word:016x}" for word in words],
                    "u": numbers,
                    "gumbel": [rules.gumbel(number) for number in numbers],
                }
            )
    extremes = [
        {"word": f"{word:016x}", "u": rules.uniform(word), "gumbel": rules.gumbel(rules.uniform(word))}
        for word in (0, (1 << 12) - 1, 1 << 12, 1 << 63, GREATEST_SEED - (1 << 12), GREATEST_SEED)
    ]
    about = "Noise splitmix64-1. key, words and u are exact; gumbel may differ by tolerance * max(1, |gumbel|)."
    return _head("noise", about) | {"tolerance": 2.0**-50, "ids": ids, "cases": cases, "extremes": extremes}


# ---- sampler ----

WARM = Sampling(temperature=1.0, seed=7)


def _wide(count: int) -> list[float]:
    """Return a peaked row with ties, each number a sixteenth: short in decimal, exact in float32."""
    numbers = [rules.uniform(rules.word(99, 0, token)) for token in range(count)]
    return [round(16 * (2 * rules.gumbel(number) - 2)) / 16 for number in numbers]


def sampler() -> Json:
    """Return rows with settings, and what the rule makes of them."""
    minus = -math.inf
    rows = {
        "ties": [1.0, 3.0, 2.0, 3.0, 0.5, 2.0],
        "flat": [0.0] * 8,
        "steps": [4.0, 3.0, 3.0, 3.0, 2.0, 1.0, 0.0, -1.0],
        "masked": [minus, 1.5, minus, 0.25, -2.0],
        "negative": [-0.5, -3.0, -1.0, -8.0],
        "padded-4": [2.0, 1.0, 0.5, 0.25],
        "padded-6": [2.0, 1.0, 0.5, 0.25, 50.0, 50.0],
        "padded-8": [2.0, 1.0, 0.5, 0.25, 50.0, minus, 3.0, 60.0],
        "wide": _wide(400),
    }
    cases = []
    for name, row, vocabulary, sampling, path in _sampler_cases():
        logits = rows[row]
        drawn = rules.draw(logits, sampling, vocabulary or len(logits), path)
        cases.append(
            {
                "name": name,
                "row": row,
                "vocabulary": vocabulary or len(logits),
                "sampling": sampling_json(sampling),
                "path": path,
                "survivors": drawn.survivors,
                "scores": drawn.scores,
                "choice": drawn.choice,
            }
        )
    written = {name: ["-inf" if value == minus else value for value in row] for name, row in rows.items()}
    about = "Rows of float32 logits; the token at position len(path). survivors ascend; scores are exact."
    return _head("sampler", about) | {"sampler_version": SAMPLER_VERSION, "rows": written, "cases": cases}


Case = tuple[str, str, int, Sampling, list[int]]


def _sampler_cases() -> Iterator[Case]:
    """Yield name, row, vocabulary (0: the whole row), settings and path."""
    greedy = Sampling()
    yield "greedy: of equals the lowest id", "ties", 0, greedy, [5]
    yield "greedy: the seed is nothing to it", "ties", 0, replace(greedy, seed=GREATEST_SEED), []
    yield "greedy: rows of minus infinity", "masked", 0, greedy, []
    for vocabulary, row in ((4, "padded-4"), (4, "padded-6"), (4, "padded-8"), (3, "padded-8")):
        yield f"greedy: padding of {row}, {vocabulary} ids", row, vocabulary, greedy, [1]
        yield f"warm: padding of {row}, {vocabulary} ids", row, vocabulary, WARM, [1, 1]
        yield f"top-p: padding of {row}, {vocabulary} ids", row, vocabulary, replace(WARM, top_p=0.75), [1, 1]
    for seed in (0, 1, 42, GREATEST_SEED):
        for length in (0, 1, 9):
            yield f"flat: seed {seed}, position {length}", "flat", 0, replace(WARM, seed=seed), [0] * length
    for temperature in (0.25, 0.7, 1.5, 1e9):
        yield f"temperature {temperature}", "steps", 0, replace(WARM, temperature=temperature), [0, 1]
    yield from _truncations()
    yield from _penalties()
    for length in (0, 3, 30):
        yield f"wide: position {length}", "wide", 0, WARM, [5] * length
        everything = Sampling(0.8, 12345, 50, 0.9, 0.02, 1.2, 0.5, 0.25)
        yield f"wide: every setting, position {length}", "wide", 0, everything, [5, 7, 5][:length] * max(1, length // 3)
    yield "wide: top-p of all", "wide", 0, replace(WARM, top_p=0.95), [1]
    yield "wide: top-p of all, cold", "wide", 0, replace(WARM, temperature=0.3, top_p=0.5), [1]
    yield "wide: min-p", "wide", 0, replace(WARM, temperature=0.6, min_p=0.05), [1]
    yield "wide: 399 ids", "wide", 399, replace(WARM, top_k=20), [1]


def _truncations() -> Iterator[Case]:
    for count in (1, 2, 3, 4, 7, 8, 9):
        yield f"top-k {count}: a tie at the boundary keeps the lowest ids", "steps", 0, replace(WARM, top_k=count), [1]
    yield "top-k 3 of equals", "flat", 0, replace(WARM, top_k=3), []
    for top_p in (0.0, 0.125, 0.25, 0.3, 0.5, 0.75, 0.9):
        yield f"top-p {top_p}: equals come by id", "flat", 0, replace(WARM, top_p=top_p), [2]
        yield f"top-p {top_p}", "steps", 0, replace(WARM, top_p=top_p), [2]
    yield "top-p of what top-k left", "steps", 0, replace(WARM, top_k=4, top_p=0.7), [2]
    for min_p in (0.05, 0.3, 0.5, 1.0):
        yield f"min-p {min_p}", "steps", 0, replace(WARM, min_p=min_p), [3]
    yield "min-p of what top-p left, tempered", "steps", 0, replace(WARM, temperature=2.0, top_p=0.9, min_p=0.3), [3]
    yield "minus infinity never survives", "masked", 0, replace(WARM, top_k=5), []


def _penalties() -> Iterator[Case]:
    yield "greedy, repetition: divides", "steps", 0, Sampling(repetition_penalty=2.0), [0]
    yield "greedy, repetition: multiplies what is negative", "negative", 0, Sampling(repetition_penalty=4.0), [0]
    yield "greedy, presence counts once", "steps", 0, Sampling(presence_penalty=0.75), [0, 0, 0]
    yield "greedy, presence: a tie, the lowest id", "steps", 0, Sampling(presence_penalty=1.0), [0]
    yield "greedy, frequency counts each time", "steps", 0, Sampling(frequency_penalty=0.75), [0, 0]
    yield "greedy, a penalty below 0 rewards", "steps", 0, Sampling(frequency_penalty=-0.75), [4, 4, 4]
    yield "greedy, ids outside the vocabulary", "steps", 0, Sampling(presence_penalty=2.0), [0, 8, 4_000_000]
    both = replace(WARM, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25)
    yield "warm, in their order", "steps", 0, both, [0, 1, 0, 7, 6, 0]
    yield "warm, then top-k", "steps", 0, replace(both, top_k=3), [0, 1, 0, 2]
    yield "warm, then temperature and min-p", "steps", 0, replace(both, temperature=0.5, min_p=0.3), [0, 0, 0]
    yield "warm, then top-p", "steps", 0, replace(both, top_p=0.6), [0, 1]


# ---- tokenizers ----


def tokenizers() -> Json:
    """Return one tokenizer in two spellings, and others."""
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "\u0120\u00e9": 5, "\U0001f600": 6}
    added = [{"id": 7, "content": "<end>", "special": True}]
    model = {"type": "BPE", "vocab": vocab, "merges": ["a b", "ab c"]}
    first: Json = {"normalizer": {"type": "NFC"}, "added_tokens": added, "model": model}
    model_again = {"merges": [["a", "b"], ["ab", "c"]], "vocab": dict(reversed(vocab.items())) | {"<end>": 7}}
    again = {"version": "1.0", "truncation": None, "model": model_again, "added_tokens": added}
    again["normalizer"] = {"type": "NFC"}
    unigram = {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2.25]]}}
    named = {
        "one": first,
        "one, spelled in another way": again,
        "merges in another order": first | {"model": model | {"merges": ["ab c", "a b"]}},
        "another normalizer": first | {"normalizer": None},
        "another added token": first | {"added_tokens": [{"id": 7, "content": "<stop>"}]},
        "unigram": unigram,
    }
    cases = []
    for name, content in named.items():
        canonical = rules.canonical_tokenizer(content)
        digest = blake2b(canonical.encode(), digest_size=32).hexdigest()
        size = 3 if name == "unigram" else 8
        cases.append(
            {
                "name": name,
                "tokenizer_json": json.dumps(content, ensure_ascii=False),
                "canonical": canonical,
                "digest": digest,
                "vocabulary": size,
            }
        )
    return _head("tokenizers", "BLAKE2b-256 of the canonical text of a tokenizer.json.") | {"cases": cases}


# ---- the wire ----

VOCABULARY = 1000
LIMITS = Limits(context_tokens=4096, live_nodes=64, frame_nodes=16, ahead_tokens=32, prefix_chunk_tokens=32)
IDENTITY = Identity(bytes(range(32)), bytes(range(32, 64)))
HASH = bytes(range(8))
_ROW = ((np.arange(VOCABULARY) * 3 % 64 - 32) / 8).astype(np.float32)  # numbers that float16 holds


def wire() -> Json:
    """Return every kind of frame with its bytes, and bytes that must be refused."""
    fits: list[Json] = [{"way": "up", **up_frame(frame)} for frame in _up()]
    fits += [{"way": "down", **down_frame(frame)} for frame in _down()]
    fits += [
        _message("describe", description_to_proto(_description(), include_tokenizer=more)) for more in (False, True)
    ]
    also = [
        _spelled("up", "an unknown field is skipped", _bytes(Finish(3, 9))[:1] + b"\x07\x08\x03\x10\x09\xf8\x07\x05"),
        _spelled("up", "ids that are not packed", b"\x12\x0c\x08\x03\x1d\x01\x00\x00\x00\x1d\x02\x00\x00\x00"),
        _spelled("down", "an unknown field is skipped", b"\x1a\x06\x08\x03\x10\x09\x50\x01"),
    ]
    about = (
        "Frames in protobuf's JSON form and as bytes. Those of fits are what this project writes, those of also_fits "
        "must be read too. Those of refused are well-formed protobuf, and the field named is at fault."
    )
    context = {"vocabulary": VOCABULARY, "limits": asdict(LIMITS)}
    return _head("wire", about) | context | {"fits": fits, "also_fits": also, "refused": list(_refused())}


def _bytes(frame: DeviceFrame) -> bytes:
    return device_frame_to_proto(frame).SerializeToString()


def _message(way: str, message: Any) -> Json:
    return {"way": way, "bytes": message.SerializeToString().hex(), "frame": proto_json(message)}


def _spelled(way: str, name: str, data: bytes) -> Json:
    kind = pb.DeviceFrame if way == "up" else pb.EdgeFrame
    return {"name": name, "way": way, "bytes": data.hex(), "frame": proto_json(kind.FromString(data))}


def _open() -> Open:
    sampling = Sampling(0.8, GREATEST_SEED, 40, 0.95, 0.05, 1.1, 0.5, -0.25)
    return Open(b"0123456789abcdef", 3, IDENTITY, sampling, (2, 999), 128, 5, 7, bytes(range(32)), 0)


def _up() -> list[DeviceFrame]:
    settled = replace(_open(), sampling=Sampling(), stop_ids=(), prefix_start=None)
    tree = Draft(3, 6, 7, 7, HASH, (1, 2, 3), (-1, 0, 0))
    return [
        _open(),
        settled,
        replace(settled, sampling=Sampling(temperature=1.0, top_p=0.0), prefix_start=4096),
        Prefix(3, 0, (1, 2, 3, 999)),
        Prefix(3, 4096, ()),
        Draft(3, 1, 7, 7, HASH, (5,)),
        Draft(3, 2, 7, 9, HASH[::-1], (5, 999, 0, 1)),
        Draft(3, 3, 300, 300, HASH, (1, 2, 3, 4, 5), (-1, -1, 0, 1, 3)),
        Draft(3, 4, 7, 7, HASH),
        Draft(3, 5, 1 << 30, 1 << 30, b"\xff" * 8, idle=True),
        Finish(3, 12),
        Ping(3, 0),
        Ping(3, GREATEST, ack=True),
        replace(_open(), receipt=bytes(range(24))),
        replace(settled, receipt=b"\xff" * 64),
        replace(tree, q=(SparseQ((1,), (65535,)), SparseQ((0, 2, 999), (1, 65533, 1)), SparseQ((3, 4), (65534, 1)))),
        replace(tree, probabilities=(1.0, 0.0, 0.625)),
        replace(settled, rows=True),
        *vectors_semantic.up(),
    ]


def _down() -> list[EdgeFrame]:
    origins = (Origin.ACCEPTED, Origin.RECOVERED)
    commit = Commit(3, 7, (5, 999), 9, HASH, 2, origins)
    return [
        Opened(3, 7, 9, LIMITS),
        Opened(1, 0, 5, Limits(context_tokens=1 << 30, live_nodes=1, frame_nodes=512)),
        Commit(3, 7, (5, 999), 9, HASH, 2, origins, None, Timing(0.001, 0.025)),
        Commit(3, 9, (0,), 10, HASH, 0, (Origin.BONUS,), StopReason.STOP_TOKEN),
        Commit(3, 9, (1,), 10, b"\xff" * 8, GREATEST, (Origin.RUN_AHEAD,), StopReason.MAX_TOKENS),
        Commit(3, 9, (), 9, HASH, 0, (), StopReason.MAX_TOKENS),
        NeedPrefix(3, 0),
        NeedPrefix(3, 4096),
        *(Refused(3, code, code.name.lower()) for code in RefusalCode),
        Refused(3, RefusalCode.RETRY_LATER, "no room now", "ids", 1.5, seq=7, ends_stream=False),
        Refused(3, RefusalCode.STALE_EPOCH, "attach with a higher one", "epoch", highest_epoch=GREATEST),
        Ping(3, 0),
        Ping(3, GREATEST, ack=True),
        Drain(3, 0.0),
        Drain(3, 30.5, ("edge-2.example:50051", "[2001:db8::1]:443", "a" * 255 + ":65535")),
        replace(commit, receipt=bytes(range(24))),
        Commit(3, 9, (), 9, HASH, 0, (), StopReason.STOP_TOKEN, receipt=b"\xff" * 64),
        replace(commit, row=TargetRow.of(_ROW)),
        replace(commit, row=TargetRow.of(_ROW.astype(np.float16))),
        *vectors_semantic.down(LIMITS),
    ]


def _description() -> Description:
    return Description(
        "a model", bytes(range(32)), bytes(range(32, 64)), (2, 999), VOCABULARY, LIMITS, "fast float32 cpu", "", "{}"
    )


Change = Callable[[Any], object]


def _refused() -> Iterator[Json]:
    """Yield frames with one fault each."""
    tree = Draft(3, 3, 7, 7, HASH, (1, 2, 3), (-1, 0, 0))
    commit = Commit(3, 7, (5, 999), 9, HASH, 2, (Origin.ACCEPTED, Origin.RECOVERED))
    drain = Drain(3, 1.0, ("edge-2.example:50051",))
    sampled = Draft(3, 3, 7, 7, HASH, (1, 2), q=(SparseQ((1,), (65535,)), SparseQ((2, 5), (1, 65534))))
    big = (1 << 30) + 1
    up: list[tuple[DeviceFrame, str, Change]] = [
        (Finish(3, 1), "frame", lambda m: m.ClearField("finish")),
        (Finish(3, 1), "epoch", lambda m: m.finish.ClearField("epoch")),
        (Finish(3, 1), "length", lambda m: setattr(m.finish, "length", big)),
        (Prefix(3, 0, (1,)), "epoch", lambda m: m.prefix.ClearField("epoch")),
        (Prefix(3, 0, (1,)), "start", lambda m: setattr(m.prefix, "start", big)),
        (Prefix(3, 0, (1,)), "ids", lambda m: m.prefix.ids.append(VOCABULARY)),
        (Prefix(3, 0, (1,)), "ids", lambda m: m.prefix.ids.extend(range(32))),
        (tree, "epoch", lambda m: m.draft.ClearField("epoch")),
        (tree, "acked", lambda m: setattr(m.draft, "acked", big)),
        (tree, "base_offset", lambda m: setattr(m.draft, "base_offset", big)),
        (tree, "ids", lambda m: m.draft.ids.__setitem__(1, GREATEST_ID)),
        (replace(tree, parents=None), "ids", lambda m: m.draft.ids.extend(range(14))),
        (tree, "parents", lambda m: m.draft.parents.append(0)),
        (tree, "parents", lambda m: m.draft.parents.__setitem__(2, 3)),
        (tree, "parents", lambda m: m.draft.ClearField("ids")),
        (tree, "idle", lambda m: setattr(m.draft, "idle", True)),
        (_open(), "session_id", lambda m: setattr(m.open, "session_id", b"short")),
        (_open(), "digest", lambda m: m.open.ClearField("digest")),
        (_open(), "epoch", lambda m: m.open.ClearField("epoch")),
        (_open(), "prompt_length", lambda m: m.open.ClearField("prompt_length")),
        (_open(), "length", lambda m: setattr(m.open, "length", 4)),
        (_open(), "length", lambda m: setattr(m.open, "length", big)),
        (_open(), "max_tokens", lambda m: setattr(m.open, "max_tokens", big)),
        (_open(), "stop_ids", lambda m: m.open.stop_ids.append(VOCABULARY)),
        (_open(), "stop_ids", lambda m: m.open.stop_ids.extend(range(64))),
        (_open(), "prefix_start", lambda m: setattr(m.open, "prefix_start", big)),
        (_open(), "top_k", lambda m: setattr(m.open.sampling, "top_k", big)),
        (_open(), "receipt", lambda m: setattr(m.open, "receipt", bytes(65))),
        (Ping(3, 1), "epoch", lambda m: m.ping.ClearField("epoch")),
        (sampled, "q", lambda m: m.draft.q.pop()),
        (sampled, "q", lambda m: m.draft.q[0].id_steps.__setitem__(0, 7)),
        (sampled, "q", lambda m: m.draft.q[1].weights.__setitem__(0, 2)),
        (sampled, "q", lambda m: m.draft.q[1].weights.append(0)),
        (sampled, "q", lambda m: m.draft.q[1].id_steps.__setitem__(1, VOCABULARY)),
        (sampled, "q", lambda m: _spread(m.draft.q[1], 257)),
        (tree, "probabilities", lambda m: m.draft.probabilities.extend([0.5, 0.5])),
        (tree, "probabilities", lambda m: m.draft.probabilities.extend([0.5, 0.5, 1.5])),
        (tree, "probabilities", lambda m: m.draft.probabilities.extend([0.5, 0.5, -0.5])),
        (tree, "probabilities", lambda m: m.draft.probabilities.extend([0.5, 0.5, math.nan])),
        (Draft(3, 4, 7, 7, HASH), "probabilities", lambda m: m.draft.probabilities.append(0.5)),
    ]
    for name, value in (
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 1.5),
        ("min_p", -0.5),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 101.0),
        ("frequency_penalty", math.nan),
    ):
        up.append((_open(), name, partial(_set_setting, name, value)))
    down: list[tuple[EdgeFrame, str, Change]] = [
        (NeedPrefix(3, 0), "frame", lambda m: m.ClearField("need_prefix")),
        (NeedPrefix(3, 0), "epoch", lambda m: m.need_prefix.ClearField("epoch")),
        (NeedPrefix(3, 0), "start", lambda m: setattr(m.need_prefix, "start", big)),
        (commit, "epoch", lambda m: m.commit.ClearField("epoch")),
        (commit, "base", lambda m: setattr(m.commit, "base", big)),
        (commit, "ids", lambda m: m.commit.ids.__setitem__(0, VOCABULARY)),
        (commit, "origins", lambda m: m.commit.origins.append(1)),
        (commit, "origins", lambda m: m.commit.origins.__setitem__(0, 0)),
        (commit, "origins", lambda m: m.commit.origins.__setitem__(0, 99)),
        (commit, "stop", lambda m: setattr(m.commit, "stop", 99)),
        (Opened(3, 7, 9, LIMITS), "kv_length", lambda m: setattr(m.opened, "kv_length", big)),
        (Opened(3, 7, 9, LIMITS), "committed_length", lambda m: setattr(m.opened, "committed_length", big)),
        (Refused(3, RefusalCode.CREDITS, ""), "code", lambda m: m.refused.ClearField("code")),
        (Refused(3, RefusalCode.CREDITS, ""), "code", lambda m: setattr(m.refused, "code", 99)),
        (commit, "receipt", lambda m: setattr(m.commit, "receipt", bytes(65))),
        (Ping(3, 1, ack=True), "epoch", lambda m: m.ping.ClearField("epoch")),
        (drain, "epoch", lambda m: m.drain.ClearField("epoch")),
        (drain, "edges", lambda m: m.drain.edges.extend(["a:1"] * 16)),
        (drain, "edges", lambda m: m.drain.edges.append("")),
        (drain, "edges", lambda m: m.drain.edges.append("a" * 262)),
        (drain, "edges", lambda m: m.drain.edges.append("a\n:1")),
        (commit, "row", lambda m: setattr(m.commit, "row", bytes(VOCABULARY))),
        (commit, "row", lambda m: setattr(m.commit, "row", bytes(2 * VOCABULARY + 1))),
        (
            replace(commit, origins=commit.origins[::-1]),
            "row",
            lambda m: setattr(m.commit, "row", bytes(2 * VOCABULARY)),
        ),
    ]
    for name, number in (
        ("live_nodes", 0),
        ("frame_nodes", 0),
        ("frame_nodes", 513),
        ("ahead_tokens", 0),
        ("prefix_chunk_tokens", 0),
        ("context_tokens", big),
    ):
        down.append((Opened(3, 7, 9, LIMITS), name, partial(_set_limit, name, number)))
    for sent, field, spoil in (*up, *vectors_semantic.refused_up()):
        yield _spoiled("up", device_frame_to_proto(sent), field, spoil)
    for answered, field, spoil in (*down, *vectors_semantic.refused_down(LIMITS)):
        yield _spoiled("down", edge_frame_to_proto(answered), field, spoil)


def _spread(q: Any, count: int) -> None:
    """Give a distribution so many ids; their weights are still 65535 in all."""
    del q.id_steps[:], q.weights[:]
    q.id_steps.extend([0] * count)
    q.weights.extend([1] * (count - 1) + [65536 - count])


def _set_setting(name: str, value: float, message: Any) -> None:
    setattr(message.open.sampling, name, value)


def _set_limit(name: str, value: int, message: Any) -> None:
    setattr(message.opened.limits, name, value)


def _spoiled(way: str, message: Any, field: str, spoil: Change) -> Json:
    spoil(message)
    return {"way": way, "field": field, "bytes": message.SerializeToString().hex(), "frame": proto_json(message)}
