"""The device's end of one session: it owns the text.

Committed ids are final; past them stands what the drafter wrote, some of it sent. The object outlives a stream: after a
loss it attaches again with a higher epoch, and what is not committed is new (DESIGN §4, rule 2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from airdraft.core.acceptance import Ending
from airdraft.core.errors import EdgeFault
from airdraft.core.paths import DraftTree, HashedPath, ids_digest, next_hash, root_hash
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    EdgeFrame,
    Finish,
    Identity,
    Limits,
    NeedPrefix,
    Open,
    Opened,
    Origin,
    Plan,
    Prefix,
    RefusalCode,
    Refused,
    Sampling,
    StopReason,
)


@dataclass(frozen=True, slots=True)
class Committed:
    """Text that is final: journal it, show it, and only then send the frames that come after it."""

    base: int
    ids: tuple[int, ...]
    origins: tuple[Origin, ...]
    stop: StopReason | None


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream ended with a refusal; ``superseded`` means a twin of this device took the session."""

    refusal: Refused

    @property
    def superseded(self) -> bool:
        return self.refusal.code is RefusalCode.SUPERSEDED


Output = DeviceFrame | Committed | Lost


@dataclass(frozen=True, slots=True)
class DraftWork:
    """A wish for drafted tokens: up to ``count`` after ``path``; void once the path is no longer the session's."""

    path: tuple[int, ...]
    count: int
    path_hash: bytes


@dataclass(slots=True)
class Tally:
    """What a session's drafts came to; the words are vLLM's."""

    rounds: int = 0  # commits with ids
    committed: int = 0
    frames: int = 0  # with ids
    drafted: int = 0  # draft tokens sent
    accepted: int = 0  # of those, equal to the committed token at their position
    missed: int = 0  # times that a sent draft was contradicted
    by_origin: dict[Origin, int] = field(default_factory=lambda: dict.fromkeys(Origin, 0))

    @property
    def acceptance(self) -> float:
        """Return accepted over drafted; 0 where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_round(self) -> float:
        """Return the mean acceptance length, bonus and recovered tokens included."""
        return self.committed / self.rounds if self.rounds else 0.0


class DeviceSession:
    """One generation as the device sees it: events in, outputs out, in the order in which they must take effect."""

    def __init__(
        self,
        session_id: bytes,
        identity: Identity,
        prompt: Sequence[int],
        *,
        sampling: Sampling,
        stop_ids: tuple[int, ...],
        max_tokens: int,
        limits: Limits,
        plan: Plan,
    ) -> None:
        """Start with the prompt's ids; ``limits`` are those of ``Describe`` until ``Opened`` brings its own."""
        self.plan = plan
        self.limits = self._described = limits
        self.epoch = 0
        self.stop: StopReason | None = None
        self.ended = False
        self.tally = Tally()
        self.sampling = sampling
        self._session_id, self._identity = session_id, identity
        self._stop_ids, self._max_tokens = stop_ids, max_tokens
        self._ending = Ending(frozenset(stop_ids), len(prompt) + max_tokens)
        self._prompt_length = len(prompt)
        self._ids = list(prompt)
        self._hashes = self._rehashed()
        self._ahead: list[int] = []  # drafted past the committed end
        self._ahead_hashes: list[bytes] = []
        self._sent = 0  # how many of them are on their way
        self._flying: deque[tuple[int, int]] = deque()  # (seq, length at the end) of each frame that is still live
        self._tree = DraftTree()
        self._attached = False
        self._seq = 0
        self._acked = 0
        self._idle_told = False
        self._exhausted_at = b""  # the draft end after which the drafter had no more to say

    # ---- what others may ask ----

    @property
    def ids(self) -> Sequence[int]:
        """Return prompt and committed ids."""
        return self._ids

    @property
    def prompt_length(self) -> int:
        """Return the number of prompt tokens."""
        return self._prompt_length

    @property
    def ahead(self) -> Sequence[int]:
        """Return the drafted ids past the committed end: tentative text."""
        return self._ahead

    @property
    def live_nodes(self) -> int:
        """Return how many sent nodes this end counts against the credits."""
        return len(self._tree)

    # ---- events ----

    def attach(self, epoch: int, *, with_prefix: bool, limits: Limits | None = None) -> list[Output]:
        """Open a stream with an epoch above any used; ``with_prefix`` sends the ids along, else the edge may ask.

        ``limits`` are those of this edge's ``Describe`` and hold until ``Opened``; None is the edge of before.
        """
        assert epoch > self.epoch, "an epoch is used once"
        self.limits = self._described = limits or self._described
        self.epoch, self._attached, self._seq = epoch, True, 0
        self._acked = len(self._ids)
        self._tree.clear()
        self._flying.clear()
        self._sent, self._idle_told = 0, False
        opened = Open(
            self._session_id,
            epoch,
            self._identity,
            self.sampling,
            self._stop_ids,
            self._max_tokens,
            self._prompt_length,
            len(self._ids),
            ids_digest(self._ids),
            0 if with_prefix else None,
        )
        return [opened, *(self._prefix_frames(0) if with_prefix else ()), *self._settle()]

    def detached(self) -> None:
        """The stream is gone; text and drafts stay."""
        self._attached = False

    def received(self, frame: EdgeFrame) -> list[Output]:
        """Take a frame of the attached stream; frames of another epoch are dropped.

        Raises EdgeFault where the edge contradicts itself or this text (rule 9): the text stays as it is.
        """
        if frame.epoch != self.epoch or not self._attached or self.ended:
            return []
        match frame:
            case Opened():
                self.limits = frame.limits
                return self._settle()
            case NeedPrefix():
                if frame.start > len(self._ids):
                    raise EdgeFault("the edge asks for ids past the committed text")
                return self._prefix_frames(frame.start)
            case Refused():
                return self._refused(frame)
            case Commit():
                return self._commit(frame)

    def draft_work(self) -> DraftWork | None:
        """Return what the drafter should write next, or None until another event."""
        if self.ended or not self._attached or len(self._flying) >= self.plan.outstanding:
            return None
        count = self._room()
        if count <= 0 or self._exhausted_at == self._draft_end:
            return None
        return DraftWork((*self._ids, *self._ahead), count, self._draft_end)

    def is_current(self, work: DraftWork) -> bool:
        """Say whether tokens drafted for ``work`` would still count."""
        return work.path_hash == self._draft_end and self._attached and not self.ended

    def drafted(self, work: DraftWork, tokens: Sequence[int]) -> list[Output]:
        """Take what the drafter wrote for ``work``; fewer tokens than asked for mean that it has no more to say."""
        if not self.is_current(work):
            return []
        for token in tokens[: work.count]:
            self._ahead_hashes.append(next_hash(self._draft_end, token))
            self._ahead.append(token)
        if len(tokens) < work.count:
            self._exhausted_at = self._draft_end
        return self._settle()

    def finish(self, length: int) -> list[Output]:
        """The caller stops here, or a stop string ended the text at ``length``."""
        if self.ended:
            return []
        self.ended = True
        return [Finish(self.epoch, length)] if self._attached else []

    # ---- what the edge says ----

    def _commit(self, commit: Commit) -> list[Output]:
        base = len(self._ids)
        if commit.base != base or commit.length != base + len(commit.ids):
            raise EdgeFault(f"a commit at {commit.base} came where {base} was due")
        if commit.length > self._ending.final_length or (not commit.ids and commit.stop is None):
            raise EdgeFault("a commit is empty or passes the most tokens asked for")
        answer = [*self._ids[max(self._prompt_length, base - 1) :], *commit.ids]
        reasons = [self._ending.reached(commit.length - after, token) for after, token in enumerate(reversed(answer))]
        if any(reasons[1:]) or (reasons[0] if reasons else self._ending.reached(commit.length, None)) != commit.stop:
            raise EdgeFault("a commit ends where the text does not, or goes on where it does")
        self._hashes.extend(commit.ids)
        if self._hashes.end != commit.path_hash:
            self._hashes = self._rehashed()
            raise EdgeFault("a commit's path hash is not that of its ids")
        self._ids.extend(commit.ids)
        self._count(commit)
        self._splice(commit.ids)
        self.stop = commit.stop
        committed = Committed(base, commit.ids, commit.origins, commit.stop)
        if commit.stop is not None:
            self.ended = True
            return [committed, Finish(self.epoch, len(self._ids))]
        return [committed, *self._settle()]

    def _rehashed(self) -> HashedPath:
        """Return the path of the committed ids."""
        hashes = HashedPath(root_hash(self._identity))
        hashes.extend(self._ids)
        return hashes

    def _count(self, commit: Commit) -> None:
        tally, sent = self.tally, self._ahead[: self._sent]
        agreed = next((i for i, pair in enumerate(zip(sent, commit.ids, strict=False)) if pair[0] != pair[1]), None)
        tally.missed += agreed is not None
        tally.accepted += min(len(sent), len(commit.ids)) if agreed is None else agreed
        tally.rounds += bool(commit.ids)
        tally.committed += len(commit.ids)
        for origin in commit.origins:
            tally.by_origin[origin] += 1

    def _splice(self, ids: Sequence[int]) -> None:
        """Keep the drafts that a commit agrees with, sent or not; drop them where it does not."""
        agreed = min(len(ids), len(self._ahead))
        if self._ahead[:agreed] == list(ids[:agreed]):
            del self._ahead[: len(ids)], self._ahead_hashes[: len(ids)]
            self._sent = max(0, self._sent - len(ids))
        else:
            self._drop_ahead(0)
        self._tree.advance(self._hashes)
        self._flying = deque((seq, end) for seq, end in self._flying if self._sent and end > len(self._ids))

    def _refused(self, refused: Refused) -> list[Output]:
        if refused.ends_stream:
            self._attached = False
            return [Lost(refused)]
        if refused.seq:
            self._tree.kill(refused.seq)
            # On a chain, what hangs under a frame is all that came after it.
            if any(seq == refused.seq for seq, _ in self._flying):
                self._flying = deque(item for item in self._flying if item[0] < refused.seq)
                self._drop_ahead(max(0, self._flying[-1][1] - len(self._ids)) if self._flying else 0)
        return self._settle()

    # ---- what the device sends ----

    @property
    def _draft_end(self) -> bytes:
        return self._ahead_hashes[-1] if self._ahead_hashes else self._hashes.end

    def _drop_ahead(self, keep: int) -> None:
        del self._ahead[keep:], self._ahead_hashes[keep:]
        self._sent = min(self._sent, keep)

    def _room(self) -> int:
        """Return how many more tokens may be drafted for the frame in the making."""
        if self._ahead and self._ahead[-1] in self._stop_ids:
            return 0  # nothing comes after the end of the text
        # The last position is the target's in any case: a draft of it saves nothing.
        useful = self._ending.final_length - 1 - len(self._ids) - len(self._ahead)
        unsent = len(self._ahead) - self._sent
        frame = min(self.plan.draft_length, self.limits.frame_nodes)
        return min(frame - unsent, useful, self.limits.live_nodes - len(self._tree) - unsent)

    def _settle(self) -> list[Output]:
        """Send what is due: a full or final frame, else word that the device idles, else a lone ack."""
        if not self._attached or self.ended:
            return []
        frames: list[Output] = []
        drafted_out = self._room() <= 0 or self._exhausted_at == self._draft_end
        if drafted_out and len(self._flying) < self.plan.outstanding:
            frames += self._frame()
        if drafted_out and not self._flying and not self._idle_told:
            self._idle_told = True
            frames.append(self._draft((), idle=True))
        if not frames and 2 * (len(self._ids) - self._acked) >= self.limits.ahead_tokens:
            frames.append(self._draft((), idle=False))
        return frames

    def _frame(self) -> list[Output]:
        """Send unsent drafts, as many as one frame and the credits take."""
        credit = min(self.limits.live_nodes - len(self._tree), self.limits.frame_nodes)
        ids = tuple(self._ahead[self._sent : self._sent + credit])
        if not ids:
            return []
        draft = self._draft(ids, idle=False)
        self._sent += len(ids)
        self._tree.add(draft, self._hashes)
        self._flying.append((draft.seq, draft.base + len(ids)))
        self.tally.frames += 1
        self.tally.drafted += len(ids)
        self._idle_told = False
        return [draft]

    def _draft(self, ids: tuple[int, ...], *, idle: bool) -> Draft:
        self._seq += 1
        self._acked = len(self._ids)
        base = len(self._ids) + (self._sent if ids else 0)
        base_hash = self._ahead_hashes[self._sent - 1] if ids and self._sent else self._hashes.end
        return Draft(self.epoch, self._seq, self._acked, base, base_hash, ids, idle=idle)

    def _prefix_frames(self, start: int) -> list[Output]:
        step = self.limits.prefix_chunk_tokens
        return [Prefix(self.epoch, at, tuple(self._ids[at : at + step])) for at in range(start, len(self._ids), step)]
