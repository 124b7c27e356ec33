"""Beyond loopback an edge opens only with TLS and authentication, or where somebody says that it may."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.types import RefusalCode
from airdraft.identity.watched import IdentityFileError
from airdraft.settings import SettingsError
from airdraft.wire.tls import TlsRefused
from edge_node.config import EdgeSettings
from edge_node.door import CannotListen, Door
from edge_node.server import EdgeServer
from tests.certificates import Authority

TLS = {"tls_cert": Path("edge.pem"), "tls_key": Path("edge.key")}
ASKS = {"client_ca": Path("ca.pem")}
KEYS, ISSUERS = {"keys": Path("keys.toml")}, {"issuers": Path("issuers.pem")}
INSECURE = {"insecure": True}
BEYOND, HERE = "10.1.2.3", "127.0.0.1"


@pytest.mark.parametrize("host", [BEYOND, "0.0.0.0", "::", "edge.example"])
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "without TLS .* and authentication"),
        (TLS, "without authentication"),
        (TLS | ASKS, "without authentication"),  # whose certificate it is says not what is theirs to do
        (KEYS, "without TLS"),
        (ISSUERS, "without TLS"),
        (KEYS | ISSUERS, "without TLS"),
        (TLS | KEYS, None),
        (TLS | ISSUERS, None),
        (TLS | ASKS | KEYS | ISSUERS, None),
        (INSECURE, None),
        (INSECURE | TLS, None),
        (INSECURE | KEYS, None),
    ],
)
def test_beyond_loopback_nothing_may_be_missing(host: str, given: dict[str, Any], missing: str | None) -> None:
    assert EdgeSettings.load(given | {"host": HERE}).host == HERE
    if missing is None:
        assert EdgeSettings.load(given | {"host": host}).host == host
        return
    with pytest.raises(SettingsError, match=rf"^host {host} is reachable .*{missing}.*add --insecure") as caught:
        EdgeSettings.load(given | {"host": host})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", [HERE, BEYOND])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls_cert": Path("a")} | KEYS, "--tls-cert is of no use alone: add --tls-key"),
        ({"tls_key": Path("a")} | KEYS, "--tls-key is of no use alone: add --tls-cert"),
        (ASKS | KEYS, "--client-ca asks for certificates, which needs TLS"),
        (ASKS | INSECURE, "--client-ca asks for certificates, which needs TLS"),
    ],
)
def test_files_come_in_pairs(host: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=f"^{words}"):
        EdgeSettings.load(given | {"host": host})


def test_metrics_stay_at_home() -> None:
    door: dict[str, Any] = TLS | KEYS | {"host": BEYOND}
    assert EdgeSettings.load(door).metrics_host == HERE
    assert EdgeSettings.load(door | {"metrics_host": BEYOND}).metrics_host == BEYOND


def test_an_edge_whose_files_cannot_be_used_does_not_start(tmp_path: Path) -> None:
    authority, absent, broken = Authority(tmp_path / "ours"), tmp_path / "absent", tmp_path / "broken.toml"
    broken.write_text("[[key]]\nsecret = 'x'\n")
    good: dict[str, Any] = {"tls_cert": authority.edge, "tls_key": authority.edge_key, "client_ca": authority.ca}
    for given, error in (
        (good | {"tls_cert": absent}, TlsRefused),
        (good | {"tls_key": absent}, TlsRefused),
        (good | {"client_ca": absent}, TlsRefused),
        (good | {"keys": absent}, IdentityFileError),
        (good | {"keys": broken}, IdentityFileError),
        (good | {"issuers": absent}, IdentityFileError),
    ):
        with pytest.raises(error) as caught:
            EdgeServer(EdgeSettings(**given, semantic=False), lambda line: None)
        assert "\n" not in str(caught.value)
    EdgeServer(EdgeSettings(**good, semantic=False), lambda line: None)


@pytest.mark.parametrize("secured", [False, True])
async def test_a_port_that_is_taken_is_one_line(secured: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    files: dict[str, Any] = {"tls_cert": authority.edge, "tls_key": authority.edge_key} if secured else {}
    first, second = (
        grpc.aio.server(options=[("grpc.so_reuseport", 0)]),
        grpc.aio.server(options=[("grpc.so_reuseport", 0)]),
    )
    address = Door(EdgeSettings(**files, port=0), lambda line: None).bind(first)
    with pytest.raises(CannotListen, match=f"cannot listen on {address}"):
        Door(EdgeSettings(**files, port=int(address.rpartition(":")[2])), lambda line: None).bind(second)
    await asyncio.gather(first.stop(0), second.stop(0))


async def test_denials_are_counted(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\ntenant = "ann"\nsha256 = "{"0" * 64}"\nscopes = ["generate"]\n')
    said: list[RefusalCode] = []
    door = Door(EdgeSettings(port=0, keys=keys), lambda line: None)
    server = grpc.aio.server(interceptors=[door.guard(said.append)])
    address = door.bind(server)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        describe: Any = channel.unary_unary("/airdraft.v1.Verification/Describe")
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await describe(b"")
    await server.stop(0)
    assert said == [RefusalCode.UNAUTHENTICATED]
