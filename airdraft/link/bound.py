"""The clairvoyant bound (DESIGN §3B): the least time that any schedule of a single drafted line could take.

It knows the whole run in advance: at which positions the device's own token is the target's. It grants the edge nothing
else. A *stretch* starts when the edge emits a token that the device missed, or the first token of all, and ends with
the next one missed; the matches lie between. The device hears of the start half a round trip later and drafts on
without a break, for no commit within the stretch contradicts it; so draft j, from 0, is at the edge
``round_trip_s + (j + 1) * draft_s`` after the start, whatever the edge does. The edge makes one pass at a time over
drafts that are there, or over none, and a pass yields one token more than the matches it verifies. A clairvoyant edge
verifies no draft that misses and waits only for drafts that pay.

Valid for one line of drafts and an edge without a drafter of its own: trees, siblings and hybrids may be faster. The
device cannot gain by skipping what the edge emits: it hears of a token after it has drafted it, unless a draft takes
longer than a pass, and then the edge alone is fastest. Frames of several tokens, device steps that cannot be cut,
queues and serialisation only add time. Where a cost varies, its least value keeps the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClairvoyantBound:
    """What no schedule of one drafted line beats, under these costs."""

    round_trip_s: float
    draft_s: float  # one drafted token
    pass_s: Callable[[int], float]  # one pass over so many positions, 1 or more; it never falls as they grow

    def stretches_s(self, most_matches: int, head_start_s: float = 0.0) -> NDArray[np.float64]:
        """Return [most_matches + 1] the least seconds for 0, 1, ... matches and the missed token behind them.

        ``head_start_s``: how much sooner the drafts arrive than a round trip allows. Takes O(most_matches^2) time.
        Raises ``ValueError`` if a wider pass is quicker than a narrower one.
        """
        passes = np.array([self.pass_s(positions) for positions in range(1, most_matches + 2)])
        if (np.diff(passes) < 0).any():
            raise ValueError("a pass over more positions may not take less time")
        there = self.round_trip_s - head_start_s + self.draft_s * np.arange(most_matches + 1)  # the first n drafts
        emitted = np.zeros(most_matches + 2)  # the earliest time at which n tokens are out; sooner is never worse
        for tokens in range(1, most_matches + 2):
            starts = np.maximum(emitted[:tokens], there[tokens - 1])
            starts[-1] = emitted[tokens - 1]  # one token more needs no draft
            emitted[tokens] = (starts + passes[:tokens][::-1]).min()
        return emitted[1:]

    def run_s(self, matched: Sequence[bool] | NDArray[np.bool_], head_start_s: float = 0.0) -> float:
        """Return the least seconds from the first token's emission at the edge to the last one's.

        ``matched`` [N], one for each token after the first: whether the device, given all true tokens before it, drafts
        it. ``head_start_s``: how much sooner the drafts of the first stretch arrive than in any other; above 0 where
        the device drafts while its ``Open`` is in the air.
        """
        hits = np.asarray(matched, dtype=np.bool_)
        if not len(hits):
            return 0.0
        # The last token ends a stretch whether it matched or not: either way a pass emits it without its draft.
        ends = np.append(np.flatnonzero(~hits[:-1]), len(hits) - 1)
        matches = np.diff(ends, prepend=-1) - 1
        later = self.stretches_s(int(matches[1:].max(initial=0)))[matches[1:]].sum()
        return float(self.stretches_s(int(matches[0]), head_start_s)[-1] + later)
