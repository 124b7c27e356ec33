"""Drafts that are kept: a drafter whose seconds are stated need not compute again what it has written once.

Schedules write the same texts, so most paths come back; what a lane saves so lets another one write beside it. The
target is never spared: every pass of the edge is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from airdraft.core.drafting import Drafter, states_of
from airdraft.core.types import Sampling

MOST_PATHS = 50_000
"""Paths that are kept, some 1 kB each, and half of that for a state; past it all are forgotten."""

State = NDArray[np.float32]


class Kept(NamedTuple):
    """A drafted token, and the model's state of it where it has states."""

    token: int
    state: State | None


Memory = dict[tuple[int, ...], Kept]
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
    _states: list[State] = field(default_factory=list, init=False, compare=False)

    @property
    def states(self) -> Sequence[State] | None:
        """Return the drafter's, of the tokens of the last proposal; None: it has none."""
        return None if states_of(self.drafter) is None else self._states

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return what the drafter proposes, token by token."""
        written = list(path)
        self._states.clear()
        while len(written) < len(path) + count and not cancelled():
            key = tuple(written)
            kept = self.memory.get(key)
            if kept is None:
                found = self.drafter.propose(written, 1, cancelled)
                if not found:
                    break
                states = states_of(self.drafter)
                kept = self.memory[key] = Kept(found[0], states[0] if states else None)
            written.append(kept.token)
            if kept.state is not None:
                self._states.append(kept.state)
        return written[len(path) :]

    def learn(self, ids: Sequence[int]) -> None:
        """Let the drafter learn."""
        self.drafter.learn(ids)
