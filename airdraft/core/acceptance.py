"""Acceptance rules: which of a pass's draft nodes become text, and what the target adds.

The rule in use is *exact*: the walk follows the target's own choice at every node, so the text is the target's at any
temperature and for any drafter (SpecExec's rule, Svirschevski et al. 2024, arXiv 2406.02532, with the shared noise of
Daliri, Musco, Suresh 2024, arXiv 2408.07978, once the sampler has noise).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airdraft.core.types import Origin, StopReason

ROOT = -1


@dataclass(frozen=True, slots=True)
class Ending:
    """When a text is over."""

    stop_ids: frozenset[int]
    final_length: int  # prompt length plus max tokens

    def reached(self, length: int, last: int | None) -> StopReason | None:
        """Say whether a text of ``length`` whose last generated token is ``last`` (None: none yet) has ended."""
        if last is not None and last in self.stop_ids:
            return StopReason.STOP_TOKEN
        return StopReason.MAX_TOKENS if length >= self.final_length else None


@dataclass(frozen=True, slots=True)
class Walk:
    """What one pass commits."""

    ids: tuple[int, ...]
    origins: tuple[Origin, ...]
    path: tuple[int, ...]  # indices of the accepted nodes, in order
    stop: StopReason | None


def exact_walk(
    tokens: Sequence[int],
    children: Mapping[int, Sequence[int]],
    choices: Mapping[int, int],
    length: int,
    ending: Ending,
) -> Walk:
    """Follow the target's choices from the committed end through a tree of draft nodes.

    tokens    token of each node
    children  node index (``ROOT`` for the committed end) to the indices of its children
    choices   node index (``ROOT`` for the committed end) to the target's choice after it
    length    the committed length

    The walk ends with the first token that no child holds (*recovered* where there were children, *bonus* after a leaf,
    *run-ahead* where nothing was drafted) or with the first that ends the text; what was accepted after an ending is
    not committed (DESIGN §4, rule 8).
    """
    ids: list[int] = []
    origins: list[Origin] = []
    path: list[int] = []
    node = ROOT
    while True:
        choice = choices[node]
        offered = children.get(node, ())
        child = next((index for index in offered if tokens[index] == choice), None)
        ids.append(choice)
        if child is not None:
            origins.append(Origin.ACCEPTED)
            path.append(child)
        elif offered:
            origins.append(Origin.RECOVERED)
        else:
            origins.append(Origin.BONUS if path else Origin.RUN_AHEAD)
        stop = ending.reached(length + len(ids), choice)
        if child is None or stop is not None:
            return Walk(tuple(ids), tuple(origins), tuple(path), stop)
        node = child
