"""The device's part in a semantic session: what it asks for, tells, checks and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import EdgeFault
from airdraft.core.meaning import pack_rows, unpack_rows
from airdraft.core.paths import next_hash, root_hash
from airdraft.core.session import Committed, DeviceSession, Output, Overtaking
from airdraft.core.session.device_meaning import MARGIN, MOST_Q_ENTRIES
from airdraft.core.types import (
    EXACT,
    MAX_FRAME_BYTES,
    Commit,
    Draft,
    Finish,
    Granted,
    Hidden,
    HiddenProtocol,
    Limits,
    NeedHidden,
    Open,
    Opened,
    Origin,
    Plan,
    Prefix,
    Quote,
    Report,
    Sampling,
    Semantic,
    StateKind,
    StopReason,
)
from airdraft.wire.convert import device_frame_to_proto
from tests.core.worlds import IDENTITY

PROMPT = (1, 2, 3)
WIDTH = 6
LIMITS = Limits(context_tokens=4096)
ASKED = Semantic(0.02, "head", HiddenProtocol.TARGET_ONLY, b"d" * 32, WIDTH)
STOP = 49
PLAN = Plan(4)
A, R, M, B = Origin.ACCEPTED, Origin.RECOVERED, Origin.MEANING, Origin.BONUS


def asking(protocol: HiddenProtocol, **fields: Any) -> Semantic:
    return replace(ASKED, protocol=protocol, **fields)


def granting(asked: Semantic = ASKED, **fields: Any) -> Granted:
    return replace(Granted(asked.max_loss, asked.rule, asked.protocol), **fields)


def device_of(asked: Semantic | None = ASKED, plan: Plan = PLAN, **fields: Any) -> DeviceSession:
    return DeviceSession(
        b"s" * 16,
        IDENTITY,
        PROMPT,
        sampling=Sampling(),
        stop_ids=(STOP,),
        max_tokens=40,
        limits=LIMITS,
        plan=plan,
        semantic=asked,
        **fields,
    )


def opened(device: DeviceSession, granted: Granted = EXACT, *, epoch: int = 1, **fields: Any) -> list[Output]:
    """Attach and let the edge answer; return what its answer brings."""
    device.attach(epoch, with_prefix=True)
    frame = Opened(epoch, 0, len(device.ids), LIMITS, granted=granted)
    return device.received(replace(frame, **fields))


def granted_device(asked: Semantic = ASKED, plan: Plan = PLAN, **fields: Any) -> DeviceSession:
    device = device_of(asked, plan, **fields)
    opened(device, granting(asked))
    return device


def path_hash(ids: Sequence[int]) -> bytes:
    value = root_hash(IDENTITY)
    for token in ids:
        value = next_hash(value, token)
    return value


def draft(device: DeviceSession, tokens: Sequence[int], *told: Any, **more: Any) -> list[Output]:
    work = device.draft_work()
    assert work is not None
    return device.drafted(work, tokens, *told, **more)


def commit(
    device: DeviceSession, ids: Sequence[int], origins: Sequence[Origin], *, spent: float = 0.0, epoch: int = 1
) -> list[Output]:
    base = len(device.ids)
    end = path_hash([*device.ids, *ids])
    stop = StopReason.STOP_TOKEN if ids[-1] == STOP else None
    frame = Commit(epoch, base, tuple(ids), base + len(ids), end, 0, tuple(origins), stop, spent=spent)
    return device.received(frame)


def states_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (count, WIDTH)).astype(np.float32)


def frames(outputs: Sequence[Output], kind: type[Any]) -> list[Any]:
    return [output for output in outputs if isinstance(output, kind)]


# ---- asking and granting ----


def test_only_who_asks_says_so_at_each_attach() -> None:
    device = device_of()
    assert [frame.semantic for frame in frames(device.attach(1, with_prefix=True), Open)] == [ASKED]
    device.detached()
    assert [frame.semantic for frame in frames(device.attach(2, with_prefix=True), Open)] == [ASKED]
    exact = device_of(None)
    assert [frame.semantic for frame in frames(exact.attach(1, with_prefix=True), Open)] == [None]


def test_what_is_granted_can_be_read_and_ends_with_the_stream() -> None:
    device = device_of()
    assert device.granted == EXACT
    less = Granted(0.01, "head", HiddenProtocol.TARGET_ONLY, "this edge grants 0.01 at most")
    opened(device, less)
    assert device.granted == less
    device.detached()
    assert device.granted == EXACT
    device.attach(2, with_prefix=True)
    assert device.granted == EXACT


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (None, granting()),
        (ASKED, granting(max_loss=0.03)),
        (ASKED, granting(rule="typical")),
        (ASKED, granting(protocol=HiddenProtocol.FULL_HIDDEN)),
        (asking(HiddenProtocol.FULL_HIDDEN), granting(protocol=HiddenProtocol.MISMATCH_FIRST)),
    ],
    ids=["not asked", "a greater cap", "another rule", "states", "states in another way"],
)
def test_no_edge_grants_what_nobody_asked_for(asked: Semantic | None, granted: Granted) -> None:
    device = device_of(asked)
    with pytest.raises(EdgeFault, match=r"nobody asked|not offered"):
        opened(device, granted)
    assert device.granted == EXACT


def test_an_edge_may_do_without_states() -> None:
    device = device_of(asking(HiddenProtocol.FULL_HIDDEN))
    opened(device, granting())
    frame = frames(draft(device, (4, 5, 6, 7), states=states_of(4)), Draft)[0]
    assert frame.states is None


# ---- tokens accepted by meaning ----


def test_a_token_accepted_by_meaning_counts_as_accepted() -> None:
    device = granted_device()
    draft(device, (4, 5, 6, 7))
    outputs = commit(device, (4, 5, 6, 9), (A, M, A, R), spent=0.125)
    assert frames(outputs, Committed)[0].origins == (A, M, A, R)
    assert list(device.ids) == [1, 2, 3, 4, 5, 6, 9]
    tally = device.tally
    assert (tally.accepted, tally.meaning, tally.missed, tally.spent) == (3, 1, 1, 0.125)
    assert tally.stretches == [3]


@pytest.mark.parametrize(
    ("ids", "origins"),
    [
        ((4, 9), (A, M)),
        ((9,), (M,)),
        ((8, 5, 6), (R, M, A)),
        ((4, 5, 6, 7, 8), (A, A, A, A, M)),
    ],
    ids=["another token", "nothing drafted", "behind a miss", "past the draft"],
)
def test_only_what_was_drafted_there_is_accepted_by_meaning(ids: Sequence[int], origins: Sequence[Origin]) -> None:
    device = granted_device()
    draft(device, (4, 5, 6, 7))
    with pytest.raises(EdgeFault, match="not drafted there"):
        commit(device, ids, origins)
    assert list(device.ids) == list(PROMPT)
    assert device.tally.meaning == 0


def test_a_drafted_token_that_was_not_sent_is_not_accepted() -> None:
    device = granted_device(plan=Plan(2, ahead=1))
    draft(device, (4, 5))
    draft(device, (6,))
    assert list(device.ahead) == [4, 5, 6]
    with pytest.raises(EdgeFault, match="not drafted there"):
        commit(device, (4, 5, 6), (A, A, M))


def test_nothing_is_accepted_by_meaning_that_was_not_granted() -> None:
    for device in (device_of(None), device_of()):
        opened(device)
        draft(device, (4, 5, 6, 7))
        with pytest.raises(EdgeFault, match="not granted"):
            commit(device, (4,), (M,))


def test_no_stop_token_is_accepted_by_meaning() -> None:
    device = granted_device()
    draft(device, (4, STOP))
    with pytest.raises(EdgeFault, match="stop token"):
        commit(device, (4, STOP), (A, M))
    assert commit(device, (4, STOP), (A, A))[-1] == Finish(1, 5)


def test_what_an_edge_repeats_after_an_attach_was_drafted_before() -> None:
    """The answer of the stream before was lost, and the device was started anew: it knows no drafts."""
    device = device_of()
    opened(device, granting(), committed_length=5)
    commit(device, (4, 5), (A, M), spent=0.25)
    assert device.tally.meaning == 1
    with pytest.raises(EdgeFault, match="not drafted there"):
        commit(device, (6,), (M,), spent=0.25)


def test_only_the_first_commit_of_a_stream_repeats_whatever_the_edge_says_it_has_committed() -> None:
    device = device_of()
    opened(device, granting(), committed_length=len(PROMPT) + 30)
    draft(device, (5, 6, 7, 8))
    commit(device, (5,), (A,))
    with pytest.raises(EdgeFault, match="not drafted"):
        commit(device, (9,), (M,))


def test_what_was_spent_never_falls() -> None:
    device = granted_device()
    draft(device, (4, 5, 6, 7))
    commit(device, (4, 5), (M, R), spent=0.25)
    with pytest.raises(EdgeFault, match=r"had spent 0.25, and now 0.125"):
        commit(device, (6,), (Origin.RUN_AHEAD,), spent=0.125)
    assert device.tally.spent == 0.25


def test_what_an_edge_has_spent_is_added_to_what_others_had() -> None:
    device = granted_device()
    draft(device, (4, 5, 6, 7))
    commit(device, (4, 5), (M, R), spent=0.25)
    device.detached()
    opened(
        device, granting(), epoch=2
    )  # the edge of before, or one that reads its receipt: rounded, it goes on from it
    commit(device, (6,), (Origin.RUN_AHEAD,), spent=float(np.float32(0.25) * np.float32(0.9999)), epoch=2)
    assert device.tally.spent == pytest.approx(0.25, rel=1e-3)
    device.detached()
    opened(device, granting(), epoch=3)  # one that begins anew
    commit(device, (7,), (Origin.RUN_AHEAD,), spent=0.0, epoch=3)
    assert device.tally.spent == pytest.approx(0.25, rel=1e-3)
    commit(device, (8,), (Origin.RUN_AHEAD,), spent=0.5, epoch=3)
    assert device.tally.spent == pytest.approx(1 - 0.75 * 0.5, rel=1e-3)


def test_nobody_spends_in_an_exact_session() -> None:
    device = device_of(None)
    opened(device)
    with pytest.raises(EdgeFault, match="nobody took"):
        commit(device, (4,), (Origin.RUN_AHEAD,), spent=0.1)


def test_a_commit_by_meaning_shows_that_drafts_are_in_time() -> None:
    """Behind an edge that goes ahead, an accepted draft is why to go on drafting; by meaning is accepted too."""
    for origin, goes_on in ((Origin.RUN_AHEAD, False), (A, True), (M, True)):
        now = 0.0
        overtaking = Overtaking(lambda: now, lambda: 1.0)  # noqa: B023
        overtaking.drafting(1)
        now = 1.0  # a second a token, a hundred times the edge's: it will never be overtaken
        overtaking.drafted(1, whole=True)
        overtaking.committed(Commit(1, 3, (4,), 4, b"h" * 8, 1, (A,)), (4,))
        now = 1.01
        overtaking.committed(Commit(1, 4, (5,), 5, b"h" * 8, 1, (Origin.RUN_AHEAD,)), ())
        overtaking.attached()
        overtaking.committed(Commit(1, 5, (6,), 6, b"h" * 8, 1, (origin,)), (6,))
        assert overtaking.worth == goes_on


# ---- states ----


def test_full_hidden_sends_every_state_with_the_draft() -> None:
    device = granted_device(asking(HiddenProtocol.FULL_HIDDEN, state_kind=StateKind.FP8), Plan(3))
    states = states_of(3)
    frame = frames(draft(device, (4, 5, 6), states=states), Draft)[0]
    assert frame.states.at == (0, 1, 2)
    assert frame.states.data == pack_rows(states, StateKind.FP8)


def test_states_stay_with_their_tokens_over_frames_and_commits() -> None:
    device = granted_device(asking(HiddenProtocol.FULL_HIDDEN), Plan(2, ahead=2))
    states = states_of(5)
    sent = frames(draft(device, (4, 5), states=states[:2]), Draft)
    for index in (2, 3, 4):
        draft(device, (4 + index,), states=states[index : index + 1])
    sent += frames(commit(device, (4,), (A,)), Draft)
    sent += frames(commit(device, (5,), (A,)), Draft)
    assert [frame.base for frame in sent] == [3, 5]
    assert [frame.states.data for frame in sent] == [
        pack_rows(states[part], StateKind.INT8) for part in (slice(2), slice(2, 5))
    ]


def test_margin_first_sends_the_states_of_what_the_drafter_was_not_sure_of() -> None:
    device = granted_device(asking(HiddenProtocol.MARGIN_FIRST))
    states = states_of(4)
    sure = (0.99, MARGIN - 0.01, MARGIN, 0.2)
    frame = frames(draft(device, (4, 5, 6, 7), probabilities=sure, states=states), Draft)[0]
    assert frame.states.at == (1, 3)
    assert frame.states.data == pack_rows(states[[1, 3]], StateKind.INT8)
    assert frame.probabilities is None
    commit(device, (4, 5, 6, 7, 8), (A, A, A, A, B))
    frame = frames(draft(device, (4, 5), probabilities=(1.0, 1.0), states=states[:2]), Draft)[0]
    assert frame.states is None


def test_who_does_not_say_how_sure_it_is_was_not_sure() -> None:
    device = granted_device(asking(HiddenProtocol.MARGIN_FIRST))
    assert frames(draft(device, (4, 5, 6, 7), states=states_of(4)), Draft)[0].states.at == (0, 1, 2, 3)


@pytest.mark.parametrize("protocol", [HiddenProtocol.TARGET_ONLY, HiddenProtocol.MISMATCH_FIRST])
def test_no_state_goes_up_before_it_is_of_use(protocol: HiddenProtocol) -> None:
    device = granted_device(asking(protocol))
    assert frames(draft(device, (4, 5, 6, 7), states=states_of(4)), Draft)[0].states is None
    device = device_of(asking(HiddenProtocol.FULL_HIDDEN))
    device.attach(1, with_prefix=True)  # nothing is granted yet
    assert frames(draft(device, (4, 5, 6, 7), states=states_of(4)), Draft)[0].states is None


def test_mismatch_first_answers_with_what_is_still_there() -> None:
    device = granted_device(asking(HiddenProtocol.MISMATCH_FIRST), Plan(2, ahead=1))
    states = states_of(3)
    draft(device, (4, 5), states=states[:2])
    draft(device, (6,), states=states[2:])
    names = [path_hash([1, 2, 3, *tail]) for tail in ((4,), (4, 5), (4, 5, 6), (4, 9))]
    asked = NeedHidden(1, (names[1], names[3], names[0], names[2]))
    (answer,) = device.received(asked)
    assert isinstance(answer, Hidden)
    assert answer.hashes == (names[1], names[0])  # one was never drafted, one is not sent
    expected = unpack_rows(pack_rows(states[[1, 0]], StateKind.INT8), 2, WIDTH, StateKind.INT8)
    assert np.array_equal(unpack_rows(answer.data, 2, WIDTH, StateKind.INT8), expected)
    commit(device, (8,), (R,))
    assert device.received(asked) == [Hidden(1, (), b"")]


def test_states_outlive_a_stream_as_their_tokens_do() -> None:
    device = granted_device(asking(HiddenProtocol.MISMATCH_FIRST))
    states = states_of(4)
    draft(device, (4, 5, 6, 7), states=states)
    device.detached()
    opened(device, granting(asking(HiddenProtocol.MISMATCH_FIRST)), epoch=2)
    (answer,) = device.received(NeedHidden(2, (path_hash((*PROMPT, 4)),)))
    assert answer == Hidden(2, (path_hash((*PROMPT, 4)),), pack_rows(states[:1], StateKind.INT8))


def test_a_new_token_at_a_place_has_not_the_state_of_the_old_one() -> None:
    device = granted_device(asking(HiddenProtocol.FULL_HIDDEN))
    draft(device, (4, 5, 6, 7), states=states_of(4))
    commit(device, (9,), (R,))
    frame = frames(draft(device, (5, 6, 7, 8)), Draft)[0]
    assert frame.states is None


def test_what_was_cut_short_keeps_its_states() -> None:
    """The text went on along the draft while it was written: what is left of it has its own states."""
    device = granted_device(asking(HiddenProtocol.FULL_HIDDEN))
    work = device.draft_work()
    assert work is not None
    commit(device, (4, 5), (Origin.RUN_AHEAD,) * 2)
    states = states_of(4)
    outputs = device.drafted(work, (4, 5, 6, 7), states=states)
    outputs += draft(device, (8, 9), states=states_of(2, 1))
    (frame,) = frames(outputs, Draft)
    assert frame.ids == (6, 7, 8, 9)
    assert frame.states.data == pack_rows(np.concatenate([states[2:], states_of(2, 1)]), StateKind.INT8)


@pytest.mark.parametrize("protocol", [HiddenProtocol.TARGET_ONLY, HiddenProtocol.FULL_HIDDEN])
def test_states_are_given_to_nobody_else(protocol: HiddenProtocol) -> None:
    for device in (granted_device(asking(protocol)), device_of(None), device_of(asking(HiddenProtocol.MISMATCH_FIRST))):
        if device.granted == EXACT:
            opened(device)
        draft(device, (4, 5, 6, 7), states=states_of(4))
        with pytest.raises(EdgeFault, match="not granted"):
            device.received(NeedHidden(1, (path_hash((*PROMPT, 4)),)))


def test_what_is_committed_is_forgotten() -> None:
    device = granted_device(asking(HiddenProtocol.MISMATCH_FIRST, rule="kl-judge"))
    q = tuple(SparseQ((token,), (65_535,)) for token in (4, 5, 6, 7))
    draft(device, (4, 5, 6, 7), (0.5,) * 4, states_of(4), q)
    commit(device, (4, 5, 6), (A, A, A))
    kept = device._meaning
    assert [list(known) for known in (kept._rows, kept._q, kept._sure)] == [[6]] * 3


def test_a_state_that_is_not_finite_is_not_told() -> None:
    device = granted_device(asking(HiddenProtocol.FULL_HIDDEN))
    states = states_of(4)
    states[1, 2], states[2, 0] = np.inf, np.nan
    assert frames(draft(device, (4, 5, 6, 7), states=states), Draft)[0].states.at == (0, 3)


def test_a_state_of_another_width_is_a_bug_here() -> None:
    device = granted_device()
    with pytest.raises(ValueError, match="6 numbers"):
        draft(device, (4, 5, 6, 7), states=np.zeros((4, WIDTH + 1), np.float32))


def test_frames_are_as_short_as_their_states_need() -> None:
    width = 4096
    asked = asking(HiddenProtocol.FULL_HIDDEN, state_width=width)
    device = device_of(asked, Plan(32))
    opened(device, granting(asked))
    work = device.draft_work()
    assert work is not None
    assert 12 <= work.count < 16
    states = np.ones((work.count, width), np.float32)
    (frame,) = frames(device.drafted(work, range(4, 4 + work.count), states=states), Draft)
    assert len(frame.states.at) == work.count
    assert device_frame_to_proto(frame).ByteSize() <= MAX_FRAME_BYTES


def test_an_answer_has_as_many_states_as_fit() -> None:
    width = 4096
    asked = asking(HiddenProtocol.MISMATCH_FIRST, state_width=width)
    device = device_of(asked, Plan(24))
    opened(device, granting(asked))
    draft(device, range(4, 28), states=np.ones((24, width), np.float32))
    names = tuple(path_hash((*PROMPT, *range(4, end))) for end in range(5, 29))
    (answer,) = device.received(NeedHidden(1, names))
    assert isinstance(answer, Hidden)
    assert answer.hashes == names[: len(answer.hashes)]
    assert 12 <= len(answer.hashes) < 16
    assert device_frame_to_proto(answer).ByteSize() <= MAX_FRAME_BYTES


def test_a_state_that_fits_no_frame_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="65536 numbers do not fit a frame"):
        device_of(asking(HiddenProtocol.FULL_HIDDEN, state_width=65_536))


# ---- what the drafter sampled from ----


def test_q_goes_up_where_the_rule_compares_distributions() -> None:
    q = tuple(SparseQ((token, token + 1), (60_000, 5_535)) for token in (4, 5, 6, 7))
    told = asking(HiddenProtocol.TARGET_ONLY, rule="kl-judge")
    device = granted_device(told)
    assert frames(draft(device, (4, 5, 6, 7), q=q), Draft)[0].q == q
    commit(device, (4, 5, 6, 7, 8), (A, A, A, A, B))
    assert frames(draft(device, (4, 5), q=q[:1]), Draft)[0].q is None  # of all or of none
    early = device_of(told)
    early.attach(1, with_prefix=True)
    assert frames(draft(early, (4, 5, 6, 7), q=q), Draft)[0].q == q  # what was asked for, until an edge grants less
    exact = device_of(told)
    opened(exact)
    assert frames(draft(exact, (4, 5, 6, 7), q=q), Draft)[0].q is None
    other = granted_device()
    assert frames(draft(other, (4, 5, 6, 7), q=q), Draft)[0].q is None


def test_a_q_of_many_entries_is_a_bug_here() -> None:
    device = granted_device(asking(HiddenProtocol.TARGET_ONLY, rule="kl-judge"))
    many = SparseQ(tuple(range(MOST_Q_ENTRIES + 1)), (1,) * MOST_Q_ENTRIES + (65_535 - MOST_Q_ENTRIES,))
    with pytest.raises(ValueError, match="entries"):
        draft(device, (4, 5, 6, 7), q=(many,) * 4)


# ---- reports ----


def test_the_plan_asks_to_hold_tokens_back_once_that_is_granted() -> None:
    plan = Plan(4, provisional_s=0.125)
    device = device_of(plan=plan)
    assert not frames(device.attach(1, with_prefix=True), Report)
    assert frames(device.received(Opened(1, 0, 3, LIMITS, granted=granting())), Report) == [
        Report(1, provisional_s=0.125)
    ]
    assert frames(device.replan(Plan(4)), Report) == [Report(1)]
    for exact in (device_of(None, plan), device_of(plan=plan)):
        assert not frames(opened(exact), Report)


def test_the_channel_is_told_where_it_has_moved() -> None:
    device = granted_device()
    assert device.channel() == []
    assert device.channel(0.25, 0.0625, 1000.0) == [Report(1, miss_s=0.25, round_trip_s=0.0625, up_bytes_s=1000.0)]
    assert device.channel(0.29, 0.051, 1199.0) == []
    assert device.channel(0.5) == [Report(1, miss_s=0.5, round_trip_s=0.0625, up_bytes_s=1000.0)]
    assert device.channel(round_trip_s=0.0501) == []
    # small steps add up: what counts is what was told
    assert device.channel(round_trip_s=0.0499) == [Report(1, miss_s=0.5, round_trip_s=0.0499, up_bytes_s=1000.0)]


def test_what_is_known_of_the_channel_waits_for_a_grant() -> None:
    device = device_of()
    assert device.channel(0.25, 0.0625) == []
    device.attach(1, with_prefix=True)
    assert device.channel(0.25, 0.0625) == []
    assert device.received(Opened(1, 0, 3, LIMITS, granted=granting()))[0] == Report(
        1, miss_s=0.25, round_trip_s=0.0625
    )
    device.detached()
    assert device.channel(0.25, 0.125) == []
    assert opened(device, granting(), epoch=2)[0] == Report(2, miss_s=0.25, round_trip_s=0.125)


def test_an_exact_session_tells_nothing_of_its_channel() -> None:
    for device in (device_of(None), device_of()):
        opened(device)
        assert device.channel(0.25, 0.0625, 1000.0) == []


def test_a_device_drafts_on_where_the_edge_holds_its_tokens_back() -> None:
    """Behind an edge that goes ahead it rests where drafts come too late; where they are waited for they do not."""
    quote = Quote(0.02, runs_ahead=True)
    for provisional_s, rests in ((0.0, True), (0.125, False)):
        overtaking = Overtaking(lambda: 0.0, lambda: 1.0)
        device = device_of(plan=Plan(4, provisional_s=provisional_s), overtaking=overtaking)
        opened(device, granting(), quote=quote)
        overtaking._worth = False
        assert (device.draft_work() is None) == rests


def test_the_first_frames_are_those_of_an_exact_session() -> None:
    """All that is told goes up behind a grant: an edge that grants nothing sees an exact session, the wish aside."""
    exact, asks = device_of(None), device_of(plan=Plan(4, provisional_s=0.125))
    for device in (exact, asks):
        outputs = device.attach(1, with_prefix=True)
        assert [type(frame) for frame in outputs] == [Open, Prefix]
    assert draft(exact, (4, 5, 6, 7)) == draft(asks, (4, 5, 6, 7), states=states_of(4), probabilities=(0.1,) * 4)
