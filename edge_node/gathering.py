"""When a step begins that could begin at once: it may wait for drafts, so that they share its fixed cost (ADR 0012)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from airdraft.core.types import Work
from coordinator.policy.costs import PassCost
from edge_node.scheduling import Waiting, gathered_by, held_until, worth_verifying
from edge_node.sessions import Entry, SessionTable

SHORTER, LONGER = 0.5, 0.01
"""How much a turn counts that is shorter or longer than usual: a plain edge has fewer frames to read in its turns."""

MOST_TURN = 0.2
"""Of a pass: what is between two of them for longer is no turn, but work of another kind."""


class Gathering:
    """Holds steps of one engine back, and asks again when the wait is over.

    An edge that waits for its devices waits for drafts that are due. One that goes ahead of them always has a use for
    a step, so that there the sessions' leads over a plain edge decide (``RunAhead.begins_by``).
    """

    def __init__(
        self, sessions: SessionTable, clock: Callable[[], float], go: Callable[[], None], *, gathers: bool
    ) -> None:
        """Begin without a wait; ``go`` is called at the end of one, and ``gathers`` False never waits."""
        self._sessions, self._clock, self._go, self._gathers = sessions, clock, go, gathers
        self._wait: tuple[float, asyncio.TimerHandle] | None = None  # since when, and what ends it
        self._held: frozenset[Entry] = frozenset()  # who joins the step that is held back
        self._step_s = 0.0  # the last one
        self._turn_s = 0.0  # about the least from the end of a pass to the next one's beginning, if it begins at once
        self._ended_s: float | None = None  # when the last step ended, if the next one began at once

    def counted(self, cost: PassCost | None) -> None:
        """Keep the company of the sessions true, before they say what they wish for."""
        company = self._sessions.company
        company.sessions = max(1, self._sessions.attached) if self._gathers else 1
        company.plain_s = cost.seconds(company.sessions) + self._turn_s if cost is not None else 0.0

    def stepped(self, step_s: float) -> None:
        """Note the end of a step, and what its pass took."""
        now_s = self._clock()
        if self._ended_s is not None:
            turn_s = max(0.0, now_s - self._ended_s - step_s)
            if turn_s <= MOST_TURN * step_s:
                weight = SHORTER if turn_s < self._turn_s else LONGER if self._turn_s else 1.0
                self._turn_s += weight * (turn_s - self._turn_s)
        self._step_s, self._ended_s = step_s, now_s

    def joins(self, entry: Entry) -> bool:
        """Return whether a step is held back that this session joins: one more draft of it changes nothing."""
        return entry in self._held

    def end(self) -> None:
        """Wait no longer, whatever for."""
        if self._wait is not None:
            self._wait[1].cancel()
        self._wait, self._held = None, frozenset()

    def waits(self, waiting: Sequence[Waiting[Entry]], cost: PassCost | None) -> bool:
        """Say whether the step waits; an event or a timer asks again."""
        now_s = self._clock()
        since_s = now_s if self._wait is None else self._wait[0]
        self.end()
        if not waiting:
            self._ended_s = None
        if not self._gathers or not waiting or cost is None:
            return False
        in_company = self._sessions.terms.run_ahead and self._sessions.company.sessions > 1
        wait = self._held_until if in_company else self._gathered_by
        until_s = wait(now_s, since_s, waiting, cost)
        if until_s <= now_s:
            return False
        self._ended_s = None
        self._wait = since_s, asyncio.get_running_loop().call_later(until_s - now_s, self._go)
        self._held = frozenset(one.who for one in waiting) if in_company else frozenset()
        return True

    def _gathered_by(self, now_s: float, since_s: float, waiting: Sequence[Waiting[Entry]], cost: PassCost) -> float:
        ready = {one.who for one in waiting if one.wish.work is not Work.RUN_AHEAD}  # those have waited as they chose
        if not ready:
            return now_s
        due = [due for entry in self._sessions if entry not in ready and (due := entry.answers.due) is not None]
        return gathered_by(now_s, since_s, len(ready), due, cost.fixed_s)

    def _held_until(self, now_s: float, since_s: float, waiting: Sequence[Waiting[Entry]], cost: PassCost) -> float:
        if any(one.wish.work is Work.PREFILL or one.who.suspect for one in waiting):
            return now_s
        rules = [one.who.run_ahead for one in waiting]
        by_s = [rule.begins_by(self._step_s + self._turn_s) if rule is not None else None for rule in rules]
        return held_until(now_s, since_s, by_s, cost.fixed_s)

    def worth(self, waiting: Sequence[Waiting[Entry]], cost: PassCost | None) -> list[Waiting[Entry]]:
        """Return the same sessions, each with as much of its draft as is worth its place in a step that many share."""
        if self._sessions.company.sessions == 1 or self._sessions.terms.own_draft_tokens or cost is None:
            return list(waiting)
        drafts = [
            (one.wish.positions - 1, one.who.run_ahead.acceptance)
            if one.wish.work is Work.VERIFY and one.who.run_ahead is not None
            else (0, 0.0)
            for one in waiting
        ]
        return [
            replace(one, wish=replace(one.wish, positions=1 + max(nodes, _probe(one)))) if drafted else one
            for one, (drafted, _), nodes in zip(waiting, drafts, worth_verifying(drafts, cost), strict=True)
        ]


def _probe(one: Waiting[Entry]) -> int:
    """Return how many nodes a session verifies whatever they are worth."""
    rule = one.who.run_ahead
    return int(rule is not None and rule.probes)
