"""Pieces of ``bench semantic`` that worker processes carry out, each on a core of its own and with one pair loaded."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.processes import ONE_THREAD, pin

CHUNK = 256
"""Problems of a piece: enough to keep a step full, few enough that both cores end at about the same time."""

TELL_S = 30.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A call for a worker: a function that pickle finds by name, and its arguments."""

    name: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]


def say(message: str) -> None:
    """Tell whoever waits for the bench."""
    print(f"semantic: {message}", file=sys.stderr, flush=True)


def chunks(first: int, count: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Return (first, count) of stretches that cover ``count`` problems from ``first`` on."""
    for begin in range(first, first + count, size):
        yield begin, min(size, first + count - begin)


@contextmanager
def workers() -> Iterator[Callable[[Sequence[Piece]], dict[str, list[Any]]]]:
    """Give what carries pieces out, on every core; results by the pieces' names, in no order."""
    cores = len(os.sched_getaffinity(0))
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read when a worker starts
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for core in range(cores):
        numbers.put(core)
    try:
        with ProcessPoolExecutor(cores, context, initializer=_begin, initargs=(numbers,)) as pool:
            yield lambda pieces: _carried(pool, pieces)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin(numbers: Any) -> None:
    pin(numbers.get())


def _carried(pool: ProcessPoolExecutor, pieces: Sequence[Piece]) -> dict[str, list[Any]]:
    names = {pool.submit(piece.call, *piece.arguments): piece.name for piece in pieces}
    found: dict[str, list[Any]] = {piece.name: [] for piece in pieces}
    left: set[Future[Any]] = set(names)
    told_s = time.monotonic()
    while left:
        ended, left = wait(left, timeout=TELL_S, return_when=FIRST_COMPLETED)
        for future in ended:
            found[names[future]].append(future.result())
        if time.monotonic() - told_s >= TELL_S:
            say(f"{len(names) - len(left)} of {len(names)} pieces")
            told_s = time.monotonic()
    return found
