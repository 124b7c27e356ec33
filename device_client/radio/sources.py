"""The table of sources of radio facts. A name may carry an argument behind a colon: ``iw:wlan1``, ``recorded:PATH``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from airdraft.core.radio_facts import RadioFacts
from device_client.radio.iw import Iw
from device_client.radio.modem_manager import ModemManager
from device_client.radio.recorded import Recorded
from device_client.radio.termux import Termux


class Source(Protocol):
    """Something that can be asked what the radio says."""

    name: str

    def missing(self) -> str | None:
        """Return why it cannot be asked on this machine, in a few words; None where it can."""
        ...

    async def read(self) -> RadioFacts:
        """Return the facts of now, silent where the link that is in use is not its. Raises SourceFailed."""
        ...

    async def close(self) -> None:
        """Take back what asking needed. Raises SourceFailed."""
        ...


SOURCES: dict[str, Callable[[str, float], Source]] = {
    "termux": Termux,
    "iw": Iw,
    "modem-manager": ModemManager,
    "recorded": Recorded,
}
"""Each of an argument, empty where none is given, and of the seconds between two readings."""

AUTO = ("termux", "iw", "modem-manager")
"""The order in which ``auto`` asks: the first that is not silent counts, at every reading anew."""


def opened(name: str, every_s: float) -> list[Source]:
    """Return the sources that a setting names: one; several for ``auto``; for ``none``, none.

    ``auto`` holds those that are there; a source asked for by name is returned either way.
    Raises ValueError on an unknown name.
    """
    if name == "none":
        return []
    if name == "auto":
        return [source for each in AUTO if (source := SOURCES[each]("", every_s)).missing() is None]
    kind, _, argument = name.partition(":")
    if kind not in SOURCES:
        raise ValueError(f"no source of radio facts {kind!r}; choose one of none, auto, {', '.join(SOURCES)}")
    return [SOURCES[kind](argument, every_s)]
