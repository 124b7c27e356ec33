"""The values that cross a boundary: settings, frames of the session protocol, and the edge's work.

All are frozen. Positions are absolute and count from the first prompt token; a *length* is a number of tokens from
there. ``docs/glossary.md`` explains the words; DESIGN §4 is the contract that the frames follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.rows import TargetRow

PROTOCOL_VERSION = 1
SAMPLER_VERSION = "gumbel-splitmix64-1"
"""Names the rule that turns logits into a token; both ends must share it."""

MAX_FRAME_NODES = 512
"""Draft nodes in one frame, and positions of which the edge keeps path hashes (DESIGN §4, rules 4 and 5)."""

MAX_FRAME_BYTES = 64 * 1024
"""Largest frame on a stream, either way, a ``Commit`` that brings a row of the target's aside."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target's text is chosen (DESIGN §3A).

    Temperature 0 is argmax, ties to the lowest id. The values that switch a processor off are the defaults.
    """

    temperature: float = 0.0
    seed: int = 0  # of the noise, below 2^64
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a session's tokens mean: the target, its tokenizer and the sampler."""

    model_digest: bytes  # 32 bytes
    tokenizer_digest: bytes  # 32 bytes
    sampler_version: str = SAMPLER_VERSION


@dataclass(frozen=True, slots=True)
class Limits:
    """What an edge grants a session."""

    context_tokens: int  # prompt and answer together
    live_nodes: int = 256  # credits: draft nodes sent, past the committed end, not contradicted
    frame_nodes: int = MAX_FRAME_NODES
    ahead_tokens: int = 64  # how far the edge may decode past the acked length
    prefix_chunk_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class Quote:
    """What an edge tells a device to plan by (DESIGN §7). A number that is 0 is not known yet, or not set."""

    fixed_s: float = 0.0  # a pass of one position, as passes took lately
    per_position_s: float = 0.0  # each further position
    runs_ahead: bool = False  # it commits tokens while nothing of the device is live
    edge_second_price: float = 0.0  # users' seconds that a second of this edge costs: 1 where nobody else waits for it
    step_sessions: float = 0.0  # sessions that share a step where none waits for its device
    step_positions: float = 0.0  # positions of such a step, of all of them
    own_draft_tokens: int = 0  # that its own drafter writes for a pass of this session; 0: none, or not worth it
    own_draft_s: float = 0.0  # one of them
    own_acceptance: float = 0.0  # chance that one more of them is right


@dataclass(frozen=True, slots=True)
class Plan:
    """How the device drafts. One frame outstanding and none ahead is the synchronous schedule."""

    draft_length: int  # tokens a frame; 0 leaves all to the edge
    outstanding: int = 1  # frames in flight at once
    ahead: int = 0  # frames drafted past those in flight, and a guess of the token between, to go up in their turn
    first_alone: bool = False  # what is drafted first after a commit contradicted the draft goes up at once
    split: bool = False  # probabilities go up with the drafts, and what replaces a miss is drawn here, from a row
    waits: bool = False  # the edge is asked not to go ahead of these drafts
    own_draft: bool = True  # the edge's own drafter may write for this session
    provisional_s: float = (
        0.0  # semantic: the edge holds its own tokens back so long for a draft of them; 0: not at all
    )


class HiddenProtocol(IntEnum):
    """Which of the drafter's states a semantic session sends up (DESIGN §6)."""

    TARGET_ONLY = 1  # none: the target's own state tells
    FULL_HIDDEN = 2  # of every drafted token, with the draft (WISV, arXiv 2604.17701)
    MISMATCH_FIRST = 3  # of those that the target would not have chosen, when the edge asks (WISV's selective upload)
    MARGIN_FIRST = 4  # of those that the drafter itself was not sure of, with the draft


class StateKind(IntEnum):
    """How a state row goes up: a float32 scale, then a byte a number."""

    INT8 = 1
    FP8 = 2  # e4m3


@dataclass(frozen=True, slots=True)
class Semantic:
    """What a device asks for that lets drafted tokens stand that are as good as the target's own (DESIGN §6)."""

    max_loss: float  # cap: share of answers that may become worse for it, above 0
    rule: str = "head"  # a name of ``airdraft.core.meaning.RULES``
    protocol: HiddenProtocol = HiddenProtocol.TARGET_ONLY
    drafter_digest: bytes = b""  # 32 bytes, of the drafter's weights; empty where it has none
    state_width: int = 0  # numbers of one of its states; 0: it tells none
    state_kind: StateKind = StateKind.INT8


@dataclass(frozen=True, slots=True)
class Granted:
    """What an edge grants of that; ``max_loss`` 0 is ``exact``."""

    max_loss: float = 0.0
    rule: str = ""
    protocol: HiddenProtocol = HiddenProtocol.TARGET_ONLY
    reason: str = ""  # one line: why less than was asked


EXACT = Granted()


@dataclass(frozen=True, slots=True)
class StateRows:
    """States of drafted tokens as they go up: rows of one width and kind, which both ends know from the attach."""

    at: tuple[int, ...]  # whose: index in the frame's ``ids``, or in ``Hidden.hashes``
    data: bytes  # the rows one after the other


class Origin(IntEnum):
    """How a committed token came to be; the words are vLLM's where vLLM has one."""

    ACCEPTED = 1
    RECOVERED = 2
    BONUS = 3
    RUN_AHEAD = 4
    EDGE_DRAFT = 5  # drafted by the edge's own drafter, and accepted
    MEANING = 6  # drafted, not the target's own choice, and accepted by meaning


class StopReason(IntEnum):
    """Why a text ended."""

    STOP_TOKEN = 1
    MAX_TOKENS = 2


class RefusalCode(IntEnum):
    """Why an edge refused a frame or ended a stream."""

    MALFORMED = 1
    UNSUPPORTED_VERSION = 2
    UNSUPPORTED = 3
    MODEL_MISMATCH = 4
    TOKENIZER_MISMATCH = 5
    TOO_LONG = 6
    SESSION_MISMATCH = 7
    PREFIX_MISMATCH = 8
    STALE_EPOCH = 9
    SUPERSEDED = 10
    OUT_OF_ORDER = 11
    BAD_ACK = 12
    CREDITS = 13
    RETRY_LATER = 14
    DRAINING = 15
    BAD_RECEIPT = 16
    UNAUTHENTICATED = 17
    FORBIDDEN = 18
    LIMIT_REACHED = 19


# ---- either way ----


@dataclass(frozen=True, slots=True)
class Ping:
    """A sign of life; with ``ack`` the answer to the ping of this number, due at once whatever else is at work."""

    epoch: int
    number: int
    ack: bool = False


# ---- from the device ----


@dataclass(frozen=True, slots=True)
class Open:
    """Attach a session to this edge, for the first time or again."""

    session_id: bytes  # 16 bytes
    epoch: int
    identity: Identity
    sampling: Sampling
    stop_ids: tuple[int, ...]
    max_tokens: int  # counted from the prompt length
    prompt_length: int
    length: int  # ids so far, prompt and committed: the first ack
    digest: bytes  # BLAKE2b-256 of those ids
    prefix_start: int | None  # where the ``Prefix`` frames that follow begin; None where none follow
    receipt: bytes = b""  # of the last commit; empty where none was given
    protocol_version: int = PROTOCOL_VERSION
    rows: bool = False  # commits are to bring the target's row where a draft was missed
    semantic: Semantic | None = None  # None is ``exact``


@dataclass(frozen=True, slots=True)
class Prefix:
    """A chunk of the ids that ``Open`` announced or ``NeedPrefix`` asked for."""

    epoch: int
    start: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft nodes under the node whose path hash is ``base_hash``; without ids it is an ack."""

    epoch: int
    seq: int
    acked: int  # the device's committed length
    base: int  # length of the path that the ids extend; never before ``acked``
    base_hash: bytes  # 8 bytes
    ids: tuple[int, ...] = ()
    parents: tuple[int, ...] | None = None  # index of each node's parent in ``ids``, -1 for the base; None is a chain
    idle: bool = False  # nothing of the device is on its way until its next frame with ids
    q: tuple[SparseQ, ...] | None = None  # what each id was sampled from; the exact rule never reads it
    probabilities: tuple[float, ...] | None = None  # the drafter's own of each id; nor does it read these
    states: StateRows | None = None  # of these ids; only where ``Granted.protocol`` sends them with the draft


@dataclass(frozen=True, slots=True)
class Finish:
    """The device stops here; the last ack. The edge forgets the session."""

    epoch: int
    length: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the device's plan asks of the edge for this session; at each attach the defaults hold."""

    epoch: int
    waits: bool = False  # do not go ahead of the device's drafts
    own_draft: bool = True  # the edge's own drafter may write
    provisional_s: float = 0.0  # semantic: hold tokens of yours back so long for a draft of them; 0: commit at once
    miss_s: float | None = None  # what a miss costs this session by its plan; it only makes acceptance stricter
    round_trip_s: float | None = None  # of the channel, for a head that was trained with it
    up_bytes_s: float | None = None  # likewise


@dataclass(frozen=True, slots=True)
class Hidden:
    """States that ``NeedHidden`` asked for; a node that the device no longer has is left out."""

    epoch: int
    hashes: tuple[bytes, ...]  # path hash of each node, 8 bytes
    data: bytes  # their rows, in this order


DeviceFrame = Open | Prefix | Draft | Finish | Report | Ping | Hidden

# ---- from the edge ----


@dataclass(frozen=True, slots=True)
class Timing:
    """Where an edge spent the time of one pass, in seconds."""

    queue_s: float = 0.0  # from the frame that made the pass possible to its start
    pass_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to ``Open``, sent at once."""

    epoch: int
    kv_length: int
    committed_length: int
    limits: Limits
    quote: Quote | None = None
    granted: Granted = EXACT


@dataclass(frozen=True, slots=True)
class NeedHidden:
    """The edge judges these nodes and lacks the drafter's states of them; it waits for them, but not for long."""

    epoch: int
    hashes: tuple[bytes, ...]  # 8 bytes each


@dataclass(frozen=True, slots=True)
class Commit:
    """Tokens that stand for good: the target's own, or in a semantic session as good."""

    epoch: int
    base: int
    ids: tuple[int, ...]
    length: int  # base + len(ids)
    path_hash: bytes  # 8 bytes, at ``length``
    last_seq: int  # last draft read when the pass was chosen; information only
    origins: tuple[Origin, ...]
    stop: StopReason | None = None
    timing: Timing = Timing()
    receipt: bytes = b""  # the edge's word for all ids up to ``length``; opaque to the device
    row: TargetRow | None = None  # that the last id, a recovered one, was drawn from; where ``Open.rows`` asked for it
    quote: Quote | None = None  # where it has changed since it was last told on this stream
    spent: float = 0.0  # semantic: chance, as the edge estimates it, that meaning has made the answer worse so far


@dataclass(frozen=True, slots=True)
class NeedPrefix:
    """The edge lacks the session's ids from ``start`` on."""

    epoch: int
    start: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The edge will not do this; ``seq`` names a refused draft, which dies at both ends with all under it."""

    epoch: int
    code: RefusalCode
    message: str
    field: str = ""
    retry_after_s: float = 0.0
    seq: int = 0
    highest_epoch: int = 0
    ends_stream: bool = True


@dataclass(frozen=True, slots=True)
class Drain:
    """This edge is going away: streams still here after ``deadline_s`` are cut off."""

    epoch: int
    deadline_s: float
    edges: tuple[str, ...] = ()  # addresses, HOST:PORT, of edges to go to instead


EdgeFrame = Opened | Commit | NeedPrefix | Refused | Ping | Drain | NeedHidden

# ---- work for models ----


@dataclass(frozen=True, slots=True)
class Span:
    """Positions of one session for one forward pass; the engine's only unit of work.

    The cache holds ``start`` valid rows once ``gather`` is done: rows ``gather`` (absolute cache rows) become the last
    ``len(gather)`` rows before ``start``. ``parents[i]`` is the index in ``tokens`` of token i's parent, -1 where it is
    the last row before ``start``; None is a chain. ``wanted`` are the indices whose choice of next token is asked for.
    """

    start: int
    tokens: tuple[int, ...]
    parents: tuple[int, ...] | None = None
    wanted: tuple[int, ...] = ()
    gather: tuple[int, ...] = ()


class Work(IntEnum):
    """What a pass is for."""

    VERIFY = 1  # drafts
    DECODE = 2  # the next token, where the device drafts nothing or none of it has come
    PREFILL = 3  # rows of committed text that the cache lacks: a prompt, or a replay
    RUN_AHEAD = 4  # the next token, while a draft of it may be on its way


@dataclass(frozen=True, slots=True)
class Pass:
    """A span with what fences it: it counts only if epoch, base and path hash are still current (DESIGN §4, rule 2)."""

    epoch: int
    base: int
    base_hash: bytes
    span: Span
    sampling: Sampling
    last_seq: int
    nodes: int  # how many of the span's last tokens are draft nodes
    prefix: Sequence[int]  # the committed ids; only its length is true where no setting reads the ids (``row_paths``)
    own: int = 0  # how many of the draft nodes, the last ones, only the edge's own drafter wrote
    work: Work = Work.VERIFY
    row: bool = False  # the target's row is wanted too, where the walk along its choices leaves the draft
    judged: bool = False  # evidence is wanted of every draft node that is not the target's choice after its parent

    def row_paths(self) -> list[Sequence[int]]:
        """Return, for each wanted row, the ids up to and with it: the path of the token that is chosen there."""
        span = self.span
        first = len(span.tokens) - self.nodes
        paths: list[Sequence[int]] = []
        for index in span.wanted:
            ids: list[int] = []
            while index >= first:
                ids.append(span.tokens[index])
                index = index - 1 if span.parents is None else span.parents[index]
            if isinstance(self.prefix, range):
                paths.append(range(len(self.prefix) + len(ids)))
            else:
                paths.append((*self.prefix, *reversed(ids)))
        return paths


@dataclass(frozen=True, slots=True)
class DraftWork:
    """A wish for drafted tokens: up to ``count`` after ``path``; void once the path is no longer the session's."""

    path: tuple[int, ...]
    count: int
    path_hash: bytes  # 8 bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the target tells of one drafted token that it would not have chosen (DESIGN §6).

    ``p`` is the target's distribution after the node's parent, ``r`` the one after the node: softmax of the float32
    logits below the tokenizer's size, without the session's sampling settings.
    """

    node: int  # index among the pass's draft nodes
    drafted_log_p: float  # log p(drafted)
    choice_log_p: float  # log p(the target's choice)
    entropy: float  # of p, in nats
    max_log_p: float  # log of p's greatest
    after_entropy: float  # of r
    after_max_log_p: float
    kl: float | None = None  # KL(p || q) in nats, where the drafter told q
    partial: tuple[float, ...] = ()  # the head's target part: what its first layer makes of the target's features
    reflected: float | None = None  # log ratio of drafted to choice, where the target was asked to look at it again


@dataclass(frozen=True, slots=True)
class PassResult:
    """The target's own choice of next token after each wanted row, in the order of ``Span.wanted``."""

    choices: tuple[int, ...]
    timing: Timing = Timing()
    row: TargetRow | None = None  # where ``Pass.row`` asked for it, and the walk along the choices leaves the draft
    evidence: tuple[Evidence, ...] = ()  # where ``Pass.judged`` asked for it, by node
