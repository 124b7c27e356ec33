"""Pacing: every end at its stated time, errors kept, tokens and text untouched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.core.types import Span
from airdraft.link.pacing import NoisyDrafter, PacedDrafter, PacedEngine, Pacer

VOCABULARY = 50


@dataclass(slots=True)
class StoodClock:
    """A clock that moves when it is slept by, and a little each time that it is read."""

    now_s: float = 100.0
    oversleeps_s: float = 0.0
    slept: int = 0

    def __call__(self) -> float:
        self.now_s += 1e-6
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept += 1
        self.now_s += seconds + (self.oversleeps_s if seconds else 1e-5)

    def pacer(self) -> Pacer:
        return Pacer(self, self.sleep)


@dataclass(slots=True)
class CountingDrafter:
    """Counts on from the path's last token; a token takes a while."""

    clock: StoodClock
    step_s: float = 0.0
    most: int = 10**9  # tokens of path after which it has no more to say
    slow_at: int = -1  # a path of this length takes 15 ms more
    learnt: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        self.asked.append(len(path))
        self.clock.now_s += count * self.step_s + (0.015 if len(path) == self.slow_at else 0.0)
        return [(path[-1] + step + 1) % VOCABULARY for step in range(min(count, self.most - len(path)))]

    def learn(self, ids: Sequence[int]) -> None:
        self.learnt += ids


@dataclass(slots=True)
class TimedEngine:
    """An engine whose pass takes what it is told."""

    clock: StoodClock
    pass_s: float

    rows: int = 64
    context_tokens: int = 64
    computed: int = 0

    def fill(self, fill: str) -> None:
        raise AssertionError(fill)

    def extend(self, work: Sequence[tuple[list[int], Span]]) -> list[str]:
        self.clock.now_s += self.pass_s
        return [f"{cache}{span.tokens}" for cache, span in work]


def line(positions: int) -> float:
    return 0.03 + 0.0003 * (positions - 1)


def never() -> bool:
    return False


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0, 0.2), st.floats(0, 0.01))
def test_a_pass_ends_when_its_line_says_or_the_excess_is_kept(
    widths: list[int], real_s: float, oversleeps_s: float
) -> None:
    clock = StoodClock(oversleeps_s=oversleeps_s)
    pacer = clock.pacer()
    engine = PacedEngine(TimedEngine(clock, real_s), line, pacer)
    work = [([7], Span(0, tuple(range(width)))) for width in widths]
    began_s = clock.now_s
    assert engine.extend(work) == [f"[7]{span.tokens}" for _, span in work]
    took_s, stated_s = clock.now_s - began_s, line(sum(widths))
    assert took_s >= stated_s
    (late_s,) = pacer.late_s
    assert late_s == pytest.approx(took_s - stated_s, abs=1e-5)
    assert late_s <= max(0.0, real_s - stated_s) + oversleeps_s + 1e-4


@given(st.integers(0, 12), st.floats(0, 0.007), st.floats(0.001, 0.05))
def test_the_kth_token_is_there_after_k_steps(count: int, real_s: float, draft_s: float) -> None:
    clock = StoodClock()
    pacer = clock.pacer()
    began_s = clock.now_s
    assert PacedDrafter(CountingDrafter(clock, real_s), draft_s, pacer).propose([3], count, never) == [
        4 + index for index in range(count)
    ]
    slower_s = max(draft_s, real_s)  # a slow start is made up for as soon as there is time
    assert clock.now_s - began_s == pytest.approx(count * slower_s, abs=1e-3)
    assert len(pacer.late_s) == count


def test_deadlines_are_absolute_so_one_slow_step_delays_no_other() -> None:
    clock = StoodClock()
    pacer, began_s = clock.pacer(), clock.now_s
    PacedDrafter(CountingDrafter(clock, slow_at=1), 0.01, pacer).propose([1], 3, never)
    assert clock.now_s - began_s == pytest.approx(0.03, abs=1e-4)
    assert pacer.late_s == pytest.approx([0.005, 0.0, 0.0], abs=1e-4)


@given(st.integers(1, 12), st.floats(0, 0.125))
def test_a_void_draft_ends_at_once_without_the_token_under_way(count: int, after_s: float) -> None:
    clock = StoodClock()
    pacer, began_s = clock.pacer(), clock.now_s
    tokens = PacedDrafter(CountingDrafter(clock), 0.01, pacer).propose(
        [0], count, lambda: clock.now_s >= began_s + after_s
    )
    ended_s = clock.now_s - began_s
    assert abs(ended_s - min(after_s, count * 0.01)) <= 1e-3
    assert len(tokens) == min(count, int(ended_s / 0.01))
    assert pacer.late_s == pytest.approx([0.0] * len(tokens), abs=1e-4)  # the token that was given up is not late


def test_a_slow_drafter_that_is_cut_in_a_token_leaves_no_entry() -> None:
    clock = StoodClock()
    pacer, began_s = clock.pacer(), clock.now_s
    drafter = PacedDrafter(CountingDrafter(clock, slow_at=2), 0.01, pacer)
    assert drafter.propose([0, 0], 3, lambda: clock.now_s > began_s + 0.012) == [1]
    assert pacer.late_s == pytest.approx([0.005], abs=1e-4)


def test_a_drafter_that_has_no_more_to_say_costs_nothing_more() -> None:
    clock = StoodClock()
    inner = CountingDrafter(clock, most=3)
    began_s = clock.now_s
    drafter = PacedDrafter(inner, 0.01, clock.pacer())
    assert drafter.propose([0], 5, never) == [1, 2]
    assert clock.now_s - began_s == pytest.approx(0.02, abs=1e-4)
    drafter.learn([4, 5])
    assert inner.learnt == [4, 5]


def test_errors_are_taken_once() -> None:
    clock = StoodClock()
    pacer = clock.pacer()
    pacer.until(clock.now_s + 1.0)
    pacer.until(clock.now_s - 0.5)
    assert pacer.take_late_s() == pytest.approx([0.0, 0.5], abs=1e-4)
    assert pacer.take_late_s() == []


def test_a_real_wait_never_ends_early_and_leaves_other_threads_to_run() -> None:
    pacer, ran = Pacer(), threading.Event()
    due_s = time.perf_counter() + 0.05
    thread = threading.Thread(target=ran.set)
    thread.start()
    pacer.until(due_s)
    assert time.perf_counter() >= due_s
    assert pacer.late_s[0] >= 0
    assert ran.is_set()
    thread.join()


paths = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20)


@settings(deadline=None)
@given(paths, st.integers(1, 8), st.floats(0, 1), st.integers(0, 2**64 - 1), st.data())
def test_the_same_misses_however_much_is_drafted_at_once(
    path: list[int], count: int, acceptance: float, seed: int, data: st.DataObject
) -> None:
    clock = StoodClock()
    noisy = NoisyDrafter(CountingDrafter(clock), acceptance, seed, VOCABULARY)
    whole = noisy.propose(path, count, never)
    cut = data.draw(st.integers(0, count))
    first = noisy.propose(path, cut, never)
    assert first + noisy.propose([*path, *first], count - cut, never) == whole
    for index, token in enumerate(whole):
        before = [*path, *whole[:index]]
        assert 0 <= token < VOCABULARY
        assert (token == (before[-1] + 1) % VOCABULARY) == noisy.is_true(before)


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.5, 0.8, 0.9, 1.0])
def test_the_share_of_true_tokens_is_the_setting(acceptance: float) -> None:
    noisy = NoisyDrafter(CountingDrafter(StoodClock()), acceptance, 5, VOCABULARY)
    trials = 4000
    share = sum(noisy.is_true([trial, trial % 7]) for trial in range(trials)) / trials
    assert share == pytest.approx(acceptance, abs=0.025)


def test_the_seed_chooses_the_misses() -> None:
    first, second = (NoisyDrafter(CountingDrafter(StoodClock()), 0.5, seed, VOCABULARY) for seed in (1, 2))
    assert [first.is_true([trial]) for trial in range(64)] != [second.is_true([trial]) for trial in range(64)]


def test_a_void_noisy_draft_ends() -> None:
    inner = CountingDrafter(StoodClock())
    assert NoisyDrafter(inner, 0.5, 1, VOCABULARY).propose([1], 5, lambda: len(inner.asked) == 2) != []
    assert len(inner.asked) == 2
