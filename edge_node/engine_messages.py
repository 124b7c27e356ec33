"""The queue between front and engine: every message that crosses it, and its bytes.

A message is a frame of its own, length first, msgpack after it. Steps and their answers are in ``edge_node.step``; here
are those of a process's beginning. The front asks, the engine answers in the order of asking; ``Progress`` is the one
answer that nobody asked for. Neither end sends what the other cannot read: a frame that does not decode is a bug.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from edge_node.step import Drafted, DraftStep, Step, StepDone

Refusal = Literal["checkpoint", "machine"]
"""What stands in the way: the model itself, or that it does not fit this machine with these settings."""

PREFIX_BYTES = 4
"""Of a frame: the length of what follows, most significant byte first."""

MAX_FRAME_BYTES = 1 << 30


class Load(Struct, frozen=True, tag=True):
    """The first message: what to load and how much room to take for it."""

    model: str
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    max_context: int = 4096  # tokens of one text
    max_sessions: int = 64
    kv_tokens: int | None = None  # rows of the pool; None is what memory gives
    kv_dtype: Literal["auto", "int8"] = "auto"
    profile: Literal["fast", "strict"] = "fast"
    draft_model: str = "none"
    threads: int | None = None  # of PyTorch; None is OMP_NUM_THREADS, or all cores but one
    poison: bool = False  # freed rows are filled with NaN: for tests
    heads: tuple[str, ...] = ()  # files of semantic heads, of which steps name one by its place
    reflect: bool = False  # keep rows for asking the target about drafts (``Judged.reflect``)
    manifest: str | None = None  # text of the one of the model and its heads: nothing else is read
    draft_manifest: str | None = None  # likewise of the drafter's, where that is no part of the model's


class Progress(Struct, frozen=True, tag=True):
    """One line for whoever watches the engine start."""

    text: str


class LoadFailed(Struct, frozen=True, tag=True):
    """The engine cannot serve and ends; the message says what is wrong and what to do."""

    message: str
    kind: Refusal


class Loaded(Struct, frozen=True, tag=True):
    """The engine serves: what the front tells devices of the model, and how large the pool is."""

    name: str
    model_digest: bytes  # 32 bytes
    tokenizer_digest: bytes  # 32 bytes
    tokenizer_json: str
    chat_template: str | None
    stop_ids: tuple[int, ...]
    vocabulary: int
    context_tokens: int
    numerics: str
    rows: int  # of the pool
    row_bytes: int  # keys and values of one position, all layers

    @property
    def identity(self) -> tuple[bytes, bytes, str]:
        """Return what a session's tokens depend on: an engine with another one cannot go on with it."""
        return self.model_digest, self.tokenizer_digest, self.numerics


Ask = Load | Step | DraftStep
Answer = Loaded | LoadFailed | Progress | StepDone | Drafted

_ENCODER = msgspec.msgpack.Encoder()
_ASKS: msgspec.msgpack.Decoder[Ask] = msgspec.msgpack.Decoder(Ask)
_ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class BadFrame(RuntimeError):
    """The other end sent what is no message: a bug, after which nothing that it sends can be trusted."""


def framed(message: Ask | Answer) -> bytes:
    """Return a message's frame."""
    payload = _ENCODER.encode(message)
    assert len(payload) <= MAX_FRAME_BYTES, f"a {type(message).__name__} of {len(payload)} bytes"
    return len(payload).to_bytes(PREFIX_BYTES, "big") + payload


def frame_length(prefix: bytes | bytearray | memoryview) -> int:
    """Return how many bytes follow a frame's first four. Raises BadFrame."""
    length = int.from_bytes(prefix, "big")
    if length > MAX_FRAME_BYTES:
        raise BadFrame(f"a frame of {length} bytes")
    return length


def read_ask(payload: bytes | memoryview) -> Ask:
    """Return what the front asks. Raises BadFrame."""
    try:
        return _ASKS.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"the front sent no message of the queue: {error}") from None


def read_answer(payload: bytes | memoryview) -> Answer:
    """Return what the engine answers. Raises BadFrame."""
    try:
        return _ANSWERS.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(f"the engine sent no message of the queue: {error}") from None


class FrameSplitter:
    """Cuts a stream of bytes into the payloads of its frames, however it was cut up on its way."""

    def __init__(self) -> None:
        self._held = bytearray()

    def fed(self, data: bytes) -> list[bytes]:
        """Return the payloads that ``data`` completes, in order. Raises BadFrame."""
        self._held += data
        payloads: list[bytes] = []
        at = 0
        while (begin := at + PREFIX_BYTES) <= len(self._held):
            end = begin + frame_length(self._held[at:begin])
            if end > len(self._held):
                break
            payloads.append(bytes(memoryview(self._held)[begin:end]))
            at = end
        del self._held[:at]
        return payloads
