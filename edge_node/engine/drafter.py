"""A drafter at the edge: a small model beside the target, or the n-grams of the text itself.

It writes for devices that idle, with the target's own noise; the next pass verifies it like any draft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airdraft.checkpoint import CheckpointRefused, Role
from airdraft.core.drafting import Drafter, NgramDrafter
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import Sampling, Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import load_target
from edge_node.engine.sampling import choose_rows
from edge_node.engine.target import Target

NewDrafter = Callable[[Sampling], Drafter]
"""Makes the drafter of one session."""


class EngineDrafter:
    """Drafts a small model's own text on an engine of its own; a path that differs costs only what differs."""

    def __init__(self, engine: TargetEngine, vocabulary: int, context_tokens: int, sampling: Sampling) -> None:
        self._engine, self._vocabulary, self._context_tokens = engine, vocabulary, context_tokens
        self._sampling = sampling
        self._cache = engine.open()
        self._held: list[int] = []  # the ids whose rows the cache holds

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return up to ``count`` tokens after ``path``; fewer at the end of the model's context or once cancelled."""
        written = list(path)
        most = min(len(path) + count, self._context_tokens)
        while len(written) < most and not cancelled():
            written.append(self._next(written))
        return written[len(path) :]

    def learn(self, ids: Sequence[int]) -> None:
        """Do nothing: what was committed comes back in the next path."""

    def _next(self, path: list[int]) -> int:
        shared = min(len(self._held), len(path) - 1)
        if self._held[:shared] != path[:shared]:
            shared = next(index for index in range(shared) if self._held[index] != path[index])
        feed = tuple(path[shared:])
        (logits,) = self._engine.extend([(self._cache, Span(shared, feed, wanted=(len(feed) - 1,)))])
        self._held = list(path)
        (token,) = choose_rows(logits, self._sampling, self._vocabulary, [path])
        return token


def load_drafter(name: str, target: Target, *, device: str, dtype: str) -> NewDrafter:
    """Return what makes a session's drafter: ``ngram``, ``demo``, a folder or a hub id.

    Raises CheckpointRefused where the model cannot be loaded or has another tokenizer than the target.
    """
    if name == "ngram":
        return lambda sampling: NgramDrafter()
    small = load_target(name, device=device, dtype=dtype, max_context=target.context_tokens, role=Role.DRAFTER)
    if tokenizer_digest(small.tokenizer_json) != tokenizer_digest(target.tokenizer_json):
        raise CheckpointRefused(f"{name} and {target.name} have different tokenizers; choose a drafter of its family")
    engine = TargetEngine(small)
    return lambda sampling: EngineDrafter(engine, target.vocabulary, small.context_tokens, sampling)
