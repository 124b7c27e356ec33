"""Random traffic on a real engine: devices that come, draft, idle, leave and return, as fast or slow as chance has it.

Everything but gRPC is the edge node's own: session cores, table, pool, scheduler, step runner. The engine does a step
when the traffic says so, so that anything may happen while one is at work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import cast

from airdraft.core.errors import Overloaded
from airdraft.core.paths import ids_digest, next_hash, root_hash
from airdraft.core.types import (
    Commit,
    Draft,
    EdgeFrame,
    Finish,
    Identity,
    Limits,
    NeedPrefix,
    Open,
    Pass,
    Prefix,
    Sampling,
    Timing,
)
from edge_node.engine.runner import StepRunner
from edge_node.engine_process import EngineDied
from edge_node.kv_pool import KvPool
from edge_node.metrics import EdgeMetrics
from edge_node.sessions import Entry, SessionTable, Terms
from edge_node.step import Drafted, DraftStep, Fill, Step, StepDone
from edge_node.stepping import Stepping, Then
from edge_node.streams import Stream

IDENTITY = Identity(bytes(32), bytes(32))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a device wants written."""

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    tenant: str = ""


@dataclass(slots=True)
class Mailbox:
    """The way down to one device."""

    frames: list[EdgeFrame] = field(default_factory=list)
    ended: str = ""

    def send(self, frame: EdgeFrame) -> None:
        self.frames.append(frame)

    def end(self, failure: Exception | None = None) -> None:
        self.ended = self.ended or str(failure)


@dataclass(slots=True, eq=False)
class Device:
    """One session as its device sees it."""

    asked: Asked
    session_id: bytes
    ids: list[int]
    mail: Mailbox = field(default_factory=Mailbox)
    entry: Entry | None = None  # while attached
    epoch: int = 0
    seq: int = 0
    tail: list[int] = field(default_factory=list)  # drafted in a chain past the ids, and sent
    done: bool = False

    @property
    def answer(self) -> list[int]:
        return self.ids[len(self.asked.prompt) :]


class HeldEngine:
    """An engine that answers when it is told to; it keeps what a death would lose."""

    def __init__(self, runner: StepRunner) -> None:
        self.runner = runner
        self.asked: tuple[Step | DraftStep, Then] | None = None
        self.steps: list[StepDone] = []

    def submit(self, ask: Step | DraftStep, then: Then) -> None:
        assert self.asked is None
        self.asked = ask, then

    def finish(self) -> bool:
        """Do what is asked; say whether there was anything."""
        if self.asked is None:
            return False
        (ask, then), self.asked = self.asked, None
        answer: StepDone | Drafted = self.runner.run(ask) if isinstance(ask, Step) else self.runner.draft(ask)
        if isinstance(answer, StepDone):
            self.steps.append(answer)
        then(answer)
        return True

    @property
    def alone(self) -> bool:
        """Return whether a step of one session is at work."""
        return self.asked is not None and len(self.asked[0].items) == 1

    def die(self) -> None:
        """Lose what is asked."""
        if self.asked is not None:
            (_, then), self.asked = self.asked, None
            then(EngineDied("killed"))


class TieMetrics(EdgeMetrics):
    """Keeps after which path each near tie was."""

    def __init__(self) -> None:
        super().__init__("tiny")
        self.after: set[bytes] = set()

    def passed(self, work: Pass, timing: Timing, frames: Sequence[EdgeFrame], *, near_ties: Sequence[int]) -> None:
        super().passed(work, timing, frames, near_ties=near_ties)
        span = work.span
        first = len(span.tokens) - work.nodes
        for index in near_ties:
            row, ids = span.wanted[index], []
            while row >= first:
                ids.append(span.tokens[row])
                row = row - 1 if span.parents is None else span.parents[row]
            self.after.add(_hash_after(work.base_hash, reversed(ids)))


def _hash_after(start: bytes, ids: Iterator[int]) -> bytes:
    for token in ids:
        start = next_hash(start, token)
    return start


def hash_of(ids: Sequence[int]) -> bytes:
    """Return the path hash at the end of a text."""
    return _hash_after(root_hash(IDENTITY), iter(ids))


class Traffic:
    """One edge, its devices, and chance."""

    def __init__(
        self,
        runner: StepRunner,
        rows: int,
        chance: Random,
        *,
        positions: int = 64,
        context: int = 192,
        vocabulary: int = 128,
        own_draft_tokens: int = 0,
        run_ahead: bool = False,
        gathers: bool = False,
    ) -> None:
        self.now = 0.0
        self.metrics = TieMetrics()
        self.devices: list[Device] = []
        self.failed: list[str] = []
        self._chance, self._vocabulary, self._rows = chance, vocabulary, rows
        terms = Terms(most=256, keep_s=1e9, own_draft_tokens=own_draft_tokens, run_ahead=run_ahead)
        self.sessions = SessionTable(terms, self.metrics, self._clock)
        self.stepping = Stepping(self.sessions, positions, self._clock, widen_s=0.0, gathers=gathers)
        self.engine = HeldEngine(runner)
        self._limits = Limits(context_tokens=context)
        self._begin()

    def _clock(self) -> float:
        self.now += 1e-6
        return self.now

    def _begin(self) -> None:
        self.engine.runner.run(Step(0, (), (Fill(0, self._rows),)))  # as in a new engine, no row is anybody's
        self.sessions.begin(KvPool(self._rows))
        self.stepping.begin(self.engine)

    # ---- what may happen ----

    def arrives(self, asked: Asked) -> Device:
        """A device comes with a prompt."""
        device = Device(asked, self._chance.randbytes(16), list(asked.prompt))
        self.devices.append(device)
        self.attaches(device)
        return device

    def attaches(self, device: Device) -> bool:
        """A device attaches, for the first time or again; say whether there was room."""
        asked = device.asked
        device.epoch += 1
        opened = Open(
            device.session_id,
            device.epoch,
            IDENTITY,
            asked.sampling,
            (),
            asked.max_tokens,
            len(asked.prompt),
            len(device.ids),
            ids_digest(device.ids),
            0,
        )
        try:
            entry = self.sessions.admit(opened, self._limits, asked.tenant)
        except Overloaded:
            return False
        device.seq, device.tail, device.mail, device.entry = 0, [], Mailbox(), entry
        frames = self.sessions.attach(entry, opened)
        entry.streams[device.epoch] = cast(Stream, device.mail)
        entry.send(frames)
        cut = self._chance.randint(0, len(device.ids))
        for start, end in ((0, cut), (cut, len(device.ids))):
            self._says(device, Prefix(device.epoch, start, tuple(device.ids[start:end])))
        return True

    def leaves(self, device: Device) -> None:
        """The stream breaks."""
        if device.entry is not None:
            device.entry.streams.pop(device.epoch, None)
            device.entry.session.detached(device.epoch)
            device.entry.left_at = self._clock()
            device.entry = None

    def cancels(self, device: Device) -> None:
        """The caller has read enough."""
        if device.entry is not None:
            self._says(device, Finish(device.epoch, len(device.ids)))
            device.entry, device.done = None, True

    def drafts(self, device: Device, truth: Sequence[int], error: float) -> None:
        """A frame of some width comes, a chain or a tree, on the committed text or on what was sent before."""
        assert device.entry is not None
        chance = self._chance
        base = [*device.ids, *device.tail]
        count = min(chance.randint(1, 8), len(truth) - len(base))
        if count <= 0:
            self.idles(device)
            return
        right = list(truth[len(base) : len(base) + count])
        tokens = [chance.randrange(self._vocabulary) if chance.random() < error else token for token in right]
        parents = None
        if chance.random() < 0.4:
            tokens, parents = self._branches(tokens)
        device.seq += 1
        draft = Draft(device.epoch, device.seq, len(device.ids), len(base), hash_of(base), tuple(tokens), parents)
        device.tail = [] if parents is not None else [*device.tail, *tokens]
        self._says(device, draft)

    def _branches(self, tokens: list[int]) -> tuple[list[int], tuple[int, ...]]:
        """Return a tree with the chain in it, some siblings before and after its tokens."""
        chance, made, parents, last = self._chance, list[int](), list[int](), -1
        for token in tokens:
            siblings = [chance.randrange(self._vocabulary) for _ in range(chance.randint(0, 2))]
            offered = list(dict.fromkeys([*siblings, token] if chance.random() < 0.5 else [token, *siblings]))
            parents += [last] * len(offered)
            last = len(made) + offered.index(token)
            made += offered
        return made, tuple(parents)

    def idles(self, device: Device) -> None:
        """A device says that nothing of it is on its way, and acks."""
        if device.entry is not None:
            device.seq, device.tail = device.seq + 1, []
            base = len(device.ids)
            self._says(device, Draft(device.epoch, device.seq, base, base, hash_of(device.ids), idle=True))

    def evicts(self, device: Device) -> None:
        """The rows of a session whose device is gone are needed."""
        for entry in self.sessions:
            if entry is not device.entry and not entry.session.attached and not entry.session.in_flight:
                if entry in self.sessions.pool:
                    self.sessions.evict(entry)
                return

    def engine_dies(self) -> None:
        """The engine's process is killed, and another one begins with an empty pool."""
        if self.engine.alone:
            return  # a session that nobody shares its deadly step with would rightly be given up
        self.engine.die()
        self.stepping.stop()
        self._begin()

    def steps(self) -> bool:
        """The engine ends what it is at; say whether it was at anything."""
        worked = self.engine.finish()
        for device in self.devices:
            self.reads(device)
        return worked

    def reads(self, device: Device) -> None:
        """A device reads what came down to it."""
        frames, device.mail.frames = device.mail.frames, []
        if device.mail.ended:
            self.failed.append(device.mail.ended)
            device.entry, device.done = None, True
        for frame in frames:
            if isinstance(frame, Commit):
                assert frame.base == len(device.ids), "a commit left a gap"
                follows = frame.ids[: len(device.tail)] == tuple(device.tail[: len(frame.ids)])
                device.tail = device.tail[len(frame.ids) :] if follows else []
                device.ids += frame.ids
                device.done = device.done or frame.stop is not None
            elif isinstance(frame, NeedPrefix):
                self._says(device, Prefix(device.epoch, frame.start, tuple(device.ids[frame.start :])))

    def _says(self, device: Device, frame: Prefix | Draft | Finish) -> None:
        entry = device.entry
        assert entry is not None
        entry.send(self.sessions.received(entry, frame))
        if entry.session.finished:
            self.sessions.forget(entry)
        else:
            self.stepping.ready(entry)

    # ---- to the end ----

    def ends(self) -> None:
        """Everybody who has not left for good gets the rest of the text."""
        for _ in range(100_000):
            self.steps()
            waiting = [device for device in self.devices if not device.done]
            if not waiting:
                return
            for device in self.devices:
                if device.done and device.entry is not None:
                    self.cancels(device)  # it has all, and makes room
            for device in waiting:
                if device.entry is not None:
                    self.idles(device)
                elif self._chance.random() < 0.5:
                    self.attaches(device)
        raise AssertionError("the traffic does not end")
