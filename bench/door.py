"""What a bench needs to knock at an edge's door: a private CA, certificates, and keys of several tenants.

The files are those that ``coordinator certs`` and ``coordinator key`` make.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from airdraft.wire.access import Access
from airdraft.wire.client import EdgeConnection
from airdraft.wire.tls import ChannelTls


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a device shows: files."""

    ca: str
    certificate: str
    private_key: str
    key_file: str

    @classmethod
    def of(cls, word: str) -> Ticket:
        """Return what ``word`` says."""
        return cls(**json.loads(word))

    @property
    def word(self) -> str:
        """Return it as a word of a command line: names of files, no secrets."""
        return json.dumps(asdict(self))

    @property
    def bearer(self) -> str:
        """Return the key."""
        return Path(self.key_file).read_text(encoding="ascii").strip()

    @property
    def access(self) -> Access:
        """Return how a device comes in with it."""
        tls = ChannelTls(Path(self.ca), Path(self.certificate), Path(self.private_key))
        return Access(tls, Path(self.key_file))

    def connection(self, address: str) -> EdgeConnection:
        """Return a connection that shows it."""
        return EdgeConnection(address, self.access)


@dataclass(frozen=True, slots=True)
class Door:
    """An edge's settings, and what its tenants' devices show."""

    settings: Mapping[str, str]
    tickets: Sequence[Ticket]


def door(folder: Path, tenants: int) -> Door:
    """Make a door with so many tenants, a device's certificate and a key each, in a folder."""
    from airdraft.core.callers import Scope
    from airdraft.identity.keys import SECRET_BYTES, entry_of, secret_of
    from coordinator.certs import Use, device_names, enrol, found, server_names

    now = datetime.now(UTC)
    ca = found(folder, now)
    enrol(folder, "edge", server_names(["127.0.0.1", "localhost"]), Use.EDGE, now, 30, new_key=False)
    entries: list[str] = []
    tickets: list[Ticket] = []
    for number in range(tenants):
        name = f"tenant-{number}"
        certificate = enrol(folder, name, device_names(name), Use.DEVICE, now, 30, new_key=False)
        secret, key_file = secret_of(secrets.token_bytes(SECRET_BYTES)), folder / f"{name}.secret"
        key_file.touch(0o600)
        key_file.write_text(secret, encoding="ascii")
        scopes = (Scope.DESCRIBE, Scope.GENERATE)
        entries.append(entry_of(secret, name, scopes, allowance={}, until=None, certificate=None))
        tickets.append(Ticket(str(ca), str(certificate), str(certificate.with_suffix(".key")), str(key_file)))
    keys = folder / "keys.toml"
    keys.write_text("\n".join(entries), encoding="utf-8")
    settings = {"tls_cert": folder / "edge.pem", "tls_key": folder / "edge.key", "client_ca": ca, "keys": keys}
    return Door({name: str(path) for name, path in settings.items()}, tickets)
