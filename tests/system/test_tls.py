"""TLS 1.3 on both ends: text as over plain text, strangers turned away in one line, files renewed without a restart."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from airdraft.core.errors import EdgeUnreachable
from airdraft.core.types import Sampling
from airdraft.wire.access import OPEN, Access
from airdraft.wire.client import EdgeConnection
from airdraft.wire.tls import ChannelTls, ServerTls, TlsRefused
from device_client.generation import Generation
from edge_node.sessions import Terms
from tests.certificates import Authority
from tests.shapes import VOCABULARY, greedy
from tests.system.loopback import ListedDrafter, Loopback, Recorder, ask, edge_on_loopback, session_for
from tests.system.test_equality import shape_target

TARGET = shape_target("llama")
PROMPT = (1, 2, 3)
MOST = 40


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


@asynccontextmanager
async def serving(tls: ServerTls | None) -> AsyncIterator[Loopback]:
    async with edge_on_loopback(TARGET, terms=Terms(most=8, keep_s=60, run_ahead=False), tls=tls) as edge:
        yield edge


def expected() -> list[int]:
    return greedy(TARGET.model, list(PROMPT), MOST)


async def text(edge: Loopback, access: Access, sampling: Sampling | None = None) -> list[int]:
    """Return what the edge writes, with a drafter that errs now and then."""
    drafter = ListedDrafter([*PROMPT, *expected()], VOCABULARY, error_every=5)
    async with EdgeConnection(edge.address, access) as connection:
        await connection.ready()
        answer = await ask(edge, connection, PROMPT, drafter, draft_length=4, max_tokens=MOST, sampling=sampling)
    return answer.ids


async def refusal(edge: Loopback, access: Access) -> str:
    """Return why a device gets no connection; the call alone must tell the same."""
    async with EdgeConnection(edge.address, access) as connection:
        with pytest.raises(EdgeUnreachable) as caught:
            await connection.ready()
        with pytest.raises(EdgeUnreachable) as again:
            await connection.describe()
    assert str(caught.value) == str(again.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_the_text_over_tls_is_that_without(authority: Authority) -> None:
    sampling = Sampling(temperature=1.0, seed=7)
    async with serving(None) as plain, serving(authority.server_tls()) as edge:
        access = Access(authority.channel_tls())
        assert await text(edge, access) == await text(plain, OPEN) == expected()
        assert await text(edge, access, sampling) == await text(plain, OPEN, sampling)


async def test_who_does_not_fit_gets_no_connection(authority: Authority, stranger: Authority) -> None:
    async with serving(authority.server_tls()) as edge, serving(None) as plain:
        other = ChannelTls(authority.ca, stranger.device("device"), stranger.folder / "device.key")
        posing = ChannelTls(authority.ca, authority.edge, authority.edge_key)
        for tls, words in (
            (None, "if it serves TLS, add --tls-ca"),
            (authority.channel_tls(None), "add --tls-cert and --tls-key"),
            (other, "expired, of another CA"),
            (posing, "expired, of another CA"),  # an edge's certificate is good for edges alone
            (authority.channel_tls(ca=stranger.ca), "does not vouch for"),
        ):
            assert words in await refusal(edge, Access(tls))
        assert "speaks no TLS" in await refusal(plain, Access(authority.channel_tls()))
        assert await text(edge, Access(authority.channel_tls())) == expected()


async def test_an_edge_with_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    elsewhere = Authority(tmp_path / "elsewhere", hosts=("edge.example",))
    async with serving(elsewhere.server_tls()) as edge:
        assert "for another name" in await refusal(edge, Access(elsewhere.channel_tls()))


async def test_somebody_in_between_is_refused_by_the_device(authority: Authority, stranger: Authority) -> None:
    """It can read nothing, since it has no certificate of our authority to show, and ours binds no key of its own."""
    taken = ServerTls(stranger.edge, stranger.edge_key, None, lambda line: None)
    async with serving(taken) as between:
        assert "does not vouch for" in await refusal(between, Access(authority.channel_tls()))
    with pytest.raises(TlsRefused, match="do not belong together"):
        ServerTls(authority.edge, stranger.edge_key, None, lambda line: None)


@pytest.mark.parametrize(("version", "through"), [(ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, False)])
async def test_no_client_gets_through_by_tls_1_2(authority: Authority, version: ssl.TLSVersion, through: bool) -> None:
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(authority.device("device"), authority.folder / "device.key")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])

    def connect(address: str) -> str | None:
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), 10) as plain,
            context.wrap_socket(plain, server_hostname=host) as safe,
        ):
            return safe.version()

    async with serving(authority.server_tls()) as edge:
        if through:
            assert await asyncio.to_thread(connect, edge.address) == "TLSv1.3"
        else:
            with pytest.raises(OSError, match=r"SSL|EOF|reset"):
                await asyncio.to_thread(connect, edge.address)


def meet(listener: socket.socket, context: ssl.SSLContext, met: list[str | None]) -> None:
    """Shake hands with whoever comes, until the listener is shut down."""
    while True:
        try:
            plain = listener.accept()[0]
        except OSError:
            return
        with plain, suppress(OSError):
            plain.settimeout(10)
            with context.wrap_socket(plain, server_side=True) as safe:
                met.append(safe.version())


async def test_no_device_speaks_tls_1_2(authority: Authority) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.edge, authority.edge_key)
        context.set_alpn_protocols(["h2"])
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, version
        met: list[str | None] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            meeting = asyncio.create_task(asyncio.to_thread(meet, listener, context, met))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            async with EdgeConnection(address, Access(authority.channel_tls())) as connection:
                with pytest.raises(EdgeUnreachable, match=r"no TLS 1\.3"):
                    await connection.ready()
            listener.shutdown(socket.SHUT_RDWR)
            await meeting
        assert set(met) == ({"TLSv1.3"} if version is ssl.TLSVersion.TLSv1_3 else set())


class Held:
    """A drafter that knows a text and waits in the middle of it."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._known, self._waits_at = ListedDrafter(ids, VOCABULARY), len(PROMPT) + MOST // 2
        self.is_there, self.may_go_on = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Go on with the text."""
        if len(path) >= self._waits_at:
            self._loop.call_soon_threadsafe(self.is_there.set)
            asyncio.run_coroutine_threadsafe(self.may_go_on.wait(), self._loop).result(60)
        return self._known.propose(path, count, cancelled)

    def learn(self, ids: Sequence[int]) -> None:
        """Know it already."""


async def test_certificates_and_authorities_are_renewed_while_a_stream_goes_on(
    authority: Authority, stranger: Authority
) -> None:
    """The text that is being written is not disturbed; whoever comes after meets the new files."""
    said: list[str] = []
    old, new = Access(authority.channel_tls()), Access(stranger.channel_tls())
    async with serving(authority.server_tls(said)) as edge, EdgeConnection(edge.address, old) as connection:
        drafter, recorder = Held([*PROMPT, *expected()]), Recorder()
        session = session_for(edge, PROMPT, draft_length=4, max_tokens=MOST)
        with Generation(session, drafter, recorder) as generation:
            writing = asyncio.create_task(generation.over(connection.generate(VOCABULARY)))
            await drafter.is_there.wait()
            authority.renew_edge()
            assert await text(edge, old) == expected()
            assert len(said) == 1
            assert "was read again" in said[0]
            replace(stranger.edge_key, authority.edge_key)
            assert await text(edge, old) == expected()  # half of it is there: that of before is shown
            assert await text(edge, old) == expected()
            assert len(said) == 2
            assert "stays in use" in said[1]
            replace(stranger.edge, authority.edge)
            replace(stranger.ca, authority.ca)
            assert await text(edge, new) == expected()
            assert len(said) == 3
            assert "expired, of another CA" in await refusal(edge, Access(authority.channel_tls(ca=stranger.ca)))
            drafter.may_go_on.set()
            await writing
    assert recorder.ids == expected()
    assert len(said) == 3


def replace(source: Path, target: Path) -> None:
    """Put a copy of a file in the place of another, at once."""
    partial = target.with_suffix(".new")
    partial.write_bytes(source.read_bytes())
    partial.replace(target)


def test_files_that_cannot_be_used_are_one_line(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    absent, empty, torn = tmp_path / "absent.pem", tmp_path / "empty.pem", tmp_path / "torn.pem"
    empty.write_bytes(b"")
    torn.write_bytes(authority.edge.read_bytes()[:-200])
    locked = tmp_path / "locked.key"
    private = load_pem_private_key(authority.edge_key.read_bytes(), None)
    locked.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    cert, key, ca = authority.edge, authority.edge_key, authority.ca
    for files, words in (
        ((absent, key, ca), "cannot read the certificate"),
        ((cert, absent, ca), "cannot read the private key"),
        ((cert, key, absent), "cannot read the CA certificate"),
        ((cert, key, tmp_path), "Is a directory"),
        ((empty, key, ca), "holds no certificate"),
        ((cert, empty, ca), "holds no private key"),
        ((cert, cert, ca), "holds no private key"),
        ((cert, locked, ca), "without a password"),
        ((torn, key, ca), r"holds no certificate|cannot both be read"),
        ((cert, stranger.edge_key, ca), "do not belong together"),
        ((cert, key, empty), "holds no CA certificate"),
    ):
        with pytest.raises(TlsRefused, match=words) as caught:
            ServerTls(*files, lambda line: None)
        assert "\n" not in str(caught.value)
        with pytest.raises(TlsRefused, match=words):
            ChannelTls(files[2], files[0], files[1]).credentials()
    ServerTls(cert, key, ca, lambda line: None)
    ChannelTls(ca, cert, key).credentials()


def test_a_process_that_could_speak_tls_1_2_makes_no_credentials() -> None:
    """grpc reads its environment once, when it is first imported."""
    make = "from airdraft.wire.tls import ChannelTls; ChannelTls().credentials(); print('made')"
    free = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}

    def run(script: str, **changes: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", script], env=free | changes, capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout, done.stderr

    assert run(make)[0] == "made\n"
    assert "import airdraft first" in run(f"import grpc; {make}")[1]
    assert "unset it" in run(make, GRPC_SSL_CIPHER_SUITES="ECDHE-RSA-AES128-GCM-SHA256")[1]
