"""Synchronous rounds of hundreds of texts side by side, off the wire: session cores, the engine, one drafter.

Only gRPC and the device's loop are left out: every draft is a frame as it would go up, and its bytes are those of its
protobuf message. Sessions of all settings share steps, so that an exact one stands beside semantic ones; texts of one
problem part where their judges differ, and what the drafter wrote once after a path is not drafted again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from airdraft.core.meaning import HeadTail, Swap
from airdraft.core.paths import ids_digest, next_hash
from airdraft.core.session import EdgeSession
from airdraft.core.types import (
    Commit,
    Draft,
    EdgeFrame,
    Hidden,
    HiddenProtocol,
    Limits,
    NeedHidden,
    Open,
    Origin,
    Pass,
    PassResult,
    Prefix,
    Report,
    Sampling,
    Semantic,
    Span,
    StateKind,
    StateRows,
    StopReason,
)
from airdraft.wire.convert import device_frame_to_proto
from bench.radio_text import MAX_TOKENS
from bench.semantic_contestants import Setting
from bench.semantic_drafter import Ask, Line, Path
from bench.semantic_pair import Pair
from edge_node.step import Extent, Fill, Item, Judged, Outcome, Step
from models.wordproblems import check_answer

STEP_SESSIONS = 128
"""Sessions of a step, and lines of a batch of drafts, at most: past that both take longer in proportion."""

FIRST_PROBLEM = 100_000
"""Of the held-out problems: no label, no head and no risk table has seen one from here on."""

EPOCH = 1


def _no_clock() -> float:
    """Stand still: states that are asked for come before any deadline."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """One word problem."""

    number: int
    prompt: Path
    answer: int


@dataclass(slots=True)
class Written:
    """One text and what it took."""

    problem: int
    setting: Setting
    ids: Path = ()
    answer: int | None = None
    right: bool = False
    rounds: int = 0  # frames of drafts that were answered
    tokens: int = 0  # that these answers brought
    drafted: int = 0
    mismatched: int = 0  # rounds whose draft was left, or gone past, at a token that the target would not have chosen
    by_meaning: int = 0
    asked: int = 0  # further round trips, for states
    bytes_up: int = 0  # drafts and states, as protobuf messages
    spent: float = 0.0
    swaps: tuple[Swap, ...] = ()
    ended: bool = False  # by a stop id


@dataclass(slots=True, eq=False)
class _Group:
    """All texts of one problem, the rows of its prompt, and what was drafted for it."""

    problem: Problem
    source: Extent
    places: list[int]
    texts: list[_Text] = field(default_factory=list)
    lines: dict[Path, Line] = field(default_factory=dict)
    left: int = 0


@dataclass(slots=True, eq=False)
class _Text:
    """One text at work."""

    group: _Group
    session: EdgeSession
    extent: Extent
    written: Written
    path: Path
    path_hash: bytes = b""
    seq: int = 0
    line: Line | None = None  # that flies


class Fleet:
    """Writes problems with a pair, as many texts at a time as there is room for."""

    def __init__(
        self,
        pair: Pair,
        *,
        keeps_swaps: bool = False,
        tail: HeadTail | None = None,
        strictness: Callable[[], float] | None = None,
    ) -> None:
        """Use a pair's engine and drafter, nobody else's meanwhile.

        keeps_swaps  return what meaning accepted
        tail         judge by this head's front part instead of the settings' own
        strictness   what audits make of thresholds
        """
        self._pair, self._keeps_swaps = pair, keeps_swaps
        self._tail, self._strictness = tail, strictness
        self._free = list(pair.extents)
        self._places = list(range(pair.places))
        self._drafting: list[_Text] = []  # whose line is to be drafted
        self._ready: deque[_Text] = deque()  # who has a pass to make
        self._done: list[Written] = []
        self._number = 0

    def write(self, problems: Sequence[Problem], settings: Sequence[Setting]) -> list[Written]:
        """Return every problem's text in every setting, in no order."""
        assert len(settings) < len(self._pair.extents), f"{len(settings)} settings for {len(self._pair.extents)} places"
        waiting = deque(problems)
        self._count = max(setting.length for setting in settings)
        while True:
            begun: list[Problem] = []
            while waiting and self._fits(len(begun) + 1, len(settings)):
                begun.append(waiting.popleft())
            if begun:
                self._begin(begun, settings)
            if len(self._ready) >= min(STEP_SESSIONS, max(1, len(self._drafting))):
                self._step()
            elif self._drafting:
                self._draft()
            elif not waiting:
                done, self._done = self._done, []
                return done

    # ---- beginnings and ends ----

    def _fits(self, groups: int, settings: int) -> bool:
        """Say whether there is room for so many more problems: a prompt's rows and those of its texts, and to draft."""
        return len(self._free) >= groups * (settings + 1) and len(self._places) >= groups * settings

    def _begin(self, problems: Sequence[Problem], settings: Sequence[Setting]) -> None:
        """Read prompts once, and copy their rows to every text of theirs."""
        groups = []
        for problem in problems:
            places = [self._places.pop() for _ in settings]
            groups.append(_Group(problem, self._free.pop(), places, left=len(settings)))
        prompts = tuple(Item(group.source, Span(0, group.problem.prompt[:-1]), Sampling()) for group in groups)
        assert not any(outcome.failure for outcome in self._pair.runner.run(Step(0, prompts)).outcomes)
        for group in groups:
            for setting in settings:
                text = self._opened(group, setting)
                group.texts.append(text)
                self._ready.append(text)

    def _opened(self, group: _Group, setting: Setting) -> _Text:
        prompt, pair, who = group.problem.prompt, self._pair, setting.who
        semantic = None
        if who.rule and setting.max_loss > 0:
            semantic = Semantic(setting.max_loss, who.rule, who.protocol, b"", pair.state_width, StateKind.INT8)
        opened = Open(
            group.problem.number.to_bytes(16, "big"), EPOCH, pair.identity, Sampling(), pair.stop_ids, MAX_TOKENS,
            len(prompt), len(prompt), ids_digest(prompt), 0, semantic=semantic,
        )  # fmt: skip
        judge = pair.judge(setting, self._tail, self._strictness) if semantic else None
        session = EdgeSession(opened, Limits(pair.room, live_nodes=64), judge=judge, clock=_no_clock)
        session.attach(opened)
        session.received(Prefix(EPOCH, 0, prompt))
        session.adopted(len(prompt) - 1)
        if semantic and (setting.channel or setting.miss_s is not None):
            channel = setting.channel
            trip_s, up_bytes_s = (channel.round_trip_s, channel.up_bytes_s) if channel else (None, None)
            session.received(Report(EPOCH, miss_s=setting.miss_s, round_trip_s=trip_s, up_bytes_s=up_bytes_s))
        extent = self._free.pop()
        pair.runner.run(Step(0, (), (Fill(extent.first, len(prompt) - 1, group.source.first),)))
        return _Text(group, session, extent, Written(group.problem.number, setting), prompt)

    def _end(self, text: _Text) -> None:
        written, group = text.written, text.group
        written.ids = text.path[len(group.problem.prompt) :]
        written.answer = check_answer(self._pair.tokenizer.decode(list(written.ids)))
        written.right = written.answer == group.problem.answer
        written.ended = text.session.stop is StopReason.STOP_TOKEN
        self._done.append(written)
        self._free.append(text.extent)
        group.left -= 1
        if not group.left:
            self._free.append(group.source)
            self._places += group.places

    # ---- drafts ----

    def _draft(self) -> None:
        """Draft what most texts wait for; hand out what is known."""
        asks: dict[tuple[int, Path], Ask] = {}
        groups: dict[tuple[int, Path], _Group] = {}
        taken: set[int] = set()
        for text in self._drafting:
            key = (id(text.group), text.path)
            if text.path in text.group.lines or key in asks or len(asks) == STEP_SESSIONS:
                continue
            place = self._pair.drafter.best_place([it for it in text.group.places if it not in taken], text.path)
            taken.add(place)
            asks[key], groups[key] = Ask(place, text.path), text.group
        if asks:
            for key, line in zip(asks, self._pair.drafter.draft(list(asks.values()), self._count), strict=True):
                groups[key].lines[key[1]] = line
        waiting, self._drafting = self._drafting, []
        for text in waiting:
            if (known := text.group.lines.get(text.path)) is None:
                self._drafting.append(text)
            else:
                self._send(text, known)

    def _send(self, text: _Text, line: Line) -> None:
        setting, written = text.written.setting, text.written
        tokens = line.tokens[: setting.length]
        text.seq += 1
        text.line = line
        length = len(text.path)
        states = None
        if setting.who.protocol is HiddenProtocol.FULL_HIDDEN:
            states = StateRows(tuple(range(len(tokens))), b"".join(line.rows[: len(tokens)]))
        q = line.q(len(tokens)) if setting.who.tells_q else None
        frame = Draft(EPOCH, text.seq, length, length, text.path_hash, tokens, q=q, states=states)
        written.bytes_up += device_frame_to_proto(frame).ByteSize()
        written.drafted += len(tokens)
        text.session.received(frame)
        self._ready.append(text)

    def _hidden(self, text: _Text, asked: NeedHidden) -> Hidden:
        """Return the states that an edge asks for."""
        assert text.line is not None
        rows: dict[bytes, bytes] = {}
        at = text.path_hash
        for token, row in zip(text.line.tokens, text.line.rows, strict=True):
            at = next_hash(at, token)
            rows[at] = row
        return Hidden(EPOCH, asked.hashes, b"".join(rows[name] for name in asked.hashes))

    # ---- passes ----

    def _step(self) -> None:
        texts = [self._ready.popleft() for _ in range(min(STEP_SESSIONS, len(self._ready)))]
        works = [(text, text.session.next_pass()) for text in texts]
        items = [self._item(text, work) for text, work in works if work is not None]
        assert len(items) == len(texts), "a session had nothing to do after a draft"
        self._number += 1
        done = self._pair.runner.run(Step(self._number, tuple(items)))
        for (text, work), outcome in zip(works, done.outcomes, strict=True):
            assert work is not None
            self._passed(text, work, outcome)

    def _item(self, text: _Text, work: Pass | None) -> Item:
        assert work is not None
        judged = None
        if work.judged:
            q = text.session.q_of(work)
            judged = Judged(work.nodes, self._pair.head_index(text.written.setting), q, work.own)
        return Item(text.extent, work.span, work.sampling, judged=judged)

    def _passed(self, text: _Text, work: Pass, outcome: Outcome) -> None:
        assert not outcome.failure, outcome.failure
        result = PassResult(outcome.choices, evidence=outcome.evidence)
        for frame in text.session.finished_pass(work, result):
            self._answered(text, work, frame)

    def _answered(self, text: _Text, work: Pass, frame: EdgeFrame) -> None:
        if isinstance(frame, NeedHidden):
            states = self._hidden(text, frame)
            text.written.asked += 1
            text.written.bytes_up += device_frame_to_proto(states).ByteSize()
            for answer in text.session.received(states):
                self._answered(text, work, answer)
            return
        assert isinstance(frame, Commit), frame
        written = text.written
        if work.nodes:
            written.rounds += 1
            written.tokens += len(frame.ids)
            meant = frame.origins.count(Origin.MEANING)
            written.by_meaning += meant
            written.mismatched += meant + (frame.origins[-1] is Origin.RECOVERED)
        written.spent = max(written.spent, frame.spent)
        if self._keeps_swaps:
            written.swaps += text.session.take_swaps()
        text.path += frame.ids
        text.path_hash, text.line = frame.path_hash, None
        if frame.stop is not None:
            self._end(text)
        else:
            self._drafting.append(text)
