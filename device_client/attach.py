"""Meeting an edge: what it serves, and its tokenizer, kept on the device by digest."""

from __future__ import annotations

import os
from pathlib import Path

from tokenizers import Tokenizer

from airdraft.core.errors import EdgeFault, UnsupportedVersion
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import PROTOCOL_VERSION, SAMPLER_VERSION
from airdraft.wire.access import Access
from airdraft.wire.client import EdgeConnection
from airdraft.wire.describe import Description
from airdraft.wire.tls import ChannelTls
from device_client.config import DeviceSettings


def cache_folder() -> Path:
    """Return where tokenizers are kept: the user's cache folder, by the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "airdraft" / "tokenizers"


def access_of(settings: DeviceSettings) -> Access:
    """Return how edges are met; its files are there and can be used now. Raises TlsRefused, KeyRefused."""
    tls = ChannelTls(settings.tls_ca, settings.tls_cert, settings.tls_key) if settings.over_tls else None
    access = Access(tls, settings.key_file, settings.insecure)
    access.check()
    return access


async def meet(connection: EdgeConnection, cache: Path, timeout_s: float) -> tuple[Description, Tokenizer]:
    """Return what the edge serves and its tokenizer, from the cache where it is known.

    Raises EdgeUnreachable, EdgeFault, UnsupportedVersion, Unauthenticated, Forbidden.
    """
    description = await connection.describe(timeout_s=timeout_s)
    if PROTOCOL_VERSION not in description.protocol_versions or SAMPLER_VERSION not in description.sampler_versions:
        raise UnsupportedVersion(
            f"edge {connection.address} speaks protocol {description.protocol_versions} and samples by "
            f"{description.sampler_versions}; this device needs {PROTOCOL_VERSION} and {SAMPLER_VERSION}: update one"
        )
    kept = kept_tokenizer(cache, description.tokenizer_digest)
    if kept is None:
        full = await connection.describe(include_tokenizer=True, timeout_s=max(timeout_s, 60.0))
        text = full.tokenizer_json
        if not _is(text, description.tokenizer_digest):
            raise EdgeFault(f"edge {connection.address} sent a tokenizer that is not the one it announced")
        _keep(_file(cache, description.tokenizer_digest), text)
        kept = Tokenizer.from_str(text)
    return description, kept


def kept_tokenizer(cache: Path, digest: bytes) -> Tokenizer | None:
    """Return a tokenizer that an edge has sent before, by its digest; None where it is not known."""
    known = _file(cache, digest)
    text = known.read_text() if known.exists() else ""
    return Tokenizer.from_str(text) if _is(text, digest) else None


def _file(cache: Path, digest: bytes) -> Path:
    return cache / f"{digest.hex()}.json"


def _is(text: str, digest: bytes) -> bool:
    try:
        return bool(text) and tokenizer_digest(text) == digest
    except ValueError:
        return False


def _keep(path: Path, text: str) -> None:
    """Write the file as a whole or not at all; a device without room goes on without a cache."""
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
