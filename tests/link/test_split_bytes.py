"""What split decisions cost in a simulation: the bytes of the wire, up with each drafted token and down with a miss."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from airdraft.core.rows import HALF_BYTES, TargetRow
from airdraft.core.types import Commit, Draft, Origin, Plan
from airdraft.link.shaping import Constant, Shape
from airdraft.link.sim_costs import Costs, message_bytes
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_text import MatchRun
from airdraft.link.simulation import Conduct, Link, SimulatedText, World
from airdraft.wire.convert import device_frame_to_proto, edge_frame_to_proto

VOCABULARY = 1000
ROW_BYTES = HALF_BYTES * VOCABULARY


@pytest.mark.parametrize("ids", [1, 4, 9])
def test_a_draft_with_probabilities_has_the_bytes_of_the_wire(ids: int) -> None:
    draft = Draft(1, 9, 300, 300, b"h" * 8, tuple(range(500, 500 + ids)), probabilities=(0.5,) * ids)
    assert abs(message_bytes(draft) - device_frame_to_proto(draft).ByteSize()) <= 6


def test_a_commit_with_a_row_has_the_bytes_of_the_wire() -> None:
    row = TargetRow.of(np.zeros(VOCABULARY, np.float16))
    commit = Commit(1, 300, (5, 6), 302, b"h" * 8, 9, (Origin.ACCEPTED, Origin.RECOVERED), row=row)
    assert abs(message_bytes(commit, ROW_BYTES) - edge_frame_to_proto(commit).ByteSize()) <= 12


def text_of(plan: Plan, row_bytes: int, *, miss_every: int = 3) -> SimulatedText:
    run = MatchRun(tuple(range(5, 45)), tuple(index % miss_every > 0 for index in range(40)))
    way = Shape(Constant(0.015))
    world = World(Costs(0.008, by_positions(lambda positions: 0.03 + 0.0003 * (positions - 1))))
    (text,) = world.one_by_one([run], Conduct(plan, row_bytes=row_bytes), Link.of(way, way, Random(1)))
    return text


def test_rows_come_down_with_misses_and_probabilities_go_up_with_drafts() -> None:
    plain, split = text_of(Plan(4), 0), text_of(Plan(4, split=True), ROW_BYTES)
    assert split.arrivals == plain.arrivals  # a link without a rate takes bytes in no time
    assert (split.drafted, split.passes) == (plain.drafted, plain.passes)
    assert split.bytes_up - plain.bytes_up >= 4 * split.drafted
    misses = (split.bytes_down - plain.bytes_down) / (ROW_BYTES + 4)
    assert misses == int(misses)
    assert 8 <= misses <= 14


def test_where_nothing_is_missed_nothing_more_comes_down() -> None:
    plain, split = text_of(Plan(4), 0, miss_every=41), text_of(Plan(4, split=True), ROW_BYTES, miss_every=41)
    assert split.bytes_down - plain.bytes_down <= ROW_BYTES + 4  # the first token of all is missed
    assert split.passes > 3
