"""Frames survive the wire, and what does not fit is refused before anything is queued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.acceptance import ACCEPTANCE_RULES
from airdraft.core.acceptance_chain import Chain, Distribution, SparseQ, Uniforms, quantise
from airdraft.core.errors import MalformedFrame
from airdraft.core.rows import TargetRow
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    Drain,
    EdgeFrame,
    Finish,
    Identity,
    Limits,
    NeedPrefix,
    Open,
    Opened,
    Origin,
    Ping,
    Prefix,
    Quote,
    RefusalCode,
    Refused,
    Sampling,
    StopReason,
    Timing,
)
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.convert import (
    device_frame_from_proto,
    device_frame_to_proto,
    edge_frame_from_proto,
    edge_frame_to_proto,
)
from tests.wire import semantic_values

VOCABULARY = 1000
LIMITS = Limits(context_tokens=4096)

tokens = st.integers(0, VOCABULARY - 1)
ids = st.lists(tokens, max_size=12).map(tuple)
lengths = st.integers(0, 1 << 30)
epochs = st.integers(1, 2**32 - 1)
hashes = st.binary(min_size=8, max_size=8)
digests = st.binary(min_size=32, max_size=32)
receipts = st.binary(max_size=64)


samplings = st.builds(
    Sampling,
    st.just(0.0) | st.floats(0.01, 100),
    st.integers(0, 2**64 - 1),
    st.integers(0, 1 << 30),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.01, 100),
    st.floats(-2, 2),
    st.floats(-2, 2),
)


@st.composite
def distributions(draw: st.DrawFn, token: int) -> SparseQ:
    known = sorted({token, *draw(st.lists(tokens, max_size=6))})
    shares = np.array([draw(st.floats(0.01, 1)) for _ in known])
    return quantise(known, shares / shares.sum())


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    drafted: tuple[int, ...] = draw(ids)
    acked = draw(st.integers(0, 1 << 29))
    parents = None
    tree: bool = draw(st.booleans())
    if drafted and tree:
        parents = tuple(draw(st.integers(-1, index - 1)) for index in range(len(drafted)))
    base = acked + draw(st.integers(0, 1 << 29))
    idle: bool = draw(st.booleans())
    seq = draw(st.integers(0, 2**32 - 1))
    told: bool = draw(st.booleans())
    q = tuple(draw(distributions(token)) for token in drafted) if drafted and told else None
    sure: bool = draw(st.booleans())
    probabilities = tuple(draw(st.floats(0, 1, width=32)) for _ in drafted) if drafted and sure else None
    idle = idle and not drafted
    rows = draw(semantic_values.states(len(drafted)))
    return Draft(draw(epochs), seq, acked, base, draw(hashes), drafted, parents, idle, q, probabilities, rows)


@st.composite
def opens(draw: st.DrawFn) -> Open:
    prompt = draw(st.integers(1, 1 << 30))
    return Open(
        draw(st.binary(min_size=16, max_size=16)),
        draw(epochs),
        Identity(draw(digests), draw(digests), draw(st.text(max_size=20))),
        draw(samplings),
        draw(ids),
        draw(lengths),
        prompt,
        draw(st.integers(prompt, 1 << 30)),
        draw(digests),
        draw(st.none() | lengths),
        draw(receipts),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.booleans()),
        draw(st.none() | semantic_values.semantics),
    )


seconds, numbers = st.floats(0, 1e6), st.floats(0, 1e6, width=32)
quotes = st.builds(
    Quote, seconds, seconds, st.booleans(), seconds, numbers, numbers, st.integers(0, 10**6), numbers,
    st.floats(0, 1, width=32),
)  # fmt: skip


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    committed = draw(ids)
    base = draw(lengths)
    origins = tuple(draw(st.sampled_from(list(Origin))) for _ in committed)
    stop = draw(st.none() | st.sampled_from(list(StopReason)))
    timing = Timing(draw(st.integers(0, 10**9)) / 1e6, draw(st.integers(0, 10**9)) / 1e6)
    seq = draw(st.integers(0, 2**32 - 1))
    length, path_hash, receipt = base + len(committed), draw(hashes), draw(receipts)
    half: bool = draw(st.booleans())
    row = TargetRow(draw(st.binary(min_size=8, max_size=8)) * (VOCABULARY // (4 if half else 2)), half)
    told = origins[-1:] == (Origin.RECOVERED,) and draw(st.booleans())
    row_told = row if told else None
    quote = draw(st.none() | quotes)
    spent = draw(st.floats(0, 1))
    return Commit(
        draw(epochs), base, committed, length, path_hash, seq, origins, stop, timing, receipt, row_told, quote, spent
    )


pings = st.builds(Ping, epochs, st.integers(0, 2**32 - 1), st.booleans())
drains = st.builds(
    Drain,
    epochs,
    st.integers(0, 10**6).map(lambda ms: ms / 1000),
    st.lists(st.from_regex(r"\A[a-z0-9.]{1,40}:[0-9]{1,5}\Z"), max_size=16).map(tuple),
)
device_frames = (
    drafts()
    | opens()
    | pings
    | st.builds(Prefix, epochs, lengths, ids)
    | st.builds(Finish, epochs, lengths)
    | semantic_values.reports
    | semantic_values.hidden()
)
limits = st.builds(
    Limits, lengths, st.integers(1, 1 << 30), st.integers(1, 512), st.integers(1, 1 << 30), st.integers(1, 8192)
)
edge_frames = (
    commits()
    | pings
    | drains
    | semantic_values.need_hidden
    | st.builds(Opened, epochs, lengths, lengths, limits, st.none() | quotes, semantic_values.grants)
    | st.builds(NeedPrefix, epochs, lengths)
    | st.builds(
        Refused,
        st.integers(0, 2**32 - 1),
        st.sampled_from(list(RefusalCode)),
        st.text(st.characters().filter(str.isprintable), max_size=50),
        st.text(st.characters().filter(str.isprintable), max_size=20),
        st.integers(0, 10**6).map(lambda ms: ms / 1000),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.booleans(),
    )
)


@given(device_frames)
def test_a_devices_frame_survives(frame: DeviceFrame) -> None:
    message = pb.DeviceFrame.FromString(device_frame_to_proto(frame).SerializeToString())
    assert device_frame_from_proto(message, VOCABULARY, LIMITS) == frame


def test_rejection_over_the_wire_is_lossless() -> None:
    """The device samples from what it sends; the edge judges by what it reads: the text follows the target."""
    chance = np.random.default_rng(5)
    p, q = chance.dirichlet(np.ones(8)), chance.dirichlet(np.ones(8))
    sent = quantise(np.arange(8), q)
    counts = np.zeros(8)
    trials = 20_000
    for _ in range(trials):
        token = sent.sample(chance.random())
        draft = Draft(1, 1, 3, 3, b"h" * 8, (token,), q=(sent,))
        frame = pb.DeviceFrame.FromString(device_frame_to_proto(draft).SerializeToString())
        read = device_frame_from_proto(frame, 8, LIMITS)
        assert isinstance(read, Draft)
        assert read.q is not None
        target = Distribution.dense(p)
        chain = Chain(read.ids, (target, target), tuple(known.distribution() for known in read.q))
        verdict = ACCEPTANCE_RULES["rejection"].judge(chain, Uniforms(chance.random(1), chance.random(2)))
        counts[verdict.ids[0]] += 1
    assert 0.5 * np.abs(counts / trials - p).sum() < 0.015
    chi_square = float(((counts - trials * p) ** 2 / (trials * p)).sum())
    assert chi_square < 40.5  # 7 degrees of freedom, alpha 1e-6


@given(edge_frames)
def test_an_edges_frame_survives(frame: EdgeFrame) -> None:
    message = pb.EdgeFrame.FromString(edge_frame_to_proto(frame).SerializeToString())
    assert edge_frame_from_proto(message, VOCABULARY) == frame


@pytest.mark.parametrize("count", [0, 1, 2, 4, 8, 12, 64, 512])
def test_a_draft_costs_28_bytes_and_4_a_token(count: int) -> None:
    draft = Draft(99, 9_999, 15_000, 15_060, b"\xff" * 8, tuple(range(100, 100 + count)))
    assert device_frame_to_proto(draft).ByteSize() <= 28 + 4 * count
    told = replace(draft, probabilities=(0.5,) * count)
    assert device_frame_to_proto(told).ByteSize() <= 31 + 8 * count


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
def test_a_row_survives_to_the_last_bit(*, half: bool) -> None:
    logits = np.random.default_rng(1).normal(0, 9, VOCABULARY)
    row = TargetRow.of(logits.astype(np.float16) if half else logits.astype(np.float32))
    commit = Commit(1, 4, (7,), 5, b"h" * 8, 1, (Origin.RECOVERED,), row=row)
    message = pb.EdgeFrame.FromString(edge_frame_to_proto(commit).SerializeToString())
    assert message.ByteSize() <= 40 + (2 if half else 4) * VOCABULARY
    read = edge_frame_from_proto(message, VOCABULARY)
    assert isinstance(read, Commit)
    assert read.row is not None
    assert np.array_equal(read.row.logits, logits.astype(np.float16 if half else np.float32))


def _q(id_steps: list[int], weights: list[int]) -> pb.SparseDistribution:
    return pb.SparseDistribution(id_steps=id_steps, weights=weights)


def _draft(**fields: object) -> pb.DeviceFrame:
    return pb.DeviceFrame(draft=pb.Draft(**{"epoch": 1, "seq": 1, "acked": 3, "ids": [1, 2], **fields}))  # type: ignore[arg-type]


def _commit(**fields: object) -> pb.EdgeFrame:
    good: dict[str, object] = {"epoch": 1, "ids": [1, 2], "origins": [pb.ORIGIN_ACCEPTED, pb.ORIGIN_RECOVERED]}
    return pb.EdgeFrame(commit=pb.Commit(**(good | fields)))  # type: ignore[arg-type]


def _open(**fields: object) -> pb.DeviceFrame:
    good: dict[str, object] = {
        "session_id": b"s" * 16,
        "epoch": 1,
        "digest": b"d" * 32,
        "prompt_length": 3,
        "length": 3,
        "max_tokens": 5,
    }
    return pb.DeviceFrame(open=pb.Open(**(good | fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.DeviceFrame(), "frame"),
        (_draft(ids=[VOCABULARY]), "ids"),
        (_draft(ids=[2**32 - 1]), "ids"),
        (_draft(ids=[1] * 513), "ids"),
        (_draft(epoch=0), "epoch"),
        (_draft(acked=2**32 - 3), "acked"),
        (_draft(base_offset=2**31), "base_offset"),
        (_draft(parents=[0]), "parents"),
        (_draft(parents=[0, 2]), "parents"),
        (_draft(idle=True), "idle"),
        (_draft(q=[_q([1], [65535])]), "q"),
        (_draft(q=[_q([1], [65535]), _q([3], [65535])]), "q"),
        (_draft(q=[_q([1], [65535]), _q([2], [65534])]), "q"),
        (_draft(q=[_q([1], [65535]), _q([2, VOCABULARY], [65534, 1])]), "q"),
        (_draft(q=[_q([1], [65535]), _q([2] + [0] * 256, [1] * 257)]), "q"),
        (_draft(q=[_q([1], [65535]), _q([2], [65534, 1])]), "q"),
        (_draft(probabilities=[0.5]), "probabilities"),
        (_draft(probabilities=[0.5] * 3), "probabilities"),
        (_draft(ids=[], probabilities=[0.5]), "probabilities"),
        (_draft(probabilities=[0.5, 1.5]), "probabilities"),
        (_draft(probabilities=[0.5, -0.5]), "probabilities"),
        (_draft(probabilities=[0.5, float("nan")]), "probabilities"),
        (pb.DeviceFrame(prefix=pb.Prefix(epoch=1, ids=[1] * 4097)), "ids"),
        (pb.DeviceFrame(prefix=pb.Prefix(epoch=1, start=2**32 - 1)), "start"),
        (pb.DeviceFrame(finish=pb.Finish(epoch=1, length=2**32 - 1)), "length"),
        (_open(session_id=b"short"), "session_id"),
        (_open(digest=b"short"), "digest"),
        (_open(prompt_length=0), "prompt_length"),
        (_open(length=2), "length"),
        (_open(max_tokens=2**32 - 2), "max_tokens"),
        (_open(stop_ids=[VOCABULARY]), "stop_ids"),
        (_open(receipt=b"r" * 65), "receipt"),
        (pb.DeviceFrame(ping=pb.Ping(number=1)), "epoch"),
        (_open(stop_ids=[1] * 65), "stop_ids"),
        (_open(sampling=pb.Sampling(temperature=float("nan"))), "temperature"),
        (_open(sampling=pb.Sampling(temperature=-1)), "temperature"),
    ],
)
def test_an_edge_refuses_what_does_not_fit(message: pb.DeviceFrame, field: str) -> None:
    with pytest.raises(MalformedFrame) as caught:
        device_frame_from_proto(message, VOCABULARY, LIMITS)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.EdgeFrame(), "frame"),
        (pb.EdgeFrame(commit=pb.Commit(epoch=1, ids=[VOCABULARY], origins=[pb.ORIGIN_BONUS])), "ids"),
        (pb.EdgeFrame(commit=pb.Commit(epoch=1, ids=[1])), "origins"),
        (pb.EdgeFrame(commit=pb.Commit(epoch=1, ids=[1], origins=[pb.ORIGIN_UNSPECIFIED])), "origins"),
        (pb.EdgeFrame(refused=pb.Refused(epoch=1)), "code"),
        (pb.EdgeFrame(refused=pb.Refused(epoch=1, code=pb.REFUSAL_CODE_MALFORMED, message="\x1b[2J")), "message"),
        (pb.EdgeFrame(refused=pb.Refused(epoch=1, code=pb.REFUSAL_CODE_MALFORMED, message="m" * 501)), "message"),
        (pb.EdgeFrame(refused=pb.Refused(epoch=1, code=pb.REFUSAL_CODE_MALFORMED, field="two\nlines")), "field"),
        (pb.EdgeFrame(opened=pb.Opened(epoch=1)), "live_nodes"),
        (pb.EdgeFrame(commit=pb.Commit(epoch=1, receipt=b"r" * 65)), "receipt"),
        (_commit(row=bytes(4 * VOCABULARY - 1)), "row"),
        (_commit(row=bytes(4 * VOCABULARY + 4)), "row"),
        (_commit(row=bytes(VOCABULARY)), "row"),
        (_commit(row=bytes(1 << 20)), "row"),
        (_commit(row=bytes(4 * VOCABULARY), origins=[pb.ORIGIN_RECOVERED, pb.ORIGIN_BONUS]), "row"),
        (_commit(row=bytes(4 * VOCABULARY), ids=[], origins=[]), "row"),
        (pb.EdgeFrame(ping=pb.Ping(number=1)), "epoch"),
        (pb.EdgeFrame(drain=pb.Drain(epoch=1, edges=["a:1"] * 17)), "edges"),
        (pb.EdgeFrame(drain=pb.Drain(epoch=1, edges=[""])), "edges"),
        (pb.EdgeFrame(drain=pb.Drain(epoch=1, edges=["a" * 262])), "edges"),
        (pb.EdgeFrame(drain=pb.Drain(epoch=1, edges=["a\n:1"])), "edges"),
        (pb.EdgeFrame(drain=pb.Drain(epoch=1, edges=["unix:/run/a.sock"])), "edges"),
        (pb.EdgeFrame(drain=pb.Drain(epoch=1, edges=["unix:a:1"])), "edges"),
        (pb.EdgeFrame(drain=pb.Drain(epoch=1, edges=["dns:///a:1"])), "edges"),
    ],
)
def test_a_device_refuses_what_does_not_fit(message: pb.EdgeFrame, field: str) -> None:
    with pytest.raises(MalformedFrame) as caught:
        edge_frame_from_proto(message, VOCABULARY)
    assert caught.value.field == field


@given(st.binary(max_size=200))
def test_random_bytes_never_do_anything_else(data: bytes) -> None:
    parse: list[Callable[[], object]] = [
        lambda: device_frame_from_proto(pb.DeviceFrame.FromString(data), VOCABULARY, LIMITS),
        lambda: edge_frame_from_proto(pb.EdgeFrame.FromString(data), VOCABULARY),
    ]
    from google.protobuf.message import DecodeError

    for attempt in parse:
        try:
            attempt()
        except (DecodeError, MalformedFrame):
            continue
