"""The command `manifest`. (No deferred annotations: Typer evaluates them.)"""

import sys
from pathlib import Path
from typing import Annotated

import typer

USAGE = 2


def manifest(
    model: Annotated[str, typer.Argument(help="demo (both models and the heads), a folder, or a hub id.")],
    out: Annotated[Path | None, typer.Option(help="Where it goes. [default: standard output]")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
) -> None:
    """List a model's files by SHA-256, for --manifest, --draft-manifest, and sha256sum -c in the model's folder.

    Settings, tokenizer, templates, weights and heads/*.safetensors. Keep it where only you can write.
    Exit codes: 0 ok, 2 no such model, or a file that cannot be written.
    """
    from airdraft.checkpoint import CheckpointRefused, Role, local_folder
    from airdraft.manifest import manifest_text, root_of

    try:
        text = manifest_text(root_of(local_folder(model, Role.TARGET, revision=revision)))
        if out is not None:
            out.write_text(text, encoding="utf-8")
            return
    except CheckpointRefused as error:
        raise _refused(str(error)) from None
    except OSError as error:
        raise _refused(f"cannot write {out}: {error.strerror}") from None
    typer.echo(text, nl=False)


def _refused(message: str) -> typer.Exit:
    print(f"edge_node: {message}", file=sys.stderr, flush=True)  # noqa: T201
    return typer.Exit(USAGE)
