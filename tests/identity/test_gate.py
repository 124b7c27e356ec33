"""The gate: its files may change under it, may break, and come back; what it says shows no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs the identity extra")
pytest.importorskip("jwt", reason="needs the identity extra")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from airdraft.core.callers import Gatekeeper
from airdraft.core.errors import Unauthenticated
from airdraft.identity.gate import UNKNOWN, Gate
from airdraft.identity.watched import MAX_FILE_BYTES, IdentityFileError
from tests.identity.world import OTHER_SECRET, SECRET, World, certificate, entry, pem, public_pem


def knows(gate: Gate, bearer: str) -> bool:
    try:
        gate.admit(bearer, b"")
    except Unauthenticated:
        return False
    return True


def test_a_gate_is_a_gatekeeper_over_keys_and_tokens(world: World) -> None:
    world.keys.write_text(entry())
    world.issuers.write_bytes(public_pem(world.signing))
    both: Gatekeeper = world.gate(keys=True, issuers=True)
    assert both.admit(SECRET, b"").tenant == both.admit(world.token(), b"").tenant == "house"
    assert not knows(world.gate(keys=True), world.token())
    assert not knows(world.gate(issuers=True), SECRET)
    with pytest.raises(ValueError, match="needs a file"):
        world.gate()


def test_a_new_key_and_a_revoked_one_are_seen_within_a_second(world: World) -> None:
    world.keys.write_text(entry())
    gate = world.gate(keys=True)
    assert (knows(gate, SECRET), knows(gate, OTHER_SECRET)) == (True, False)
    world.keys.write_text(entry(OTHER_SECRET))
    world.later(0.9)
    assert (knows(gate, SECRET), knows(gate, OTHER_SECRET)) == (True, False), "looked at too often"
    world.later(0.2)
    assert (knows(gate, SECRET), knows(gate, OTHER_SECRET)) == (False, True)
    assert world.reports == [f"{world.keys}: read again"]


def test_the_last_key_can_be_revoked(world: World) -> None:
    world.keys.write_text(entry())
    gate = world.gate(keys=True)
    assert knows(gate, SECRET)
    world.keys.write_text("")
    world.later()
    assert not knows(gate, SECRET)


def test_a_file_is_looked_at_once_a_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.keys.write_text(entry())
    gate = world.gate(keys=True)
    looked: list[Path] = []
    stat = os.stat

    def looking(path: Path) -> os.stat_result:
        looked.append(path)
        return stat(path)

    monkeypatch.setattr(os, "stat", looking)
    for _ in range(10):
        world.later(0.5)
        assert knows(gate, SECRET)
    assert looked == [world.keys] * 5


def test_an_issuer_that_is_taken_out_is_not_believed_any_more(world: World) -> None:
    gate = world.issuer_gate()
    token, other = world.token(), Ed25519PrivateKey.generate()
    assert knows(gate, token)
    world.issuers.write_bytes(public_pem(other) + public_pem(world.signing))
    world.later()
    assert knows(gate, token), "both, while issuers change"
    world.issuers.write_bytes(public_pem(other))
    world.later()
    assert not knows(gate, token)


@pytest.mark.parametrize(
    "broken", [f"{SECRET}\n", entry().replace("house", ""), entry() * 2, "x" * (MAX_FILE_BYTES + 1)]
)
def test_a_broken_file_keeps_the_last_good_one_and_is_reported_once(world: World, broken: str) -> None:
    world.keys.write_text(entry())
    gate = world.gate(keys=True)
    world.keys.write_text(broken)
    for _ in range(3):
        world.later()
        assert knows(gate, SECRET)
    (report,) = world.reports
    assert report.startswith(f"{world.keys}: ")
    assert report.endswith("what it said before stays in force")
    assert "\n" not in report
    assert SECRET not in report
    world.keys.write_text(entry(OTHER_SECRET))
    world.later()
    assert (knows(gate, SECRET), knows(gate, OTHER_SECRET)) == (False, True)
    assert world.reports[1:] == [f"{world.keys}: read again"]


def test_a_lost_file_keeps_the_last_good_one_and_is_reported_once(world: World) -> None:
    world.keys.write_text(entry())
    gate = world.gate(keys=True)
    world.keys.unlink()
    for _ in range(3):
        world.later()
        assert knows(gate, SECRET)
    assert world.reports == [
        f"{world.keys}: cannot be read: No such file or directory; what it said before stays in force"
    ]
    world.keys.write_text(entry(OTHER_SECRET))
    world.later()
    assert not knows(gate, SECRET)


def test_a_file_that_is_replaced_by_one_as_old_and_as_long_is_read(world: World, tmp_path: Path) -> None:
    world.keys.write_text(entry())
    gate = world.gate(keys=True)
    before = world.keys.stat()
    (tmp_path / "new").write_text(entry(OTHER_SECRET))
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "new").rename(world.keys)
    assert world.keys.stat().st_size == before.st_size
    world.later()
    assert (knows(gate, SECRET), knows(gate, OTHER_SECRET)) == (False, True)


@pytest.mark.parametrize("content", [None, f"{SECRET} = 1\n", "[[key]]\n"])
def test_a_file_that_never_was_good_ends_the_start_with_one_line(world: World, content: str | None) -> None:
    if content is not None:
        world.keys.write_text(content)
    with pytest.raises(IdentityFileError) as caught:
        world.gate(keys=True)
    assert str(caught.value).startswith(f"{world.keys}: ")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    world.keys.write_text(entry())
    assert knows(world.gate(keys=True), SECRET)


def test_every_stranger_hears_the_same_and_nothing_shows_a_secret(world: World) -> None:
    world.keys.write_text(entry(certificate=b"\1" * 32))
    world.issuers.write_bytes(public_pem(world.signing))
    gate = world.gate(keys=True, issuers=True, wants_certificate=True)
    token = world.token()
    texts = []
    for bearer in ("", "x", SECRET, OTHER_SECRET, token, token[:-4], "a" * 5000):
        for shown in (b"", b"x", pem(certificate())):
            with pytest.raises(Unauthenticated) as caught:
                gate.admit(bearer, shown)
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__ or caught.value.__context__ is None
            texts.append(str(caught.value))
    assert set(texts) == {UNKNOWN}
    assert SECRET not in repr(gate) + repr(vars(gate))
