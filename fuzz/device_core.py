"""A device's session core under a hostile edge: decode, conversion, core, and a drafter that answers at once.

Of any frame may come outputs that survive the wire, an ``EdgeFault``, ``MalformedFrame``, or bytes that are no message.
What is committed is never taken back, and no frame goes up that an honest edge must refuse as malformed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import EdgeFault, MalformedFrame
from airdraft.core.paths import next_hash, root_hash
from airdraft.core.session import Committed, DeviceSession, Lost, Output, Overtaking
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    Drain,
    EdgeFrame,
    Granted,
    HiddenProtocol,
    Limits,
    NeedHidden,
    NeedPrefix,
    Opened,
    Origin,
    Ping,
    Plan,
    Quote,
    RefusalCode,
    Refused,
    Sampling,
    Semantic,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.checks import MAX_MESSAGE_BYTES
from airdraft.wire.convert import (
    device_frame_from_proto,
    device_frame_to_proto,
    edge_frame_from_proto,
    edge_frame_to_proto,
)
from fuzz import seeds
from fuzz.edge_core import IDENTITY, VOCABULARY, must
from fuzz.hostile import STATE_WIDTH
from fuzz.mutations import mutate, mutate_bytes

PROMPT = tuple(range(1, 11))
MOST_TOKENS = 64
LIMITS = Limits(context_tokens=4096)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a device's user and its plan ask for."""

    plan: Plan
    semantic: Semantic | None = None
    rests: bool = False


_STATES = Semantic(0.05, "head", HiddenProtocol.MISMATCH_FIRST, bytes(32), STATE_WIDTH)

KINDS: tuple[Kind, ...] = (
    Kind(Plan(4)),
    Kind(Plan(4, 3, 2, first_alone=True), rests=True),
    Kind(Plan(8, 2, split=True)),
    Kind(Plan(4, 2, provisional_s=0.1), _STATES),
    Kind(Plan(4), replace(_STATES, protocol=HiddenProtocol.FULL_HIDDEN, rule="kl-judge")),
)


class DeviceCore:
    """One device, stream after stream."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.now_s = kind, 0.0
        overtaking = Overtaking(self._clock, lambda: 0.05) if kind.rests else None
        self.session = DeviceSession(
            bytes(16),
            IDENTITY,
            PROMPT,
            sampling=Sampling(),
            stop_ids=(7,),
            max_tokens=MOST_TOKENS,
            limits=LIMITS,
            plan=kind.plan,
            overtaking=overtaking,
            semantic=kind.semantic,
        )
        self.text: list[int] = list(PROMPT)

    def _clock(self) -> float:
        return self.now_s

    def attach(self) -> None:
        """Open a new stream."""
        epoch = self.session.next_epoch
        must(epoch < 1 << 32, f"epoch {epoch}")
        self._take(self.session.attach(epoch, with_prefix=True))
        self.draft()

    def draft(self) -> None:
        """Let the drafter write what is asked for."""
        work = self.session.draft_work()
        if work is None:
            return
        must(0 < work.count <= self.session.limits.live_nodes, f"{work.count} tokens are to be drafted")
        count = min(work.count, 16)
        tokens = [(len(work.path) + place) % VOCABULARY for place in range(count)]
        q = [SparseQ((token,), (65_535,)) for token in tokens]
        states = np.ones((count, STATE_WIDTH), np.float32)
        self._take(self.session.drafted(work, tokens, [0.5] * count, states, q))

    def take(self, data: bytes) -> None:
        """Let bytes arrive. Raises DecodeError, BrokenPromise; what a device must expect ends the stream."""
        message = pb.EdgeFrame.FromString(data)
        self.now_s += 0.01
        try:
            frame = edge_frame_from_proto(message, VOCABULARY)
            outputs = self.session.received(frame)
        except (MalformedFrame, EdgeFault) as error:
            must(error.message.isprintable() and len(error.message) < 1000, "an error that nobody can show")
            self.session.detached()
            self.attach()
            return
        self._take(outputs)
        self.draft()

    def _take(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case Committed():
                    must(output.base == len(self.text), f"text at {output.base} where {len(self.text)} was due")
                    must(all(0 <= token < VOCABULARY for token in output.ids), "an id outside the vocabulary")
                    self.text += output.ids
                case Lost():
                    readable = output.refusal.message.isprintable() and output.refusal.field.isprintable()
                    must(readable, "a refusal that nobody can show")
                    self.session.detached()
                case Drain():
                    must(len(output.edges) <= 16, "a farewell of many edges")
                case _:
                    self._sent(output)
        must(list(self.session.ids) == self.text, "the text is not what was committed")
        must(len(self.text) <= len(PROMPT) + MOST_TOKENS, "text past its end")
        if any(isinstance(output, Lost) for output in outputs) and not self.session.ended:
            self.attach()

    def _sent(self, frame: DeviceFrame) -> None:
        """Send a frame over the wire; an edge with these limits must be able to read it."""
        data = device_frame_to_proto(frame).SerializeToString()
        must(len(data) <= MAX_MESSAGE_BYTES, f"a {type(frame).__name__} of {len(data)} bytes")
        device_frame_from_proto(pb.DeviceFrame.FromString(data), VOCABULARY, self.session.limits)
        if isinstance(frame, Draft):
            live, granted = self.session.live_nodes, self.session.limits.live_nodes
            must(live <= max(granted, 0) or not frame.ids, f"{live} live nodes, {granted} granted")


class HostileEdge:
    """An edge that lies: commits, grants, quotes, demands and refusals, right ones and wrong ones."""

    def __init__(self, core: DeviceCore, random: Random) -> None:
        self._core, self._random = core, random
        self._messages = [pb.EdgeFrame.FromString(data) for data in seeds.frames("down")]

    def say(self) -> bytes:
        """Return the next frame."""
        random, way = self._random, self._random.random()
        if way < 0.45:
            return edge_frame_to_proto(self._frame()).SerializeToString()
        if way < 0.85:
            message = edge_frame_to_proto(self._frame())
            if way > 0.7:
                message = pb.EdgeFrame()
                message.CopyFrom(random.choice(self._messages))
                kind = message.WhichOneof("frame")
                if kind and random.random() < 0.8:
                    getattr(message, kind).epoch = self._core.session.epoch
            for _ in range(random.choice((1, 1, 2))):
                mutate(message, random, VOCABULARY, self._messages[:40])
            data: bytes = message.SerializeToString()
            return data
        return mutate_bytes(edge_frame_to_proto(self._frame()).SerializeToString(), random, seeds.frames("down"))

    def _frame(self) -> EdgeFrame:
        random, session = self._random, self._core.session
        epoch, way = session.epoch, random.random()
        if way < 0.5:
            return self._commit()
        if way < 0.62:
            asked = session.semantic
            granted = Granted()
            if asked is not None and random.random() < 0.8:
                granted = Granted(asked.max_loss, asked.rule, asked.protocol)
            quote = Quote(
                random.choice((0.0, 0.01, 1e6)),
                random.choice((0.0, 1e-4)),
                random.random() < 0.5,
                random.choice((0.0, 1.0, 1e6)),
                own_draft_tokens=random.choice((0, 4, 1_000_000)),
                own_draft_s=0.001,
                own_acceptance=random.choice((0.0, 0.5, 1.0)),
            )
            small = random.choice((1, 2, 16, 512))
            limits = Limits(4096, random.choice((1, 4, 256)), small, random.choice((1, 64)), random.choice((1, 64)))
            return Opened(epoch, 0, len(session.ids) + random.choice((0, 0, 3)), limits, quote, granted)
        if way < 0.70:
            return NeedPrefix(epoch, random.choice((0, len(session.ids), len(session.ids) + 1)))
        if way < 0.78:
            return NeedHidden(epoch, tuple({random.randbytes(8) for _ in range(random.choice((1, 3, 512)))}))
        if way < 0.86:
            code = random.choice(list(RefusalCode))
            ends, named = random.random() < 0.3, random.choice((0, 5, (1 << 31) - 1, (1 << 32) - 1))
            return Refused(epoch, code, "no", "", random.choice((0.0, 1e6)), random.randrange(6), named, ends)
        if way < 0.93:
            return Ping(epoch, random.getrandbits(32), ack=random.random() < 0.5)
        return Drain(epoch, random.choice((0.0, 4e6)), ("b:1",) * random.randrange(3))

    def _commit(self) -> Commit:
        random, session = self._random, self._core.session
        ahead = list(session.ahead)
        agreed = ahead[: random.randrange(len(ahead) + 1)]
        ids = (*agreed, *(random.randrange(8, VOCABULARY) for _ in range(random.choice((0, 1, 1, 2)))))
        if not ids:
            ids = (random.randrange(VOCABULARY),)
        end = root_hash(IDENTITY)
        for token in (*session.ids, *ids):
            end = next_hash(end, token)
        base, spent = len(session.ids), 0.0
        kinds = [Origin.ACCEPTED] * len(agreed) + [Origin.RECOVERED] * (len(ids) - len(agreed))
        if session.granted.max_loss and random.random() < 0.5:
            kinds[0], spent = Origin.MEANING, 0.001
        if random.random() < 0.1:
            base = max(0, base + random.choice((-1, 1, 1 << 20)))
        return Commit(session.epoch, base, ids, base + len(ids), end, 0, tuple(kinds), spent=spent)


__all__ = ["KINDS", "DeviceCore", "HostileEdge", "Kind"]
