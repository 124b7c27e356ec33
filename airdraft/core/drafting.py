"""Drafters: what proposes tokens for the target to verify.

A drafter proposes and learns what was committed; nothing else. A wrong proposal costs time and never text. Drafters
that need a model live in ``device_client.drafters``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance_chain import SparseQ


class Drafter(Protocol):
    """Two verbs, called from one thread at a time; one that knows how sure it is says so (``confidences_of``)."""

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return up to ``count`` tokens that may follow ``path``; fewer mean that there is no more to say.

        ``path`` is prompt, committed text and what was drafted since. ``cancelled`` is asked before each token,
        and in the midst of one as often as a drafter can; once it says yes the proposal ends there: the tokens that it
        has are returned, the one at work is given up.
        """
        ...

    def learn(self, ids: Sequence[int]) -> None:
        """Take ids that were committed, in order: the prompt first, then each commit."""
        ...


def confidences_of(drafter: Drafter) -> Sequence[float] | None:
    """Return how sure a drafter is of each token of the proposal at work, or of the last one; None: it never says.

    That is its ``confidences``, where it has them: for each token the top probability of its own distribution, which
    need not be that token's where the session draws. A token and its confidence are there at once, and ``cancelled`` is
    next asked behind both. Read it on the drafter's own thread.
    """
    told: Sequence[float] | None = getattr(drafter, "confidences", None)
    return told


def states_of(drafter: Drafter) -> Sequence[NDArray[np.float32]] | None:
    """Return a drafter's states of the tokens of the proposal at work, or of the last one; None: it has none.

    Those are its ``states``: of each token what its LM head read when it wrote it, [state_width]. Read them as
    ``confidences_of``.
    """
    told: Sequence[NDArray[np.float32]] | None = getattr(drafter, "states", None)
    return told


def state_width_of(drafter: Drafter) -> int:
    """Return how many numbers a drafter's states have; 0: it has none."""
    width: int = getattr(drafter, "state_width", 0)
    return width


def q_of(drafter: Drafter) -> Sequence[SparseQ]:
    """Return what a drafter chose each token of the proposal from, likewise; empty: it does not say.

    One that can has ``q`` and says it once its ``tells_q`` is set.
    """
    told: Sequence[SparseQ] = getattr(drafter, "q", ())
    return told


@dataclass(slots=True)
class NgramDrafter:
    """Prompt look-up: propose what followed the last occurrence of the path's longest known suffix.

    Source: Saxena 2023, prompt look-up decoding; transformers' ``prompt_lookup_num_tokens`` does the same. Learns from
    prompt and committed text alone, so it needs no model and next to no memory.
    """

    longest: int = 3  # tokens of suffix to look for first
    shortest: int = 1
    _ids: list[int] = field(default_factory=list)
    _last: dict[tuple[int, ...], int] = field(default_factory=dict)  # n-gram to the position after its last occurrence

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return the tokens after the last place where the path's suffix stood before."""
        for width in range(min(self.longest, len(path)), self.shortest - 1, -1):
            start = self._last.get(tuple(path[-width:]))
            if start is not None and start < len(self._ids):
                return self._ids[start : start + count]
        return []

    def learn(self, ids: Sequence[int]) -> None:
        """Index the n-grams that end before each new id: the last one has no successor yet."""
        for token in ids:
            end = len(self._ids)
            for width in range(self.shortest, min(self.longest, end) + 1):
                self._last[tuple(self._ids[end - width :])] = end
            self._ids.append(token)
