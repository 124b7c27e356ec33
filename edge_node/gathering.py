"""When a step begins that could begin at once: it may wait for drafts, so that they share its fixed cost (ADR 0012)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from airdraft.core.types import Work
from coordinator.policy.costs import PassCost
from edge_node.scheduling import Waiting, gathered_by, held_until, worth_positions
from edge_node.sessions import Entry, SessionTable

SHORTER, LONGER = 0.5, 0.01
"""How much a turn counts that is shorter or longer than usual: a plain edge has fewer frames to read in its turns."""

MOST_TURN = 0.2
"""Of a pass: what is between two of them for longer is no turn, but work of another kind."""


class Gathering:
    """Holds steps of one engine back, and asks again when the wait is over.

    A step of devices that are all waited for waits for drafts that are due. Sessions that go ahead of theirs always
    have a use for a step: where such are in it, their leads over a plain edge decide (``RunAhead.begins_by``).
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
        in_company = self._sessions.company.sessions > 1 and any(not one.who.session.waits for one in waiting)
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
        by_s = [self._waits_until(one.who, since_s, cost) for one in waiting]
        return held_until(now_s, since_s, by_s, cost.fixed_s)

    def _waits_until(self, entry: Entry, since_s: float, cost: PassCost) -> float | None:
        """Return until when a session lets a step be held back that it joins; None: not at all.

        A device that is waited for has nothing from a lead: its draft waits no longer than it would among its like.
        """
        if entry.session.waits:
            return since_s + cost.fixed_s / 2
        rule = entry.run_ahead
        return rule.begins_by(self._step_s + self._turn_s) if rule is not None else None

    def worth(self, waiting: Sequence[Waiting[Entry]], cost: PassCost | None) -> list[Waiting[Entry]]:
        """Return the same sessions, each with as much of its draft as is worth its place in a step that many share."""
        if self._sessions.company.sessions == 1 or cost is None:
            return list(waiting)
        drafts = [_chances(one) for one in waiting]
        return [
            replace(one, wish=replace(one.wish, positions=1 + max(nodes, _probe(one)))) if drafted else one
            for one, drafted, nodes in zip(waiting, drafts, worth_positions(drafts, cost), strict=True)
        ]


def _chances(one: Waiting[Entry]) -> list[float]:
    """Return the chances of a session's draft, node by node: the device's, and behind it what the edge wrote."""
    rule, nodes = one.who.run_ahead, one.wish.positions - 1
    if rule is None or one.wish.work not in (Work.VERIFY, Work.RUN_AHEAD):
        return []
    theirs = min(nodes, one.who.session.live_nodes)
    return [
        rule.acceptance ** min(depth, theirs) * one.who.own_length.acceptance ** max(0, depth - theirs)
        for depth in range(1, nodes + 1)
    ]


def _probe(one: Waiting[Entry]) -> int:
    """Return how many nodes a session verifies whatever they are worth: the text may have become easier."""
    rule, entry = one.who.run_ahead, one.who
    own = entry.own_length.worth == 0 and not entry.session.live_nodes  # what the edge wrote though it does not pay
    return int(own or (rule is not None and rule.probes))
