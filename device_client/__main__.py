"""Command line of the device client."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airdraft.command_line import application, run
from airdraft.core.errors import SpecError
from airdraft.settings import SettingsError
from device_client.config import DeviceSettings
from device_client.exits import Exit, exit_code

if TYPE_CHECKING:
    from device_client.report import Report

_EDGE = "Edge node, HOST:PORT; given again, the ones to go on with where it fails. [default: 127.0.0.1:50051]"
ConnectSeconds = Annotated[float | None, typer.Option(help="Wait so long for an edge to answer. [default: 5]")]
ReconnectSeconds = Annotated[
    float | None, typer.Option(help="Try so long to go on after a loss, then give up. [default: 120]")
]
DraftManifest = Annotated[
    Path | None, typer.Option(help="SHA-256 of the drafter's files: nothing else of it is loaded. [default: none]")
]
Pad = Annotated[
    bool | None,
    typer.Option(
        "--pad/--no-pad",
        help="Hide from whoever watches the link what is said: messages of one size at one pace; docs/padding.md. "
        "[default: no]",
    ),
]
Tls = Annotated[
    bool | None, typer.Option("--tls/--no-tls", help="Meet edges over TLS; with --tls-ca that needs no saying.")
]
TlsCa = Annotated[
    Path | None, typer.Option(help="CA certificate, PEM, that the edges' own are to be of. [default: public ones]")
]
TlsCert = Annotated[Path | None, typer.Option(help="This device's certificate, PEM, for edges that ask for one.")]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key, PEM.")]
KeyFile = Annotated[
    Path | None, typer.Option(help="File of the key or token to be let in with; read again for each connection.")
]
Insecure = Annotated[
    bool | None,
    typer.Option("--insecure/--no-insecure", help="Let the key cross the network in plain text."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object when done, nothing else.")]
Config = Annotated[Path | None, typer.Option(help="TOML file with a [device_client] table.")]

app = application("device_client", "Ask a large model on an edge node; a small one here drafts ahead.")


def _fail(message: str, code: Exit) -> typer.Exit:
    print(f"device_client: {message}", file=sys.stderr, flush=True)  # noqa: T201
    return typer.Exit(code)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from; - reads standard input.")],
    edge: Annotated[list[str] | None, typer.Option(help=_EDGE)] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Keep the text in this new file, for 'device_client resume FILE'.")
    ] = None,
    draft_model: Annotated[
        str | None,
        typer.Option(
            "--draft-model", "-md", "--spec-draft-model", help="ngram, demo, a folder or a hub id. [default: ngram]"
        ),
    ] = None,
    draft_revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub drafter.")] = None,
    draft_manifest: DraftManifest = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer. [default: 256]")] = None,
    draft_length: Annotated[
        int | None,
        typer.Option(
            "--draft-length",
            "--num-speculative-tokens",
            "--spec-draft-n-max",
            help="Tokens of a synchronous frame; 0 drafts nothing. [default: 4]",
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="sync: draft, send, wait; pipelined: draft on while earlier tokens fly; auto: planned as it goes, by "
            "--objective. [default: auto]"
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What plans are to save: latency, edge-seconds, device-seconds, or weights like user=1,edge=0.5. "
            "[default: latency]"
        ),
    ] = None,
    draft_policy: Annotated[
        str | None,
        typer.Option(
            help="How long synchronous frames are: fixed, confidence, specdec++, max-goodput, bandit, mlp or mlp:FILE. "
            "[default: as the plan has it]"
        ),
    ] = None,
    round_log: Annotated[
        Path | None,
        typer.Option(help="Append a line for each synchronous round: what coordinator train-draft-length learns from."),
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(
            help="exact: the target's own text, token for token; semantic: drafted words that are as good may stand. "
            "[default: exact]"
        ),
    ] = None,
    max_quality_loss: Annotated[
        float | None,
        typer.Option(help="Semantic: the share of answers that may become worse, 0.01 say; there is no default."),
    ] = None,
    accept_rule: Annotated[
        str | None,
        typer.Option(
            help="Semantic: head, which keeps the cap, or one that no cap bounds: typical, kl-judge, look-ahead, "
            "reflective. [default: head]"
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="Semantic: which of the drafter's states go up: target-only (none), full-hidden, mismatch-first, "
            "margin-first. [default: target-only]"
        ),
    ] = None,
    state_kind: Annotated[str | None, typer.Option(help="How states go up: int8 or fp8. [default: int8]")] = None,
    explain_plan: Annotated[
        bool, typer.Option("--explain-plan", help="Print the plans and the numbers that were weighed for them.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the text; drawn when not given.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is the most likely text. [default: 0]")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest; 0 is off. [default: 0]")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest of this mass. [default: 1]")] = None,
    min_p: Annotated[float | None, typer.Option(help="Least share of the likeliest one's. [default: 0]")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 discourages. [default: 1]")] = None,
    presence_penalty: Annotated[float | None, typer.Option(help="Off what has occurred. [default: 0]")] = None,
    frequency_penalty: Annotated[float | None, typer.Option(help="Off each occurrence. [default: 0]")] = None,
    pad: Pad = None,
    tls: Tls = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    key_file: KeyFile = None,
    insecure: Insecure = None,
    connect_seconds: ConnectSeconds = None,
    reconnect_seconds: ReconnectSeconds = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Write the target's answer to standard output; what it cost goes to standard error.

    Options can also be AIRDRAFT_DEVICE_… variables or keys of [device_client] in a TOML file; the command line wins.
    Exit codes: 0 ok, 2 usage, 3 edge unreachable, 4 model or tokenizer mismatch, 7 denied, 130 interrupted.
    """
    settings = _settings(locals(), config)
    text = sys.stdin.read() if prompt == "-" else prompt
    _ask(
        lambda command, cache, told: command.generate(text, settings, cache, quiet=as_json, journal=journal, told=told),
        journal,
        as_json=as_json,
        explain_plan=explain_plan,
    )


@app.command()
def resume(
    journal: Annotated[Path, typer.Argument(help="What 'generate --journal FILE' wrote.")],
    edge: Annotated[list[str] | None, typer.Option(help="Edge node, HOST:PORT. [default: the journal's]")] = None,
    draft_manifest: DraftManifest = None,
    pad: Pad = None,
    tls: Tls = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    key_file: KeyFile = None,
    insecure: Insecure = None,
    connect_seconds: ConnectSeconds = None,
    reconnect_seconds: ReconnectSeconds = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Go on with a text that was interrupted; it is written from its beginning.

    Exit codes: as of generate.
    """
    settings = _settings(locals(), config)
    _ask(
        lambda command, cache, told: command.resume(journal, settings, cache, quiet=as_json, told=told),
        journal,
        as_json=as_json,
    )


@app.command()
def radio(
    source: Annotated[
        str, typer.Option(help="auto, termux, iw[:INTERFACE], modem-manager[:MODEM] or recorded:FILE.")
    ] = "auto",
    every_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between two readings.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many readings. [default: never]")] = None,
) -> None:
    """Print what this machine's radio says of its link, a JSON object a line; what is not known is left out.

    Exit codes: 0 ok, 2 usage or no source is left, 130 interrupted.
    """
    from device_client.radio.lines import print_lines

    try:
        printed = asyncio.run(print_lines(source, every_seconds, count))
    except ValueError as error:
        raise _fail(str(error), Exit.USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    if not printed:
        raise _fail("no source of radio facts is left; docs/radio.md lists what each needs", Exit.USAGE)


def _settings(options: dict[str, Any], config: Path | None) -> DeviceSettings:
    given = {name: value for name, value in options.items() if name in DeviceSettings.model_fields and value != []}
    try:
        return DeviceSettings.load(given, config)
    except SettingsError as error:
        raise _fail(str(error), Exit.USAGE) from None


def _ask(
    ask: Callable[[Any, Path, Callable[[Report], None]], Coroutine[Any, Any, Report]],
    journal: Path | None,
    *,
    as_json: bool,
    explain_plan: bool = False,
) -> None:
    try:
        from airdraft.checkpoint import CheckpointRefused
        from airdraft.wire.access import KeyRefused
        from airdraft.wire.tls import TlsRefused
        from device_client import generate as command
        from device_client.attach import cache_folder
        from device_client.drafters import DrafterUnavailable
        from device_client.journal import JournalError
    except ModuleNotFoundError as error:
        raise _fail(f"{error.name} is missing: pip install 'airdraft[device]'", Exit.USAGE) from None

    def told(report: Report) -> None:
        if as_json:
            print(json.dumps(report.as_json()), flush=True)  # noqa: T201
        else:
            print(report.as_line(), file=sys.stderr, flush=True)  # noqa: T201
        if explain_plan:
            print("\n".join(report.explained()), file=sys.stderr, flush=True)  # noqa: T201

    kept = f"; the text is kept: device_client resume {journal}" if journal is not None else ""
    try:
        asyncio.run(ask(command, cache_folder(), told))
    except SpecError as error:
        made = journal is not None and journal.exists()
        raise _fail(error.message + (kept if made else ""), exit_code(error)) from None
    except (DrafterUnavailable, CheckpointRefused, JournalError, TlsRefused, KeyRefused) as error:
        raise _fail(str(error), Exit.USAGE) from None
    except KeyboardInterrupt:
        raise _fail(f"interrupted{kept}", Exit.INTERRUPTED) from None


def main() -> None:
    """Run the command line."""
    run(app)


if __name__ == "__main__":
    main()
