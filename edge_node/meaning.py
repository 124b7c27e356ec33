"""What stepping does for semantic sessions beside their passes: what the engine is asked, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from airdraft.core.meaning import Swap
from airdraft.core.types import Pass
from edge_node.audits import Swapped
from edge_node.sessions import Entry, SessionTable
from edge_node.step import Judged

REFLECTIVE = "reflective"


class Deadlines:
    """Asks sessions that hold something back when their deadline has come, whatever the engine is at."""

    def __init__(self, clock: Callable[[], float], due: Callable[[Entry], None]) -> None:
        """Begin with none; ``due`` asks a session."""
        self._clock, self._due = clock, due
        self._at: dict[Entry, float] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def note(self, entry: Entry) -> None:
        """Note an event that may have given a session a deadline, or taken it away."""
        if entry.grant is None or entry.grant.decision.exact:
            return
        wakes_s = entry.session.wakes_s
        if wakes_s is None or not entry.session.attached:
            self._at.pop(entry, None)
        else:
            self._at[entry] = wakes_s
        self._set()

    def forget(self, entry: Entry) -> None:
        """Drop a session."""
        if self._at.pop(entry, None) is not None:
            self._set()

    def _set(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._at:
            delay_s = max(0.0, min(self._at.values()) - self._clock())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now_s = self._clock()
        for entry in [entry for entry, at_s in self._at.items() if at_s <= now_s]:
            self._at.pop(entry, None)  # what it still waits for after that is the engine's business
            self._due(entry)
        self._set()


def judged(entry: Entry, work: Pass) -> Judged | None:
    """Return how a pass's drafts are judged, None where they are not."""
    grant = entry.grant
    if not work.judged or grant is None:
        return None
    reflect = grant.granted.rule == REFLECTIVE
    return Judged(work.nodes, grant.head, entry.session.q_of(work), work.own, reflect)


def meant(sessions: SessionTable, entry: Entry) -> None:
    """Count what a session accepted by meaning since this was last asked, and sample audits of it."""
    grant = entry.grant
    if grant is None or grant.decision.exact:
        return
    sessions.metrics.meaning.dropped_provisional(entry.session.dropped - entry.dropped)
    entry.dropped = entry.session.dropped
    swaps = entry.session.take_swaps()
    sessions.metrics.meaning.accepted(swap.risk for swap in swaps if swap.stood)
    for swap in swaps:
        if sessions.audits.samples(grant.key, entry.tenant, stood=swap.stood):
            swapped = _swapped(entry, swap, grant.key)
            if swapped is not None:
                sessions.audits.add(swapped)


def _swapped(entry: Entry, swap: Swap, key: str) -> Swapped | None:
    session = entry.session
    if swap.position > len(session.ids):
        return None  # what stands before it is not committed
    return Swapped(
        key,
        swap.risk,
        tuple(session.ids[: swap.position]),
        swap.drafted,
        swap.chosen,
        entry.prompt_length,
        session.final_length,
        entry.stop_ids,
        entry.tenant,
        entry.tenant_number,
    )
