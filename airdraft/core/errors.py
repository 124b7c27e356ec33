"""Expected conditions, as a tree. They know nothing of gRPC; ``airdraft.wire.status`` translates them.

SpecError
├── MalformedFrame          a field is outside its type, its vocabulary or its limits
├── UnsupportedVersion      protocol or sampler version that this end does not speak
├── Unsupported             a valid wish that this end cannot grant
├── ModelMismatch           another target model
├── TokenizerMismatch       another tokenizer, by canonical content
├── TooLong                 prompt, answer or prefix past the limits
├── SessionMismatch         a known session re-opened with other settings
├── PrefixMismatch          ids that do not have the promised digest
├── StaleEpoch              an attach at or below the highest epoch seen
├── Superseded              a newer stream took this session
├── OutOfOrder              a sequence number that is not the next one
├── BadAck                  an ack that falls or passes the committed end
├── CreditsExceeded         more live nodes than granted
├── Overloaded              no room now; carries ``retry_after_s``
├── Draining                this edge is going away
├── BadReceipt              text presented as the fleet's own that it did not write
├── Unauthenticated         nobody knows who calls
├── Forbidden               a known caller, and not theirs to call
├── LimitReached            a tenant's or a stream's share is used up; carries ``retry_after_s``
├── EdgeFault               the edge contradicted itself (path hash, base): a bug or a hostile edge
└── EdgeUnreachable         no edge answered
"""

from __future__ import annotations

from typing import ClassVar

from airdraft.core.types import RefusalCode, Refused


class SpecError(Exception):
    """An expected condition; its text is one line that says what is wrong and what to do.

    ``code`` is how an edge refuses it on the wire; None where it never leaves the device.
    """

    code: ClassVar[RefusalCode | None] = None

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        retry_after_s: float = 0.0,
        seq: int = 0,
        highest_epoch: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.seq = seq
        self.highest_epoch = highest_epoch


class MalformedFrame(SpecError):
    """A field is outside its type, its vocabulary or its limits."""

    code = RefusalCode.MALFORMED


class UnsupportedVersion(SpecError):
    """A protocol or sampler version that this end does not speak."""

    code = RefusalCode.UNSUPPORTED_VERSION


class Unsupported(SpecError):
    """A valid wish that this end cannot grant."""

    code = RefusalCode.UNSUPPORTED


class ModelMismatch(SpecError):
    """The device asked for another target model than this edge serves."""

    code = RefusalCode.MODEL_MISMATCH


class TokenizerMismatch(SpecError):
    """The two ends do not share one tokenizer, compared by canonical content."""

    code = RefusalCode.TOKENIZER_MISMATCH


class TooLong(SpecError):
    """Prompt, answer or prefix past the limits."""

    code = RefusalCode.TOO_LONG


class SessionMismatch(SpecError):
    """A known session was re-opened with other settings."""

    code = RefusalCode.SESSION_MISMATCH


class PrefixMismatch(SpecError):
    """The presented ids do not have the digest that ``Open`` promised."""

    code = RefusalCode.PREFIX_MISMATCH


class StaleEpoch(SpecError):
    """An attach at or below the highest epoch that this edge has seen; carries that epoch."""

    code = RefusalCode.STALE_EPOCH


class Superseded(SpecError):
    """A newer stream took this session."""

    code = RefusalCode.SUPERSEDED


class OutOfOrder(SpecError):
    """A draft whose sequence number is not the next one."""

    code = RefusalCode.OUT_OF_ORDER


class BadAck(SpecError):
    """An acked length that falls or passes the committed end."""

    code = RefusalCode.BAD_ACK


class CreditsExceeded(SpecError):
    """More live draft nodes than the edge granted."""

    code = RefusalCode.CREDITS


class Overloaded(SpecError):
    """No room now; ``retry_after_s`` says when to come back."""

    code = RefusalCode.RETRY_LATER


class Draining(SpecError):
    """This edge is going away; attach elsewhere."""

    code = RefusalCode.DRAINING


class BadReceipt(SpecError):
    """Text was presented as this fleet's own, and its receipt says otherwise."""

    code = RefusalCode.BAD_RECEIPT


class Unauthenticated(SpecError):
    """Nobody knows who calls: no credential, or none that holds."""

    code = RefusalCode.UNAUTHENTICATED


class Forbidden(SpecError):
    """The caller is known, and may not do this."""

    code = RefusalCode.FORBIDDEN


class LimitReached(SpecError):
    """What a tenant or a stream may use is used up; ``retry_after_s`` says when there is more."""

    code = RefusalCode.LIMIT_REACHED


class EdgeFault(SpecError):
    """The edge contradicted itself. The device keeps its text and goes elsewhere."""


class EdgeUnreachable(SpecError):
    """No edge answered."""


def refusal(error: SpecError, epoch: int) -> Refused:
    """Return the frame that tells the device of an error, and that ends its stream."""
    assert error.code is not None, f"{type(error).__name__} never crosses the wire"
    return Refused(
        epoch,
        error.code,
        error.message,
        field=error.field,
        retry_after_s=error.retry_after_s,
        seq=error.seq,
        highest_epoch=error.highest_epoch,
    )


def error_of(refused: Refused) -> SpecError:
    """Return the error that a refusal stands for: the inverse of ``refusal``."""
    kind = next(kind for kind in SpecError.__subclasses__() if kind.code is refused.code)
    return kind(
        refused.message,
        field=refused.field,
        retry_after_s=refused.retry_after_s,
        seq=refused.seq,
        highest_epoch=refused.highest_epoch,
    )
