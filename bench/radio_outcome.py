"""What a cell came to: its texts, where its drafter would have been right, and what follows from both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from airdraft.link.bound import ClairvoyantBound
from airdraft.link.sim_text import MatchRun
from bench.cells import Measured
from bench.figures import ratio_of_sums
from bench.radio_cells import Wanted, name_of
from bench.radio_link import least_round_trip_s
from bench.radio_text import MAX_TOKENS, Matches, MatchOrder, Text

Estimate = tuple[float, float, float]
"""A value and its 95 % interval."""


@dataclass(slots=True)
class Outcome:
    """One cell with its texts by number: the same number is the same prompt, seed and link in every cell."""

    wanted: Wanted
    texts: dict[int, Text] = field(default_factory=dict)
    matches: dict[int, Matches] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the cell's name."""
        return name_of(self.wanted.cell)

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of the texts, in order."""
        return sorted(self.texts)

    @property
    def tokens(self) -> int:
        """Return the committed tokens of all texts."""
        return sum(len(text.ids) for text in self.texts.values())

    @property
    def measured(self) -> Measured:
        """Return the cell as the simulator has it."""
        texts = [self.texts[number] for number in self.numbers]
        return Measured(
            self.wanted.cell,
            tokens=[len(text.ids) for text in texts],
            seconds=[text.seconds for text in texts],
            first_token_s=[text.arrivals_s[0] for text in texts],
            arrivals_s=[text.arrivals_s for text in texts],
            bytes_up=sum(text.bytes_up for text in texts),
            bytes_down=sum(text.bytes_down for text in texts),
            draft_s=sum(text.draft_s for text in texts),
            pass_s=sum(text.pass_s for text in texts),
            drafted=sum(text.drafted for text in texts),
            accepted=sum(text.accepted for text in texts),
        )

    @property
    def rate(self) -> Estimate:
        """Return tokens per second: those after the first commits, over the time that they took."""
        texts = list(self.texts.values())
        return rate_of([text.timed_tokens for text in texts], [text.seconds for text in texts])

    @property
    def late_s(self) -> list[float]:
        """Return by what each paced step ended late."""
        return [late for text in self.texts.values() for late in (*text.draft_late_s, *text.pass_late_s)]

    @property
    def acceptance(self) -> float:
        """Return the share of tokens at which the drafter is right, given all before."""
        hits = [hit for matches in self.matches.values() for hit in matches.matched]
        return float(np.mean(hits)) if hits else float("nan")

    def match_order(self, number: int, prompt: str) -> MatchOrder:
        """Return the question where this cell's drafter would have been right."""
        models = self.wanted.cell.models
        seed = number if models.temperature else 0
        return MatchOrder(prompt, tuple(self.texts[number].ids), models.drafter, models.temperature, seed)

    def runs(self) -> list[MatchRun]:
        """Return the texts as a simulator takes them."""
        return [_run(self.texts[number], self.matches[number]) for number in self.numbers]

    def bound_s(self) -> list[float]:
        """Return for each text the least seconds that any schedule of one device-drafted line could take."""
        cell = self.wanted.cell
        assert cell.models.target is not None
        trip_s, target = least_round_trip_s(cell.link), cell.models.target
        bound = ClairvoyantBound(trip_s, cell.models.draft_s, target.seconds)
        seconds: list[float] = []
        for number in self.numbers:
            matches = self.matches[number]
            # The device drafts from the prompt on while Open is in the air; the first draft is of the first token.
            ahead_s = trip_s + target.seconds(len(matches.prompt)) - cell.models.draft_s
            seconds.append(bound.run_s(matches.matched[1:], ahead_s if matches.matched[0] else 0.0))
        return seconds

    def bound_rate(self) -> Estimate:
        """Return the tokens per second of the bound over this cell's texts."""
        return rate_of([len(self.texts[number].ids) - 1 for number in self.numbers], self.bound_s())


def _run(text: Text, matches: Matches) -> MatchRun:
    ended = text.ids[-1] in matches.stop_ids
    return MatchRun(
        tuple(text.ids), matches.matched, matches.prompt, matches.stop_ids, MAX_TOKENS if ended else len(text.ids)
    )


def rate_of(tokens: Sequence[float], seconds: Sequence[float]) -> Estimate:
    """Return tokens over seconds, sums both, with the interval of texts drawn again."""
    return ratio_of_sums(list(zip(tokens, seconds, strict=True)), lambda sums: sums[..., 0] / sums[..., 1])


def ratio_of(over: Sequence[Outcome], under: Sequence[Outcome]) -> Estimate | None:
    """Return the rate of some cells over that of others, on the texts that both have; texts are drawn in pairs.

    Cells are paired by temperature. None where no text is in both.
    """
    rows = [
        (mine.timed_tokens, mine.seconds, theirs.timed_tokens, theirs.seconds)
        for first, second in _alike(over, under)
        for mine, theirs in _both(first, second)
    ]
    return _ratio(rows)


def ratio_to_bound(outcomes: Sequence[Outcome]) -> Estimate | None:
    """Return the rate of some cells over that of the clairvoyant bound on their texts."""
    rows = [
        (text.timed_tokens, text.seconds, len(text.ids) - 1, bound_s)
        for outcome in outcomes
        for text, bound_s in zip((outcome.texts[number] for number in outcome.numbers), outcome.bound_s(), strict=True)
    ]
    return _ratio(rows)


def _ratio(rows: Sequence[tuple[float, float, float, float]]) -> Estimate | None:
    if not rows:
        return None
    return ratio_of_sums(rows, rate_over_rate)


def rate_over_rate(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for [..., 4], tokens and seconds of two cells, the ratio of their rates."""
    ratios: NDArray[np.float64] = sums[..., 0] / sums[..., 1] / (sums[..., 2] / sums[..., 3])
    return ratios


def _alike(over: Sequence[Outcome], under: Sequence[Outcome]) -> Iterator[tuple[Outcome, Outcome]]:
    for mine in over:
        for theirs in under:
            if mine.wanted.cell.models.temperature == theirs.wanted.cell.models.temperature:
                yield mine, theirs


def _both(over: Outcome, under: Outcome) -> Iterator[tuple[Text, Text]]:
    for number in over.numbers:
        if number in under.texts:
            yield over.texts[number], under.texts[number]


def mismatches(outcomes: Iterable[Outcome]) -> int:
    """Return how many texts differ from the first one of their number and temperature: no schedule may change any."""
    first: dict[tuple[int, float], list[int]] = {}
    wrong = 0
    for outcome in outcomes:
        for number, text in outcome.texts.items():
            known = first.setdefault((number, outcome.wanted.cell.models.temperature), text.ids)
            wrong += known != text.ids
    return wrong
