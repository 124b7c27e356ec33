"""Runs what the front asks of the engine, and keeps one session's trouble from the others.

An item that cannot run is found before the pass where its numbers show it. Whatever else raises, the batch is cut in
halves until the offender is alone: extending a session writes rows from its span's start on and reads none of those, so
that the rest can run again as if it had never been there. Memory that runs out is the same case, only that the halves
then fit. Evidence of drafts is cut likewise, after the pass: whoever's fails is judged strictly, and nothing else.

No item runs before all rows that it reads are known to be its own (``edge_node.engine.owners``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from msgspec.structs import replace
from torch import Tensor

from airdraft.core.types import Evidence, Span
from airdraft.tracebacks import kind_of
from edge_node.engine.item_faults import depths_of, fault_of, overlapping
from edge_node.engine.judging import Passed, TargetJudge
from edge_node.engine.misses import Miss, misses_of
from edge_node.engine.owners import RowOwners
from edge_node.engine.rows import Choose, missed_rows
from edge_node.engine.sampling import Chosen, choose_batch
from edge_node.step import Drafted, DraftItem, DraftStep, Extent, Fill, Item, Outcome, Step, StepDone

log = logging.getLogger(__name__)


_FULL = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What plain RuntimeErrors say where an allocation failed, on the host and in a library of the GPU."""


class EngineLost(RuntimeError):
    """The accelerator answers no more: only a new process can go on."""


class Engine(Protocol):
    """What computes: ``TargetEngine``, or a wrapper of it."""

    @property
    def rows(self) -> int:
        """Return the rows of the pool."""
        ...

    @property
    def context_tokens(self) -> int:
        """Return how many positions a text may have."""
        ...

    @property
    def computed(self) -> int:
        """Return how many positions the model has computed so far, padding included."""
        ...

    def extend(self, work: Sequence[tuple[Extent, Span]]) -> list[Tensor]:
        """Run all spans in one pass; return the float32 logits [len(wanted), V] of each one's wanted rows."""
        ...

    def extend_with_states(self, work: Sequence[tuple[Extent, Span]]) -> tuple[list[Tensor], list[Tensor]]:
        """As ``extend``, the same bits; beside them what the LM head read, float32 [len(wanted), d]."""
        ...

    def fill(self, fill: Fill) -> None:
        """Copy or clear rows of the pool."""
        ...


class Judge(Protocol):
    """What makes evidence of drafts: ``TargetJudge``."""

    def evidence(self, items: Sequence[Item], passed: Passed, misses: Sequence[Miss]) -> Mapping[int, list[Evidence]]:
        """Return the evidence of each item that has any, by node."""
        ...


class EdgeDrafter(Protocol):
    """What drafts for sessions where the device's line is short."""

    def draft(self, items: Sequence[DraftItem]) -> list[tuple[int, ...]]:
        """Return what is drafted for each item."""
        ...

    def forget(self, sessions: Sequence[int]) -> None:
        """Drop what is kept of these sessions."""
        ...


@dataclass(slots=True)
class _Spent:
    """What a step took so far."""

    pass_s: float = 0.0


class StepRunner:
    """One engine and what it needs to answer steps. Not for several threads at a time."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: int,
        drafter: EdgeDrafter | None = None,
        *,
        judge: Judge | None = None,
        tie: float = 0.0,
        owners: RowOwners | None = None,
        choose: Choose = choose_batch,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Answer for an engine.

        vocabulary  size of the tokenizer: ids at or above it are padding
        judge       of drafts, where an item asks; one without heads where it is None
        tie         how far rounding may move a logit: choices that turn within it are near ties
        owners      of the rows of the pool, the engine's first ones; of all of them, nobody's, where None
        """
        self._engine, self._vocabulary, self._drafter = engine, vocabulary, drafter
        self._judge: Judge = TargetJudge(vocabulary) if judge is None else judge
        self._choose, self._tie, self._clock = choose, tie, clock
        self._owners = RowOwners(engine.rows) if owners is None else owners

    def run(self, step: Step, arrived_s: float | None = None) -> StepDone:
        """Return a step's outcomes; ``arrived_s``, by the runner's clock, is when it came, now where it is None.

        Raises EngineLost, and whatever a fill raises: the front's books are wrong then, and no row can be trusted.
        """
        started = self._clock() if arrived_s is None else arrived_s
        refused = [fill for fill in step.fills if not self._filled(fill)]
        outcomes, foreign = self._checked(step.items)
        sound = [index for index, outcome in enumerate(outcomes) if not outcome.failure]
        before, spent = self._engine.computed, _Spent()
        if sound:
            items = [self._gathered(step.items[index]) for index in sound]
            for index, outcome in zip(sound, self._isolated(items, spent), strict=True):
                outcomes[index] = outcome
        return StepDone(
            step.number,
            tuple(outcomes),
            positions=sum(len(step.items[index].span.tokens) for index in sound),
            computed=self._engine.computed - before,
            pass_s=spent.pass_s,
            host_s=self._clock() - started - spent.pass_s,
            isolation_faults=len(refused) + foreign,
        )

    def draft(self, step: DraftStep) -> Drafted:
        """Return what the edge's own drafter writes; nothing where it fails: that costs time, never text."""
        started = self._clock()
        tokens: Sequence[tuple[int, ...]] = [()] * len(step.items)
        if self._drafter is not None:
            try:
                self._drafter.forget(step.forget)
                tokens = self._drafter.draft(step.items)
            except Exception:
                log.exception("the edge's drafter failed for %d sessions", len(step.items))
                _demand_device()
                self._drafter.forget([item.session for item in step.items])
        return Drafted(step.number, tuple(tokens), self._clock() - started)

    def _filled(self, fill: Fill) -> bool:
        """Do a fill; return False where it would have given a session another tenant's rows: these are clear then."""
        allowed = self._owners.fill(fill)
        if not allowed:
            log.error("a copy of %d rows was refused: they are not all of the session that lends them", fill.rows)
        self._engine.fill(fill if allowed else Fill(fill.target, fill.rows))
        return allowed

    def _checked(self, items: Sequence[Item]) -> tuple[list[Outcome], int]:
        """Return an outcome for each item, with a failure where it may not run, and how many would use others' rows."""
        context_tokens = self._engine.context_tokens
        faults = [fault_of(item, self._vocabulary, self._owners.rows, context_tokens) for item in items]
        sound = [index for index, fault in enumerate(faults) if not fault]
        foreign = overlapping([items[index] for index in sound])
        for at in foreign:
            faults[sound[at]] = "its rows are another item's too"
        for at, index in enumerate(sound):
            if at not in foreign and (fault := self._owners.fault_of(items[index])):
                faults[index] = fault
                foreign.add(at)
        return [Outcome(failure=fault) for fault in faults], len(foreign)

    def _gathered(self, item: Item) -> Item:
        """Move the rows that the span gathers, and return the item without: a pass may then be run twice.

        Where it fails in the end, its rows before the gathered ones are still as they were.
        """
        span, first = item.span, item.extent.first
        self._owners.wrote(item)
        if not span.gather:
            return item
        at = span.start - len(span.gather)
        for source, rows in _runs(span.gather):
            self._engine.fill(Fill(first + at, rows, first + source))
            at += rows
        bare = Span(span.start, span.tokens, span.parents, span.wanted)
        return replace(item, span=bare)

    def _isolated(self, items: Sequence[Item], spent: _Spent) -> list[Outcome]:
        """Run items in one pass; where that raises, each half on its own."""
        started = self._clock()
        outcomes = self._attempt(items)
        spent.pass_s += self._clock() - started
        if isinstance(outcomes, list):
            return outcomes
        if len(items) == 1:
            return [Outcome(failure=outcomes)]
        half = len(items) // 2
        return self._isolated(items[:half], spent) + self._isolated(items[half:], spent)

    def _attempt(self, items: Sequence[Item]) -> list[Outcome] | str:
        """Return the outcomes of a pass, or in one line why it failed."""
        try:
            return self._passed(items)
        except Exception as error:  # whatever one item's input brought about must not end the others' engine
            failure, full = _failure(error, items), out_of_memory(error)
            log.warning("a pass of %d items failed: %s", len(items), failure, exc_info=len(items) == 1 and not full)
        _recover(full=full)
        return failure

    def _passed(self, items: Sequence[Item]) -> list[Outcome]:
        work, states = [(item.extent, item.span) for item in items], list[Tensor]()
        if any(item.judged is not None and item.judged.head >= 0 for item in items):
            logits, states = self._engine.extend_with_states(work)
        else:
            logits = self._engine.extend(work)
        parts = [(item.sampling, _choice_positions(item.span), item.paths) for item in items]
        whole = torch.cat(logits)
        chosen = self._choose(whole, parts, self._vocabulary, self._tie)
        rows = missed_rows(items, logits, parts, chosen, self._vocabulary, self._choose)
        told: Mapping[int, list[Evidence]] = {}
        misses = [
            miss
            for number, (item, part) in enumerate(zip(items, chosen, strict=True))
            if isinstance(part, Chosen)
            for miss in misses_of(number, item, part.tokens)
        ]
        if misses:
            firsts = list(accumulate(map(len, logits), initial=0))
            told = self._evidence(items, Passed(whole, firsts, torch.cat(states) if states else None), misses)
        return [
            Outcome(failure=str(part))
            if isinstance(part, ValueError)
            else Outcome(part.tokens, part.near_ties, row=row, evidence=tuple(told.get(number, ())))
            for number, (part, row) in enumerate(zip(chosen, rows, strict=True))
        ]

    def _evidence(self, items: Sequence[Item], passed: Passed, misses: Sequence[Miss]) -> Mapping[int, list[Evidence]]:
        """Return the evidence of each item; where the judge raises, of each half on its own, and alone of none."""
        try:
            return self._judge.evidence(items, passed, misses)
        except Exception as error:  # a judge only ever loosens: without it the pass stands as it is
            full = out_of_memory(error)
            log.warning("judging %d drafts failed: %s", len(misses), kind_of(error), exc_info=not full)
        _recover(full=full)
        owners = sorted({miss.item for miss in misses})
        middle = owners[len(owners) // 2]
        halves = [miss for miss in misses if miss.item < middle], [miss for miss in misses if miss.item >= middle]
        if not halves[0]:
            return {}
        return {**self._evidence(items, passed, halves[0]), **self._evidence(items, passed, halves[1])}


def out_of_memory(error: BaseException) -> bool:
    """Say whether an allocation failed, on an accelerator or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)


def _failure(error: Exception, items: Sequence[Item]) -> str:
    if out_of_memory(error):
        positions = sum(len(item.span.tokens) for item in items)
        return f"{positions} positions do not fit the engine's memory, even alone; try a smaller span"
    return f"the engine failed with it, {kind_of(error)}"  # no more: what an error says may quote the item's ids


def _recover(*, full: bool) -> None:
    """Go on after an error, whose traceback is gone by now, and with it the tensors that it held."""
    if full and _uses_cuda():
        torch.cuda.empty_cache()
    _demand_device()


def _demand_device() -> None:
    """Raise EngineLost where an error has taken the accelerator with it: CUDA then fails every further call."""
    if not _uses_cuda():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise EngineLost(f"the accelerator is lost: {' '.join(str(error).split())[:200]}") from error


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _choice_positions(span: Span) -> list[int]:
    """Return the position of the token after each wanted row."""
    depths = depths_of(span)
    return [span.start + depths[index] + 1 for index in span.wanted]


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return first row and length of each stretch of neighbours."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and sum(runs[-1]) == row:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs
