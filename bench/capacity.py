"""``python -m bench capacity``: committed tokens per busy edge-second when many devices draft for one edge.

Against the edge alone, whose every step holds one token of every session. Simulated, with the cores and the edge node's
rules of a step; and paced: the real service, its queue to an engine's process that keeps a stated pace, and devices
whose drafter and link are timers, over gRPC. The edge is set to ``--favour edge-time`` and has no drafter of its own;
``greedy`` is ``--favour speed``, the default, which begins each step as soon as it can.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from airdraft.core.drafting import Drafter
from airdraft.core.types import Plan
from airdraft.link.sim_text import MatchRun
from bench.capacity_devices import Pace, write_timed
from bench.capacity_engine import VOCABULARY, written
from bench.capacity_sim import DRAFT_S, Share, simulated
from bench.engine_devices import Heard
from bench.engine_paced import SHARED, PacedPass
from bench.engine_paced_edge import paced_edge
from bench.engine_texts import OTHER_CORE, on_core
from bench.figures import Result, ratio_of_sums

ACCEPTANCE = 0.8
SETTINGS = ((16, 30), (16, 100), (64, 30), (64, 100))
"""Sessions, and the round trip in milliseconds."""

APART_S = 0.013
"""Paced devices begin so long after one another."""

PIECE_S = 1.0
"""What the interval of a ratio is drawn from: tokens and busy seconds of so long."""

FRAME_TOKENS = {16: 1, 64: 4}
"""Tokens of a device's frame: one process can take the frames of 16 devices that each carry a token."""


@dataclass(frozen=True, slots=True)
class Size:
    """How long is measured, in seconds at the plain rate."""

    simulated_s: float  # with 16 sessions; with 64 of them half as long
    paced_s: float
    plain_s: float
    settings: tuple[tuple[int, int], ...]


QUICK = Size(6.0, 4.0, 2.0, ((16, 30),))
BARS = Size(27.0, 24.0, 6.0, SETTINGS)


# ---- texts ----


@dataclass(frozen=True, slots=True)
class RuleDrafter:
    """Drafts a known text but for its misses, after which it is off the text."""

    run: MatchRun

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Return the text's next tokens, spoilt where the run says so."""
        first, whole = len(self.run.prompt), self.run.text
        if tuple(path) != whole[: len(path)]:
            return [0] * count
        drafted: list[int] = []
        for at in range(len(path), min(len(path) + count, len(whole))):
            right = self.run.matched[at - first] and (not drafted or drafted[-1] == whole[at - 1])
            drafted.append(whole[at] if right else (whole[at] + 1) % VOCABULARY)
        return drafted

    def learn(self, ids: Sequence[int]) -> None:
        """Know it already."""


def texts(count: int, tokens: int, seed: int) -> list[MatchRun]:
    """Return texts of the rule, each token matched with the stated chance."""
    chance = Random(seed)
    runs: list[MatchRun] = []
    for _ in range(count):
        prompt = tuple(chance.randrange(VOCABULARY) for _ in range(4))
        matched = tuple(chance.random() < ACCEPTANCE for _ in range(tokens))
        runs.append(MatchRun(written(prompt, tokens), matched, prompt))
    return runs


def _tokens(seconds: float, sessions: int) -> int:
    """Return the tokens that a plain edge writes for each in so long."""
    return round(seconds / SHARED.seconds(sessions))


# ---- paced ----


def measured(address: str, log: Path, runs: Sequence[MatchRun], pace: Pace) -> tuple[Share, float]:
    """Let the devices write at this edge; return what came of it, and by which share the passes ended late."""
    before = len(passes_of(log))
    drafters: list[Drafter] = [RuleDrafter(run) for run in runs]
    heard = asyncio.run(write_timed(address, [run.prompt for run in runs], drafters, len(runs[0].ids), pace, APART_S))
    if any(tuple(one.ids) != run.ids for one, run in zip(heard, runs, strict=True)):
        raise RuntimeError("a text is not the target's own")
    passes = passes_of(log)[before:]
    late_s, all_s = sum(one.late_s for one in passes), sum(one.ended_s - one.began_s for one in passes)
    return _share(heard, passes, pace.one_way_s), late_s / all_s


def _share(heard: Sequence[Heard], passes: Sequence[PacedPass], one_way_s: float) -> Share:
    """Count from the last device's first commit to the first one's last; a commit belongs to the pass before it."""
    since_s, until_s = max(own.arrivals_s[0] for own in heard), min(own.arrivals_s[-1] for own in heard)
    tokens = [
        sum(count for when, count in zip(own.arrivals_s, own.commit_tokens, strict=True) if since_s < when <= until_s)
        for own in heard
    ]
    passed = [(one.ended_s + one_way_s, one.ended_s - one.began_s) for one in passes]
    busy = [(when, seconds) for when, seconds in passed if since_s < when <= until_s]
    pieces = [[0.0, 0.0] for _ in range(int((until_s - since_s) / PIECE_S) + 1)]
    for own in heard:
        for when, count in zip(own.arrivals_s, own.commit_tokens, strict=True):
            if since_s < when <= until_s:
                pieces[int((when - since_s) / PIECE_S)][0] += count
    for when, seconds in busy:
        pieces[int((when - since_s) / PIECE_S)][1] += seconds
    return Share(
        len(heard),
        until_s - since_s,
        sum(tokens),
        sum(seconds for _, seconds in busy),
        min(tokens),
        len(busy),
        SHARED,
        tuple((count, seconds) for count, seconds in pieces),
    )


def passes_of(log: Path) -> list[PacedPass]:
    """Return the steps that a paced engine has logged."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [PacedPass(*json.loads(line)) for line in lines]


def _paced(result: Result, size: Size) -> None:
    with TemporaryDirectory() as folder:
        log = Path(folder) / "passes.log"
        with (
            paced_edge(Path(folder), log, SHARED, "bench.capacity_engine", ahead="ahead") as address,
            on_core(OTHER_CORE),
        ):
            for sessions, rtt_ms in size.settings:
                pace = Pace(DRAFT_S, rtt_ms / 2000, Plan(FRAME_TOKENS[sessions], 64))
                runs = texts(sessions, _tokens(size.paced_s, sessions), seed=rtt_ms)
                short = texts(sessions, _tokens(size.plain_s, sessions), seed=1)
                plain, _ = measured(address, log, short, Pace(DRAFT_S, rtt_ms / 2000, Plan(0)))
                found, late_share = measured(address, log, runs, pace)
                _add(result, f"capacity_{{}}{sessions}_rtt{rtt_ms}", found, plain)
                result.figures[f"capacity_late_share_{sessions}_rtt{rtt_ms}"] = round(late_share, 5)


def _add(result: Result, name: str, found: Share, plain: Share) -> None:
    """Add tokens per busy second, and the slowest session's rate, over those of a plain edge that was measured."""
    figures = {
        "": found.tokens / found.busy_s * plain.busy_s / plain.tokens,
        "wall_": found.tokens / found.seconds * plain.seconds / plain.tokens,
        "slowest_": found.slowest_tokens / found.seconds * plain.seconds / plain.tokens * plain.sessions,
        "busy_share_": found.busy_s / found.seconds,
        "plain_tokens_per_busy_s_": plain.tokens / plain.busy_s,
        "plain_busy_share_": plain.busy_s / plain.seconds,
    }
    for part, value in figures.items():
        result.figures[name.format(part)] = round(value, 4)
        result.samples[name.format(part)] = found.tokens
    plain_rate = plain.tokens / plain.busy_s
    _, low, high = ratio_of_sums(found.pieces, lambda sums: sums[..., 0] / sums[..., 1] / plain_rate)
    result.spread[name.format("")] = (round(low, 4), round(high, 4))


# ---- simulated ----


def _simulated(result: Result, size: Size) -> None:
    for sessions, rtt_ms in size.settings:
        seconds = size.simulated_s if sessions == 16 else size.simulated_s / 2
        runs = texts(sessions, _tokens(seconds, sessions), seed=rtt_ms)
        for kind, holds in (("", True), ("greedy_", False)):
            share = simulated(runs, rtt_ms / 1000, SHARED, plan=Plan(FRAME_TOKENS[sessions], 64), holds=holds)
            name = f"capacity_{kind}{{}}{sessions}_rtt{rtt_ms}_sim"
            for part, value in (
                ("", share.over_plain),
                ("wall_", share.wall_over_plain),
                ("slowest_", share.slowest_over_plain),
            ):
                result.figures[name.format(part)] = round(value, 4)
                result.samples[name.format(part)] = share.tokens


# ---- all of it ----


def capacity(result: Result, *, quick: bool) -> None:
    """Add every figure, in 3 to 4 minutes, or with ``quick`` in half a minute."""
    size = QUICK if quick else BARS
    _simulated(result, size)
    _paced(result, size)


def run(*, quick: bool) -> Result:
    """Measure; print the figures; return them."""
    result = Result("capacity")
    capacity(result, quick=quick)
    for name, value in result.figures.items():
        print(f"{name:<48} {value:10.4g}")
    return result
