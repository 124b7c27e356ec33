"""Many synchronous devices on one paced edge: how near the service comes to what the cost line allows.

Devices are real sessions over gRPC in this process, on a core of their own; they draft in no time, with a noisy copy of
the target whose texts are known beforehand. So the edge always has work, and what it loses it loses by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from airdraft.core.drafting import Drafter, NgramDrafter
from airdraft.core.types import Plan
from airdraft.link.pacing import NoisyDrafter
from airdraft.link.shaping import Shape
from airdraft.link.sim_costs import Costs
from airdraft.link.sim_engine import by_positions
from airdraft.link.sim_text import MatchRun
from airdraft.link.simulation import Conduct, Link, World
from bench.connections import connections
from bench.engine_devices import Heard, write_texts
from coordinator.policy.costs import PassCost

ACCEPTANCE = 0.8
DRAFT_LENGTH = 4
NOISE_SEED = 6

SHARED = PassCost(0.028, 0.00015)
STEEP = PassCost(0.043, 0.0076)
"""A 14B model on an A100, whose passes over few positions are not yet bound by memory alone."""


@dataclass(frozen=True, slots=True)
class KnownDrafter:
    """Drafts a text that is known, prompt included."""

    whole: Sequence[int]

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        """Go on with the text."""
        return list(self.whole[len(path) : len(path) + count])

    def learn(self, ids: Sequence[int]) -> None:
        """Know it already."""


@dataclass(frozen=True, slots=True)
class KnownText:
    """A prompt and what the target writes after it."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]

    def cut(self, tokens: int) -> KnownText:
        """Return its beginning."""
        return KnownText(self.prompt, self.ids[:tokens])

    def noisy(self, vocabulary: int) -> NoisyDrafter:
        """Return the noisy copy of the target for this text."""
        return NoisyDrafter(KnownDrafter((*self.prompt, *self.ids)), ACCEPTANCE, NOISE_SEED, vocabulary)

    def run(self, vocabulary: int) -> MatchRun:
        """Return where that copy drafts the target's own token."""
        whole, drafter = (*self.prompt, *self.ids), self.noisy(vocabulary)
        matched = tuple(drafter.is_true(whole[:at]) for at in range(len(self.prompt), len(whole)))
        return MatchRun(self.ids, matched, self.prompt)


@dataclass(frozen=True, slots=True)
class PacedPass:
    """One step as the paced engine logged it."""

    began_s: float
    ended_s: float
    positions: int
    sessions: int
    late_s: float


@dataclass(frozen=True, slots=True)
class Busy:
    """The stretch in which every device was at it: from the last one's first commit to the first one's last."""

    line: PassCost
    devices: int
    seconds: float
    tokens: int
    commits: int
    passes: tuple[PacedPass, ...]  # that ran within it

    @property
    def tokens_per_s(self) -> float:
        """Return the rate of all devices together."""
        return self.tokens / self.seconds

    @property
    def tokens_a_round(self) -> float:
        """Return the mean tokens a commit."""
        return self.tokens / self.commits

    @property
    def sessions_a_pass(self) -> float:
        """Return the mean number of sessions in a pass."""
        return sum(entry.sessions for entry in self.passes) / len(self.passes)

    def rounds_and_busy(self, draft_length: int, passes: int = 10) -> list[tuple[float, float]]:
        """Return, for each so many passes, the seconds that their sessions' rounds would take in full passes, and took.

        A full pass has all devices in it. Taken is the engine's own time; what it waits for devices is not in it.
        """
        full_s = self.line.seconds(self.devices * (draft_length + 1)) / self.devices
        groups = [self.passes[at : at + passes] for at in range(0, len(self.passes), passes)]
        return [
            (full_s * sum(one.sessions for one in group), sum(one.ended_s - one.began_s for one in group))
            for group in groups
        ]

    def pieces(self, passes: int = 10) -> list[tuple[float, float]]:
        """Return, for each so many passes, the seconds that the line charges and those until the next ones began.

        What is left at the end is the last piece, up to the end of its last pass.
        """
        groups = [self.passes[at : at + passes] for at in range(0, len(self.passes), passes)]
        edges_s = [*(group[0].began_s for group in groups), self.passes[-1].ended_s]
        charged_s = [sum(self.line.seconds(entry.positions) for entry in group) for group in groups]
        return list(zip(charged_s, np.diff(edges_s).tolist(), strict=True))

    @property
    def line_share(self) -> float:
        """Return the time that the line charges for the passes over the time from the first to the end of the last."""
        charged_s, taken_s = map(sum, zip(*self.pieces(), strict=True))
        return float(charged_s / taken_s)

    def lockstep_share(self, draft_length: int) -> float:
        """Return the rate over that of one pass for all devices, round by round, and nothing between passes."""
        pass_s = self.line.seconds(self.devices * (draft_length + 1))
        return self.tokens_per_s / (self.devices * self.tokens_a_round / pass_s)


def busy(line: PassCost, arrivals: Sequence[Sequence[tuple[float, int]]], passes: Sequence[PacedPass]) -> Busy:
    """Return what happened while every device was busy; ``arrivals`` are times and tokens of each one's commits."""
    since_s, until_s = max(own[0][0] for own in arrivals), min(own[-1][0] for own in arrivals)
    within = [count for own in arrivals for when, count in own if since_s < when <= until_s]
    inside = tuple(entry for entry in passes if entry.began_s >= since_s and entry.ended_s <= until_s)
    return Busy(line, len(arrivals), until_s - since_s, sum(within), len(within), inside)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Devices that write their texts at once over one paced edge."""

    texts: Sequence[KnownText]
    line: PassCost
    draft_length: int = DRAFT_LENGTH

    def plain(self) -> Fleet:
        """Return the same devices with shorter texts and without drafts: a token a round."""
        tokens = max(8, len(self.texts[0].ids) // 4)
        return Fleet([text.cut(tokens) for text in self.texts], self.line, 0)

    def measured(self, address: str, log: Path) -> tuple[Busy, float]:
        """Write all texts at the edge with this log; return what came of it, and the share of texts as known."""
        before = len(_passes(log))
        heard = asyncio.run(self._written(address))
        arrivals = [list(zip(one.arrivals_s, one.commit_tokens, strict=True)) for one in heard]
        same = sum(tuple(one.ids) == text.ids for one, text in zip(heard, self.texts, strict=True))
        return busy(self.line, arrivals, _passes(log)[before:]), same / len(self.texts)

    def simulated(self, vocabulary: int) -> Busy:
        """Return what the same devices come to in virtual time, over a link and with ends that take none."""
        world = World(Costs(0.0, by_positions(self.line.seconds)), sessions_a_step=len(self.texts))
        runs = [text.run(vocabulary) for text in self.texts]
        link = Link.of(Shape(), Shape(), Random(0))
        done = world.fleet(runs, [0.0] * len(runs), Conduct(Plan(self.draft_length)), lambda _: link)
        return busy(self.line, [text.arrivals for text in done], ())

    async def _written(self, address: str) -> list[Heard]:
        async with connections(address, len(self.texts)) as over:
            description = await over[0].describe()
            drafters: list[Drafter] = [
                text.noisy(description.vocabulary) if self.draft_length else NgramDrafter() for text in self.texts
            ]
            return await write_texts(
                over,
                description,
                [text.prompt for text in self.texts],
                drafters,
                new_tokens=len(self.texts[0].ids),
                draft_length=self.draft_length,
            )


def _passes(log: Path) -> list[PacedPass]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [PacedPass(*json.loads(line)) for line in lines]


def late_share(passes: Sequence[PacedPass]) -> float:
    """Return by which part passes lasted longer than stated: the error of the pace."""
    return float(
        np.sum([entry.late_s for entry in passes]) / np.sum([entry.ended_s - entry.began_s for entry in passes])
    )
