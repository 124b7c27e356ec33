"""Frames in cells: whatever is said and however it is cut, the same frames come out and every cell has one size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.cells import LENGTH_BYTES, PADDING, Ending, Packer, Padding, Reader
from airdraft.core.errors import MalformedFrame
from airdraft.core.types import MAX_FRAME_BYTES

frames = st.lists(st.binary(min_size=1, max_size=300), max_size=12)
sizes = st.integers(LENGTH_BYTES + 1, 64)
endings = st.sampled_from(Ending)


def carried(packer: Packer, reader: Reader, cells: int) -> list[bytes]:
    out: list[bytes] = []
    for _ in range(cells):
        out += reader.take(packer.cell())
    return out


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=300), st.none())), sizes, endings)
def test_any_frames_come_out_whole_and_in_order(steps: list[bytes | None], size: int, ending: Ending) -> None:
    """None: a cell leaves just then."""
    packer, reader = Packer(size), Reader(size)
    came: list[bytes] = []
    for step in steps:
        if step is not None:
            packer.put(step)
            continue
        cell = packer.cell()
        assert len(cell) == size
        came += reader.take(cell)
    assert reader.ending is None
    while packer.waiting_bytes:
        came += reader.take(packer.cell())
    said = [step for step in steps if step is not None]
    assert came == said
    packer.end(ending)
    assert not packer.done
    assert carried(packer, reader, 1) == []
    assert packer.done
    assert reader.ending is ending
    assert packer.cell() == bytes(size)
    assert reader.take(bytes(size)) == []


@given(frames, sizes, st.integers(0, 5))
def test_who_leaves_gives_up_what_has_not_begun(said: list[bytes], size: int, cells: int) -> None:
    packer, reader = Packer(size), Reader(size)
    for frame in said:
        packer.put(frame)
    came = carried(packer, reader, cells)
    packer.end(Ending.DROPPED)
    assert packer.waiting_bytes <= 300 + 2 * LENGTH_BYTES
    while not packer.done:
        came += reader.take(packer.cell())
    assert reader.ending is Ending.DROPPED
    assert came == said[: len(came)]
    packer.end(Ending.FINISHED)
    assert packer.ending is Ending.DROPPED
    with pytest.raises(ValueError, match="ended"):
        packer.put(b"late")


def test_the_longest_frame_fits_and_no_longer_one() -> None:
    packer, reader = Packer(256), Reader(256)
    packer.put(bytes(MAX_FRAME_BYTES))
    assert carried(packer, reader, -(-MAX_FRAME_BYTES // 256) + 1) == [bytes(MAX_FRAME_BYTES)]
    for wrong in (b"", bytes(MAX_FRAME_BYTES + 1)):
        with pytest.raises(ValueError, match="does not go in cells"):
            packer.put(wrong)
    with pytest.raises(ValueError, match="holds no frame"):
        Packer(LENGTH_BYTES)


def length(value: int) -> bytes:
    return value.to_bytes(LENGTH_BYTES, "little")


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        ([b""], "cell of 0"),
        ([bytes(15)], "cell of 15"),
        ([bytes(17)], "cell of 17"),
        ([length(MAX_FRAME_BYTES + 1) + bytes(13)], "frame of"),
        ([length(0xFFFFFD) + bytes(13)], "frame of"),
        ([bytes(3) + b"x" + bytes(12)], "padding"),
        ([length(2) + b"ab" + bytes(10) + b"x"], "padding"),
        ([length(11) + bytes(11) + b"\1\0"], "padding"),  # a length that does not fit into the cell
        ([length(Ending.FINISHED) + b"x" + bytes(12)], "padding"),
        ([length(Ending.FINISHED) + bytes(13), length(1) + bytes(13)], "padding"),
    ],
)
def test_what_is_no_cell_is_refused(cells: list[bytes], word: str) -> None:
    reader = Reader(16)
    *good, bad = cells
    for cell in good:
        assert reader.take(cell) == []
    with pytest.raises(MalformedFrame, match=word) as caught:
        reader.take(bad)
    assert caught.value.field == "data"


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=40))
def test_a_reader_holds_no_more_than_a_frame(cells: list[bytes]) -> None:
    reader = Reader(16)
    fields: list[str] = []
    for cell in cells:
        try:
            frames = list(reader.take(cell))
        except MalformedFrame as error:
            fields.append(error.field)
            break
        assert all(0 < len(frame) <= MAX_FRAME_BYTES for frame in frames)
    assert fields in ([], ["data"])


@given(st.integers(0, 1 << 20))
def test_a_stream_ends_on_the_ladder(cells: int) -> None:
    rung = PADDING.rung(cells)
    assert rung >= cells
    assert rung < 2 * cells or rung == PADDING.first_rung
    assert PADDING.rung(rung) == rung
    assert bin(rung // PADDING.first_rung).count("1") == 1


def test_without_a_pace_there_is_no_ladder() -> None:
    assert Padding(interval_s=0.0).rung(7) == 7
