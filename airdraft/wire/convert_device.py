"""``Open`` and ``Draft`` to protobuf and back; every field is checked on its way in."""

from __future__ import annotations

from itertools import accumulate

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import MalformedFrame
from airdraft.core.sampling import check
from airdraft.core.types import Draft, Identity, Limits, Open, Sampling
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.checks import (
    DIGEST_BYTES,
    checked_epoch,
    checked_ids,
    checked_position,
    checked_receipt,
    hash_from_int,
    hash_to_int,
    require,
)
from airdraft.wire.convert_semantic import semantic_from_proto, semantic_to_proto, states_from_proto

MAX_STOP_IDS = 64
MAX_Q_ENTRIES = 256
SESSION_ID_BYTES = 16


def draft_to_proto(draft: Draft) -> pb.Draft:
    """Return a draft as a message."""
    return pb.Draft(
        epoch=draft.epoch,
        seq=draft.seq,
        acked=draft.acked,
        base_offset=draft.base - draft.acked,
        base_hash=hash_to_int(draft.base_hash),
        ids=draft.ids,
        parents=None if draft.parents is None else [parent + 1 for parent in draft.parents],
        idle=draft.idle,
        q=None if draft.q is None else [_q_to_proto(q) for q in draft.q],
        probabilities=draft.probabilities,
        states_at=None if draft.states is None else draft.states.at,
        states=b"" if draft.states is None else draft.states.data,
    )


def draft_from_proto(message: pb.Draft, vocabulary: int, limits: Limits) -> Draft:
    """Check and return a device's draft."""
    acked = checked_position(message.acked, "acked")
    ids = checked_ids(message.ids, vocabulary, limits.frame_nodes)
    parents = tuple(parent - 1 for parent in message.parents) if message.parents else None
    if parents is not None:
        require(len(parents) == len(ids), "parents", "one parent a node")
        require(all(parent < index for index, parent in enumerate(parents)), "parents", "must stand before the node")
    require(not (ids and message.idle), "idle", "only an empty draft can say it")
    q = tuple(_q_from_proto(entry, vocabulary) for entry in message.q) if message.q else None
    require(q is None or len(q) == len(ids), "q", "one distribution an id")
    require(q is None or all(token in known.ids for token, known in zip(ids, q, strict=True)), "q", "lacks its own id")
    probabilities = tuple(message.probabilities) or None
    require(probabilities is None or len(probabilities) == len(ids), "probabilities", "one an id")
    require(all(0 <= one <= 1 for one in probabilities or ()), "probabilities", "outside 0 to 1")  # as a NaN is
    return Draft(
        checked_epoch(message.epoch),
        message.seq,
        acked,
        acked + checked_position(message.base_offset, "base_offset"),
        hash_from_int(message.base_hash),
        ids,
        parents,
        message.idle,
        q,
        probabilities,
        states_from_proto(message),
    )


def _q_to_proto(q: SparseQ) -> pb.SparseDistribution:
    steps = [token - before - 1 for before, token in zip((-1, *q.ids), q.ids, strict=False)]
    return pb.SparseDistribution(id_steps=steps, weights=q.weights)


def _q_from_proto(message: pb.SparseDistribution, vocabulary: int) -> SparseQ:
    require(len(message.id_steps) <= MAX_Q_ENTRIES, "q", f"at most {MAX_Q_ENTRIES} entries an id")
    ids = tuple(token - 1 for token in accumulate(step + 1 for step in message.id_steps))
    require(not ids or ids[-1] < vocabulary, "q", f"an id outside the vocabulary of {vocabulary}")
    try:
        return SparseQ(ids, tuple(message.weights))
    except ValueError as error:
        raise MalformedFrame(f"q: {error}", field="q") from None


def open_to_proto(opened: Open) -> pb.Open:
    """Return a wish to attach as a message."""
    return pb.Open(
        protocol_version=opened.protocol_version,
        session_id=opened.session_id,
        epoch=opened.epoch,
        identity=pb.Identity(
            model_digest=opened.identity.model_digest,
            tokenizer_digest=opened.identity.tokenizer_digest,
            sampler_version=opened.identity.sampler_version,
        ),
        sampling=_sampling_to_proto(opened.sampling),
        stop_ids=opened.stop_ids,
        max_tokens=opened.max_tokens,
        prompt_length=opened.prompt_length,
        length=opened.length,
        digest=opened.digest,
        prefix_start=opened.prefix_start,
        receipt=opened.receipt,
        rows=opened.rows,
        semantic=semantic_to_proto(opened.semantic),
    )


def open_from_proto(message: pb.Open, vocabulary: int) -> Open:
    """Check and return a device's wish to attach."""
    identity = message.identity
    require(len(message.session_id) == SESSION_ID_BYTES, "session_id", f"must have {SESSION_ID_BYTES} bytes")
    require(len(message.digest) == DIGEST_BYTES, "digest", f"must have {DIGEST_BYTES} bytes")
    require(message.prompt_length >= 1, "prompt_length", "a prompt has at least one token")
    require(message.length >= message.prompt_length, "length", "covers the prompt at least")
    return Open(
        message.session_id,
        checked_epoch(message.epoch),
        Identity(identity.model_digest, identity.tokenizer_digest, identity.sampler_version),
        _sampling_from_proto(message.sampling),
        checked_ids(message.stop_ids, vocabulary, MAX_STOP_IDS, "stop_ids"),
        checked_position(message.max_tokens, "max_tokens"),
        checked_position(message.prompt_length, "prompt_length"),
        checked_position(message.length, "length"),
        message.digest,
        checked_position(message.prefix_start, "prefix_start") if message.HasField("prefix_start") else None,
        checked_receipt(message.receipt),
        message.protocol_version,
        message.rows,
        semantic_from_proto(message),
    )


def _sampling_to_proto(sampling: Sampling) -> pb.Sampling:
    return pb.Sampling(
        temperature=sampling.temperature,
        seed=sampling.seed,
        top_k=sampling.top_k,
        top_p=sampling.top_p if sampling.top_p != 1 else None,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty if sampling.repetition_penalty != 1 else None,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )


def _sampling_from_proto(message: pb.Sampling) -> Sampling:
    sampling = Sampling(
        temperature=message.temperature,
        seed=message.seed,
        top_k=checked_position(message.top_k, "top_k"),
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
    )
    try:
        check(sampling)
    except ValueError as error:
        raise MalformedFrame(str(error), field=str(error).split(" ", 1)[0]) from None
    return sampling
