"""Command line of the benches."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
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

Extent = Literal["quick", "bars", "full"]

BENCHES: dict[str, tuple[str, str]] = {
    "overhead": ("overhead", "Time of a round outside the two models, on loopback."),
    "sampling": ("sampling", "Time of one choice of the sampler, at the vocabulary of a large model."),
    "engine": ("engine", "The edge engine beside its peers, what its passes cost, and fleets of devices on it."),
    "noise": ("noise_choice", "The tests that chose the sampler's noise (ADR 0006)."),
    "resume": ("resume", "How long a text stands still after each kind of loss."),
    "simulate": ("simulate", "The session cores in virtual time, against the prototype's figures and the formulas."),
    "queue": ("queue", "The way from the front to the engine and back, and what a process of its own buys (ADR 0010)."),
    "radio-facts": ("radio_facts", "What radio facts add to forecasts of a link, on recordings that hold both."),
    "relay": ("relay_error", "How far the emulated link is from the one asked for: delay and rate."),
    "pad": ("pad", "Which of 50 prompts was asked, guessed from sizes and times on the line, with --pad and without."),
    "capacity": ("capacity", "Tokens a busy edge-second, many devices drafting for one edge that goes ahead of them."),
    "fuzz": ("fuzz", "Hostile frames: a million at session cores, 50,000 at a live edge beside other tenants' texts."),
    "overload": ("overload", "What sessions and devices get at an edge's capacity, and at twice as many devices."),
    "sessions": ("sessions", "Two hundred devices over mTLS at a stated pace, and what cancelled streams leave."),
    "hostile": ("hostile", "What other tenants notice of one that attacks the edge."),
}
"""Name on the command line: module, and what it measures. They take --quick or --bars alone."""


def _extent(quick: bool, bars: bool) -> Extent:
    if quick and bars:
        raise typer.BadParameter("choose --quick or --bars")
    return "quick" if quick else "bars"


def _full_extent(quick: bool, bars: bool, full: bool) -> Extent:
    if full and (quick or bars):
        raise typer.BadParameter("choose one of --quick, --bars and --full")
    return "full" if full else _extent(quick, bars)


def _add(name: str, module: str, about: str) -> None:
    def command(quick: Quick = False, bars: Bars = False) -> None:
        extent = _extent(quick, bars)
        print(import_module(f"bench.{module}").run(quick=extent == "quick").as_line(extent=extent))

    app.command(name, help=about)(command)


for _name, (_module, _about) in BENCHES.items():
    _add(_name, _module, _about)


@app.command()
def faults(
    quick: Quick = False, bars: Bars = False, seed: Annotated[int, typer.Option(help="Of the schedules.")] = 0
) -> None:
    """Random schedules of faults over both cores in virtual time, and bugs planted for them to catch."""
    from bench import faults as bench

    extent = _extent(quick, bars)
    print(bench.run(quick=extent == "quick", seed=seed).as_line(extent=extent, seed=seed))


@app.command()
def radio(
    quick: Quick = False,
    bars: Bars = False,
    full: Annotated[bool, typer.Option("--full", help="Every cell; hours.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of drawings and page.")] = Path("bench/out"),
) -> None:
    """Every schedule on the same axes: real processes over emulated links, paced."""
    from bench import radio as bench

    extent = _full_extent(quick, bars, full)
    print(bench.run(extent, out).as_line(extent=extent))


@app.command()
def adapt(
    quick: Quick = False,
    bars: Bars = False,
    full: Annotated[bool, typer.Option("--full", help="Many more texts; hours.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of drawings and page.")] = Path("bench/out"),
) -> None:
    """Devices that plan for themselves against fixed settings in hindsight, on replayed traces; and loads that vary."""
    from bench import adapt as bench

    extent = _full_extent(quick, bars, full)
    print(bench.run(extent, out).as_line(extent=extent))


@app.command()
def semantic(
    quick: Quick = False,
    bars: Bars = False,
    full: Annotated[bool, typer.Option("--full", help="Four times the problems; hours.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of drawings and page.")] = Path("bench/out"),
) -> None:
    """Acceptance by meaning on the demo pairs: WISV's protocols, untrained rules, ours; length, loss, latency."""
    from bench import semantic as bench

    extent = _full_extent(quick, bars, full)
    print(bench.run(extent, out).as_line(extent=extent))


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="How long faults begin.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of faults and texts.")] = 1,
) -> None:
    """Edges and devices as processes while links, edges and devices fail at random; no token may differ."""
    from bench import soak as bench

    result = bench.run(bench.Extent(minutes * 60), seed)
    print(result.as_line(minutes=minutes, seed=seed))
    sys.exit(bench.failed(result))


@app.command()
def channel(
    name: Annotated[str, typer.Argument(help="A synthetic channel, or the file of a recording.")],
    out: Annotated[Path, typer.Option(help="Folder of the drawings.")] = Path("bench/out"),
    seed: Annotated[int, typer.Option(help="Seed of a synthetic channel.")] = 1,
    seconds: Annotated[float, typer.Option(help="How much of it to draw.")] = 120.0,
    trace_format: Annotated[
        str | None, typer.Option("--format", help="Of a recording, where its folder is silent.")
    ] = None,
    up_mbit_s: Annotated[float, typer.Option(help="Uplink, where the recording lacks it.")] = 10.0,
    down_mbit_s: Annotated[float, typer.Option(help="Downlink, where the recording lacks it.")] = 50.0,
    rtt_ms: Annotated[float, typer.Option(help="Round trip, where the recording lacks it.")] = 50.0,
    interval_s: Annotated[float, typer.Option(help="Between the samples of a series without times.")] = 0.1,
    correlation_s: Annotated[float, typer.Option(help="Over which a profile's delays are alike.")] = 1.0,
) -> None:
    """Draw a channel: rates, delays, radio facts and outages over time."""
    from airdraft.link.timeline import MBIT_S
    from bench import channel as bench

    assumed = bench.Assumed(up_mbit_s * MBIT_S, down_mbit_s * MBIT_S, rtt_ms / 1000, interval_s, correlation_s)
    try:
        drawn = bench.run(name, out, seed, seconds, assumed=assumed, trace_format=trace_format)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    for path in drawn:
        print(path)


@app.command()
def demo() -> None:
    """The main job on this machine."""
    from bench import demo as scene

    sys.exit(scene.run())


if __name__ == "__main__":
    app()
