"""Authorities, certificates and keys for tests, as ``coordinator certs`` makes them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from airdraft.wire.tls import ChannelTls, ServerTls
from coordinator.certs import Use, device_names, enrol, found, server_names

HOSTS = ("127.0.0.1", "localhost")


class Authority:
    """A private authority in a folder, with the edge ``edge`` and whatever devices are asked for."""

    def __init__(self, folder: Path, *, hosts: tuple[str, ...] = HOSTS) -> None:
        self.folder, self.ca = folder, found(folder, _now())
        self.edge = enrol(folder, "edge", server_names(hosts), Use.EDGE, _now(), 30, new_key=False)

    @property
    def edge_key(self) -> Path:
        """Return the edge's private key."""
        return self.folder / "edge.key"

    def renew_edge(self, *, new_key: bool = False) -> None:
        """Replace the edge's certificate."""
        enrol(self.folder, "edge", server_names(HOSTS), Use.EDGE, _now(), 30, new_key=new_key)

    def device(self, name: str) -> Path:
        """Return the certificate of a device, which is made where it is not there; its key is beside it."""
        file = self.folder / f"{name}.pem"
        return (
            file
            if file.exists()
            else enrol(self.folder, name, device_names(name), Use.DEVICE, _now(), 30, new_key=False)
        )

    def server_tls(self, report: list[str] | None = None, *, client_ca: Path | None = None) -> ServerTls:
        """Return what the edge serves with: it asks for certificates of its own authority, or of another."""
        return ServerTls(
            self.edge, self.edge_key, client_ca or self.ca, report.append if report is not None else lambda line: None
        )

    def channel_tls(self, name: str | None = "device", *, ca: Path | None = None) -> ChannelTls:
        """Return what a device connects with; None shows no certificate."""
        if name is None:
            return ChannelTls(ca or self.ca)
        return ChannelTls(ca or self.ca, self.device(name), self.folder / f"{name}.key")


def _now() -> datetime:
    return datetime.now(UTC)
