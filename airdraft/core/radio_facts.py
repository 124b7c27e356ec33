"""What a radio says of itself, whoever reads it: a phone, a modem, a Wi-Fi card or a recording."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

Technology = Literal["wifi", "nr", "lte", "umts", "cdma", "gsm"]


@dataclass(frozen=True, slots=True)
class RadioFacts:
    """What a radio reports at one time; None where it does not say.

    Under UMTS the received power is RSCP and the quality Ec/Io, which a phone reports in their place. Link rates are
    the modulation's (Wi-Fi), what the air would carry without waiting and repetition, and no throughput.
    """

    when_s: float | None = None  # on its reader's clock
    technology: Technology | None = None
    rsrp_dbm: float | None = None
    rsrq_db: float | None = None
    sinr_db: float | None = None
    rssi_dbm: float | None = None
    up_link_bytes_s: float | None = None
    down_link_bytes_s: float | None = None
    neighbour_rsrp_dbm: float | None = None
    cell: int | None = None  # of the access point, its hardware address
    speed_m_s: float | None = None

    @property
    def silent(self) -> bool:
        """Tell whether nothing is known."""
        return all(getattr(self, field.name) is None for field in fields(self) if field.name != "when_s")


Range = tuple[float, float]
RSRP_DBM: Range = (-156.0, -31.0)  # 3GPP TS 38.133, table 10.1.6.1-1; LTE's is narrower
RSRQ_DB: Range = (-43.0, 20.0)  # table 10.1.11.1-1
SINR_DB: Range = (-23.0, 40.0)  # table 10.1.16.1-1
RSSI_DBM: Range = (-120.0, 0.0)
RATE_BYTES_S: Range = (1.0, 1e11)


def known(value: object, within: Range) -> float | None:
    """Read a number as tools print it, a unit behind it or not; None where it is none or no radio's.

    Takes a decimal comma and a minus sign of typesetters for what they are. Android's "unavailable", 2^31 - 1, Wi-Fi's
    -127 dBm and NaN fall outside every range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    words = value.replace("\N{MINUS SIGN}", "-").replace(",", ".").split() if isinstance(value, str) else [value]
    try:
        number = float(words[0])
    except (IndexError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and within[0] <= number <= within[1] else None
