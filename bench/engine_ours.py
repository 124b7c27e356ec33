"""Our engine as its process runs it, without the front: steps in, outcomes out, in this process.

Texts have extents side by side; a step holds every text, as the front's would.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from airdraft.core.types import Sampling, Span
from bench.engine_shape import CONTEXT_TOKENS
from bench.engine_texts import Job, Written, written
from edge_node.engine_messages import Load, LoadFailed
from edge_node.step import Extent, Item, Step, StepDone

TEXTS = 16
EXTENT_ROWS = 256
"""Of each text; under ``strict`` the next rung up."""

STEP_POSITIONS = 512
"""What the front packs into a step unless told otherwise."""

Profile = Literal["fast", "strict"]

_GREEDY = Sampling()


@dataclass(slots=True)
class Account:
    """Where the seconds of some steps went, and which positions they computed."""

    seconds: float = 0.0
    host_s: float = 0.0
    positions: int = 0
    computed: int = 0

    def add(self, done: StepDone, seconds: float) -> None:
        """Count a step that took ``seconds`` from asking to its answer."""
        self.seconds += seconds
        self.host_s += seconds - done.pass_s
        self.positions += done.positions
        self.computed += done.computed

    @property
    def padding_share(self) -> float:
        """Return which part of the computed positions nobody asked for."""
        return 1 - self.positions / self.computed

    @property
    def host_share(self) -> float:
        """Return which part of the seconds was neither the model's nor the choice's."""
        return self.host_s / self.seconds


class OurEngine:
    """A loaded engine; use one at a time."""

    def __init__(self, folder: Path, profile: Profile = "fast") -> None:
        """Load; raises RuntimeError where the engine refuses."""
        from edge_node.engine.assembly import assemble

        load = Load(
            model=str(folder),
            device="cpu",
            dtype="float32",
            max_context=CONTEXT_TOKENS,
            max_sessions=TEXTS,
            kv_tokens=2 * TEXTS * EXTENT_ROWS,
            profile=profile,
            threads=1,
        )
        built = assemble(load, lambda text: print(text, file=sys.stderr))
        if isinstance(built, LoadFailed):
            raise RuntimeError(built.message)
        self._runner, loaded = built
        self._rows = EXTENT_ROWS
        assert self._rows * TEXTS <= loaded.rows, f"{TEXTS} extents of {self._rows} rows in {loaded.rows}"
        self.vocabulary = loaded.vocabulary
        self.about = f"our engine by itself, {loaded.numerics}"
        self.account = Account()
        self._number = 0

    def write(self, job: Job) -> Written:
        """Write the texts of a job: prompts in chunks of a step's room, then a position of each text a step."""
        texts = [list(prompt) for prompt in job.prompts]
        arrivals_s: list[list[float]] = [[] for _ in texts]
        began_s = time.perf_counter()
        waiting = list(range(len(texts)))
        while waiting:
            waiting = self._prefill(waiting, texts, arrivals_s)
        for _ in range(job.new_tokens - 1):
            self._decode(texts, arrivals_s)
        return written(began_s, arrivals_s, [text[job.prompt_tokens :] for text in texts])

    def _prefill(self, waiting: Sequence[int], texts: list[list[int]], arrivals_s: list[list[float]]) -> list[int]:
        """Read the prompts of the first texts that wait, as many as have room; return who waits still."""
        joining = list(waiting[: max(1, STEP_POSITIONS // len(texts[waiting[0]]))])
        spans = [(text, Span(0, tuple(texts[text]), wanted=(len(texts[text]) - 1,))) for text in joining]
        self._take(spans, texts, arrivals_s)
        return list(waiting[len(joining) :])

    def _decode(self, texts: list[list[int]], arrivals_s: list[list[float]]) -> None:
        spans = [(index, Span(len(text) - 1, (text[-1],), wanted=(0,))) for index, text in enumerate(texts)]
        self._take(spans, texts, arrivals_s)

    def _take(self, spans: Sequence[tuple[int, Span]], texts: list[list[int]], arrivals_s: list[list[float]]) -> None:
        done = self.step(spans)
        now_s = time.perf_counter()
        for (index, _), outcome in zip(spans, done.outcomes, strict=True):
            texts[index].append(outcome.choices[-1])
            arrivals_s[index].append(now_s)

    def step(self, spans: Sequence[tuple[int, Span]]) -> StepDone:
        """Run one step over spans of these texts and count what it took. Raises RuntimeError where an item failed."""
        items = tuple(Item(Extent(text * self._rows, self._rows), span, _GREEDY) for text, span in spans)
        self._number += 1
        began_s = time.perf_counter()
        done = self._runner.run(Step(self._number, items))
        self.account.add(done, time.perf_counter() - began_s)
        for outcome in done.outcomes:
            if outcome.failure:
                raise RuntimeError(outcome.failure)
        return done
