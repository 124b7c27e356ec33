"""What a session's passes, its device and its deadlines make of its text: the one place where ids are committed."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.acceptance import ROOT, Walk
from airdraft.core.session.admission import Admission
from airdraft.core.session.edge_state import EdgeState
from airdraft.core.session.judging import HIDDEN_WAIT_S, Held
from airdraft.core.session.passes import Verified
from airdraft.core.session.provisional import HeldBack
from airdraft.core.types import Commit, EdgeFrame, NeedHidden, Origin, Pass, PassResult, Timing

_AT_ONCE = Timing()


class Commits:
    """Commits a session's ids, and keeps what was spent on it by meaning."""

    def __init__(self, state: EdgeState, admission: Admission) -> None:
        """Commit to the text in ``state``; ``admission`` signs."""
        self.attested = True  # this edge, or one that shares its key, wrote all of the answer so far
        self._state, self._admission = state, admission
        self._spent = 0.0  # on edges before this one, where this one judges nothing

    @property
    def spent(self) -> float:
        """Return the chance that acceptance by meaning has made the answer worse so far, as this fleet estimates it."""
        judging = self._state.judging
        return self._spent if judging is None else judging.judge.spent

    def spent_before(self, spent: float) -> None:
        """Go on with what was spent elsewhere, where that is more than what is known here."""
        judging = self._state.judging
        if judging is None:
            self._spent = max(self._spent, spent)
        else:
            judging.judge.spent = max(judging.judge.spent, spent)

    # ---- frames ----

    def missed(self, base: int) -> Commit:
        """Return what a device that knows ``base`` ids has not seen, as a commit of its new epoch."""
        return self._said(base, 0, self._state.text.origins_from(base))

    def append(self, ids: Sequence[int], origins: Sequence[Origin]) -> None:
        """Make ids the text's; what is held back of them no longer is."""
        state, text = self._state, self._state.text
        text.append(ids, origins, text.ending.reached(text.length + len(ids), ids[-1]))
        state.provisional.gave(len(ids))
        state.drafts.tree.advance(text.path)
        if state.judging is not None:
            state.judging.advance(state.drafts.tree)

    def _committed(
        self,
        ids: Sequence[int],
        origins: Sequence[Origin],
        held: Held | None,
        *,
        row: bool = False,
        drafted: bool = True,
    ) -> Commit:
        """Commit ids; return the frame that says so.

        held     the pass that they came from; None where they were held back
        drafted  a draft has let them go: one that has not tells nothing of the way to the device
        """
        base = self._state.text.length
        self.append(ids, origins)
        if held is None:
            return self._said(base, self._state.drafts.last_seq if drafted else 0, origins)
        return self._said(base, held.done.last_seq, origins, held.result, row=row)

    def _said(
        self, base: int, seq: int, origins: Sequence[Origin], result: PassResult | None = None, *, row: bool = False
    ) -> Commit:
        state, text = self._state, self._state.text
        receipt = self._admission.receipt(state.epoch, text.digest, self.spent) if self.attested else b""
        return Commit(
            state.epoch,
            base,
            tuple(text.ids[base : text.length]),
            text.length,
            text.path.end,
            seq,
            tuple(origins),
            text.stop,
            _AT_ONCE if result is None else result.timing,
            receipt,
            result.row if result is not None and row else None,
            spent=self.spent if self._admission.semantic else 0.0,
        )

    # ---- what is held back ----

    def settle(self) -> list[EdgeFrame]:
        """Commit the provisional tokens whose time has come, unless a pass is about to tell."""
        state, held_back = self._state, self._state.provisional
        if not held_back.tokens or state.judges_branch or not state.text.complete:
            return []
        hold_s = None if state.no_room else state.hold_s
        end, tree = state.text.path.end, state.drafts.tree
        origins = held_back.due(end, tree, hold_s, state.clock(), self._may_stand)
        if not origins:
            return []
        agreed = origins.count(Origin.ACCEPTED)
        if agreed and state.run_ahead is not None:
            state.run_ahead.agreed(agreed)
        return [self._committed(held_back.ids[: len(origins)], origins, None, drafted=bool(agreed))]

    def _may_stand(self, drafted: int, chosen: HeldBack) -> bool:
        """Say whether a pass can let a draft stand in place of a token; the last position is the target's."""
        judging, final_length = self._state.judging, self._state.text.ending.final_length
        return judging is not None and chosen.length < final_length and judging.contest(drafted, chosen.token)

    # ---- passes ----

    def take(self, done: Pass, result: PassResult) -> list[EdgeFrame]:
        """Take the outcome of a pass that still counts, or ask for the states that its verdict needs."""
        state = self._state
        state.held = Held(done, result)
        if state.judging is not None and done.judged and state.attached:
            verified = Verified.of(done, result.choices)
            asked = state.judging.lacks(verified, result.evidence, alone=state.branches)
            if asked:
                state.held = Held(done, result, frozenset(asked), state.clock() + HIDDEN_WAIT_S)
                return [NeedHidden(state.epoch, asked)]
        return self.decide()

    def decide(self) -> list[EdgeFrame]:
        """Take the verdict on the pass that is held, with the states that are here."""
        state = self._state
        held, state.held = state.held, None
        assert held is not None
        verified = Verified.of(held.done, held.result.choices)
        if state.judging is None:
            walk = verified.walk(state.text.ending)
        else:
            walk = state.judging.walk(verified, held.result.evidence, alone=state.branches)
        before = state.line_length
        if state.branches and walk.origins[0] is Origin.RECOVERED:
            frames, accepted = self._overrule(verified, held), 0
        else:
            accepted = sum(node < verified.theirs for node in walk.path)
            frames = self._follow(verified, walk, held, accepted)
        if not held.rows:
            state.rows.settle(0)
        self._learn(held, verified.theirs, accepted, state.line_length - before)
        return [*frames, *self.settle()]

    def _follow(self, verified: Verified, walk: Walk, held: Held, accepted: int) -> list[EdgeFrame]:
        """Commit what a walk came to, but for what is the edge's own of it and held back."""
        state, origins = self._state, list(walk.origins)
        for index, node in enumerate(walk.path):
            if node >= verified.theirs:
                origins[index] = Origin.EDGE_DRAFT
        ids, rows = walk.ids, tuple(verified.base + node for node in walk.path)
        if verified.theirs and origins[-1] is Origin.BONUS and walk.stop is None and self._withholds(verified, walk):
            # The last accepted token is computed again: the next pass has its row.
            ids, origins, rows = ids[:-1], origins[:-1], rows[:-1]
        out = len(ids)
        if state.branches:
            state.provisional.clear()
        if state.provisional.tokens:
            out = 0  # what stands before it is not committed yet
        elif state.hold_s is not None and not state.token_due and not _offered(verified, walk, accepted):
            out = accepted
        state.token_due = False
        frames: list[EdgeFrame] = []
        if out:
            # The row is that of the first miss along the target's choices.
            missed = out == len(ids) and origins[-1] is Origin.RECOVERED and Origin.MEANING not in origins
            frames = [self._committed(ids[:out], origins[:out], held, row=held.done.row and missed)]
        state.provisional.add(state.line_end, state.line_length, ids[out:], origins[out:], state.clock())
        state.rows.took(verified.base, rows)
        return frames

    def _withholds(self, verified: Verified, walk: Walk) -> bool:
        """Say whether the target's own token after a draft that was right is left to the next draft."""
        state = self._state
        if not state.bonus or state.judging is None:
            return not state.bonus
        if state.hold_s is not None or state.judging.judge.threshold <= 0:
            return False
        # By meaning the device's own wording of it, which is here or on its way, is likely to be as good.
        end = verified.path_hashes[walk.path[-1]]
        here = any(node.parent_hash == end for node in state.drafts.tree.nodes.values())
        return here or (state.drafts.pipelined and not state.drafts.idle)

    def _overrule(self, verified: Verified, held: Held) -> list[EdgeFrame]:
        """The device's line is harmful: commit what is held back, and what was chosen behind it."""
        state, held_back = self._state, self._state.provisional
        ids, origins = held_back.ids, (Origin.RECOVERED, *held_back.origins[1:])
        computed, first = held.done.own, verified.base + verified.theirs
        may_run = state.line_length - state.drafts.acked < state.limits.ahead_tokens  # rule 6
        if computed == len(ids) and may_run and not state.line_ended:
            ids = (*ids, verified.choices[verified.theirs + computed - 1])
            origins = (*origins, Origin.RUN_AHEAD)
        commit = self._committed(ids, origins, held)
        state.rows.took(verified.base, range(first, first + min(computed, len(ids) - 1)))
        return [commit]

    def _learn(self, held: Held, theirs: int, accepted: int, committed: int) -> None:
        """Tell the rules that learn from passes; ``committed`` is by how much the line grew."""
        state = self._state
        state.own.passed(drafted=theirs > 0)
        if state.run_ahead is not None:
            state.run_ahead.passed(
                held.result.timing.pass_s,
                nodes=theirs,
                accepted=accepted,
                committed=committed,
                length=state.line_length,
                live=bool(state.drafts.tree.nodes) or state.drafts.line_agrees(state.text.path),
                alone=len(held.done.span.tokens) - held.done.nodes == 1,
            )


def _offered(verified: Verified, walk: Walk, accepted: int) -> bool:
    """Say whether the device had drafted the position behind its ``accepted`` tokens: then its line ends there."""
    last = walk.path[accepted - 1] if accepted else ROOT
    return accepted < len(walk.ids) and last in verified.device_children
