"""Harnesses of files, credentials and queues: what is read once, and not as frames."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.callers import Caller, Scope
from airdraft.core.errors import Unauthenticated
from airdraft.core.types import HiddenProtocol, Identity, Sampling, Semantic, Span, StopReason
from airdraft.manifest import Manifest
from airdraft.settings import SettingsError
from device_client.config import DeviceSettings
from device_client.journal_lines import (
    CommitRecord,
    EpochRecord,
    Head,
    head_line,
    is_whole,
    read_head,
    read_record,
    record_line,
)
from edge_node.config import EdgeSettings
from edge_node.engine_messages import BadFrame, FrameSplitter, Load, Loaded, Progress, framed, read_answer, read_ask
from edge_node.heads import HeadRefused, load_head
from edge_node.step import Drafted, DraftItem, DraftStep, Extent, Fill, Item, Outcome, Step, StepDone
from fuzz.edge_core import must

DEMO_HEADS = Path(__file__).resolve().parents[1] / "models" / "demo" / "heads"


@contextmanager
def _file(content: bytes, name: str) -> Iterator[Path]:
    with TemporaryDirectory(prefix="airdraft-fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def _one_line(error: Exception) -> None:
    must(str(error).isprintable() and len(str(error)) < 4000, "an error that is no line")


# ---- the journal ----


def journal(data: bytes) -> None:
    """A body with a right checksum, as a first line and as a later one; and the bytes as they are."""
    if is_whole(data):
        data = data[9:-1]
    line = b"%08x %s\n" % (crc32(data), data)
    must(is_whole(line), "a line with its checksum is torn")
    try:
        head = read_head(line)
    except ValueError as error:
        must(len(str(error)) < 1000, "an error of many words")
    else:
        must(read_head(head_line(head)) == head, "a head that its line changes")
    try:
        record = read_record(line)
    except ValueError:
        return
    must(read_record(record_line(record)) == record, "a record that its line changes")


def journal_seeds() -> Iterable[bytes]:
    """Return lines of every kind."""
    head = Head(
        *(bytes(16), Identity(bytes(32), bytes(range(32))), Sampling(0.7, 1 << 63, 40, 0.9), (1, 2), 64, (3, 4, 5)),
        *(("127.0.0.1:50051", "[::1]:1"), "ngram", None, 4, "demo"),
    )
    semantic = Semantic(0.01, "head", HiddenProtocol.FULL_HIDDEN)
    for one in (head, Head(**{name: getattr(head, name) for name in head.__slots__} | {"semantic": semantic})):
        yield head_line(one)[9:-1]
    yield record_line(EpochRecord(7))[9:-1]
    yield record_line(CommitRecord(3, (1, 2, 3), bytes(24), StopReason.MAX_TOKENS))[9:-1]
    yield record_line(CommitRecord(0, (), b"", None))[9:-1]
    yield b"[" * 2000


# ---- models ----


def manifest(data: bytes) -> None:
    """The text of a manifest; what it lists lies below its folder."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        found = Manifest.of(text, Path("/nonexistent"))
    except CheckpointRefused as error:
        _one_line(error)
        return
    for name, digest in found.digests.items():
        inside = not name.startswith("/") and ".." not in name.split("/")
        must(inside and len(digest) == 32, "a manifest that leaves its folder")


def manifest_seeds() -> Iterable[bytes]:
    """Return manifests, good ones and others."""
    digest = hashlib.sha256(b"x").hexdigest().encode()
    yield digest + b"  config.json\n" + digest[::-1] + b"  heads/a.safetensors\n"
    yield digest + b" *model.safetensors"
    for path in (b"../x", b"/etc/passwd", b"a/../../b", b".", b"a//b", b"\\x"):
        yield digest + b"  " + path + b"\n"


def head(data: bytes) -> None:
    """A file of a semantic head."""
    with _file(data, "head.safetensors") as path:
        try:
            found = load_head(path)
        except HeadRefused as error:
            _one_line(error)
            return
    must(0.0 <= found.tail.risk([0.0] * found.tail.width) <= 1.0, "a head whose risk is no chance")


def head_seeds() -> Iterable[bytes]:
    """Return the smallest head of the demo models, and files that only begin like one."""
    heads = sorted(DEMO_HEADS.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    if heads:
        yield heads[0].read_bytes()
    for header in (b"{}", b'{"__metadata__":{"airdraft_head":"' + b"[" * 5000 + b'"}}', b'{"a":1}'):
        yield len(header).to_bytes(8, "little") + header
    yield bytes(8)
    yield b"\xff" * 8


# ---- identity ----


def keys(data: bytes) -> None:
    """A key file."""
    from airdraft.identity.keys import read_keys
    from airdraft.identity.watched import IdentityFileError

    try:
        table = read_keys(Path("keys.toml"), data)
    except IdentityFileError as error:
        _one_line(error)
        return
    for digest, key in table.keys.items():
        must(len(digest) == 32 and bool(key.caller.scopes) and bool(key.caller.tenant), "a key that says nothing")


def key_seeds() -> Iterable[bytes]:
    """Return key files."""
    from airdraft.identity.keys import entry_of, secret_of

    entries = [
        entry_of(secret, f"house-{number}", list(Scope), allowance={"positions_s": 5.0}, until=None, certificate=None)
        for number, secret in enumerate((secret_of(bytes(32)), secret_of(bytes(range(32)))))
    ]
    yield "\n".join(entries).encode()
    bound = entry_of(
        secret_of(bytes(32)), "a", [Scope.GENERATE], allowance={}, until=date(2027, 1, 31), certificate=bytes(32)
    )
    yield bound.encode()
    yield entries[0].encode() + b"until = 2027-01-31\n"
    yield b"[[key]]\nuntil = 9999-12-31T23:59:59-23:59\n"
    yield b"key = 1"
    yield b"a = " + b"[" * 3000


_NOW_S = 1_800_000_000.0


@cache
def _gate_files() -> tuple[bytes, tuple[str, ...]]:
    """Return an issuers' file and bearers that hold at ``_NOW_S``."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from airdraft.identity.tokens import Issuer

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    issuer, caller = Issuer(key), Caller("house", frozenset({Scope.GENERATE}), None, _NOW_S + 300)
    tokens = [
        issuer.sign(caller, now_s=_NOW_S, token_id="1", thumbprint=thumbprint) for thumbprint in (None, bytes(32))
    ]
    return public, tuple(tokens)


def bearer(data: bytes) -> None:
    """A bearer, a newline, a certificate: nobody is let in but with the very token that was signed."""
    from airdraft.identity.keys import read_keys
    from airdraft.identity.thumbprints import thumbprint_of
    from airdraft.identity.tokens import read_issuers

    public, tokens = _gate_files()
    shown, _, certificate = data.partition(b"\n")
    text = shown.decode("latin-1")
    issuers = read_issuers(Path("issuers.pem"), public)
    table = read_keys(Path("keys.toml"), next(iter(key_seeds())))
    try:
        thumbprint = thumbprint_of(certificate) if certificate else b""
    except ValueError:
        thumbprint = b""
    finds: tuple[Callable[[], Caller | None], ...] = (
        lambda: issuers.verify(text, thumbprint, _NOW_S, must_be_bound=False),
        lambda: table.find(text, thumbprint, _NOW_S),
    )
    for find in finds:
        try:
            caller = find()
        except Unauthenticated as error:
            _one_line(error)
            continue
        # Base64 leaves bits of its last letter unread: a token may be spelt in several ways.
        signed = text.rpartition(".")[0] in {token.rpartition(".")[0] for token in tokens}
        must(caller is None or signed or text.startswith("adk_"), "a token that nobody signed was taken")


def bearer_seeds() -> Iterable[bytes]:
    """Return bearers, good ones and forged ones."""
    from airdraft.identity.keys import secret_of

    _, tokens = _gate_files()
    for token in tokens:
        yield token.encode()
        yield token.encode()[:-8]
    yield secret_of(bytes(32)).encode() + b"\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    yield b"eyJhbGciOiJub25lIn0.e30."
    yield b"adk_"


def issuers(data: bytes) -> None:
    """A file of public keys, and of a private one."""
    from airdraft.identity.tokens import read_issuer, read_issuers
    from airdraft.identity.watched import IdentityFileError

    for read in (read_issuers, read_issuer):
        try:
            read(Path("issuers.pem"), data)
        except IdentityFileError as error:
            _one_line(error)


def issuer_seeds() -> Iterable[bytes]:
    """Return such files."""
    public, _ = _gate_files()
    yield public
    yield public + public
    yield public.replace(b"PUBLIC", b"PRIVATE")
    yield public[:40]


# ---- settings ----


def settings(data: bytes) -> None:
    """A TOML file for each process."""
    with _file(data, "airdraft.toml") as path:
        for kind in (EdgeSettings, DeviceSettings):
            try:
                kind.load({}, path)
            except SettingsError as error:
                must("\n" not in str(error), "an error of several lines")


def settings_seeds() -> Iterable[bytes]:
    """Return settings, good ones and others."""
    yield b'[edge_node]\nmodel = "demo"\nport = 0\nhead = ["none"]\nmost_loss = 0.01\n'
    yield b'[device_client]\nedge = ["127.0.0.1:1"]\ntemperature = 0.5\n[edge_node]\ndrain_to = "a:1, b:2"\n'
    yield b"edge_node = 3\n[device_client]\nseed = 18446744073709551616\n"
    yield b"\xff\xfe"
    yield b"a = " + b"[" * 3000


# ---- the queue ----


def queue(data: bytes) -> None:
    """A stream of frames of the queue: cut as it comes, and each read as a question and as an answer."""
    splitter = FrameSplitter()
    payloads = [data[4:]]
    try:
        half = len(data) // 2
        payloads += [*splitter.fed(data[:half]), *splitter.fed(data[half:])]
    except BadFrame:
        pass
    for payload in payloads[:20]:
        for read in (read_ask, read_answer):
            try:
                message = read(payload)
            except BadFrame:
                continue
            must(bool(framed(message)), "a message that has no frame")


def queue_seeds() -> Iterable[bytes]:
    """Return messages of every kind, alone and one after the other."""
    span = Span(0, (1, 2, 3), (-1, 0, 0), wanted=(0, 1, 2), gather=())
    item = Item(Extent(0, 64), span, Sampling(0.7, 1 << 63), ((1,), (1, 2)), True)
    messages = [
        framed(Load("demo", heads=("a",))),
        framed(Step(1, (item,), (Fill(0, 4), Fill(4, 4, 0)))),
        framed(DraftStep(2, (DraftItem(1, Sampling(), (1, 2), 4),), (3,))),
        framed(Loaded("demo", bytes(32), bytes(32), "{}", None, (1,), 50, 4096, "fast", 10, 8)),
        framed(Progress("loading")),
        framed(StepDone(1, (Outcome((1, 2), (0,)), Outcome(failure="no")), 4, 4, 0.1)),
        framed(Drafted(2, ((1, 2), ()), 0.1)),
    ]
    yield from messages
    yield b"".join(messages)
    yield b"\xff\xff\xff\xff"
    yield b"\0\0\0\x02\xc1\xc1"
    yield messages[4].replace(b"loading", b"\xff" * 7)
