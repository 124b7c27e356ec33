"""Drafts that are kept: a drafter whose seconds are stated need not compute again what it has written once.

Schedules write the same texts, so most paths come back; what a lane saves so lets another one write beside it. The
target is never spared: every pass of the edge is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from airdraft.core.drafting import Drafter
from airdraft.core.types import Sampling

MOST_PATHS = 50_000
"""Paths that are kept, some 1 kB each; past it all are forgotten."""

Memory = dict[tuple[int, ...], int]
"""By path, the one token that a model drafts after it."""


@dataclass(slots=True)
class Memories:
    """What models have drafted, by model and sampling."""

    _known: dict[tuple[str, Sampling], Memory] = field(default_factory=dict)

    def of(self, model: str, sampling: Sampling) -> Memory:
        """Return what this model has drafted by this sampling."""
        if sum(map(len, self._known.values())) > MOST_PATHS:
            self._known.clear()
        return self._known.setdefault((model, sampling), {})


@dataclass(frozen=True, slots=True)
class Remembering:
    """A drafter of which each token is asked once."""

    drafter: Drafter  # what it drafts may depend on nothing but the path
    memory: Memory

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return what the drafter proposes, token by token."""
        written = list(path)
        while len(written) < len(path) + count and not cancelled():
            key = tuple(written)
            token = self.memory.get(key)
            if token is None:
                found = self.drafter.propose(written, 1, cancelled)
                if not found:
                    break
                token = self.memory[key] = found[0]
            written.append(token)
        return written[len(path) :]

    def learn(self, ids: Sequence[int]) -> None:
        """Let the drafter learn."""
        self.drafter.learn(ids)
