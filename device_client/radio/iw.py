"""Wi-Fi on Linux: ``iw dev IF link`` and ``station dump``.

Both print a line per value, name and value parted by a colon, under the head of a station. ``link`` shows the access
point and its signal; ``station dump`` adds what some drivers keep from ``link``, the rate down above all. A later
standard's lines (per-link statistics of Wi-Fi 7) repeat the names further down; the first counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airdraft.core.radio_facts import RATE_BYTES_S, RSSI_DBM, RadioFacts, known
from device_client.radio.commands import SourceFailed, found, output

MBIT_S = 125_000.0  # bytes per second
NETWORK = Path("/sys/class/net")
ROUTES = Path("/proc/net/route")


def parsed(link: str, stations: str = "") -> RadioFacts:
    """Return the facts in the output of ``link`` and of ``station dump``; silent where it is not connected."""
    head, values = _values(link)
    if not head.startswith("Connected to"):
        return RadioFacts()
    values = _values(stations)[1] | values
    return RadioFacts(
        technology="wifi",
        rssi_dbm=known(values.get("signal"), RSSI_DBM),
        up_link_bytes_s=_rate(values.get("tx bitrate")),
        down_link_bytes_s=_rate(values.get("rx bitrate")),
        cell=_address(head.split()[2:3]),
    )


def _values(text: str) -> tuple[str, dict[str, str]]:
    """Return the head and the first value of each name."""
    head, *lines = text.splitlines() or [""]
    values: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            values.setdefault(name.strip(), value.strip())
    return head, values


def _rate(value: str | None) -> float | None:
    mbit_s = known(value, (RATE_BYTES_S[0] / MBIT_S, RATE_BYTES_S[1] / MBIT_S))
    return None if mbit_s is None else mbit_s * MBIT_S


def _address(words: list[str]) -> int | None:
    try:
        return int("".join(words).replace(":", ""), 16)
    except ValueError:
        return None


def default_interface(routes: str) -> str | None:
    """Return the interface of the default route in a text like ``/proc/net/route``: the least metric counts."""
    rows = [line.split() for line in routes.splitlines()[1:]]
    defaults = [row for row in rows if len(row) >= 8 and row[1] == row[7] == "00000000" and row[6].isdigit()]
    return min(defaults, key=lambda row: int(row[6]))[0] if defaults else None


@dataclass(slots=True)
class Iw:
    """``iw``: Wi-Fi on Linux, signal and link rates. An argument is the interface; else the default route's."""

    interface: str = ""
    every_s: float = 1.0
    network: Path = NETWORK
    routes: Path = ROUTES
    name: str = "iw"

    def missing(self) -> str | None:
        if found("iw") is None:
            return "iw is not installed"
        return None if self._wireless() else "no Wi-Fi interface"

    async def read(self) -> RadioFacts:
        interface = self.interface or self._in_use()
        if interface is None:
            return RadioFacts()
        link = await output(("iw", "dev", interface, "link"))
        try:
            stations = await output(("iw", "dev", interface, "station", "dump"))
        except SourceFailed:
            stations = ""  # not every driver lets everyone ask
        return parsed(link, stations)

    async def close(self) -> None:
        pass

    def _wireless(self) -> list[str]:
        return sorted(path.parent.name for path in self.network.glob("*/phy80211"))

    def _in_use(self) -> str | None:
        """Return the wireless interface that carries the default route; where there is no such route, the first."""
        try:
            interface = default_interface(self.routes.read_text())
        except OSError:
            interface = None
        wireless = self._wireless()
        return next(iter(wireless), None) if interface is None else interface if interface in wireless else None
