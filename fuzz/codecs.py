"""Harnesses of codecs: what stands in frames as bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache

import numpy as np
from google.protobuf.message import DecodeError

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.cells import PADDING, Ending, Packer, Reader
from airdraft.core.errors import EdgeFault, MalformedFrame
from airdraft.core.meaning import pack_rows, unpack_rows
from airdraft.core.receipts import ReceiptKey
from airdraft.core.session.split import check_row
from airdraft.core.types import Commit, Limits, Open, Origin, Sampling, StateKind
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.checks import checked_row
from airdraft.wire.convert import device_frame_from_proto
from fuzz import seeds
from fuzz.edge_core import VOCABULARY, must

_HEADER = struct.Struct("<BHH")

# ---- states ----


def states(data: bytes) -> None:
    """A kind, how many rows of which width, and the rows."""
    if len(data) < _HEADER.size:
        return
    kind, count, width = _HEADER.unpack_from(data)
    state_kind = StateKind(1 + kind % 2)
    try:
        rows = unpack_rows(data[_HEADER.size :], count, width, state_kind)
    except ValueError:
        return
    must(rows.shape == (count, width) and bool(np.isfinite(rows).all()), "rows that are none")
    again = unpack_rows(pack_rows(rows, state_kind), count, width, state_kind)
    must(bool(np.isfinite(again).all()), "rows that are none the second time")


def state_seeds() -> Iterable[bytes]:
    """Return the kit's rows, good ones and bad ones."""
    (known,) = seeds.kit("states")
    for entry in known["rows"]:
        numbers = entry["numbers"]
        kind = entry["kind"].endswith("FP8")
        yield _HEADER.pack(kind, len(numbers), len(numbers[0])) + bytes.fromhex(entry["bytes"])
    for entry in known["refused"]:
        yield _HEADER.pack(entry["kind"].endswith("FP8"), 1, entry["width"]) + bytes.fromhex(entry["bytes"])


# ---- distributions and rows ----


def sparse_q(data: bytes) -> None:
    """A distribution in a draft of one token."""
    try:
        entry = pb.SparseDistribution.FromString(data)
        token = entry.id_steps[0] if entry.id_steps else 0
        draft = pb.Draft(epoch=1, ids=[token & 0xFFFFFFFF], q=[entry])
        frame = device_frame_from_proto(pb.DeviceFrame(draft=draft), VOCABULARY, Limits(4096))
    except (DecodeError, MalformedFrame):
        return
    (q,) = getattr(frame, "q", None) or (None,)
    assert isinstance(q, SparseQ)
    held = q.distribution()
    must(q.sample(0.999999999) in q.ids and held.draw(0.5) in q.ids, "a draw of what is not there")


def sparse_q_seeds() -> Iterable[bytes]:
    """Return the distributions of recorded drafts."""
    for data in seeds.frames("up"):
        yield from (q.SerializeToString() for q in pb.DeviceFrame.FromString(data).draft.q)


def target_row(data: bytes) -> None:
    """A seed, and a row from which a device draws."""
    if len(data) < 8:
        return
    (seed,) = struct.unpack_from("<Q", data)
    try:
        row = checked_row(data[8:], VOCABULARY)
    except MalformedFrame:
        return
    if row is None:
        return
    sampling = (Sampling(), Sampling(0.8, seed), Sampling(1.2, seed, top_k=5, top_p=0.9, repetition_penalty=1.2))
    commit = Commit(1, 3, (seed % VOCABULARY,), 4, bytes(8), 0, (Origin.RECOVERED,), row=row)
    try:
        check_row(commit, (1, 2, 3), sampling[seed % 3])
    except EdgeFault:
        return


def target_row_seeds() -> Iterable[bytes]:
    """Return the rows of recorded commits, and rows of numbers that are none."""
    for data in seeds.frames("down"):
        row = pb.EdgeFrame.FromString(data).commit.row
        if row:
            yield bytes(8) + row
    for value in (0.0, float("nan"), float("inf"), -float("inf"), 6e4):
        yield bytes(8) + np.full(VOCABULARY, value, "<f2").tobytes()
        yield bytes(8) + np.full(VOCABULARY, value, "<f4").tobytes()


# ---- receipts ----

_KEY = ReceiptKey(b"k" * 32, "tenant")


@cache
def _signed() -> tuple[Open, bytes, bytes]:
    """Return an attach, its receipt, and one of a session by meaning."""
    frames = map(pb.DeviceFrame.FromString, seeds.frames("up"))
    message = next(frame for frame in frames if frame.WhichOneof("frame") == "open" and frame.open.epoch == 1)
    opened = device_frame_from_proto(message, 1 << 31, Limits(4096))
    assert isinstance(opened, Open)
    return opened, _KEY.sign(opened, 1, opened.digest), _KEY.sign(opened, 1, opened.digest, 0.25)


def receipt(data: bytes) -> None:
    """A receipt that comes with a text: nothing but the very ones that were given is accepted."""
    opened, *given = _signed()
    from dataclasses import replace

    presented = replace(opened, epoch=2, receipt=data)
    accepted = _KEY.accepts(presented)
    must(accepted == (data in given), "a forged receipt, or a good one that is refused")
    must(0.0 <= _KEY.spent(presented) <= 1.0, "what was spent is no chance")
    must(accepted or _KEY.spent(presented) == 0.0, "a receipt that is not accepted tells what was spent")


def receipt_seeds() -> Iterable[bytes]:
    """Return good receipts, and others."""
    _, exact, spent = _signed()
    yield from (b"", exact, spent, exact[:-1], spent[:24], bytes(24), bytes(28))
    for session in seeds.kit("receipts"):
        yield from (bytes.fromhex(entry["receipt"]) for entry in session["signed"])


# ---- cells ----


def cells(data: bytes) -> None:
    """Cells of one direction, of whatever size: refused, or frames that give the same cells again."""
    size = PADDING.up_bytes
    reader, frames = Reader(size), list[bytes]()
    try:
        for at in range(0, len(data), size):
            frames += reader.take(data[at : at + size])
    except MalformedFrame:
        return
    packer, again = Packer(size), Reader(size)
    for frame in frames:
        packer.put(frame)
    packer.end(Ending.FINISHED)
    heard: list[bytes] = []
    while not packer.done:
        heard += again.take(packer.cell())
    must(heard == frames, "frames that cells change")


def cell_seeds() -> Iterable[bytes]:
    """Return streams of recorded frames, in cells."""
    up = seeds.frames("up")
    for begin in range(0, len(up), 8):
        packer = Packer(PADDING.up_bytes)
        for frame in up[begin : begin + 8]:
            if frame:
                packer.put(frame)
        packer.end(Ending.FINISHED if begin % 16 else Ending.DROPPED)
        cells_of: list[bytes] = []
        while not packer.done:
            cells_of.append(packer.cell())
        yield b"".join(cells_of) + bytes(PADDING.up_bytes)
