"""What an edge says of itself, as a value and on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.errors import MalformedFrame
from airdraft.core.types import PROTOCOL_VERSION, SAMPLER_VERSION, Identity, Limits, Quote
from airdraft.v1 import verification_pb2 as pb
from airdraft.wire.checks import DIGEST_BYTES, checked_line
from airdraft.wire.convert_edge import limits_from_proto, limits_to_proto, quote_from_proto, quote_to_proto

EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Description:
    """The answer to ``Describe``."""

    model_name: str
    model_digest: bytes
    tokenizer_digest: bytes
    stop_ids: tuple[int, ...]
    vocabulary: int
    limits: Limits
    numerics: str
    chat_template: str = ""
    tokenizer_json: str = ""
    server_version: str = ""
    acceptance_modes: tuple[str, ...] = (EXACT,)
    protocol_versions: tuple[int, ...] = (PROTOCOL_VERSION,)
    sampler_versions: tuple[str, ...] = (SAMPLER_VERSION,)
    quote: Quote | None = None  # as it was when the edge was asked

    @property
    def identity(self) -> Identity:
        """Return what the tokens of a session with this edge mean."""
        return Identity(self.model_digest, self.tokenizer_digest)


def description_to_proto(description: Description, *, include_tokenizer: bool) -> pb.DescribeResponse:
    """Return the answer to send; the tokenizer goes along only where it was asked for."""
    return pb.DescribeResponse(
        protocol_versions=description.protocol_versions,
        sampler_versions=description.sampler_versions,
        model_name=description.model_name,
        model_digest=description.model_digest,
        tokenizer_digest=description.tokenizer_digest,
        tokenizer_json=description.tokenizer_json if include_tokenizer else "",
        chat_template=description.chat_template,
        stop_ids=description.stop_ids,
        vocabulary=description.vocabulary,
        limits=limits_to_proto(description.limits),
        numerics=description.numerics,
        acceptance_modes=description.acceptance_modes,
        server_version=description.server_version,
        quote=quote_to_proto(description.quote),
    )


def description_from_proto(message: pb.DescribeResponse) -> Description:
    """Check and return an edge's answer. Raises MalformedFrame."""
    for name, digest in (("model_digest", message.model_digest), ("tokenizer_digest", message.tokenizer_digest)):
        if len(digest) != DIGEST_BYTES:
            raise MalformedFrame(f"{name} has {len(digest)} bytes, not {DIGEST_BYTES}", field=name)
    if not message.vocabulary or any(token >= message.vocabulary for token in message.stop_ids):
        raise MalformedFrame("the vocabulary is empty or a stop id lies outside it", field="vocabulary")
    return Description(
        model_name=checked_line(message.model_name, "model_name"),
        model_digest=message.model_digest,
        tokenizer_digest=message.tokenizer_digest,
        stop_ids=tuple(message.stop_ids),
        vocabulary=message.vocabulary,
        limits=limits_from_proto(message.limits),
        numerics=checked_line(message.numerics, "numerics"),
        chat_template=message.chat_template,
        tokenizer_json=message.tokenizer_json,
        server_version=checked_line(message.server_version, "server_version"),
        acceptance_modes=tuple(checked_line(mode, "acceptance_modes") for mode in message.acceptance_modes),
        protocol_versions=tuple(message.protocol_versions),
        sampler_versions=tuple(checked_line(version, "sampler_versions") for version in message.sampler_versions),
        quote=quote_from_proto(message),
    )
