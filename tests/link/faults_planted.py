"""Bugs planted on purpose, one at a time: in the cores, in the device's loop, in the engine. Schedules must catch each.

Each names the checks that may catch it; a setting that it needs to show is part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from airdraft.core import receipts
from airdraft.core.errors import SpecError
from airdraft.core.paths import HashedPath, next_hash
from airdraft.core.session import Committed, DeviceSession, EdgeSession, Liveness, Reattachment, edge_passes
from airdraft.core.session.ahead import Ahead
from airdraft.core.session.edge_commits import Commits
from airdraft.core.types import Draft, EdgeFrame, Finish, Pass, PassResult, Refused
from airdraft.link.virtual_device import DeviceProcess
from airdraft.link.virtual_journal import Journal
from airdraft.link.virtual_time import RowEngine
from tests.link import faults_planted_ahead, faults_planted_meaning  # noqa: F401 (their bugs are put into BUGS)
from tests.link.faults_bugs import BUGS, Bug, Patches, bug, getter

__all__ = ["BUGS", "Bug", "small_window"]

# ---- credits ----


@bug("refusals", "credits", "crash")
def the_device_counts_no_credits() -> Patches:
    yield patch.object(Ahead, "live_nodes", property(lambda self: 0))


@bug("finishes", "credits")
def credits_are_never_given_back() -> Patches:
    right, spent = Ahead.frame, WeakKeyDictionary[Ahead, int]()

    def frame(self: Ahead, epoch: int, seq: int, most: int) -> Draft | None:
        draft = right(self, epoch, seq, most)
        spent[self] = spent.get(self, 0) + len(draft.ids if draft else ())
        return draft

    yield patch.object(Ahead, "frame", frame)
    yield patch.object(Ahead, "live_nodes", property(lambda self: spent.get(self, 0)))


@bug("refusals", "credits")
def a_frame_is_not_shortened_to_the_credits() -> Patches:
    right = Ahead.frame

    def frame(self: Ahead, epoch: int, seq: int, most: int) -> Draft | None:
        return right(self, epoch, seq, 512)

    yield patch.object(Ahead, "frame", frame)


@bug("refusals", "credits", "finishes")
def drafts_of_the_stream_before_stay_live() -> Patches:
    right = EdgeSession.attach

    def attach(self: EdgeSession, *arguments: Any) -> Any:
        nodes, waiting = dict(self._drafts.tree.nodes), list(self._drafts.waiting)
        frames = right(self, *arguments)
        self._drafts.tree.nodes |= nodes
        self._drafts.waiting += waiting
        return frames

    yield patch.object(EdgeSession, "attach", attach)


# ---- who waits for whom ----


@bug("finishes")
def drafts_before_the_prefix_are_dropped() -> Patches:
    right = EdgeSession._prefix_is

    def prefix_is(self: EdgeSession, *arguments: Any) -> Any:
        self._drafts.waiting.clear()
        return right(self, *arguments)

    yield patch.object(EdgeSession, "_prefix_is", prefix_is)


@bug("finishes")
def the_device_acks_only_with_drafts() -> Patches:
    right = DeviceSession._settle

    def settle(self: DeviceSession) -> Any:
        limits, self.limits = self.limits, replace(self.limits, ahead_tokens=1 << 30)
        try:
            return right(self)
        finally:
            self.limits = limits

    yield patch.object(DeviceSession, "_settle", settle)


@bug("finishes")
def nothing_is_decoded_for_an_idle_device() -> Patches:
    right = EdgeSession._draft

    def draft(self: EdgeSession, frame: Draft) -> Any:
        frames = right(self, frame)
        self._drafts.idle = False
        return frames

    yield patch.object(EdgeSession, "_draft", draft)


@bug("finishes", kinds=("evict rows", "evict ids"), outstanding=4)
def live_nodes_are_dropped_on_eviction() -> Patches:
    right = EdgeSession.evicted

    def evicted(self: EdgeSession, **arguments: Any) -> Any:
        self._drafts.tree.clear()
        return right(self, **arguments)

    yield patch.object(EdgeSession, "evicted", evicted)


@bug("finishes", kinds=("refuse frame",))
def a_refused_frame_is_waited_for() -> Patches:
    yield patch.object(Ahead, "refused", lambda self, seq: None)


@bug("finishes", kinds=("refuse frame",))
def the_edge_does_not_say_which_frame_it_refused() -> Patches:
    right = DeviceSession.received

    def received(self: DeviceSession, frame: EdgeFrame) -> Any:
        return right(self, replace(frame, seq=0) if isinstance(frame, Refused) else frame)

    yield patch.object(DeviceSession, "received", received)


@bug("finishes", "credits")
def contradicted_drafts_are_kept() -> Patches:
    right = Ahead.advance

    def advance(self: Ahead, ids: Sequence[int]) -> None:
        kept = self.ids[: len(ids)]
        right(self, kept if len(kept) == len(ids) else ids)

    yield patch.object(Ahead, "advance", advance)


@bug("finishes")
def silence_is_never_judged() -> Patches:
    right = Liveness.look

    def look(self: Liveness, now: float) -> str:
        verdict = right(self, now)
        if verdict == "gone":
            self.heard(now)
        return "well" if verdict == "gone" else verdict

    yield patch.object(Liveness, "look", look)


@bug("finishes", dies=True)
def the_device_knows_only_its_first_edge() -> Patches:
    right = Reattachment._ordered
    yield patch.object(Reattachment, "_ordered", lambda self: right(self)[:1])


# ---- attaching ----


@bug("faults", "stop", "finishes")
def the_stop_is_not_told_again() -> Patches:
    right = Commits.missed
    yield patch.object(Commits, "missed", lambda self, base: replace(right(self, base), stop=None))


@bug("faults", "finishes")
def what_the_device_missed_is_not_sent() -> Patches:
    right = EdgeSession._go_on
    yield patch.object(EdgeSession, "_go_on", lambda self, opened: right(self, opened)[:1])


@bug("epochs", "crash")
def an_epoch_is_used_again_after_a_restart() -> Patches:
    right = getter(Journal, "epoch")
    yield patch.object(Journal, "epoch", property(lambda self: max(0, right(self) - 1)))


@bug("journal first")
def the_epoch_is_journalled_after_the_open() -> Patches:
    right = DeviceProcess._write
    late: list[tuple[DeviceProcess, int]] = []

    def write(self: DeviceProcess, record: Any) -> None:
        if isinstance(record, Committed):
            right(self, record)
        else:
            late.append((self, record))

    attach = DeviceProcess._attach

    def attached(self: DeviceProcess, *arguments: Any) -> None:
        attach(self, *arguments)
        while late:
            right(*late.pop())

    yield patch.object(DeviceProcess, "_write", write)
    yield patch.object(DeviceProcess, "_attach", attached)


@bug("epochs")
def the_epoch_that_an_edge_names_is_ignored() -> Patches:
    right = DeviceSession._refused

    def refused(self: DeviceSession, frame: Refused) -> Any:
        known = self._highest_epoch
        outputs = right(self, frame)
        self._highest_epoch = known
        return outputs

    yield patch.object(DeviceSession, "_refused", refused)


@bug("fence")
def a_superseded_device_attaches_again() -> Patches:
    right = Reattachment.failed

    def failed(self: Reattachment, name: str, error: Any, now: float) -> None:
        try:
            right(self, name, error, now)
        except SpecError:
            return

    yield patch.object(Reattachment, "failed", failed)


@bug("finishes", "refusals", "crash")
def the_prefix_starts_one_too_late() -> Patches:
    right = DeviceSession._prefix_frames
    yield patch.object(DeviceSession, "_prefix_frames", lambda self, start: right(self, start + 1))


@bug("order", "text", "faults", "stop")
def the_last_commit_is_lost_on_restart() -> Patches:
    right = getter(Journal, "ids")
    yield patch.object(Journal, "ids", property(lambda self: right(self)[:-1]))


# ---- fences ----


@bug("text", "crash", "order", "faults", "stop", pass_s=1.0, kinds=("cut", "zombie edge", "replay", "twin", "slice"))
def passes_are_not_fenced() -> Patches:
    right = EdgeSession.finished_pass

    def finished_pass(self: EdgeSession, done: Pass, result: PassResult) -> Any:
        if self._text.complete:
            done = replace(done, epoch=self.epoch, base=self._text.length, base_hash=self._text.path.end)
            self._state.in_flight = done
        return right(self, done, result)

    yield patch.object(EdgeSession, "finished_pass", finished_pass)


@bug("faults", "order", "crash")
def the_device_takes_frames_of_streams_before() -> Patches:
    right = DeviceSession.received

    def received(self: DeviceSession, frame: EdgeFrame) -> Any:
        return right(self, replace(frame, epoch=self.epoch))

    yield patch.object(DeviceSession, "received", received)


@bug("refusals", "acks", "crash", "finishes", kinds=("cut", "outage", "zombie edge", "slice"))
def the_edge_takes_frames_of_streams_before() -> Patches:
    right = EdgeSession.received

    def received(self: EdgeSession, frame: Any) -> Any:
        return right(self, frame if isinstance(frame, Finish) else replace(frame, epoch=self.epoch))

    yield patch.object(EdgeSession, "received", received)


@bug("crash", ahead_tokens=64, live_nodes=256, max_tokens=60, mute_every=2, kinds=("slice", "evict rows", "wait"))
def the_window_of_hashes_is_not_respected() -> Patches:
    yield from small_window()
    yield patch.object(HashedPath, "at", lambda self, length: self._hashes[length - self._first])


def small_window() -> Patches:
    """Not a bug: the window of hashes, 512 positions, is the widest frame of these worlds."""
    yield patch.object(HashedPath.__init__, "__defaults__", (16,))


# ---- the journal, and who may be believed ----


@bug("journal first")
def acks_leave_before_the_journal_is_written() -> Patches:
    right = DeviceProcess._do

    def do(self: DeviceProcess, outputs: Sequence[Any]) -> None:
        right(self, sorted(outputs, key=lambda output: isinstance(output, Committed)))

    yield patch.object(DeviceProcess, "_do", do)


@bug("journal first")
def text_is_shown_before_it_is_journalled() -> Patches:
    right = DeviceProcess._committed
    write = DeviceProcess._write

    def committed(self: DeviceProcess, event: Committed) -> None:
        with patch.object(DeviceProcess, "_write", lambda self, record: None):
            right(self, event)
        write(self, event)

    yield patch.object(DeviceProcess, "_committed", committed)


@bug("text")
def a_commit_with_a_wrong_hash_is_taken() -> Patches:
    right = DeviceSession._commit

    def commit(self: DeviceSession, frame: Any) -> Any:
        end = self._hashes.end
        for token in frame.ids:
            end = next_hash(end, token)
        return right(self, replace(frame, path_hash=end))

    yield patch.object(DeviceSession, "_commit", commit)


@bug("receipts", keys=1)
def a_receipt_of_another_session_is_accepted() -> Patches:
    right = receipts.ReceiptKey._mac

    def mac(self: receipts.ReceiptKey, opened: Any, *arguments: Any) -> bytes:
        return right(self, replace(opened, session_id=bytes(16)), *arguments)

    yield patch.object(receipts.ReceiptKey, "_mac", mac)


@bug("receipts", keys=1)
def a_receipt_holds_only_in_its_own_epoch() -> Patches:
    right = receipts.ReceiptKey.accepts

    def accepts(self: receipts.ReceiptKey, opened: Any) -> bool:
        return right(self, opened) and opened.epoch < 3

    yield patch.object(receipts.ReceiptKey, "accepts", accepts)


@bug("receipts", keys=2)
def any_text_is_taken_for_the_fleets_own() -> Patches:
    yield patch.object(Commits, "attested", property(lambda self: True, lambda self, value: None), create=True)


# ---- the engine and its cache ----


@bug("text", "crash", "stop")
def roll_back_is_off_by_one() -> Patches:
    right = Commits.decide

    def decide(self: Commits) -> Any:
        frames = right(self)
        self._state.rows.length += 1
        return frames

    yield patch.object(Commits, "decide", decide)


@bug("text", "crash", "stop", siblings=True)
def accepted_siblings_are_not_gathered() -> Patches:
    right = RowEngine.paths
    yield patch.object(RowEngine, "paths", lambda self, span: right(self, replace(span, gather=())))


@bug("crash", "text", "stop")
def rows_are_believed_in_after_an_eviction() -> Patches:
    right = EdgeSession.evicted

    def evicted(self: EdgeSession, **arguments: Any) -> Any:
        length = self._rows.length
        frames = right(self, **arguments)
        self._rows.length = length
        return frames

    yield patch.object(EdgeSession, "evicted", evicted)


@bug("text", "crash", "stop", near_ties=0.2)
def rows_of_a_text_that_was_cut_are_believed_in() -> Patches:
    right = EdgeSession.attach

    def attach(self: EdgeSession, opened: Any) -> Any:
        before = self._rows.length
        frames = right(self, opened)
        self._rows.length = min(before, max(0, opened.length - 1))
        return frames

    yield patch.object(EdgeSession, "attach", attach)


@bug("text", "stop")
def the_seed_does_not_reach_the_pass() -> Patches:
    right = EdgeSession.next_pass

    def next_pass(self: EdgeSession) -> Any:
        work = right(self)
        if work is not None:
            self._state.in_flight = work = replace(work, sampling=replace(work.sampling, seed=0))
        return work

    yield patch.object(EdgeSession, "next_pass", next_pass)


@bug("text", "stop")
def penalties_do_not_see_the_text() -> Patches:
    yield patch.object(edge_passes, "penalised", lambda sampling: False)


# ---- acceptance ----


@bug("acceptance")
def a_draft_that_agrees_is_begun_anew() -> Patches:
    right = Ahead.advance

    def advance(self: Ahead, ids: Sequence[int]) -> None:
        right(self, ids)
        self._drop(0)
        self._flying.clear()

    yield patch.object(Ahead, "advance", advance)


@bug("acceptance", "finishes", acceptance=1.0, mute_every=0)
def drafts_hang_one_position_late() -> Patches:
    right = DeviceSession.drafted

    def drafted(self: DeviceSession, work: Any, tokens: Sequence[int], **told: Any) -> Any:
        return right(self, work, [*tokens[1:], *tokens[:1]], **told)

    yield patch.object(DeviceSession, "drafted", drafted)
