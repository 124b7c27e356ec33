"""Models at a stated pace: the tokens are a real model's, the seconds those of a model that is not here.

A pass or a drafted token ends at a time fixed when it began, however long the real one took, so that what waits behind
it starts on time again. Where the real one took longer than stated, or waking up did, the excess is kept: it is the
error of all that is measured so, and whoever reports such figures calls them *paced* and reports it beside them.

Injected by bench and demo alone. Knows no model: engines and drafters are whatever has their methods.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import pack
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from airdraft.core.drafting import Drafter, confidences_of, states_of
from airdraft.core.types import Span

YIELD_S = 0.002
"""The last of a wait is spent in naps: a long sleep may end that late on a quiet virtual machine, a nap rarely."""

NAP_S = 0.0001
"""A shorter sleep is not worth its timer."""

ASK_S = 0.0005
"""How often a wait that may be cut short looks whether it is."""

Place = TypeVar("Place", contravariant=True)
Rows = TypeVar("Rows")
Fill = TypeVar("Fill", contravariant=True)


class Engine(Protocol[Place, Rows, Fill]):
    """What computes spans: an edge node's engine."""

    @property
    def rows(self) -> int:
        """Return the rows of the pool."""
        ...

    @property
    def context_tokens(self) -> int:
        """Return how many positions a text may have."""
        ...

    @property
    def computed(self) -> int:
        """Return how many positions were computed so far."""
        ...

    def extend(self, work: Sequence[tuple[Place, Span]]) -> list[Rows]:
        """Run each span at its place in the pool; return what the model makes of its wanted rows."""
        ...

    def fill(self, fill: Fill) -> None:
        """Copy or clear rows of the pool."""
        ...


class Pacer:
    """Waits for stated times and keeps by how many seconds each was missed; one for each model.

    ``late_s`` grows by one entry a wait; never below 0. Another thread may take entries away.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.late_s: list[float] = []
        self.clock = clock
        self._sleep = sleep

    def until(self, due_s: float, cancelled: Callable[[], bool] | None = None) -> bool:
        """Return at ``due_s`` by the clock, at once where it is past; or soon after ``cancelled`` says yes.

        Says whether the time was waited for; a wait that was cut short is not late.
        """
        while (ahead := due_s - self.clock() - YIELD_S) > 0:
            if cancelled is not None and cancelled():
                return False
            self._sleep(ahead if cancelled is None else min(ahead, ASK_S))
        while (now := self.clock()) < due_s:
            if cancelled is not None and cancelled():
                return False
            # Half of what remains may end late and still be early; the last is naps of some 0.05 ms.
            half = (due_s - now) / 2
            self._sleep(min(half, ASK_S) if half > NAP_S else 0)
        self.late_s.append(now - due_s)
        return True

    def take_late_s(self) -> list[float]:
        """Return the entries so far and forget them."""
        taken, self.late_s = self.late_s, []
        return taken


class PacedEngine(Generic[Place, Rows, Fill]):
    """An engine whose passes last what a cost line says."""

    def __init__(self, engine: Engine[Place, Rows, Fill], pass_s: Callable[[int], float], pacer: Pacer) -> None:
        """Let a pass over n positions, those of all its spans, last ``pass_s(n)``."""
        self._engine, self._pass_s, self._pacer = engine, pass_s, pacer

    @property
    def rows(self) -> int:
        """Return the rows of the pool."""
        return self._engine.rows

    @property
    def context_tokens(self) -> int:
        """Return how many positions a text may have."""
        return self._engine.context_tokens

    @property
    def computed(self) -> int:
        """Return how many positions were computed so far."""
        return self._engine.computed

    def fill(self, fill: Fill) -> None:
        """Copy or clear rows; it takes what it takes."""
        self._engine.fill(fill)

    def extend(self, work: Sequence[tuple[Place, Span]]) -> list[Rows]:
        """Run each span; return when the pass is due to end."""
        due_s = self._pacer.clock() + self._pass_s(sum(len(span.tokens) for _, span in work))
        rows = self._engine.extend(work)
        self._pacer.until(due_s)
        return rows


@dataclass(frozen=True, slots=True)
class PacedDrafter:
    """A drafter whose k-th token is there ``k * draft_s`` after a proposal began."""

    drafter: Drafter
    draft_s: float
    pacer: Pacer
    _sure: list[float] = field(default_factory=list, init=False, compare=False)
    _states: list[NDArray[np.float32]] = field(default_factory=list, init=False, compare=False)

    @property
    def confidences(self) -> Sequence[float] | None:
        """Return the drafter's, of the tokens that are there; None: it never says."""
        return None if confidences_of(self.drafter) is None else self._sure

    @property
    def states(self) -> Sequence[NDArray[np.float32]] | None:
        """Return the drafter's, of the tokens that are there; None: it has none."""
        return None if states_of(self.drafter) is None else self._states

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return up to ``count`` tokens after ``path``; a void draft ends at once, without the token under way.

        What the drafter cannot say costs nothing.
        """
        began_s, written = self.pacer.clock(), list(path)
        self._sure.clear()
        self._states.clear()
        for number in range(1, count + 1):
            token = [] if cancelled() else self.drafter.propose(written, 1, cancelled)
            if not token or not self.pacer.until(began_s + number * self.draft_s, cancelled):
                break
            written += token
            self._sure.extend(confidences_of(self.drafter) or ())
            self._states.extend(states_of(self.drafter) or ())
        return written[len(path) :]

    def learn(self, ids: Sequence[int]) -> None:
        """Let the drafter learn; it takes what it takes."""
        self.drafter.learn(ids)


@dataclass(frozen=True, slots=True)
class NoisyDrafter:
    """A noisy copy of the target: a drafter whose acceptance is a setting.

    ``drafter`` is to be the target itself: its weights, the session's sampling and noise. At a share of paths, 1 -
    ``acceptance`` of them, drawn by a hash of ``seed`` and path, another token stands in place of its own; so a text
    meets the same misses whoever drafts how much of it and when.
    """

    drafter: Drafter
    acceptance: float
    seed: int
    vocabulary: int  # at least 2 tokens
    _sure: list[float] = field(default_factory=list, init=False, compare=False)

    @property
    def confidences(self) -> Sequence[float] | None:
        """Return the copy's own, which say nothing of what is spoilt; None: it never says."""
        return None if confidences_of(self.drafter) is None else self._sure

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return up to ``count`` tokens after ``path``, spoilt ones among them; what follows those follows them."""
        written = list(path)
        self._sure.clear()
        while len(written) < len(path) + count and not cancelled():
            token = self.drafter.propose(written, 1, cancelled)
            if not token:
                break
            written.append(self._heard(written, token[0]))
            self._sure.extend(confidences_of(self.drafter) or ())
        return written[len(path) :]

    def learn(self, ids: Sequence[int]) -> None:
        """Let the copy learn."""
        self.drafter.learn(ids)

    def is_true(self, path: Sequence[int]) -> bool:
        """Say whether the copy's own token is drafted after ``path``."""
        return self._draw(path)[0] < self.acceptance

    def _heard(self, path: Sequence[int], token: int) -> int:
        share, other = self._draw(path)
        return token if share < self.acceptance else (token + 1 + other % (self.vocabulary - 1)) % self.vocabulary

    def _draw(self, path: Sequence[int]) -> tuple[float, int]:
        """Return a share, uniform in [0, 1), and a number, which belong to this path."""
        drawn = blake2b(pack(f"<Q{len(path)}I", self.seed, *path), digest_size=16).digest()
        return (int.from_bytes(drawn[:8], "little") >> 11) / 2**53, int.from_bytes(drawn[8:], "little")
