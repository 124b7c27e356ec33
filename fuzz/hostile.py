"""A hostile device: what it says on a stream, honest frames and all kinds of lies, in valid order and out of it.

It listens, so that its lies come deep in a session: its drafts hang under what the edge has committed. It knows no
clock and no socket; one seed and the same answers give the same frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.cells import PADDING
from airdraft.core.paths import frame_nodes, ids_digest, next_hash, root_hash
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Finish,
    Hidden,
    HiddenProtocol,
    Identity,
    Limits,
    NeedHidden,
    NeedPrefix,
    Open,
    Opened,
    Ping,
    Prefix,
    Report,
    Sampling,
    Semantic,
    StateRows,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import device_frame_to_proto
from fuzz import seeds
from fuzz.mutations import boundary, mutate, mutate_bytes, unknown_field

STATE_WIDTH = 3
"""Of the states that it offers, where it asks for acceptance by meaning."""


@dataclass(frozen=True, slots=True)
class Place:
    """What an edge has told everybody of itself, and how long a hostile device lets its texts be."""

    identity: Identity
    vocabulary: int
    limits: Limits
    most_prompt: int = 24
    most_tokens: int = 48
    samplings: tuple[Sampling, ...] = (Sampling(),)
    rules: tuple[str, ...] = ("typical", "head")
    calm: float = 0.0  # share of frames that an edge bears, however odd: an ended stream must be opened again


@cache
def recorded() -> tuple[pb.DeviceFrame, ...]:
    """Return the recorded frames of devices, as messages."""
    return tuple(pb.DeviceFrame.FromString(data) for data in seeds.frames("up"))


class HostileDevice:
    """One attacker's streams, one after the other: ``attach`` begins each, ``say`` goes on, ``heard`` listens."""

    def __init__(self, place: Place, random: Random) -> None:
        self.place, self.random = place, random
        self._root = root_hash(place.identity)
        self._open: Open | None = None
        self._begin()

    # ---- streams ----

    def _begin(self) -> None:
        """Take up a new session."""
        place, random = self.place, self.random
        self.session_id = random.randbytes(16)
        self.epoch = 0
        self.ids = [random.randrange(place.vocabulary) for _ in range(random.randint(1, place.most_prompt))]
        self._prompt = len(self.ids)
        self._sampling = random.choice(place.samplings)
        self._tokens = random.randrange(place.most_tokens)
        self._stops = tuple(random.sample(range(place.vocabulary), random.choice((0, 0, 1, 3))))
        self._semantic = self._wish() if random.random() < 0.5 else None
        self._receipt = b""
        self._stream()

    def _wish(self) -> Semantic:
        random = self.random
        protocol = random.choice((*HiddenProtocol, HiddenProtocol.MISMATCH_FIRST, HiddenProtocol.MISMATCH_FIRST))
        width = STATE_WIDTH if random.random() < 0.8 else random.choice((0, 1, 48, 4096))
        cap = random.choice((0.01, 0.05, 1.0))
        return Semantic(cap, random.choice(self.place.rules), protocol, bytes(32) if width else b"", width)

    def _stream(self) -> None:
        self.seq = 0
        self.acked = len(self.ids)
        self._asked: tuple[bytes, ...] = ()
        self._states_go_along = False  # by what this stream's edge granted
        self._nodes: list[tuple[bytes, int]] = []  # sent: path hash and length
        self._hashes = [self._root]
        for token in self.ids:
            self._hashes.append(next_hash(self._hashes[-1], token))

    def attach(self) -> list[bytes]:
        """Return how a stream begins: ``Open``, and what it promises; mostly as an honest device would."""
        random = self.random
        if self._open is None or random.random() < 0.7:
            self._begin()
        self.epoch += 1
        opened = self._opened()
        self._stream()
        lie = random.random()
        if lie < 0.12:
            return [self._coded(self._false_open(opened)), self._coded(Prefix(self.epoch, 0, tuple(self.ids)))]
        if lie < 0.22:
            message = device_frame_to_proto(opened)
            mutate(message.open, random, self.place.vocabulary, ())
            self._open = opened
            return [message.SerializeToString(), self._coded(Prefix(self.epoch, 0, tuple(self.ids)))]
        if lie < 0.24:
            return [self._coded(self._honest()) if random.random() < 0.5 else self._cell()]  # no Open at all
        self._open = opened
        if opened.prefix_start is None:
            return [self._coded(opened)]
        prefix = Prefix(self.epoch, opened.prefix_start, tuple(self.ids[opened.prefix_start :]))
        if random.random() < 0.1:
            return [self._coded(opened), self._coded(self._draft()), self._coded(prefix)]
        return [self._coded(opened), self._coded(prefix)]

    def _opened(self) -> Open:
        random = self.random
        start = 0 if random.random() < 0.85 else random.choice((None, len(self.ids), self._prompt))
        return Open(
            self.session_id,
            self.epoch,
            self.place.identity,
            self._sampling,
            self._stops,
            self._tokens,
            self._prompt,
            len(self.ids),
            ids_digest(self.ids),
            start,
            self._receipt,
            rows=random.random() < 0.2,
            semantic=self._semantic,
        )

    def _false_open(self, opened: Open) -> Open:
        """Return an ``Open`` with one lie that the wire's types allow."""
        random, identity = self.random, opened.identity
        false: Sequence[Callable[[], Open]] = (
            lambda: replace(opened, digest=random.randbytes(32)),
            lambda: replace(opened, identity=replace(identity, model_digest=bytes(32))),
            lambda: replace(opened, identity=replace(identity, tokenizer_digest=bytes(32))),
            lambda: replace(opened, identity=replace(identity, sampler_version="")),
            lambda: replace(opened, protocol_version=random.choice((0, 2, (1 << 32) - 1))),
            lambda: replace(opened, max_tokens=random.choice((self.place.limits.context_tokens, 1 << 30))),
            lambda: replace(opened, length=1 << 30, prompt_length=1 << 30),
            lambda: replace(opened, length=opened.length + random.choice((1, 100))),
            lambda: replace(opened, epoch=max(1, opened.epoch - random.choice((1, 2)))),
            lambda: replace(opened, epoch=(1 << 32) - 1),
            lambda: replace(opened, max_tokens=opened.max_tokens + 1),
            lambda: replace(opened, sampling=Sampling(0.7, seed=random.getrandbits(64))),
            lambda: replace(opened, session_id=bytes(16)),
            lambda: replace(opened, receipt=self._forged()),
            lambda: replace(opened, prefix_start=1 << 30),
        )
        return random.choice(false)()

    def _forged(self) -> bytes:
        random = self.random
        if not self._receipt:
            return random.randbytes(random.choice((0, 1, 24, 28, 64)))
        forged = bytearray(self._receipt)
        forged[random.randrange(len(forged))] ^= 1 << random.randrange(8)
        return bytes(forged)

    def heard(self, frame: EdgeFrame) -> None:
        """Learn from an answer."""
        match frame:
            case Commit() if frame.epoch == self.epoch and frame.base <= len(self.ids):
                fresh = frame.ids[len(self.ids) - frame.base :]
                self.ids.extend(fresh)
                for token in fresh:
                    self._hashes.append(next_hash(self._hashes[-1], token))
                self._receipt = frame.receipt
            case Opened():
                protocols = (HiddenProtocol.FULL_HIDDEN, HiddenProtocol.MARGIN_FIRST)
                self._states_go_along = frame.granted.max_loss > 0 and frame.granted.protocol in protocols
            case NeedHidden():
                self._asked = frame.hashes
            case NeedPrefix() if frame.epoch == self.epoch:
                self._nodes.append((self._hashes[min(frame.start, len(self.ids))], min(frame.start, len(self.ids))))

    # ---- frames ----

    def say(self) -> bytes:
        """Return the next frame of the stream."""
        random = self.random
        if random.random() < self.place.calm:
            borne = self._coded(random.choice(_BORNE)(self))
            return borne + unknown_field(random) if random.random() < 0.2 else borne
        way = random.random()
        if way < 0.40:
            return self._coded(self._honest())
        if way < 0.58:
            return self._coded(random.choice(_LIES)(self))
        if way < 0.80:
            message = device_frame_to_proto(self._honest())
            for _ in range(random.choice((1, 1, 1, 2, 4))):
                mutate(message, random, self.place.vocabulary, recorded()[:40])
            data: bytes = message.SerializeToString()
            return data + unknown_field(random) if random.random() < 0.1 else data
        if way < 0.92:
            return self._recorded()
        return mutate_bytes(self._coded(self._honest()), random, seeds.frames("up"))

    def _coded(self, frame: DeviceFrame) -> bytes:
        return device_frame_to_proto(frame).SerializeToString()

    def _cell(self) -> bytes:
        """Return a cell: a piece of a padded stream, or what claims to be one."""
        random = self.random
        size = PADDING.up_bytes if random.random() < 0.7 else boundary(random, 12, self.place.vocabulary)
        inside = self._coded(self._opened())
        data = (len(inside).to_bytes(3, "little") + inside).ljust(size, b"\0")[:size]
        return pb.DeviceFrame(cell=pb.Cell(data=data)).SerializeToString()

    def _recorded(self) -> bytes:
        """Return a recorded frame, mostly with a mutation, and mostly with this stream's epoch and order."""
        random = self.random
        message = pb.DeviceFrame()
        message.CopyFrom(random.choice(recorded()))
        kind = message.WhichOneof("frame")
        part: Any = getattr(message, kind) if kind else None
        if kind and hasattr(part, "epoch") and random.random() < 0.8:
            part.epoch = self.epoch
        if kind == "draft" and random.random() < 0.6:
            self.seq += 1
            part.seq, part.acked, part.base_offset = self.seq, self.acked, 0
            part.base_hash = int.from_bytes(self._hashes[min(self.acked, len(self.ids))], "little")
        if random.random() < 0.7:
            mutate(message, random, self.place.vocabulary, recorded()[:40])
        data: bytes = message.SerializeToString()
        return data

    def _honest(self) -> DeviceFrame:
        random, way = self.random, self.random.random()
        if way < 0.72:
            return self._draft()
        if way < 0.82:
            return Ping(self.epoch, random.getrandbits(32), ack=random.random() < 0.3)
        if way < 0.92:
            return Report(
                self.epoch,
                waits=random.random() < 0.3,
                own_draft=random.random() < 0.7,
                provisional_s=random.choice((0.0, 0.0, 0.05, 1.0)),
                miss_s=random.choice((None, 0.0, 0.1)),
                round_trip_s=random.choice((None, 0.05)),
                up_bytes_s=random.choice((None, 1e6)),
            )
        if self._asked:
            return self._hidden(STATE_WIDTH)
        return self._ack(idle=random.random() < 0.5)

    def _ack(self, *, idle: bool = False) -> Draft:
        self.seq, self.acked = self.seq + 1, max(self.acked, len(self.ids))
        return Draft(self.epoch, self.seq, self.acked, self.acked, self._hashes[self.acked], idle=idle)

    def _draft(self, count: int | None = None) -> Draft:
        """Return a draft under the text's end or under what was sent before; a chain, or a tree."""
        random, vocabulary = self.random, self.place.vocabulary
        self.seq, self.acked = self.seq + 1, max(self.acked, len(self.ids))
        base_hash, base = self._hashes[self.acked], self.acked
        if self._nodes and random.random() < 0.4:
            base_hash, base = random.choice(self._nodes[-16:])
            if base < self.acked:
                base_hash, base = self._hashes[self.acked], self.acked
        count = random.choice((0, 1, 2, 4, 8)) if count is None else count
        ids = tuple(random.randrange(vocabulary) for _ in range(count))
        parents = tuple(random.randrange(-1, index) if index else -1 for index in range(count)) if count else None
        draft = Draft(
            self.epoch, self.seq, self.acked, base, base_hash, ids, parents if random.random() < 0.3 else None
        )
        if ids and random.random() < 0.2:
            draft = replace(draft, probabilities=tuple(random.random() for _ in ids))
        if ids and random.random() < 0.2:
            draft = replace(draft, q=tuple(SparseQ((token,), (65_535,)) for token in ids))
        if ids and self._semantic is not None and random.random() < (0.5 if self._states_go_along else 0.05):
            width = max(1, self._semantic.state_width)
            draft = replace(draft, states=StateRows(tuple(range(count)), self._rows(count, width)))
        self._nodes += [(node.path_hash, node.length) for node in frame_nodes(draft)]
        return draft

    def _rows(self, count: int, width: int) -> bytes:
        row = b"\x00\x00\x80\x3c" + self.random.randbytes(width)
        return (row * count)[: 60_000 // len(row) * len(row)]

    def _hidden(self, width: int) -> Hidden:
        hashes = self._asked or tuple({node for node, _ in self._nodes[-4:]})
        return Hidden(self.epoch, hashes, self._rows(len(hashes), max(1, width)))


def _gapped(device: HostileDevice) -> DeviceFrame:
    return replace(device._ack(), seq=boundary(device.random, 32, device.place.vocabulary))


def _ack_elsewhere(device: HostileDevice) -> DeviceFrame:
    acked = max(0, len(device.ids) + device.random.choice((-2, -1, 1, 2, 1 << 20)))
    return replace(device._ack(), acked=acked, base=acked)


def _wrong_hash(device: HostileDevice) -> Draft:
    return replace(device._draft(), base_hash=device.random.randbytes(8))


def _far_base(device: HostileDevice) -> DeviceFrame:
    draft = device._draft()
    return replace(draft, base=draft.acked + device.random.choice((1, 512, 1 << 20)))


def _overrun(device: HostileDevice) -> DeviceFrame:
    limits = device.place.limits
    most = (limits.frame_nodes, limits.frame_nodes, limits.frame_nodes + 1, limits.live_nodes, limits.live_nodes + 1)
    return replace(device._draft(device.random.choice(most)), q=None, probabilities=None, states=None)


def _prefix_again(device: HostileDevice) -> DeviceFrame:
    start = device.random.choice((0, 0, len(device.ids), 1 << 30))
    ids = device.ids * device.random.choice((0, 1, 2, 50))
    return Prefix(device.epoch, start, tuple(ids[:5000]))


def _open_twice(device: HostileDevice) -> DeviceFrame:
    return device._opened()


def _finish_early(device: HostileDevice) -> DeviceFrame:
    return Finish(device.epoch, boundary(device.random, 30, device.place.vocabulary))


def _hidden_unasked(device: HostileDevice) -> DeviceFrame:
    return device._hidden(device.random.choice((1, STATE_WIDTH, STATE_WIDTH + 1, 4096)))


def _extreme_report(device: HostileDevice) -> DeviceFrame:
    """The greatest and the least numbers that a float32 of the wire holds of what a report may say."""
    most, least = device.random.choice((1e6, 1e-38)), device.random.choice((0.0, 1e-45))
    return Report(device.epoch, True, False, most, least, most, device.random.choice((9e14, 1e-38)))


def _ping_flood(device: HostileDevice) -> DeviceFrame:
    return Ping(device.epoch, (1 << 32) - 1)


def _other_epoch(device: HostileDevice) -> DeviceFrame:
    return replace(device._honest(), epoch=boundary(device.random, 32, device.place.vocabulary) or 1)


def _deep_chain(device: HostileDevice) -> DeviceFrame:
    """A line of frames that hang under one another, never acked: as far as the credits go."""
    draft = device._draft(16)
    return replace(draft, parents=None)


def _true_draft(device: HostileDevice) -> DeviceFrame:
    """Text that was committed long ago, drafted again."""
    draft = device._ack()
    base = device.random.randrange(draft.acked, draft.acked + 1)
    return replace(draft, base=base, ids=tuple(device.ids[-8:]))


_LIES: tuple[Callable[[HostileDevice], DeviceFrame], ...] = (
    *(_gapped, _ack_elsewhere, _wrong_hash, _far_base, _overrun, _prefix_again, _open_twice, _finish_early),
    *(_hidden_unasked, _extreme_report, _ping_flood, _other_epoch, _deep_chain, _deep_chain, _true_draft),
)


def _honest(device: HostileDevice) -> DeviceFrame:
    return device._honest()


def _odd_ping(device: HostileDevice) -> DeviceFrame:
    return Ping(device.epoch, boundary(device.random, 32, device.place.vocabulary), ack=device.random.random() < 0.5)


def _stale_draft(device: HostileDevice) -> DeviceFrame:
    """A draft that hangs nowhere: dropped without an answer."""
    return replace(_wrong_hash(device), states=None)


def _known_prefix(device: HostileDevice) -> DeviceFrame:
    return Prefix(device.epoch, 0, tuple(device.ids[: device._prompt]))


_BORNE: tuple[Callable[[HostileDevice], DeviceFrame], ...] = (
    *(_honest, _odd_ping, _stale_draft, _known_prefix, _extreme_report, _ping_flood, _true_draft),
)
