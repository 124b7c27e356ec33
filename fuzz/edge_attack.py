"""Hostile devices against session cores, at volume: what ``bench fuzz`` counts and a short test plays."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from google.protobuf.message import DecodeError

from airdraft.core.types import EdgeFrame, RefusalCode, Refused
from airdraft.v1 import verification_pb2 as pb
from fuzz.device_core import KINDS as DEVICE_KINDS
from fuzz.device_core import DeviceCore, HostileEdge
from fuzz.edge_core import IDENTITY, KINDS, LIMITS, VOCABULARY, EdgeCore, Kind
from fuzz.hostile import HostileDevice, Place

PLACE = Place(IDENTITY, VOCABULARY, LIMITS)
SESSIONS_A_DEVICE = 4
"""Cores that one attacker has at an edge; the oldest goes first."""

_STREAMS = 8  # of a device
_FRAMES = (5, 20, 60)  # of a stream


@dataclass(slots=True)
class Tally:
    """What became of frames."""

    frames: int = 0
    parsed: int = 0  # as messages
    taken: int = 0  # by a session that had no objection
    refusals: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)  # by kind
    bugs: dict[str, str] = field(default_factory=dict)  # by place: the first one's traceback
    internal_errors: int = 0

    def add(self, other: Tally) -> None:
        """Take what another process found."""
        self.frames += other.frames
        self.parsed += other.parsed
        self.taken += other.taken
        self.refusals += other.refusals
        self.answers += other.answers
        self.bugs = other.bugs | self.bugs
        self.internal_errors += other.internal_errors

    def bug(self, error: Exception, seed: int) -> None:
        """Note what nobody may see."""
        self.internal_errors += 1
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = "".join(traceback.format_exception(error))
        self.bugs.setdefault(f"{type(error).__name__} at {last.filename}:{last.lineno}", f"seed {seed}\n{text}")


class EdgeTable:
    """The session cores of one attacker, by session id, and which of them its stream has."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._cores: dict[bytes, EdgeCore] = {}
        self.core = EdgeCore(kind)

    def take(self, data: bytes) -> list[EdgeFrame]:
        """Let bytes arrive. Raises DecodeError, BrokenPromise."""
        message = pb.DeviceFrame.FromString(data)
        session = self.core.session
        if message.WhichOneof("frame") == "open" and (session is None or not session.attached):
            name = message.open.session_id
            self.core = self._cores.setdefault(name, EdgeCore(self._kind))
            for oldest in list(self._cores)[:-SESSIONS_A_DEVICE]:
                del self._cores[oldest]
        return self.core.received(message)


def attack_edge(frames: int, seed: int) -> Tally:
    """Send at least so many frames at session cores of all kinds; return what became of them."""
    random, tally = Random(seed), Tally()
    while tally.frames < frames:
        table = EdgeTable(random.choice(KINDS))
        device = HostileDevice(PLACE, random)
        for _ in range(_STREAMS):
            try:
                _stream(table, device, random, tally)
            except Exception as error:
                tally.bug(error, seed)
                break
            table.core.leave()
    return tally


def _stream(table: EdgeTable, device: HostileDevice, random: Random, tally: Tally) -> None:
    queue: list[bytes] = device.attach()
    for _ in range(random.choice(_FRAMES)):
        data = queue.pop(0) if queue else device.say()
        tally.frames += 1
        try:
            answers = table.take(data)
        except DecodeError:
            continue
        tally.parsed += 1
        answers += _meanwhile(table.core, random)
        if _hear(device, answers, tally) and random.random() < 0.9:
            return


def _meanwhile(core: EdgeCore, random: Random) -> list[EdgeFrame]:
    """Let an edge do its work, or some of it, or have bad luck."""
    core.now_s += random.choice((0.0, 0.001, 0.02))
    way = random.random()
    if way < 0.75:
        return core.run(random.choice((1, 2, 4)))
    if way < 0.78:
        return core.evict(ids_too=way < 0.77)
    if way < 0.82:
        return core.due()
    if way < 0.84 and (work := core.begin_pass()) is not None:
        core.lose_pass(work)
    return []


def _hear(device: HostileDevice, answers: Sequence[EdgeFrame], tally: Tally) -> bool:
    """Let the device hear the answers; say whether its stream has ended."""
    ends = False
    for answer in answers:
        tally.answers[type(answer).__name__] += 1
        if isinstance(answer, Refused):
            tally.refusals[answer.code.name] += 1
            ends = ends or answer.ends_stream
        device.heard(answer)
    tally.taken += not ends
    return ends


def attack_device(frames: int, seed: int) -> Tally:
    """Send at least so many frames at devices' cores of all kinds; return what became of them."""
    random, tally = Random(seed), Tally()
    while tally.frames < frames:
        core = DeviceCore(random.choice(DEVICE_KINDS))
        edge = HostileEdge(core, random)
        try:
            core.attach()
            while not core.session.ended and random.random() < 0.98:
                tally.frames += 1
                data = edge.say()
                try:
                    core.take(data)
                except DecodeError:
                    continue
                tally.parsed += 1
        except Exception as error:
            tally.bug(error, seed)
    return tally


BY_FRAMES_ALONE = frozenset(
    {
        *(RefusalCode.MALFORMED, RefusalCode.TOO_LONG, RefusalCode.SESSION_MISMATCH, RefusalCode.PREFIX_MISMATCH),
        *(RefusalCode.STALE_EPOCH, RefusalCode.OUT_OF_ORDER, RefusalCode.BAD_ACK, RefusalCode.CREDITS),
        RefusalCode.BAD_RECEIPT,
    }
)
"""What a session core alone can be brought to say."""
