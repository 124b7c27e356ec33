"""Who joins the next step (DESIGN §5): a step has room for so many positions and waits for nobody.

What a device waits for comes first: verification and the next token of a text. Prefill and replays take what is left
and are promised a share, so that neither holds the other back for more than a step. Running ahead is a gift, from what
nobody else has a use for. Tenants take turns by the positions that they were given; a tenant's sessions by their wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from airdraft.core.session import Wish
from airdraft.core.types import Work
from coordinator.policy.costs import PassCost

PREFILL_SHARE = 4
"""One in so many of a step's positions is kept for prefill where one waits."""

MOST_HELD = 3.0
"""In fixed costs of a step: for how long one is held back for more drafts at most."""

Who = TypeVar("Who")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[Who]):
    """One session that has a use for a part of the next step."""

    who: Who
    tenant: str
    wish: Wish
    since_s: float


def gathered_by(now_s: float, began_s: float, ready: int, due_s: Sequence[float], fixed_s: float) -> float:
    """Return until when a free engine waits for drafts that are due, so that they share a step's fixed cost.

    began_s  when it could have begun
    ready    how many sessions are ready and would wait
    due_s    when each draft that is owed should be there
    fixed_s  what a step costs whatever is in it

    Whoever comes too late for a step waits for half of it on average, and then costs another step's fixed part: waiting
    for m drafts is worth it to the ``ready`` ones for m / ready of both. Never longer than half a step; and not for a
    draft that is past due.
    """
    most_s = fixed_s / 2
    best_s = now_s
    for joiners, due in enumerate(sorted(due for due in due_s if due > now_s), start=1):
        if due - began_s <= most_s * min(1.0, 2 * joiners / ready):
            best_s = due
    return best_s


def held_until(now_s: float, began_s: float, by_s: Sequence[float | None], fixed_s: float) -> float:
    """Return until when a free engine holds a step back whose sessions' devices draft all the time.

    began_s  when it could have begun
    by_s     until when each that would join can wait (``RunAhead.begins_by``); None cannot

    The longer, the more drafts it verifies at one fixed cost. The poorest sets the pace; nobody waits for longer than
    ``MOST_HELD`` fixed costs.
    """
    limits = [by for by in by_s if by is not None]
    if len(limits) < len(by_s) or not limits:
        return now_s
    return max(now_s, min(*limits, began_s + MOST_HELD * fixed_s))


def worth_verifying(drafts: Sequence[tuple[int, float]], cost: PassCost) -> list[int]:
    """Return how many nodes of each session's draft a step takes, where ``drafts`` are (nodes, acceptance).

    Every session gets a token anyway. A node further down is worth its chance of a token more.
    """
    return worth_positions([[chance**depth for depth in range(1, nodes + 1)] for nodes, chance in drafts], cost)


def worth_positions(drafts: Sequence[Sequence[float]], cost: PassCost) -> list[int]:
    """Return how many nodes of each session's draft a step takes, where ``drafts`` are the chances of their nodes.

    A chance is that of a token more, and falls along a draft. A node is taken while that is more tokens a second than
    the step has without it: the most tokens in an edge second (Dinkelbach's ratio).
    """
    chances = sorted(((chance, session) for session, nodes in enumerate(drafts) for chance in nodes), reverse=True)
    taken, tokens, seconds = [0] * len(drafts), float(len(drafts)), cost.seconds(len(drafts))
    for chance, session in chances:
        if chance * seconds < tokens * cost.per_position_s:
            break
        taken[session] += 1
        tokens += chance
        seconds += cost.per_position_s
    return taken


class Turns(Generic[Who]):
    """Fills one step after the other from those that wait."""

    def __init__(self, positions: int) -> None:
        """Give a step room for ``positions`` > 0."""
        self.positions = positions
        self._given: dict[str, int] = {}  # positions by tenant; nobody saves up while away

    def choose(
        self,
        waiting: Sequence[Waiting[Who]],
        prefill_positions: int | None = None,
        bounds: Mapping[str, int] = MappingProxyType({}),
    ) -> list[tuple[Who, int]]:
        """Return who joins and with how many positions, at most those of its wish.

        prefill_positions  bounds the prefill of a step that others wait for; None is all the room there is
        bounds             positions that a tenant may have, above 0; who is not in it may have all
        """
        left_to = dict(bounds)
        self._level({one.tenant for one in waiting})
        urgent = [one for one in waiting if one.wish.work in (Work.VERIFY, Work.DECODE)]
        prefill = [one for one in waiting if one.wish.work is Work.PREFILL]
        ahead = [one for one in waiting if one.wish.work is Work.RUN_AHEAD]
        kept = min(max(1, self.positions // PREFILL_SHARE), *(one.wish.positions for one in prefill)) if prefill else 0
        chosen = self._fill(urgent, max(1, self.positions - kept), left_to)
        left = self.positions - _sum(chosen)
        bounded = left if prefill_positions is None or not urgent else min(left, prefill_positions)
        chosen += self._fill(prefill, bounded, left_to)
        return chosen + self._fill(ahead, self.positions - _sum(chosen), left_to)

    def _level(self, tenants: set[str]) -> None:
        floor = min((self._given[tenant] for tenant in tenants if tenant in self._given), default=0)
        absent = {tenant: given for tenant, given in self._given.items() if tenant not in tenants and given > floor}
        self._given = absent | {tenant: max(floor, self._given.get(tenant, floor)) for tenant in tenants}

    def _fill(self, waiting: Iterable[Waiting[Who]], room: int, left_to: dict[str, int]) -> list[tuple[Who, int]]:
        queues: dict[str, deque[Waiting[Who]]] = {}
        for one in sorted(waiting, key=lambda one: one.since_s):
            queues.setdefault(one.tenant, deque()).append(one)
        chosen: list[tuple[Who, int]] = []
        while room > 0 and queues:
            tenant = min(queues, key=lambda tenant: (self._given[tenant], queues[tenant][0].since_s))
            one = queues[tenant].popleft()
            granted = min(one.wish.positions, room, left_to.get(tenant, room))
            if not queues[tenant] or not granted:
                del queues[tenant]
            if not granted:
                continue
            if tenant in left_to:
                left_to[tenant] -= granted
            self._given[tenant] += granted
            room -= granted
            chosen.append((one.who, granted))
        return chosen


def _sum(chosen: Iterable[tuple[Who, int]]) -> int:
    return sum(positions for _, positions in chosen)
