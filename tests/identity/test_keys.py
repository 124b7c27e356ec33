"""Static keys: who has one is let in, who has none is not, and a bad file says where it is bad and shows nothing."""

from __future__ import annotations

import datetime
import math
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs the identity extra")
pytest.importorskip("jwt", reason="needs the identity extra")

from airdraft.core.callers import Allowance, Caller, Scope
from airdraft.core.errors import Unauthenticated
from airdraft.identity.gate import UNKNOWN
from airdraft.identity.grants import AllowanceTable
from airdraft.identity.keys import digest_of, read_keys, secret_of
from airdraft.identity.thumbprints import thumbprint
from airdraft.identity.watched import IdentityFileError
from tests.identity.world import NOW_S, OTHER_SECRET, SECRET, World, certificate, entry, pem

FILE = Path("keys.toml")
DIGEST = digest_of(SECRET).hex()


def test_a_key_is_its_tenants(world: World) -> None:
    allowance = {"positions_s": 20.5, "sessions": 3}
    scopes = [Scope.GENERATE, Scope.DESCRIBE]
    world.keys.write_text(entry(allowance=allowance, scopes=scopes) + "\n" + entry(OTHER_SECRET, "flat"))
    gate = world.gate(keys=True)
    assert gate.admit(SECRET, b"") == Caller("house", frozenset(scopes), Allowance(20.5, sessions=3), math.inf)
    assert gate.admit(OTHER_SECRET, b"") == Caller("flat", frozenset({Scope.GENERATE}), None, math.inf)


@pytest.mark.parametrize(
    "bearer",
    ["", "adk_", OTHER_SECRET, SECRET[:-1], SECRET + "A", SECRET.lower(), SECRET + "\n", "é", "adk_é", "adk_\udcff"],
)
def test_what_is_no_key_is_refused(world: World, bearer: str) -> None:
    world.keys.write_text(entry())
    gate = world.gate(keys=True)
    assert gate.admit(SECRET, b"").tenant == "house"
    with pytest.raises(Unauthenticated) as caught:
        gate.admit(bearer, b"")
    assert str(caught.value) == UNKNOWN


def test_a_bound_key_comes_with_its_certificate_only(world: World) -> None:
    world.keys.write_text(entry(certificate=thumbprint(certificate())))
    gate = world.gate(keys=True)
    assert gate.admit(SECRET, pem(certificate())).tenant == "house"
    for other in (b"", pem(certificate(number=1)), b"no certificate"):
        with pytest.raises(Unauthenticated, match="does not know"):
            gate.admit(SECRET, other)


def test_where_certificates_are_asked_for_a_key_alone_is_refused(world: World) -> None:
    world.keys.write_text(entry())
    gate = world.gate(keys=True, wants_certificate=True)
    assert gate.admit(SECRET, pem(certificate())).tenant == "house"
    with pytest.raises(Unauthenticated, match="does not know"):
        gate.admit(SECRET, b"")


def test_a_key_ends_with_its_day(world: World) -> None:
    until = datetime.date(2027, 1, 31)
    end_s = datetime.datetime(2027, 1, 31, tzinfo=datetime.UTC).timestamp()
    world.keys.write_text(entry(until=until))
    gate = world.gate(keys=True)
    world.clock.now_s = end_s - 1
    assert gate.admit(SECRET, b"").until_s == end_s
    world.clock.now_s = end_s
    with pytest.raises(Unauthenticated, match="over"):
        gate.admit(SECRET, b"")


def test_times_are_dates_or_moments_with_an_offset() -> None:
    def until(text: str) -> float:
        lines = f'[[key]]\ntenant = "a"\nsha256 = "{DIGEST}"\nscopes = ["generate"]\nuntil = {text}\n'
        (key,) = read_keys(FILE, lines.encode()).keys.values()
        return key.caller.until_s

    assert until("2027-01-31") == until("2027-01-31T00:00:00Z") == until("2027-01-31T02:00:00+02:00")
    for bad in ("2027-01-31T00:00:00", "12:00:00", '"2027-01-31"', "1800000000", "true"):
        with pytest.raises(IdentityFileError, match="until: must be a date like"):
            until(bad)


GOOD = {"tenant": '"house"', "sha256": f'"{DIGEST}"', "scopes": '["generate"]'}


def lines(**changed: str | None) -> str:
    entry = {name: value for name, value in (GOOD | changed).items() if value is not None}
    return "[[key]]\n" + "".join(f"{name} = {value}\n" for name, value in entry.items())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lines(tenant=None), "key 1: tenant: Field required"),
        (lines(tenant='""'), "key 1: tenant: a tenant's name is 1 to 64 of"),
        (lines(tenant=f'"{"a" * 65}"'), "key 1: tenant: a tenant's name is"),
        (lines(tenant='"a b"'), "key 1: tenant: a tenant's name is"),
        (lines(tenant='"a\\n"'), "key 1: tenant: a tenant's name is"),
        (lines(tenant="7"), "key 1: tenant: Input should be a valid string"),
        (lines(sha256=None), "key 1: sha256: Field required"),
        (lines(sha256=f'"{SECRET}"'), "key 1: sha256: must be a SHA-256 digest, 64 hexadecimal digits"),
        (lines(sha256=f'"{DIGEST[:-2]}"'), "key 1: sha256: must be"),
        (lines(sha256=f'"{DIGEST}\\n"'), "key 1: sha256: must be"),
        (lines(scopes='["generate", "root"]'), "key 1: scopes.1: Input should be 'describe'"),
        (lines(scopes='"generate"'), "key 1: scopes: Input should be a valid frozenset"),
        (lines(scopes="[]"), "key 1: scopes: Frozenset should have at least 1 item"),
        (lines(scopes=None), "key 1: scopes: Field required"),
        (lines(certificate='"ab"'), "key 1: certificate: must be"),
        (lines(tenent='"house"'), "key 1: unknown key tenent; known: tenant, scopes, allowance, sha256"),
        (lines(**{SECRET: "1"}), "key 1: unknown key one; known"),
        (lines() + "[key.allowance]\nposition = 3\n", "key 1: unknown key position; known: positions_s"),
        (lines() + "[key.allowance]\npositions_s = -1\n", "key 1: allowance.positions_s: Input should be greater"),
        (lines() + "[key.allowance]\npositions_s = nan\n", "key 1: allowance.positions_s: Input should be a finite"),
        (lines() + "[key.allowance]\nsessions = 1.5\n", "key 1: allowance.sessions: Input should be a valid integer"),
        (lines() + lines(tenant='"flat"'), "key 2 (flat): this digest was there already"),
        (lines() + "[[key]]\n", "key 2: tenant: Field required"),
        ("[key]\n", "holds something else than"),
        ("key = [1]\n", "key 1: "),
        (lines() + "[other]\n", "holds something else than"),
        (f"{SECRET}\n", "not TOML (at line 1"),
        (f"{SECRET} = 1\n{SECRET} = 1\n", "not TOML (at"),
        (f"[{SECRET}]\n[{SECRET}]\n", "not TOML (at line 2"),
        ("a = " + "[" * 5000, "not TOML"),
        ("a = " + "1" * 5000, "not TOML"),
        ("a = 2027-02-31", "not TOML"),
    ],
)
def test_a_bad_file_names_the_place_in_one_line_and_shows_no_value(content: str, told: str) -> None:
    assert len(read_keys(FILE, lines().encode()).keys) == 1
    with pytest.raises(IdentityFileError) as caught:
        read_keys(FILE, content.encode())
    text = str(caught.value)
    assert text.startswith(f"keys.toml: {told}")
    assert "\n" not in text
    assert SECRET not in text
    assert DIGEST not in text


def test_bytes_that_are_no_text_are_no_key_file() -> None:
    with pytest.raises(IdentityFileError, match="not TOML"):
        read_keys(FILE, b"\xff\xfe")


def test_a_file_without_keys_lets_nobody_in(world: World) -> None:
    world.keys.write_text("")
    with pytest.raises(Unauthenticated):
        world.gate(keys=True).admit(SECRET, b"")


def test_an_allowance_in_a_file_has_the_fields_of_an_allowance() -> None:
    assert list(AllowanceTable.model_fields) == [one.name for one in fields(Allowance)]
    assert AllowanceTable().allowance() == Allowance()
    assert AllowanceTable(positions_s=1, prefill_s=2, sessions=3, streams=4).allowance() == Allowance(1, 2, 3, 4)


def test_a_table_shows_nothing_of_itself() -> None:
    table = read_keys(FILE, entry().encode())
    assert DIGEST not in repr(table)
    assert repr(digest_of(SECRET)) not in repr(table)
    assert table.find(SECRET, b"", NOW_S) is not None


def test_a_secret_is_32_random_bytes() -> None:
    assert SECRET.startswith("adk_")
    assert len(SECRET) == 4 + 43
    assert secret_of(b"\1" * 32) != secret_of(b"\2" * 32)
    with pytest.raises(ValueError, match="32 bytes"):
        secret_of(b"short")
