"""How many positions of a step a tenant may take while others are at work too.

A step has room for far more positions than a few devices draft, and each of them makes it longer for all. So room is no
measure of what is fair. A tenant may take as many as the others do on average, at least ``LEAST_POSITIONS``; what is
beyond is paid from a purse of engine time, which fills by 1/(2 n^2) of the time where n tenants are at work: of a
tenant's share of the engine, 1/n, so little may be spent on making the others wait. No step gets twice as long by it.
Prompts of the usual length come out of the purse; a storm of them, or a crowd of sessions, is spread thin. A tenant
that is alone is not bounded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from airdraft.core.limits import TokenBucket
from coordinator.policy.costs import PassCost

AT_WORK_S = 1.0
"""A tenant is at work for so long after its last part of a step: between two steps its devices draft."""

FORGET_S = 30.0
"""After that a tenant begins anew, its purse full, which it is by then."""

LEAST_POSITIONS = 8

PURSE_S = 0.15
"""Seconds of the engine that a full purse holds: about 1000 positions of a prompt where one takes 0.15 ms."""

MEMORY = 0.8
"""What the mean of a tenant's positions a step keeps of itself with each step."""


@dataclass(slots=True)
class _Use:
    seen_s: float
    positions: float = 0.0  # a step, lately
    free: int = 0  # of the next step, without a charge
    purse: TokenBucket = field(default_factory=lambda: TokenBucket(1.0, PURSE_S))


class Shares:
    """What each tenant took of steps lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def bounds(self, tenants: Iterable[str], cost: PassCost | None) -> Mapping[str, int]:
        """Return how many positions of the next step these may have that wait for it; none where one is alone."""
        now_s = self._clock()
        waiting = set(tenants)
        self._uses = {name: use for name, use in self._uses.items() if now_s - use.seen_s < FORGET_S}
        for name in waiting:
            self._uses.setdefault(name, _Use(now_s)).seen_s = now_s
        at_work = {name: use for name, use in self._uses.items() if now_s - use.seen_s < AT_WORK_S}
        if len(at_work) < 2 or cost is None or cost.per_position_s <= 0:
            return {}
        total, rate = sum(use.positions for use in at_work.values()), 0.5 / len(at_work) ** 2
        bounds: dict[str, int] = {}
        for name in waiting:
            use = at_work[name]
            use.purse.set(rate, PURSE_S)
            use.free = max(LEAST_POSITIONS, math.ceil((total - use.positions) / (len(at_work) - 1)))
            spent_s = max(0.0, min(use.purse.level(now_s), cost.fixed_s))
            bounds[name] = use.free + int(spent_s / cost.per_position_s)
        return bounds

    def took(self, positions: Counter[str], bounds: Mapping[str, int], cost: PassCost | None) -> None:
        """Note what tenants got of a step, and let them pay for it where they were bounded."""
        now_s = self._clock()
        for name, use in self._uses.items():
            if now_s - use.seen_s >= AT_WORK_S:
                use.positions = 0.0
                continue
            use.positions = MEMORY * use.positions + (1 - MEMORY) * positions[name]
            beyond = positions[name] - use.free
            if name in bounds and beyond > 0 and cost is not None:
                use.purse.charge(beyond * cost.per_position_s, now_s)
