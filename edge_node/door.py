"""Where an edge listens, over what, and whom it lets in."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from airdraft.core.types import RefusalCode
from airdraft.identity.gate import Gate
from airdraft.wire.guard import Guard
from airdraft.wire.tls import ServerTls
from edge_node.config import EdgeSettings


class CannotListen(RuntimeError):
    """The address is taken or not this machine's."""


class Door:
    """The way into one edge; what its files say counts from the next handshake and call on."""

    def __init__(self, settings: EdgeSettings, report: Callable[[str], None]) -> None:
        """Read certificates, keys and issuers; ``report`` gets a line where they change, or no longer can be read.

        Raises TlsRefused, IdentityFileError.
        """
        self._address = settings.host, settings.port
        self._tls, self._gate = _tls_of(settings, report), _gate_of(settings, report)

    def guard(self, denied: Callable[[RefusalCode], None]) -> Guard:
        """Return what stands before every service; ``denied`` hears of each denial."""
        return Guard(self._gate, denied=denied)

    def bind(self, server: grpc.aio.Server) -> str:
        """Let a server listen; return where. Raises CannotListen."""
        host, port = self._address
        try:
            if self._tls is None:
                bound = server.add_insecure_port(f"{host}:{port}")
            else:
                bound = server.add_secure_port(f"{host}:{port}", self._tls.credentials())
        except RuntimeError as error:
            message = f"cannot listen on {host}:{port}; is another edge running? choose another --port"
            raise CannotListen(message) from error
        return f"{host}:{bound}"


def _tls_of(settings: EdgeSettings, report: Callable[[str], None]) -> ServerTls | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerTls(settings.tls_cert, settings.tls_key, settings.client_ca, report)


def _gate_of(settings: EdgeSettings, report: Callable[[str], None]) -> Gate | None:
    if settings.keys is None and settings.issuers is None:
        return None
    return Gate(
        keys=settings.keys,
        issuers=settings.issuers,
        wants_certificate=settings.client_ca is not None,
        clock=time.time,
        monotonic=time.monotonic,
        report=report,
    )
