"""Whole answers by greedy speculative decoding with acceptance by meaning, for many thresholds on risk at once.

The device, the link and the edge are left out: the drafter writes its tokens, the target reads them in one pass, and
the walk goes on over a token that is not the target's own choice where its risk is at most the threshold. Two
thresholds write the same text until a risk comes between them, and so long they share the work: what two dozen
thresholds cost is what the texts that really differ cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_node.labels.search import Pair, features_of
from edge_node.labels.writer import Line, Reading, Rows

Score = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]
"""Risks [n] of swaps, from the target's features [n, 3 d + 6] and the drafter's states [n, d_D]."""


@dataclass(frozen=True, slots=True)
class Written:
    """What thresholds made of problems; arrays are [problems, thresholds]."""

    texts: list[list[tuple[int, ...]]]  # the answers' ids
    rounds: NDArray[np.int64]  # verification passes
    accepted: NDArray[np.int64]  # drafted tokens that were accepted, by meaning too
    by_meaning: NDArray[np.int64]
    spent: NDArray[np.float64]  # 1 - prod(1 - risk) of those

    @property
    def accepted_length(self) -> NDArray[np.float64]:
        """Return drafted tokens accepted a pass [thresholds]: of all passes of all problems, as ratios of sums."""
        length: NDArray[np.float64] = self.accepted.sum(0) / self.rounds.sum(0)
        return length


@dataclass(slots=True)
class _Text:
    """A text that some thresholds have in common so far."""

    problem: int
    thresholds: NDArray[np.int64]  # which
    ids: list[int]
    prompt: int  # its length
    rounds: int = 0
    accepted: int = 0
    by_meaning: int = 0
    kept: float = 1.0  # chance that nothing has gone wrong
    lines: tuple[Line, Line] | None = None  # of the target and of the drafter, while it is at work

    def parted(self, thresholds: NDArray[np.int64]) -> _Text:
        """Return the same text for some of its thresholds, without lines."""
        return _Text(
            self.problem, thresholds, list(self.ids), self.prompt, self.rounds, self.accepted, self.by_meaning,
            self.kept,
        )  # fmt: skip


class _Draft(NamedTuple):
    ids: list[int]
    states: list[NDArray[np.float32]]  # of which it wrote each, [d_D]


@dataclass(slots=True)
class _Swaps:
    """The places of a pass where the drafter's token is not the target's choice, before they are judged."""

    rows: list[Rows] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)
    states: list[NDArray[np.float32]] = field(default_factory=list)


def write_answers(
    pair: Pair, prompts: Sequence[Sequence[int]], thresholds: Sequence[float], score: Score, *,
    draft_length: int, max_tokens: int,
) -> Written:  # fmt: skip
    """Return each prompt's answer by each threshold; a threshold of 0 is exact decoding.

    The pair's places bound how many texts are at work at a time, not how many there are.
    """
    shape = len(prompts), len(thresholds)
    texts: list[list[tuple[int, ...]]] = [[()] * shape[1] for _ in prompts]
    counts = [np.zeros(shape, dtype=np.int64) for _ in range(3)]
    spent = np.zeros(shape)
    everyone = np.arange(len(thresholds))
    waiting = [_Text(at, everyone, list(prompt), len(prompt)) for at, prompt in enumerate(prompts)][::-1]
    working: list[_Text] = []
    rehearsal = _Rehearsal(pair, np.asarray(thresholds, dtype=np.float64), score, draft_length)
    while waiting or working:
        while waiting and len(working) < pair.places:
            working.append(waiting.pop())
        following = rehearsal.round(working)
        working = []
        for text in following:
            if text.ids[-1] in pair.target.target.stop_ids or rehearsal.left(text, max_tokens) <= 0:
                rehearsal.release(text)
                ids = tuple(text.ids[text.prompt : text.prompt + max_tokens])
                for threshold in text.thresholds.tolist():
                    texts[text.problem][threshold] = ids
                for count, value in zip(counts, (text.rounds, text.accepted, text.by_meaning), strict=True):
                    count[text.problem, text.thresholds] = value
                spent[text.problem, text.thresholds] = 1 - text.kept
            elif text.lines is not None:
                working.append(text)
            else:
                waiting.append(text)
    rounds, accepted, by_meaning = counts
    return Written(texts, rounds, accepted, by_meaning, spent)


class _Rehearsal:
    def __init__(self, pair: Pair, thresholds: NDArray[np.float64], score: Score, draft_length: int) -> None:
        self._pair, self._thresholds, self._score, self._draft_length = pair, thresholds, score, draft_length

    def left(self, text: _Text, max_tokens: int) -> int:
        """Return how many tokens the text may still have; a pass needs room for its draft."""
        room = self._pair.target.room - self._draft_length - 1
        return min(text.prompt + max_tokens, room) - len(text.ids)

    def release(self, text: _Text) -> None:
        """Give a text's lines back."""
        if text.lines is not None:
            self._pair.target.free(text.lines[:1])
            self._pair.drafter.free(text.lines[1:])
            text.lines = None

    def round(self, working: Sequence[_Text]) -> list[_Text]:
        """Draft, verify and walk once; return the texts that came of it, of which those that parted have no lines."""
        for text in working:
            text.lines = text.lines or (self._pair.target.new(), self._pair.drafter.new())
        drafts = self._drafted(working)
        readings = [
            Reading(_lines(text)[0], [*text.ids, *draft.ids], len(text.ids) - 1)
            for text, draft in zip(working, drafts, strict=True)
        ]
        rows = self._pair.target.read(readings)
        choices = [row.logits.argmax(-1).tolist() for row in rows]
        risks = self._judged(drafts, rows, choices)
        following: list[_Text] = []
        for text, draft, chosen, risk in zip(working, drafts, choices, risks, strict=True):
            following += self._walked(text, draft.ids, chosen, risk)
        return following

    def _drafted(self, working: Sequence[_Text]) -> list[_Draft]:
        """Return what the drafter writes after each text, and its states; it stops after a stop id."""
        drafts = [_Draft([], []) for _ in working]
        going = list(range(len(working)))
        for _ in range(self._draft_length):
            wholes = [[*working[at].ids, *drafts[at].ids] for at in going]
            rows = self._pair.drafter.read(
                [Reading(_lines(working[at])[1], ids, len(ids) - 1) for at, ids in zip(going, wholes, strict=True)]
            )
            for at, row in zip(going, rows, strict=True):
                drafts[at].ids.append(int(row.logits[0].argmax()))
                drafts[at].states.append(row.hidden[0].cpu().numpy())
            stops = self._pair.target.target.stop_ids
            going = [at for at in going if drafts[at].ids[-1] not in stops]
            if not going:
                break
        return drafts

    def _judged(
        self, drafts: Sequence[_Draft], rows: Sequence[Rows], choices: Sequence[Sequence[int]]
    ) -> list[dict[int, float]]:
        """Return the risk of each drafted token, by its index, that meaning may accept, up to one that it may not."""
        swaps, places = _Swaps(), []
        for number, (draft, row, chosen) in enumerate(zip(drafts, rows, choices, strict=True)):
            for at, (drafted, choice) in enumerate(zip(draft.ids, chosen, strict=False)):
                if drafted == choice:
                    continue
                if drafted in self._pair.control or choice in self._pair.control:
                    break
                places.append((number, at))
                swaps.rows.append(Rows(row.logits[at : at + 2], row.hidden[at : at + 2]))
                swaps.drafted.append(drafted)
                swaps.choices.append(choice)
                swaps.states.append(draft.states[at])
        risks: list[dict[int, float]] = [{} for _ in drafts]
        if places:
            features = features_of(self._pair.target, swaps.rows, swaps.drafted, swaps.choices)
            judged = self._score(features.astype(np.float32), np.stack(swaps.states))
            for (number, at), risk in zip(places, judged.tolist(), strict=True):
                risks[number][at] = risk
        return risks

    def _walked(
        self, text: _Text, draft: Sequence[int], choices: Sequence[int], risks: dict[int, float]
    ) -> list[_Text]:
        """Walk the draft for all thresholds of a text; those that part come first in the end, without lines."""
        text.rounds += 1
        parted: list[_Text] = []
        stops = self._pair.target.target.stop_ids
        for at, (drafted, choice) in enumerate(zip(draft, choices, strict=False)):
            if drafted != choice:
                risk = risks.get(at, 1.0)
                limits = self._thresholds[text.thresholds]
                tolerant = (limits > 0) & (risk <= limits) & (at in risks)
                if not tolerant.any():
                    text.ids.append(choice)
                    return [*parted, text]
                if not tolerant.all():
                    strict = text.parted(text.thresholds[~tolerant])
                    strict.ids.append(choice)
                    parted.append(strict)
                    text.thresholds = text.thresholds[tolerant]
                text.by_meaning += 1
                text.kept *= 1 - risk
            text.ids.append(drafted)
            text.accepted += 1
            if drafted in stops:
                return [*parted, text]
        text.ids.append(choices[len(draft)])
        return [*parted, text]


def _lines(text: _Text) -> tuple[Line, Line]:
    assert text.lines is not None
    return text.lines
