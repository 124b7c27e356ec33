"""A device, its edges and its user in virtual time, and everything that can go wrong between them.

The world knows how things break and nothing of what must hold then: a witness looks at every frame and at all that the
user is shown. Chance and time are arguments, so a scene and a list of faults give the same history each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol

from airdraft.core.receipts import ReceiptKey
from airdraft.core.rows import TargetRow
from airdraft.core.types import DeviceFrame, EdgeFrame, Limits, Open, Sampling
from airdraft.link.virtual_device import DeviceProcess, DeviceWitness, State
from airdraft.link.virtual_edge import Core, EdgeProcess, EdgeWitness, Entry, Evidenced, waiting_core
from airdraft.link.virtual_journal import Journal, Wish
from airdraft.link.virtual_stream import End, Link, Pipe, Process, Stream
from airdraft.link.virtual_time import Agenda, Delay, NextDraft

Told = Literal["both", "device", "edge", "nobody"]
"""Who learns at once that a stream is gone; the others find out by its silence."""


Ways = Callable[[Agenda], tuple[Delay, Delay]]
"""What makes the delays of a link, up and down, of the clock that they are read at."""


class Witness(EdgeWitness, DeviceWitness, Protocol):
    """Whoever looks at everything."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What frames, and the limits that an edge describes, pass through; a test plugs the real conversion in here."""

    up: Callable[[DeviceFrame], DeviceFrame] = lambda frame: frame
    down: Callable[[EdgeFrame], EdgeFrame] = lambda frame: frame
    described: Callable[[Limits], Limits] = lambda limits: limits


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """How an edge is set up."""

    limits: Limits
    secret: bytes = b""  # of its receipts; edges that share it are a fleet, without it there are none


@dataclass(frozen=True, slots=True)
class Scene:
    """A world at its beginning."""

    seed: int
    wish: Wish
    edges: tuple[EdgePlan, ...]  # named edge-0, edge-1, … like the wish's
    delay_s: float = 0.02  # a frame takes up to this
    pass_s: float = 0.01  # a pass takes up to this
    clock_offset_s: float = 0.0  # clocks are ahead or behind by up to this


@dataclass(slots=True)
class World:
    """One user's generation among edges. Use ``begin``, let time pass with ``agenda.run``, and break things."""

    scene: Scene
    choose: Callable[[str, Sequence[int], Sampling, Sequence[int]], int]  # a ``Choice`` of the edge of that name
    draft: NextDraft
    witness: Witness
    wire: Wire = field(default_factory=Wire)
    core: Core = waiting_core
    own_draft: NextDraft | None = None  # of an edge's own drafter; None: the device's
    ways: Ways | None = None  # None: a frame takes up to the scene's ``delay_s``
    row: Callable[[str, Sequence[int], Sampling, Sequence[int]], TargetRow] | None = None  # what ``choose`` reads
    evidence: Evidenced | None = None  # of drafted tokens that may stand by meaning
    state: State | None = None  # of the drafter, where the wish offers states
    agenda: Agenda = field(default_factory=Agenda)
    edges: dict[str, EdgeProcess] = field(default_factory=dict)
    devices: list[DeviceProcess] = field(default_factory=list)  # dead ones too; the last one is the user's newest
    streams: list[Stream] = field(default_factory=list)  # that a device's process has begun
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    chance: random.Random = field(init=False)
    _dead: set[str] = field(default_factory=set)
    _homes: dict[Stream, tuple[DeviceProcess | None, EdgeProcess]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.scene.seed)
        for name in self.scene.wish.edges:
            self.start_edge(name)

    # ---- who is there ----

    @property
    def running(self) -> list[DeviceProcess]:
        """Return the device processes that work at a text."""
        return [device for device in self.devices if device.running]

    @property
    def finished(self) -> bool:
        """Return whether the user has seen the whole text."""
        return any(device.over for device in self.devices)

    @property
    def entries(self) -> list[tuple[EdgeProcess, Entry]]:
        """Return every session that an edge holds."""
        return [(edge, entry) for edge in self.edges.values() if edge.alive for entry in edge.sessions.values()]

    def begin(self) -> DeviceProcess:
        """Start the user's program for the first time."""
        return self.start_device(Journal())

    def start_device(self, journal: Journal, wish: Wish | None = None) -> DeviceProcess:
        """Start the program with a journal; it may be a second one."""
        wish = wish or self.scene.wish
        device = DeviceProcess(
            self.agenda,
            f"device-{len(self.devices)}",
            wish,
            journal,
            self.scene.edges[0].limits,
            self.draft,
            self,
            self.witness,
            random.Random(self.chance.getrandbits(32)),
            self._offset_s(),
            self.state,
        )
        self.devices.append(device)
        device.start()
        return device

    def start_edge(self, name: str) -> None:
        """Start an edge that knows nothing, in the place of the one of that name."""
        plan = self.scene.edges[self.scene.wish.edges.index(name)]
        self.edges[name] = EdgeProcess(
            self.agenda,
            name,
            plan.limits,
            partial(self.choose, name),
            self.witness,
            receipts=ReceiptKey(plan.secret) if plan.secret else None,
            pass_s=self._up_to(self.scene.pass_s),
            core=self.core,
            draft=self.own_draft or self.draft,
            row=partial(self.row, name) if self.row is not None else None,
            offset_s=self._offset_s(),
            evidence=self.evidence,
        )

    # ---- the network ----

    def dial(self, device: DeviceProcess, edge: str, answer: Callable[[Limits | None], None]) -> None:
        """Reach for an edge, as ``virtual_device.Network`` says."""
        link = self._link(device.name, edge)
        if self.agenda.now < link.refused_until:
            self.agenda.at(self.agenda.now + link.down(), lambda: device.soon(lambda: answer(None)))
            return

        def knock() -> None:
            process = self.edges[edge]
            limits = self.wire.described(process.limits) if process.alive else None
            self.agenda.at(self.agenda.now + link.down(), lambda: device.soon(lambda: answer(limits)))

        arrival = max(self.agenda.now, link.dark_until) + link.up()
        self.agenda.at(arrival, lambda: self.edges[edge].soon(knock) if self.edges[edge].alive else knock())

    def call(self, device: DeviceProcess, edge: str, epoch: int) -> Stream:
        """Begin a call, as ``virtual_device.Network`` says."""
        stream = self._stream(device, device.name, edge, epoch)
        self.streams.append(stream)
        if not self.edges[edge].alive:
            self.cut(stream, told="device")
        return stream

    def _stream(self, device: DeviceProcess | None, name: str, edge: str, epoch: int) -> Stream:
        process, link = self.edges[edge], self._link(name, edge)
        stream = Stream(name, edge, epoch)

        def up(frame: DeviceFrame | End) -> None:
            process.take(stream, frame if isinstance(frame, End) else self.wire.up(frame))

        def down(frame: EdgeFrame | End) -> None:
            if device is not None:
                device.take(stream, frame if isinstance(frame, End) else self.wire.down(frame))

        nowhere = Process(self.agenda, name)
        stream.up = Pipe(self.agenda, link, link.up, process, up)
        stream.down = Pipe(self.agenda, link, link.down, device or nowhere, down)
        self._homes[stream] = (device, process)
        return stream

    def _link(self, device: str, edge: str) -> Link:
        known = self.links.get((device, edge))
        if known is None:
            some = self._up_to(self.scene.delay_s)
            known = self.links[device, edge] = Link(*(self.ways(self.agenda) if self.ways else (some, some)))
        return known

    def _offset_s(self) -> float:
        return self.scene.clock_offset_s * (2 * self.chance.random() - 1)

    def _up_to(self, seconds: float) -> Delay:
        return lambda: self.chance.random() * seconds

    # ---- faults of links and streams ----

    def cut(self, stream: Stream, *, told: Told = "both", arriving_up: int = 0, arriving_down: int = 0) -> None:
        """Cut a stream; so many frames of each flight still arrive, and then who is told learns of it."""
        device, edge = self._homes[stream]
        stream.cut(arriving_up=arriving_up, arriving_down=arriving_down)
        if told in ("both", "edge"):
            edge.soon(lambda: edge.lost(stream))
        if told in ("both", "device") and device is not None:
            device.soon(lambda: device.lost(stream))

    def refuse(self, device: str, edge: str, seconds: float) -> None:
        """Let there be no way for new calls; who tries is told."""
        link = self._link(device, edge)
        link.refused_until = max(link.refused_until, self.agenda.now + seconds)

    def darken(self, device: str, edge: str, seconds: float, *, lost: bool) -> None:
        """Let a link be a black hole: what is on its way comes after it, or with ``lost`` never. Nobody is told."""
        link = self._link(device, edge)
        link.dark_until = max(link.dark_until, self.agenda.now + seconds)
        for stream in self._homes:
            if (stream.device, stream.edge) == (device, edge):
                if lost:
                    stream.cut()
                else:
                    stream.hold(link.dark_until)

    def strand(self, name: str, seconds: float) -> None:
        """Cut an edge off: its devices know at once, it goes on and is heard again when nobody waits for it."""
        for stream in [stream for stream in self.streams if stream.edge == name and stream.down.open]:
            self.darken(stream.device, name, seconds, lost=False)
            device = self._homes[stream][0]
            if device is not None:
                device.soon(partial(device.lost, stream))

    def half_close(self, stream: Stream) -> None:
        """Let the edge believe that the device has said all it had to say."""
        stream.up.send(End.CLOSED)
        stream.up.open = False

    def replay(self, stream: Stream, edge: str, count: int, *, as_session: bytes | None = None) -> Stream | None:
        """Let a proxy send the first ``count`` frames of a stream again, as a call of its own to any edge.

        ``as_session`` is a thief's: what was signed for one session is presented as another's.
        """
        frames = stream.sent[:count]
        if not frames or not self.edges[edge].alive:
            return None
        proxied = self._stream(None, "proxy", edge, stream.epoch)
        proxied.proxied = True
        for frame in frames:
            if isinstance(frame, Open) and as_session is not None:
                frame = replace(frame, session_id=as_session)
            proxied.up.send(frame)
        return proxied

    # ---- faults of processes ----

    def kill_edge(self, name: str, seconds: float, *, told: bool) -> None:
        """Kill an edge and start another in its place after a while; its devices may be told that it went."""
        edge = self.edges[name]
        if not edge.alive:
            return
        edge.die()
        for stream in [stream for stream in self._homes if self._homes[stream][1] is edge]:
            self.cut(stream, told="device" if told else "nobody")
        if seconds < math.inf:
            self.agenda.at(self.agenda.now + seconds, lambda: self._replace(edge))

    def drain(self, name: str, deadline_s: float, seconds: float) -> None:
        """Let an edge go away in good order and another come in its place."""
        edge = self.edges[name]
        if not edge.alive or edge.draining:
            return
        edge.drain(deadline_s, tuple(other for other in self.edges if other != name))
        self.agenda.at(self.agenda.now + deadline_s + seconds, lambda: self.kill_edge(name, 0.1, told=True))

    def _replace(self, edge: EdgeProcess) -> None:
        if self.edges[edge.name] is edge and edge.name not in self._dead:
            self.start_edge(edge.name)

    def kill_device(self, device: DeviceProcess, *, after_effects: int, told: bool) -> None:
        """Kill a device's process now, or amid what it does next; its edge may be told."""
        if after_effects:
            device.effects_left = after_effects
            return
        stream = device.stream
        device.die()
        if stream is not None:
            self.cut(stream, told="edge" if told else "nobody", arriving_up=1_000_000)

    def calm(self, *, dead: str | None = None) -> None:
        """End every fault: processes run, links carry, nobody lies; only the edge ``dead`` is gone for good."""
        self._dead = {dead} if dead else set()
        for link in self.links.values():
            link.dark_until, link.refused_until = min(link.dark_until, self.agenda.now), 0.0
        for name, edge in list(self.edges.items()):
            edge.wake()
            edge.lies = lambda: False
            if edge.alive and (edge.draining or name == dead):
                self.kill_edge(name, math.inf, told=True)
            if not self.edges[name].alive and name != dead:
                self.start_edge(name)
        for device in self.devices:
            device.wake()
            device.effects_left = None
