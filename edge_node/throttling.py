"""Who of a tenant's sessions join a step, where the tenant may use only so many positions a second.

What is there is given to the sessions that have waited longest, so that no step takes more than is there. The others
sit the step out; one that would do so for longer than ``LONGEST_WAIT_S`` is told to come back instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from airdraft.core.errors import LimitReached
from airdraft.core.types import Pass, RefusalCode, Work
from edge_node.metrics import EdgeMetrics
from edge_node.scheduling import Waiting
from edge_node.sessions import Entry
from edge_node.tenants import Tenant, Tenants

LONGEST_WAIT_S = 2.0


class Throttle:
    """Holds sessions out of steps by what their tenants may use."""

    def __init__(self, tenants: Tenants, metrics: EdgeMetrics, clock: Callable[[], float]) -> None:
        self._tenants, self._metrics, self._clock = tenants, metrics, clock

    def joining(self, waiting: Sequence[Waiting[Entry]]) -> tuple[list[Waiting[Entry]], float]:
        """Return who may join now, with no more positions than are there, and when to ask for the others again.

        Prompts and replays were paid for by their attach. Streams of those who would wait for too long end.
        """
        joining: list[Waiting[Entry]] = []
        bounded: dict[Tenant, list[Waiting[Entry]]] = {}
        for one in waiting:
            tenant = self._bounded(one.who)
            if tenant is None or one.wish.work is Work.PREFILL:
                joining.append(one)
            else:
                bounded.setdefault(tenant, []).append(one)
        wakes_s = math.inf
        for tenant, own in bounded.items():
            own.sort(key=lambda one: one.since_s)
            joins, until_s = self._of_one(tenant, own)
            joining += joins
            wakes_s = min(wakes_s, until_s)
        return joining, wakes_s

    def until_s(self, entry: Entry) -> float | None:
        """Return until when a session's tenant has not a position left; None where it has."""
        tenant, now_s = self._bounded(entry), self._clock()
        wait_s = 0.0 if tenant is None or tenant.positions is None else tenant.positions.wait_s(now_s, 1)
        return now_s + wait_s if wait_s > 0 else None

    def passed(self, entry: Entry, work: Pass) -> None:
        """Charge a pass that is made, whatever becomes of it: of one that fills the cache, its draft alone."""
        tenant = self._bounded(entry)
        if tenant is not None and tenant.positions is not None:
            positions = work.nodes if work.work is Work.PREFILL else len(work.span.tokens)
            tenant.positions.charge(positions, self._clock())

    def _bounded(self, entry: Entry) -> Tenant | None:
        tenant = self._tenants.get(entry.tenant)
        return None if tenant is None or tenant.positions is None else tenant

    def _of_one(self, tenant: Tenant, own: Sequence[Waiting[Entry]]) -> tuple[list[Waiting[Entry]], float]:
        assert tenant.positions is not None
        now_s = self._clock()
        level, rate = tenant.positions.level(now_s), tenant.allowance.positions_s
        room, before, joins, wakes_s = max(0, math.floor(level)), 0, list[Waiting[Entry]](), math.inf
        for one in own:
            granted = min(room, one.wish.positions)
            if granted:
                joins.append(replace(one, wish=replace(one.wish, positions=granted)))
                room -= granted
            else:
                wait_s = (before + 1 - level) / rate
                if wait_s > LONGEST_WAIT_S:
                    self._end(tenant, one.who, wait_s)
                elif not joins:  # else they are asked again when the step has ended
                    wakes_s = now_s + tenant.positions.wait_s(now_s, 1)
            before += one.wish.positions
        return joins, wakes_s

    def _end(self, tenant: Tenant, entry: Entry, wait_s: float) -> None:
        refusal = LimitReached(
            f"this tenant's {tenant.allowance.positions_s:g} positions a second are used up; "
            f"try again in {wait_s:.1f} s",
            retry_after_s=wait_s,
        )
        for stream in entry.streams.values():
            if stream.failure is None:
                self._metrics.refused(RefusalCode.LIMIT_REACHED)
                stream.end(refusal)
