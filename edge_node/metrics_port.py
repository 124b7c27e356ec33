"""The port where Prometheus and probes read a process: plain HTTP, apart from gRPC, on threads of its own."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

log = logging.getLogger(__name__)

REQUEST_S = 10.0
"""How long a client may take over its request."""

SERVING = "serving"


class MetricsPortTaken(RuntimeError):
    """The address is taken or not this machine's."""


def pages(registry: CollectorRegistry, health: Callable[[], str]) -> WSGIApplication:
    """Return ``/metrics`` and the pages of probes; ``health`` says, in a word, how the process is."""
    scrape: WSGIApplication = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return scrape(environ, start_response)
        status, text = _answer(path, health())
        body = f"{text}\n".encode()
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return app


def _answer(path: str, health: str) -> tuple[str, str]:
    if path == "/livez":
        return "200 OK", "alive"
    if path in ("/health", "/readyz"):
        return "200 OK" if health == SERVING else "503 Service Unavailable", health
    return "404 Not Found", "here are /metrics, /health, /readyz and /livez"


@contextmanager
def serving(app: WSGIApplication, host: str, port: int) -> Iterator[int]:
    """Serve as long as the block lasts, on the port that it gets; 0 takes a free one. Raises MetricsPortTaken."""
    try:
        server = _listen(host.strip("[]"), port)
    except OSError as error:
        raise MetricsPortTaken(
            f"cannot serve metrics on {host}:{port}, {error.strerror}; choose another --metrics-port"
        ) from error
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(host: str, port: int) -> WSGIServer:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return _SERVERS[family]((host, port), _Request)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread a request, which nobody waits for."""

    daemon_threads = True

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # its heirs ask the name service who this is, which may take seconds
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request of %s came to nothing", client_address, exc_info=True)


class _ServerV6(_Server):
    address_family = socket.AF_INET6


_SERVERS: dict[int, type[_Server]] = {socket.AF_INET: _Server, socket.AF_INET6: _ServerV6}


class _Request(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape every few seconds is no event."""
