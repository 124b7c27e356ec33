"""Channels from recordings: each loader says what its format lacks, and takes that from its caller.

No recording here has a one-way delay: half of a round trip goes each way. Rows that do not come on a grid are in force
from their time until the next row's. A malformed line raises ValueError with file and line.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airdraft.link.timeline import MBIT_S, NO_CELL, Channel, Direction, Radio, Series
from airdraft.link.trace_lines import UNKNOWN, Line, Row, read_lines, read_table

MAHIMAHI_PACKET_BYTES = 1500
KBIT_S = 125.0  # bytes per second in a kilobit per second
LONGEST_S = 1e6  # of a recording; what claims to last longer is no recording


def _assumed_rtt(rtt_s: float) -> str:
    return f"round trip {rtt_s * 1e3:g} ms"


def _assumed_rate(direction: str, rate_bytes_s: float) -> str:
    return f"{direction} {rate_bytes_s / MBIT_S:g} Mbit/s"


# ---- mahimahi ----


def mahimahi(path: Path, *, rtt_s: float, step_s: float = 0.1) -> Channel:
    """Load a pair of mahimahi traces, NAME.up and NAME.down, given either.

    A line is the millisecond at which a packet of 1500 bytes may leave; a trace repeats after its last line, each
    direction by itself. The rate is that of the packets in a step of whole milliseconds: a step with none is out.
    Lacks: the round trip, ``rtt_s``; radio facts.
    """
    if path.suffix not in {".up", ".down"}:
        raise ValueError(f"{path}: a mahimahi trace is NAME.up or NAME.down")
    up, down = (_opportunities(path.with_suffix(suffix), rtt_s / 2, step_s) for suffix in (".up", ".down"))
    return Channel(path.stem, up, down, assumed=(_assumed_rtt(rtt_s),))


def _opportunities(path: Path, delay_s: float, step_s: float) -> Direction:
    step_ms = round(step_s * 1000)
    if step_ms < 1:
        raise ValueError(f"a mahimahi trace is sampled in whole milliseconds, not in {step_s} s")
    at_ms = _milliseconds(read_lines(path))
    count = max(1, -(-int(at_ms[-1]) // step_ms))
    packets = np.bincount(np.minimum(at_ms // step_ms, count - 1), minlength=count)
    return Direction(step_ms / 1000, packets * MAHIMAHI_PACKET_BYTES * 1000 / step_ms, np.full(count, delay_s))


def _milliseconds(lines: Sequence[Line]) -> NDArray[np.int64]:
    times: list[int] = []
    for line in lines:
        if not (line.text.isascii() and line.text.isdigit()):
            raise line.malformed("expected whole milliseconds")
        times.append(int(line.text))
        if len(times) > 1 and times[-1] < times[-2]:
            raise line.malformed("time runs backwards")
        if times[-1] > LONGEST_S * 1000:
            raise line.malformed("too late a time")
    return np.array(times, dtype=np.int64)


# ---- time and rate ----


def lumos5g(path: Path, *, up_rate_bytes_s: float, rtt_s: float, step_s: float = 1.0) -> Channel:
    """Load a Lumos5G trace: time in s and downlink in Mbit/s, a row a second, some missing.

    Lacks: the uplink, ``up_rate_bytes_s``; the round trip, ``rtt_s``; radio facts.
    """
    return _down_rates(path, up_rate_bytes_s, rtt_s, step_s)


def solis_wifi(path: Path, *, up_rate_bytes_s: float, rtt_s: float, step_s: float = 0.1) -> Channel:
    """Load a Solis Wi-Fi trace: time in s and TCP downlink in Mbit/s, a row a second, some up to 0.4 s late.

    Lacks: the uplink, ``up_rate_bytes_s``; the round trip, ``rtt_s``; radio facts.
    """
    return _down_rates(path, up_rate_bytes_s, rtt_s, step_s)


def _down_rates(path: Path, up_rate_bytes_s: float, rtt_s: float, step_s: float) -> Channel:
    lines = read_lines(path)
    times_s, rates_mbit_s = np.array([line.numbers(("time in s", "Mbit/s")) for line in lines]).T
    down = rates_mbit_s[_in_force(lines, times_s, step_s)] * MBIT_S
    delays_s = np.full(len(down), rtt_s / 2)
    return Channel(
        path.stem,
        Direction(step_s, np.full(len(down), up_rate_bytes_s), delays_s),
        Direction(step_s, down, delays_s),
        assumed=(_assumed_rate("uplink", up_rate_bytes_s), _assumed_rtt(rtt_s)),
    )


def _in_force(lines: Sequence[Line], times_s: Series, step_s: float) -> NDArray[np.int64]:
    """Return the row, [T], that is in force at each step from the first row's time on; the last of equal times.

    Raises ValueError, naming the line, where time runs backwards or for too long.
    """
    if len(backwards := np.flatnonzero(np.diff(times_s) < 0)):
        raise lines[int(backwards[0]) + 1].malformed("time runs backwards")
    if times_s[-1] - times_s[0] > LONGEST_S:
        raise lines[-1].malformed("too late a time")
    count = int((times_s[-1] - times_s[0]) / step_s + 1e-6) + 1
    grid_s = times_s[0] + np.arange(count) * step_s
    return np.asarray(np.searchsorted(times_s, grid_s + 1e-6 * step_s, side="right") - 1, dtype=np.int64)


# ---- UCC 5G ----

UCC_COLUMNS = ("Timestamp", "Speed", "RSRP", "RSRQ", "SNR", "DL_bitrate", "PINGAVG", "RAWCELLID", "NRxRSRP")


def ucc_5g(
    path: Path,
    *,
    up_rate_bytes_s: float,
    rtt_s: float | None = None,
    bridged_rows: tuple[int, int] | None = (2, 2),
    step_s: float = 1.0,
) -> Channel:
    """Load a UCC 5G production trace: downlink rate, radio facts and pings, about a row a second.

    Of the rows of one second, the last counts. A ping (PINGAVG, in about one row of 14) is the round trip until the
    next; before the first, the first. The recorder stopped its download for each ping, so the rate falls to nothing
    there on any network: in the rows of a ping, and so many before and after it as ``bridged_rows`` says, the rate is
    that of the last row before them; None leaves it as recorded. A lost ping bridges nothing: the network may well
    have been out. Under HSPA the column RSRP holds what the phone reports in its place.
    Lacks: the uplink, ``up_rate_bytes_s``: UL_bitrate is what the phone sent during a download, mostly
    acknowledgements, and no capacity. ``rtt_s`` replaces the pings, and is needed where there is none.
    """
    rows = read_table(path, UCC_COLUMNS)
    in_force = _in_force([row.line for row in rows], np.array([second_of(row) for row in rows]), step_s)
    radio = _ucc_radio(rows, in_force, step_s)
    down_kbit_s = np.array([row.real("DL_bitrate", least=0.0) for row in rows])
    pings_ms = np.array([row.known("PINGAVG", least=0.0) for row in rows])
    pinged = ~np.isnan(pings_ms)
    if rtt_s is None and not pinged.any():
        raise ValueError(f"{path}: no row has a ping; give rtt_s")
    paused = _around(pinged, *bridged_rows) if bridged_rows else np.zeros(len(rows), dtype=np.bool_)
    if paused.all():
        raise ValueError(f"{path}: every row is beside a ping; bridge fewer")
    down = down_kbit_s[_held(~paused)][in_force] * KBIT_S
    rtts_s = pings_ms[_held(pinged)] / 1000 if rtt_s is None else np.full(len(rows), rtt_s)
    delays_s = rtts_s[in_force] / 2
    assumed = [_assumed_rate("uplink", up_rate_bytes_s)]
    assumed += [] if rtt_s is None else [_assumed_rtt(rtt_s)]
    assumed += ["downlink across pings"] if paused.any() else []
    return Channel(
        path.stem,
        Direction(step_s, np.full(len(down), up_rate_bytes_s), delays_s),
        Direction(step_s, down, delays_s),
        radio=radio,
        assumed=tuple(assumed),
    )


def second_of(row: Row) -> float:
    """Return a row's Timestamp in seconds since 1970. Raises ValueError with file and line."""
    try:
        at = datetime.strptime(row.cells["Timestamp"], "%Y.%m.%d_%H.%M.%S")
    except ValueError:
        raise row.line.malformed("expected a time like 2020.02.14_09.38.22") from None
    return (at - datetime(1970, 1, 1)).total_seconds()


def _around(rows: NDArray[np.bool_], before: int, after: int) -> NDArray[np.bool_]:
    """Tell, [N], which rows are among ``rows`` [N], or so many before or after one of them."""
    around = np.zeros(len(rows), dtype=np.bool_)
    for row in np.flatnonzero(rows):
        around[max(0, row - before) : row + after + 1] = True
    return around


def _held(known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each row, [N], the last known one up to it, or the first; at least one is known."""
    rows = np.flatnonzero(known)
    last = np.searchsorted(rows, np.arange(len(known)), side="right") - 1
    return np.asarray(rows[np.maximum(last, 0)], dtype=np.int64)


def _ucc_radio(rows: Sequence[Row], in_force: NDArray[np.int64], step_s: float) -> Radio:
    def column(name: str) -> Series:
        return np.array([row.known(name) for row in rows])[in_force]

    cells = [NO_CELL if row.cells["RAWCELLID"] == UNKNOWN else int(row.real("RAWCELLID", least=0.0)) for row in rows]
    return Radio(
        step_s=step_s,
        rsrp_dbm=column("RSRP"),
        rsrq_db=column("RSRQ"),
        sinr_db=column("SNR"),
        neighbour_rsrp_dbm=column("NRxRSRP"),
        cell=np.array(cells, dtype=np.int64)[in_force],
        speed_m_s=column("Speed") / 3.6,
    )


# ---- round trips ----


def telerobot_rtt(path: Path, *, up_rate_bytes_s: float, down_rate_bytes_s: float, interval_s: float) -> Channel:
    """Load a series of round trips in ms, one a line, as a robot's application measured them.

    They include the payload that the metadata file beside each states, and its time on the link.
    Lacks: both rates; the times of the measurements, which become ``interval_s`` apart; radio facts.
    """
    delays_s = np.array([line.numbers(("round trip in ms",))[0] for line in read_lines(path)]) / 2000
    up, down = (
        Direction(interval_s, np.full(len(delays_s), rate), delays_s) for rate in (up_rate_bytes_s, down_rate_bytes_s)
    )
    rates = _assumed_rate("uplink", up_rate_bytes_s), _assumed_rate("downlink", down_rate_bytes_s)
    return Channel(path.stem, up, down, assumed=(*rates, f"a sample every {interval_s:g} s"))
