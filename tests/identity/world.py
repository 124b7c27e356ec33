"""What the tests of identity share: a clock that is turned by hand, certificates, tokens of any content."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from airdraft.identity.gate import Gate
from airdraft.identity.keys import SECRET_BYTES, entry_of, secret_of
from airdraft.identity.tokens import AUDIENCE, issuer_name
from coordinator.certs import Authority, Use, device_names, server_names

NOW_S = 1_800_000_000.0
NOW = datetime.fromtimestamp(NOW_S, UTC)

SECRET = secret_of(bytes(range(SECRET_BYTES)))
OTHER_SECRET = secret_of(bytes(SECRET_BYTES))


@dataclass(slots=True)
class Clock:
    """Seconds, turned by hand."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


@dataclass(slots=True)
class World:
    """A gate, the clocks and files that it reads, and what it reported."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    monotonic: Clock = field(default_factory=Clock)
    reports: list[str] = field(default_factory=list)
    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def keys(self) -> Path:
        return self.folder / "keys.toml"

    @property
    def issuers(self) -> Path:
        return self.folder / "issuers.pem"

    def gate(self, *, keys: bool = False, issuers: bool = False, wants_certificate: bool = False) -> Gate:
        """Return a gate over the files that it should read."""
        return Gate(
            keys=self.keys if keys else None,
            issuers=self.issuers if issuers else None,
            wants_certificate=wants_certificate,
            clock=self.clock,
            monotonic=self.monotonic,
            report=self.reports.append,
        )

    def issuer_gate(self, *, wants_certificate: bool = False) -> Gate:
        """Return a gate that takes the tokens of ``signing``."""
        self.issuers.write_bytes(public_pem(self.signing))
        return self.gate(issuers=True, wants_certificate=wants_certificate)

    def later(self, seconds: float = 1.0) -> None:
        """Let the gate look at its files again."""
        self.monotonic.now_s += seconds

    def claims(self, **other: object) -> dict[str, Any]:
        """Return a good token's claims, with others in their place; None leaves one out."""
        claims: dict[str, Any] = {
            "iss": issuer_name(self.signing.public_key()),
            "aud": AUDIENCE,
            "iat": int(NOW_S),
            "nbf": int(NOW_S),
            "exp": int(NOW_S) + 600,
            "jti": "one",
            "tenant": "house",
            "scope": "describe generate",
        }
        return {name: value for name, value in (claims | other).items() if value is not None}

    def token(self, key: Ed25519PrivateKey | None = None, **other: object) -> str:
        """Return a token of these claims, signed as a good one is, or with another key under the good one's name."""
        name = issuer_name(self.signing.public_key())
        return jwt.encode(self.claims(**other), key or self.signing, algorithm="EdDSA", headers={"kid": name})


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """Return the public half."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def entry(secret: str = SECRET, tenant: str = "house", **other: Any) -> str:
    """Return a key file's lines."""
    given: dict[str, Any] = {"allowance": {}, "until": None, "certificate": None}
    return entry_of(secret, tenant, other.pop("scopes", ["generate"]), **(given | other))


def authority(number: int = 0) -> Authority:
    """Return one of some authorities; the same for the same number."""
    return _authority(number)


@cache
def _authority(number: int) -> Authority:
    return Authority.new(NOW)


def certificate(use: Use = Use.DEVICE, number: int = 0, of: int = 0) -> x509.Certificate:
    """Return one of some certificates, of an authority's; the same for the same arguments."""
    return _certificate(use, number, of)


@cache
def _certificate(use: Use, number: int, of: int) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    names = device_names("phone") if use is Use.DEVICE else server_names(["edge.home", "127.0.0.1", "::1"])
    return _authority(of).certify("phone", names, use, key, NOW, 365)


def pem(one: x509.Certificate) -> bytes:
    """Return it as gRPC hands it on."""
    return one.public_bytes(Encoding.PEM)
