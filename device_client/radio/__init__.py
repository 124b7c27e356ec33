"""What the device's radio says: a table of sources, none of them needed (docs/radio.md)."""

from airdraft.core.radio_facts import RadioFacts
from device_client.radio.sources import SOURCES, Source, opened
from device_client.radio.watching import watch

__all__ = ["SOURCES", "RadioFacts", "Source", "opened", "watch"]
