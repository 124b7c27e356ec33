"""The commands that make credentials: what they make is taken by a gate, what is there is not overwritten."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs the identity extra")
pytest.importorskip("jwt", reason="needs the identity extra")

from typer.testing import CliRunner, Result

from airdraft.core.callers import Allowance, Scope
from airdraft.core.errors import Unauthenticated
from airdraft.identity.gate import Gate
from airdraft.identity.keys import digest_of
from airdraft.identity.thumbprints import thumbprint_of
from coordinator import private_files
from coordinator.__main__ import app


def run(*words: object, code: int = 0) -> Result:
    """Run a command; a failed one says why in one line."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    if code:
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("coordinator: ")
        assert done.stdout == ""
    return done


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def gate(*, keys: Path | None = None, issuers: Path | None = None, wants_certificate: bool = False) -> Gate:
    return Gate(
        keys=keys,
        issuers=issuers,
        wants_certificate=wants_certificate,
        clock=time.time,
        monotonic=time.monotonic,
        report=lambda line: None,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an authority and a device."""
    folder = tmp_path / "certs"
    run("certs", "init", folder)
    run("certs", "device", folder, "--name", "phone")
    return folder


def test_private_keys_are_their_owners_alone(folder: Path) -> None:
    mask = os.umask(0)
    try:
        run("certs", "edge", folder, "--host", "edge.home", "--host", "127.0.0.1")
        run("issuer", "init", folder / "issuer")
        run("key", "--tenant", "house", "--file", folder / "keys.toml", "--out", folder / "secret")
        token = ("token", "--issuer-key", folder / "issuer" / "issuer.key", "--tenant", "house")
        run(*token, "--out", folder / "token")
    finally:
        os.umask(mask)
    for name in ("ca.key", "phone.key", "edge.key", "issuer/issuer.key", "keys.toml", "secret", "token"):
        assert mode(folder / name) == 0o600, name
    for name in ("ca.pem", "phone.pem", "edge.pem", "issuer/issuer.pem"):
        assert mode(folder / name) == 0o644, name
    assert mode(folder) == 0o700
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == set(), "files left over"


def test_an_authority_is_never_overwritten(folder: Path) -> None:
    before = (folder / "ca.key").read_bytes(), (folder / "ca.pem").read_bytes()
    assert "is there already" in run("certs", "init", folder, code=2).stderr
    (folder / "ca.pem").unlink()
    assert "is there already" in run("certs", "init", folder, code=2).stderr
    assert (folder / "ca.key").read_bytes() == before[0]
    run("certs", "init", folder / "new")


def test_what_cannot_be_made_is_one_line(folder: Path, tmp_path: Path) -> None:
    assert "certs init" in run("certs", "edge", tmp_path / "none", "--host", "a", code=2).stderr
    assert "no host name" in run("certs", "edge", folder, "--host", "a b", code=2).stderr
    assert "something else" in run("certs", "edge", folder, "--host", "a", "--name", "phone", code=2).stderr
    assert "ends on" in run("certs", "edge", folder, "--host", "a", "--days", 3650, code=2).stderr
    assert "No such file" in run("certs", "show", tmp_path / "none.pem", code=2).stderr
    assert "no certificate" in run("certs", "show", folder / "phone.key", code=2).stderr
    (tmp_path / "file").touch()
    assert "file" in run("certs", "init", tmp_path / "file", code=2).stderr
    assert "no private key" in run("token", "--issuer-key", folder / "ca.pem", "--tenant", "a", code=2).stderr
    assert "not an Ed25519" in run("token", "--issuer-key", folder / "ca.key", "--tenant", "a", code=2).stderr
    assert "cannot be read" in run("token", "--issuer-key", folder / "none", "--tenant", "a", code=2).stderr
    assert "1 to 64" in run("key", "--tenant", 'a"\nb', code=2).stderr
    assert "no certificate" in run("key", "--tenant", "a", "--certificate", folder / "ca.key", code=2).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("key",),
        ("key", "--tenant", "a", "--scope", "root"),
        ("key", "--tenant", "a", "--sessions", "-1"),
        ("key", "--tenant", "a", "--until", "tomorrow"),
        ("token", "--issuer-key", "x", "--tenant", "a", "--minutes", "11"),
        ("certs", "edge", "x"),
        ("certs", "device", "x"),
        ("certs", "edge", "x", "--host", "a", "--days", "0"),
    ],
)
def test_options_that_do_not_fit_end_with_2(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, list(words)).exit_code == 2


def test_a_key_goes_to_stdout_once_and_its_digest_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secrets = []
    for number in range(3):
        allowance = ("--positions-s", 20, "--sessions", 3) if number == 1 else ()
        done = run("key", "--tenant", f"house{number}", "--file", file, *allowance)
        (secret,) = done.stdout.splitlines()
        assert done.stderr == ""
        assert secret not in file.read_text()
        assert digest_of(secret).hex() in file.read_text()
        secrets.append(secret)
    callers = [gate(keys=file).admit(secret, b"") for secret in secrets]
    assert [caller.tenant for caller in callers] == ["house0", "house1", "house2"]
    assert [caller.allowance for caller in callers] == [None, Allowance(20.0, sessions=3), None]
    assert callers[0].scopes == {Scope.DESCRIBE, Scope.GENERATE}


def test_a_key_without_a_file_tells_the_lines_for_it(tmp_path: Path, folder: Path) -> None:
    phone = folder / "phone.pem"
    done = run("key", "--tenant", "house", "--scope", "health", "--certificate", phone, "--until", "2099-01-01")
    (secret,) = done.stdout.splitlines()
    (tmp_path / "keys.toml").write_text(done.stderr)
    caller = gate(keys=tmp_path / "keys.toml").admit(secret, phone.read_bytes())
    assert caller.scopes == {Scope.HEALTH}
    assert thumbprint_of(phone.read_bytes()).hex() in done.stderr
    assert secret not in done.stderr


def test_a_key_is_not_added_to_a_file_that_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("[[key]]\ntenant = 3\n")
    assert "key 1" in run("key", "--tenant", "house", "--file", file, code=2).stderr
    assert file.read_text() == "[[key]]\ntenant = 3\n"
    file.write_text("# no newline at its end")
    secret = run("key", "--tenant", "house", "--file", file).stdout.strip()
    assert gate(keys=file).admit(secret, b"").tenant == "house"


def test_a_secrets_file_is_never_overwritten(tmp_path: Path) -> None:
    words = ("key", "--tenant", "house", "--file", tmp_path / "keys.toml", "--out", tmp_path / "secret")
    assert run(*words).stdout == ""
    secret, file = (tmp_path / "secret").read_text(), (tmp_path / "keys.toml").read_text()
    assert "is there already" in run(*words, code=2).stderr
    assert ((tmp_path / "secret").read_text(), (tmp_path / "keys.toml").read_text()) == (secret, file)
    assert gate(keys=tmp_path / "keys.toml").admit(secret.strip(), b"").tenant == "house"


def test_an_issuers_key_is_overwritten_with_force_only(tmp_path: Path) -> None:
    run("issuer", "init", tmp_path)
    key, public = (tmp_path / "issuer.key").read_bytes(), (tmp_path / "issuer.pem").read_bytes()
    assert "--force" in run("issuer", "init", tmp_path, code=2).stderr
    assert ((tmp_path / "issuer.key").read_bytes(), (tmp_path / "issuer.pem").read_bytes()) == (key, public)
    run("issuer", "init", tmp_path, "--force")
    assert (tmp_path / "issuer.key").read_bytes() != key
    assert mode(tmp_path / "issuer.key") == 0o600


def test_a_token_is_taken_by_an_edge_that_knows_the_issuer(folder: Path, tmp_path: Path) -> None:
    run("issuer", "init", tmp_path)
    run("certs", "device", folder, "--name", "tablet")
    sign = ("token", "--issuer-key", tmp_path / "issuer.key", "--tenant", "house", "--minutes", 5)
    door = gate(issuers=tmp_path / "issuer.pem", wants_certificate=True)
    phone, tablet = (folder / "phone.pem").read_bytes(), (folder / "tablet.pem").read_bytes()
    bound = run(*sign, "--certificate", folder / "phone.pem", "--streams", 2).stdout.strip()
    caller = door.admit(bound, phone)
    assert (caller.tenant, caller.allowance) == ("house", Allowance(streams=2))
    assert time.time() + 200 < caller.until_s <= time.time() + 330
    for bearer, shown in ((bound, tablet), (run(*sign).stdout.strip(), phone)):
        with pytest.raises(Unauthenticated):
            door.admit(bearer, shown)
    run(*sign, "--certificate", folder / "phone.pem", "--out", tmp_path / "token")
    first = (tmp_path / "token").read_text()
    run(*sign, "--certificate", folder / "phone.pem", "--out", tmp_path / "token")
    assert (tmp_path / "token").read_text() != first, "refreshed in place"
    assert door.admit(first.strip(), phone).tenant == "house"


def test_show_tells_the_thumbprint_that_credentials_are_bound_to(folder: Path) -> None:
    shown = run("certs", "show", folder / "phone.pem").stdout
    assert thumbprint_of((folder / "phone.pem").read_bytes()).hex() in shown
    assert "CN=phone" in shown
    (folder / "both.pem").write_bytes((folder / "ca.pem").read_bytes() + (folder / "phone.pem").read_bytes())
    assert run("certs", "show", folder / "both.pem").stdout.count("thumbprint") == 2


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edge.pem"
    private_files.replace(file, b"old", 0o644)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        private_files.replace(file, b"new", 0o644)
    with pytest.raises(OSError, match="No space"):
        private_files.create_private(tmp_path / "new.key", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["edge.pem"]
    assert file.read_bytes() == b"old"


def test_the_other_commands_need_no_cryptography() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = sys.modules['jwt'] = None\n"
        "from typer.testing import CliRunner\nfrom coordinator.__main__ import app\n"
        "advise = CliRunner().invoke(app, 'advise --rtt-ms 9 --pass-ms 9 --draft-ms 9 --acceptance 0.5'.split())\n"
        "certs = CliRunner().invoke(app, ['certs', 'init', '/nonexistent/certs'])\n"
        "print(advise.exit_code, certs.exit_code, certs.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("0 2 coordinator: "), done.stdout
    assert "install airdraft[identity]" in done.stdout
