"""What the contestants of the engine bench are asked for, and what they answer: texts written side by side, greedy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bench.engine_shape import prompts
from bench.processes import pin

CORE, OTHER_CORE = 0, 1
"""Where contestants compute, and where whatever only asks them stays."""

_EVERY_CORE = os.sched_getaffinity(0)


@dataclass(frozen=True, slots=True)
class Job:
    """Texts to be written at once; the seed says which prompts."""

    texts: int
    prompt_tokens: int
    new_tokens: int
    vocabulary: int
    seed: int

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """Return the prompts."""
        return prompts(self.texts, self.prompt_tokens, self.vocabulary, self.seed)

    @property
    def tokens(self) -> int:
        """Return the tokens to be written."""
        return self.texts * self.new_tokens

    @property
    def line(self) -> str:
        """Return the job as a line."""
        return json.dumps(asdict(self)) + "\n"


def job_of(line: str) -> Job:
    """Return the job of a line."""
    return Job(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Written:
    """What a job came to.

    seconds        from the first prompt's hand-over to the last token of the last text
    decode_tokens  tokens that came after every text had its first one
    decode_s       the seconds of those
    """

    seconds: float
    decode_tokens: int
    decode_s: float
    ids: tuple[tuple[int, ...], ...]  # of each text

    @property
    def line(self) -> str:
        """Return the answer as a line."""
        return json.dumps(asdict(self)) + "\n"


def written_of(line: str) -> Written:
    """Return the answer of a line."""
    content: dict[str, Any] = json.loads(line)
    return Written(**content | {"ids": tuple(tuple(ids) for ids in content["ids"])})


def written(began_s: float, arrivals_s: Sequence[Sequence[float]], ids: Sequence[Sequence[int]]) -> Written:
    """Return what texts came to whose tokens came at these times, by the clock that ``began_s`` was read from."""
    last_first, end = max(times[0] for times in arrivals_s), max(times[-1] for times in arrivals_s)
    after = sum(when > last_first for times in arrivals_s for when in times)
    return Written(end - began_s, after, end - last_first, tuple(tuple(text) for text in ids))


class Contestant(Protocol):
    """Who writes texts: one way of running the model, in a process of its own, on the core of all contestants."""

    @property
    def about(self) -> str:
        """Return its settings in words."""
        ...

    def write(self, job: Job) -> Written:
        """Write the texts of a job."""
        ...


def agreement(texts: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """Return the share of texts that are the same; float32 sums in another order turn a near tie now and then."""
    return sum(tuple(mine) == tuple(theirs) for mine, theirs in zip(texts, others, strict=True)) / len(texts)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this thread, and what it starts meanwhile, on a core, where there are several."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _EVERY_CORE)
    pin(core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
