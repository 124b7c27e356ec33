"""A private certificate authority: one key that signs the certificates of edges and of devices (RFC 5280).

Keys are EC P-256. An edge's certificate is good for servers only, a device's for clients only, so that a stolen device
cannot pose as an edge. Whoever holds ``ca.key`` can make devices and edges; it is needed here and on no edge.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from airdraft.identity.thumbprints import thumbprint
from coordinator.private_files import PRIVATE, PUBLIC, create_private, replace

AUTHORITY_DAYS = 3650
BACKDATED = timedelta(hours=1)
"""How far before now a certificate begins, for machines whose clocks are behind."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


class Use(Enum):
    """What a certificate is good for."""

    EDGE = ExtendedKeyUsageOID.SERVER_AUTH
    DEVICE = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs: a key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, now: datetime) -> Authority:
        """Return one with a new key, whose certificates may not sign others."""
        key = ec.generate_private_key(ec.SECP256R1())
        digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        # Its own name for every authority: two under one name could not be told apart where both are trusted.
        name = _named(f"airdraft CA {digest.digest[:4].hex()}")
        usage = _key_usage(signs_certificates=True)
        builder = _builder(name, name, key.public_key(), now, now + timedelta(days=AUTHORITY_DAYS))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True).add_extension(digest, critical=False)
        return cls(key, builder.sign(key, SHA256()))

    def certify(
        self,
        name: str,
        names: Sequence[x509.GeneralName],
        use: Use,
        key: ec.EllipticCurvePublicKey,
        now: datetime,
        days: int,
    ) -> x509.Certificate:
        """Return a certificate for the holder of a key.

        name   its subject
        names  what it may be called by; see ``server_names`` and ``device_names``
        days   how long it holds

        Raises ValueError where it would outlive the authority.
        """
        end = self.certificate.not_valid_after_utc
        if now + timedelta(days=days) > end:
            left = max(0, (end - now).days)
            raise ValueError(f"the authority itself ends on {end:%Y-%m-%d}: ask for {left} days at most, or a new one")
        own = x509.SubjectKeyIdentifier.from_public_key(key)
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = _builder(_named(name), self.certificate.subject, key, now, now + timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use.value]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(own, critical=False).add_extension(above, critical=False)
        return builder.sign(self.key, SHA256())


def found(folder: Path, now: datetime) -> Path:
    """Make an authority in a folder, ``ca.pem`` and ``ca.key``; return the former. Raises ValueError, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_file, file = folder / "ca.key", folder / "ca.pem"
    if file.exists():
        raise ValueError(f"{file} is there already; use it, or choose another folder")
    authority = Authority.new(now)
    try:
        create_private(key_file, _key_pem(authority.key))
    except FileExistsError:
        raise ValueError(f"{key_file} is there already; use it, or choose another folder") from None
    replace(file, authority.certificate.public_bytes(Encoding.PEM), PUBLIC)
    return file


def enrol(
    folder: Path, name: str, names: Sequence[x509.GeneralName], use: Use, now: datetime, days: int, *, new_key: bool
) -> Path:
    """Make or renew ``NAME.pem``, and ``NAME.key`` where there is none, by a folder's authority; return the former.

    A renewed certificate keeps its key unless ``new_key``, so the two fit one another at every moment.
    Raises ValueError, OSError.
    """
    if not _NAME.fullmatch(name) or name.lower() == "ca":
        raise ValueError("a name is 1 to 64 of A-Z a-z 0-9 . _ - without a dot at its front, and not ca")
    authority = _authority(folder)
    key_file, file = folder / f"{name}.key", folder / f"{name}.pem"
    if file.exists() and use not in uses(load_certificates(file)[0]):
        raise ValueError(f"{file} is a certificate for something else; choose another name")
    fresh = new_key or not key_file.exists()
    key = ec.generate_private_key(ec.SECP256R1()) if fresh else _load_key(key_file)
    certificate = authority.certify(name, names, use, key.public_key(), now, days)
    if fresh:
        if new_key:
            replace(key_file, _key_pem(key), PRIVATE)
        else:
            create_private(key_file, _key_pem(key))
    replace(file, certificate.public_bytes(Encoding.PEM), PUBLIC)
    return file


def server_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return host names and addresses as names of an edge's certificate. Raises ValueError."""
    return [_server_name(host) for host in hosts]


def device_names(name: str) -> list[x509.GeneralName]:
    """Return what a device's certificate calls it: a URI, since a device has no host name that anybody checks."""
    return [x509.UniformResourceIdentifier(f"airdraft:device:{name}")]


def load_certificates(file: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, one or several. Raises ValueError, OSError."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError:
        raise ValueError(f"{file}: no certificate in PEM") from None


def uses(certificate: x509.Certificate) -> list[Use]:
    """Return what a certificate is good for; nothing for an authority's."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []
    return [use for use in Use if use.value in extension]


def described(certificate: x509.Certificate, now: datetime) -> list[str]:
    """Return lines for a person: who, called what, good for what, until when, thumbprint."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    state = "over" if now > end else "not yet" if now < start else f"{(end - now).days} days left"
    kinds = " and ".join(use.name.lower() for use in uses(certificate)) or "signing certificates"
    return [
        f"subject     {certificate.subject.rfc4514_string()}",
        f"names       {', '.join(_alternative_names(certificate)) or 'none'}",
        f"issuer      {certificate.issuer.rfc4514_string()}",
        f"good for    {kinds}",
        f"valid       {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC ({state})",
        f"thumbprint  {thumbprint(certificate).hex()}",
    ]


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _server_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no host name and no address; write them without port and without *")
    return x509.DNSName(host)


def _authority(folder: Path) -> Authority:
    if not (folder / "ca.key").exists():
        raise ValueError(f"{folder} has no ca.key; make it with: coordinator certs init {folder}")
    key, certificate = _load_key(folder / "ca.key"), load_certificates(folder / "ca.pem")[0]
    if certificate.public_key() != key.public_key():
        raise ValueError(f"{folder}: ca.key and ca.pem do not belong together")
    return Authority(key, certificate)


def _load_key(file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"{file}: no private key in PEM without a passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{file}: not an EC key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - BACKDATED,
        not_valid_after=end,
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
