"""What the command lines of all processes share. (No deferred annotations here: Typer evaluates them by name.)"""

import sys
from typing import Annotated

import typer

from airdraft import __version__
from airdraft.tracebacks import hide_words, show


def application(name: str, purpose: str) -> typer.Typer:
    """Return a command line with ``--version``, completion and plain tracebacks, ready for commands."""
    app = typer.Typer(
        name=name,
        help=purpose,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # it would swallow [default: …] and [table] in help texts
    )

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{name} {__version__}")
            raise typer.Exit

    @app.callback(help=purpose)
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=show, is_eager=True, help="Show the version.")
        ] = False,
    ) -> None:
        """Hold the options that come before a command."""

    return app


def run(app: typer.Typer) -> None:
    """Run a process's command line; what nobody catches is shown without its words, and ends it with 1."""
    hide_words()
    try:
        app()
    except Exception as error:  # Typer would have it shown by a hook of its own
        show(error)
        sys.exit(1)
