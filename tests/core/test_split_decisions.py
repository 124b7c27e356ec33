"""Split decisions: the device tells how sure its drafter was, and draws what replaces a miss from the target's row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from airdraft.core.errors import EdgeFault
from airdraft.core.paths import HashedPath, root_hash
from airdraft.core.rows import TargetRow
from airdraft.core.sampling import choose
from airdraft.core.session import DeviceSession, EdgeSession
from airdraft.core.types import Commit, Draft, EdgeFrame, Limits, Open, Origin, Pass, PassResult, Plan, Sampling
from airdraft.link.virtual_time import VirtualPair
from tests.core.worlds import IDENTITY, VOCABULARY, alone, make_device, make_pair

SAMPLINGS = {
    "greedy": Sampling(),
    "temperature 1": Sampling(1.0, seed=7),
    "penalised": Sampling(0.8, seed=9, top_p=0.95, repetition_penalty=1.3, frequency_penalty=0.2),
}
PROMPT = (1, 2, 3)


def logits_after(path: Sequence[int]) -> NDArray[np.float32]:
    """Any row that depends on the whole path."""
    logits: NDArray[np.float32] = np.random.default_rng(pseudo_seed(path)).normal(0, 2, VOCABULARY).astype(np.float32)
    return logits


def pseudo_seed(path: Sequence[int]) -> int:
    seed = 0
    for token in path:
        seed = (seed * 31 + token + 1) % (1 << 31)
    return seed


class RowEdge(EdgeSession):
    """An edge whose engine returns the row of each miss, whether it is asked for or not."""

    def finished_pass(self, done: Pass, result: PassResult) -> list[EdgeFrame]:
        row = None
        if done.nodes:
            ids = list(self.ids)
            first = len(done.span.tokens) - done.nodes
            for token, choice in zip((*done.span.tokens[first:], None), result.choices, strict=True):
                if token != choice:
                    row = TargetRow.of(logits_after(ids)) if token is not None else None
                    break
                ids.append(choice)
        return super().finished_pass(done, replace(result, row=row))


@dataclass(slots=True)
class RowPair(VirtualPair):
    """A pair whose edge returns rows."""

    def _edge_takes(self, frame: Any) -> None:
        if isinstance(frame, Open) and (self.edge is None or self.edge.finished):
            self.edge = RowEdge(frame, self.limits)
        VirtualPair._edge_takes(self, frame)


def pair_of(sampling: Sampling, plan: Plan, acceptance: float = 0.6) -> RowPair:
    def target(path: Sequence[int]) -> int:
        return choose(logits_after(path), sampling, VOCABULARY, path)

    def draft(path: Sequence[int]) -> int:
        agrees = pseudo_seed((*path, 5)) % 1000 < 1000 * acceptance
        return target(path) if agrees else (target(path) + 1) % VOCABULARY

    limits = Limits(context_tokens=4096)
    device = DeviceSession(
        b"s" * 16, IDENTITY, PROMPT, sampling=sampling, stop_ids=(), max_tokens=60, limits=limits, plan=plan
    )  # fmt: skip
    return RowPair(device, target, draft, limits)


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("plan", [Plan(4, split=True), Plan(3, 3, split=True)], ids=["sync", "three in flight"])
def test_every_recovered_token_is_drawn_by_the_device(name: str, plan: Plan) -> None:
    sampling = SAMPLINGS[name]
    pair = pair_of(sampling, plan)
    pair.attach(1)
    pair.run()
    assert list(pair.device.ids) == alone(PROMPT, 60, target=pair.target)
    tally = pair.device.tally
    assert tally.drawn == tally.by_origin[Origin.RECOVERED] > 5
    drafts = [frame for frame in pair.sent if isinstance(frame, Draft) and frame.ids]
    assert all(draft.probabilities == (1.0,) * len(draft.ids) for draft in drafts)


def test_who_does_not_ask_gets_no_rows_and_tells_nothing() -> None:
    pair = pair_of(SAMPLINGS["temperature 1"], Plan(4))
    pair.attach(1)
    pair.run()
    commits = [frame for frame in pair.answered if isinstance(frame, Commit)]
    assert any(Origin.RECOVERED in commit.origins for commit in commits)
    assert all(commit.row is None for commit in commits)
    assert all(frame.probabilities is None for frame in pair.sent if isinstance(frame, Draft))
    assert not any(work.row for work in pair.passes)


def test_a_row_is_wanted_of_passes_that_verify_the_devices_draft_alone() -> None:
    device = make_device(max_tokens=30)
    device.plan = Plan(4, split=True)
    pair = make_pair(device)
    pair.attach(1)
    pair.run()
    assert list(device.ids) == alone(PROMPT, 30)  # an edge whose engine gives no rows: the text goes on as it stands
    assert [work.row for work in pair.passes] == [work.nodes > 0 for work in pair.passes]
    assert device.tally.drawn == 0


def test_a_device_without_split_decisions_takes_the_session_over() -> None:
    """What was asked for belongs to a stream: the next one may ask for something else."""
    pair = pair_of(SAMPLINGS["greedy"], Plan(4, split=True))
    pair.attach(1)
    pair.run(events=60)
    drawn = pair.device.tally.drawn
    assert drawn
    assert not pair.device.ended
    pair.cut()
    pair.device.plan = Plan(4)
    pair.attach(2)
    pair.run()
    assert list(pair.device.ids) == alone(PROMPT, 60, target=pair.target)
    assert pair.device.tally.drawn == drawn


# ---- by hand ----


def attached(*, split: bool = True) -> DeviceSession:
    device = make_device(draft_length=2)
    device.plan = Plan(2, split=split)
    device.attach(1, with_prefix=True)
    return device


def commit_of(device: DeviceSession, token: int, row: TargetRow | None, origin: Origin = Origin.RECOVERED) -> Commit:
    ids = list(device.ids)
    path = HashedPath(root_hash(IDENTITY))
    path.extend([*ids, token])
    return Commit(1, len(ids), (token,), len(ids) + 1, path.end, 0, (origin,), row=row)


def row_of(token: int, *, half: bool = False) -> TargetRow:
    logits = np.zeros(VOCABULARY, np.float32)
    logits[token] = 9
    return TargetRow.of(logits.astype(np.float16)) if half else TargetRow.of(logits)


@pytest.mark.parametrize("half", [False, True])
def test_a_row_that_gives_the_token_is_taken(half: bool) -> None:
    device = attached()
    device.received(commit_of(device, 7, row_of(7, half=half)))
    assert device.ids[-1] == 7
    assert device.tally.drawn == 1


BAD_ROWS = {
    "gives another token": row_of(8),
    "holds a NaN": TargetRow.of(np.full(VOCABULARY, np.nan, np.float32)),
    "holds nothing that can be drawn": TargetRow.of(np.full(VOCABULARY, -np.inf, np.float32)),
    "is too short for its token": TargetRow.of(np.zeros(5, np.float32)),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_does_not_give_the_token_is_the_edges_fault(name: str) -> None:
    device = attached()
    before, tally = list(device.ids), replace(device.tally)
    with pytest.raises(EdgeFault, match="row"):
        device.received(commit_of(device, 7, BAD_ROWS[name]))
    assert list(device.ids) == before
    assert device.tally == tally


def test_a_row_that_nobody_asked_for_is_the_edges_fault() -> None:
    device = attached(split=False)
    with pytest.raises(EdgeFault, match="nobody asked"):
        device.received(commit_of(device, 7, row_of(7)))


def test_a_commit_without_a_row_stands() -> None:
    device = attached()
    device.received(commit_of(device, 7, None))
    assert device.ids[-1] == 7


def test_probabilities_go_up_with_their_tokens() -> None:
    device = attached()
    device.received(commit_of(device, 7, None, Origin.RUN_AHEAD))
    work = device.draft_work()
    assert work is not None
    (draft,) = device.drafted(work, [4, 5], [0.25, 0.5])
    assert isinstance(draft, Draft)
    assert (draft.ids, draft.probabilities) == ((4, 5), (0.25, 0.5))


def test_what_was_drafted_before_a_loss_keeps_its_probabilities() -> None:
    device = attached()
    device.received(commit_of(device, 7, None, Origin.RUN_AHEAD))
    work = device.draft_work()
    assert work is not None
    device.drafted(work, [4, 5], [0.25, 0.5])
    device.detached()
    outputs = device.attach(2, with_prefix=True)
    (again,) = [output for output in outputs if isinstance(output, Draft)]
    assert (again.ids, again.probabilities) == ((4, 5), (0.25, 0.5))


def test_a_new_line_has_its_own_probabilities() -> None:
    device = attached()
    device.received(commit_of(device, 7, None, Origin.RUN_AHEAD))
    work = device.draft_work()
    assert work is not None
    device.drafted(work, [4, 5], [0.25, 0.5])
    device.received(commit_of(device, 9, row_of(9)))  # the 4 was missed
    work = device.draft_work()
    assert work is not None
    (draft,) = device.drafted(work, [5, 6], [0.125])
    assert isinstance(draft, Draft)
    assert draft.probabilities == (0.125, 1.0)
