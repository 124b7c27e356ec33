"""Android through Termux:API: ``termux-wifi-connectioninfo`` and ``termux-telephony-cellinfo``.

Both print JSON with numbers; what Android does not know is left out, or is 2^31 - 1. The second needs the permission
for locations, and prints an empty list without it. Cells: ``type`` (lte, nr, wcdma, gsm, cdma) and ``registered``; of
LTE ``rsrp``, ``rsrq``, ``rssi`` by Android's age, of NR ``ss_`` and ``csi_`` values, of others ``dbm`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.radio_facts import RATE_BYTES_S, RSRP_DBM, RSRQ_DB, RSSI_DBM, SINR_DB, RadioFacts, Technology, known
from device_client.radio.commands import SourceFailed, found, output, read_json
from device_client.radio.iw import MBIT_S

WIFI = "termux-wifi-connectioninfo"
CELLS = "termux-telephony-cellinfo"
TECHNOLOGIES: dict[str, Technology] = {"nr": "nr", "lte": "lte", "wcdma": "umts", "cdma": "cdma", "gsm": "gsm"}
"""Android's names, the fastest first: with NR beside LTE, NR carries most."""

POWERS: dict[str, tuple[str, ...]] = {"nr": ("ss_rsrp", "csi_rsrp", "dbm"), "lte": ("rsrp", "dbm"), "wcdma": ("dbm",)}
CELL_NAMES = ("nci", "ci", "cid", "basestation")


def wifi_parsed(content: object) -> RadioFacts:
    """Return the facts of a Wi-Fi connection; silent where there is none. Raises SourceFailed on a refusal."""
    told = _told(content)
    if told.get("supplicant_state") != "COMPLETED":
        return RadioFacts()
    mbit_s = known(told.get("link_speed_mbps"), (RATE_BYTES_S[0] / MBIT_S, RATE_BYTES_S[1] / MBIT_S))
    address = told.get("bssid")
    try:
        cell = int(address.replace(":", ""), 16) if isinstance(address, str) else None
    except ValueError:
        cell = None
    return RadioFacts(
        technology="wifi",
        rssi_dbm=known(told.get("rssi"), RSSI_DBM),
        up_link_bytes_s=None if mbit_s is None else mbit_s * MBIT_S,  # Android's is the rate at which it sends
        cell=cell,
    )


def cells_parsed(content: object) -> RadioFacts:
    """Return the facts of the serving cell; silent where there is none. Raises SourceFailed on a refusal."""
    if not isinstance(content, list):
        _told(content)
        raise SourceFailed(f"{CELLS} printed no list")
    cells = [cell for cell in content if isinstance(cell, dict) and cell.get("registered") is True]
    for kind, technology in TECHNOLOGIES.items():
        for cell in cells:
            if cell.get("type") == kind:
                return _serving(cell, kind, technology)
    return RadioFacts()


def _serving(cell: dict[str, object], kind: str, technology: Technology) -> RadioFacts:
    def first(names: tuple[str, ...], within: tuple[float, float]) -> float | None:
        return next((value for name in names if (value := known(cell.get(name), within)) is not None), None)

    number = first(CELL_NAMES, (1, 2**36 - 2))
    return RadioFacts(
        technology=technology,
        rsrp_dbm=first(POWERS.get(kind, ()), RSRP_DBM),
        rsrq_db=first(("ss_rsrq", "csi_rsrq", "rsrq"), RSRQ_DB),
        sinr_db=first(("ss_sinr", "csi_sinr", "rssnr"), SINR_DB),
        rssi_dbm=first(("rssi",) if kind in POWERS else ("rssi", "dbm"), RSSI_DBM),
        cell=None if number in (None, 2**31 - 1) else int(number or 0),
    )


def _told(content: object) -> dict[str, object]:
    """Return an object's fields. Raises SourceFailed where it is a refusal, or no object."""
    if not isinstance(content, dict):
        raise SourceFailed("Termux:API printed no object")
    if "API_ERROR" in content:
        raise SourceFailed(f"Termux:API refused: {content['API_ERROR']}")
    return content


@dataclass(slots=True)
class Termux:
    """``termux``: an Android phone under Termux with the Termux:API app. Takes no argument."""

    argument: str = ""
    every_s: float = 1.0
    name: str = "termux"

    def missing(self) -> str | None:
        return None if found(WIFI) or found(CELLS) else "Termux:API is not installed"

    async def read(self) -> RadioFacts:
        wifi = wifi_parsed(read_json(await output((WIFI,)), WIFI))
        return cells_parsed(read_json(await output((CELLS,)), CELLS)) if wifi.silent else wifi

    async def close(self) -> None:
        pass
