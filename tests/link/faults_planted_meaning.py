"""Bugs planted on purpose in what semantic sessions add: verdicts, states, and tokens that are held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from airdraft.core.acceptance import Walk
from airdraft.core.meaning import MeaningJudge
from airdraft.core.session import DeviceSession, EdgeSession, edge_commits
from airdraft.core.session.cache_rows import CacheRows
from airdraft.core.session.edge_state import EdgeState
from airdraft.core.session.judging import Judging
from airdraft.core.session.passes import Verified
from airdraft.core.session.provisional import Provisional
from airdraft.core.types import EdgeFrame, Evidence, NeedHidden, Origin
from tests.link.faults_bugs import Patches, bug, getter

JUDGED: dict[str, Any] = {"meaning": "target-only", "acceptance": 0.5, "near_ties": 0.0, "mute_every": 0}
HELD: dict[str, Any] = JUDGED | {"draft_length": 1, "outstanding": 64, "run_ahead": True, "provisional_s": 0.3}
ASKED: dict[str, Any] = JUDGED | {"meaning": "mismatch-first", "draft_length": 4}

# ---- verdicts ----


@bug("text", "meaning", **JUDGED)
def a_verdict_is_taken_for_another_path() -> Patches:
    right = Judging.walk

    def walk(self: Judging, verified: Verified, evidence: Sequence[Evidence], **arguments: Any) -> Walk:
        moved = (*evidence[-1:], *evidence[:-1])
        return right(self, verified, [replace(its, node=one.node) for one, its in zip(evidence, moved, strict=True)],
                     **arguments)  # fmt: skip

    yield patch.object(Judging, "walk", walk)


@bug("text", **(JUDGED | {"meaning": "full-hidden", "draft_length": 6}))
def the_state_of_another_token_is_read() -> Patches:
    right = Judging._risk

    def risk(self: Judging, verified: Verified, known: Any, node: int) -> float:
        states = self._states
        self._states = dict(zip(states, [*list(states.values())[1:], *list(states.values())[:1]], strict=True))
        try:
            return right(self, verified, known, node)
        finally:
            self._states = states

    yield patch.object(Judging, "_risk", risk)


@bug("text", **(JUDGED | {"strictness": 0.0}))
def what_audits_found_changes_nothing() -> Patches:
    yield patch.object(MeaningJudge, "threshold", property(lambda self: self.most))


@bug("meaning", **JUDGED)
def what_stands_by_meaning_is_told_as_accepted() -> Patches:
    right = Judging.walk

    def walk(self: Judging, *arguments: Any, **settings: Any) -> Walk:
        found = right(self, *arguments, **settings)
        told = tuple(Origin.ACCEPTED if origin is Origin.MEANING else origin for origin in found.origins)
        return replace(found, origins=told)

    yield patch.object(Judging, "walk", walk)


@bug("text", "faults", "stop", "order", **(JUDGED | {"stops": tuple(range(0, 50, 6)), "prompt": 8}))
def a_stop_token_stands_by_meaning() -> Patches:
    yield patch.object(Judging, "_allowed", lambda self, drafted, chosen: True)
    yield patch.object(MeaningJudge, "may_stand", lambda self, drafted, choice: True)


@bug("meaning", "faults", **JUDGED)
def what_was_spent_is_forgotten_with_each_token() -> Patches:
    def spend(self: MeaningJudge, risk: float) -> None:
        self.spent = risk / (2 + 1e6 * self.spent)

    yield patch.object(MeaningJudge, "spend", spend)


# ---- states that are asked for ----


@bug("waits", **ASKED)
def a_verdict_waits_for_states_for_ever() -> Patches:
    yield patch.object(edge_commits, "HIDDEN_WAIT_S", 1e9)


@bug("finishes", "waits", **ASKED)
def nobody_answers_and_no_deadline_is_kept() -> Patches:
    right = DeviceSession.received

    def received(self: DeviceSession, frame: EdgeFrame) -> Any:
        return [] if isinstance(frame, NeedHidden) else right(self, frame)

    yield patch.object(DeviceSession, "received", received)
    yield patch.object(EdgeState, "deadline_s", property(lambda self: None))
    yield patch.object(EdgeSession, "due", lambda self: [])


@bug("crash", "text", "stop", kinds=("evict rows", "evict rows", "wait"), **(ASKED | {"delay_s": 0.1}))
def rows_are_believed_in_that_were_evicted_before_the_verdict() -> Patches:
    right = EdgeSession.evicted

    def evicted(self: EdgeSession, **arguments: Any) -> Any:
        frames = right(self, **arguments)
        if self._state.held is not None:
            self._state.held.rows = True
        return frames

    yield patch.object(EdgeSession, "evicted", evicted)


# ---- tokens that are held back ----


@bug("text", "crash", "order", "faults", "stop", "waits", **HELD)
def what_was_held_back_is_committed_twice() -> Patches:
    yield patch.object(Provisional, "gave", lambda self, count: None)


@bug("text", "crash", "order", "faults", "stop", "waits", **HELD)
def what_a_draft_has_replaced_is_committed_after_it() -> Patches:
    right = edge_commits.Commits._follow

    def follow(self: edge_commits.Commits, *arguments: Any) -> Any:
        state = self._state
        kept = list(state.provisional.tokens) if state.branches else []
        frames = right(self, *arguments)
        ids, origins = [one.token for one in kept], [one.origin for one in kept]
        state.provisional.add(state.line_end, state.line_length, ids, origins, state.clock())
        return frames

    yield patch.object(edge_commits.Commits, "_follow", follow)


@bug("waits", "finishes", **HELD)
def what_is_held_back_has_no_deadline() -> Patches:
    right = getter(EdgeState, "deadline_s")
    yield patch.object(
        EdgeState, "deadline_s", property(lambda self: right(self) if self.held is not None else None)
    )  # fmt: skip


@bug("waits", **HELD)
def what_is_held_back_waits_longer_than_was_asked() -> Patches:
    right = getter(EdgeState, "hold_s")
    yield patch.object(EdgeState, "hold_s", property(lambda self: None if right(self) is None else 10 * right(self)))


@bug("ahead", **(HELD | {"ahead_tokens": 2}))
def what_is_held_back_does_not_count_as_ahead() -> Patches:
    right = EdgeState.may_run

    def may_run(self: EdgeState) -> bool:
        acked, self.drafts.acked = self.drafts.acked, self.line_length
        try:
            return right(self)
        finally:
            self.drafts.acked = acked

    yield patch.object(EdgeState, "may_run", may_run)


@bug("crash", "text", "stop", **HELD)
def rows_of_what_is_held_back_are_left_beside_a_branch() -> Patches:
    yield patch.object(CacheRows, "cut", lambda self, length: None)
