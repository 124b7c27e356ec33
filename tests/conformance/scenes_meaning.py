"""The scenes of semantic sessions: asking and granting, tokens accepted by meaning, states, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.meaning import HeadTail, RiskTable, pack_rows
from airdraft.core.session import Journalled
from airdraft.core.types import (
    Evidence,
    Granted,
    Hidden,
    HiddenProtocol,
    NeedHidden,
    Opened,
    Origin,
    Semantic,
    StateKind,
    StateRows,
    StopReason,
)
from tests.conformance.kit import Json
from tests.conformance.kit_semantic import granted_json, judge_json
from tests.conformance.recording import LIMITS, PROMPT, HandDevice, HandEdge, path_hash, setup_of
from tests.core.worlds import VOCABULARY, alone

Files = dict[str, Json]

RIGHT = alone(PROMPT, 60)
WIDTH = 4
CAP = 0.03125
ASKED = Semantic(CAP, "typical")
GRANTED = Granted(CAP, "typical")
A, M, R = Origin.ACCEPTED, Origin.MEANING, Origin.RECOVERED
NEVER, HARMLESS = -9.0, -0.5  # log probabilities of drafted tokens; ``typical`` lets the second one stand

TAIL = HeadTail(  # its risk is the first number of the drafter's state
    "states",
    "draft+target",
    np.zeros(1, np.float32),
    np.ones(1, np.float32),
    0.0,
    np.array([0.0, 1.0]),
    np.array([0.0, 1.0]),
    RiskTable(np.array([0.125]), np.array([CAP]), np.array([0.0])),
    draft=np.array([[1.0, 0.0, 0.0, 0.0]], np.float32),
)


def _asking(protocol: HiddenProtocol, kind: StateKind = StateKind.INT8) -> tuple[Semantic, Granted]:
    asked = Semantic(CAP, "head", protocol, bytes(range(32)), WIDTH, kind)
    return asked, Granted(CAP, "head", protocol)


def _states(count: int, first: int = 0) -> list[list[float]]:
    """Return rows of numbers that float32 holds, of several sizes."""
    return [[(row + 1) * 0.5, -3.25, row * 8.0, 0.125] for row in range(first, first + count)]


def _packed(rows: Sequence[Sequence[float]], kind: StateKind = StateKind.INT8) -> bytes:
    return pack_rows(np.array(rows, np.float32).reshape(-1, WIDTH), kind)


def _risky(*risks: float) -> list[list[float]]:
    return [[risk, 1.0, 0.0, -1.0] for risk in risks]


def _beside(token: int) -> int:
    return (token + 1) % VOCABULARY


def _evidence(node: int, log_p: float) -> Evidence:
    return Evidence(node, log_p, -0.25, 1.5, -0.25, 0.5, -0.125)


def _device(hand: HandDevice) -> Files:
    return {"device": hand.tape.content()}


# ---- devices ----


def meaning_granted() -> Files:
    """A device asks and is granted a lower cap: drafted tokens that are not the target's stand.

    It tells of its channel where a number has moved by a fifth, asks that tokens be held back, and after a loss asks
    for the same again: the next edge begins anew with what is spent, the one after it grants exact.
    """
    device = HandDevice(setup_of(draft_length=3, max_tokens=32, provisional_s=0.25, semantic=ASKED))
    device.attach()
    device.drafted([RIGHT[3], 9, 8])
    device.channel(miss_s=0.125, round_trip_s=0.0625)
    device.received(Opened(1, 0, 3, LIMITS, granted=replace(GRANTED, max_loss=CAP / 2, reason="half of it is granted")))
    device.commit([RIGHT[3], 9, RIGHT[5]], origins=(A, M, R), spent=0.125, seq=1)
    device.channel(miss_s=0.140625, round_trip_s=0.05078125)
    device.channel(round_trip_s=0.046875, up_bytes_s=125_000.0)
    device.drafted([4, 5, 6])
    device.commit([4, 5, 6, 7], origins=(M, M, A, Origin.BONUS), spent=0.1875, seq=2)
    device.drafted([8, 9, 10])
    device.detached()
    device.attach(2)
    device.received(Opened(2, 0, 10, LIMITS, granted=GRANTED))
    device.commit([8], M, spent=0.0625, epoch=2, seq=1)
    device.detached()
    device.attach(3)
    device.received(Opened(3, 0, 11, LIMITS, granted=Granted(reason="this edge has no rule of that name")))
    device.channel(round_trip_s=1.0)
    device.commit([9], A, epoch=3, seq=1)
    device.commit([10], M, epoch=3, seq=1)  # a lie: it was drafted, but nothing was granted
    return _device(device)


def meaning_lies() -> Files:
    """What no edge may say in a semantic session; each is a fault, and the text stays as it is.

    More than was asked for; a token by meaning that was not drafted there, or not sent, or stops the text; a risk that
    falls.
    """
    device = HandDevice(setup_of(draft_length=3, outstanding=2, max_tokens=32, stop_ids=(11,), semantic=ASKED))
    device.attach()
    device.received(Opened(1, 0, 3, LIMITS, granted=replace(GRANTED, max_loss=2 * CAP)))
    device.received(Opened(1, 0, 3, LIMITS, granted=replace(GRANTED, rule="head")))
    device.received(Opened(1, 0, 3, LIMITS, granted=replace(GRANTED, protocol=HiddenProtocol.FULL_HIDDEN)))
    device.commit([4], M)
    device.received(Opened(1, 0, 3, LIMITS, granted=GRANTED))
    device.commit([4], M)  # nothing is drafted yet
    device.drafted([4, 11])  # its last words
    device.commit([5], M, seq=1)
    device.commit([6, 11], origins=(R, M), seq=1, stop=StopReason.STOP_TOKEN)
    device.commit([4, 11], origins=(M, M), seq=1, stop=StopReason.STOP_TOKEN)
    device.received(NeedHidden(1, (path_hash([*PROMPT, 4]),)))
    device.commit([4], M, spent=0.25, seq=1)
    device.commit([11], A, spent=0.125, seq=1, stop=StopReason.STOP_TOKEN)
    device.commit([11], A, spent=0.25, seq=1, stop=StopReason.STOP_TOKEN)
    return _device(device)


def meaning_unasked() -> Files:
    """A device that asks for nothing: a grant, a token by meaning, a risk and a question are the edge's faults."""
    device = HandDevice(setup_of(draft_length=2))
    device.attach()
    device.drafted(RIGHT[3:5])
    device.received(Opened(1, 0, 3, LIMITS, granted=GRANTED))
    device.commit(RIGHT[3:4], M, seq=1)
    device.commit(RIGHT[3:4], A, spent=0.125, seq=1)
    device.received(NeedHidden(1, (path_hash(RIGHT[:4]),)))
    device.commit(RIGHT[3:4], A, seq=1)
    return _device(device)


def meaning_repeated() -> Files:
    """A device that was started anew knows no drafts: what the edge had committed before is taken on its word."""
    past = Journalled(4, [RIGHT[3]], b"\x05" * 28)
    device = HandDevice(setup_of(draft_length=2, journalled=past, semantic=ASKED))
    device.attach(5)
    device.received(Opened(5, 0, 6, LIMITS, granted=GRANTED))
    device.commit([9, 8], origins=(M, M), spent=0.25, epoch=5, receipt=b"\x06" * 28)
    device.commit([7], M, spent=0.25, epoch=5)
    return _device(device)


def states_with_drafts() -> Files:
    """full-hidden: no state before the grant, then every token's with it, in the kind that was asked for.

    A token without a state is left out; a state outlives the stream; a new token at a place has not the old one's.
    """
    asked, granted = _asking(HiddenProtocol.FULL_HIDDEN, StateKind.FP8)
    device = HandDevice(setup_of(draft_length=3, outstanding=2, semantic=asked))
    device.attach()
    device.drafted([4, 5, 6], states=_states(3))
    device.received(Opened(1, 0, 3, LIMITS, granted=granted))
    device.drafted([7, 8, 9], states=_states(2, 3))
    device.detached()
    device.attach(2)
    device.received(Opened(2, 0, 3, LIMITS, granted=granted))
    device.commit([10], R, epoch=2, seq=1)
    device.drafted([5, 6, 7])
    return _device(device)


def states_of_the_doubtful() -> Files:
    """margin-first: states of tokens whose probability was below 0.9, and of those where none was told."""
    asked, granted = _asking(HiddenProtocol.MARGIN_FIRST)
    device = HandDevice(setup_of(draft_length=4, outstanding=2, semantic=asked))
    device.attach()
    device.received(Opened(1, 0, 3, LIMITS, granted=granted))
    device.drafted([4, 5, 6, 7], states=_states(4), probabilities=[0.96875, 0.875, 0.25, 1.0])
    device.drafted([8, 9, 10, 11], states=_states(4), probabilities=[1.0, 1.0])
    return _device(device)


def states_on_demand() -> Files:
    """mismatch-first: the edge asks by path hash; what is gone, or was not sent, or has no state is left out."""
    asked, granted = _asking(HiddenProtocol.MISMATCH_FIRST)
    device = HandDevice(setup_of(draft_length=3, semantic=asked))
    device.attach()
    device.received(Opened(1, 0, 3, LIMITS, granted=granted))
    device.drafted([4, 5, 6], states=_states(2))
    names = [path_hash([*PROMPT, *tail]) for tail in ([4], [4, 5], [4, 5, 6], [9])]
    device.received(NeedHidden(1, (names[1], names[2], names[3], names[0])))
    device.commit([4], A, seq=1)
    device.received(NeedHidden(1, tuple(names[:2])))
    device.commit([8], R, seq=1)
    device.received(NeedHidden(1, tuple(names[:2])))
    device.detached()
    device.received(NeedHidden(1, tuple(names[:2])))
    return _device(device)


def states_too_wide_for_frames() -> Files:
    """Frames are as short as their states need: 64 KiB, 128 bytes for all else, 12 for an id, 4 and the width a row."""
    width = 16_372
    asked = Semantic(CAP, "head", HiddenProtocol.FULL_HIDDEN, b"", width)
    device = HandDevice(setup_of(draft_length=8, outstanding=2, semantic=asked))
    device.attach()
    device.received(Opened(1, 0, 3, LIMITS, granted=Granted(CAP, "head", HiddenProtocol.FULL_HIDDEN)))
    device.drafted([4, 5, 6])
    return _device(device)


def distributions_told() -> Files:
    """Where the rule compares distributions, tokens bring what they were chosen from: all of a frame, or none."""
    device = HandDevice(setup_of(draft_length=2, outstanding=3, semantic=replace(ASKED, rule="kl-judge")))
    q = [SparseQ((4, 9), (65_000, 535)), SparseQ((1, 5), (1, 65_534))]
    device.attach()
    device.drafted([4, 5], q=q)
    device.received(Opened(1, 0, 3, LIMITS, granted=replace(GRANTED, rule="kl-judge")))
    device.drafted([4, 5], q=q)
    device.drafted([4, 5], q=q[:1])
    return _device(device)


# ---- edges ----


def _edge(edge: HandEdge) -> Files:
    return {"edge": edge.tape.content()}


def judged() -> Files:
    """An edge that judges by a rule: the walk goes on below a drafted token that stands.

    Neither a stop id nor a control token stands, nor what there is no evidence of; a commit that repeats says the same.
    """
    stop, control = 40, 41
    meaning = {"judge": judge_json(GRANTED, control_ids=(control,))}
    edge = HandEdge(stop_ids=(stop,), meaning=meaning, semantic=ASKED, receipt_key=bytes(range(32)))
    edge.open()
    edge.passed()
    line = [*RIGHT[:4], _beside(RIGHT[4])]
    line += alone(line, 2)[len(line) :]
    edge.draft(line[:4], [*line[4:], 9])
    edge.passed(evidence=[_evidence(0, HARMLESS), _evidence(3, NEVER)])
    text = [*line, alone(line, 1)[-1]]
    edge.draft(text, [stop, 1])
    edge.passed(evidence=[_evidence(0, HARMLESS), _evidence(1, HARMLESS)])
    text = alone(text, 1)
    edge.draft(text, [control])
    edge.passed(evidence=[_evidence(0, HARMLESS)])
    text = alone(text, 1)
    edge.draft(text, [_beside(alone(text, 1)[-1])])
    edge.passed()
    edge.leave()
    edge.open(line[:5], epoch=2, prefix=False)
    return _edge(edge)


def granted_exact() -> Files:
    """An edge that grants less says why, and its session is exact: states are refused, and the next Open asks again."""
    meaning = {"granted": granted_json(Granted(reason="this edge has no head"))}
    asked, _ = _asking(HiddenProtocol.FULL_HIDDEN)
    edge = HandEdge(meaning=meaning, semantic=asked)
    edge.open()
    edge.passed()
    edge.draft(RIGHT[:4], [_beside(RIGHT[4])])
    edge.passed()
    edge.draft(RIGHT[:5], RIGHT[5:6], states=StateRows((0,), _packed(_risky(0.0))))
    edge.open(RIGHT[:5], epoch=2, semantic=None)  # another wish is another session
    edge.open(RIGHT[:5], epoch=3, prefix=False)
    return _edge(edge)


def states_asked() -> Files:
    """An edge whose head reads states asks for those of mismatches, and holds its verdict for them, half a second.

    Without a state a token does not stand; an answer that comes too late is dropped.
    """
    asked, granted = _asking(HiddenProtocol.MISMATCH_FIRST)
    edge = HandEdge(meaning={"judge": judge_json(granted, TAIL)}, semantic=asked)
    edge.open()
    edge.passed()
    text = RIGHT[:4]

    def miss() -> list[int]:
        return [_beside(alone(text, 1)[-1])]

    def judge(*risks: float, at_s: float) -> bytes:
        """Let a miss be drafted and verified, and its state be asked for; answer it where there is a risk."""
        drafted = miss()
        edge.draft(text, drafted)
        edge.passed(evidence=[replace(_evidence(0, NEVER), partial=(0.0,))], at_s=at_s)
        name = path_hash([*text, *drafted])
        if risks:
            edge.received(Hidden(1, (name,), _packed(_risky(*risks))))
        return name

    standing = miss()
    judge(0.0625, at_s=1.0)
    text = alone([*text, *standing], 1)
    judge(0.5, at_s=2.0)
    text = alone(text, 1)
    judge(at_s=3.0)
    edge.received(Hidden(1, (), b""))
    text = alone(text, 1)
    name = judge(at_s=4.0)
    edge.due(4.25)
    edge.due(4.5)
    edge.received(Hidden(1, (name,), _packed(_risky(0.0))))
    edge.received(Hidden(1, (name,), _packed(_risky(0.0))[:-1]))  # no row
    return _edge(edge)


SCENES = (
    meaning_granted,
    meaning_lies,
    meaning_unasked,
    meaning_repeated,
    states_with_drafts,
    states_of_the_doubtful,
    states_on_demand,
    states_too_wide_for_frames,
    distributions_told,
    judged,
    granted_exact,
    states_asked,
)
