"""The walk-through cases of the protocol, each under a virtual clock (DESIGN §4 and §10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from airdraft.core.errors import BadAck, CreditsExceeded, EdgeFault, OutOfOrder
from airdraft.core.paths import DraftTree, HashedPath, next_hash, root_hash
from airdraft.core.session import EdgeSession
from airdraft.core.types import (
    MAX_FRAME_NODES,
    Commit,
    Draft,
    Limits,
    NeedPrefix,
    Open,
    Opened,
    Origin,
    Pass,
    PassResult,
    Prefix,
    RefusalCode,
    Refused,
    StopReason,
)
from airdraft.link.virtual_time import RowEngine, constant
from tests.core.worlds import IDENTITY, VOCABULARY, alone, make_device, make_pair, pseudo_target

PROMPT = (1, 2, 3)


def path_hash(ids: Sequence[int]) -> bytes:
    value = root_hash(IDENTITY)
    for token in ids:
        value = next_hash(value, token)
    return value


class Edge:
    """An edge session driven by hand, with an engine of rows."""

    def __init__(
        self,
        prompt: Sequence[int] = PROMPT,
        max_tokens: int = 40,
        limits: Limits | None = None,
        stop_ids: tuple[int, ...] = (),
    ) -> None:
        device = make_device(prompt, max_tokens=max_tokens, draft_length=0)
        opened, prefix, _idle = device.attach(1, with_prefix=True)
        assert isinstance(opened, Open)
        assert isinstance(prefix, Prefix)
        self.prefix = prefix
        opened = replace(opened, stop_ids=stop_ids)
        self.session = EdgeSession(opened, limits or Limits(context_tokens=4096))
        self.engine = RowEngine(pseudo_target)
        self.session.attach(opened)
        self.seq = 0

    def ready(self) -> Edge:
        """Take the prompt and commit the first token."""
        self.session.received(self.prefix)
        self.step()
        return self

    def draft(self, path: Sequence[int], ids: Sequence[int], *, acked: int | None = None, **fields: object) -> Draft:
        self.seq += 1
        known = self.session.committed_length if acked is None else acked
        draft = Draft(1, self.seq, min(known, len(path)), len(path), path_hash(path), tuple(ids))
        return replace(draft, **fields)  # type: ignore[arg-type]

    def step(self) -> Commit | None:
        """Run one pass, if there is one."""
        work = self.session.next_pass()
        return None if work is None else self.finish(work)

    def finish(self, work: Pass) -> Commit | None:
        frames = self.session.finished_pass(work, PassResult(self.engine.extend(work.span)))
        assert all(isinstance(frame, Commit) for frame in frames)
        return frames[0] if frames else None  # type: ignore[return-value]


def test_a_draft_that_begins_before_the_committed_length_keeps_its_rest() -> None:
    edge = Edge().ready()
    right = alone(PROMPT, 6)
    edge.session.received(edge.draft(right[:3], right[3:7], acked=3))  # the first of these is committed already
    assert edge.session.live_nodes == 3
    commit = edge.step()
    assert commit is not None
    assert commit.ids == tuple(right[4:8])
    assert commit.origins == (Origin.ACCEPTED,) * 3 + (Origin.BONUS,)


def test_a_draft_that_contradicts_the_committed_text_is_dropped_without_an_answer() -> None:
    edge = Edge().ready()
    right = alone(PROMPT, 6)
    wrong = [(right[3] + 1) % VOCABULARY, *right[4:6]]
    assert edge.session.received(edge.draft(right[:3], wrong, acked=3)) == []
    assert edge.session.live_nodes == 0
    assert edge.session.next_pass() is None  # synchronous: the edge waits for the device's next word


def test_a_miss_with_two_frames_in_flight() -> None:
    right = alone(PROMPT, 40)
    calls = {"wrong": 0}

    def draft(path: Sequence[int]) -> int:
        token = right[len(path)] if len(path) < len(right) else 0
        if len(path) == 8 and not calls["wrong"]:
            calls["wrong"] += 1
            return (token + 1) % VOCABULARY
        return token

    device = make_device(PROMPT, draft_length=3, outstanding=2)
    pair = make_pair(device, draft=draft, up=constant(0.05), down=constant(0.05))
    pair.attach(1)
    pair.run()
    assert list(device.ids) == right
    assert calls["wrong"] == 1
    assert device.tally.missed == 1
    frames = [frame for frame in pair.sent if isinstance(frame, Draft) and frame.ids]
    doomed = next(frame for frame in frames if frame.base <= 8 < frame.base + len(frame.ids))
    after = next(frame for frame in frames if frame.seq == doomed.seq + 1)
    assert after.base == doomed.base + len(doomed.ids)  # it flew under the miss and died with it
    assert device.tally.drafted - device.tally.accepted >= len(after.ids) + 1


def test_a_commit_that_overtakes_the_device() -> None:
    device = make_device(PROMPT, draft_length=4, max_tokens=12)
    right = alone(PROMPT, 12)
    device.attach(1, with_prefix=True)
    work = device.draft_work()
    assert work is not None
    device.drafted(work, right[3:5])  # the drafter has no more to say: a frame of two
    commit = Commit(1, 3, tuple(right[3:9]), 9, path_hash(right[:9]), 1, (Origin.RUN_AHEAD,) * 6)
    outputs = device.received(commit)
    assert list(device.ids) == right[:9]
    assert list(device.ahead) == []
    assert device.live_nodes == 0
    assert not any(isinstance(output, Draft) and output.ids for output in outputs)
    following = device.draft_work()
    assert following is not None
    assert following.path == tuple(right[:9])


def test_a_commit_that_agrees_never_restarts_a_draft_sent_or_not() -> None:
    right = alone(PROMPT, 30)
    device = make_device(PROMPT, draft_length=4, outstanding=2)
    device.attach(1, with_prefix=True)
    first = device.draft_work()
    assert first is not None
    device.drafted(first, right[3:7])
    half = device.draft_work()
    assert half is not None
    device.received(Commit(1, 3, tuple(right[3:5]), 5, path_hash(right[:5]), 1, (Origin.ACCEPTED,) * 2))
    assert device.is_current(half)
    (frame,) = device.drafted(half, right[7:11])
    assert isinstance(frame, Draft)
    assert frame.base == 7
    assert frame.acked == 5


@pytest.mark.parametrize("stop_at", [4, 5, 6])
def test_stop_id_inside_an_accepted_draft(stop_at: int) -> None:
    right = alone(PROMPT, 40)
    stop_id = right[stop_at]
    right = alone(PROMPT, 40, (stop_id,))
    device = make_device(PROMPT, draft_length=8, stop_ids=(stop_id,))
    full = alone(PROMPT, 40)
    pair = make_pair(device, draft=lambda path: full[len(path)] if len(path) < len(full) else 0)
    pair.attach(1)
    pair.run()
    assert list(device.ids) == right
    assert device.stop is StopReason.STOP_TOKEN
    assert pair.edge is not None
    assert pair.edge.finished

    # A drafter that goes on past the stop, as no honest device would.
    edge = Edge(stop_ids=(stop_id,)).ready()
    if stop_at > 3:
        edge.session.received(edge.draft(full[:4], full[4:12]))
        commit = edge.step()
        assert commit is not None
        assert commit.stop is StopReason.STOP_TOKEN
        assert [*full[:4], *commit.ids] == right  # nothing after the stop is committed
        assert edge.session.next_pass() is None


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 5, 9])
def test_max_tokens_inside_an_accepted_draft(max_tokens: int) -> None:
    full = alone(PROMPT, 60)
    device = make_device(PROMPT, draft_length=8, max_tokens=max_tokens)
    pair = make_pair(device, draft=lambda path: full[len(path)])
    pair.attach(1)
    pair.run()
    assert list(device.ids) == full[: 3 + max_tokens]
    assert device.stop is StopReason.MAX_TOKENS
    assert device.ended

    edge = Edge(max_tokens=max_tokens)
    frames = edge.session.received(edge.prefix)
    if max_tokens == 0:
        assert [(frame.ids, frame.stop) for frame in frames if isinstance(frame, Commit)] == [
            ((), StopReason.MAX_TOKENS)
        ]
    else:
        edge.session.received(edge.draft(full[:3], full[3:15], acked=3))
        commit = edge.step()
        assert commit is not None
        assert [*full[:3], *commit.ids] == full[: 3 + max_tokens]
        assert commit.stop is StopReason.MAX_TOKENS


def test_sequence_numbers_rise_by_one() -> None:
    edge = Edge().ready()
    right = alone(PROMPT, 8)
    edge.session.received(edge.draft(right[:4], right[4:5]))
    with pytest.raises(OutOfOrder, match="came where 2 was due"):
        edge.session.received(edge.draft(right[:4], right[4:5], seq=1))  # a duplicate
    edge = Edge().ready()
    with pytest.raises(OutOfOrder, match="came where 1 was due"):
        edge.session.received(edge.draft(right[:4], right[4:5], seq=3))  # a gap


@pytest.mark.parametrize("acked", [2, 5])
def test_acks_neither_fall_nor_pass_the_committed_end(acked: int) -> None:
    edge = Edge().ready()
    with pytest.raises(BadAck):
        edge.session.received(Draft(1, 1, acked, acked, path_hash(())))


def test_frames_of_a_foreign_epoch_are_dropped_at_both_ends() -> None:
    edge = Edge().ready()
    right = alone(PROMPT, 8)
    for epoch in (2, 7):
        assert edge.session.received(edge.draft(right[:4], right[4:6], epoch=epoch)) == []
    assert edge.session.live_nodes == 0
    device = make_device(PROMPT)
    device.attach(3, with_prefix=True)
    assert device.received(Commit(2, 3, (1,), 4, b"wrong---", 0, (Origin.RUN_AHEAD,))) == []
    assert len(device.ids) == 3


def test_dead_and_overtaken_nodes_give_their_credits_back() -> None:
    limits = Limits(context_tokens=4096, live_nodes=4)
    edge = Edge(limits=limits).ready()
    right = alone(PROMPT, 30)
    wrong = [(token + 1) % VOCABULARY for token in right]
    edge.session.received(edge.draft(right[:4], wrong[4:8], acked=4))  # four nodes, all to die
    assert edge.session.live_nodes == 4
    commit = edge.step()
    assert commit is not None
    assert commit.origins == (Origin.RECOVERED,)
    assert edge.session.live_nodes == 0
    edge.session.received(edge.draft(right[:4], right[4:9], acked=4))  # the first of the five is overtaken
    assert edge.session.live_nodes == 4
    assert edge.step() is not None
    assert edge.session.live_nodes == 0
    with pytest.raises(CreditsExceeded, match="5 live nodes, 4 granted"):
        edge.session.received(edge.draft(right[: edge.session.committed_length], range(5)))


@pytest.mark.parametrize("credits", [1, 2, 3, 5])
@pytest.mark.parametrize("outstanding", [1, 3])
def test_small_credits_slow_a_device_down_and_never_stop_it(credits: int, outstanding: int) -> None:
    limits = Limits(context_tokens=4096, live_nodes=credits)
    device = make_device(PROMPT, draft_length=4, outstanding=outstanding, limits=limits)
    pair = make_pair(device, draft=0.6, limits=limits)
    pair.attach(1)
    pair.run()
    assert list(device.ids) == alone(PROMPT, 40)
    assert device.tally.accepted > 0
    assert not pair.lost


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_a_device_that_only_acks(ahead: int) -> None:
    limits = Limits(context_tokens=4096, ahead_tokens=ahead)
    device = make_device(PROMPT, draft_length=0, limits=limits)
    pair = make_pair(device, limits=limits)
    pair.attach(1)
    pair.run()
    assert list(device.ids) == alone(PROMPT, 40)
    assert device.tally.by_origin[Origin.RUN_AHEAD] == 40
    assert device.tally.drafted == 0
    acked = 3
    for work in pair.passes[1:]:
        acked = max(
            [acked, *(frame.acked for frame in pair.sent if isinstance(frame, Draft) and frame.seq <= work.last_seq)]
        )
        assert work.base - acked < ahead  # the edge never decodes further past what it knows to be acked


def test_drafts_that_arrive_before_the_prompt_is_complete_are_kept_and_judged_then() -> None:
    right = alone(PROMPT, 8)
    edge = Edge()
    edge.session.received(edge.draft(right[:3], right[3:6], acked=3))
    assert edge.session.live_nodes == 3
    assert edge.session.next_pass() is None
    edge.session.received(edge.prefix)
    commit = edge.step()
    assert commit is not None
    assert commit.ids == tuple(right[3:7])
    assert commit.origins == (Origin.ACCEPTED,) * 3 + (Origin.BONUS,)


def test_waiting_drafts_count_against_the_credits() -> None:
    edge = Edge(limits=Limits(context_tokens=4096, live_nodes=2))
    with pytest.raises(CreditsExceeded):
        edge.session.received(edge.draft(PROMPT, (1, 2, 3), acked=3))


@pytest.mark.parametrize(("length", "chunk"), [(3, 1), (100, 7), (1300, 512), (1300, 4096)])
def test_a_prompt_in_chunks(length: int, chunk: int) -> None:
    limits = Limits(context_tokens=4096, prefix_chunk_tokens=chunk)
    prompt = [(7 * index) % VOCABULARY for index in range(length)]
    device = make_device(prompt, limits=limits, max_tokens=10)
    pair = make_pair(device, limits=limits)
    pair.attach(1)
    pair.run()
    assert list(device.ids) == alone(prompt, 10)
    prefixes = [frame for frame in pair.sent if isinstance(frame, Prefix)]
    assert len(prefixes) == -(-length // chunk)
    assert max(len(work.span.tokens) for work in pair.passes) <= 512 + 8


def test_a_draft_of_the_last_position_alone_is_answered() -> None:
    edge = Edge(max_tokens=5).ready()
    right = alone(PROMPT, 5)
    edge.session.received(edge.draft(right[:4], right[4:7]))
    commit = edge.step()
    assert commit is not None
    assert commit.length == 8
    edge = Edge(max_tokens=2).ready()
    edge.session.received(edge.draft(right[:4], right[4:5]))  # the text's last token: it is the target's in any case
    commit = edge.step()
    assert commit is not None
    assert commit.ids == (right[4],)
    assert commit.stop is StopReason.MAX_TOKENS


@pytest.mark.parametrize(
    ("ids", "stop"),
    [
        ((9,), StopReason.STOP_TOKEN),  # no stop id
        ((9,), StopReason.MAX_TOKENS),  # not the last token
        ((7,), None),  # a stop id
        ((7, 9), None),  # a stop id inside
        ((9,) * 40, None),  # the last token
    ],
)
def test_a_commit_that_ends_where_the_text_does_not_is_a_fault(ids: tuple[int, ...], stop: StopReason | None) -> None:
    device = make_device(PROMPT, stop_ids=(7,))
    device.attach(1, with_prefix=True)
    end = 3 + len(ids)
    commit = Commit(1, 3, ids, end, path_hash([*PROMPT, *ids]), 0, (Origin.RUN_AHEAD,) * len(ids), stop)
    with pytest.raises(EdgeFault, match="a commit ends where"):
        device.received(commit)
    assert list(device.ids) == list(PROMPT)


def test_limits_of_describe_hold_until_opened() -> None:
    device = make_device(PROMPT, draft_length=8)
    device.attach(1, with_prefix=True)
    device.received(Opened(1, 0, 3, Limits(4096, live_nodes=100)))
    device.detached()
    device.attach(2, with_prefix=True, limits=Limits(4096, live_nodes=2))
    work = device.draft_work()
    assert work is not None
    assert work.count == 2


def test_the_last_prefill_row_commits_the_first_token_in_every_mode() -> None:
    edge = Edge()
    edge.session.received(edge.prefix)
    commit = edge.step()
    assert commit is not None
    assert commit.ids == (pseudo_target(PROMPT),)
    assert edge.session.next_pass() is None


def test_a_tree_of_drafts_follows_the_branch_that_is_the_targets() -> None:
    edge = Edge().ready()
    right = alone(PROMPT, 12)
    other = (right[4] + 1) % VOCABULARY
    # Two first candidates, each with a continuation; the second branch is right.
    draft = edge.draft(right[:4], (other, right[4], 9, right[5], right[6]), parents=(-1, -1, 0, 1, 3))
    edge.session.received(draft)
    commit = edge.step()
    assert commit is not None
    assert commit.ids == tuple(right[4:8])
    edge.session.received(edge.draft(right[:8], right[8:10]))
    following = edge.session.next_pass()
    assert following is not None
    assert following.span.gather == (5, 7, 8)  # rows of the branch, moved before anything else
    commit = edge.finish(following)
    assert commit is not None
    assert commit.ids == tuple(right[8:11])


def test_a_frame_under_any_node_of_an_earlier_frame() -> None:
    edge = Edge().ready()
    right = alone(PROMPT, 12)
    wrong = (right[6] + 1) % VOCABULARY
    edge.session.received(edge.draft(right[:4], [*right[4:6], wrong]))
    edge.session.received(edge.draft(right[:6], right[6:8], acked=4))
    assert edge.session.live_nodes == 5
    edge.session.received(edge.draft(right[:5], [right[5], (right[6] + 2) % VOCABULARY], acked=4))
    assert edge.session.live_nodes == 6  # one of the two was live already: the same node
    edge.session.received(edge.draft([*right[:4], 49, 48], [1], acked=4))  # hangs under nothing that is known
    assert edge.session.live_nodes == 6
    commit = edge.step()
    assert commit is not None
    assert commit.ids == tuple(right[4:9])


def test_a_base_older_than_the_hash_window_is_overtaken() -> None:
    path = HashedPath(root_hash(IDENTITY))
    ids = [index % VOCABULARY for index in range(3000)]
    path.extend(ids)
    assert path.at(3000) == path.end == path_hash(ids)
    assert path.at(3000 - MAX_FRAME_NODES) == path_hash(ids[: 3000 - MAX_FRAME_NODES])
    assert path.at(10) is None
    tree = DraftTree()
    assert tree.add(Draft(1, 1, 10, 10, path_hash(ids[:10]), tuple(ids[10:14])), path) == 0
    assert tree.add(Draft(1, 1, 2990, 2990, path_hash(ids[:2990]), (*ids[2990:], 5)), path) == 1


def test_a_refused_frame_dies_with_all_under_it_on_the_device() -> None:
    right = alone(PROMPT, 30)
    device = make_device(PROMPT, draft_length=2, outstanding=3)
    device.attach(1, with_prefix=True)
    frames = []
    for _ in range(3):
        work = device.draft_work()
        assert work is not None
        frames += device.drafted(work, right[len(work.path) : len(work.path) + 2])
    assert [frame.seq for frame in frames if isinstance(frame, Draft)] == [1, 2, 3]
    device.received(Refused(1, RefusalCode.RETRY_LATER, "busy", seq=2, ends_stream=False))
    assert list(device.ahead) == right[3:5]
    assert device.live_nodes == 2
    work = device.draft_work()
    assert work is not None
    assert work.path == tuple(right[:5])


def test_evicted_rows_are_replayed_and_live_drafts_survive() -> None:
    edge = Edge().ready()
    right = alone(PROMPT, 12)
    edge.session.received(edge.draft(right[:4], right[4:7]))
    edge.session.evicted()
    edge.engine.rows.clear()
    assert edge.session.live_nodes == 3
    commit = edge.step()
    assert commit is not None
    assert commit.ids == tuple(right[4:8])


def test_evicted_ids_are_asked_for_and_live_drafts_survive() -> None:
    edge = Edge().ready()
    right = alone(PROMPT, 12)
    edge.session.received(edge.draft(right[:4], right[4:7]))
    edge.engine.rows.clear()
    assert edge.session.evicted(ids_too=True) == [NeedPrefix(1, 0)]
    assert edge.session.next_pass() is None
    edge.session.received(Prefix(1, 0, tuple(right[:4])))
    commit = edge.step()
    assert commit is not None
    assert commit.ids == tuple(right[4:8])


def test_opened_tells_what_the_edge_holds() -> None:
    pair = make_pair(make_device(PROMPT, draft_length=0))
    pair.attach(1)
    pair.run(events=6)
    pair.cut()
    held = len(pair.device.ids)
    pair.attach(2, with_prefix=False)
    pair.run()
    opened = [frame for frame in pair.answered if isinstance(frame, Opened)]
    assert opened[0].committed_length == 3
    assert opened[1].committed_length >= held
    assert list(pair.device.ids) == alone(PROMPT, 40)
