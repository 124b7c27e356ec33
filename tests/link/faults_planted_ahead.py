"""Bugs planted on purpose in what lets either end go ahead of the other: limits, waits, splices, own drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from airdraft.core.paths import DraftTree, Node, frame_nodes
from airdraft.core.session import DeviceSession, EdgeSession, RunAhead
from airdraft.core.session.edge_state import EdgeState
from airdraft.core.session.own_draft import OwnDraft
from airdraft.core.types import Draft, Pass, PassResult, Work
from tests.link.faults_bugs import Patches, bug

# ---- limits and waits ----


@bug("ahead", run_ahead=True, ahead_tokens=2, acceptance=0.3)
def the_edge_runs_on_whatever_is_acked() -> Patches:
    right = EdgeState.may_run

    def may_run(self: EdgeState) -> bool:
        acked, self.drafts.acked = self.drafts.acked, self.line_length
        try:
            return bool(right(self))
        finally:
            self.drafts.acked = acked

    yield patch.object(EdgeState, "may_run", may_run)


@bug("waits", run_ahead=True, draft_length=1, outstanding=64)
def who_sits_a_step_out_is_never_asked_again() -> Patches:
    yield patch.object(EdgeSession, "wakes_s", property(lambda self: self._state.deadline_s))


@bug("waits", run_ahead=True, draft_length=1, outstanding=64)
def a_wait_is_not_paid_for() -> Patches:
    yield patch.object(RunAhead, "purse_s", property(lambda self: 1e9))
    yield patch.object(RunAhead, "_worth_until", lambda self, now_s, length, acked: now_s + 30.0)


@bug("finishes", run_ahead=True, ahead_tokens=5, draft_length=1, outstanding=64, mute_every=2)
def the_device_acks_a_token_after_the_edge_has_stopped() -> Patches:
    right = DeviceSession._settle

    def settle(self: DeviceSession) -> Any:
        limits, self.limits = self.limits, replace(self.limits, ahead_tokens=2 * self.limits.ahead_tokens + 1)
        try:
            return right(self)
        finally:
            self.limits = limits

    yield patch.object(DeviceSession, "_settle", settle)


@bug("credits", draft_length=1, outstanding=64, live_nodes=3, live_nodes_elsewhere=3)
def a_device_drafts_on_past_its_credits() -> Patches:
    right = DeviceSession._room

    def room(self: DeviceSession) -> int:
        limits, self.limits = self.limits, replace(self.limits, live_nodes=1 << 20)
        try:
            return right(self)
        finally:
            self.limits = limits

    yield patch.object(DeviceSession, "_room", room)


@bug("acceptance", run_ahead=True, acceptance=1.0, near_ties=0.0, mute_every=0, draft_length=8, delay_s=0.005)
def a_draft_that_was_cut_short_is_spliced_a_token_late() -> Patches:
    right = DeviceSession._spliced
    yield patch.object(DeviceSession, "_spliced", lambda self, *arguments: right(self, *arguments)[1:])


@bug("refusals", "credits", "finishes", "crash", run_ahead=True, acceptance=0.3, draft_length=8, outstanding=4)
def what_the_edges_own_token_contradicts_stays_live() -> Patches:
    right = EdgeSession.finished_pass

    def finished_pass(self: EdgeSession, done: Pass, result: PassResult) -> Any:
        nodes = dict(self._drafts.tree.nodes)
        frames = right(self, done, result)
        if not done.nodes:
            self._drafts.tree.nodes |= nodes
        return frames

    yield patch.object(EdgeSession, "finished_pass", finished_pass)


@bug("text", "crash", "order", "faults", "stop", run_ahead=True, pass_s=1.0,
     kinds=("cut", "zombie edge", "replay", "twin", "slice"))  # fmt: skip
def tokens_of_the_edge_are_committed_in_a_later_epoch() -> Patches:
    right = EdgeSession.finished_pass

    def finished_pass(self: EdgeSession, done: Pass, result: PassResult) -> Any:
        if self._text.complete and done.work is Work.RUN_AHEAD:
            done = replace(done, epoch=self.epoch, base=self._text.length, base_hash=self._text.path.end)
            self._state.in_flight = done
        return right(self, done, result)

    yield patch.object(EdgeSession, "finished_pass", finished_pass)


@bug("ahead", run_ahead=True, ahead_tokens=5, acceptance=0.9, own_draft_tokens=8, draft_length=0)
def the_edge_drafts_more_than_it_may_run_ahead() -> Patches:
    right = EdgeState.line_nodes

    def line_nodes(self: EdgeState) -> list[Node]:
        acked, self.drafts.acked = self.drafts.acked, self.line_length
        try:
            return right(self)
        finally:
            self.drafts.acked = acked

    yield patch.object(EdgeState, "own_room", property(lambda self: self.own.length))
    yield patch.object(EdgeState, "line_nodes", line_nodes)


@bug("acceptance", "crash", run_ahead=True, acceptance=1.0, near_ties=0.0, own_draft_tokens=4, draft_length=2,
     outstanding=4, kinds=("refuse frame", "wait"))  # fmt: skip
def a_draft_of_the_edge_goes_on_from_a_line_that_was_refused() -> Patches:
    right = OwnDraft.nodes

    def nodes(self: OwnDraft, text_end: bytes, tree: DraftTree) -> list[Node]:
        base, path_hash, tokens = self._written
        if self._written_at != text_end or path_hash in tree.nodes:
            return right(self, text_end, tree)
        return frame_nodes(Draft(0, 0, 0, base, path_hash, tokens))

    yield patch.object(OwnDraft, "nodes", nodes)


@bug("acceptance", acceptance=1.0, mute_every=2, near_ties=0.0, draft_length=3, own_draft_tokens=4, pass_s=0.3)
def a_draft_of_the_edge_outlives_its_text() -> Patches:
    right = EdgeSession.own_drafted

    def own_drafted(self: EdgeSession, work: Any, tokens: Sequence[int]) -> None:
        right(self, work, tokens)
        if self._text.complete:
            self._state.own._written_at = self._text.path.end
            self._state.own._written = self._text.length, self._text.path.end, tuple(tokens)

    yield patch.object(EdgeSession, "own_drafted", own_drafted)
