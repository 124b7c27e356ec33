"""The links that adaptive devices are measured on: recordings replayed, and what each lacks said in its label.

``channel`` knows each by name, so that a cell's link may name it (``bench.cells.Link.channel``). Recordings lie under
AIRDRAFT_DATA, else beside the checkout; where one is not there a synthetic channel stands in, and the label says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from airdraft.link import traces
from airdraft.link.channels import CHANNELS, wifi
from airdraft.link.profiles import Profile, errant_profiles
from airdraft.link.random_processes import gauss_markov, lognormal
from airdraft.link.timeline import MBIT_S, Channel, Direction
from bench.figures import REPOSITORY

COURSE_S = 600.0
"""How much of a synthetic channel there is before it repeats."""

STEP_S = 0.1
"""Of a recording that is given delays: rates do not change more often, nor delays."""

ALIKE_S = 1.0
"""Over which delays that a recording lacks are alike."""

UP_BYTES_S = 10 * MBIT_S
"""Of recordings without an uplink: more than drafts need many times over, as on the networks that they are from."""

WALKING_RTT_S = (0.028, 0.008)
"""Mean and deviation: a round figure for a 5G cell near its exchange; the recording has none."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A link over time."""

    name: str
    about: str  # where rates and delays are from
    recording: str = ""  # a path under the recordings' folder; empty: the channel is synthetic
    stand_in: str = ""  # of CHANNELS, where the recording is not there
    load: Callable[[Path, int], Channel] | None = None  # from the recording's path and a seed

    @property
    def stands_in(self) -> bool:
        """Whether a synthetic channel is used because the recording is not there."""
        return bool(self.recording) and not (folder() / self.recording).exists()

    @property
    def label(self) -> str:
        """Return what the link is, in a line."""
        return f"{self.stand_in} (synthetic: no {self.recording})" if self.stands_in else self.about

    def channel(self, seed: int) -> Channel:
        """Return its course. Raises ValueError where a recording is malformed."""
        if self.load is None or self.stands_in:
            return CHANNELS[self.stand_in](seed, COURSE_S)
        return self.load(folder() / self.recording, seed)


def folder() -> Path:
    """Return where recordings lie, if there are any."""
    return Path(os.environ.get("AIRDRAFT_DATA") or REPOSITORY.parent / "shared" / "data") / "traces"


@cache
def channel(name: str, seed: int) -> Channel:
    """Return a trace's course by its name. Raises KeyError where there is none."""
    return TRACES[name].channel(seed)


# ---- what recordings lack ----


def errant(technology: str, quality: str) -> tuple[float, float]:
    """Return the round trip's mean and deviation, in seconds, of a technology: means over ERRANT's operators."""
    found: list[Profile] = [
        profile
        for name, profile in errant_profiles(folder() / "errant" / "profiles.csv").items()
        if name.endswith(f"-{technology}-{quality}")
    ]
    means = np.mean([(profile.rtt_s, profile.rtt_deviation_s) for profile in found], axis=0)
    return float(means[0]), float(means[1])


def delayed(course: Channel, rtt_s: float, deviation_s: float, seed: int) -> Channel:
    """Return the channel with lognormal delays, alike over ``ALIKE_S``; half of a round trip goes each way."""
    chance = np.random.default_rng(seed)

    def way(direction: Direction) -> Direction:
        steps = round(direction.step_s / STEP_S)
        rates = np.repeat(direction.rates_bytes_s, steps)
        states = gauss_markov(chance, len(rates), STEP_S, ALIKE_S)
        return Direction(STEP_S, rates, lognormal(states, rtt_s / 2, deviation_s / 2))

    said = f"round trips of {rtt_s * 1e3:.0f} ms, deviation {deviation_s * 1e3:.0f} ms"
    return replace(course, up=way(course.up), down=way(course.down), assumed=(*course.assumed[:-1], said))


def _driving(technology: str, path: Path, seed: int) -> Channel:
    return delayed(traces.mahimahi(path, rtt_s=0.0, step_s=STEP_S), *errant(technology, "medium"), seed)


def _walking(path: Path, seed: int) -> Channel:
    return delayed(traces.lumos5g(path, up_rate_bytes_s=UP_BYTES_S, rtt_s=0.0), *WALKING_RTT_S, seed)


def _static(path: Path, seed: int) -> Channel:
    return traces.ucc_5g(path, up_rate_bytes_s=UP_BYTES_S)


def _wifi(path: Path, seed: int) -> Channel:
    """Rates as recorded down, the model's up, and the model's waits for the air."""
    recorded, model = traces.solis_wifi(path, up_rate_bytes_s=UP_BYTES_S, rtt_s=0.0), wifi(seed, COURSE_S)
    steps = round(STEP_S / model.down.step_s)
    count = len(model.down.delays_s) // steps
    rates = np.resize(recorded.down.rates_bytes_s, count)
    down = Direction(STEP_S, rates, model.down.delays_s[: count * steps : steps])
    return replace(recorded, up=model.up, down=down, assumed=("uplink and delays: the synthetic wifi's",))


TRACES: dict[str, Trace] = {
    trace.name: trace
    for trace in (
        Trace(
            "lte-driving",
            "LTE, driving: mahimahi's ATT-LTE-driving-2016; round trips of ERRANT's 4G, medium signal",
            "mahimahi/ATT-LTE-driving-2016.up",
            "markov-lte",
            partial(_driving, "4G"),
        ),
        Trace(
            "umts-driving",
            "UMTS, driving: mahimahi's TMobile-UMTS-driving; round trips of ERRANT's 3G, medium signal",
            "mahimahi/TMobile-UMTS-driving.up",
            "gilbert-elliott",
            partial(_driving, "3G"),
        ),
        Trace(
            "5g-walking",
            "5G, walking: Lumos5G's 5g_trace_10_walking; round trips of 28 ms, deviation 8 ms, assumed, as is the "
            "uplink, 10 Mbit/s",
            "sigcomm21_5g/lumos5g/5g_trace_10_walking",
            "walk",
            _walking,
        ),
        Trace(
            "5g-static",
            "5G, static: UCC's Static_B_2020.02.14 with its own pings; uplink of 10 Mbit/s assumed",
            "ucc_5g/Static_B_2020.02.14_13.21.26.csv",
            "constant",
            _static,
        ),
        Trace(
            "wifi",
            "Wi-Fi, an office: Solis' wifi_office_231114-151821 down; up and delays of the synthetic wifi",
            "solis_wifi/wifi_office_231114-151821.txt",
            "wifi",
            _wifi,
        ),
        Trace("leo", "satellites in low orbit, synthetic", stand_in="leo-satellite"),
        Trace("geo", "a geostationary satellite, synthetic", stand_in="geo-satellite"),
    )
}
"""By name; every named figure of a trace has it in its own name."""
