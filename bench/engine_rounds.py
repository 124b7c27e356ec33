"""Contestants of the engine bench in turn: processes, rounds, and ratios paired by round."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE

from bench.engine_texts import Job, Written, agreement, written_of
from bench.figures import REPOSITORY, Result
from bench.processes import ONE_THREAD


@dataclass(slots=True)
class Entrant:
    """A contestant's process, asked one job at a time; it sleeps between them."""

    kind: str
    process: subprocess.Popen[str]

    def write(self, job: Job) -> Written:
        """Let it write a job's texts. Raises RuntimeError where it died."""
        assert self.process.stdin is not None
        self.process.stdin.write(job.line)
        self.process.stdin.flush()
        return written_of(_line(self.process, self.kind))


def _line(process: subprocess.Popen[str], kind: str) -> str:
    """Return the next line of a contestant; what libraries print on the way to it starts with no brace."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(("{", "ready ", "absent ")):
            return line
    raise RuntimeError(f"{kind} ended; its message stands above")


@contextmanager
def entrants(kinds: Sequence[str], folder: Path) -> Iterator[list[Entrant]]:
    """Start contestants; leave out, and say so, those whose library is not installed."""
    environment = os.environ | ONE_THREAD | {"HF_HUB_OFFLINE": "1"}
    with ExitStack() as stack:
        started: list[tuple[str, subprocess.Popen[str]]] = []
        for kind in kinds:
            command = [sys.executable, "-m", "bench.engine_contestant", kind, str(folder)]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment, cwd=REPOSITORY)
            )
            stack.callback(_ended, process)
            started.append((kind, process))
        yield [entrant for kind, process in started if (entrant := entered(kind, process)) is not None]


def entered(kind: str, process: subprocess.Popen[str]) -> Entrant | None:
    """Wait until a contestant is ready; return None where it cannot be."""
    state, _, about = _line(process, kind).rstrip().partition(" ")
    print(f"{kind}: {about if state == 'ready' else f'not installed ({about})'}", flush=True)
    return Entrant(kind, process) if state == "ready" else None


def _ended(process: subprocess.Popen[str]) -> None:
    """Let a contestant end by itself, so that what it started ends with it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()


@dataclass(slots=True)
class Rounds:
    """What every contestant made of the same jobs, round by round."""

    texts: int
    by_kind: dict[str, list[Written]] = field(default_factory=dict)

    def run(self, contestants: Sequence[Entrant], job: Job, rounds: int) -> None:
        """Let all write the same texts, other ones each round, in an order that turns; a round before counts not."""
        for number in range(-1, rounds):
            turned = number % len(contestants)
            for contestant in [*contestants[turned:], *contestants[:turned]]:
                done = contestant.write(_of_round(job, number))
                if number >= 0:
                    self.by_kind.setdefault(contestant.kind, []).append(done)

    def tokens_per_s(self, kind: str, *, decode_only: bool = False) -> list[float]:
        """Return the rate of each round: over the whole job, or from when all texts had a token."""
        if decode_only:
            return [done.decode_tokens / done.decode_s for done in self.by_kind[kind]]
        return [sum(map(len, done.ids)) / done.seconds for done in self.by_kind[kind]]

    def ratios(self, kind: str, over: str, *, decode_only: bool = False) -> list[float]:
        """Return by how much one was faster than the other, round by round."""
        mine, theirs = (self.tokens_per_s(name, decode_only=decode_only) for name in (kind, over))
        return [one / other for one, other in zip(mine, theirs, strict=True)]

    def report(self, result: Result, reference: str) -> None:
        """Add everyone's rates, and how many of their texts are the reference's."""
        for kind, answers in self.by_kind.items():
            name = f"{kind.replace('-', '_')}_{self.texts}"
            result.add_median(f"tokens_per_s_{name}", self.tokens_per_s(kind))
            result.add_median(f"decode_tokens_per_s_{name}", self.tokens_per_s(kind, decode_only=True))
            pairs = zip(answers, self.by_kind[reference], strict=True)
            same = [agreement(mine.ids, theirs.ids) for mine, theirs in pairs]
            result.figures[f"same_texts_share_{name}"] = round(sum(same) / len(same), 4)


def _of_round(job: Job, number: int) -> Job:
    return Job(job.texts, job.prompt_tokens, job.new_tokens, job.vocabulary, job.seed + 1 + number)
