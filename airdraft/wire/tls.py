"""TLS 1.3 at both ends, from PEM files that may be replaced while a process runs.

An edge looks at its files before each handshake and a device at its own before each connection, so that certificates
are renewed without a restart. Whoever replaces files best renames them into place, the key before its certificate.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from airdraft import GRPC_CAME_FIRST, ONLY_TLS_1_3

_Stamp = tuple[tuple[int, int, int] | None, ...]


class TlsRefused(ValueError):
    """Files of certificates or keys cannot be used; the text is one line."""


@dataclass(frozen=True, slots=True)
class _Pem:
    """What files held, checked as far as one can without a handshake."""

    chain: bytes | None
    key: bytes | None
    ca: bytes | None


@dataclass(frozen=True, slots=True)
class ChannelTls:
    """Whom a device trusts, and what it shows of itself."""

    ca: Path | None = None  # None: the roots that grpc comes with
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return what the files say now. Raises TlsRefused."""
        _check_version()
        pem = _read(self.cert, self.key, self.ca)
        return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.chain)


class ServerTls:
    """What a server shows, and whom it asks for certificates; files that no longer fit change nothing."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, report: Callable[[str], None]) -> None:
        """Read the files; with ``client_ca`` a client without a certificate of it is turned away.

        ``report`` gets a line when new files are taken, and one, once, when they cannot be. Raises TlsRefused.
        """
        _check_version()
        self._files, self._report = (cert, key, client_ca), report
        self._lock = threading.Lock()  # handshakes are on grpc's own threads
        self._stamp = _stamp_of(self._files)
        self._first = _configuration(_read(*self._files))

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files."""
        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], self._fresh)  # None is allowed: nothing new
        return grpc.dynamic_ssl_server_credentials(self._first, fetch, self._files[2] is not None)

    def _fresh(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what changed files say; None where nothing did, or nothing that can be used."""
        with self._lock:
            stamp = _stamp_of(self._files)
            if stamp == self._stamp:
                return None
            try:
                found = _configuration(_read(*self._files))
            except TlsRefused as error:
                if stamp == _stamp_of(self._files):
                    self._stamp = stamp
                    self._report(f"{error}; the certificate of before stays in use")
                return None
            if stamp != _stamp_of(self._files):
                return None  # they changed under our eyes: at the next handshake
            self._stamp = stamp
            self._report(f"certificate {self._files[0]} was read again")
            return found


def handshake_fault(details: str, tls: ChannelTls | None) -> str | None:
    """Return what went wrong between two ends that do not agree on TLS, and what to do; None where it is not that.

    details  what gRPC says of the connection that it could not make
    """
    if tls is None:
        closed = "Socket closed" in details or "Connection reset" in details
        return "closed the connection at once; if it serves TLS, add --tls-ca FILE" if closed else None
    trusted = "--tls-ca" if tls.ca is None else f"--tls-ca {tls.ca}"
    if "Hostname" in details or "hostname" in details:
        return "has a certificate for another name than this address; use a name that is in it"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        if "expired" in details or "not yet valid" in details:
            return "has a certificate that is not valid now; renew it, or set this machine's clock"
        return f"has a certificate that {trusted} does not vouch for; name the CA of this edge, or it is a stranger"
    if "WRONG_VERSION_NUMBER" in details:
        return "speaks no TLS; leave out --tls, or let it serve with --tls-cert and --tls-key"
    if "handshake failed" in details:
        return "and this device agree on no TLS 1.3"
    if "Socket closed" in details or "Connection reset" in details:
        if tls.cert is None:
            return "closed the connection at TLS; if it asks for a certificate, add --tls-cert and --tls-key"
        return f"closed the connection at TLS; it may not take {tls.cert} (expired, of another CA) or speak no TLS 1.3"
    return None


def _check_version() -> None:
    """Raise TlsRefused where grpc would speak TLS 1.2 as well."""
    if GRPC_CAME_FIRST:
        raise TlsRefused("grpc was imported before airdraft and would speak TLS 1.2 as well; import airdraft first")
    if os.environ.get("GRPC_SSL_CIPHER_SUITES") != ONLY_TLS_1_3:
        raise TlsRefused("GRPC_SSL_CIPHER_SUITES is set and could let TLS 1.2 in; unset it")


def _stamp_of(files: tuple[Path | None, ...]) -> _Stamp:
    """Return what changes when a file does."""
    return tuple(None if path is None else _seen(path) for path in files)


def _seen(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _configuration(pem: _Pem) -> grpc.ServerCertificateConfiguration:
    assert pem.key is not None
    assert pem.chain is not None
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.chain)], pem.ca)


def _read(cert: Path | None, key: Path | None, ca: Path | None) -> _Pem:
    """Return what the files hold. Raises TlsRefused where they cannot be read or do not fit one another."""
    chain = None if cert is None else _bytes_of(cert, b"CERTIFICATE", "certificate")
    secret = None if key is None else _bytes_of(key, b"PRIVATE KEY", "private key")
    roots = None if ca is None else _bytes_of(ca, b"CERTIFICATE", "CA certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if cert is not None and key is not None:
        try:
            context.load_cert_chain(cert, key, password=lambda: b"")  # an encrypted key asks nobody at a terminal
        except (ssl.SSLError, OSError) as error:
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                fault = "do not belong together; give the two that were made for one another"
            else:
                fault = "cannot both be read; give PEM files, the key without a password"
            raise TlsRefused(f"certificate {cert} and key {key} {fault}") from None
    if roots is not None:
        try:
            context.load_verify_locations(cadata=roots.decode("ascii", "replace"))
        except ssl.SSLError:
            raise TlsRefused(f"CA certificate {ca} cannot be read; give a PEM file") from None
    return _Pem(chain, secret, roots)


def _bytes_of(path: Path, label: bytes, what: str) -> bytes:
    try:
        found = path.read_bytes()
    except OSError as error:
        raise TlsRefused(f"cannot read the {what} {path}: {error.strerror}") from None
    if label + b"-----" not in found:
        raise TlsRefused(f"{path} holds no {what}; give a PEM file (coordinator certs makes some)")
    return found
