"""The way down to one device."""

from __future__ import annotations

import numpy as np

from airdraft.core.rows import TargetRow
from airdraft.core.types import Commit, EdgeFrame, Origin, Ping
from edge_node.streams import Stream

ROW = TargetRow.of(np.arange(4, dtype=np.float32))
COMMIT = Commit(1, 0, (3,), 1, b"12345678", 1, (Origin.RECOVERED,), row=ROW)


async def sent(*frames: EdgeFrame) -> list[EdgeFrame]:
    stream = Stream()
    for frame in frames:
        stream.send(frame)
    stream.end()
    return [frame async for frame in stream]


async def test_a_commit_that_waits_for_no_other_frame_brings_its_row() -> None:
    assert await sent(COMMIT) == [COMMIT]


async def test_a_commit_behind_another_frame_leaves_its_row_here() -> None:
    _, committed = await sent(Ping(1, 0, ack=True), COMMIT)
    assert isinstance(committed, Commit)
    assert committed.ids == COMMIT.ids
    assert committed.row is None
