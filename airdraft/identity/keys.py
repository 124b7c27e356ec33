"""Static keys: secrets that a small set-up hands out by hand, and the file by which an edge knows them.

The file is TOML, a ``[[key]]`` table for each, and holds digests only; who reads it learns no secret::

    [[key]]
    tenant = "house"
    sha256 = "…"                         # of the secret's text
    scopes = ["describe", "generate"]
    until = 2027-01-31                   # optional: from this moment on it no longer holds
    certificate = "…"                    # optional: SHA-256 of the one client certificate that it may come with
    [key.allowance]                      # optional: see Allowance
    positions_s = 200
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import math
import re
import tomllib
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, ValidationError

from airdraft.core.callers import Caller, Scope
from airdraft.core.errors import Unauthenticated
from airdraft.identity.grants import Grant, HexDigest, fault, tenant_name
from airdraft.identity.watched import IdentityFileError

SECRET_PREFIX = "adk_"
"""How a key begins, by which it is told from a token, and by which scanners find one that got out."""

SECRET_BYTES = 32


def secret_of(random: bytes) -> str:
    """Return the text of a key of ``SECRET_BYTES`` random bytes."""
    if len(random) != SECRET_BYTES:
        raise ValueError(f"a key is made of {SECRET_BYTES} bytes, not {len(random)}")
    return SECRET_PREFIX + urlsafe_b64encode(random).rstrip(b"=").decode()


def digest_of(secret: str) -> bytes:
    """Return what a key file keeps of a secret: plain SHA-256, since 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a key file."""

    caller: Caller
    certificate: bytes | None  # thumbprint of the one client certificate that it may come with; None: any


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The keys that an edge knows, by their digests."""

    keys: Mapping[bytes, Key] = field(repr=False)

    def find(self, secret: str, thumbprint: bytes, now_s: float) -> Caller | None:
        """Return whose key this is; None where it is nobody's, or does not come with its certificate.

        thumbprint  of the client certificate of the connection, empty where there is none
        now_s       seconds since 1970

        Raises Unauthenticated for a key that is over.
        """
        key = self.keys.get(digest_of(secret))
        if key is None or not (key.certificate is None or hmac.compare_digest(key.certificate, thumbprint)):
            return None
        if now_s >= key.caller.until_s:
            raise Unauthenticated(
                "this key is over, by its date in the edge's key file; ask the operator for a new one"
            )
        return key.caller


def read_keys(path: Path, content: bytes) -> KeyTable:
    """Return the table of a key file; ``path`` is for errors. Raises IdentityFileError."""
    entries = _entries(path, content)
    keys: dict[bytes, Key] = {}
    for number, entry in enumerate(entries, 1):
        place = f"{path}: key {number}"
        try:
            key = _Entry.model_validate(entry)
        except ValidationError as error:
            raise IdentityFileError(f"{place}: {fault(error, _Entry)}") from None
        if key.sha256 in keys:
            raise IdentityFileError(f"{place} ({key.tenant}): this digest was there already; every key has its own")
        keys[key.sha256] = Key(key.caller(), key.certificate)
    return KeyTable(MappingProxyType(keys))


def entry_of(
    secret: str,
    tenant: str,
    scopes: Collection[Scope],
    *,
    allowance: Mapping[str, float],
    until: datetime.date | None,
    certificate: bytes | None,
) -> str:
    """Return the lines of a key file for a secret.

    allowance    those fields that are given
    certificate  thumbprint of the one client certificate that it may come with

    Raises ValueError for a name that no tenant may have.
    """
    lines = ["[[key]]", f'tenant = "{tenant_name(tenant)}"', f'sha256 = "{digest_of(secret).hex()}"']
    lines.append(f"scopes = {[str(scope) for scope in sorted(scopes)]}".replace("'", '"'))
    if until is not None:
        lines.append(f"until = {until:%Y-%m-%d}")
    if certificate is not None:
        lines.append(f'certificate = "{certificate.hex()}"')
    if allowance:
        lines.append("[key.allowance]")
        lines += [f"{name} = {value!r}" for name, value in allowance.items()]
    return "\n".join(lines) + "\n"


def _moment(value: object) -> object:
    """Return a TOML date, or date and time with an offset, as seconds since 1970; a date begins at 0:00 UTC."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.timestamp()
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC).timestamp()
    raise ValueError("must be a date like 2027-01-31, or a date and time with an offset like 2027-01-31T12:00:00Z")


class _Entry(Grant):
    sha256: HexDigest
    until: Annotated[float, BeforeValidator(_moment)] = math.inf
    certificate: HexDigest | None = None

    def caller(self) -> Caller:
        allowance = None if self.allowance is None else self.allowance.allowance()
        return Caller(self.tenant, self.scopes, allowance, self.until)


def _entries(path: Path, content: bytes) -> list[object]:
    try:
        tables = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        # The place alone: the rest of the text may show a name, and so a secret in the wrong spot.
        place = re.search(r"\(at [a-z0-9, ]+\)", str(error))
        raise IdentityFileError(f"{path}: not TOML {place[0] if place else ''}".rstrip()) from None
    entries = tables.pop("key", [])
    if tables or not isinstance(entries, list):
        raise IdentityFileError(f"{path}: holds something else than [[key]] tables")
    return entries
