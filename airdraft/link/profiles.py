"""What recordings say about a link beside its course over time: means by operator, round trips by idle time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airdraft.link.random_processes import gauss_markov, lognormal
from airdraft.link.timeline import Channel, Direction, Series, steps_in
from airdraft.link.trace_lines import Row, read_table
from airdraft.link.traces import KBIT_S

ERRANT_COLUMNS = (
    "operator",
    "country",
    "rat",
    "signal_quality",
    "download_kbps",
    "upload_kbps",
    "latency_ms_avg",
    "latency_ms_stdev",
)


@dataclass(frozen=True, slots=True)
class Profile:
    """Means of one operator's network, by radio technology and signal quality, as ERRANT publishes them."""

    name: str  # operator-country-technology-quality
    up_rate_bytes_s: float
    down_rate_bytes_s: float
    rtt_s: float
    rtt_deviation_s: float

    def channel(self, seed: int, duration_s: float, *, correlation_s: float, step_s: float = 0.01) -> Channel:
        """Return a channel with these means: constant rates, lognormal delays.

        Lacks, and takes from the caller: over what time delays are alike, ``correlation_s``. Half of the round trip
        goes each way; both halves are slow at once.
        """
        count = steps_in(duration_s, step_s)
        course = gauss_markov(np.random.default_rng(seed), count, step_s, correlation_s)
        delays_s = lognormal(course, self.rtt_s, self.rtt_deviation_s) / 2
        return Channel(
            self.name,
            Direction(step_s, np.full(count, self.up_rate_bytes_s), delays_s),
            Direction(step_s, np.full(count, self.down_rate_bytes_s), delays_s),
            seed=seed,
            assumed=("constant rates", f"delays correlated over {correlation_s:g} s"),
        )


def errant_profiles(path: Path) -> dict[str, Profile]:
    """Load ERRANT's profiles by name.

    Lacks: any course over time; radio facts. Raises ValueError with file and line.
    """
    profiles: dict[str, Profile] = {}
    for row in read_table(path, ERRANT_COLUMNS):
        profile = _profile(row)
        if profile.name in profiles:
            raise row.line.malformed(f"a second profile {profile.name}")
        profiles[profile.name] = profile
    return profiles


def _profile(row: Row) -> Profile:
    rtt_ms = row.real("latency_ms_avg", least=0.0)
    if rtt_ms == 0:
        raise row.line.malformed("latency_ms_avg is 0")
    return Profile(
        name="-".join(row.cells[column] for column in ERRANT_COLUMNS[:4]),
        up_rate_bytes_s=row.real("upload_kbps", least=0.0) * KBIT_S,
        down_rate_bytes_s=row.real("download_kbps", least=0.0) * KBIT_S,
        rtt_s=rtt_ms / 1000,
        rtt_deviation_s=row.real("latency_ms_stdev", least=0.0) / 1000,
    )


@dataclass(frozen=True, slots=True, eq=False)
class IdleRoundTrips:
    """Round trips of packets sent after the radio had been idle: what waking it costs.

    idle_s  [N]  ascending
    rtts_s  [N]
    """

    idle_s: Series
    rtts_s: Series

    def quantile_s(self, share: float, idle_s: float, within_s: float = 0.5) -> float:
        """Return the round trip that this share stays below, of packets after about that idle time.

        Raises ValueError where none was sent after ``idle_s``, ``within_s`` more or less.
        """
        near = np.abs(self.idle_s - idle_s) <= within_s
        if not near.any():
            raise ValueError(f"no packet was sent {idle_s} s, {within_s} s more or less, after the last")
        return float(np.quantile(self.rtts_s[near], share))


RRC_COLUMNS = ("interval", "RTT1", "active_radio_type", "KeepOrDrop")


def rrc_probe(path: Path, *, dropped: Collection[str] = ("BAD",)) -> IdleRoundTrips:
    """Load a probe of radio states: round trip in ms (RTT1) by idle time before the packet in s.

    Rows that the authors marked as ``dropped`` in KeepOrDrop are left out. Marks: YEP; BAD; OUT, far above its
    neighbours; DIS. The timers of a network, not a course over time: no channel. Raises ValueError with file and line.
    """
    rows = read_table(path, RRC_COLUMNS)
    kept = [row for row in rows if row.cells["KeepOrDrop"] not in dropped]
    if not kept:
        raise ValueError(f"{path}: no row is kept")
    idle_s = np.array([row.real("interval", least=0.0) for row in kept])
    rtts_s = np.array([row.real("RTT1", least=0.0) for row in kept]) / 1000
    order: NDArray[np.int64] = np.argsort(idle_s, kind="stable")
    return IdleRoundTrips(idle_s[order], rtts_s[order])
