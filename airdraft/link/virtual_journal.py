"""What outlives a device's process in virtual time: the user's wish and the journal."""

from __future__ import annotations

from dataclasses import dataclass, field

from airdraft.core.session import Committed
from airdraft.core.types import Identity, Plan, Sampling, Semantic, StopReason


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks for; a new run of the program repeats it."""

    session_id: bytes
    identity: Identity
    prompt: tuple[int, ...]
    sampling: Sampling
    stop_ids: tuple[int, ...]
    max_tokens: int
    plan: Plan
    edges: tuple[str, ...]
    give_up_s: float
    rests: bool = False  # the device drafts nothing behind an edge that it is not likely to overtake
    semantic: Semantic | None = None  # what it asks for; None is exact


Record = int | Committed  # an epoch about to be used, or a commit


@dataclass(slots=True)
class Journal:
    """What outlives the process, in the order in which it was written."""

    records: list[Record] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Return the highest epoch written, 0 where there is none."""
        return max((record for record in self.records if isinstance(record, int)), default=0)

    @property
    def ids(self) -> list[int]:
        """Return the committed ids, without the prompt."""
        return [token for record in self._commits() for token in record.ids]

    @property
    def receipt(self) -> bytes:
        """Return the last receipt."""
        return next((record.receipt for record in reversed(self._commits())), b"")

    @property
    def stop(self) -> StopReason | None:
        """Return why the text ended."""
        return next((record.stop for record in reversed(self._commits())), None)

    def _commits(self) -> list[Committed]:
        return [record for record in self.records if isinstance(record, Committed)]
