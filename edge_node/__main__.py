"""Command line of the edge node."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from airdraft.command_line import application, run
from airdraft.settings import SettingsError
from airdraft.tracebacks import log_to_stderr
from edge_node.config import EdgeSettings
from edge_node.label_commands import mine_labels, train_head
from edge_node.manifest_command import manifest as write_manifest

USAGE = 2
ENGINE_LOST = 1

app = application("edge_node", "Serve one large model to many devices, which draft for it.")


def _say(message: str) -> None:
    """Progress goes to stderr, so that pipes stay clean."""
    print(f"edge_node: {message}", file=sys.stderr, flush=True)  # noqa: T201


def _listening(address: str) -> None:
    """The address goes to stdout too, for whoever started this process with ``--port 0``."""
    _say(f"listening on {address}")
    print(f"listening {address}", flush=True)  # noqa: T201


@app.command()
def serve(
    model: Annotated[str | None, typer.Option(help="demo, a folder, or a hub id. [default: demo]")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="Name that devices see.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="SHA-256 of the model's files and its heads', as 'edge_node manifest' writes it: nothing else is "
            "loaded. [default: none]"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 … [default: auto]")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16. [default: auto]")] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="fast, or strict: the same bits whoever else is served; slower. [default: fast]"),
    ] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="auto, or int8: a smaller cache. [default: auto]")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. [default: 50051]")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus and health over plain HTTP; 0 takes a free one.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(help="Where that listens. [default: 127.0.0.1]")] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain of this edge, PEM; read again when it changes.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Ask devices for certificates of this CA, PEM: nobody else gets through TLS.")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="Let in who has a key of this file (coordinator key); read again when it changes."),
    ] = None,
    issuers: Annotated[
        Path | None, typer.Option(help="Let in who has a token signed by a key of this file, PEM (coordinator token).")
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure/--no-insecure", help="Listen beyond this machine without TLS or authentication."),
    ] = None,
    max_sessions: Annotated[int | None, typer.Option(help="Sessions held at once. [default: 64]")] = None,
    least_rate: Annotated[
        float | None,
        typer.Option(
            help="Admit nobody more once steps with a token of each session would give each fewer tokens a second. "
            "[default: 0, no bound]"
        ),
    ] = None,
    tenant_positions: Annotated[
        float | None,
        typer.Option(
            help="Positions of passes a second that a tenant may use, if its key says none. [default: 0, any]"
        ),
    ] = None,
    tenant_prefill: Annotated[
        float | None, typer.Option(help="The same for prompts and replays that devices bring about. [default: 0, any]")
    ] = None,
    tenant_sessions: Annotated[int | None, typer.Option(help="Sessions of a tenant. [default: 0, any]")] = None,
    tenant_streams: Annotated[
        int | None, typer.Option(help="Streams of a tenant at once; 0 is any number. [default: 64]")
    ] = None,
    max_context: Annotated[int | None, typer.Option(help="Prompt and answer, in tokens. [default: 4096]")] = None,
    resume_seconds: Annotated[float | None, typer.Option(help="Keep a left session so long. [default: 60]")] = None,
    kv_tokens: Annotated[
        int | None, typer.Option(help="Cache rows of all sessions together. [default: what memory gives]")
    ] = None,
    step_positions: Annotated[int | None, typer.Option(help="Positions of one pass. [default: 512]")] = None,
    run_ahead: Annotated[
        bool | None,
        typer.Option("--run-ahead/--no-run-ahead", help="Go ahead of devices whose draft has not come. [default: yes]"),
    ] = None,
    favour: Annotated[
        str | None,
        typer.Option(
            help="What drafts save where many devices share an edge that runs ahead: their own speed, or edge-time, "
            "and then none is slower than without drafts. [default: speed]"
        ),
    ] = None,
    edge_draft_model: Annotated[
        str | None,
        typer.Option(help="Drafts where no device does: none, ngram, demo, a folder or a hub id. [default: ngram]"),
    ] = None,
    edge_draft_manifest: Annotated[
        Path | None, typer.Option(help="Likewise of the drafter's files, where --manifest does not list them.")
    ] = None,
    edge_draft_length: Annotated[int | None, typer.Option(help="Tokens that it drafts a pass. [default: 4]")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Time to finish after SIGTERM. [default: 20]")] = None,
    drain_to: Annotated[
        list[str] | None, typer.Option(help="Edge, HOST:PORT, that devices go to after SIGTERM; may be repeated.")
    ] = None,
    receipt_key: Annotated[
        Path | None, typer.Option(help="File of 32 bytes or more that this fleet's edges share. [default: drawn]")
    ] = None,
    own_text_only: Annotated[
        bool | None,
        typer.Option("--own-text-only/--any-text", help="Go on with no answer but this key's own."),
    ] = None,
    semantic: Annotated[
        bool | None,
        typer.Option(
            "--semantic/--no-semantic",
            help="Let devices ask that drafted tokens stand that are as good as the model's own. [default: yes]",
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="File of a semantic head, which may be repeated; demo: those of the demo model; none. "
            "[default: demo with the demo model, else none]"
        ),
    ] = None,
    most_loss: Annotated[
        float | None,
        typer.Option(help="Most that a device's cap may be: share of answers made worse by it. [default: 0.05]"),
    ] = None,
    reflect: Annotated[
        bool | None,
        typer.Option(
            "--reflect/--no-reflect",
            help="Keep cache rows for the rule reflective, which asks a model with a chat template. [default: no]",
        ),
    ] = None,
    audit_share: Annotated[
        float | None,
        typer.Option(help="Share of tokens accepted by meaning that are audited when nobody waits. [default: 0.05]"),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with an [edge_node] table.")] = None,
) -> None:
    """Serve a model until SIGTERM.

    Every option can also be an AIRDRAFT_EDGE_… variable or a key of [edge_node] in a TOML file; the command line wins.
    """
    given = {name: value for name, value in locals().items() if name != "config"}
    try:
        settings = EdgeSettings.load(given, config)
    except SettingsError as error:
        _say(str(error))
        raise typer.Exit(USAGE) from None
    log_to_stderr("edge_node")
    # Loaded late: torch takes seconds, and --help must not.
    from airdraft.checkpoint import CheckpointRefused
    from airdraft.identity.watched import IdentityFileError
    from airdraft.wire.tls import TlsRefused
    from edge_node.door import CannotListen
    from edge_node.engine_process import EngineChanged, EngineDied, EngineRefused
    from edge_node.heads import HeadRefused
    from edge_node.metrics_port import MetricsPortTaken
    from edge_node.server import KeyRefused
    from edge_node.server import serve as serve_process

    unfit = (CannotListen, MetricsPortTaken, KeyRefused, CheckpointRefused, EngineRefused, HeadRefused)
    try:
        asyncio.run(serve_process(settings, _say, _listening))
    except (*unfit, TlsRefused, IdentityFileError) as error:
        _say(str(error))
        raise typer.Exit(USAGE) from None
    except (EngineDied, EngineChanged) as error:
        _say(str(error))
        raise typer.Exit(ENGINE_LOST) from None


app.command("manifest")(write_manifest)
app.command("mine-labels")(mine_labels)
app.command("train-head")(train_head)


def main() -> None:
    """Run the command line."""
    run(app)


if __name__ == "__main__":
    main()
