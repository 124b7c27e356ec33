"""Tokens of the edge's own that it holds back for a draft of them (DESIGN §6).

A semantic session would lose by committing them at once: the device's wording, harmless as it may be, would come too
late. They are decoded, and their rows are in the cache, but they are committed only when a draft of their position has
come, when nothing of the device is on its way, or when they have waited long enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airdraft.core.paths import DraftTree, Node, next_hash
from airdraft.core.types import Origin


@dataclass(frozen=True, slots=True)
class HeldBack:
    """One provisional token."""

    token: int
    path_hash: bytes
    length: int  # of the path up to and with it
    origin: Origin  # what it is committed as where no draft of it comes
    since_s: float


class Provisional:
    """The provisional tokens of a session, a chain behind its committed text."""

    def __init__(self) -> None:
        """Begin with none."""
        self.tokens: list[HeldBack] = []
        self.dropped = 0  # that were never committed

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the tokens' ids."""
        return tuple(one.token for one in self.tokens)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Return what the tokens are committed as where no draft of them comes."""
        return tuple(one.origin for one in self.tokens)

    def add(self, end: bytes, length: int, ids: Sequence[int], origins: Sequence[Origin], now_s: float) -> None:
        """Hold back tokens behind the line, which has this ``length`` and ends in the hash ``end``."""
        for token, origin in zip(ids, origins, strict=True):
            end, length = next_hash(end, token), length + 1
            kept = Origin.EDGE_DRAFT if origin is Origin.EDGE_DRAFT else Origin.RUN_AHEAD
            self.tokens.append(HeldBack(token, end, length, kept, now_s))

    def clear(self) -> None:
        """Drop them: the text went another way, or is no longer known."""
        self.dropped += len(self.tokens)
        self.tokens.clear()

    def gave(self, count: int) -> None:
        """The first ``count`` are committed."""
        del self.tokens[:count]

    def due(
        self,
        end: bytes,
        tree: DraftTree,
        hold_s: float | None,
        now_s: float,
        may_stand: Callable[[int, HeldBack], bool],
    ) -> tuple[Origin, ...]:
        """Return how many of the first tokens are to be committed now, by what they are committed as.

        end        the committed text's path hash
        tree       the device's live nodes
        hold_s     how long a token waits for a draft; None: none is held back
        may_stand  whether a drafted token can be judged in place of one of these; the rest is harmful without a pass

        What the device has drafted just so is accepted. Where its line differs, a pass must tell, unless nothing of it
        may stand. Where it has none, tokens go out when they have waited long enough.
        """
        agreed = next((at for at, one in enumerate(self.tokens) if one.path_hash not in tree.nodes), len(self.tokens))
        accepted, rest = (Origin.ACCEPTED,) * agreed, self.tokens[agreed:]
        if not rest:
            return accepted
        above = self.tokens[agreed - 1].path_hash if agreed else end
        others = [node.token for node in tree.nodes.values() if node.parent_hash == above]
        origins = tuple(one.origin for one in rest)
        if others:
            if hold_s is not None and any(may_stand(other, rest[0]) for other in others):
                return accepted
            return (*accepted, Origin.RECOVERED, *origins[1:])
        if hold_s is None:
            return (*accepted, *origins)
        waited = next((at for at, one in enumerate(rest) if one.since_s + hold_s > now_s), len(rest))
        return (*accepted, *origins[:waited])

    def nodes(self, end: bytes) -> list[Node]:
        """Return them as nodes under the committed end, whose hash is ``end``."""
        nodes: list[Node] = []
        for one in self.tokens:
            nodes.append(Node(one.path_hash, end, one.token, one.length, 0))
            end = one.path_hash
        return nodes
