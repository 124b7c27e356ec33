"""The two ends of one generation, sans-IO: events in, frames and work out; no clock, no socket (DESIGN §4)."""

from airdraft.core.session.device import Committed, DeviceSession, DraftWork, Lost, Output
from airdraft.core.session.edge import EdgeSession

__all__ = ["Committed", "DeviceSession", "DraftWork", "EdgeSession", "Lost", "Output"]
