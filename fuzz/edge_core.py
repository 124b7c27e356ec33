"""An edge's session cores under hostile bytes: decode, conversion, core, and a stub engine that keeps its cache as ids.

Whatever a device sends, one of three things may come of it: answers that survive the wire, a ``SpecError`` that an edge
has a refusal for, or bytes that are no message. Everything else, and every broken promise, is a bug: the promises are
those of the fault machine (``tests/link/faults_history``) that need no honest device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airdraft.core.errors import MalformedFrame, SpecError, refusal
from airdraft.core.meaning import RULES, MeaningJudge
from airdraft.core.receipts import ReceiptKey
from airdraft.core.rows import TargetRow
from airdraft.core.session import EdgeSession, RunAhead
from airdraft.core.session.passes import PASS_NODES, PREFILL_POSITIONS, walked
from airdraft.core.types import (
    EXACT,
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Evidence,
    Granted,
    Limits,
    Open,
    Origin,
    Pass,
    PassResult,
    RefusalCode,
    Refused,
    Timing,
)
from airdraft.link.virtual_time import RowEngine
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.checks import MAX_MESSAGE_BYTES
from airdraft.wire.convert import device_frame_from_proto, edge_frame_from_proto, edge_frame_to_proto
from tests.core.worlds import IDENTITY, VOCABULARY, pseudo_target
from tests.link.faults_meaning import STATE_WIDTH, Meaning

LIMITS = Limits(context_tokens=4096, live_nodes=64, frame_nodes=128, ahead_tokens=16)

RECEIPTS = ReceiptKey(b"k" * 32)

PASSES_A_FRAME = 4

Target = Callable[[Sequence[int]], int]


class BrokenPromise(AssertionError):
    """A core did what it must never do, whatever it is told."""


def must(holds: bool, message: str) -> None:
    """Raise BrokenPromise unless it holds."""
    if not holds:
        raise BrokenPromise(message)


@dataclass(frozen=True, slots=True)
class Kind:
    """What sort of edge serves."""

    run_ahead: bool = False
    own_draft_tokens: int = 0
    meaning: str = ""  # protocol of the head that judges, where a device asks; empty: all sessions are exact
    own_text_only: bool = False


KINDS: tuple[Kind, ...] = (
    Kind(),
    Kind(run_ahead=True, own_draft_tokens=3),
    Kind(run_ahead=True, meaning="mismatch-first"),
    Kind(meaning="full-hidden", own_text_only=True),
)


class EdgeCore:
    """One session of an edge, stream after stream; ``now_s`` is its clock and anybody may move it."""

    def __init__(self, kind: Kind, *, target: Target = pseudo_target, limits: Limits = LIMITS) -> None:
        self.kind, self.limits, self.now_s = kind, limits, 0.0
        self.session: EdgeSession | None = None
        self._target = target
        self._engine = RowEngine(target)
        self._meaning = Meaning(kind.meaning, 0.5) if kind.meaning else None
        self._judged = False

    # ---- frames ----

    def take(self, data: bytes) -> list[EdgeFrame]:
        """Let bytes arrive as the next frame; return the answers. Raises DecodeError; BrokenPromise where it is one."""
        return self.received(pb.DeviceFrame.FromString(data))

    def received(self, message: pb.DeviceFrame) -> list[EdgeFrame]:
        """Let a message arrive; a refused one answers with the refusal, and ends the stream."""
        try:
            frame = device_frame_from_proto(message, VOCABULARY, self.limits)
            answers = self._frame(frame)
        except SpecError as error:
            answers = [self._refused(message, error)]
        return [self._sent(answer) for answer in answers]

    def _frame(self, frame: DeviceFrame) -> list[EdgeFrame]:
        if isinstance(frame, Open):
            return self._attach(frame)
        session = self.session
        if session is None or not session.attached:
            raise MalformedFrame("a stream begins with Open", field="open")
        length = session.committed_length
        try:
            answers = session.received(frame)
        except SpecError:
            session.detached(frame.epoch)
            raise
        self._check(length)
        if isinstance(frame, Draft):
            must(session.live_nodes <= self.limits.live_nodes, f"{session.live_nodes} live nodes")
        return answers

    def _attach(self, opened: Open) -> list[EdgeFrame]:
        session = self.session
        if session is not None and session.attached and opened.epoch == session.epoch:
            raise MalformedFrame("Open may only come first on a stream", field="open")
        if session is None or session.finished:
            session = self.session = self._begun(opened)
            self._engine.rows.clear()
        try:
            return session.attach(opened)
        except SpecError:
            if not session.epoch:
                self.session = None  # it never came about
            elif session.epoch == opened.epoch:
                session.detached(opened.epoch)
            raise

    def _begun(self, opened: Open) -> EdgeSession:
        kind = self.kind
        granted, judge = self._granted(opened)
        self._judged = judge is not None
        return EdgeSession(
            opened,
            self.limits,
            RECEIPTS,
            own_text_only=kind.own_text_only,
            own_draft_tokens=kind.own_draft_tokens,
            run_ahead=RunAhead(self._clock) if kind.run_ahead else None,
            granted=granted,
            judge=judge,
            clock=self._clock,
        )

    def _granted(self, opened: Open) -> tuple[Granted, MeaningJudge | None]:
        asked = opened.semantic
        if asked is None or self._meaning is None or asked.rule not in ("head", "typical"):
            return EXACT, None
        if asked.rule == "head" and asked.state_width == STATE_WIDTH:
            return self._meaning.grant(opened)
        granted = Granted(min(asked.max_loss, 0.05), "typical")
        return granted, MeaningJudge(granted, RULES["typical"], vocabulary=VOCABULARY)

    def _clock(self) -> float:
        return self.now_s

    # ---- what befalls the session ----

    def run(self, passes: int = PASSES_A_FRAME) -> list[EdgeFrame]:
        """Let up to so many passes run, one after the other; return what they answer."""
        answers: list[EdgeFrame] = []
        for _ in range(passes):
            work = self.begin_pass()
            if work is None:
                break
            answers += self.end_pass(work)
        return answers

    def begin_pass(self) -> Pass | None:
        """Put the next pass in flight; None where there is none."""
        session = self.session
        if session is None:
            return None
        wish = session.own_draft()
        if wish is not None:
            session.own_drafted(wish, [self._target(wish.path)][: wish.count])
        work = session.next_pass()
        if work is not None:
            span = work.span
            must(0 < len(span.tokens) <= PREFILL_POSITIONS + PASS_NODES, f"a span of {len(span.tokens)} positions")
            must(min(span.tokens) >= 0 and max(span.tokens) < VOCABULARY, "a span with an id outside the vocabulary")
            rows = span.start + len(span.tokens)
            must(rows <= session.final_length + PASS_NODES, f"{rows} rows where {session.final_length} are the text")
        return work

    def end_pass(self, work: Pass) -> list[EdgeFrame]:
        """Finish the pass in flight."""
        session = self.session
        assert session is not None
        length = session.committed_length
        self.now_s += 0.005
        answers = session.finished_pass(work, self._result(work))
        self._check(length)
        return [self._sent(answer) for answer in answers]

    def lose_pass(self, work: Pass) -> None:
        """Let the engine fail."""
        assert self.session is not None
        self.session.lost_pass(work)

    def due(self) -> list[EdgeFrame]:
        """Let the next deadline pass, if there is one."""
        session = self.session
        if session is None or session.wakes_s is None:
            return []
        must(session.wakes_s > self.now_s - 3600, f"due since {session.wakes_s}")
        self.now_s = max(self.now_s, session.wakes_s)
        length = session.committed_length
        answers = session.due()
        self._check(length)
        return [self._sent(answer) for answer in answers]

    def evict(self, *, ids_too: bool = False) -> list[EdgeFrame]:
        """Take the cache away."""
        if self.session is None or self.session.in_flight:
            return []
        self._engine.rows.clear()
        return [self._sent(answer) for answer in self.session.evicted(ids_too=ids_too)]

    def leave(self) -> None:
        """Let the stream break."""
        if self.session is not None:
            self.session.detached(self.session.epoch)

    # ---- the engine ----

    def _result(self, work: Pass) -> PassResult:
        paths = self._engine.paths(work.span)
        choices = tuple(self._target(path) for path in paths)
        assert self.session is not None
        row = None
        if work.row:
            path = walked(work, choices, self.session._text.ending).path
            if len(path) < work.nodes:
                row = TargetRow(bytes(2 * VOCABULARY), half=True)
        return PassResult(choices, Timing(0.0, 0.005), row, self._evidence(work, paths, choices))

    def _evidence(self, work: Pass, paths: Sequence[list[int]], choices: Sequence[int]) -> tuple[Evidence, ...]:
        if self._meaning is None or not work.judged:
            return ()
        span, first = work.span, len(work.span.tokens) - work.nodes
        at = {index: place for place, index in enumerate(span.wanted)}
        told: list[Evidence] = []
        for node in range(work.nodes):
            parent = first + node - 1 if span.parents is None else span.parents[first + node]
            if span.tokens[first + node] != choices[at[parent]]:
                told.append(self._meaning.evidence(node, paths[at[first + node]]))
        return tuple(told)

    # ---- promises ----

    def _check(self, length: int) -> None:
        """Check what the text has become past ``length``: the target's own, or as good where that was granted."""
        session = self.session
        assert session is not None
        if not session._text.complete or session.committed_length <= length:
            return
        ids = session.ids
        must(session.committed_length <= session.final_length, "text past its end")
        origins = session._text.origins_from(length)
        for place, origin in zip(range(length, session.committed_length), origins, strict=True):
            own = ids[place] == self._target(list(ids[:place]))
            must(own or (origin is Origin.MEANING and self._judged), f"{ids[place]} at {place} is not the target's")

    def _refused(self, message: pb.DeviceFrame, error: SpecError) -> Refused:
        kind = message.WhichOneof("frame")
        must(error.code is not None, f"{type(error).__name__} has no refusal")
        must(bool(error.message) and error.message.isprintable() and len(error.message) < 400, "a refusal's text")
        epoch = message.open.epoch if kind == "open" else 0 if self.session is None else self.session.epoch
        return refusal(error, epoch)

    def _sent(self, answer: EdgeFrame) -> EdgeFrame:
        """Send an answer over the wire."""
        session = self.session
        data = edge_frame_to_proto(answer).SerializeToString()
        must(len(data) <= MAX_MESSAGE_BYTES, f"an answer of {len(data)} bytes")
        if isinstance(answer, Refused) and not answer.epoch:
            return answer
        arrived = edge_frame_from_proto(pb.EdgeFrame.FromString(data), VOCABULARY)
        if session is not None and isinstance(answer, Commit):
            must(arrived.epoch == session.epoch, f"text for epoch {arrived.epoch}")
        if isinstance(answer, Refused):
            must(answer.code in RefusalCode, "a refusal without a code")
        return arrived


__all__ = ["IDENTITY", "KINDS", "LIMITS", "VOCABULARY", "BrokenPromise", "EdgeCore", "Kind", "must"]
