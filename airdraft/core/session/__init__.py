"""The two ends of one generation, sans-IO: events in, frames and work out; no clock, no socket (DESIGN §4)."""

from airdraft.core.session.device import Committed, DeviceSession, Journalled, Lost, Output, Tally
from airdraft.core.session.device_meaning import MARGIN, MOST_Q_ENTRIES
from airdraft.core.session.edge import EdgeSession
from airdraft.core.session.liveness import Liveness
from airdraft.core.session.overtaking import Overtaking
from airdraft.core.session.passes import PASS_NODES, Wish
from airdraft.core.session.reattach import Attempt, Reattachment
from airdraft.core.session.run_ahead import Company, RunAhead
from airdraft.core.types import DraftWork

__all__ = [
    "MARGIN",
    "MOST_Q_ENTRIES",
    "PASS_NODES",
    "Attempt",
    "Committed",
    "Company",
    "DeviceSession",
    "DraftWork",
    "EdgeSession",
    "Journalled",
    "Liveness",
    "Lost",
    "Output",
    "Overtaking",
    "Reattachment",
    "RunAhead",
    "Tally",
    "Wish",
]
