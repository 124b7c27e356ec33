"""The test that every target passes before it serves: the engine's logits against the model's own.

transformers lets most models attend by a function that is named from outside, but nothing makes them: one that attends
in its own way, or reads positions from a mask, would give wrong text without an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PretrainedConfig

from airdraft.checkpoint import CheckpointRefused
from airdraft.core.types import Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.target import Target
from edge_node.step import Extent

_WINDOW = 4
_PREFIX = 6  # longer than the window
_TREE = (-1, -1, 0, 1, 2)  # two branches of unequal length
_NODE_PATHS = {3: (1, 3), 4: (0, 2, 4)}
_ROWS = 64  # of each session's extent
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""Greatest error in units of the logits' spread; a mask that is not used costs about one."""


def probe(target: Target) -> None:
    """Raise CheckpointRefused unless a tree of drafts gets the logits of plain forwards on each node's path.

    It runs beside other sessions. Windows are narrowed for the while, so that a few positions show whether they hold.
    """
    ids = [(7 * index + 1) % target.vocabulary for index in range(_PREFIX + len(_TREE))]
    prefix, nodes = ids[:_PREFIX], ids[_PREFIX:]
    with _narrow_windows(target.model.config.get_text_config(decoder=True)):
        try:
            engine = TargetEngine(replace(target, context_tokens=len(ids)), 3 * _ROWS)
            before, place, after = (Extent(first, _ROWS) for first in range(0, 3 * _ROWS, _ROWS))
            engine.extend([(before, Span(0, tuple(nodes))), (place, Span(0, tuple(prefix)))])
            tree = Span(_PREFIX, tuple(nodes), parents=_TREE, wanted=tuple(_NODE_PATHS))
            others = Span(len(nodes), (ids[0],)), Span(0, (ids[1], ids[0]))
            logits = engine.extend([(before, others[0]), (place, tree), (after, others[1])])[1]
            plain = [_plain(target, [*prefix, *(nodes[node] for node in path)]) for path in _NODE_PATHS.values()]
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise CheckpointRefused(f"{target.name} does not run here ({reason}); choose another model") from error
    expected = torch.stack(plain)[:, : target.vocabulary]
    off = float((logits[:, : target.vocabulary] - expected).abs().max() / expected.std())
    if not off <= _TOLERANCE[target.model.dtype]:  # a NaN is refused too
        raise CheckpointRefused(
            f"{target.name} does not attend as this engine asks (error {off:.2g} of the logits' spread); "
            "choose another model, or another --dtype if it overflows in this one"
        )


@torch.inference_mode()
def _plain(target: Target, ids: list[int]) -> Tensor:
    """Return the float32 logits [V] after ``ids`` from the model alone, by its own masks and without a cache."""
    output = target.model(input_ids=torch.tensor([ids], device=target.device), use_cache=False)
    logits: Tensor = output.logits[0, -1].float()
    return logits


@contextmanager
def _narrow_windows(config: PretrainedConfig) -> Iterator[None]:
    window = getattr(config, "sliding_window", None)
    if window is None:
        yield
        return
    config.sliding_window = min(window, _WINDOW)
    try:
        yield
    finally:
        config.sliding_window = window
