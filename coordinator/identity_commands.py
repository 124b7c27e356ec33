"""The commands that make credentials: `certs`, `key`, `issuer`, `token`. (No deferred annotations: Typer reads them.)

What they need is imported when one runs: the coordinator's other commands work without the extra `identity`.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from airdraft.core.callers import Allowance, Caller, Scope
from coordinator.private_files import PRIVATE, PUBLIC, append, create_private, replace

USAGE = 2

certs = typer.Typer(help="Make certificates with a private authority.", no_args_is_help=True, rich_markup_mode=None)
issuer = typer.Typer(help="Make an issuer of tokens.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the authority.")]
Days = Annotated[int, typer.Option(min=1, max=3650, help="How long it holds.")]
Force = Annotated[bool, typer.Option("--force", help="Make a new private key in place of the one that is there.")]
Tenant = Annotated[str, typer.Option(help="Whose it is: limits, fairness and receipts are counted by tenant.")]
ScopeOption = Annotated[list[Scope], typer.Option("--scope", help="What it is for; may be repeated.")]
Bound = Annotated[
    Path | None, typer.Option(metavar="PEM", help="The one client certificate that it may come with. [default: any]")
]
PositionsS = Annotated[float | None, typer.Option(min=0, help="Allowance: positions a second that verify or decode.")]
PrefillS = Annotated[float | None, typer.Option(min=0, help="Allowance: positions a second of prefill.")]
Sessions = Annotated[int | None, typer.Option(min=0, help="Allowance: sessions held at once.")]
Streams = Annotated[int | None, typer.Option(min=0, help="Allowance: streams open at once.")]

DEVICE_SCOPES = [Scope.DESCRIBE, Scope.GENERATE]
"""What a device needs."""


@certs.command("init")
def certs_init(folder: Folder) -> None:
    """Make an authority: ca.pem, which edges and devices trust, and ca.key, which only this command needs."""
    with _one_line():
        from coordinator.certs import found

        typer.echo(f"{found(folder, _now())}; keep ca.key to yourself")


@certs.command("edge")
def certs_edge(
    folder: Folder,
    host: Annotated[list[str], typer.Option(help="Host name or address that devices reach it by; may be repeated.")],
    name: Annotated[str, typer.Option(help="Of the files and the subject.")] = "edge",
    days: Days = 365,
    force: Force = False,
) -> None:
    """Make or renew an edge's certificate, NAME.pem and NAME.key. A serving edge reads a renewed one by itself."""
    with _one_line():
        from coordinator.certs import Use, enrol, server_names

        file = enrol(folder, name, server_names(host), Use.EDGE, _now(), days, new_key=force)
        typer.echo(f"{file}: {days} days")


@certs.command("device")
def certs_device(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Of the device: of its files and of the subject.")],
    days: Days = 365,
    force: Force = False,
) -> None:
    """Make or renew a device's certificate, NAME.pem and NAME.key. A renewed one has another thumbprint."""
    with _one_line():
        from airdraft.identity.thumbprints import thumbprint_of
        from coordinator.certs import Use, device_names, enrol

        file = enrol(folder, name, device_names(name), Use.DEVICE, _now(), days, new_key=force)
        typer.echo(f"{file}: {days} days, thumbprint {thumbprint_of(file.read_bytes()).hex()}")


@certs.command("show")
def certs_show(file: Annotated[Path, typer.Argument(metavar="FILE", help="Certificates in PEM.")]) -> None:
    """Show who a certificate is for, how long it holds, and its thumbprint."""
    with _one_line():
        from coordinator.certs import described, load_certificates

        typer.echo("\n\n".join("\n".join(described(one, _now())) for one in load_certificates(file)))


def key(
    tenant: Tenant,
    file: Annotated[
        Path | None, typer.Option(help="Key file to add it to. [default: the lines for it go to stderr]")
    ] = None,
    scope: ScopeOption = DEVICE_SCOPES,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="From this day on, 0:00 UTC, it no longer holds.")
    ] = None,
    certificate: Bound = None,
    positions_s: PositionsS = None,
    prefill_s: PrefillS = None,
    sessions: Sessions = None,
    streams: Streams = None,
    out: Annotated[Path | None, typer.Option(help="New file for the secret. [default: stdout]")] = None,
) -> None:
    """Make a static key: its secret is told this once; the edge's key file holds its digest only."""
    with _one_line():
        from airdraft.identity.keys import SECRET_BYTES, entry_of, read_keys, secret_of
        from airdraft.identity.watched import read_file

        secret = secret_of(secrets.token_bytes(SECRET_BYTES))
        entry = entry_of(
            secret,
            tenant,
            scope,
            allowance=_given(positions_s, prefill_s, sessions, streams),
            until=until,
            certificate=_thumbprint(certificate),
        )
        before = read_file(file) if file is not None and file.exists() else b""
        added = (b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n") + entry.encode()
        read_keys(file or Path("these options"), before + added)
        if out is not None:
            _create(out, f"{secret}\n".encode(), "choose another file")
        if file is None:
            typer.echo(entry, err=True, nl=False)
        else:
            append(file, added)
        if out is None:
            typer.echo(secret)


@issuer.command("init")
def issuer_init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for issuer.key and issuer.pem.")],
    force: Force = False,
) -> None:
    """Make an issuer: issuer.key, which signs tokens, and issuer.pem, by which edges know them."""
    with _one_line():
        from airdraft.identity.tokens import new_issuer

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private, public = new_issuer()
        if force:
            replace(folder / "issuer.key", private, PRIVATE)
        else:
            _create(folder / "issuer.key", private, "--force makes a new one")
        replace(folder / "issuer.pem", public, PUBLIC)
        typer.echo(f"{folder / 'issuer.pem'}: give it to edges; keep issuer.key to yourself")


def token(
    issuer_key: Annotated[Path, typer.Option(metavar="FILE", help="The issuer's private key.")],
    tenant: Tenant,
    minutes: Annotated[float, typer.Option(min=0.1, max=10, help="How long it holds.")] = 10,
    scope: ScopeOption = DEVICE_SCOPES,
    certificate: Bound = None,
    positions_s: PositionsS = None,
    prefill_s: PrefillS = None,
    sessions: Sessions = None,
    streams: Streams = None,
    out: Annotated[Path | None, typer.Option(help="File for it, replaced in one go. [default: stdout]")] = None,
) -> None:
    """Sign a token. An edge that asks for client certificates takes it only with --certificate."""
    with _one_line():
        from airdraft.identity.tokens import read_issuer
        from airdraft.identity.watched import read_file

        given = _given(positions_s, prefill_s, sessions, streams)
        allowance = None
        if given:
            allowance = Allowance(positions_s or 0.0, prefill_s or 0.0, sessions or 0, streams or 0)
        now_s = time.time()
        signed = read_issuer(issuer_key, read_file(issuer_key)).sign(
            Caller(tenant, frozenset(scope), allowance, now_s + 60 * minutes),
            now_s=now_s,
            token_id=secrets.token_urlsafe(16),
            thumbprint=_thumbprint(certificate),
        )
        if out is None:
            typer.echo(signed)
        else:
            replace(out, f"{signed}\n".encode(), PRIVATE)


def _create(path: Path, content: bytes, remedy: str) -> None:
    try:
        create_private(path, content)
    except FileExistsError:
        raise ValueError(f"{path} is there already; {remedy}") from None


def _given(
    positions_s: float | None, prefill_s: float | None, sessions: int | None, streams: int | None
) -> dict[str, float]:
    fields = {"positions_s": positions_s, "prefill_s": prefill_s, "sessions": sessions, "streams": streams}
    return {name: value for name, value in fields.items() if value is not None}


def _thumbprint(certificate: Path | None) -> bytes | None:
    from airdraft.identity.thumbprints import thumbprint
    from coordinator.certs import load_certificates

    return None if certificate is None else thumbprint(load_certificates(certificate)[0])


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _one_line() -> Iterator[None]:
    """Do it; what the user can mend ends with one line and exit code 2."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise _fail(f"{error.name} is missing; install airdraft[identity]") from None
    except OSError as error:
        raise _fail(f"{os.fspath(error.filename or '')}: {error.strerror}") from None
    except ValueError as error:
        raise _fail(str(error)) from None


def _fail(message: str) -> typer.Exit:
    typer.echo(f"coordinator: {message}", err=True)
    return typer.Exit(USAGE)
