"""A pair of cores whose edge judges by meaning: a target, a drafter, and an oracle of what is harmless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from airdraft.core.errors import SpecError, refusal
from airdraft.core.meaning import (
    RULES,
    STRICT,
    UNTRAINED_RISK,
    Context,
    HeadTail,
    MeaningJudge,
    Need,
    RiskTable,
)
from airdraft.core.receipts import ReceiptKey
from airdraft.core.session import DeviceSession, EdgeSession, RunAhead
from airdraft.core.session.device import Output
from airdraft.core.session.passes import Verified
from airdraft.core.types import (
    DeviceFrame,
    EdgeFrame,
    Evidence,
    Granted,
    HiddenProtocol,
    Limits,
    Open,
    Origin,
    Pass,
    PassResult,
    Plan,
    Sampling,
    Semantic,
)
from airdraft.link.virtual_time import NextToken, RowEngine, VirtualPair, chained
from tests.core.worlds import IDENTITY, pseudo_target

STATE_WIDTH = 2
STATES_TAIL = HeadTail(  # its risk is the first number of the drafter's state
    "states",
    "draft+target",
    np.zeros(1, np.float32),
    np.ones(1, np.float32),
    0.0,
    np.array([0.0, 1.0]),
    np.array([0.0, 1.0]),
    RiskTable(np.array([0.1]), np.array([0.01]), np.zeros(1)),
    draft=np.array([[1.0, 0.0]], np.float32),
)
ASKED = Semantic(0.02, "typical")
GRANTED = Granted(0.02, "typical")


def harm(path: Sequence[int], token: int) -> float:
    """How bad ``token`` is after ``path``, in [0, 1): evenly spread."""
    seed = blake2b(repr((tuple(path), token)).encode(), digest_size=4, person=b"harm").digest()
    return int.from_bytes(seed, "little") / 2**32


@dataclass(frozen=True, slots=True)
class Oracle:
    """A rule that lets the least harmful ``share`` of all tokens stand; it reads the harm off the evidence."""

    share: float
    needs: frozenset[Need] = frozenset()

    def __call__(self, evidence: Evidence, context: Context) -> float:
        return UNTRAINED_RISK if math.exp(evidence.drafted_log_p) - 1 < self.share else STRICT


def judge(share: float, *, max_loss: float = 0.02, control_ids: frozenset[int] = frozenset()) -> MeaningJudge:
    """A judge by that rule."""
    granted = Granted(max_loss, GRANTED.rule if max_loss else "", reason="" if max_loss else "none was asked for")
    return MeaningJudge(granted, Oracle(share), vocabulary=50, control_ids=control_ids)


def judge_of_states(protocol: HiddenProtocol, control_ids: frozenset[int]) -> MeaningJudge:
    """A judge that reads the harm off the drafter's states."""
    granted = Granted(0.01, "head", protocol)
    return MeaningJudge(granted, RULES["head"], STATES_TAIL, vocabulary=50, control_ids=control_ids)


def asked_with_states(protocol: HiddenProtocol) -> Semantic:
    """What a device asks for whose states go up."""
    return Semantic(0.01, "head", protocol, b"d" * 32, STATE_WIDTH)


def evidence_of(done: Pass, choices: Sequence[int], paths: Sequence[Sequence[int]]) -> tuple[Evidence, ...]:
    """What an engine tells of the device's nodes that are not the target's choice; ``paths`` are the wanted rows'."""
    verified = Verified.of(done, choices)
    told = []
    for node in range(verified.theirs):
        parent = verified.parents[node]
        if verified.tokens[node] != verified.choices[parent]:
            bad = harm(paths[parent + 1], verified.tokens[node])
            told.append(Evidence(node, math.log(1 + bad), -1.0, 1.0, -1.0, 1.0, -1.0, partial=(0.0,)))
    return tuple(told)


def judged_result(engine: RowEngine, target: NextToken, work: Pass) -> PassResult:
    """Run a pass and say what an engine says."""
    paths = engine.paths(work.span)
    choices = tuple(target(path) for path in paths)
    return PassResult(choices, evidence=evidence_of(work, choices, paths) if work.judged else ())


def check_text(
    ids: Sequence[int], origins: Sequence[Origin], prompt: int, share: float, target: NextToken = pseudo_target
) -> None:
    """Every token is the target's choice, or was let stand by the oracle and says so."""
    for position in range(prompt, len(ids)):
        path, token = ids[:position], ids[position]
        if target(path) == token:
            assert origins[position - prompt] is not Origin.MEANING
        else:
            assert origins[position - prompt] is Origin.MEANING, position
            assert harm(path, token) < share


@dataclass(slots=True)
class SemanticPair(VirtualPair):
    """``VirtualPair`` with a judge at the edge, deadlines, and an edge that may run ahead."""

    share: float = 1.0
    max_loss: float = 0.02
    ahead: bool = True
    bonus: bool = True
    receipts: ReceiptKey | None = None
    exact: bool = False
    judged: list[MeaningJudge] = field(default_factory=list)
    ended_s: float = math.inf
    _alarm: float = math.inf

    def device_plans(self, plan: Plan) -> None:
        """Let the device draft by another plan from now on."""
        self._device_does(self.device.replan(plan))

    def _device_does(self, outputs: Sequence[Output]) -> None:
        VirtualPair._device_does(self, outputs)
        if self.device.ended:
            self.ended_s = min(self.ended_s, self.now)

    def _new_edge(self, opened: Open) -> EdgeSession:
        run_ahead = RunAhead(lambda: self.now) if self.ahead else None
        if self.exact:
            return EdgeSession(opened, self.limits, self.receipts, run_ahead=run_ahead, bonus=self.bonus)
        control = frozenset(opened.stop_ids)
        if opened.semantic is not None and opened.semantic.state_width:
            self.judged.append(judge_of_states(opened.semantic.protocol, control))
        else:
            self.judged.append(judge(self.share, max_loss=self.max_loss, control_ids=control))
        return EdgeSession(
            opened,
            self.limits,
            self.receipts,
            run_ahead=run_ahead,
            bonus=self.bonus,
            judge=self.judged[-1],
            clock=lambda: self.now,
        )

    def _start_drafting(self) -> None:
        work = None if self._drafting else self.device.draft_work()
        if work is None:
            return
        tokens = chained(self.draft, work)
        paths = [(*work.path, *tokens[:count]) for count in range(len(tokens))]
        states = np.array(
            [[float(harm(path, token) >= self.share), 1.0] for path, token in zip(paths, tokens, strict=True)],
            dtype=np.float32,
        ).reshape(-1, STATE_WIDTH)
        self._drafting = True

        def done() -> None:
            self._drafting = False
            self._device_does(self.device.drafted(work, tokens, states=states))

        self._agenda.at(self.now + self.draft_s * max(1, len(tokens)), done)

    def _edge_takes(self, frame: DeviceFrame) -> None:
        try:
            if isinstance(frame, Open):
                if self.edge is None or self.edge.finished:
                    self.edge = self._new_edge(frame)
                frames = self.edge.attach(frame)
            else:
                frames = self.edge.received(frame) if self.edge is not None else []
        except SpecError as error:
            frames = [refusal(error, frame.epoch)]
            if self.edge is not None and not isinstance(frame, Open):
                self.edge.detached(frame.epoch)
            elif self.edge is not None and self.edge.epoch == 0:
                self.edge = None
        self._edge_says(frames)

    def _edge_says(self, frames: Sequence[EdgeFrame]) -> None:
        VirtualPair._edge_says(self, frames)
        self._wake()

    def _wake(self) -> None:
        edge = self.edge
        wakes_s = None if edge is None else edge.wakes_s
        if edge is None or wakes_s is None or wakes_s >= self._alarm:
            return
        self._alarm = max(self.now, wakes_s) + 1e-9

        def ring() -> None:
            self._alarm = math.inf
            if self.edge is not None:
                self._edge_says(self.edge.due())

        self._agenda.at(self._alarm, ring)

    def _start_pass(self) -> None:
        edge, engine = self.edge, self.engine
        work = None if edge is None else edge.next_pass()
        if edge is None or work is None:
            return
        self.passes.append(work)
        result = judged_result(engine, self.target, work)
        self._agenda.at(self.now + self.pass_s(len(work.span.tokens)), lambda: self._pass_done(edge, work, result))


def semantic_device(
    prompt: Sequence[int] = (1, 2, 3),
    *,
    draft_length: int = 2,
    outstanding: int = 8,
    max_tokens: int = 40,
    stop_ids: tuple[int, ...] = (),
    provisional_s: float = 0.0,
    limits: Limits | None = None,
    semantic: Semantic | None = ASKED,
) -> DeviceSession:
    """A device that asks for acceptance by meaning."""
    return DeviceSession(
        b"s" * 16,
        IDENTITY,
        prompt,
        sampling=Sampling(),
        stop_ids=stop_ids,
        max_tokens=max_tokens,
        limits=limits or Limits(4096),
        plan=Plan(draft_length, outstanding, provisional_s=provisional_s),
        semantic=semantic,
    )


def origins_of(pair: VirtualPair, prompt: int) -> list[Origin]:
    """The origin of each id past the prompt, as the device was told."""
    told: list[Origin] = []
    for committed in pair.commits:
        assert committed.base == prompt + len(told)
        told.extend(committed.origins)
    return told
