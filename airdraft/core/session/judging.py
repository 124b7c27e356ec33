"""What a semantic session keeps of its drafts, and the verdicts on a pass: which drafted tokens stand (DESIGN §6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance import ROOT, Ending, Walk
from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import MalformedFrame
from airdraft.core.meaning import MeaningJudge, Swap, unpack_rows
from airdraft.core.paths import DraftTree
from airdraft.core.session.drafts import Followed
from airdraft.core.session.passes import Verified
from airdraft.core.types import (
    Draft,
    Evidence,
    Hidden,
    HiddenProtocol,
    Origin,
    Pass,
    PassResult,
    Semantic,
    StateKind,
)

HIDDEN_WAIT_S = 0.5
"""How long a pass's verdict waits for states that the edge asked for; without them a token is judged strictly."""

MOST_ASKED = 64
"""Nodes in one ``NeedHidden``: a walk rarely meets more than a few mismatches."""

MOST_SWAPS = 256

State = NDArray[np.float32]


@dataclass(slots=True)
class Held:
    """A pass whose verdict waits for states."""

    done: Pass
    result: PassResult
    asked: frozenset[bytes] = frozenset()
    until_s: float = 0.0
    rows: bool = True  # the cache still has what it computed


class Judging:
    """The judge of a session, with what it is told of the nodes that are live."""

    def __init__(self, judge: MeaningJudge, asked: Semantic | None, ending: Ending) -> None:
        """Judge by what was granted; ``asked`` tells how wide the drafter's states are."""
        self.judge = judge
        self._ending = ending
        self._width = 0 if asked is None else asked.state_width
        self._kind = StateKind.INT8 if asked is None else asked.state_kind
        self._states: dict[bytes, State] = {}
        self._q: dict[bytes, SparseQ] = {}
        self._swaps: deque[Swap] = deque(maxlen=MOST_SWAPS)

    @property
    def judges(self) -> bool:
        """Return whether evidence of mismatches is of use: the cap lets some token stand."""
        return self.judge.most > 0

    def take_swaps(self) -> tuple[Swap, ...]:
        """Return the tokens that were judged since this was last asked, the latest ones where they are many."""
        swaps = tuple(self._swaps)
        self._swaps.clear()
        return swaps

    # ---- what the device tells of its nodes ----

    def attached(self) -> None:
        """A new stream: what is not committed is new."""
        self.judge.attached()
        self._states.clear()
        self._q.clear()

    def check(self, draft: Draft) -> None:
        """Refuse states that were not granted or are none, and a q of another length. Raises MalformedFrame."""
        if draft.q is not None and len(draft.q) != len(draft.ids):
            raise MalformedFrame("as many distributions as ids are due, or none", field="q", seq=draft.seq)
        if draft.states is not None:
            if self.judge.granted.protocol not in (HiddenProtocol.FULL_HIDDEN, HiddenProtocol.MARGIN_FIRST):
                raise MalformedFrame("no states go up with drafts in this session", field="states", seq=draft.seq)
            if any(not 0 <= index < len(draft.ids) for index in draft.states.at):
                raise MalformedFrame("a state belongs to none of the ids", field="states_at", seq=draft.seq)
            self._rows(draft.states.data, len(draft.states.at), seq=draft.seq)

    def keep(self, followed: Followed, tree: DraftTree) -> None:
        """Keep what came with a checked frame of the nodes that are live."""
        draft, hashes = followed.draft, [node.path_hash for node in followed.nodes]
        if draft.q is not None and self.judge.reads_q:
            self._q.update({one: q for one, q in zip(hashes, draft.q, strict=True) if one in tree.nodes})
        if draft.states is not None:
            rows = self._rows(draft.states.data, len(draft.states.at), seq=draft.seq)
            self._store(dict(zip((hashes[index] for index in draft.states.at), rows, strict=True)), tree)

    def advance(self, tree: DraftTree) -> None:
        """Forget what is no longer live."""
        if self._states or self._q:
            self._states = {one: row for one, row in self._states.items() if one in tree.nodes}
            self._q = {one: q for one, q in self._q.items() if one in tree.nodes}

    def told(self, hidden: Hidden, held: Held | None, tree: DraftTree) -> bool:
        """Take states that were asked for; return whether they answer what is held. Late ones are dropped.

        Raises MalformedFrame.
        """
        if self.judge.granted.protocol is not HiddenProtocol.MISMATCH_FIRST:
            raise MalformedFrame("no states are asked for in this session", field="hidden")
        rows = self._rows(hidden.data, len(hidden.hashes))
        if held is None or not held.asked.issuperset(hidden.hashes):
            return False
        self._store(dict(zip(hidden.hashes, rows, strict=True)), tree)
        return True

    def q_of(self, done: Pass) -> tuple[SparseQ | None, ...]:
        """Return what each draft node of a pass was sampled from, as far as the device told; empty: of none."""
        if not self._q:
            return ()
        hashes = Verified.of(done, done.span.wanted).path_hashes  # any choices do
        return tuple(self._q.get(one) for one in hashes)

    # ---- verdicts ----

    def lacks(self, verified: Verified, evidence: Sequence[Evidence], *, alone: bool = False) -> tuple[bytes, ...]:
        """Return the path hashes of the mismatched nodes that the walk may come to and whose states are not here.

        Those that come first on the walk come first; ``alone`` as in ``walk``.
        """
        if self.judge.granted.protocol is not HiddenProtocol.MISMATCH_FIRST or not self.judge.reads_states:
            return ()
        if self.judge.threshold <= 0:
            return ()
        known = {one.node for one in evidence}
        lacking: list[bytes] = []
        line = deque([ROOT])
        while line and len(lacking) < MOST_ASKED:
            node = line.popleft()
            chosen = verified.chosen(node, alone=alone)
            if chosen is not None:
                line.appendleft(chosen)
                continue
            for child in verified.device_children.get(node, ()):
                if child in known and self._may_stand(verified, child):
                    line.append(child)
                    if verified.path_hashes[child] not in self._states:
                        lacking.append(verified.path_hashes[child])
        return tuple(lacking[:MOST_ASKED])

    def walk(self, verified: Verified, evidence: Sequence[Evidence], *, alone: bool = False) -> Walk:
        """Return what a pass commits, and spend what is accepted by meaning; see ``Verified.walk``."""
        known = {one.node: one for one in evidence}
        threshold, most = self.judge.threshold, self.judge.most
        risks: dict[int, float] = {}

        def harmless(node: int) -> bool:
            if node >= verified.theirs or node not in known or not self._may_stand(verified, node):
                return False
            risk = self._risk(verified, known, node)
            risks[node] = risk
            return threshold > 0 and risk <= threshold

        walk = verified.walk(self._ending, harmless if most > 0 else None, alone=alone)
        stood = {node for node, origin in zip(walk.path, walk.origins, strict=False) if origin is Origin.MEANING}
        for node, risk in risks.items():
            if node in stood:
                self.judge.spend(risk)
            if node in stood or risk <= most:
                self._note(verified, node, risk, stood=node in stood)
        return walk

    def contest(self, drafted: int, chosen: int) -> bool:
        """Say whether a pass is needed to know if ``drafted`` may stand in place of the target's ``chosen``."""
        return self.judge.threshold > 0 and self._allowed(drafted, chosen)

    def _risk(self, verified: Verified, known: Mapping[int, Evidence], node: int) -> float:
        state = self._states.get(verified.path_hashes[node]) if self._states else None
        return self.judge.risk(known[node], confirmed=verified.confirmed(node), state=state)

    def _may_stand(self, verified: Verified, node: int) -> bool:
        return self._allowed(verified.tokens[node], verified.choices[verified.parents[node]])

    def _allowed(self, drafted: int, chosen: int) -> bool:
        stops = self._ending.stop_ids
        return drafted not in stops and chosen not in stops and self.judge.may_stand(drafted, chosen)

    def _note(self, verified: Verified, node: int, risk: float, *, stood: bool) -> None:
        depth, above = 0, verified.parents[node]
        while above != ROOT:
            depth, above = depth + 1, verified.parents[above]
        chosen = verified.choices[verified.parents[node]]
        self._swaps.append(Swap(verified.base + depth, verified.tokens[node], chosen, risk, stood))

    # ---- states ----

    def _rows(self, data: bytes, count: int, *, seq: int = 0) -> State:
        try:
            return unpack_rows(data, count, self._width, self._kind)
        except ValueError as error:
            raise MalformedFrame(str(error), field="states", seq=seq) from None

    def _store(self, rows: Mapping[bytes, State], tree: DraftTree) -> None:
        self._states.update({one: row for one, row in rows.items() if one in tree.nodes})
