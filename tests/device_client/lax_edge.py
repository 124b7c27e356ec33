"""An edge without a model: it goes by a script of grants, takes every draft, and notes what it is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

import grpc
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from airdraft.core.callers import EVERYBODY, Caller
from airdraft.core.errors import Overloaded
from airdraft.core.paths import next_hash, root_hash
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Finish,
    Granted,
    Hidden,
    Limits,
    NeedHidden,
    Open,
    Opened,
    Origin,
    Ping,
    Prefix,
    StopReason,
)
from airdraft.wire.describe import Description
from airdraft.wire.server import SERVER_OPTIONS, add_verification

WORDS = [f"w{index}" for index in range(40)]
SPENT = 0.125  # of each token accepted by meaning


def _tokenizer() -> str:
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    return str(tokenizer.to_str())


TOKENIZER = _tokenizer()
DESCRIPTION = Description(
    "lax",
    b"m" * 32,
    tokenizer_digest(TOKENIZER),
    (39,),
    40,
    Limits(context_tokens=256),
    "none",
    tokenizer_json=TOKENIZER,
)


@dataclass
class LaxEdge:
    """Every second drafted token it accepts by meaning, if it has granted that; without a draft it says w7.

    With ``asks`` it wants the states of a draft before it judges it.
    """

    grants: Sequence[Granted]  # of the first stream, the second, …; the last one holds on
    asks: bool = False
    breaks_after: int = 0  # commits after which the first stream is cut off; 0: never
    seen: list[DeviceFrame] = field(default_factory=list)
    gone: bool = False  # from the second stream on it has no room
    _spent: float = 0.0

    def describe(self) -> Description:
        return DESCRIPTION

    def frames(self, kind: type[DeviceFrame]) -> list[DeviceFrame]:
        return [frame for frame in self.seen if isinstance(frame, kind)]

    def entered(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def generate(
        self, frames: AsyncIterator[DeviceFrame], caller: Caller = EVERYBODY
    ) -> AsyncGenerator[EdgeFrame, None]:
        stream, commits, ids = len(self.frames(Open)), 0, list[int]()
        granted = self.grants[min(stream, len(self.grants) - 1)]
        pending: Draft | None = None
        async for frame in frames:
            self.seen.append(frame)
            match frame:
                case Ping():
                    yield Ping(frame.epoch, frame.number, ack=True)
                    continue
                case Open():
                    opened = frame
                    if stream and self.gone:
                        raise Overloaded("no room", retry_after_s=1.0)
                    yield Opened(frame.epoch, 0, frame.length, DESCRIPTION.limits, granted=granted)
                    continue
                case Prefix():
                    ids += frame.ids
                    continue
                case Finish():
                    return
                case Draft() if frame.ids and self.asks and granted.max_loss:
                    pending = frame
                    yield NeedHidden(frame.epoch, (next_hash(frame.base_hash, frame.ids[0]),))
                    continue
                case Draft() if not frame.ids and not frame.idle:
                    continue
                case Draft():
                    drafted = frame.ids
                case Hidden():
                    assert pending is not None
                    drafted = pending.ids
                case _:
                    continue
            commit = self._commit(opened, ids, drafted, granted)
            ids += commit.ids
            yield commit
            commits += 1
            if not stream and commits == self.breaks_after:
                return

    def _commit(self, opened: Open, ids: list[int], drafted: tuple[int, ...], granted: Granted) -> Commit:
        room = opened.prompt_length + opened.max_tokens - len(ids)
        new = (*drafted, 7)[:room]
        other = Origin.MEANING if granted.max_loss else Origin.ACCEPTED
        kinds = [other if index % 2 else Origin.ACCEPTED for index in range(len(drafted))]
        origins = (*kinds, Origin.BONUS if drafted else Origin.RUN_AHEAD)[:room]
        for origin in origins:
            if origin is Origin.MEANING:
                self._spent = 1 - (1 - self._spent) * (1 - SPENT)
        end = root_hash(opened.identity)
        for token in (*ids, *new):
            end = next_hash(end, token)
        stop = StopReason.MAX_TOKENS if len(new) == room else None
        spent = self._spent if opened.semantic is not None else 0.0
        return Commit(opened.epoch, len(ids), new, len(ids) + len(new), end, 0, origins, stop, spent=spent)


@asynccontextmanager
async def serving(edge: LaxEdge) -> AsyncIterator[str]:
    """Serve it on a free port of the loopback interface."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_verification(server, edge)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=0)
