"""Who decides in a simulation, where no plan is fixed: ports for a device that plans and an edge that quotes.

The decisions themselves are above this package: whoever simulates passes them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from airdraft.core.session import EdgeSession
from airdraft.core.session.device import Tally
from airdraft.core.types import DeviceFrame, EdgeFrame, Pass, Plan, Quote


class Steering(Protocol):
    """A device's planner as its pump knows it: what happened goes in, how to draft comes out."""

    @property
    def conduct(self) -> Plan:
        """Return how to draft now."""
        ...

    def begins(self) -> None:
        """A new session begins."""
        ...

    def sent(self, frame: DeviceFrame, size_bytes: int, at_s: float) -> None:
        """A frame of so many bytes was given to the link."""
        ...

    def drafted(self, tokens: int, seconds: float, at_s: float) -> None:
        """The drafter wrote ``tokens`` and had nothing to read first."""
        ...

    @property
    def wants_ping(self) -> bool:
        """Return whether nothing has told the round trip for a while."""
        ...

    def pings(self) -> None:
        """A ping goes."""
        ...

    def pinged(self, round_trip_s: float | None, at_s: float) -> None:
        """A ping was answered; None: too late to tell anything."""
        ...

    @property
    def channel(self) -> tuple[float | None, float | None, float | None]:
        """Return what a semantic session tells its edge: what a miss costs, the round trip, bytes a second up."""
        ...

    def received(self, frame: EdgeFrame, tally: Tally, at_s: float) -> Plan | None:
        """Take a frame that the session has taken; return how to draft from now on, None: as before."""
        ...


class Terms(Protocol):
    """What an edge makes of one session beside its core: how much its drafter writes, and what it quotes."""

    def quote(self, now_s: float, *, opened: bool) -> Quote | None:
        """Return a quote for a frame that goes now, None where there is nothing new; ``opened``: for ``Opened``."""
        ...

    def begins(self, session: EdgeSession) -> None:
        """The session begins: say what the edge's own drafter writes for its first pass."""
        ...

    def passed(self, work: Pass, frames: Sequence[EdgeFrame]) -> None:
        """Take a pass's outcome, and let the session know what the edge's own drafter writes from now on."""
        ...
