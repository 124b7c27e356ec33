"""A device's part in a session where drafted tokens may stand that are as good as the target's own (DESIGN §6).

It asks with a cap, keeps its drafter's states until nobody can ask for them any more, tells the edge what its channel
is like, and holds the edge to what was granted: a token accepted by meaning is one that this device drafted and sent at
that place, is no stop id, and comes only where a cap was granted. Whether it is as good nobody here can tell.

The state of a drafted token is what its drafter's LM head read when it wrote the token: known at once, and no token has
to be read back before a frame may leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.errors import EdgeFault
from airdraft.core.meaning import pack_rows, row_bytes
from airdraft.core.types import (
    EXACT,
    MAX_FRAME_BYTES,
    Commit,
    Draft,
    Hidden,
    HiddenProtocol,
    NeedHidden,
    Opened,
    Origin,
    Plan,
    Report,
    Semantic,
    StateRows,
)

MARGIN = 0.9
"""With ``margin-first`` the state of a token goes up whose probability was below this, to its drafter."""

MOVED = 0.2
"""By what share a number of the channel must have changed before the edge is told again."""

MOST_Q_ENTRIES = 8
"""Of a drafter's distribution, where the rule asks for it: some 50 bytes a token."""

_Q_RULES = ("kl-judge",)
_WITH_DRAFT = (HiddenProtocol.FULL_HIDDEN, HiddenProtocol.MARGIN_FIRST)
_HEADER_BYTES = 128  # of a frame with rows, at the most
_ID_BYTES = (
    12  # of an id in it: itself, its index, its probability, and what a hash takes more where it is named by one
)
_Q_BYTES = 6 * MOST_Q_ENTRIES + 8
_SAME = 0.999  # of what was spent: a receipt rounds it
_ROUNDING = 1e-9


class DeviceMeaning:
    """What was asked and granted, and what this end tells and checks for it; nothing of it in an exact session."""

    def __init__(self, asked: Semantic | None) -> None:
        """Ask for ``asked``; None is ``exact``. Raises ValueError where one state is too wide for a frame."""
        self.asked = asked
        self.granted = EXACT
        self.spent = 0.0  # chance that meaning has made the answer worse so far, as the edges estimate it
        self._answered = False  # this stream's edge has said what it grants
        self._repeats_to = 0  # what it had committed before: of that no draft may be left here
        self._spent_here: float | None = None  # as it last said
        self._spent_before = 0.0  # at edges that this one knows nothing of
        self._rows: dict[int, bytes] = {}  # packed state of each drafted token, by position
        self._q: dict[int, SparseQ] = {}
        self._sure: dict[int, float] = {}
        self._channel: tuple[float | None, float | None, float | None] = (None, None, None)
        if asked is not None and asked.state_width and self._most_rows() < 1:
            raise ValueError(f"states of {asked.state_width} numbers do not fit a frame of {MAX_FRAME_BYTES} bytes")

    @property
    def on(self) -> bool:
        """Return whether tokens may be accepted by meaning on this stream."""
        return self.granted.max_loss > 0

    # ---- the stream ----

    def attached(self) -> None:
        """A new stream, or none: nothing is granted until its edge has answered."""
        self.granted, self._answered, self._repeats_to, self._spent_here = EXACT, False, 0, None

    def opened(self, opened: Opened) -> None:
        """Take what the edge grants. Raises EdgeFault where that is not what was asked for, or less."""
        asked, granted = self.asked, opened.granted
        if granted.max_loss:
            if asked is None or granted.max_loss > asked.max_loss or granted.rule != asked.rule:
                raise EdgeFault("the edge grants what nobody asked for")
            if granted.protocol not in (HiddenProtocol.TARGET_ONLY, asked.protocol):
                raise EdgeFault(f"the edge asks for states by {granted.protocol.name}, which was not offered")
        self.granted, self._answered, self._repeats_to = granted, True, opened.committed_length

    def check(self, commit: Commit, sent: Sequence[int], stop_ids: Sequence[int]) -> None:
        """Hold a commit to what was granted. ``sent`` is what is drafted past the committed end, and on its way.

        Raises EdgeFault.
        """
        for index, origin in enumerate(commit.origins):
            if origin is not Origin.MEANING:
                continue
            position = commit.base + index
            if not self.on:
                raise EdgeFault(f"the edge accepts by meaning at {position}, which was not granted")
            if commit.ids[index] in stop_ids:
                raise EdgeFault(f"the edge accepts a stop token by meaning at {position}")
            drafted = tuple(sent[: index + 1]) == commit.ids[: index + 1]
            if not drafted and position >= self._repeats_to:
                raise EdgeFault(f"the edge accepts by meaning at {position} what was not drafted there")
        self._repeats_to = 0  # all that it repeats comes at once
        self._spend(commit.spent)

    def _spend(self, spent: float) -> None:
        if self.asked is None and spent:
            raise EdgeFault("the edge spends a risk that nobody took")
        if self._spent_here is None:
            # An edge that goes on from another's receipt knows what that spent; without one it begins anew.
            self._spent_before = self.spent if spent < _SAME * self.spent else 0.0
        elif spent < self._spent_here - _ROUNDING:
            raise EdgeFault(f"the edge had spent {self._spent_here}, and now {spent}")
        self._spent_here = spent
        self.spent = 1 - (1 - self._spent_before) * (1 - spent)

    # ---- drafts ----

    def wrote(
        self,
        start: int,
        count: int,
        probabilities: Sequence[float] = (),
        states: NDArray[np.float32] | None = None,
        q: Sequence[SparseQ] = (),
    ) -> None:
        """Take what a drafter tells of ``count`` tokens from position ``start`` on, from the first one on.

        states  [n, state_width]

        Raises ValueError where a state has another width, or a q too many entries.
        """
        asked = self.asked
        if asked is None:
            return
        for position in range(start, start + count):
            for known in (self._rows, self._q, self._sure):
                known.pop(position, None)
        self._sure.update(zip(range(start, start + count), probabilities, strict=False))
        if any(len(told.ids) > MOST_Q_ENTRIES for told in q):
            raise ValueError(f"a q has more than {MOST_Q_ENTRIES} entries")
        self._q.update(zip(range(start, start + count), q, strict=False))
        if states is not None and asked.state_width and len(states):
            if states.ndim != 2 or states.shape[1] != asked.state_width:
                raise ValueError(
                    f"states of shape {states.shape} where {asked.state_width} numbers a token were offered"
                )
            self._keep(start, states[:count], asked)

    def _keep(self, start: int, states: NDArray[np.float32], asked: Semantic) -> None:
        sound = [index for index, row in enumerate(states) if np.isfinite(row).all()]  # a half may have overflowed
        data, size = pack_rows(states[sound], asked.state_kind), row_bytes(asked.state_width)
        for place, index in enumerate(sound):
            self._rows[start + index] = data[place * size : (place + 1) * size]

    def forget(self, length: int) -> None:
        """Positions before ``length`` are committed: nobody asks for them again."""
        for known in (self._rows, self._q, self._sure):
            for position in [position for position in known if position < length]:
                del known[position]

    def frame_nodes(self, most: int) -> int:
        """Return how many tokens a frame takes with the states that go along, ``most`` without."""
        if self.on and self.granted.protocol in _WITH_DRAFT:
            return min(most, self._most_rows())
        return most

    def _most_rows(self) -> int:
        assert self.asked is not None
        each = row_bytes(self.asked.state_width) + _ID_BYTES + (_Q_BYTES if self._tells_q else 0)
        return (MAX_FRAME_BYTES - _HEADER_BYTES) // each

    @property
    def _tells_q(self) -> bool:
        return self.asked is not None and self.asked.rule in _Q_RULES

    def told(self, draft: Draft) -> Draft:
        """Return a frame, a chain, with what this session tells of its ids."""
        if self.asked is None:
            return draft
        places = range(draft.base, draft.base + len(draft.ids))
        if self._tells_q and (self.on or not self._answered):
            q = tuple(self._q[place] for place in places if place in self._q)
            draft = replace(draft, q=q if len(q) == len(draft.ids) else None)
        if self.on and self.granted.protocol in _WITH_DRAFT:
            at = [index for index, place in enumerate(places) if place in self._rows and self._goes_along(place)]
            rows = b"".join(self._rows[draft.base + index] for index in at)
            draft = replace(draft, states=StateRows(tuple(at), rows) if at else None)
        return draft

    def _goes_along(self, position: int) -> bool:
        return self.granted.protocol is HiddenProtocol.FULL_HIDDEN or self._sure.get(position, 0.0) < MARGIN

    def hidden(self, need: NeedHidden, position_of: Callable[[bytes], int | None]) -> Hidden:
        """Return the states that the edge asks for, as many as one frame takes; what is gone is left out.

        ``position_of`` gives a sent node's position by its path hash. Raises EdgeFault where this was not granted.
        """
        if not self.on or self.granted.protocol is not HiddenProtocol.MISMATCH_FIRST:
            raise EdgeFault("the edge asks for states, which was not granted")
        found: list[tuple[bytes, bytes]] = []
        for path_hash in need.hashes[: self._most_rows()]:
            position = position_of(path_hash)
            if position is not None and position in self._rows:
                found.append((path_hash, self._rows[position]))
        return Hidden(need.epoch, tuple(name for name, _ in found), b"".join(row for _, row in found))

    # ---- reports ----

    def channel(self, miss_s: float | None, round_trip_s: float | None, up_bytes_s: float | None) -> None:
        """Take what is known of the channel by now; None is no news."""
        news = (miss_s, round_trip_s, up_bytes_s)
        self._channel = tuple(old if new is None else new for old, new in zip(self._channel, news, strict=True))  # type: ignore[assignment]

    def report(self, wishes: Report, asked: Report, plan: Plan) -> Report:
        """Return ``wishes`` with what a semantic session adds; ``asked`` is what the edge was last told."""
        if not self.on:
            return wishes
        miss_s, round_trip_s, up_bytes_s = self._channel
        return replace(
            wishes,
            provisional_s=plan.provisional_s,
            miss_s=_told(asked.miss_s, miss_s),
            round_trip_s=_told(asked.round_trip_s, round_trip_s),
            up_bytes_s=_told(asked.up_bytes_s, up_bytes_s),
        )


def _told(before: float | None, now: float | None) -> float | None:
    """Return what to tell: what was told before, unless it has moved."""
    if before is None or now is None:
        return now
    return now if abs(now - before) >= MOVED * before else before
