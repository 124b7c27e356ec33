"""Path hashes and the tree of live draft nodes.

A path hash names a node of the tree of all texts of a session's identity: ``h(0)`` comes from the digests of model,
tokenizer and sampler, ``h(i+1)`` is 8 bytes of BLAKE2b over ``h(i)`` and the id as four bytes, little end first. A
collision can only waste a verification (DESIGN §4, rule 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct, pack

from airdraft.core.types import MAX_FRAME_NODES, Draft, Identity

HASH_BYTES = 8
_ID = Struct("<I")


def root_hash(identity: Identity) -> bytes:
    """Return h(0), 8 bytes, of every session with this identity."""
    state = blake2b(digest_size=HASH_BYTES)
    for part in (identity.model_digest, identity.tokenizer_digest, identity.sampler_version.encode()):
        state.update(_ID.pack(len(part)))
        state.update(part)
    return state.digest()


def next_hash(parent: bytes, token: int) -> bytes:
    """Return the path hash, 8 bytes, of the node that ``token`` makes under ``parent``."""
    return blake2b(parent + _ID.pack(token), digest_size=HASH_BYTES).digest()


class IdsDigest:
    """BLAKE2b-256 of ids as they come, each as four bytes, little end first: what ``Open`` promises of a prefix."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._state = blake2b(digest_size=32)
        self.extend(ids)

    @property
    def value(self) -> bytes:
        """Return the digest, 32 bytes, of the ids so far."""
        return self._state.digest()

    def extend(self, ids: Sequence[int]) -> None:
        """Append ids."""
        self._state.update(pack(f"<{len(ids)}I", *ids))


def ids_digest(ids: Sequence[int]) -> bytes:
    """Return ``IdsDigest`` of the ids."""
    return IdsDigest(ids).value


class HashedPath:
    """The path hashes of a committed text's last positions.

    Kept for ``window`` positions before the end: a frame with an older base is overtaken altogether.
    """

    def __init__(self, root: bytes, window: int = MAX_FRAME_NODES) -> None:
        self._hashes = [root]
        self._first = 0  # length that _hashes[0] belongs to
        self._window = window

    @property
    def length(self) -> int:
        """Return how many tokens the path has."""
        return self._first + len(self._hashes) - 1

    @property
    def end(self) -> bytes:
        """Return the path hash at the path's end."""
        return self._hashes[-1]

    def at(self, length: int) -> bytes | None:
        """Return the path hash after ``length`` tokens, or None where it is older than the window."""
        if not self._first <= length <= self.length:
            return None
        return self._hashes[length - self._first]

    def extend(self, ids: Iterable[int]) -> None:
        """Append ids; forget what falls out of the window."""
        for token in ids:
            self._hashes.append(next_hash(self._hashes[-1], token))
        surplus = len(self._hashes) - 1 - self._window
        if surplus > self._window:  # trimmed now and then, so that a token costs O(1)
            del self._hashes[:surplus]
            self._first += surplus


@dataclass(frozen=True, slots=True)
class Node:
    """One live draft token."""

    path_hash: bytes
    parent_hash: bytes
    token: int
    length: int  # of the path up to and with this token
    seq: int  # the frame that brought it


@dataclass(slots=True)
class DraftTree:
    """Live nodes: drafted, past the committed end, on a path that no committed token contradicts.

    Both ends keep one, each by its own committed text; its size is what credits count (DESIGN §4, rules 4 and 5).
    Iteration gives parents before children.
    """

    nodes: dict[bytes, Node] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.nodes)

    def clear(self) -> None:
        """Drop every node."""
        self.nodes.clear()

    def add(self, draft: Draft, committed: HashedPath) -> int:
        """Judge a frame against the committed text and keep its live part; return how many nodes are new.

        Behind: what equals the committed text is overtaken and dropped, the rest is live. Stale: a part that
        contradicts the committed text, or that hangs under no live node, is dropped without an answer.
        """
        if draft.base <= committed.length:
            if committed.at(draft.base) != draft.base_hash:
                return 0
        elif draft.base_hash not in self.nodes or self.nodes[draft.base_hash].length != draft.base:
            return 0
        before = len(self.nodes)
        for node in frame_nodes(draft):
            if node.length <= committed.length:
                continue  # overtaken or contradicted: its children tell by their parent's hash
            if node.parent_hash == committed.end or node.parent_hash in self.nodes:
                self.nodes.setdefault(node.path_hash, node)
        return len(self.nodes) - before

    def advance(self, committed: HashedPath) -> None:
        """Drop what the committed text has overtaken or contradicted."""
        alive: dict[bytes, Node] = {}
        for node in self.nodes.values():
            if node.length > committed.length and (node.parent_hash == committed.end or node.parent_hash in alive):
                alive[node.path_hash] = node
        self.nodes = alive

    def line(self, end: bytes) -> list[Node] | None:
        """Return the nodes where they are one line from the text that ends in this hash; None where they branch."""
        line = list(self.nodes.values())
        for node in line:
            if node.parent_hash != end:
                return None
            end = node.path_hash
        return line

    def kill(self, seq: int) -> None:
        """Drop the nodes of a refused frame and all under them."""
        dead: set[bytes] = set()
        for node in self.nodes.values():
            if node.seq == seq or node.parent_hash in dead:
                dead.add(node.path_hash)
        self.nodes = {path_hash: node for path_hash, node in self.nodes.items() if path_hash not in dead}


def frame_nodes(draft: Draft) -> list[Node]:
    """Return a frame's nodes with their path hashes, parents before children."""
    nodes: list[Node] = []
    for index, token in enumerate(draft.ids):
        parent = index - 1 if draft.parents is None else draft.parents[index]
        parent_hash, depth = (draft.base_hash, draft.base) if parent < 0 else _place(nodes[parent])
        nodes.append(Node(next_hash(parent_hash, token), parent_hash, token, depth + 1, draft.seq))
    return nodes


def _place(node: Node) -> tuple[bytes, int]:
    return node.path_hash, node.length
