"""Strangers at a real edge's door: every method, every credential that is not good, and what is stolen piece by piece.

The coordinator has no service yet; the edge's is the only door there is.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from airdraft.core.callers import Caller, Scope
from airdraft.core.errors import EdgeUnreachable, Unauthenticated
from airdraft.core.session import DeviceSession, Reattachment
from airdraft.core.types import Commit, Draft, EdgeFrame, Open, Opened, Ping, Plan, Prefix, Sampling
from airdraft.identity.gate import Gate
from airdraft.identity.keys import SECRET_BYTES, entry_of, secret_of
from airdraft.identity.thumbprints import thumbprint_of
from airdraft.identity.tokens import LEEWAY_S, Issuer
from airdraft.wire.access import Access
from airdraft.wire.client import EdgeConnection
from airdraft.wire.guard import NEEDS
from bench.processes import edge_node
from bench.stub_server import stub_server
from device_client.generation import Generation
from device_client.roaming import Roaming
from edge_node.sessions import Terms
from tests.certificates import Authority
from tests.shapes import VOCABULARY, greedy
from tests.system.loopback import Loopback, Recorder, edge_on_loopback, session_for
from tests.system.test_tls import MOST, PROMPT, TARGET, Held

Code = grpc.StatusCode
DENIED = {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED}
STUB = {"semantic": False}  # there are no heads for it
DEVICE = frozenset({Scope.DESCRIBE, Scope.GENERATE})


class Credentials:
    """An edge's files, and what devices hold: all good unless it says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.keys, self.issuers = folder / "keys.toml", folder / "issuers.pem"
        self._signing, self._other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        public = self._signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.issuers.write_bytes(public)
        self.keys.write_text("")
        self.secrets: list[str] = []
        self.first = self.key("ann")  # a key file is never empty

    def thumbprint(self, device: str) -> bytes:
        """Return what a credential is bound to."""
        return thumbprint_of(self.authority.device(device).read_bytes())

    def key(self, tenant: str, scopes: frozenset[Scope] = frozenset(Scope), device: str | None = None) -> str:
        """Return a key that the edge's file lists."""
        secret = self.unlisted()
        bound = None if device is None else self.thumbprint(device)
        with self.keys.open("a") as file:
            file.write(entry_of(secret, tenant, scopes, allowance={}, until=None, certificate=bound))
        return secret

    def unlisted(self) -> str:
        """Return a key that no file lists."""
        self.secrets.append(secret_of(secrets.token_bytes(SECRET_BYTES)))
        return self.secrets[-1]

    def token(
        self,
        tenant: str,
        device: str | None,
        *,
        scopes: frozenset[Scope] = frozenset(Scope),
        ends_in_s: float = 300.0,
        ours: bool = True,
    ) -> str:
        """Return a token of our issuer or of another, bound to a device's certificate."""
        until_s = time.time() + ends_in_s
        self.secrets.append(
            Issuer(self._signing if ours else self._other).sign(
                Caller(tenant, scopes, until_s=until_s),
                now_s=until_s - 500.0,
                token_id=secrets.token_hex(8),
                thumbprint=None if device is None else self.thumbprint(device),
            )
        )
        return self.secrets[-1]

    def altered(self, token: str, **claims: object) -> str:
        """Return a token with other claims, signed again by our issuer's key."""
        known = jwt.decode(token, options={"verify_signature": False})
        header = jwt.get_unverified_header(token)
        pem = self._signing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.secrets.append(jwt.encode(known | claims, pem, algorithm="EdDSA", headers={"kid": header["kid"]}))
        return self.secrets[-1]

    def gate(self) -> Gate:
        """Return an edge's gate, which asks for certificates."""
        return Gate(
            keys=self.keys,
            issuers=self.issuers,
            wants_certificate=True,
            clock=time.time,
            monotonic=time.monotonic,
            report=lambda line: None,
        )

    def settings(self) -> dict[str, Any]:
        """Return an edge's settings."""
        return STUB | {
            "tls_cert": self.authority.edge,
            "tls_key": self.authority.edge_key,
            "client_ca": self.authority.ca,
            "keys": self.keys,
            "issuers": self.issuers,
        }

    def options(self) -> list[str]:
        """Return the same as options of the command."""
        files = {name: value for name, value in self.settings().items() if isinstance(value, Path)}
        return [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", str(path))]

    def access(self, bearer: str | None, device: str = "ann-phone") -> Access:
        """Return how this device comes with this key or token."""
        if bearer is None:
            return Access(self.authority.channel_tls(device))
        file = self.authority.folder / f"{secrets.token_hex(8)}.secret"
        file.write_text(bearer + "\n")
        return Access(self.authority.channel_tls(device), file)


@pytest.fixture
def held(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path / "authority")


# ---- every method, every credential ----


async def methods_of(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> list[str]:
    """Return the full names of all methods of a server, as it tells them itself."""
    Request = reflection_pb2.ServerReflectionRequest  # noqa: N806
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]  # it takes these too
    found = []
    call = stub.ServerReflectionInfo(iter([Request(list_services="")]), metadata=metadata)
    names = [service.name async for answer in call for service in answer.list_services_response.service]
    asked = iter([Request(file_containing_symbol=name) for name in names])
    async for answer in stub.ServerReflectionInfo(asked, metadata=metadata):
        for content in answer.file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(content)
            for service in file.service:
                found += [f"/{file.package}.{service.name}/{method.name}" for method in service.method]
    return sorted({method for method in found if method[1:].partition("/")[0] in names})


async def code_of(channel: grpc.aio.Channel, method: str, authorization: Sequence[str]) -> Code:
    """Return how a call ends; OK too where it has been answered and goes on."""
    metadata = tuple(("authorization", value) for value in authorization)
    asked: Any = channel.stream_stream(method)
    call = asked(iter([b""]), metadata=metadata, timeout=30)
    try:
        async for _answer in call:
            call.cancel()
            return Code.OK
    except grpc.aio.AioRpcError as error:
        return error.code()
    code: Code = await call.code()
    return code


def bad_ones(held: Credentials, needed: Scope) -> dict[str, Sequence[str]]:
    """Return what does not open a method that needs this scope, as the values of ``authorization``."""
    good, others = held.key("ann"), frozenset(Scope) - {needed}
    token = held.token("ann", "ann-phone")
    head, body, signature = token.split(".")
    bearers = {
        "nothing after Bearer": "",
        "garbage": "xyz",
        "garbage like a token": "eyJhbGciOiJub25lIn0.e30.",
        "a key that no file lists": held.unlisted(),
        "a key with another certificate": held.key("bob", device="bob-phone"),
        "a key without the scope": held.key("ann", others),
        "a token without the scope": held.token("ann", "ann-phone", scopes=others),
        "a token that is over": held.token("ann", "ann-phone", ends_in_s=-LEEWAY_S - 1),
        "a token of another issuer": held.token("ann", "ann-phone", ours=False),
        "a token with another certificate": held.token("bob", "bob-phone"),
        "a token without a certificate": held.token("ann", None),
        "a token of another signature": f"{head}.{body}.{signature[:-4]}AAAA",
        "a token for somebody else": held.altered(token, aud="another-edge"),
        "a token that lives too long": held.altered(token, exp=int(time.time()) + 100_000),
        "a key that is too long": good + "x" * 5000,
    }
    shown: dict[str, Sequence[str]] = {name: (f"Bearer {bearer}",) for name, bearer in bearers.items()}
    shown |= {"nothing": (), "another scheme": (f"Basic {good}",), "two": (f"Bearer {good}", f"Bearer {good}")}
    return shown


@pytest.mark.slow
async def test_every_method_is_closed_to_every_credential_that_is_not_good(held: Credentials, tmp_path: Path) -> None:
    """The edge is a process of its own, with all that it is served with; only its model is a stub."""
    bad = {needed: bad_ones(held, needed) for needed in Scope}
    good = [f"Bearer {held.first}", f"Bearer {held.token('ann', 'ann-phone')}"]
    log = tmp_path / "log"
    async with stub_server(held.settings(), pass_s=0.0, position_s=0.0, log=log) as edge:
        tls, denied = held.authority.channel_tls("ann-phone"), 0

        async def check(shown: Sequence[str], methods: Sequence[str], *, passes: bool) -> int:
            # The connection of a device that the edge's authority vouches for.
            async with grpc.aio.secure_channel(edge.address, tls.credentials()) as channel:
                codes = await asyncio.gather(*(code_of(channel, method, shown) for method in methods))
            for method, code in zip(methods, codes, strict=True):
                assert (code in DENIED) != passes, (method, code)
                assert (code is Code.UNIMPLEMENTED) == (passes and method.endswith("Health/List"))
            return len(codes)

        async with grpc.aio.secure_channel(edge.address, tls.credentials()) as channel:
            methods = await methods_of(channel, (("authorization", good[0]),))
        assert set(methods) <= set(NEEDS)
        assert len(methods) >= 5
        for authorization in good:
            await check((authorization,), methods, passes=True)
        for needed, shown in bad.items():
            own = [method for method in methods if NEEDS[method] is needed]
            assert own
            for done in await asyncio.gather(*(check(values, own, passes=False) for values in shown.values())):
                denied += done
        assert denied == len(methods) * len(bad[Scope.HEALTH])
        assert len(bad[Scope.HEALTH]) >= 8
        for authorization in good:
            await check((authorization,), methods, passes=True)
    said = log.read_text()
    assert not [secret for secret in held.secrets if secret in said]
    assert len(said.splitlines()) < 20  # strangers do not fill the log


# ---- stolen, each alone ----


async def first_frames(
    edge: Loopback, connection: EdgeConnection, session: DeviceSession, count: int
) -> list[EdgeFrame]:
    """Attach, and return so many of the edge's frames; its signs of life do not count."""
    stream = connection.generate(VOCABULARY)
    for output in session.attach(40, with_prefix=True):
        assert isinstance(output, (Open, Prefix, Draft))
        await stream.send(output)
    frames: list[EdgeFrame] = []
    async for frame in stream:
        frames += [] if isinstance(frame, Ping) else [frame]
        if len(frames) == count:
            break
    stream.cancel()
    return frames


def with_id(session: DeviceSession, edge: Loopback, prompt: Sequence[int]) -> DeviceSession:
    """Return a session under the id of another."""
    return DeviceSession(
        session.session_id,
        edge.description.identity,
        prompt,
        sampling=Sampling(),
        stop_ids=edge.description.stop_ids,
        max_tokens=MOST,
        limits=edge.description.limits,
        plan=Plan(0),
    )


async def test_what_is_stolen_alone_opens_nothing(held: Credentials) -> None:
    expected = greedy(TARGET.model, list(PROMPT), MOST)
    tls = held.authority.server_tls()
    token, bobs = held.token("ann", "ann-phone", scopes=DEVICE), held.token("bob", "bob-phone", scopes=DEVICE)
    held.authority.device("mallory-phone")
    terms = Terms(most=8, keep_s=60, run_ahead=False)
    async with edge_on_loopback(TARGET, terms=terms, tls=tls, gatekeeper=held.gate()) as edge:
        drafter, recorder = Held([*PROMPT, *expected]), Recorder()
        session = session_for(edge, PROMPT, draft_length=4, max_tokens=MOST)
        async with EdgeConnection(edge.address, held.access(token)) as anns:
            with Generation(session, drafter, recorder) as generation:
                writing = asyncio.create_task(generation.over(anns.generate(VOCABULARY)))
                await drafter.is_there.wait()

                # Her token, over the connection of another device that the authority vouches for.
                for access in (held.access(token, "bob-phone"), held.access(token, "mallory-phone")):
                    await turned_away(edge, access)
                # Her certificate and its key, without anything to show; or with another tenant's token.
                for access in (held.access(None), held.access(bobs)):
                    await turned_away(edge, access)
                # Her token, without any certificate: no connection at all.
                bare = Access(held.authority.channel_tls(None), held.access(token).key_file)
                async with EdgeConnection(edge.address, bare) as connection:
                    with pytest.raises(EdgeUnreachable):
                        await connection.describe()

                # Her session's id, by other tenants, above her epochs: with all that her text began with, and without.
                for access, prompt in (
                    (held.access(bobs, "bob-phone"), PROMPT),
                    (held.access(held.key("carol"), "mallory-phone"), (9, 8, 7)),
                ):
                    thief = with_id(session, edge, prompt)
                    async with EdgeConnection(edge.address, access) as connection:
                        opened, commit = await first_frames(edge, connection, thief, 2)
                    assert isinstance(opened, Opened)
                    assert opened.committed_length == len(prompt) < len(session.ids)
                    assert opened.kv_length == 0
                    assert isinstance(commit, Commit)
                    assert list(commit.ids) == greedy(TARGET.model, list(prompt), MOST)[: len(commit.ids)]
                assert not writing.done()
                drafter.may_go_on.set()
                await writing
    assert recorder.ids == expected


async def turned_away(edge: Loopback, access: Access) -> None:
    """Find neither call open."""
    async with EdgeConnection(edge.address, access) as connection:
        with pytest.raises(Unauthenticated, match="denies access"):
            await connection.describe()
        with pytest.raises(Unauthenticated, match="denies access"):
            await anext(aiter(connection.generate(VOCABULARY)))


# ---- the end of a token ----


@dataclass(slots=True)
class Waiting:
    """Does something when the device says that its text stands still."""

    reasons: list[str]
    then: Any

    def waiting(self, reason: str) -> None:
        """Take note."""
        self.reasons.append(reason)
        self.then()

    def back(self, edge: str, after_s: float) -> None:
        """Take note."""


async def test_a_text_outlives_its_token(held: Credentials) -> None:
    """The stream ends with the token; the device reads the file that was rewritten meanwhile, and goes on."""
    expected = greedy(TARGET.model, list(PROMPT), MOST)
    drafter, recorder = Held([*PROMPT, *expected]), Recorder()
    access = held.access(held.token("ann", "ann-phone", scopes=DEVICE, ends_in_s=2.0 - LEEWAY_S))
    assert access.key_file is not None
    tls, terms = held.authority.server_tls(), Terms(most=8, keep_s=60, run_ahead=False)
    async with edge_on_loopback(TARGET, terms=terms, tls=tls, gatekeeper=held.gate()) as edge, asyncio.timeout(60):
        notice = Waiting([], drafter.may_go_on.set)
        roaming = Roaming(Reattachment([edge.address], 20.0, lambda: 0.5), notice, connect_s=10.0, access=access)
        session = session_for(edge, PROMPT, draft_length=4, max_tokens=MOST)
        with Generation(session, drafter, recorder) as generation:
            connection, _ = await roaming.first(lambda connection: connection.describe())
            writing = asyncio.create_task(roaming.run(generation, VOCABULARY, connection))
            await drafter.is_there.wait()
            access.key_file.write_text(held.token("ann", "ann-phone", scopes=DEVICE))
            await writing
    assert recorder.ids == expected
    assert roaming.reattached == 1
    (reason,) = notice.reasons
    assert "attach with a fresh token" in reason


async def test_without_a_fresh_token_the_text_ends_denied(held: Credentials) -> None:
    expected = greedy(TARGET.model, list(PROMPT), MOST)
    drafter, recorder = Held([*PROMPT, *expected]), Recorder()
    access = held.access(held.token("ann", "ann-phone", scopes=DEVICE, ends_in_s=2.0 - LEEWAY_S))
    tls, terms = held.authority.server_tls(), Terms(most=8, keep_s=60, run_ahead=False)
    async with edge_on_loopback(TARGET, terms=terms, tls=tls, gatekeeper=held.gate()) as edge, asyncio.timeout(60):
        notice = Waiting([], drafter.may_go_on.set)
        roaming = Roaming(Reattachment([edge.address], 20.0, lambda: 0.5), notice, connect_s=10.0, access=access)
        session = session_for(edge, PROMPT, draft_length=4, max_tokens=MOST)
        with Generation(session, drafter, recorder) as generation:
            connection, _ = await roaming.first(lambda connection: connection.describe())
            with pytest.raises(Unauthenticated, match="--key-file"):
                await roaming.run(generation, VOCABULARY, connection)
    assert 0 < len(recorder.ids) < MOST


# ---- the commands ----


async def device(env: dict[str, str], *words: object) -> tuple[int, str, str]:
    """Run a device's command; return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "device_client", *map(str, words)),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env,
    )  # fmt: skip
    out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


@pytest.mark.slow
async def test_the_commands_of_a_device(held: Credentials, tmp_path: Path) -> None:
    """The text over mTLS is that without; what is denied has a code of its own and one line without a secret."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRDRAFT_")}
    env = kept | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    good, narrow, wrong = (tmp_path / name for name in ("good", "narrow", "wrong"))
    good.write_text(held.token("ann", "ann-phone", scopes=DEVICE) + "\n")
    narrow.write_text(held.key("ann", frozenset({Scope.DESCRIBE})))
    wrong.write_text(held.unlisted())
    folder, theirs = held.authority.folder, Authority(tmp_path / "theirs")
    held.authority.device("ann-phone")
    with edge_node(held.options()) as secured, edge_node() as plain:
        ask_for = ("generate", "Tom has 3 pens.", "--max-tokens", 40, "--json", "--seed", 5, "--temperature", 1)
        tls = ("--tls-ca", folder / "ca.pem")
        shown = ("--tls-cert", folder / "ann-phone.pem", "--tls-key", folder / "ann-phone.key")
        there, here = ("--edge", secured), ("--edge", plain)
        code, out, error = await device(env, *ask_for, *there, *tls, *shown, "--key-file", good)
        assert code == 0, error
        _, alone, _ = await device(env, *ask_for, *here)
        assert json.loads(out)["ids"] == json.loads(alone)["ids"]
        assert len(json.loads(out)["ids"]) > 10
        for words, expected, says in (
            ((*there, *tls, *shown), 7, "--key-file names"),
            ((*there, *tls, *shown, "--key-file", wrong), 7, "denies access"),
            ((*there, *tls, *shown, "--key-file", narrow), 7, "not good for generate"),
            ((*there, *tls, "--key-file", good), 3, "add --tls-cert and --tls-key"),
            ((*there, "--tls-ca", theirs.ca, *shown, "--key-file", good), 3, "does not vouch for"),
            ((*there, "--key-file", good), 3, "add --tls-ca"),
            ((*here, *tls), 3, "speaks no TLS"),
            ((*there, *tls, *shown, "--key-file", tmp_path / "absent"), 2, "cannot read the key file"),
            ((*there, *tls, "--tls-cert", good), 2, "add --tls-key"),
            ((*there, *tls, "--tls-cert", good, "--tls-key", good), 2, "holds no certificate"),
            (("--edge", "192.0.2.1:1", "--key-file", good), 2, "in plain text"),
        ):
            code, out, error = await device(env, *ask_for, *words)
            assert (code, out) == (expected, ""), error
            *before, last = error.splitlines()
            assert says in last
            assert len(before) == (says == "not good for generate")  # its text stood still first
            assert not [secret for secret in held.secrets if secret in error]
