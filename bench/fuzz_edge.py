"""An edge of ``bench fuzz`` as a process, with certificates, and a key for each of its tenants."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from airdraft.core.callers import Scope
from airdraft.identity.keys import SECRET_BYTES, entry_of, secret_of
from airdraft.wire.access import Access
from airdraft.wire.tls import ChannelTls
from bench.figures import REPOSITORY
from bench.processes import ONE_THREAD, EdgeFailed
from coordinator.certs import Use, device_names, enrol, found, server_names


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge and how its tenants come in."""

    address: str
    process: asyncio.subprocess.Process
    log: Path
    access: Sequence[Access]  # of each tenant, in the order of their names

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the pids of the edge and of what it started."""
        children: list[int] = []
        for tasks in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):
                children += map(int, tasks.read_text().split())
        return (self.process.pid, *sorted(children))

    def rss_mb(self) -> float:
        """Return the memory of these processes."""
        kib = 0
        for pid in self.pids:
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        return kib / 1024

    def counted(self) -> Mapping[str, float]:
        """Return the edge's metrics that have no labels."""
        found = re.search(r"metrics on (http://\S+)", self.log.read_text())
        assert found is not None
        with urlopen(found[1], timeout=10) as page:
            lines = page.read().decode().splitlines()
        pairs = [line.split() for line in lines if not line.startswith("#") and "{" not in line]
        return {name: float(value) for name, value, *_ in pairs}


def _tenants(folder: Path, names: Sequence[str]) -> list[Access]:
    """Make an authority, certificates, and a key for every tenant; return how each comes in."""
    now = datetime.now(UTC)
    found(folder, now)
    enrol(folder, "edge", server_names(["127.0.0.1"]), Use.EDGE, now, 1, new_key=False)
    entries, accesses = [], []
    for name in names:
        enrol(folder, name, device_names(name), Use.DEVICE, now, 1, new_key=False)
        secret = secret_of(secrets.token_bytes(SECRET_BYTES))
        scopes = [Scope.DESCRIBE, Scope.GENERATE]
        entries.append(entry_of(secret, name, scopes, allowance={}, until=None, certificate=None))
        (folder / f"{name}.secret").write_text(secret)
        tls = ChannelTls(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
        accesses.append(Access(tls, folder / f"{name}.secret"))
    (folder / "keys.toml").write_text("\n".join(entries))
    return accesses


@asynccontextmanager
async def serving(names: Sequence[str]) -> AsyncIterator[Edge]:
    """Run an edge that asks the tenants of these names for certificates and keys. Raises EdgeFailed."""
    with TemporaryDirectory(prefix="airdraft-fuzz-") as name:
        folder = Path(name)
        accesses = _tenants(folder, names)
        options = {
            "model": "demo", "profile": "strict", "port": "0", "metrics-port": "0",
            "tls-cert": folder / "edge.pem", "tls-key": folder / "edge.key", "client-ca": folder / "ca.pem",
            "keys": folder / "keys.toml",
        }  # fmt: skip
        words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        log = folder / "edge.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge_node", "serve", *words),
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env=os.environ | ONE_THREAD,
                cwd=REPOSITORY,
            )
        assert process.stdout is not None
        try:
            line = (await process.stdout.readline()).decode()
            if not line.startswith("listening "):
                raise EdgeFailed(f"the edge node did not start:\n{log.read_text()}")
            yield Edge(line.split()[1], process, log, accesses)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                with suppress(TimeoutError):
                    async with asyncio.timeout(40):
                        await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
