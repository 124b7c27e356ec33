"""The table of harnesses: what each reads, which inputs it begins with, and what may come of any bytes.

A harness takes bytes and returns; what it raises is a bug. To add one, write the function and give it an entry in
``HARNESSES``. The bodies of MQTT messages get theirs with the code that reads them: until then there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

from google.protobuf.message import DecodeError, Message

from airdraft.core.errors import MalformedFrame
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import (
    device_frame_from_proto,
    device_frame_to_proto,
    edge_frame_from_proto,
    edge_frame_to_proto,
)
from airdraft.wire.describe import description_from_proto, description_to_proto
from fuzz import codecs, device_core, edge_core, files, seeds, streams
from fuzz.edge_attack import EdgeTable
from fuzz.edge_core import VOCABULARY, must
from fuzz.hostile import HostileDevice, Place
from fuzz.mutations import mutate, mutate_bytes

Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True, slots=True)
class Harness:
    """One reader of what strangers wrote."""

    about: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    mutate: Mutate | None = None  # by what the bytes mean; None: as bytes
    reads: tuple[str, ...] = ("airdraft",)  # packages whose branches lead the search


# ---- messages ----


def device_frame(data: bytes) -> None:
    """A device's message: refused, or a value that survives the wire."""
    try:
        frame = device_frame_from_proto(pb.DeviceFrame.FromString(data), VOCABULARY, edge_core.LIMITS)
    except (DecodeError, MalformedFrame):
        return
    again = device_frame_from_proto(
        pb.DeviceFrame.FromString(device_frame_to_proto(frame).SerializeToString()), VOCABULARY, edge_core.LIMITS
    )
    must(again == frame, "a frame that the wire changes")


def edge_frame(data: bytes) -> None:
    """An edge's message, likewise."""
    try:
        frame = edge_frame_from_proto(pb.EdgeFrame.FromString(data), VOCABULARY)
    except (DecodeError, MalformedFrame):
        return
    again = edge_frame_from_proto(pb.EdgeFrame.FromString(edge_frame_to_proto(frame).SerializeToString()), VOCABULARY)
    must(again == frame, "a frame that the wire changes")


def description(data: bytes) -> None:
    """What an edge says of itself."""
    try:
        known = description_from_proto(pb.DescribeResponse.FromString(data))
    except (DecodeError, MalformedFrame):
        return
    again = description_from_proto(description_to_proto(known, include_tokenizer=True))
    must(again == known, "a description that the wire changes")


def by_field(kind: type[Message], way: str) -> Mutate:
    """Return a mutation of messages of a kind, field by field; of what is no message, byte by byte."""

    @cache
    def donors() -> list[Message]:
        return [kind.FromString(data) for data in seeds.frames(way)[:60]]

    def change(data: bytes, random: Random) -> bytes:
        if random.random() < 0.2:
            return mutate_bytes(data, random, seeds.frames(way))
        try:
            message = kind.FromString(data)
        except DecodeError:
            return mutate_bytes(data, random, seeds.frames(way))
        mutate(message, random, VOCABULARY, donors())
        return message.SerializeToString()

    return change


# ---- sessions ----


def edge_session(data: bytes) -> None:
    """A session core of an edge: a byte for its kind, then steps (``fuzz.streams``)."""
    if not data:
        return
    table = EdgeTable(edge_core.KINDS[data[0] % len(edge_core.KINDS)])
    for step in streams.unpack(data[1:]):
        core = table.core
        work = None
        if step.events & streams.LOSES and (work := core.begin_pass()) is not None:
            core.lose_pass(work)
        core.run(step.events & streams.PASSES)
        if step.events & streams.DUE:
            core.due()
        if step.events & streams.LEAVES:
            core.leave()
        if step.events & streams.EVICTS:
            core.evict(ids_too=bool(step.events & streams.IDS_TOO))
        work = core.begin_pass() if step.events & streams.STAYS else None
        try:
            table.take(step.frame)
        except DecodeError:
            core.leave()
        if work is not None:
            core.end_pass(work)
        table.core.run()


def device_session(data: bytes) -> None:
    """A device's session core, likewise."""
    if not data:
        return
    core = device_core.DeviceCore(device_core.KINDS[data[0] % len(device_core.KINDS)])
    core.attach()
    for step in streams.unpack(data[1:]):
        if core.session.ended:
            return
        if step.events & streams.LEAVES:
            core.session.detached()
            core.attach()
        try:
            core.take(step.frame)
        except DecodeError:
            core.session.detached()
            core.attach()


def _sessions(kind: str, way: str, kinds: int) -> list[bytes]:
    """Return recorded sessions as steps, for each kind of core."""
    found: list[bytes] = []
    for session in seeds.kit(kind):
        steps: list[streams.Step] = []
        events = 0
        for step in session["steps"]:
            match step["event"]:
                case {"received": {"bytes": data}}:
                    steps.append(streams.Step(events, bytes.fromhex(data)))
                    events = 0
                case {"passed": _}:
                    events = events & ~streams.PASSES | min(3, (events & streams.PASSES) + 1)
                case {"detached": _}:
                    events |= streams.LEAVES
                case {"evicted": {"ids_too": ids_too}}:
                    events |= streams.EVICTS | (streams.IDS_TOO if ids_too else 0)
                case {"due": _}:
                    events |= streams.DUE
        found += [bytes([number]) + streams.pack(steps) for number in range(kinds)]
    return found


def _edge_seeds() -> list[bytes]:
    """Return recorded sessions, and hostile ones."""
    place, random = Place(edge_core.IDENTITY, VOCABULARY, edge_core.LIMITS), Random(0)
    found = _sessions("edge-session", "up", len(edge_core.KINDS))
    for number in range(40):
        device = HostileDevice(place, random)
        steps = [streams.Step(random.randrange(4), data) for data in device.attach()]
        steps += [streams.Step(random.randrange(8), device.say()) for _ in range(20)]
        found.append(bytes([number % len(edge_core.KINDS)]) + streams.pack(steps))
    return found


def of_steps(kind: type[Message], way: str) -> Mutate:
    """Return a mutation of steps: of one frame by its fields, or of their order."""
    by_fields = by_field(kind, way)

    def change(data: bytes, random: Random) -> bytes:
        steps = list(streams.unpack(data[1:]))
        head = data[:1] or b"\0"
        if not steps or random.random() < 0.05:
            return mutate_bytes(data, random, ())
        at, way_of = random.randrange(len(steps)), random.randrange(8)
        if way_of < 4:
            steps[at] = replace(steps[at], frame=by_fields(steps[at].frame, random))
        elif way_of == 4:
            steps[at] = replace(steps[at], events=steps[at].events ^ (1 << random.randrange(8)))
        elif way_of == 5:
            steps.insert(at, random.choice(steps))
        elif way_of == 6:
            del steps[at]
        else:
            steps.append(streams.Step(random.randrange(4), random.choice(seeds.frames(way))))
        return head + streams.pack(steps)

    return change


def _texts(*lines: object) -> Sequence[bytes]:
    return [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]


HARNESSES: dict[str, Harness] = {
    "device-frames": Harness(
        "frames of devices, converted", device_frame, lambda: seeds.frames("up"), by_field(pb.DeviceFrame, "up")
    ),
    "edge-frames": Harness(
        "frames of edges, converted", edge_frame, lambda: seeds.frames("down"), by_field(pb.EdgeFrame, "down")
    ),
    "descriptions": Harness(
        "answers to Describe",
        description,
        lambda: seeds.frames("describe"),
        by_field(pb.DescribeResponse, "describe"),
    ),
    "edge-session": Harness(
        "an edge's session core under streams of frames", edge_session, _edge_seeds, of_steps(pb.DeviceFrame, "up")
    ),
    "device-session": Harness(
        "a device's session core under streams of frames",
        device_session,
        lambda: _sessions("device-session", "down", len(device_core.KINDS)),
        of_steps(pb.EdgeFrame, "down"),
    ),
    "states": Harness("rows of hidden states", codecs.states, codecs.state_seeds),
    "sparse-q": Harness("sparse distributions", codecs.sparse_q, codecs.sparse_q_seeds),
    "target-rows": Harness("rows of a target's logits", codecs.target_row, codecs.target_row_seeds),
    "receipts": Harness("receipts", codecs.receipt, codecs.receipt_seeds),
    "cells": Harness("cells of padded streams", codecs.cells, codecs.cell_seeds),
    "journal": Harness("lines of a device's journal", files.journal, files.journal_seeds, reads=("device_client",)),
    "manifests": Harness("manifests of weights", files.manifest, files.manifest_seeds),
    "heads": Harness("files of semantic heads", files.head, files.head_seeds, reads=("airdraft", "edge_node.heads")),
    "keys": Harness("key files", files.keys, files.key_seeds),
    "tokens": Harness("bearers at the gate: keys, tokens, certificates", files.bearer, files.bearer_seeds),
    "issuers": Harness("files of issuers' public keys", files.issuers, files.issuer_seeds),
    "settings": Harness("TOML settings of the processes", files.settings, files.settings_seeds),
    "engine-queue": Harness(
        "frames of the queue between front and engine", files.queue, files.queue_seeds, reads=("edge_node",)
    ),
}
"""By name on the command line. A new reader of strangers' bytes needs one entry more."""
