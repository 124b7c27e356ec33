"""How many paced cells may run beside one another: more would disturb what they measure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

MOST_BUSY = 0.45
"""Of the machine, above which a cell gives way."""

ROOM_BUSY = 0.35
"""Of the machine, below which one more may run."""

MOST_LATE_S = 0.0015
"""The p99 of the pacing error, above which a cell gives way; a virtual machine misses half of it with nothing to do."""

LATE_COUNT = 600
"""Waits that the p99 is taken of; once a lane has opened or closed, they are counted anew."""

LOOK_S = 3.0


def machine_seconds() -> tuple[float, float]:
    """Return what all cores have worked and idled so far, in ticks; waiting for a disk is idling."""
    ticks = [float(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = ticks[3] + ticks[4]
    return sum(ticks[:8]) - idle, idle


class Gate:
    """Lets lanes write, so many at a time: one fewer where the machine is too busy or paces are missed, one always.

    One more only where the lanes that are open have kept their pace for a while.
    """

    def __init__(
        self,
        lanes: int,
        seconds: Callable[[], tuple[float, float]] = machine_seconds,
        first: int = 1,
        most_late_s: float = MOST_LATE_S,
    ) -> None:
        """Let ``first`` of the lanes write until something is known; ``most_late_s`` is the p99 that closes one."""
        self.lanes, self.open_lanes = lanes, min(first, lanes)
        self.busy_shares: list[float] = []  # of the machine, each since the look before
        self.lane_counts: list[int] = []  # that were open meanwhile
        self._seconds, self._last, self._most_late_s = seconds, seconds(), most_late_s
        self._late_s: deque[float] = deque(maxlen=LATE_COUNT)
        self._moved = asyncio.Condition()

    def start(self) -> None:
        """Count what the machine works from now on."""
        self._last = self._seconds()

    def late(self, late_s: Sequence[float]) -> None:
        """Take note of pacing errors."""
        self._late_s += late_s

    async def admitted(self, lane: int) -> None:
        """Wait until this lane may write its next text."""
        async with self._moved:
            await self._moved.wait_for(lambda: lane < self.open_lanes)

    async def watch(self) -> None:
        """Look at the machine now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Open or close a lane by what has happened since the last look."""
        worked, idled = self._seconds()
        spent, total = worked - self._last[0], worked + idled - sum(self._last)
        self._last = worked, idled
        busy = spent / total if total > 0 else 0.0
        self.busy_shares.append(busy)
        self.lane_counts.append(self.open_lanes)
        known = len(self._late_s) == LATE_COUNT
        late_s = float(np.percentile(list(self._late_s), 99)) if known else 0.0
        wanted = self.open_lanes
        if busy > MOST_BUSY or late_s > self._most_late_s:
            wanted = max(1, wanted - 1)
        elif known and busy < ROOM_BUSY:
            wanted = min(self.lanes, wanted + 1)
        if wanted != self.open_lanes or late_s > self._most_late_s:
            self._late_s.clear()
        async with self._moved:
            self.open_lanes = wanted
            self._moved.notify_all()

    async def open_all(self) -> None:
        """Let every lane write from now on: what remains is not timed."""
        async with self._moved:
            self.open_lanes = self.lanes
            self._moved.notify_all()
