"""Cellular modems on Linux: ModemManager's ``mmcli``.

``--signal-get -J`` prints strings under ``modem.signal.TECHNOLOGY``, ``--`` where unknown, and is empty until somebody
has set a polling rate with ``--signal-setup=SECONDS``; then the modem is polled until that is set to 0, so what was set
here is taken back. Where that needs an administrator, the failure says which command does it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from airdraft.core.radio_facts import RSRP_DBM, RSRQ_DB, RSSI_DBM, SINR_DB, RadioFacts, Technology, known
from device_client.radio.commands import SourceFailed, found, output, read_json, within

NAMES: tuple[tuple[str, Technology], ...] = (
    ("5g", "nr"),
    ("lte", "lte"),
    ("umts", "umts"),
    ("evdo", "cdma"),
    ("cdma1x", "cdma"),
    ("gsm", "gsm"),
)
"""ModemManager's names, in the order in which they are believed: with 5G beside LTE, 5G carries most."""

POLL_S = (1, 60)
NO_CELL = (0, 0xFFFFFFF, 0xFFFFFFFF)  # what modems say while they have none


def parsed(signal: object, location: object = None) -> RadioFacts:
    """Return the facts in the JSON of ``--signal-get`` and of ``--location-get``; silent where the modem is."""
    for name, technology in NAMES:
        values = within(signal, "modem", "signal", name)

        def value(*keys: str, values: object = values) -> object:
            return next((each for key in keys if known(each := within(values, key), (-1e9, 1e9)) is not None), None)

        power, signal_dbm = known(value("rsrp", "rscp"), RSRP_DBM), known(value("rssi"), RSSI_DBM)
        if power is not None or signal_dbm is not None:
            return RadioFacts(
                technology=technology,
                rsrp_dbm=power,
                rsrq_db=known(value("rsrq", "ecio"), RSRQ_DB),
                sinr_db=known(value("snr", "sinr"), SINR_DB),
                rssi_dbm=signal_dbm,
                cell=_cell(within(location, "modem", "location", "3gpp", "cid")),
            )
    return RadioFacts()


def _cell(cid: object) -> int | None:
    try:
        cell = int(cid, 16) if isinstance(cid, str) else 0
    except ValueError:
        return None
    return None if cell in NO_CELL else cell


@dataclass(slots=True)
class ModemManager:
    """``modem-manager``: a cellular modem on Linux. An argument is the modem, as ``mmcli`` takes it; else any."""

    modem: str = ""
    every_s: float = 1.0
    name: str = "modem-manager"
    _polled: bool = field(default=False, init=False)  # by us
    _asked: bool = field(default=False, init=False)
    _located: bool = field(default=True, init=False)

    def missing(self) -> str | None:
        return None if found("mmcli") else "mmcli is not installed"

    async def read(self) -> RadioFacts:
        signal = read_json(await self._ask("--signal-get", "-J"), "mmcli")
        if known(within(signal, "modem", "signal", "refresh", "rate"), (1, 1e9)) is None and not self._asked:
            await self._poll()
            self._asked = True  # not before: a reading that must not poll fails each time, until the source is dropped
            signal = read_json(await self._ask("--signal-get", "-J"), "mmcli")
        return parsed(signal, await self._location())

    async def close(self) -> None:
        if self._polled:
            self._polled = False
            await self._ask("--signal-setup=0")

    async def _poll(self) -> None:
        seconds = min(max(round(self.every_s), POLL_S[0]), POLL_S[1])
        try:
            await self._ask(f"--signal-setup={seconds}")
        except SourceFailed as failed:
            command = f"sudo mmcli -m {self.modem or 'any'} --signal-setup={seconds}"
            raise SourceFailed(f"the modem is not polled ({failed}); run {command}") from None
        self._polled = True

    async def _location(self) -> object:
        if not self._located:
            return None
        try:
            return read_json(await self._ask("--location-get", "-J"), "mmcli")
        except SourceFailed:
            self._located = False  # the facts are worth having without the cell
            return None

    async def _ask(self, *words: str) -> str:
        return await output(("mmcli", "-m", self.modem or "any", *words))
