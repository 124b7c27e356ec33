"""What a device shows to be let in: a connection that it trusts, and a key or token, read anew for each call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from airdraft.core.addresses import host_of, is_loopback
from airdraft.core.errors import EdgeUnreachable
from airdraft.wire.tls import ChannelTls, TlsRefused

MOST_BEARER_BYTES = 4096
"""Of a key or token; longer ones are not looked at."""


class KeyRefused(ValueError):
    """The file of a key or token cannot be used; the text is one line and says nothing of what it holds."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a device comes to an edge; files are read when they are needed, so that what is renewed counts."""

    tls: ChannelTls | None = None  # None: plain text
    key_file: Path | None = None
    insecure: bool = False  # the key may cross a network that others can read

    def check(self) -> None:
        """Read every file once. Raises TlsRefused, KeyRefused."""
        if self.tls is not None:
            self.tls.credentials()
        if self.key_file is not None:
            bearer_in(self.key_file)

    def channel(self, address: str, options: list[tuple[str, int]]) -> grpc.aio.Channel:
        """Return a channel to an edge. Raises EdgeUnreachable where the files cannot be used at the moment."""
        if self.tls is None:
            return grpc.aio.insecure_channel(address, options=options)
        try:
            return grpc.aio.secure_channel(address, self.tls.credentials(), options=options)
        except TlsRefused as error:
            raise EdgeUnreachable(str(error)) from None

    def metadata(self, address: str) -> tuple[tuple[str, str], ...]:
        """Return what goes with each call to an edge.

        Raises EdgeUnreachable where the key cannot be read at the moment, or would cross the network in plain text.
        """
        if self.key_file is None:
            return ()
        if self.tls is None and not self.insecure and not is_loopback(host_of(address)):
            raise EdgeUnreachable(
                f"edge {address}: a key is never sent in plain text beyond this machine; add --tls-ca FILE, or "
                "--insecure on a trusted network"
            )
        try:
            return (("authorization", f"Bearer {bearer_in(self.key_file)}"),)
        except KeyRefused as error:
            raise EdgeUnreachable(str(error)) from None


OPEN = Access()
"""Plain text, and nothing to show."""


def bearer_in(path: Path) -> str:
    """Return the key or token that a file holds. Raises KeyRefused."""
    try:
        with path.open("rb") as file:
            found = file.read(MOST_BEARER_BYTES + 2).strip()
    except OSError as error:
        raise KeyRefused(f"cannot read the key file {path}: {error.strerror}") from None
    if not found or len(found) > MOST_BEARER_BYTES or not all(33 <= byte <= 126 for byte in found):
        raise KeyRefused(f"key file {path} must hold one key or token, on one line, and nothing else")
    return found.decode("ascii")
