"""Short-lived tokens: signed by an issuer that edges know by its public key, bound to a client certificate.

A token is a JWT (RFC 7519) with an Ed25519 signature (RFC 8037) and no other. Its header's ``kid`` and its ``iss`` name
its issuer by the digest of the public key, so that an edge that knows several never has to try them. ``cnf`` holds the
thumbprint of the client certificate that it comes with (RFC 8705 §3.1): stolen alone, it is worth nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BeforeValidator, Field, ValidationError

from airdraft.core.callers import Caller
from airdraft.core.errors import Unauthenticated
from airdraft.identity.grants import Grant, Scopes, Strict, fault
from airdraft.identity.watched import IdentityFileError

AUDIENCE = "airdraft-edge"
MAX_LIFETIME_S = 600
LEEWAY_S = 30
"""How far the clocks of an issuer and of an edge may be apart."""

_ALGORITHM = "EdDSA"
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class Issuer:
    """Signs tokens with an Ed25519 private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.name = issuer_name(key.public_key())

    def sign(self, caller: Caller, *, now_s: float, token_id: str, thumbprint: bytes | None) -> str:
        """Return a token that says what ``caller`` holds, until ``caller.until_s``.

        now_s       seconds since 1970; the token holds from then on
        token_id    ``jti``: another for every token
        thumbprint  of the client certificate that it is bound to; None for an edge that asks for none

        Raises ValueError where no edge would take it: too long-lived, or over at once.
        """
        start_s, end_s = int(now_s), int(min(caller.until_s, now_s + 2 * MAX_LIFETIME_S))
        if not start_s < end_s <= start_s + MAX_LIFETIME_S:
            raise ValueError(f"a token lives between 1 and {MAX_LIFETIME_S} seconds")
        claims: dict[str, Any] = {
            "iss": self.name,
            "aud": AUDIENCE,
            "iat": start_s,
            "nbf": start_s,
            "exp": end_s,
            "jti": token_id,
            "tenant": caller.tenant,
            "scope": " ".join(sorted(caller.scopes)),
        }
        if caller.allowance is not None:
            claims["allowance"] = asdict(caller.allowance)
        if thumbprint is not None:
            claims["cnf"] = {"x5t#S256": _base64url(thumbprint)}
        try:
            _Claims.model_validate(claims)
        except ValidationError as error:
            raise ValueError(fault(error, _Claims)) from None
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self.name})


@dataclass(frozen=True, slots=True)
class Issuers:
    """The issuers whose tokens an edge takes, by their names."""

    keys: Mapping[str, Ed25519PublicKey] = field(repr=False)

    def verify(self, token: str, thumbprint: bytes, now_s: float, *, must_be_bound: bool) -> Caller | None:
        """Return whose token this is; None where it does not hold, or does not come with its certificate.

        thumbprint     of the client certificate of the connection, empty where there is none
        now_s          seconds since 1970, by the edge's clock
        must_be_bound  refuse a token that names no certificate

        Raises Unauthenticated, telling why, where its rightful holder comes too late or too early.
        """
        claims = self._claims(token)
        if claims is None:
            return None
        if claims.cnf is None:
            if must_be_bound:
                return None
        elif not hmac.compare_digest(claims.cnf.thumbprint, thumbprint):
            return None
        claims.check_times(now_s)
        return claims.caller()

    def _claims(self, token: str) -> _Claims | None:
        try:
            name = jwt.get_unverified_header(token).get("kid")
            key = self.keys.get(name) if isinstance(name, str) else None
            if key is None:
                return None
            # Times are checked here, by a clock that is an argument.
            options: jwt.types.Options = {
                "require": ["exp", "iat", "nbf", "aud", "iss", "jti", "tenant", "scope"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            }
            content = jwt.decode(token, key, algorithms=[_ALGORITHM], audience=AUDIENCE, issuer=name, options=options)
            claims = _Claims.model_validate(content)
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        return claims if 0 < claims.exp - claims.iat <= MAX_LIFETIME_S else None


def issuer_name(key: Ed25519PublicKey) -> str:
    """Return the name of an issuer: the SHA-256 of its public key's DER form, in base64url."""
    return _base64url(hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest())


def new_issuer() -> tuple[bytes, bytes]:
    """Return the private and the public key of a new issuer, in PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_issuers(path: Path, content: bytes) -> Issuers:
    """Return the issuers of a file of public keys in PEM, one or several. Raises IdentityFileError."""
    keys: dict[str, Ed25519PublicKey] = {}
    for number, block in enumerate(_PEM_BLOCK.finditer(content), 1):
        place = f"{path}: block {number}"
        if block[1] != b"PUBLIC KEY":
            raise IdentityFileError(f"{place}: no public key; put issuer.pem here, and never issuer.key")
        try:
            key = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm):
            raise IdentityFileError(f"{place}: a public key that cannot be read") from None
        if not isinstance(key, Ed25519PublicKey):
            raise IdentityFileError(f"{place}: not an Ed25519 key; make one with coordinator issuer init")
        if issuer_name(key) in keys:
            raise IdentityFileError(f"{place}: this key was there already; keep one of them")
        keys[issuer_name(key)] = key
    if not keys:
        raise IdentityFileError(f"{path}: no public key in PEM")
    return Issuers(MappingProxyType(keys))


def read_issuer(path: Path, content: bytes) -> Issuer:
    """Return the issuer of a file with its private key in PEM. Raises IdentityFileError."""
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityFileError(f"{path}: no private key in PEM without a passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityFileError(f"{path}: not an Ed25519 key; make one with coordinator issuer init")
    return Issuer(key)


def _base64url(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def _words(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be words with spaces between")
    return value.split(" ")


_Seconds = Annotated[int, Field(ge=0, le=1 << 40)]


class _Confirmation(Strict):
    digest: Annotated[str, Field(alias="x5t#S256", pattern=r"^[A-Za-z0-9_-]{43}$")]

    @property
    def thumbprint(self) -> bytes:
        return urlsafe_b64decode(self.digest + "=")


class _Claims(Grant):
    """What a token must say and may say. A claim that is not known could be a limit, and is refused."""

    iss: str
    aud: Literal["airdraft-edge"]
    iat: _Seconds
    nbf: _Seconds
    exp: _Seconds
    jti: Annotated[str, Field(min_length=1, max_length=64)]
    scopes: Annotated[Scopes, Field(alias="scope"), BeforeValidator(_words)]
    cnf: _Confirmation | None = None

    def check_times(self, now_s: float) -> None:
        """Raise Unauthenticated where the token is over or has not begun; its signature is known to hold."""
        if now_s >= self.exp + LEEWAY_S:
            raise Unauthenticated(
                f"the token is over since {now_s - self.exp:.0f} s by this edge's clock; get a new one, and if it is "
                "new, set the clocks of its issuer and of this edge right"
            )
        early_s = max(self.iat, self.nbf) - now_s
        if early_s > LEEWAY_S:
            raise Unauthenticated(
                f"the token begins in {early_s:.0f} s by this edge's clock; set the clocks of its issuer and of this "
                "edge right"
            )

    def caller(self) -> Caller:
        allowance = None if self.allowance is None else self.allowance.allowance()
        return Caller(self.tenant, self.scopes, allowance, self.exp + LEEWAY_S)
