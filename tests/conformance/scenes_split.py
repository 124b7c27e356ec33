"""The scenes of split decisions: probabilities go up with the drafts, the target's row comes down with a miss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airdraft.core.rows import TargetRow
from airdraft.core.sampling import choose
from airdraft.core.types import Origin, Sampling
from tests.conformance.kit import Json
from tests.conformance.recording import PROMPT, HandDevice, HandEdge, setup_of
from tests.core.worlds import VOCABULARY, alone

Files = dict[str, Json]

RIGHT = alone(PROMPT, 60)
SAMPLING = Sampling(1.0, seed=77, frequency_penalty=0.25)


def _row(token: int, path: Sequence[int], *, half: bool = False) -> TargetRow:
    """Return a row from which this token is drawn after the path; only it has a logit above 2."""
    logits = ((np.arange(VOCABULARY) * 7 + len(path)) % 17 / 8).astype(np.float32)
    logits[token] = 30
    row = TargetRow.of(logits.astype(np.float16) if half else logits)
    assert choose(row.logits, SAMPLING, VOCABULARY, path) == choose(row.logits, Sampling(), VOCABULARY, path) == token
    return row


def rows_drawn() -> Files:
    """A device that asks for rows: each drafted token has its probability, 1 where none was told; a miss, a row."""
    device = HandDevice(setup_of(draft_length=3, split=True, sampling=SAMPLING))
    device.attach()
    device.drafted([RIGHT[3], 9, 8], probabilities=[0.75, 0.5, 0.25])
    device.commit(RIGHT[3:4], Origin.RUN_AHEAD)
    device.commit(RIGHT[4:5], Origin.RECOVERED, seq=1, row=_row(RIGHT[4], RIGHT[:4]))
    device.drafted(RIGHT[5:8], probabilities=[0.125])
    device.detached()
    device.attach(2)  # what was drafted is new to the next edge, its probabilities are not
    device.commit(RIGHT[5:9], Origin.ACCEPTED, epoch=2, seq=1)  # an end without a miss
    device.commit(RIGHT[9:10], Origin.RECOVERED, epoch=2, row=_row(RIGHT[9], RIGHT[:9], half=True))
    device.commit(RIGHT[10:11], Origin.RECOVERED, epoch=2)  # without a row it stands as it is
    device.commit(RIGHT[11:12], Origin.RECOVERED, epoch=2, row=_row(RIGHT[11] ^ 1, RIGHT[:11]))  # a false one
    edge = HandEdge(sampling=SAMPLING)
    edge.open(rows=True)
    edge.passed()
    wrong = RIGHT[5] ^ 1
    edge.draft(RIGHT[:4], [RIGHT[4], wrong, 8])
    edge.passed(_row(RIGHT[5], RIGHT[:5]))
    edge.draft(RIGHT[:6], RIGHT[6:8])
    edge.passed()  # no miss, no row
    edge.draft(RIGHT[:9], [RIGHT[9] ^ 1])
    edge.leave()
    edge.open(RIGHT[:9], epoch=2, prefix=False)  # who asks for none gets none
    edge.passed(_row(RIGHT[9], RIGHT[:9]))  # of the stream before: it comes to nothing
    edge.draft(RIGHT[:9], [RIGHT[9] ^ 1], epoch=2)
    edge.passed()
    return {"device": device.tape.content(), "edge": edge.tape.content()}


def row_unasked() -> Files:
    """A row that nobody asked for is the edge's fault, true as it may be."""
    device = HandDevice(setup_of(draft_length=2, sampling=SAMPLING))
    device.attach()
    device.commit(RIGHT[3:4], Origin.RECOVERED, row=_row(RIGHT[3], RIGHT[:3]))
    return {"device": device.tape.content()}


SCENES = (rows_drawn, row_unasked)
