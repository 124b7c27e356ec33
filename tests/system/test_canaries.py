"""Nothing of a prompt, of a text or of a key gets into logs, metrics, refusals, statuses or tracebacks.

Real processes are given canaries and every reason to talk: passes that raise with the ids in their words, an engine
that crashes, keys that nobody knows, frames that are none.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")
pytest.importorskip("jwt", reason="needs the identity extra")

from airdraft.core.paths import ids_digest
from airdraft.identity.keys import secret_of
from airdraft.v1 import verification_pb2 as pb
from tests.system.sly_edge import CRASHES, FAILS, MARK, said

SECRET = (201, 173, 249, 118, 222, 187)
KEY, STRANGERS_KEY = secret_of(b"canary in the key file, 32 bytes"), secret_of(b"canary of somebody else, unknown")


def canaries() -> dict[str, re.Pattern[str]]:
    """Return what must be nowhere, by what it is: ids, two of them in a row, in whatever notation; words; keys."""
    found = {"what an error said": re.escape(MARK)}
    for one, two in pairwise(SECRET):
        data = bytes((one, two))
        found |= {
            f"the ids {one} and {two}": rf"\b{one}[^0-9a-zA-Z]{{1,4}}{two}\b",
            f"{one} and {two} in hex": rf"{data.hex()}|{one:08x}{two:08x}|{one:02x}000000{two:02x}000000",
            f"{one} and {two} as bytes": re.escape(repr(data)[2:-1]),
            f"{one} and {two} as words": rf"w{one} w{two}",
        }
    for name, key in (("the key", KEY), ("a stranger's key", STRANGERS_KEY)):
        raw = key.removeprefix("adk_")
        found[name] = "|".join(
            map(re.escape, (raw[:12], raw[-12:], base64.b64encode(key.encode()).decode()[:16], key.encode().hex()[:24]))
        )
    found["ids in base64"] = re.escape(base64.b64encode(bytes(SECRET)).decode().rstrip("="))
    return {name: re.compile(pattern, re.IGNORECASE if "hex" in name else 0) for name, pattern in found.items()}


@dataclass(slots=True)
class Heard:
    """All that anybody could read, by where it was."""

    texts: dict[str, str] = field(default_factory=dict)

    def leaks(self) -> list[str]:
        return [
            f"{name} in {where}: {hit.string[max(0, hit.start() - 80) : hit.end() + 40]!r}"
            for where, text in self.texts.items()
            for name, pattern in canaries().items()
            if (hit := pattern.search(text))
        ]


def words(*ids: int) -> str:
    return " ".join(f"w{token}" for token in ids)


@dataclass(slots=True)
class Edge:
    process: subprocess.Popen[str]
    address: str
    metrics: str
    log: Path


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRDRAFT_")}
    return kept | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def edge(tmp_path: Path, home: dict[str, str]) -> Iterator[Edge]:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "wrong").write_text(STRANGERS_KEY)
    (tmp_path / "keys.toml").write_text(
        f'[[key]]\ntenant = "house"\nsha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\n'
        'scopes = ["describe", "generate", "health", "reflect"]\n'
    )
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.system.sly_edge", "serve", "--port", "0", "--metrics-port", "0"),
                *("--keys", str(tmp_path / "keys.toml"), "--edge-draft-model", "ngram", "--head", "none"),
            ],
            stdout=subprocess.PIPE, stderr=stderr, text=True, env=home,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening "), log.read_text()
        metrics = re.search(r"metrics on (http://\S+)/metrics", log.read_text())
        assert metrics is not None
        yield Edge(process, line.split()[1], metrics.group(1), log)
    finally:
        process.kill()
        process.communicate()


def device(edge: Edge, home: dict[str, str], key: Path, prompt: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "device_client", "generate", prompt, "--edge", edge.address, "--max-tokens", "6"),
            *("--key-file", str(key), "--reconnect-seconds", "2"),
        ],
        capture_output=True, text=True, env=home, timeout=60, check=False,
    )  # fmt: skip


def open_frame(**changes: Any) -> pb.DeviceFrame:
    prompt = (1, *SECRET)
    from airdraft.core.tokenizer_digest import tokenizer_digest
    from airdraft.core.types import SAMPLER_VERSION
    from tests.system.sly_edge import tokenizer_json

    identity = pb.Identity(
        model_digest=bytes(32), tokenizer_digest=tokenizer_digest(tokenizer_json()), sampler_version=SAMPLER_VERSION
    )
    fields: dict[str, Any] = {
        "protocol_version": 1, "session_id": bytes(16), "epoch": 1, "identity": identity, "max_tokens": 4,
        "prompt_length": len(prompt), "length": len(prompt), "digest": ids_digest(prompt), "prefix_start": 0,
    }  # fmt: skip
    return pb.DeviceFrame(open=pb.Open(**fields | changes))


def hostile() -> Iterator[tuple[bytes, ...]]:
    """Yield streams with canaries that no edge can serve."""
    opened, prefix = open_frame(), pb.DeviceFrame(prefix=pb.Prefix(epoch=1, ids=(1, *SECRET)))
    told = words(*SECRET)
    for frames in (
        (open_frame(digest=bytes(SECRET).ljust(32, b"x")), prefix),
        (opened, pb.DeviceFrame(prefix=pb.Prefix(epoch=1, ids=(*SECRET, 300, 301)))),
        (opened, prefix, pb.DeviceFrame(draft=pb.Draft(epoch=1, seq=1, acked=7, base_hash=9, ids=(*SECRET, 999)))),
        (opened, prefix, pb.DeviceFrame(draft=pb.Draft(epoch=1, seq=9, acked=7, base_hash=9, ids=SECRET))),
        (opened, prefix, pb.DeviceFrame(draft=pb.Draft(epoch=1, seq=1, acked=7, ids=SECRET, parents=(9,) * 6))),
        (open_frame(stop_ids=(*SECRET, 400)),),
        (open_frame(identity=pb.Identity(model_digest=bytes(SECRET) * 5 + b"xy", sampler_version=told)),),
        (open_frame(semantic=pb.Semantic(max_loss=0.01, rule=told, drafter_digest=bytes(SECRET))),),
        (open_frame(receipt=bytes(SECRET) * 9),),
        (prefix,),
    ):
        yield tuple(frame.SerializeToString() for frame in frames)
    yield (opened.SerializeToString(), b"\x0a\xff\xff\xff" + bytes(SECRET))
    yield (b"\xff" + told.encode(),)


async def refusals(edge: Edge) -> str:
    """Return all that an edge says to hostile streams, its frames as bytes and as text."""
    heard: list[str] = []
    bearers = {"ours": KEY, "nobody's": STRANGERS_KEY, "no key at all": words(*SECRET), "none": ""}
    async with grpc.aio.insecure_channel(edge.address) as channel:
        for frames, bearer in [
            *((one, KEY) for one in hostile()),
            *((next(hostile()), one) for one in bearers.values()),
        ]:
            call: Any = channel.stream_stream("/airdraft.v1.Verification/Generate")(
                metadata=(("authorization", f"Bearer {bearer}"),)
            )
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
                for frame in frames:
                    await call.write(frame)
                async with asyncio.timeout(10):
                    async for answer in call:
                        with suppress(Exception):
                            heard.append(str(pb.EdgeFrame.FromString(answer).refused))
                        if pb.EdgeFrame.FromString(answer).HasField("refused"):
                            await call.done_writing()
            heard += [str(await call.code()), await call.details(), str(await call.trailing_metadata())]
        for method in ("/airdraft.v1.Verification/Describe", "/nobody.knows/" + f"w{SECRET[0]}"):
            asked: Any = channel.unary_unary(method)
            try:
                heard.append(repr(await asked(bytes(SECRET), metadata=(("authorization", f"Bearer {KEY}"),))))
            except grpc.aio.AioRpcError as error:
                heard.append(str(error))
    return "\n".join(heard)


def page(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return f"{answer.headers}{answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.headers}{error.read().decode()}"


def test_the_canaries_would_be_found() -> None:
    for text in (said(SECRET), words(*SECRET), KEY, f"ids {SECRET[1]}, {SECRET[2]}", bytes(SECRET).hex(), str(SECRET)):
        assert Heard({"here": f"an error: {text}"}).leaks()
    assert not Heard({"here": "201 sessions, 173 of them"}).leaks()


@pytest.mark.slow
def test_nothing_of_a_prompt_or_a_key_is_told_to_anybody(edge: Edge, home: dict[str, str], tmp_path: Path) -> None:
    heard, key, wrong = Heard(), tmp_path / "key", tmp_path / "wrong"
    codes = {}
    for name, file, ids in (
        ("a text", key, (1, *SECRET)),
        ("a wrong key", wrong, (1, *SECRET)),
        ("a pass that fails", key, (1, *SECRET, FAILS, *SECRET)),
        ("an engine that crashes", key, (1, *SECRET, CRASHES, *SECRET)),
        ("a text after that", key, (1, *SECRET)),
    ):
        while page(f"{edge.metrics}/health").splitlines()[-1] != "serving":
            time.sleep(0.1)
        done = device(edge, home, file, words(*ids))
        codes[name] = done.returncode
        heard.texts[f"stderr of the device, {name}"] = done.stderr
        if done.returncode:
            heard.texts[f"stdout of the device, {name}"] = done.stdout
    heard.texts["refusals"] = asyncio.run(refusals(edge))
    for name in ("metrics", "health", f"w{SECRET[0]} w{SECRET[1]}".replace(" ", "%20")):
        heard.texts[f"the page {name}"] = page(f"{edge.metrics}/{name}")
    edge.process.terminate()
    edge.process.wait(30)
    log = heard.texts["the log of the edge"] = edge.log.read_text()
    assert heard.leaks() == []
    assert (codes["a text"], codes["a text after that"]) == (0, 0), heard.texts
    assert all(codes[name] for name in ("a wrong key", "a pass that fails")), codes
    assert "RuntimeError" in log  # what happened is in the log all the same, and where
    assert "ValueError" in log
    assert "sly_edge.py" in log
    assert "the engine ended with status 70" in log
    for name in ("MALFORMED", "UNAUTHENTICATED"):
        assert name in heard.texts["refusals"], heard.texts["refusals"]
