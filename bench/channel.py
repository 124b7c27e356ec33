"""Draws one channel: rates, delays and radio facts over time, with outages shaded, as SVG and PNG."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from airdraft.link import profiles, traces
from airdraft.link.channels import CHANNELS
from airdraft.link.timeline import MBIT_S, Channel, Direction, Radio, Series

DOWN_COLOUR, UP_COLOUR, OTHER_COLOUR, OUT_COLOUR = "#1b6ca8", "#d1603d", "#7a7a7a", "#f6cfcc"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "svg.hashsalt": "airdraft",  # the same drawing is the same file
    "svg.fonttype": "none",
}
BINS = 500  # drawn across the width: more are not seen
DOTS_PER_INCH = 130


@dataclass(frozen=True, slots=True)
class Assumed:
    """What stands in for that which a recording lacks; the drawing says which of it was used."""

    up_rate_bytes_s: float = 10 * MBIT_S
    down_rate_bytes_s: float = 50 * MBIT_S
    rtt_s: float = 0.05
    interval_s: float = 0.1  # between the samples of a series without times
    correlation_s: float = 1.0  # over which the delays of a profile are alike

    def options(self) -> list[str]:
        """Return the command line's options for what differs from the defaults."""
        usual = Assumed()
        given = {
            "--up-mbit-s": (self.up_rate_bytes_s / MBIT_S, usual.up_rate_bytes_s / MBIT_S),
            "--down-mbit-s": (self.down_rate_bytes_s / MBIT_S, usual.down_rate_bytes_s / MBIT_S),
            "--rtt-ms": (self.rtt_s * 1e3, usual.rtt_s * 1e3),
            "--interval-s": (self.interval_s, usual.interval_s),
            "--correlation-s": (self.correlation_s, usual.correlation_s),
        }
        return [word for option, (own, other) in given.items() if own != other for word in (option, f"{own:g}")]


Loader = Callable[[Path, Assumed], Channel]

FORMATS: dict[str, Loader] = {
    "mahimahi": lambda path, assumed: traces.mahimahi(path, rtt_s=assumed.rtt_s),
    "ucc_5g": lambda path, assumed: traces.ucc_5g(path, up_rate_bytes_s=assumed.up_rate_bytes_s),
    "lumos5g": lambda path, assumed: traces.lumos5g(path, up_rate_bytes_s=assumed.up_rate_bytes_s, rtt_s=assumed.rtt_s),
    "solis_wifi": lambda path, assumed: traces.solis_wifi(
        path, up_rate_bytes_s=assumed.up_rate_bytes_s, rtt_s=assumed.rtt_s
    ),
    "telerobot_rtt": lambda path, assumed: traces.telerobot_rtt(
        path,
        up_rate_bytes_s=assumed.up_rate_bytes_s,
        down_rate_bytes_s=assumed.down_rate_bytes_s,
        interval_s=assumed.interval_s,
    ),
}


def channel_named(
    name: str, seed: int, seconds: float, *, assumed: Assumed = Assumed(), trace_format: str | None = None
) -> Channel:
    """Return a synthetic channel by name, or a recorded one by path; a profile of ERRANT as PATH#PROFILE.

    The format of a recording is ``trace_format``, else that which its folder or suffix names. Raises ValueError where
    there is no such channel, profile or format.
    """
    if name in CHANNELS:
        return CHANNELS[name](seed, seconds)
    file, _, profile = name.partition("#")
    if not Path(file).is_file():
        raise ValueError(f"{file} is neither a file nor one of {', '.join(CHANNELS)}")
    if profile:
        return _profile(Path(file), profile).channel(seed, seconds, correlation_s=assumed.correlation_s)
    return FORMATS[trace_format or format_of(Path(file))](Path(file), assumed)


def format_of(path: Path) -> str:
    """Return the format that a recording's suffix or one of its folders names. Raises ValueError where none does."""
    if path.suffix in {".up", ".down"}:
        return "mahimahi"
    if found := [part for part in reversed(path.absolute().parts[:-1]) if part in FORMATS]:
        return found[0]
    raise ValueError(f"{path}: of what format? One of {', '.join(FORMATS)}; of a profile's file, PATH#PROFILE")


def _profile(path: Path, name: str) -> profiles.Profile:
    known = profiles.errant_profiles(path)
    if name not in known:
        raise ValueError(f"{path} has no profile {name}; it has {', '.join(known)}")
    return known[name]


def run(
    name: str,
    out_folder: Path,
    seed: int = 1,
    seconds: float = 120.0,
    *,
    assumed: Assumed = Assumed(),
    trace_format: str | None = None,
) -> list[Path]:
    """Draw the first ``seconds`` of a channel; return the files written, SVG and PNG. Raises as ``channel_named``."""
    channel = channel_named(name, seed, seconds, assumed=assumed, trace_format=trace_format)
    command = ["python", "-m", "bench", "channel", name, "--seed", f"{seed}", "--seconds", f"{seconds:g}"]
    command += ["--format", trace_format] if trace_format else []
    command += assumed.options()
    out_folder.mkdir(parents=True, exist_ok=True)
    stem = f"channel-{channel.name}" + ("" if channel.seed is None else f"-seed-{channel.seed}")
    files = [out_folder / f"{stem}.svg", out_folder / f"{stem}.png"]
    with mpl.rc_context(STYLE):
        figure = draw(channel, seconds, shlex.join(command))
        figure.savefig(files[0], metadata={"Date": None})
        figure.savefig(files[1], dpi=DOTS_PER_INCH)
    return files


def draw(channel: Channel, seconds: float, command: str) -> Figure:
    """Return the drawing of a channel's first ``seconds``, with the command that makes it again."""
    shown_s = min(seconds, channel.duration_s)
    heights = [1.25, 1.0] + ([1.0] if channel.radio else [])
    figure = Figure(figsize=(10, 2.1 * sum(heights) + 1.0), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_rates(panels[0], channel, shown_s)
    _draw_delays(panels[1], channel, shown_s)
    if channel.radio:
        _draw_radio(panels[2], channel.radio, shown_s)
    _shade_outages(panels, channel, shown_s)
    panels[-1].set_xlim(0, shown_s)
    panels[-1].set_xlabel("Time (s)")
    figure.align_ylabels(panels)
    origin = "recorded" if channel.seed is None else f"seed {channel.seed}"
    figure.suptitle(f"{channel.name}, {origin}", x=0.01, ha="left", fontsize=14, fontweight="bold")
    panels[0].set_title(_caption(channel, command), loc="left", fontsize=8.5, color="#444444", pad=22)
    return figure


def _caption(channel: Channel, command: str) -> str:
    assumed = f"not recorded but assumed: {', '.join(channel.assumed)}\n" if channel.assumed else ""
    return assumed + command


def _draw_rates(axes: Axes, channel: Channel, shown_s: float) -> None:
    for direction, label, colour in ((channel.down, "down", DOWN_COLOUR), (channel.up, "up", UP_COLOUR)):
        _draw_series(
            axes, _tiled(direction, direction.rates_bytes_s / MBIT_S, shown_s), direction.step_s, label, colour
        )
    axes.set_ylabel("Rate (Mbit/s)")
    axes.set_ylim(bottom=0)
    _legend(axes)


def _draw_delays(axes: Axes, channel: Channel, shown_s: float) -> None:
    alike = np.array_equal(channel.up.delays_s, channel.down.delays_s)
    for direction, label, colour in ((channel.down, "down", DOWN_COLOUR), (channel.up, "up", UP_COLOUR)):
        if not (alike and direction is channel.up):
            values = _tiled(direction, direction.delays_s * 1e3, shown_s)
            _draw_series(axes, values, direction.step_s, "each way" if alike else label, colour)
    axes.set_ylabel("One-way delay (ms)")
    axes.set_ylim(bottom=0)
    _legend(axes)


def _draw_radio(axes: Axes, radio: Radio, shown_s: float) -> None:
    shown = slice(0, round(shown_s / radio.step_s))
    _draw_series(axes, radio.rsrp_dbm[shown], radio.step_s, "RSRP, serving cell", DOWN_COLOUR)
    _draw_series(axes, radio.neighbour_rsrp_dbm[shown], radio.step_s, "RSRP, neighbour", OTHER_COLOUR)
    axes.set_ylabel("RSRP (dBm)")
    right = axes.twinx()
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    _draw_series(right, radio.sinr_db[shown], radio.step_s, "SINR", UP_COLOUR)
    right.set_ylabel("SINR (dB)", color=UP_COLOUR)
    for index, at_s in enumerate(at_s for at_s in radio.hand_overs_s() if at_s <= shown_s):
        axes.axvline(at_s, color="black", linewidth=0.9, linestyle=":", label="" if index else "hand-over")
    _legend(axes, right)


def _tiled(direction: Direction, values: Series, shown_s: float) -> Series:
    """Return the values over the time shown; the shorter direction repeats."""
    return np.resize(values, max(1, round(shown_s / direction.step_s)))


def _draw_series(axes: Axes, values: Series, step_s: float, label: str, colour: str) -> None:
    """Draw values [T] as steps, or where they are too many as the mean of each bin with its 5 to 95 % band."""
    if not np.isfinite(values).any():
        return
    per_bin = -(-len(values) // BINS)
    if per_bin == 1:
        axes.stairs(
            values, np.arange(len(values) + 1) * step_s, baseline=None, color=colour, linewidth=1.3, label=label
        )
        return
    bins = values[: len(values) // per_bin * per_bin].reshape(-1, per_bin)
    middle_s = (np.arange(len(bins)) + 0.5) * per_bin * step_s
    low, high = np.percentile(bins, [5, 95], axis=1)
    axes.fill_between(middle_s, low, high, color=colour, alpha=0.22, linewidth=0)
    axes.plot(middle_s, bins.mean(axis=1), color=colour, linewidth=1.3, label=label)


def _shade_outages(panels: np.ndarray[tuple[int], np.dtype[np.object_]], channel: Channel, shown_s: float) -> None:
    """Shade when either direction is out; the shortest outage is a hair line still."""
    label = "out"
    for direction in (channel.down, channel.up):
        for start_s, end_s in direction.outages_s():
            if start_s >= shown_s:
                break
            for axes in panels:
                axes.axvspan(start_s, min(end_s, shown_s), color=OUT_COLOUR, linewidth=0.8, zorder=0, label=label)
                label = ""
    _legend(panels[0])


def _legend(axes: Axes, *others: Axes) -> None:
    entries = [axes.get_legend_handles_labels(), *(other.get_legend_handles_labels() for other in others)]
    handles = [handle for both in entries for handle in both[0]]
    labels = [label for both in entries for label in both[1]]
    axes.legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=5, frameon=False, fontsize=8.5, borderpad=0
    )
