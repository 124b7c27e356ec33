"""Recordings that hold radio facts beside what the link did: a row a second, to learn from and to play back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from airdraft.core.radio_facts import (
    RSRP_DBM,
    RSRQ_DB,
    RSSI_DBM,
    SINR_DB,
    RadioFacts,
    Technology,
    known,
)
from airdraft.link.trace_lines import UNKNOWN, Row, read_table
from airdraft.link.traces import KBIT_S, UCC_COLUMNS, second_of

COLUMNS = (*UCC_COLUMNS, "NetworkMode", "RSSI", "PINGLOSS")
MODES: dict[str, Technology] = {
    "5G": "nr",
    "LTE": "lte",
    "HSPA+": "umts",
    "HSPA": "umts",
    "HSDPA": "umts",
    "HSUPA": "umts",
    "UMTS": "umts",
    "EDGE": "gsm",
    "GPRS": "gsm",
}
PAUSED_ROWS = 2
"""Before and after a ping, lost or not: the recorder stopped its download for it, whatever the network would do."""


@dataclass(frozen=True, slots=True)
class RecordedSecond:
    """One second of a recording; None where it does not say."""

    at_s: float  # from the first
    facts: RadioFacts
    down_bytes_s: float | None  # of a download that takes what it gets; not beside a ping
    round_trip_s: float | None  # of a ping


def ucc_5g_seconds(path: Path) -> tuple[RecordedSecond, ...]:
    """Load a UCC 5G production trace; of the rows of one second the last counts, and any ping.

    Raises ValueError with file and line where it is malformed.
    """
    rows = read_table(path, COLUMNS)
    pings = [index for index, row in enumerate(rows) if row.cells["PINGLOSS"] != UNKNOWN]
    paused = {row for index in pings for row in range(index - PAUSED_ROWS, index + PAUSED_ROWS + 1)}
    seconds: list[RecordedSecond] = []
    began_s = second_of(rows[0])
    for second, group in groupby(enumerate(rows), key=lambda numbered: second_of(numbered[1])):
        numbered = list(group)
        index, row = numbered[-1]
        if seconds and second - began_s <= seconds[-1].at_s:
            raise row.line.malformed("time runs backwards")
        rate = None if index in paused else row.real("DL_bitrate", least=0.0) * KBIT_S
        pinged_ms = [each.real("PINGAVG", least=0.0) for _, each in numbered if each.cells["PINGAVG"] != UNKNOWN]
        round_trip_s = pinged_ms[-1] / 1000 if pinged_ms else None
        seconds.append(RecordedSecond(second - began_s, _facts(row, second - began_s), rate, round_trip_s))
    return tuple(seconds)


def _facts(row: Row, at_s: float) -> RadioFacts:
    cell = known(row.cells["RAWCELLID"], (1, 2**36))
    speed_km_h = known(row.cells["Speed"], (0, 2000))
    return RadioFacts(
        when_s=at_s,
        technology=MODES.get(row.cells["NetworkMode"]),
        rsrp_dbm=known(row.cells["RSRP"], RSRP_DBM),
        rsrq_db=known(row.cells["RSRQ"], RSRQ_DB),
        sinr_db=known(row.cells["SNR"], SINR_DB),
        rssi_dbm=known(row.cells["RSSI"], RSSI_DBM),
        neighbour_rsrp_dbm=known(row.cells["NRxRSRP"], RSRP_DBM),
        cell=None if cell is None else int(cell),
        speed_m_s=None if speed_km_h is None else speed_km_h / 3.6,
    )
