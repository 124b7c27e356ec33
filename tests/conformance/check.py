"""The runner: every file of the kit against this project's own functions, cores and wire."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.core.errors import MalformedFrame
from airdraft.core.meaning import pack_rows, unpack_rows
from airdraft.core.noise import draw_key, gumbel_of, uniforms_of, words
from airdraft.core.paths import HashedPath, ids_digest, next_hash, root_hash
from airdraft.core.receipts import ReceiptKey
from airdraft.core.sampling import choose, survivors
from airdraft.core.tokenizer_digest import tokenizer_digest, vocabulary_size
from airdraft.core.types import Identity, Limits, Open, StateKind
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import (
    device_frame_from_proto,
    device_frame_to_proto,
    edge_frame_from_proto,
    edge_frame_to_proto,
)
from airdraft.wire.describe import description_from_proto, description_to_proto
from tests.conformance.kit import FOLDER, VERSION, DeviceTape, EdgeTape, Json, proto_json, sampling_of


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where the code and the kit differ."""

    file: str
    where: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        return f"{self.file}: {self.where}: expected {_short(self.expected)}, got {_short(self.got)}"


Difference = tuple[str, Any, Any]  # where, expected, got


def kit_files(folder: Path = FOLDER) -> list[Path]:
    """Return the kit's files."""
    return sorted(folder.rglob("*.json"))


def check_file(path: Path) -> list[Finding]:
    """Return what differs in one file. Raises ValueError where it is no file of this kit."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("version") != VERSION or content.get("kind") not in CHECKS:
        raise ValueError(f"{path.name}: kind {content.get('kind')!r}, version {content.get('version')!r} are unknown")
    return [Finding(path.name, *difference) for difference in CHECKS[content["kind"]](content)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 300 else text[:300] + "…"


def _attempt(compute: Callable[..., Any], *arguments: Any) -> Any:
    """Return the value, or what was raised in its place: a broken file or core is a finding, not a traceback."""
    try:
        return compute(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _compare(where: str, expected: Any, compute: Callable[..., Any], *arguments: Any) -> Iterator[Difference]:
    got = _attempt(compute, *arguments)
    if got != expected:
        yield where, expected, got


# ---- hashes, noise, sampler, tokenizers ----


def _check_paths(content: Json) -> Iterator[Difference]:
    for index, entry in enumerate(content["roots"]):
        digests = (bytes.fromhex(entry["model_digest"]), bytes.fromhex(entry["tokenizer_digest"]))
        identity = Identity(*digests, entry["sampler_version"])
        yield from _compare(f"roots {index}: hash", entry["hash"], root_hash(identity).hex)
        yield from _compare(f"roots {index}: fixed64", entry["fixed64"], _fixed64, root_hash(identity))
    for index, entry in enumerate(content["chains"]):
        root = bytes.fromhex(entry["root"])
        yield from _compare(f"chains {index}: hashes", entry["hashes"], _chain, root, entry["ids"])
        path = HashedPath(root)
        path.extend(entry["ids"])
        yield from _compare(f"chains {index}: end_fixed64", entry["end_fixed64"], _fixed64, path.end)
    for index, entry in enumerate(content["digests"]):
        yield from _compare(f"digests {index}: digest", entry["digest"], ids_digest(entry["ids"]).hex)


def _chain(root: bytes, ids: Sequence[int]) -> list[str]:
    hashes = [root]
    for token in ids:
        hashes.append(next_hash(hashes[-1], token))
    return [value.hex() for value in hashes[1:]]


def _fixed64(path_hash: bytes) -> str:
    return str(int.from_bytes(path_hash, "little"))


def _check_noise(content: Json) -> Iterator[Difference]:
    ids, tolerance = np.array(content["ids"], dtype=np.int64), content["tolerance"]
    for index, entry in enumerate(content["cases"]):
        key = draw_key(int(entry["seed"]), entry["position"])
        hashed = words(key, ids)
        yield from _compare(f"cases {index}: key", entry["key"], _hex, key)
        yield from _compare(f"cases {index}: words", entry["words"], lambda of: [*map(_hex, of)], hashed.tolist())
        yield from _compare_numbers(f"cases {index}", entry, hashed, tolerance)
    for index, entry in enumerate(content["extremes"]):
        hashed = np.array([int(entry["word"], 16)], dtype=np.uint64)
        row = {"u": [entry["u"]], "gumbel": [entry["gumbel"]]}
        yield from _compare_numbers(f"extremes {index}", row, hashed, tolerance)


def _hex(word: int) -> str:
    return f"{word:016x}"


def _compare_numbers(where: str, entry: Json, hashed: Any, tolerance: float) -> Iterator[Difference]:
    yield from _compare(f"{where}: u", entry["u"], uniforms_of(hashed).tolist)
    found = gumbel_of(hashed).tolist()
    near = [
        abs(mine - theirs) <= tolerance * max(1, abs(theirs))
        for mine, theirs in zip(found, entry["gumbel"], strict=True)
    ]
    if not all(near):
        yield f"{where}: gumbel", entry["gumbel"], found


def _check_sampler(content: Json) -> Iterator[Difference]:
    rows = {name: np.array([float(value) for value in row]) for name, row in content["rows"].items()}
    for entry in content["cases"]:
        logits = rows[entry["row"]].astype(np.float32)
        if not np.array_equal(logits.astype(np.float64), rows[entry["row"]]):
            yield f"row {entry['row']}", "numbers that float32 holds", "others"
        arguments = (logits, sampling_of(entry["sampling"]), entry["vocabulary"], entry["path"])
        where = f"case {entry['name']!r}"
        expected = [entry["survivors"], entry["scores"]]
        yield from _compare(f"{where}: survivors and scores", expected, _survivors, *arguments)
        yield from _compare(f"{where}: choice", entry["choice"], choose, *arguments)


def _survivors(*arguments: Any) -> list[list[float]]:
    ids, scores = survivors(*arguments)
    return [ids.tolist(), scores.tolist()]


def _check_tokenizers(content: Json) -> Iterator[Difference]:
    for entry in content["cases"]:
        text, where = entry["tokenizer_json"], f"case {entry['name']!r}"
        yield from _compare(f"{where}: digest", entry["digest"], lambda of: tokenizer_digest(of).hex(), text)
        yield from _compare(f"{where}: vocabulary", entry["vocabulary"], vocabulary_size, text)


# ---- receipts ----


def _check_receipts(content: Json) -> Iterator[Difference]:
    for entry in content["signed"]:
        key, where = _key(entry), f"signed {entry['name']!r}"
        receipt = key.sign(_presented(entry), entry["epoch"], ids_digest(entry["ids"]), entry.get("spent"))
        yield from _compare(f"{where}: key_name", entry["key_name"], key.name.hex)
        yield from _compare(f"{where}: receipt", entry["receipt"], receipt.hex)
        yield from _compare(f"{where}: HMAC of the message", receipt[-16:].hex(), _mac, entry["key"], entry["message"])
    for entry in content["presented"]:
        where = f"presented {entry['name']!r}"
        yield from _compare(f"{where}: verdict", entry["verdict"], _verdict, _key(entry), _presented(entry))
        if entry["verdict"] == "own":
            yield from _compare(f"{where}: spent", entry.get("spent", 0.0), _key(entry).spent, _presented(entry))


def _key(entry: Json) -> ReceiptKey:
    return ReceiptKey(bytes.fromhex(entry["key"]), entry["tenant"])


def _presented(entry: Json) -> Open:
    """Return the attach that presents the ids; what a receipt does not sign is left empty."""
    return Open(
        bytes.fromhex(entry["session_id"]),
        entry["epoch"],
        Identity(
            bytes.fromhex(entry["model_digest"]), bytes.fromhex(entry["tokenizer_digest"]), entry["sampler_version"]
        ),
        sampling_of(entry["sampling"]),
        (),
        0,
        entry["prompt_length"],
        len(entry["ids"]),
        ids_digest(entry["ids"]),
        None,
        bytes.fromhex(entry["receipt"]),
    )


def _mac(key: str, message: str) -> str:
    return hmac.new(bytes.fromhex(key), bytes.fromhex(message), "sha256").digest()[:16].hex()


def _verdict(key: ReceiptKey, opened: Open) -> str:
    if key.accepts(opened):
        return "own"
    return "refused" if key.knows(opened.receipt) else "none"


# ---- the wire ----


def _check_wire(content: Json) -> Iterator[Difference]:
    vocabulary, limits = content["vocabulary"], Limits(**content["limits"])
    for index, entry in enumerate(content["fits"]):
        where = f"fits {index}"
        yield from _compare(f"{where}: frame", entry["frame"], _read, entry)
        yield from _compare(f"{where}: bytes", entry["bytes"], _around, entry, vocabulary, limits)
    for index, entry in enumerate(content["also_fits"]):
        where = f"also_fits {index}"
        yield from _compare(f"{where}: frame", entry["frame"], _read, entry)
        yield from _compare(f"{where}: refused", None, _fault, entry, vocabulary, limits)
    for index, entry in enumerate(content["refused"]):
        where = f"refused {index}"
        yield from _compare(f"{where}: frame", entry["frame"], _read, entry)
        yield from _compare(f"{where}: field", entry["field"], _fault, entry, vocabulary, limits)


def _parsed(entry: Json) -> Any:
    kinds: dict[str, Any] = {"up": pb.DeviceFrame, "down": pb.EdgeFrame, "describe": pb.DescribeResponse}
    return kinds[entry["way"]].FromString(bytes.fromhex(entry["bytes"]))


def _read(entry: Json) -> Json:
    return proto_json(_parsed(entry))


def _around(entry: Json, vocabulary: int, limits: Limits) -> str:
    """Return the bytes that come of reading and writing again."""
    message: Any = _parsed(entry)
    if entry["way"] == "up":
        message = device_frame_to_proto(device_frame_from_proto(message, vocabulary, limits))
    elif entry["way"] == "down":
        message = edge_frame_to_proto(edge_frame_from_proto(message, vocabulary))
    else:
        message = description_to_proto(description_from_proto(message), include_tokenizer=True)
    return str(message.SerializeToString().hex())


def _fault(entry: Json, vocabulary: int, limits: Limits) -> str | None:
    """Return the field for which the frame is refused."""
    try:
        _around(entry, vocabulary, limits)
    except MalformedFrame as error:
        return error.field
    return None


# ---- recorded sessions ----


def _check_device(content: Json) -> Iterator[Difference]:
    tape = DeviceTape(content["setup"])
    yield from _replay(tape, content["steps"])
    if len(tape.steps) == len(content["steps"]):
        yield from _compare("ids", content["ids"], list, tape.session.ids)


def _check_edge(content: Json) -> Iterator[Difference]:
    yield from _replay(EdgeTape(content["setup"]), content["steps"])


def _replay(tape: DeviceTape | EdgeTape, steps: Sequence[Json]) -> Iterator[Difference]:
    """Yield the first difference; after it nothing means anything."""
    for index, step in enumerate(steps):
        got = _attempt(tape.apply, step["event"])
        if isinstance(got, str):
            yield f"step {index}", step, got
            return
        for part in {**step, **got}:
            if step.get(part) != got.get(part):
                yield f"step {index}: {part}", step.get(part), got.get(part)
                return
        if (frame := step["event"].get("received")) is not None:
            message = _parsed({"way": "down" if isinstance(tape, DeviceTape) else "up", **frame})
            if proto_json(message) != frame["frame"]:
                yield f"step {index}: event", frame["frame"], proto_json(message)
                return


# ---- states ----


def _check_states(content: Json) -> Iterator[Difference]:
    for index, entry in enumerate(content["rows"]):
        where, kind = f"rows {index}", StateKind(pb.StateKind.Value(entry["kind"]))
        rows = np.array(entry["numbers"], np.float32)
        yield from _compare(f"{where}: bytes", entry["bytes"], lambda *of: pack_rows(*of).hex(), rows, kind)
        data, width = bytes.fromhex(entry["bytes"]), rows.shape[1]
        yield from _compare(f"{where}: read", entry["read"], _unpacked, data, len(rows), width, kind)
    for index, entry in enumerate(content["refused"]):
        data, kind = bytes.fromhex(entry["bytes"]), StateKind(pb.StateKind.Value(entry["kind"]))
        got = _attempt(unpack_rows, data, 1, entry["width"], kind)
        if not (isinstance(got, str) and got.startswith("ValueError")):
            yield f"refused {index}", "a refusal", str(got)


def _unpacked(*arguments: Any) -> list[list[float]]:
    rows: list[list[float]] = unpack_rows(*arguments).tolist()
    return rows


CHECKS: dict[str, Callable[[Json], Iterator[Difference]]] = {
    "paths": _check_paths,
    "noise": _check_noise,
    "sampler": _check_sampler,
    "tokenizers": _check_tokenizers,
    "receipts": _check_receipts,
    "states": _check_states,
    "wire": _check_wire,
    "device-session": _check_device,
    "edge-session": _check_edge,
}
