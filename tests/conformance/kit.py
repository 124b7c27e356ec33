"""What the kit's files look like: JSON of frames and values, and the tapes that turn events into steps.

A tape drives one core. ``apply`` takes an event as the kit writes it and returns the whole step: what came out, and
what the core shows afterwards. Recording and replaying are both done by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from airdraft.core.errors import EdgeFault, SpecError, refusal
from airdraft.core.receipts import ReceiptKey
from airdraft.core.rows import TargetRow
from airdraft.core.session import Committed, DeviceSession, DraftWork, EdgeSession, Journalled, Lost, Output
from airdraft.core.types import (
    DeviceFrame,
    Drain,
    EdgeFrame,
    Identity,
    Limits,
    Open,
    Pass,
    PassResult,
    Plan,
    RefusalCode,
    Sampling,
    Semantic,
    StopReason,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import (
    device_frame_from_proto,
    device_frame_to_proto,
    edge_frame_from_proto,
    edge_frame_to_proto,
)
from tests.conformance.kit_semantic import (
    Clock,
    evidence_of,
    granted_of,
    judge_of,
    q_of,
    semantic_json,
    semantic_of,
    states_of,
)

Json = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[2] / "proto" / "conformance"
VERSION = 1  # of the files' form

_PLAN = ("draft_length", "outstanding")  # what is told of every plan


# ---- files ----


def dumps(content: Json) -> str:
    """Return a file's text: a line a field, and a line an entry where a field is a list or a table of objects."""
    fields = [f" {json.dumps(name)}: {_value(value)}" for name, value in content.items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _value(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in value) + "\n ]"
    if isinstance(value, dict) and value and all(isinstance(entry, list) for entry in value.values()):
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()) + "\n }"
    return json.dumps(value)


# ---- values ----


def proto_json(message: Any) -> Json:
    """Return a message in protobuf's own JSON form, fields by the names of the .proto."""
    values: Json = MessageToDict(message, preserving_proto_field_name=True)
    return values


def up_frame(frame: DeviceFrame) -> Json:
    """Return a device's frame as the kit holds it."""
    message = device_frame_to_proto(frame)
    return {"bytes": message.SerializeToString().hex(), "frame": proto_json(message)}


def down_frame(frame: EdgeFrame) -> Json:
    """Return an edge's frame as the kit holds it."""
    message = edge_frame_to_proto(frame)
    return {"bytes": message.SerializeToString().hex(), "frame": proto_json(message)}


def from_device(data: str, vocabulary: int, limits: Limits) -> DeviceFrame:
    """Return the device's frame with these bytes in hex. Raises MalformedFrame."""
    return device_frame_from_proto(pb.DeviceFrame.FromString(bytes.fromhex(data)), vocabulary, limits)


def from_edge(data: str, vocabulary: int) -> EdgeFrame:
    """Return the edge's frame with these bytes in hex. Raises MalformedFrame."""
    return edge_frame_from_proto(pb.EdgeFrame.FromString(bytes.fromhex(data)), vocabulary)


def sampling_json(sampling: Sampling) -> Json:
    """Return the settings that are not at their default, the seed as a string: JSON's numbers are not 64 bits wide."""
    values, off = asdict(sampling), asdict(Sampling())
    return {name: str(value) if name == "seed" else value for name, value in values.items() if value != off[name]}


def sampling_of(content: Json) -> Sampling:
    """Return the settings that the kit holds."""
    return Sampling(**(content | {"seed": int(content.get("seed", "0"))}))


# ---- the device ----


def device_setup(
    prompt: Sequence[int],
    *,
    identity: Identity,
    vocabulary: int,
    sampling: Sampling,
    stop_ids: Sequence[int],
    max_tokens: int,
    limits: Limits,
    plan: Plan,
    session_id: bytes = bytes(range(16)),
    semantic: Semantic | None = None,
) -> Json:
    """Return what a device's session begins with."""
    asked = {} if semantic is None else {"semantic": semantic_json(semantic)}
    return asked | {
        "session_id": session_id.hex(),
        "model_digest": identity.model_digest.hex(),
        "tokenizer_digest": identity.tokenizer_digest.hex(),
        "sampler_version": identity.sampler_version,
        "vocabulary": vocabulary,
        "prompt": list(prompt),
        "sampling": sampling_json(sampling),
        "stop_ids": list(stop_ids),
        "max_tokens": max_tokens,
        "limits": asdict(limits),
        "plan": plan_json(plan),
    }


def plan_json(plan: Plan) -> Json:
    """Return draft length and frames outstanding, and of what else a plan says what is not at its default."""
    values, usual = asdict(plan), asdict(Plan(plan.draft_length, plan.outstanding))
    return {name: value for name, value in values.items() if name in _PLAN or value != usual[name]}


def row_json(row: TargetRow) -> Json:
    """Return a row as the kit holds it."""
    return {"data": row.data.hex(), "half": row.half}


def row_of(content: Json | None) -> TargetRow | None:
    """Return the row that the kit holds."""
    return None if content is None else TargetRow(bytes.fromhex(content["data"]), content["half"])


def device_arguments(setup: Json) -> Json:
    """Return the arguments of ``DeviceSession`` that a setup describes."""
    digests = (bytes.fromhex(setup["model_digest"]), bytes.fromhex(setup["tokenizer_digest"]))
    return {
        "session_id": bytes.fromhex(setup["session_id"]),
        "identity": Identity(*digests, setup["sampler_version"]),
        "prompt": setup["prompt"],
        "sampling": sampling_of(setup["sampling"]),
        "stop_ids": tuple(setup["stop_ids"]),
        "max_tokens": setup["max_tokens"],
        "limits": Limits(**setup["limits"]),
        "plan": Plan(**setup["plan"]),
        "journalled": _journalled_of(setup.get("journalled")),
        "semantic": semantic_of(setup.get("semantic")),
    }


def journalled_json(journalled: Journalled) -> Json:
    """Return what a journal kept, as the kit holds it."""
    stop = None if journalled.stop is None else _stop_name(journalled.stop)
    return {
        "epoch": journalled.epoch,
        "ids": list(journalled.ids),
        "receipt": journalled.receipt.hex(),
        "stop": stop,
    }


def _journalled_of(content: Json | None) -> Journalled | None:
    if content is None:
        return None
    stop = None if content["stop"] is None else StopReason(pb.StopReason.Value(content["stop"]))
    return Journalled(content["epoch"], content["ids"], bytes.fromhex(content["receipt"]), stop)


class DeviceTape:
    """A device's core and the steps that it took."""

    def __init__(self, setup: Json) -> None:
        self.setup = setup
        self.session = DeviceSession(**device_arguments(setup))
        self.steps: list[Json] = []
        self._works: list[DraftWork | None] = []

    def apply(self, event: Json) -> Json:
        """Let an event happen and return the step."""
        outputs = self._outputs(event)
        session, work = self.session, self.session.draft_work()
        after = {
            "length": len(session.ids),
            "ahead": list(session.ahead),
            "live_nodes": session.live_nodes,
            "ended": session.ended,
            "next_epoch": session.next_epoch,
        }
        if session.semantic is not None:
            after |= {"meaning": session.tally.meaning, "spent": session.tally.spent}
        self._works.append(work)
        self.steps.append({"event": event, "outputs": outputs, "work": _work_json(work), "after": after})
        return self.steps[-1]

    def _outputs(self, event: Json) -> list[Json]:
        try:
            return [_output_json(output) for output in self._happen(event)]
        except EdgeFault:
            return [{"fault": {}}]

    def _happen(self, event: Json) -> Sequence[Output]:
        session = self.session
        match event:
            case {"attach": {"epoch": epoch, "with_prefix": with_prefix, "limits": limits}}:
                return session.attach(epoch, with_prefix=with_prefix, limits=Limits(**limits))
            case {"attach": {"epoch": epoch, "with_prefix": with_prefix}}:
                return session.attach(epoch, with_prefix=with_prefix)
            case {"received": {"bytes": data}}:
                return session.received(from_edge(data, self.setup["vocabulary"]))
            case {"drafted": {"work_of_step": step, "tokens": tokens}}:
                work = self._works[step]
                assert work is not None
                told = event["drafted"]
                return session.drafted(work, tokens, told.get("probabilities", ()), states_of(told), q_of(told))
            case {"channel": numbers}:
                return session.channel(**numbers)
            case {"detached": _}:
                session.detached()
                return []
            case {"finish": {"length": length}}:
                return session.finish(length)
        raise ValueError(f"no event of a device: {event}")

    def content(self) -> Json:
        """Return the session's file."""
        return {"setup": self.setup, "steps": self.steps, "ids": list(self.session.ids)}


def _work_json(work: DraftWork | None) -> Json | None:
    if work is None:
        return None
    return {"length": len(work.path), "count": work.count, "path_hash": work.path_hash.hex()}


def _output_json(output: Output) -> Json:
    match output:
        case Committed():
            stop = None if output.stop is None else _stop_name(output.stop)
            origins = [pb.Origin.Name(int(origin)) for origin in output.origins]
            told: Json = {"base": output.base, "ids": list(output.ids), "origins": origins, "stop": stop}
            return {"committed": told | ({"receipt": output.receipt.hex()} if output.receipt else {})}
        case Lost():
            code = pb.RefusalCode.Name(int(output.refusal.code))
            return {"lost": {"code": code, "superseded": output.refusal.code is RefusalCode.SUPERSEDED}}
        case Drain():
            return {"drain": {"deadline_s": output.deadline_s, "edges": list(output.edges)}}
        case _:
            return {"send": up_frame(output)}


def _stop_name(stop: StopReason) -> str:
    return pb.StopReason.Name(int(stop))


# ---- the edge ----


class EdgeTape:
    """An edge's core and the steps that it took; its next pass is asked for after every event."""

    def __init__(self, setup: Json) -> None:
        self.setup = setup
        self.limits = Limits(**setup["limits"])
        self._key = ReceiptKey(bytes.fromhex(setup["receipt_key"])) if "receipt_key" in setup else None
        self._own_text_only: bool = setup.get("own_text_only", False)
        self._clock = Clock()
        self.session: EdgeSession | None = None
        self.work: Pass | None = None  # handed out, not finished
        self.steps: list[Json] = []

    def apply(self, event: Json) -> Json:
        """Let an event happen and return the step."""
        self._clock.now_s = event.get("at_s", self._clock.now_s)
        outputs = [down_frame(frame) for frame in self._happen(event)]
        session = self.session
        work = None if session is None else session.next_pass()
        self.work = work or self.work
        after = session and {
            "length": session.committed_length,
            "kv_length": session.kv_length,
            "live_nodes": session.live_nodes,
            "attached": session.attached,
            "finished": session.finished,
        }
        self.steps.append({"event": event, "outputs": outputs, "pass": _pass_json(work), "after": after})
        return self.steps[-1]

    def _happen(self, event: Json) -> Sequence[EdgeFrame]:
        match event:
            case {"received": {"bytes": data}}:
                return self._received(from_device(data, self.setup["vocabulary"], self.limits))
            case {"detached": {"epoch": epoch}}:
                self._known.detached(epoch)
                return []
            case {"evicted": {"ids_too": ids_too}}:
                return self._known.evicted(ids_too=ids_too)
            case {"passed": {"choices": choices}}:
                work, self.work = self.work, None
                assert work is not None
                told = event["passed"]
                evidence = evidence_of(told.get("evidence", ()))
                result = PassResult(tuple(choices), row=row_of(told.get("row")), evidence=evidence)
                return self._known.finished_pass(work, result)
            case {"due": _}:
                return self._known.due()
        raise ValueError(f"no event of an edge: {event}")

    @property
    def _known(self) -> EdgeSession:
        assert self.session is not None
        return self.session

    def _received(self, frame: DeviceFrame) -> Sequence[EdgeFrame]:
        """A refused ``Open`` ends its own stream alone; any other refused frame detaches the stream that it came on."""
        try:
            if not isinstance(frame, Open):
                return self._known.received(frame)
            if self.session is None or self.session.finished:
                self.session = self._begun(frame)
                self.work = None
            return self.session.attach(frame)
        except SpecError as error:
            if self.session is not None and not isinstance(frame, Open):
                self.session.detached(frame.epoch)
            elif self.session is not None and not self.session.epoch:
                self.session = None  # it never came about
            return [refusal(error, frame.epoch)]

    def _begun(self, first: Open) -> EdgeSession:
        own_text_only, setup = self._own_text_only, self.setup
        if "judge" in setup:
            judge = judge_of(setup["judge"], setup["vocabulary"])
            return EdgeSession(
                first, self.limits, self._key, own_text_only=own_text_only, judge=judge, clock=self._clock
            )
        if "granted" in setup:
            granted = granted_of(setup["granted"])
            return EdgeSession(first, self.limits, self._key, own_text_only=own_text_only, granted=granted)
        return EdgeSession(first, self.limits, self._key, own_text_only=own_text_only)

    def content(self) -> Json:
        """Return the session's file."""
        return {"setup": self.setup, "steps": self.steps}


def _pass_json(work: Pass | None) -> Json | None:
    if work is None:
        return None
    span = work.span
    return {
        "base": work.base,
        "start": span.start,
        "tokens": list(span.tokens),
        "parents": None if span.parents is None else list(span.parents),
        "wanted": list(span.wanted),
        "gather": list(span.gather),
        "nodes": work.nodes,
        **({"row": True} if work.row else {}),
        **({"judged": True} if work.judged else {}),
    }
