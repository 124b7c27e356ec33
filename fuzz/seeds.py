"""What the fuzzers begin with: the frames and sessions of the conformance kit, read where they stand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

KIT = Path(__file__).resolve().parents[1] / "proto" / "conformance"

Json = dict[str, Any]


@cache
def kit(kind: str) -> tuple[Json, ...]:
    """Return the kit's files of one kind, in the order of their names."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KIT.rglob("*.json"))]
    return tuple(content for content in contents if content["kind"] == kind)


def _recorded(session: Json, way: str) -> Iterator[str]:
    """Yield the frames of a recorded session that went ``up`` or ``down``, as hex."""
    came = "up" if session["kind"] == "edge-session" else "down"
    for step in session["steps"]:
        if way == came and "received" in step["event"]:
            yield step["event"]["received"]["bytes"]
        if way != came:
            sent = [output.get("send", output) for output in step["outputs"]]
            yield from (output["bytes"] for output in sent if "bytes" in output)


@cache
def frames(way: str) -> tuple[bytes, ...]:
    """Return every recorded message that goes ``up``, ``down`` or answers ``describe``, good ones and refused ones."""
    (wire,) = kit("wire")
    entries = [entry for part in ("fits", "also_fits", "refused") for entry in wire[part] if entry["way"] == way]
    found = [entry["bytes"] for entry in entries]
    if way != "describe":
        for session in (*kit("edge-session"), *kit("device-session")):
            found += _recorded(session, way)
    return tuple(bytes.fromhex(data) for data in dict.fromkeys(found))
