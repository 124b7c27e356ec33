"""Audits: sampled tokens that were accepted by meaning are tried out, away from their session, while nobody waits.

Both wordings of a swap, the target's token and the drafted one, are finished by the target greedily, on rows of the
pool that no session has, and compared: by the task's check where it reads an answer off a text, else by how well the
target likes the one's ending after the other. What comes of it moves the strictness of a head, for all sessions of a
tenant at once (``airdraft.core.meaning.audit``) and for no other tenant's: what is tried out are devices' own drafts,
and one that means harm could take acceptance by meaning away from everybody, or loosen it for them.

Ids of a text are kept from the sampling of a swap to its outcome, and of no more than ``MOST_WAITING`` swaps; none of
them is logged or counted.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from airdraft.core.meaning import AuditTest
from airdraft.core.types import Evidence, Sampling, Span
from edge_node.kv_pool import KvPool, PoolFull
from edge_node.labels.checks import SCORE_MARGIN
from edge_node.metrics_meaning import Audited, MeaningMetrics
from edge_node.step import Item, Judged, Outcome, Owner

log = logging.getLogger(__name__)

MOST_WAITING = 32
MOST_TESTS = 1024
"""Tenants' heads and rules of which outcomes are kept; past it the one that was asked for longest ago begins anew."""

AT_ONCE = 4
"""Swaps at work at a time, of two texts each: a step of them is about as wide as a draft."""

STEP_POSITIONS = 128
"""Of one step of audits, about: whoever comes meanwhile waits for no more."""

ENDING_TOKENS = 1024
"""An ending is not written further than this."""

UNACCEPTED = 32
"""After so many swaps without one that stood, those that would have are audited too."""

SCORED_TOKENS = 64
"""Of an ending that is read after the other wording."""

GREEDY = Sampling()

Same = Callable[[Sequence[int], Sequence[int]], bool | None]
"""Says of the target's own answer and of the other one whether it is as good; None where the texts do not tell."""


@dataclass(frozen=True, slots=True)
class Swapped:
    """A token that was accepted by meaning, with all that an audit needs.

    key        the head or rule that judged it
    ids        the text before it
    prompt     how many of these are the prompt
    most       how long prompt and answer may become
    """

    key: str
    risk: float
    ids: tuple[int, ...]
    drafted: int
    chosen: int
    prompt: int
    most: int
    stop_ids: frozenset[int]
    tenant: str = ""
    tenant_number: int = 1


@dataclass(slots=True, eq=False)
class _Wording:
    """One text that the target finishes; owns rows of the pool while it runs."""

    ids: list[int]
    most: int
    stop_ids: frozenset[int]
    owner: Owner
    held: int = 0  # rows that are valid

    @property
    def ended(self) -> bool:
        return len(self.ids) >= self.most or self.ids[-1] in self.stop_ids

    def span(self, positions: int) -> Span:
        """Return the next span: what the rows lack of the text, and the token after it where that is all."""
        lacking = self.ids[self.held :]
        tokens = tuple(lacking[:positions])
        return Span(self.held, tokens, wanted=(len(tokens) - 1,) if len(tokens) == len(lacking) else ())

    def took(self, span: Span, outcome: Outcome) -> None:
        self.held = span.start + len(span.tokens)
        if span.wanted:
            self.ids.append(outcome.choices[-1])


class _Audit:
    """Both wordings of one swap."""

    def __init__(self, swapped: Swapped, numbers: Iterator[int]) -> None:
        """Begin with wordings that the engine knows by the next two ``numbers``."""
        most = min(swapped.most, len(swapped.ids) + ENDING_TOKENS)
        self.swapped = swapped
        self.own, self.other = (
            _Wording([*swapped.ids, token], most, swapped.stop_ids, Owner(next(numbers), swapped.tenant_number))
            for token in (swapped.chosen, swapped.drafted)
        )

    @property
    def wordings(self) -> tuple[_Wording, _Wording]:
        return self.own, self.other

    @property
    def answers(self) -> tuple[list[int], list[int]]:
        return self.own.ids[self.swapped.prompt :], self.other.ids[self.swapped.prompt :]

    def reading(self, positions: int) -> tuple[Span, int]:
        """Return the span that reads the own wording's ending after the drafted token, and how many tokens that has.

        Where more rows than ``positions`` are lacking before it, these come first, and 0.
        """
        at = len(self.swapped.ids)
        start = min(self.other.held, at)
        before = self.other.ids[start : at + 1]
        if len(before) > positions:
            return Span(start, tuple(before[:positions])), 0
        ending = self.own.ids[at + 1 : at + 1 + SCORED_TOKENS]
        tokens = (*before, *ending)
        return Span(start, tokens, wanted=tuple(range(len(before) - 1, len(tokens)))), len(ending)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one item of a step is for."""

    audit: _Audit
    wording: _Wording
    span: Span
    scored: int = 0  # how many tokens of an ending it reads


@dataclass(slots=True)
class _Record:
    """What audits told of one head or rule, as one tenant's devices use it."""

    test: AuditTest
    unaccepted: int = 0  # swaps since the last one that stood


class Audits:
    """Samples swaps, finishes them while the engine has nothing else to do, and keeps the outcomes' strictness."""

    def __init__(
        self,
        share: float,
        chance: Random,
        metrics: MeaningMetrics,
        *,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """Sample a ``share`` of swaps by ``chance``."""
        self.same: Callable[[str], Same] = lambda key: _nobody_tells  # by the head or rule that judged
        self._share, self._chance, self._metrics = share, chance, metrics
        self._most_waiting = most_waiting
        self._records: dict[tuple[str, str], _Record] = {}  # by tenant, and head or rule
        self._waiting: deque[Swapped] = deque()
        self._running: list[_Audit] = []
        self._parts: list[_Part] = []  # of the step at work
        self._pool: KvPool | None = None
        self._numbers = itertools.count(-1, -1)  # of texts, as sessions have theirs from 1 up
        metrics.watch(lambda: len(self), self._least)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def begin(self, pool: KvPool) -> None:
        """Take a pool, all of it empty."""
        self._pool, self._parts = pool, []
        for audit in self._running:
            for wording in audit.wordings:
                wording.held = 0

    # ---- what sessions ask and tell ----

    def strictness(self, key: str, tenant: str = "") -> Callable[[], float]:
        """Return what tells the factor on the thresholds of a head or rule for a tenant, from now on."""
        test = self._record(key, tenant).test
        return lambda: test.strictness

    def samples(self, key: str, tenant: str = "", *, stood: bool) -> bool:
        """Say, by chance, whether the latest swap that a head or rule judged for a tenant is audited.

        Those that did not stand, and would have but for the strictness, are sampled only where so many of them came in
        a row that nothing stands any more: without audits it never would again.
        """
        record = self._record(key, tenant)
        record.unaccepted = 0 if stood else record.unaccepted + 1
        sampled = stood or record.unaccepted > UNACCEPTED
        return sampled and self._share > 0 and self._chance.random() < self._share

    def add(self, swapped: Swapped) -> None:
        """Let a sampled swap wait for its audit; where too many wait, it is dropped."""
        if len(self) >= self._most_waiting:
            self._metrics.audited(Audited.DROPPED)
        else:
            self._waiting.append(swapped)

    def make_way(self, rows: int) -> None:
        """Give rows back where a session needs ``rows`` side by side and they are not there otherwise.

        Audits go on later.
        """
        pool = self._pool
        if pool is not None and min(pool.free_rows, pool.widest_rows) < rows:
            for audit in self._running:
                self._release(*audit.wordings)

    # ---- steps ----

    def items(self) -> tuple[Item, ...]:
        """Return the next step's items, pinned; none where nothing is to be done, or there are no rows for it."""
        while len(self._running) < AT_ONCE and self._waiting:
            self._running.append(_Audit(self._waiting.popleft(), self._numbers))
        assert not self._parts
        room = STEP_POSITIONS
        for audit in self._running:
            for part in self._parts_of(audit, room):
                self._parts.append(part)
                room -= len(part.span.tokens)
        return tuple(self._item(part) for part in self._parts)

    def stepped(self, outcomes: Sequence[Outcome]) -> None:
        """Take a step's outcomes, in the order of its items."""
        parts, self._parts = self._parts, []
        for part, outcome in zip(parts, outcomes, strict=True):
            if not self._unpinned(part):
                continue  # its rows went to a session meanwhile: it is computed again
            if outcome.failure:
                self._over(part.audit, Audited.DROPPED)
            elif part.scored:
                harmful = mean_shortfall(outcome.evidence, part.scored) > SCORE_MARGIN
                self._over(part.audit, Audited.HARMFUL if harmful else Audited.HARMLESS)
            else:
                part.wording.took(part.span, outcome)
                self._advanced(part.wording)
                if part.wording is part.audit.own and part.wording.ended:
                    self._release(part.wording)  # another text may need its rows to end
        for audit in list(self._running):
            self._compare(audit)

    def lost(self) -> None:
        """The engine did not survive a step of audits, or could not do it: those that were in it are dropped."""
        parts, self._parts = self._parts, []
        for part in parts:
            self._unpinned(part)
            if part.audit in self._running:
                self._over(part.audit, Audited.DROPPED)

    def _parts_of(self, audit: _Audit, room: int) -> Iterable[_Part]:
        going = [wording for wording in audit.wordings if not wording.ended]
        for wording in going:
            if room > 0 and self._has_rows(audit, wording):
                part = _Part(audit, wording, wording.span(room))
                room -= len(part.span.tokens)
                yield part
        if not going and room > 0 and self._has_rows(audit, audit.other):
            span, scored = audit.reading(room)
            audit.other.held = span.start  # what the rows behind it hold is written over
            self._advanced(audit.other)
            yield _Part(audit, audit.other, span, scored)

    def _has_rows(self, audit: _Audit, wording: _Wording) -> bool:
        """Say whether a wording has rows, reserved now where need be; what is cached of its beginning is copied."""
        pool = self._pool
        assert pool is not None
        if wording in pool:
            return True
        try:
            pool.reserve(wording, audit.swapped.tenant, pool.extent_rows(wording.most), wording.owner)
        except PoolFull:
            return False
        pool.note_ids(wording, lambda: wording.ids)
        wording.held = pool.adopt(wording, wording.ids, len(wording.ids) - 1)
        return True

    def _item(self, part: _Part) -> Item:
        pool = self._pool
        assert pool is not None
        pool.pin(part.wording, part.span.start + len(part.span.tokens))
        judged = Judged(part.scored) if part.scored else None
        return Item(pool.extent_of(part.wording), part.span, GREEDY, judged=judged, owner=part.wording.owner)

    def _unpinned(self, part: _Part) -> bool:
        """Say whether the rows that a step wrote are still the wording's."""
        pool = self._pool
        if pool is None or part.wording not in pool:
            return False
        pool.unpin(part.wording)
        return True

    def _advanced(self, wording: _Wording) -> None:
        if self._pool is not None and wording in self._pool:
            self._pool.advanced(wording, wording.held)

    # ---- outcomes ----

    def _compare(self, audit: _Audit) -> None:
        if not all(wording.ended for wording in audit.wordings):
            return
        try:
            same = self.same(audit.swapped.key)(*audit.answers)
        except Exception as error:  # its text may say what the answers are
            log.error("two endings could not be compared: %s", type(error).__name__)
            self._over(audit, Audited.DROPPED)
            return
        if same is not None:
            self._over(audit, Audited.HARMLESS if same else Audited.HARMFUL)
        elif len(audit.own.ids) <= len(audit.swapped.ids) + 1:
            self._over(audit, Audited.UNDECIDED)  # there is no ending to read

    def _over(self, audit: _Audit, outcome: Audited) -> None:
        self._running.remove(audit)
        self._release(*audit.wordings)
        self._metrics.audited(outcome)
        if outcome in (Audited.HARMLESS, Audited.HARMFUL):
            test = self._record(audit.swapped.key, audit.swapped.tenant).test
            test.audited(audit.swapped.risk, harmful=outcome is Audited.HARMFUL)

    def _release(self, *wordings: _Wording) -> None:
        for wording in wordings:
            wording.held = 0
            if self._pool is not None and wording in self._pool:
                self._pool.release(wording, ())

    def _least(self) -> float:
        return min((record.test.strictness for record in list(self._records.values())), default=1.0)

    def _record(self, key: str, tenant: str) -> _Record:
        record = self._records.pop((tenant, key), None) or _Record(AuditTest())
        self._records[tenant, key] = record  # the latest last
        if len(self._records) > MOST_TESTS:
            del self._records[next(iter(self._records))]
        return record


def _nobody_tells(own: Sequence[int], other: Sequence[int]) -> bool | None:
    return None


def mean_shortfall(evidence: Iterable[Evidence], count: int) -> float:
    """Return by how many nats a token an ending of ``count`` tokens falls short of the target's own choices.

    Only tokens that the target would not choose have evidence; the others fall short by nothing.
    """
    return sum(one.choice_log_p - one.drafted_log_p for one in evidence) / count
