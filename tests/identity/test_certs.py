"""Certificates: those of one authority are believed for what they are good for, and no others are."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs the identity extra")
pytest.importorskip("jwt", reason="needs the identity extra")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import ClientVerifier, PolicyBuilder, ServerVerifier, Store, VerificationError

from coordinator.certs import (
    BACKDATED,
    Use,
    described,
    device_names,
    enrol,
    found,
    load_certificates,
    server_names,
)
from tests.identity.world import NOW, authority, certificate

DAY = timedelta(days=1)


def server_verifier(of: int = 0, host: str = "edge.home", now: datetime = NOW) -> ServerVerifier:
    builder = PolicyBuilder().store(Store([authority(of).certificate])).time(now)
    return builder.build_server_verifier(x509.DNSName(host))


def client_verifier(of: int = 0, now: datetime = NOW) -> ClientVerifier:
    return PolicyBuilder().store(Store([authority(of).certificate])).time(now).build_client_verifier()


def test_an_edges_certificate_is_good_for_its_hosts() -> None:
    assert server_verifier().verify(certificate(Use.EDGE), [])
    for verifier in (server_verifier(of=1), server_verifier(host="other.home"), server_verifier(now=NOW + 366 * DAY)):
        with pytest.raises(VerificationError):
            verifier.verify(certificate(Use.EDGE), [])


def test_a_devices_certificate_is_good_for_clients() -> None:
    assert client_verifier().verify(certificate(Use.DEVICE), [])
    for verifier in (client_verifier(of=1), client_verifier(now=NOW + 366 * DAY), client_verifier(now=NOW - DAY)):
        with pytest.raises(VerificationError):
            verifier.verify(certificate(Use.DEVICE), [])


def test_neither_is_good_for_what_the_other_is() -> None:
    with pytest.raises(VerificationError):
        client_verifier().verify(certificate(Use.EDGE), [])
    with pytest.raises(VerificationError):
        server_verifier(host="phone").verify(certificate(Use.DEVICE), [])


def test_a_device_cannot_sign_for_others() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    device = authority().certify("phone", device_names("phone"), Use.DEVICE, key.public_key(), NOW, 365)
    forger = type(authority())(key, device)
    forged = forger.certify("other", device_names("other"), Use.DEVICE, key.public_key(), NOW, 30)
    assert client_verifier().verify(device, [])
    with pytest.raises(VerificationError):
        client_verifier().verify(forged, [device])


def test_an_authority_signs_and_does_nothing_else() -> None:
    own = authority().certificate
    assert own.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    assert own.not_valid_after_utc == NOW + 3650 * DAY
    assert own.subject != authority(1).certificate.subject
    leaf = certificate(Use.EDGE).extensions
    assert leaf.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    assert not leaf.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert certificate(Use.EDGE).not_valid_before_utc == NOW - BACKDATED


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    found(tmp_path, NOW)
    late = NOW + 3600 * DAY
    assert enrol(tmp_path, "phone", device_names("phone"), Use.DEVICE, late, 50, new_key=False)
    with pytest.raises(ValueError, match="ask for 50 days at most"):
        enrol(tmp_path, "phone", device_names("phone"), Use.DEVICE, late, 51, new_key=False)


@pytest.mark.parametrize(
    "host", ["", "a b", "edge:50051", "*.home", "https://edge", "-" * 64, "a..b", ".a", "ü.home", "a\n"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    assert len(server_names(["edge_node", "edge.home", "192.0.2.1", "2001:db8::1"])) == 4
    with pytest.raises(ValueError, match="no host name"):
        server_names([host])


def test_a_description_says_who_what_for_until_when() -> None:
    lines = "\n".join(described(certificate(Use.EDGE), NOW))
    for told in ("CN=phone", "edge.home, 127.0.0.1, ::1", "good for    edge", "365 days left"):
        assert told in lines
    assert "(over)" in "\n".join(described(certificate(Use.EDGE), NOW + 366 * DAY))
    assert "(not yet)" in "\n".join(described(certificate(Use.EDGE), NOW - DAY))
    assert "signing certificates" in "\n".join(described(authority().certificate, NOW))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an authority, an edge and a device, valid now; ``other`` in it is the same of another authority."""
    now = datetime.now(UTC)
    for place in (tmp_path, tmp_path / "other"):
        found(place, now)
        enrol(place, "edge", server_names(["edge.home"]), Use.EDGE, now, 30, new_key=False)
        enrol(place, "phone", device_names("phone"), Use.DEVICE, now, 30, new_key=False)
    return tmp_path


def shaken(folder: Path, server: str = "edge", client: str | None = "phone", host: str = "edge.home") -> str:
    """Return the protocol of a handshake in memory, both ends of which trust the folder's authority alone.

    The server wants a certificate; None: the client has none. Raises ssl.SSLError.
    """
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    serving.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(folder / "ca.pem"))
    serving.load_cert_chain(folder / f"{server}.pem", folder / f"{server}.key")
    if client is not None:
        calling.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = calling.wrap_bio(down, up, server_hostname=host)
    two = serving.wrap_bio(up, down, server_side=True)

    def step(act: Callable[[], object]) -> None:
        with suppress(ssl.SSLWantReadError):
            act()

    for _ in range(4):
        step(one.do_handshake)
        step(two.do_handshake)
    return str(two.version())


def test_both_ends_shake_hands(folder: Path) -> None:
    assert shaken(folder) == "TLSv1.3"


@pytest.mark.parametrize(
    ("server", "client", "host"),
    [
        ("other/edge", "phone", "edge.home"),  # another authority's edge
        ("edge", "other/phone", "edge.home"),  # another authority's device
        ("edge", None, "edge.home"),  # no certificate
        ("phone", "phone", "phone"),  # a device that poses as an edge
        ("edge", "edge", "edge.home"),  # an edge's certificate as a device's
        ("edge", "phone", "other.home"),  # another host
    ],
)
def test_no_others_do(folder: Path, server: str, client: str | None, host: str) -> None:
    with pytest.raises(ssl.SSLError):
        shaken(folder, server, client, host)


def test_a_renewed_certificate_keeps_its_key(folder: Path) -> None:
    before = load_certificates(folder / "edge.pem")[0]
    key = (folder / "edge.key").read_bytes()
    now = datetime.now(UTC)
    enrol(folder, "edge", server_names(["edge.home"]), Use.EDGE, now, 60, new_key=False)
    renewed = load_certificates(folder / "edge.pem")[0]
    assert (folder / "edge.key").read_bytes() == key
    assert renewed.public_key() == before.public_key()
    assert renewed.not_valid_after_utc > before.not_valid_after_utc + 29 * DAY
    enrol(folder, "edge", server_names(["edge.home"]), Use.EDGE, now, 60, new_key=True)
    assert (folder / "edge.key").read_bytes() != key
    assert load_certificates(folder / "edge.pem")[0].public_key() != before.public_key()
    assert shaken(folder) == "TLSv1.3"


def test_a_name_is_one_uses(folder: Path) -> None:
    with pytest.raises(ValueError, match="something else"):
        enrol(folder, "edge", device_names("edge"), Use.DEVICE, datetime.now(UTC), 30, new_key=False)
    for name in ("ca", "CA", "", ".hidden", "a/b", "..", "a" * 65, "ü"):
        with pytest.raises(ValueError, match="a name is"):
            enrol(folder, name, device_names("phone"), Use.DEVICE, datetime.now(UTC), 30, new_key=False)


def test_an_authority_of_two_halves_is_refused(folder: Path) -> None:
    (folder / "ca.pem").write_bytes((folder / "other" / "ca.pem").read_bytes())
    with pytest.raises(ValueError, match="do not belong together"):
        enrol(folder, "phone", device_names("phone"), Use.DEVICE, datetime.now(UTC), 30, new_key=False)
