"""Command line of the benches."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="bench",
    help="Measure; see docs/benchmarks.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Quick = Annotated[bool, typer.Option("--quick", help="A smoke test of at most a minute; its figures prove nothing.")]
Bars = Annotated[bool, typer.Option("--bars", help="The figures with their samples, in at most 20 minutes.")]


def _extent(quick: bool, bars: bool) -> Literal["quick", "bars"]:
    if quick and bars:
        raise typer.BadParameter("choose --quick or --bars")
    return "quick" if quick else "bars"


@app.command()
def overhead(quick: Quick = False, bars: Bars = False) -> None:
    """Time of a round outside the two models, on loopback."""
    from bench import overhead as bench

    extent = _extent(quick, bars)
    print(bench.run(quick=extent == "quick").as_line(extent=extent))


@app.command()
def sampling(quick: Quick = False, bars: Bars = False) -> None:
    """Time of one choice of the sampler, at the vocabulary of a large model."""
    from bench import sampling as bench

    extent = _extent(quick, bars)
    print(bench.run(quick=extent == "quick").as_line(extent=extent))


@app.command()
def noise(quick: Quick = False, bars: Bars = False) -> None:
    """The tests that chose the sampler's noise (ADR 0006)."""
    from bench import noise_choice as bench

    extent = _extent(quick, bars)
    print(bench.run(quick=extent == "quick").as_line(extent=extent))


@app.command()
def demo() -> None:
    """The main job on this machine."""
    from bench import demo as scene

    sys.exit(scene.run())


if __name__ == "__main__":
    app()
