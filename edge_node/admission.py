"""Who gets a place at an edge: first come, first served, though those who wait do so at home (DESIGN §7, admission).

A device that finds no place is told when to come back and keeps its turn meanwhile. A place that is free belongs to
whoever has waited longest, so that no newcomer takes it; who does not come back in time loses the turn. A tenant that
would hold more than its share, the places over those who hold or want one, comes after all whose tenants would not; and
where the list is full, whoever has the most turns on it gives the latest to one who has fewer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from airdraft.core.errors import Overloaded
from coordinator.policy.places import Stays

MOST_WAITING = 1024
"""Turns that are kept at once; who finds no place among them is told to come back, and then begins anew."""

GRACE_S = 2.0
GRACE = 0.5
"""How much later than told a device may come back, in seconds and as a share of its wait, before its turn is lost."""

Key = tuple[str, bytes]
"""Tenant and session id."""


@dataclass(slots=True)
class _Turn:
    """One who waits for a place."""

    since_s: float
    until_s: float  # it must have come back
    lacks_rows: bool = False  # there was a place, but no memory


class Admission:
    """The turns of those who wait."""

    def __init__(self, clock: Callable[[], float], most: int = MOST_WAITING) -> None:
        """Keep up to ``most`` turns; ``clock`` gives seconds."""
        self.stays = Stays()
        self._lost = 0
        self._clock, self._most = clock, most
        self._turns: dict[Key, _Turn] = {}  # in the order of their coming

    def __len__(self) -> int:
        """Return how many wait; any thread may ask."""
        now_s = self._clock()
        return sum(turn.until_s >= now_s for turn in list(self._turns.values()))

    def sweep(self) -> None:
        """Forget those who have not come back in time."""
        now_s = self._clock()
        for key in [key for key, turn in self._turns.items() if turn.until_s < now_s]:
            del self._turns[key]
            self._lost += 1

    def take_lost(self) -> int:
        """Return how many did not come back in time, since this was last asked."""
        lost, self._lost = self._lost, 0
        return lost

    def claim(self, key: Key, places: int, held: Mapping[str, int]) -> None:
        """Let one have one of so many ``places``, of which tenants have ``held`` some, if it is its turn.

        Raises Overloaded, and keeps its turn.
        """
        self.sweep()
        free = places - sum(held.values())
        ahead = self._ahead(key, places, held)
        if len(ahead) >= free or any(self._turns[other].lacks_rows for other in ahead):
            raise self._refused(key, len(ahead), len(ahead) - free, "every place at this edge is taken")

    def lacks_rows(self, key: Key, reason: str) -> Overloaded:
        """Return what to tell one that has a place but no memory; nobody behind it passes before it had its turn."""
        error = self._refused(key, len(self._ahead(key, 0, {})), 0, reason)
        if key in self._turns:
            self._turns[key].lacks_rows = True
        return error

    def admitted(self, key: Key) -> float:
        """Take one off the list; return for how many seconds it has waited."""
        turn = self._turns.pop(key, None)
        return 0.0 if turn is None else self._clock() - turn.since_s

    def _ahead(self, key: Key, places: int, held: Mapping[str, int]) -> list[Key]:
        """Return who comes before this one: by share, then by the time of coming."""
        line = [*self._turns] if key in self._turns else [*self._turns, key]
        tenants = {tenant for tenant, _ in line} | {tenant for tenant, count in held.items() if count > 0}
        would_hold, over = Counter(held), dict[Key, bool]()
        for one in line:
            would_hold[one[0]] += 1
            over[one] = len(tenants) > 1 and would_hold[one[0]] * len(tenants) > places
        at = line.index(key)
        return [one for index, one in enumerate(line) if (over[one], index) < (over[key], at)]

    def _refused(self, key: Key, before: int, lacking: int, reason: str) -> Overloaded:
        """Keep the turn of one that needs ``lacking`` places to fall free and another one; return what to tell it."""
        now_s = self._clock()
        wait_s = self.stays.wait_s(now_s, max(0, lacking))
        if key in self._turns or len(self._turns) < self._most or self._gives_way(key[0]):
            turn = self._turns.setdefault(key, _Turn(now_s, 0.0))
            turn.until_s = now_s + wait_s + GRACE_S + GRACE * wait_s
        waiting = f"; {before} before you in line" if before else ""
        return Overloaded(f"{reason}{waiting}; try again in {wait_s:.1f} s", retry_after_s=wait_s)

    def _gives_way(self, tenant: str) -> bool:
        """Take the latest turn of the tenant with the most, where even then it has no fewer than this one would."""
        turns = Counter(other for other, _ in self._turns)
        greediest, most = turns.most_common(1)[0]
        if most < turns[tenant] + 2:
            return False
        del self._turns[next(key for key in reversed(self._turns) if key[0] == greediest)]
        return True
