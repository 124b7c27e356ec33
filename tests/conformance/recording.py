"""Recording: the cores of a ``VirtualPair`` that note every event, and a hand that drives one core alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.receipts import ReceiptKey
from airdraft.core.rows import TargetRow
from airdraft.core.session import DeviceSession, DraftWork, EdgeSession, Journalled, Output
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Evidence,
    Finish,
    Identity,
    Limits,
    Open,
    Origin,
    Pass,
    PassResult,
    Plan,
    Prefix,
    Sampling,
    Semantic,
    StateRows,
    StopReason,
)
from airdraft.link.virtual_time import RowEngine, VirtualPair
from tests.conformance import rules
from tests.conformance.kit import (
    DeviceTape,
    EdgeTape,
    Json,
    device_arguments,
    device_setup,
    down_frame,
    from_device,
    from_edge,
    journalled_json,
    row_json,
    up_frame,
)
from tests.conformance.kit_semantic import evidence_json, told_json
from tests.core.worlds import VOCABULARY, pseudo_target

IDENTITY = Identity(bytes(range(32)), bytes(range(32, 64)))
LIMITS = Limits(context_tokens=4096)
PROMPT = (1, 2, 3)
SESSION_ID = bytes(range(16))


def path_hash(ids: Sequence[int]) -> bytes:
    """Return the path hash at the end of the ids."""
    value = rules.root_hash(IDENTITY.model_digest, IDENTITY.tokenizer_digest, IDENTITY.sampler_version)
    for token in ids:
        value = rules.next_hash(value, token)
    return value


def setup_of(
    prompt: Sequence[int] = PROMPT,
    *,
    draft_length: int = 4,
    outstanding: int = 1,
    split: bool = False,
    max_tokens: int = 24,
    stop_ids: Sequence[int] = (),
    limits: Limits = LIMITS,
    sampling: Sampling | None = None,
    journalled: Journalled | None = None,
    provisional_s: float = 0.0,
    semantic: Semantic | None = None,
) -> Json:
    """Return a device's setup."""
    setup = device_setup(
        prompt,
        identity=IDENTITY,
        vocabulary=VOCABULARY,
        sampling=sampling or Sampling(),
        stop_ids=stop_ids,
        max_tokens=max_tokens,
        limits=limits,
        plan=Plan(draft_length, outstanding, split=split, provisional_s=provisional_s),
        semantic=semantic,
    )
    return setup | ({} if journalled is None else {"journalled": journalled_json(journalled)})


def edge_setup(
    limits: Limits, receipt_key: bytes = b"", *, own_text_only: bool = False, meaning: Json | None = None
) -> Json:
    """Return an edge's setup; without a key it signs nothing. ``meaning`` has a ``judge``, or what is ``granted``."""
    setup: Json = {"vocabulary": VOCABULARY, "limits": asdict(limits)} | (meaning or {})
    if receipt_key:
        setup["receipt_key"] = receipt_key.hex()
    return setup | ({"own_text_only": True} if own_text_only else {})


# ---- cores that note ----


class NotingDevice(DeviceSession):
    """A device's core that notes its events."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.events: list[Json] = []
        self._offers: list[DraftWork | None] = []

    def _note(self, event: Json, outputs: list[Output]) -> list[Output]:
        self.events.append(event)
        self._offers.append(super().draft_work())
        return outputs

    def attach(self, epoch: int, *, with_prefix: bool, limits: Limits | None = None) -> list[Output]:
        assert limits is None, "the recordings know one edge's limits"
        event = {"attach": {"epoch": epoch, "with_prefix": with_prefix}}
        return self._note(event, super().attach(epoch, with_prefix=with_prefix))

    def detached(self) -> None:
        super().detached()
        self._note({"detached": {}}, [])

    def received(self, frame: EdgeFrame) -> list[Output]:
        return self._note({"received": down_frame(frame)}, super().received(frame))

    def drafted(
        self,
        work: DraftWork,
        tokens: Sequence[int],
        probabilities: Sequence[float] = (),
        states: NDArray[np.float32] | None = None,
        q: Sequence[SparseQ] = (),
    ) -> list[Output]:
        assert not probabilities, "the recordings' drafters tell none"
        assert states is None, "nor states"
        assert not q
        step = max(index for index, offer in enumerate(self._offers) if offer == work)
        event = {"drafted": {"work_of_step": step, "tokens": list(tokens)}}
        return self._note(event, super().drafted(work, tokens))

    def finish(self, length: int) -> list[Output]:
        return self._note({"finish": {"length": length}}, super().finish(length))


class NotingEdge(EdgeSession):
    """An edge's core that notes its events."""

    def __init__(self, first: Open, limits: Limits, receipts: ReceiptKey | None) -> None:
        super().__init__(first, limits, receipts)
        self.events: list[Json] = []

    def attach(self, opened: Open) -> list[EdgeFrame]:
        self.events.append({"received": up_frame(opened)})
        return super().attach(opened)

    def received(self, frame: DeviceFrame) -> list[EdgeFrame]:
        self.events.append({"received": up_frame(frame)})
        return super().received(frame)

    def detached(self, epoch: int) -> None:
        self.events.append({"detached": {"epoch": epoch}})
        super().detached(epoch)

    def evicted(self, *, ids_too: bool = False) -> list[EdgeFrame]:
        self.events.append({"evicted": {"ids_too": ids_too}})
        return super().evicted(ids_too=ids_too)

    def finished_pass(self, done: Pass, result: PassResult) -> list[EdgeFrame]:
        self.events.append({"passed": {"choices": list(result.choices)}})
        return super().finished_pass(done, result)


class NotingPair(VirtualPair):
    """A pair whose edges note and share a key, if there is one; each edge that it had is kept."""

    noted: list[NotingEdge]
    receipts: ReceiptKey | None

    def _edge_takes(self, frame: DeviceFrame) -> None:
        if isinstance(frame, Open) and (self.edge is None or self.edge.finished):
            self.edge = NotingEdge(frame, self.limits, self.receipts)
            self.noted.append(self.edge)
        super()._edge_takes(frame)


NextDraft = Callable[[Sequence[int]], int | None]


class Scene:
    """A pair under the virtual clock, and what it comes to as files."""

    def __init__(
        self, setup: Json, draft: NextDraft, *, limits: Limits | None = None, receipt_key: bytes = b"", **world: Any
    ) -> None:
        self.setup, self._receipt_key = setup, receipt_key
        self.device = NotingDevice(**device_arguments(setup))
        self.limits = limits or self.device.limits
        self.pair = NotingPair(self.device, pseudo_target, draft, self.limits, **world)
        self.pair.noted = []
        self.pair.receipts = ReceiptKey(receipt_key) if receipt_key else None

    def files(self) -> dict[str, Json]:
        """Return the recordings, a core each; asserts that they replay to what happened."""
        device = DeviceTape(self.setup)
        for event in self.device.events:
            device.apply(event)
        assert [output["send"] for output in _outputs(device, "send")] == [up_frame(frame) for frame in self.pair.sent]
        assert len(_outputs(device, "committed")) == len(self.pair.commits)
        assert list(device.session.ids) == list(self.device.ids)
        files, answered = {"device": device.content()}, []
        for number, edge in enumerate(self.pair.noted, 1):
            tape = EdgeTape(edge_setup(self.limits, self._receipt_key))
            for event in edge.events:
                tape.apply(event)
            answered += [output for step in tape.steps for output in step["outputs"]]
            files["edge" if len(self.pair.noted) == 1 else f"edge-{number}"] = tape.content()
        assert answered == [down_frame(frame) for frame in self.pair.answered]
        return files


def _outputs(tape: DeviceTape, kind: str) -> list[Json]:
    return [output for step in tape.steps for output in step["outputs"] if kind in output]


# ---- hands ----


class HandDevice:
    """A device's core, driven by hand."""

    def __init__(self, setup: Json) -> None:
        self.tape = DeviceTape(setup)

    def attach(self, epoch: int = 1, *, with_prefix: bool = True, limits: Limits | None = None) -> Json:
        """Attach, with this edge's limits where it is not the edge of before."""
        told = {} if limits is None else {"limits": asdict(limits)}
        return self.tape.apply({"attach": {"epoch": epoch, "with_prefix": with_prefix} | told})

    def detached(self) -> Json:
        """Let the stream break."""
        return self.tape.apply({"detached": {}})

    def received(self, frame: EdgeFrame) -> Json:
        """Let a frame arrive; it must survive the wire."""
        written = down_frame(frame)
        assert from_edge(written["bytes"], VOCABULARY) == frame
        return self.tape.apply({"received": written})

    def commit(
        self,
        ids: Sequence[int],
        origin: Origin = Origin.RUN_AHEAD,
        *,
        epoch: int = 1,
        seq: int = 0,
        base: int | None = None,
        hashed: bytes | None = None,
        stop: StopReason | None = None,
        receipt: bytes = b"",
        row: TargetRow | None = None,
        origins: Sequence[Origin] = (),
        spent: float = 0.0,
    ) -> Json:
        """Let a commit after the device's text arrive, its path hash right unless it is given."""
        text = list(self.tape.session.ids)
        base = len(text) if base is None else base
        hashed = path_hash([*text, *ids]) if hashed is None else hashed
        length, kinds = base + len(ids), tuple(origins) or (origin,) * len(ids)
        commit = Commit(
            epoch, base, tuple(ids), length, hashed, seq, kinds, stop, receipt=receipt, row=row, spent=spent
        )
        return self.received(commit)

    def drafted(
        self,
        tokens: Sequence[int],
        *,
        step: int | None = None,
        probabilities: Sequence[float] = (),
        states: Sequence[Sequence[float]] | None = None,
        q: Sequence[SparseQ] = (),
    ) -> Json:
        """Let the drafter answer the last work, or that of a step."""
        last = len(self.tape.steps) - 1 if step is None else step
        told: Json = {"probabilities": list(probabilities)} if probabilities else {}
        told |= told_json(states, q)
        return self.tape.apply({"drafted": {"work_of_step": last, "tokens": list(tokens)} | told})

    def channel(self, **numbers: float) -> Json:
        """Let estimates of the channel come."""
        return self.tape.apply({"channel": numbers})


class HandEdge:
    """An edge's core, driven by hand, with an engine of rows."""

    def __init__(
        self,
        prompt: Sequence[int] = PROMPT,
        *,
        limits: Limits = LIMITS,
        max_tokens: int = 24,
        stop_ids: tuple[int, ...] = (),
        sampling: Sampling | None = None,
        receipt_key: bytes = b"",
        own_text_only: bool = False,
        meaning: Json | None = None,
        semantic: Semantic | None = None,
    ) -> None:
        self.tape = EdgeTape(edge_setup(limits, receipt_key, own_text_only=own_text_only, meaning=meaning))
        self.semantic = semantic
        self.engine = RowEngine(pseudo_target)
        self.prompt = tuple(prompt)
        self._fields = (IDENTITY, sampling or Sampling(), stop_ids, max_tokens, len(prompt))
        self._seq: dict[int, int] = {}

    @property
    def length(self) -> int:
        """Return the committed length."""
        assert self.tape.session is not None
        return self.tape.session.committed_length

    def received(self, frame: DeviceFrame) -> Json:
        """Let a frame arrive; it must survive the wire."""
        written = up_frame(frame)
        assert from_device(written["bytes"], VOCABULARY, self.tape.limits) == frame
        return self.tape.apply({"received": written})

    def open(self, ids: Sequence[int] | None = None, *, epoch: int = 1, prefix: bool = True, **other: Any) -> Json:
        """Attach with these ids, the prompt where none are given; with ``prefix`` they follow in one frame."""
        ids = self.prompt if ids is None else tuple(ids)
        identity, sampling, stop_ids, max_tokens, prompt_length = self._fields
        digest = other.get("digest", rules.ids_digest(ids))
        opened = Open(
            SESSION_ID,
            epoch,
            identity,
            other.get("sampling", sampling),
            stop_ids,
            other.get("max_tokens", max_tokens),
            prompt_length,
            len(ids),
            digest,
            0 if prefix else None,
            other.get("receipt", b""),
            rows=other.get("rows", False),
            semantic=other.get("semantic", self.semantic),
        )
        step = self.received(opened)
        return self.received(Prefix(epoch, 0, ids)) if prefix else step

    def draft(
        self,
        path: Sequence[int],
        ids: Sequence[int],
        *,
        epoch: int = 1,
        acked: int | None = None,
        seq: int | None = None,
        parents: tuple[int, ...] | None = None,
        idle: bool = False,
        states: StateRows | None = None,
        q: Sequence[SparseQ] | None = None,
    ) -> Json:
        """Let a draft under ``path`` arrive."""
        self._seq[epoch] = self._seq.get(epoch, 0) + 1
        known = min(self.length if acked is None else acked, len(path))
        number = self._seq[epoch] if seq is None else seq
        known_q = None if q is None else tuple(q)
        draft = Draft(
            epoch, number, known, len(path), path_hash(path), tuple(ids), parents, idle, known_q, states=states
        )
        return self.received(draft)

    def passed(self, row: TargetRow | None = None, evidence: Sequence[Evidence] = (), *, at_s: float = 0.0) -> Json:
        """Finish the pass in flight with the target's choices, and a row or evidence if there is some."""
        work = self.tape.work
        assert work is not None
        told: Json = {} if row is None else {"row": row_json(row)}
        told |= {"evidence": evidence_json(evidence)} if evidence else {}
        when = {"at_s": at_s} if at_s else {}
        return self.tape.apply({"passed": {"choices": list(self.engine.extend(work.span))} | told} | when)

    def due(self, at_s: float) -> Json:
        """Let a deadline pass."""
        return self.tape.apply({"due": {}, "at_s": at_s})

    def evict(self, *, ids_too: bool = False) -> Json:
        """Take the cache away, and with ``ids_too`` the ids."""
        self.engine.rows.clear()
        return self.tape.apply({"evicted": {"ids_too": ids_too}})

    def leave(self, epoch: int = 1) -> Json:
        """Let the stream of this epoch break."""
        return self.tape.apply({"detached": {"epoch": epoch}})

    def finish(self, length: int, *, epoch: int = 1) -> Json:
        """Let the device's last word arrive."""
        return self.received(Finish(epoch, length))
