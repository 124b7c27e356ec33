"""``python -m bench pad``: which of 50 prompts was asked, as somebody guesses who sees nothing but bytes on a line.

An edge process, device processes that ask it, and a tap on the line between them (``bench.pad_tap``). Every session is
a connection of its own, answers have the same number of tokens, and arms and prompts come in random order:

    plain   messages as they are
    sized   in cells of one size, which leave when there is something to say
    padded  in cells of one size at one pace: ``--pad``

The observer knows which prompt each of four fifths of the sessions asked, and guesses the rest (``bench.pad_guess``).
*planted* is the padded arm with some cells of each session late, as a leak would make them: an observer who misses that
would prove nothing.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

import numpy as np

from airdraft.core.cells import PADDING
from bench.figures import Result, interval_95
from bench.pad_guess import Chunk, features, guessed
from bench.pad_tap import Tap
from bench.processes import ONE_THREAD, EdgeFailed, edge_node
from bench.prompts import held_out

ARMS = ("plain", "sized", "padded")

PLANTED_S, PLANTED_CELLS = 0.003, 24
"""By how much a planted leak delays about half of so many cells: what a drafter at work could do to its event loop."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    prompts: int
    sessions: int  # of each prompt, in each arm
    devices: int  # at work at the same time
    tokens: int = 32


QUICK = Extent(prompts=4, sessions=5, devices=2)
BARS = Extent(prompts=50, sessions=20, devices=8)


@dataclass(frozen=True, slots=True)
class Session:
    """One session, as the line had it and as the device did."""

    prompt: int
    chunks: list[Chunk]
    ids: tuple[int, ...]
    seconds: float


@dataclass(slots=True)
class Sessions:
    """Those of each arm; devices add theirs as they come."""

    extent: Extent
    of: dict[str, list[Session]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    failed: int = 0

    def run(self) -> None:
        """Let devices ask all there is to ask. Raises EdgeFailed."""
        extent, chance = self.extent, random.Random(1)
        wanted = [(arm, prompt) for arm in ARMS for prompt in range(extent.prompts) for _ in range(extent.sessions)]
        chance.shuffle(wanted)
        with TemporaryDirectory() as cache, edge_node(["--model", "demo"]) as edge, _unpaced_edge() as unpaced:
            edges = {arm: unpaced if arm == "sized" else edge for arm in ARMS}
            devices = [threading.Thread(target=self._ask, args=(wanted, edges, cache)) for _ in range(extent.devices)]
            for device in devices:
                device.start()
            for device in devices:
                device.join()

    def _ask(self, wanted: list[tuple[str, int]], edges: dict[str, str], cache: str) -> None:
        """Let one device process ask, as long as there is something to ask."""
        prompts = held_out(self.extent.prompts)
        taps = {arm: Tap(address) for arm, address in edges.items()}
        with ExitStack() as stack:
            for tap in taps.values():
                stack.enter_context(tap.carrying())
            device = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "bench.pad_device"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=os.environ | ONE_THREAD,
                )
            )
            assert device.stdin is not None
            assert device.stdout is not None
            while wanted and device.poll() is None:
                arm, prompt = wanted.pop()
                request = {"arm": arm, "edge": taps[arm].address, "prompt": prompts[prompt], "cache": cache}
                print(json.dumps(request | {"tokens": self.extent.tokens}), file=device.stdin, flush=True)
                answer = device.stdout.readline()
                if not answer:
                    self.failed += 1
                    print(f"a device ended in the middle of a {arm} session", file=sys.stderr)
                    break
                told = json.loads(answer)
                chunks = list(taps[arm].trace.chunks)
                self.of[arm].append(Session(prompt, chunks, tuple(told["ids"]), told["seconds"]))
            device.stdin.close()


@contextmanager
def _unpaced_edge() -> Iterator[str]:
    command = [sys.executable, "-m", "bench.pad_edge", "serve", "--port", "0", "--model", "demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("listening "):
            raise EdgeFailed("the edge node without a pace did not start; its message stands above")
        yield line.split()[1]
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


# ---- figures ----


def planted(session: Session) -> Session:
    """Return a session in which some of the device's first cells are late, each prompt's by a pattern of its own."""
    chance = random.Random(session.prompt)
    late = [PLANTED_S * chance.randrange(2) for _ in range(PLANTED_CELLS)]
    chunks: list[Chunk] = []
    for at, size in session.chunks:
        chunks.append((at + (late.pop() if late and size > PADDING.up_bytes else 0.0), size))
    return Session(session.prompt, chunks, session.ids, session.seconds)


def _guesses(result: Result, name: str, sessions: Sequence[Session]) -> None:
    """Add how often the best observer is right; print what each of them made of it."""
    rows = features([session.chunks for session in sessions], PADDING.interval_s)
    asked = np.asarray([session.prompt for session in sessions])
    began = time.monotonic()
    by = guessed(rows, asked)
    shares = ", ".join(f"{kind} {right.mean():.3f}" for kind, right in by.items())
    print(f"{name}: {len(sessions)} sessions, {rows.shape[1]} features, {time.monotonic() - began:.0f} s: {shares}")
    best = max(by.values(), key=lambda right: float(right.mean()))
    result.figures[f"accuracy_{name}"] = round(float(best.mean()), 6)
    result.samples[f"accuracy_{name}"] = len(sessions)
    low, high = interval_95(best.astype(np.float64).tolist(), lambda sample: float(sample.mean()))
    result.spread[f"accuracy_{name}"] = round(low, 6), round(high, 6)


def figures(sessions: Sessions) -> Result:
    """Return the figures."""
    result, extent = Result("pad"), sessions.extent
    names = {"plain": "plain", "sized": "without_cadence", "padded": "padded"}
    for arm, name in names.items():
        _guesses(result, name, sessions.of[arm])
    _guesses(result, "planted", [planted(session) for session in sessions.of["padded"]])
    result.figures["chance"] = round(1 / extent.prompts, 6)
    result.figures["devices"] = extent.devices
    result.figures["tokens"] = extent.tokens
    for arm, name in names.items():
        token_bytes = [sum(abs(size) for _, size in session.chunks) / extent.tokens for session in sessions.of[arm]]
        result.add_median(f"bytes_a_token_{name}", token_bytes)
        result.add_median(f"ms_a_token_{name}", [s.seconds * 1000 / extent.tokens for s in sessions.of[arm]])
    spans = [session.chunks[-1][0] - session.chunks[0][0] for session in sessions.of["padded"]]
    result.add_median("connection_s_padded", spans)
    for unit in ("bytes", "ms"):
        ratio = result.figures[f"{unit}_a_token_padded"] / result.figures[f"{unit}_a_token_plain"]
        result.figures[f"{unit}_ratio"] = round(ratio, 3)
    texts: dict[int, set[tuple[int, ...]]] = {}
    for session in (session for arm in ARMS for session in sessions.of[arm]):
        texts.setdefault(session.prompt, set()).add(session.ids)
    result.figures["mismatches"] = sum(len(found) - 1 for found in texts.values())
    result.figures["failed"] = sessions.failed
    return result


def run(*, quick: bool) -> Result:
    """Measure; print how each observer fared; return the figures."""
    sessions = Sessions(QUICK if quick else BARS)
    began = time.monotonic()
    sessions.run()
    print(f"{sum(map(len, sessions.of.values()))} sessions in {time.monotonic() - began:.0f} s")
    return figures(sessions)
