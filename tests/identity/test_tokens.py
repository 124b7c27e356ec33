"""Tokens: the good one is let in; each one with a single flaw, next to it, is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="needs the identity extra")
pytest.importorskip("jwt", reason="needs the identity extra")

import jwt
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from airdraft.core.callers import Allowance, Caller, Scope
from airdraft.core.errors import Unauthenticated
from airdraft.identity.gate import UNKNOWN
from airdraft.identity.thumbprints import thumbprint
from airdraft.identity.tokens import Issuer, issuer_name, new_issuer, read_issuer, read_issuers
from airdraft.identity.watched import IdentityFileError
from tests.identity.world import NOW_S, World, certificate, pem, public_pem

DAY_S = 86_400
FILE = Path("issuers.pem")


def encoded(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def bound(number: int = 0) -> dict[str, str]:
    return {"x5t#S256": encoded(thumbprint(certificate(number=number)))}


def test_a_token_is_its_tenants(world: World) -> None:
    gate = world.issuer_gate()
    holder = Caller("house", frozenset({Scope.GENERATE}), Allowance(20.0, streams=2), NOW_S + 300)
    token = Issuer(world.signing).sign(holder, now_s=NOW_S, token_id="one", thumbprint=None)
    caller = gate.admit(token, b"")
    assert (caller.tenant, caller.scopes, caller.allowance) == (holder.tenant, holder.scopes, holder.allowance)
    assert caller.until_s == NOW_S + 300 + 30, "with the leeway for clocks that differ"
    assert gate.admit(world.token(), b"").allowance is None


def test_a_bound_token_comes_with_its_certificate_only(world: World) -> None:
    gate = world.issuer_gate(wants_certificate=True)
    token = Issuer(world.signing).sign(
        Caller("house", until_s=NOW_S + 60), now_s=NOW_S, token_id="one", thumbprint=thumbprint(certificate())
    )
    assert gate.admit(token, pem(certificate())).tenant == "house"
    for other in (b"", pem(certificate(number=1)), b"no certificate"):
        with pytest.raises(Unauthenticated) as caught:
            gate.admit(token, other)
        assert str(caught.value) == UNKNOWN
    free = world.issuer_gate()
    assert free.admit(token, pem(certificate())).tenant == "house"
    with pytest.raises(Unauthenticated):
        free.admit(token, b"")


def test_where_certificates_are_asked_for_a_token_must_be_bound(world: World) -> None:
    gate = world.issuer_gate(wants_certificate=True)
    assert gate.admit(world.token(cnf=bound()), pem(certificate())).tenant == "house"
    with pytest.raises(Unauthenticated, match="does not know"):
        gate.admit(world.token(), pem(certificate()))


FLAWS: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "other-edge"},
    "a list of audiences": {"aud": ["airdraft-edge"]},
    "no audience": {"aud": None},
    "another issuer": {"iss": "other"},
    "no issuer": {"iss": None},
    "no end": {"exp": None},
    "no beginning": {"nbf": None},
    "no date": {"iat": None},
    "no number": {"jti": None},
    "an empty number": {"jti": ""},
    "a long number": {"jti": "a" * 65},
    "no tenant": {"tenant": None},
    "an empty tenant": {"tenant": ""},
    "a tenant with spaces": {"tenant": "a b"},
    "a tenant that is none": {"tenant": 7},
    "no scope": {"scope": None},
    "an empty scope": {"scope": ""},
    "an unknown scope": {"scope": "generate root"},
    "a list of scopes": {"scope": ["generate"]},
    "too long a life": {"exp": int(NOW_S) + 601},
    "a life before its time": {"exp": int(NOW_S) - 1},
    "an end that is a truth": {"exp": True},
    "an end that is text": {"exp": str(int(NOW_S) + 600)},
    "an end in no time": {"exp": 1e308},
    "a date that is too big": {"iat": 10**30},
    "an unknown claim": {"admin": True},
    "an unknown limit": {"allowance": {"position": 3}},
    "a limit below none": {"allowance": {"positions_s": -1}},
    "a limit without end": {"allowance": {"positions_s": float("inf")}},
    "another certificate": {"cnf": bound(1)},
    "a confirmation of another kind": {"cnf": {"jkt": "x"}},
    "an empty confirmation": {"cnf": {}},
    "a short thumbprint": {"cnf": {"x5t#S256": ""}},
    "a thumbprint and more": {"cnf": bound() | {"jkt": "x"}},
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_token_with_a_flaw_is_refused(world: World, flaw: str) -> None:
    gate = world.issuer_gate()
    good: dict[str, Any] = {"cnf": bound()}
    assert gate.admit(world.token(**good), pem(certificate())).tenant == "house"
    with pytest.raises(Unauthenticated) as caught:
        gate.admit(world.token(**(good | FLAWS[flaw])), pem(certificate()))
    assert str(caught.value) == UNKNOWN


def test_another_key_under_the_name_of_a_known_one_is_refused(world: World) -> None:
    gate = world.issuer_gate()
    assert gate.admit(world.token(), b"")
    with pytest.raises(Unauthenticated, match="does not know"):
        gate.admit(world.token(Ed25519PrivateKey.generate()), b"")


def test_an_unknown_issuer_is_refused(world: World) -> None:
    gate = world.issuer_gate()
    stranger = Issuer(Ed25519PrivateKey.generate())
    holder = Caller("house", until_s=NOW_S + 60)
    with pytest.raises(Unauthenticated, match="does not know"):
        gate.admit(stranger.sign(holder, now_s=NOW_S, token_id="one", thumbprint=None), b"")


def test_an_issuer_cannot_speak_for_another(world: World) -> None:
    other = Ed25519PrivateKey.generate()
    world.issuers.write_bytes(public_pem(world.signing) + public_pem(other))
    gate = world.gate(issuers=True)
    claims = world.claims(iss=issuer_name(other.public_key()))
    assert gate.admit(jwt.encode(claims, other, "EdDSA", {"kid": claims["iss"]}), b"")
    with pytest.raises(Unauthenticated):
        gate.admit(world.token(iss=claims["iss"]), b"")
    with pytest.raises(Unauthenticated):
        gate.admit(jwt.encode(claims, world.signing, "EdDSA", {"kid": claims["iss"]}), b"")


def test_an_algorithm_that_the_token_chooses_is_refused(world: World) -> None:
    gate = world.issuer_gate()
    name = issuer_name(world.signing.public_key())
    body = encoded(world.claims())

    def signed(alg: object, secret: bytes) -> str:
        head = encoded({"alg": alg, "kid": name, "typ": "JWT"})
        return f"{head}.{body}.{encoded(hmac.digest(secret, f'{head}.{body}'.encode(), hashlib.sha256))}"

    none = encoded({"alg": "none", "kid": name})
    public = world.signing.public_key()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bad = [f"{none}.{body}.", f"{none}.{body}.AAAA"]
    bad += [signed("HS256", secret) for secret in (public_pem(world.signing), raw, der, b"")]
    bad += [signed(alg, raw) for alg in ("none", "None", "eddsa", "RS256", "", None, [], ["EdDSA"], {"EdDSA": 1}, 7)]
    assert gate.admit(world.token(), b"")
    for token in bad:
        with pytest.raises(Unauthenticated) as caught:
            gate.admit(token, b"")
        assert str(caught.value) == UNKNOWN


def test_a_token_that_was_changed_is_refused(world: World) -> None:
    gate = world.issuer_gate()
    head, body, signature = world.token().split(".")
    other = encoded(world.claims(tenant="flat"))
    assert gate.admit(f"{head}.{body}.{signature}", b"")
    flipped = base64.urlsafe_b64decode(signature + "==")
    flipped = bytes([flipped[0] ^ 1]) + flipped[1:]
    for token in (
        f"{head}.{other}.{signature}",
        f"{head}.{body}.{encoded(flipped)}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.{signature}",
        f".{body}.{signature}",
        "..",
        ".",
    ):
        with pytest.raises(Unauthenticated):
            gate.admit(token, b"")


def test_nonsense_costs_little_and_is_refused(world: World) -> None:
    gate = world.issuer_gate()
    name = issuer_name(world.signing.public_key())
    deep = encoded(b"[" * 3000)
    for token in (
        f"{deep}.{deep[:20]}.AAAA",
        f"{encoded({'alg': 'EdDSA', 'kid': name, 'crit': ['x'], 'x': 1})}.{encoded(world.claims())}.AAAA",
        f"{encoded({'alg': 'EdDSA', 'kid': name, 'b64': False, 'crit': ['b64']})}..AAAA",
        f"{encoded({'alg': 'EdDSA', 'kid': [name]})}.{encoded({})}.AAAA",
        f"{encoded([1])}.{encoded([1])}.AAAA",
        encoded(b'{"kid": ' + b"1" * 2900 + b"}") + ".e30.AAAA",
        "a" * 4096,
        "\x00.\x00.\x00",
        "ü.ü.ü",
        "\udcff.e30.e30",
    ):
        with pytest.raises(Unauthenticated) as caught:
            gate.admit(token, b"")
        assert str(caught.value) == UNKNOWN
    signed = jwt.PyJWS().encode(b"[" * 2000, world.signing, "EdDSA", {"kid": name})
    with pytest.raises(Unauthenticated):
        gate.admit(signed, b"")


def test_a_token_over_4_kib_is_refused_unread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = world.issuer_gate()
    pad = "x" * (4096 - len(world.token()))
    read: list[int] = []
    header = jwt.get_unverified_header

    def reading(token: str) -> dict[str, Any]:
        read.append(len(token))
        return header(token)

    monkeypatch.setattr(jwt, "get_unverified_header", reading)
    for token, times in ((world.token() + pad, 1), (world.token() + pad + "x", 0)):
        read.clear()
        with pytest.raises(Unauthenticated):
            gate.admit(token, b"")
        assert len(read) == times


@pytest.mark.parametrize("skew_s", [-30, -1, 0, 1, 300, 629])
def test_clocks_may_differ_a_little(world: World, skew_s: int) -> None:
    gate = world.issuer_gate()
    world.clock.now_s = NOW_S + skew_s
    assert gate.admit(world.token(), b"").until_s == NOW_S + 630


def test_the_holder_of_a_token_that_is_over_is_told(world: World) -> None:
    gate = world.issuer_gate()
    world.clock.now_s = NOW_S + 640
    with pytest.raises(Unauthenticated, match=r"^the token is over since 40 s .*get a new one"):
        gate.admit(world.token(), b"")


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_the_holder_of_a_token_that_has_not_begun_is_told(world: World, claim: str) -> None:
    gate = world.issuer_gate()
    soon: dict[str, Any] = {claim: int(NOW_S) + 30}
    late: dict[str, Any] = {claim: int(NOW_S) + 31}
    assert gate.admit(world.token(**soon), b"")
    with pytest.raises(Unauthenticated, match=r"^the token begins in 31 s .*set the clocks"):
        gate.admit(world.token(**late), b"")


@pytest.mark.parametrize(
    ("skew_s", "told"),
    [
        (DAY_S, r"over since 85800 s by this edge's clock.*set the clocks"),
        (-DAY_S, r"begins in 86400 s.*set the clocks"),
    ],
)
def test_a_clock_that_is_a_day_off_is_named(world: World, skew_s: int, told: str) -> None:
    gate = world.issuer_gate()
    assert gate.admit(world.token(), b"")
    world.clock.now_s = NOW_S + skew_s
    with pytest.raises(Unauthenticated, match=told):
        gate.admit(world.token(), b"")


def test_only_who_holds_the_certificate_learns_that_a_token_is_over(world: World) -> None:
    gate = world.issuer_gate()
    world.clock.now_s = NOW_S + DAY_S
    token = world.token(cnf=bound())
    with pytest.raises(Unauthenticated, match="over since"):
        gate.admit(token, pem(certificate()))
    for thief in (b"", pem(certificate(number=1))):
        with pytest.raises(Unauthenticated, match="does not know"):
            gate.admit(token, thief)
    forged = world.token(Ed25519PrivateKey.generate())
    with pytest.raises(Unauthenticated, match="does not know"):
        gate.admit(forged, b"")


@pytest.mark.parametrize(
    ("tenant", "seconds", "told"),
    [
        ("house", 601, "lives between"),
        ("house", 0, "lives between"),
        ("house", float("inf"), "lives between"),
        ("", 60, "1 to 64"),
    ],
)
def test_an_issuer_signs_nothing_that_no_edge_would_take(tenant: str, seconds: float, told: str) -> None:
    issuer = Issuer(Ed25519PrivateKey.generate())
    assert issuer.sign(Caller("house", until_s=NOW_S + 600), now_s=NOW_S, token_id="one", thumbprint=None)
    with pytest.raises(ValueError, match=told) as caught:
        issuer.sign(Caller(tenant, until_s=NOW_S + seconds), now_s=NOW_S, token_id="one", thumbprint=None)
    assert "\n" not in str(caught.value)


def test_an_issuer_shows_nothing_of_its_key() -> None:
    private, public = new_issuer()
    issuer = read_issuer(Path("issuer.key"), private)
    assert list(read_issuers(FILE, public).keys) == [issuer.name]
    body = private.decode().splitlines()[1]
    assert body not in repr(issuer)
    assert body not in str(vars(issuer))


def test_a_bad_file_of_issuers_names_the_place() -> None:
    private, public = new_issuer()
    other = Ed448PrivateKey.generate()
    ed448 = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert len(read_issuers(FILE, b"the old one\n" + public + b"the new one\n" + new_issuer()[1]).keys) == 2
    broken = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    for content, told in (
        (b"", "no public key in PEM"),
        (b"\xff", "no public key in PEM"),
        (public + private, "block 2: no public key; put issuer.pem here, and never issuer.key"),
        (public + public, "block 2: this key was there already"),
        (public + ed448, "block 2: not an Ed25519 key"),
        (public + broken, "block 2: a public key that cannot be read"),
        (pem(certificate()), "block 1: no public key"),
    ):
        with pytest.raises(IdentityFileError) as caught:
            read_issuers(FILE, content)
        assert str(caught.value).startswith(f"issuers.pem: {told}")
        assert private.decode().splitlines()[1] not in str(caught.value)


def test_a_bad_key_of_an_issuer_is_refused() -> None:
    private, public = new_issuer()
    other = Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert read_issuer(Path("issuer.key"), private)
    for content, told in ((public, "no private key"), (b"", "no private key"), (other, "not an Ed25519 key")):
        with pytest.raises(IdentityFileError, match=told):
            read_issuer(Path("issuer.key"), content)
