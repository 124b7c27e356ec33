"""Certificates by their thumbprints: what binds a credential to the one who may present it."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256


def thumbprint(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate's DER form. Source: x5t#S256 of RFC 8705 §3.1."""
    return certificate.fingerprint(SHA256())


def thumbprint_of(pem: bytes) -> bytes:
    """Return the thumbprint of a certificate in PEM; of several, of the first. Raises ValueError."""
    return thumbprint(x509.load_pem_x509_certificate(pem))
