"""What the next second of a link will be like: rates and round trips, from the last ones and from radio facts.

Everything is learnt in logarithms, so an error is a factor. Two forecasts of each quantity run side by side, one that
knows the quantity's own past on this technology, and one that also knows what the signal changed since; the second
counts as far as it has been the better one lately. So facts that say nothing cost next to nothing, and none are needed.
What they add on recorded channels: ``python -m bench radio-facts``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from airdraft.core.radio_facts import RadioFacts, Technology

LEAST_BYTES_S = 16_000.0
"""A rate below is taken for this: it cannot carry drafts, and how far it is below changes no plan."""

LEAST_S = 1e-4
LEVEL_STEP = 0.1
"""How far the level moves towards the newest value, once there are ten."""

RATE_HOLD = 1.0
ROUND_TRIP_HOLD = 0.5
"""The forecast before anything is learnt: how far the newest value holds; the rest returns to the level. A rate stays
what it is for seconds; half of what one round trip differs from the next is chance."""

FORGETTING = 0.998
"""What a value still weighs in the coefficients when the next has come."""

FIRST_VARIANCES = (0.003, 0.05)
"""Of the hold, and of each fact's coefficient, in powers of e per 10 dB."""

MOST_VARIANCE = 2.0
"""Nothing is forgotten beyond: where nothing varies there is nothing to learn anew from."""

OUTLIER = 1.5
"""An error counts as no more, in powers of e: an outage says nothing about coefficients."""

HEDGE = 2.0
HEDGE_MEMORY = 0.98
HEDGE_START = 1.0
"""By how much, in summed errors, the signal's forecast must have been the better one to count for half."""

RESIDUALS = 64
FIRST_RESIDUALS = tuple(0.15 * z for z in (-1.53, -0.89, -0.49, -0.16, 0.16, 0.49, 0.89, 1.53))
"""Of a normal distribution; they leave when so many of the link's own have come."""

Features = tuple[float | None, ...]
FEATURES = 4
UNKNOWN: Features = (None,) * FEATURES
Row = tuple[float, ...]  # [1 + FEATURES], or [1] where no facts are heard


def features(facts: RadioFacts) -> Features:
    """Return signal to noise, power, quality, in 10 dB, and the link rate's logarithm; None where unknown."""
    power = facts.rsrp_dbm if facts.rsrp_dbm is not None else facts.rssi_dbm
    link = facts.down_link_bytes_s if facts.down_link_bytes_s is not None else facts.up_link_bytes_s
    tens = [None if value is None else value / 10 for value in (facts.sinr_db, power, facts.rsrq_db)]
    return (*tens, None if link is None else math.log(link))


@dataclass(frozen=True, slots=True)
class Level:
    """Where values lay lately, in logarithms, and what the radio said then."""

    mean: float
    last: float
    mean_told: Features
    last_told: Features
    values: int = 1

    def updated(self, value: float, told: Features) -> Level:
        step = max(LEVEL_STEP, 1 / (self.values + 1))
        mean_told = tuple(_moved(old, new, step) for old, new in zip(self.mean_told, told, strict=True))
        return Level(self.mean + step * (value - self.mean), value, mean_told, told, self.values + 1)


def _moved(old: float | None, new: float | None, step: float) -> float | None:
    if old is None or new is None:
        return new if old is None else old
    return old + step * (new - old)


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """One quantity's next value: a blend of newest value and level, and, if informed, what the signal changed since.

    value = mean + w0 (last - mean) + w1..4 . (facts now - facts of that blend), by recursive least squares with
    forgetting (Haykin, Adaptive Filter Theory, chapter 9). Each technology that the radio names has a level of its own:
    back on one the forecast goes on from where that was.
    """

    weights: Row
    variances: tuple[Row, ...]  # of the weights: a square
    levels: Mapping[Technology | None, Level] = field(default_factory=dict)
    newest: Technology | None = None  # of the newest value
    technology: Technology | None = None  # told
    told: Features = UNKNOWN

    @classmethod
    def beginning(cls, hold: float, *, informed: bool) -> Self:
        """Return a forecast that has seen nothing; ``hold`` is how far it will take the newest value to hold."""
        count = 1 + FEATURES if informed else 1
        first = (FIRST_VARIANCES[0], *(FIRST_VARIANCES[1],) * FEATURES)
        square = tuple(tuple(first[row] * (row == column) for column in range(count)) for row in range(count))
        return cls((hold, *(0.0,) * (count - 1)), square)

    @property
    def informed(self) -> bool:
        """Tell whether it takes in more of the facts than the technology."""
        return len(self.weights) > 1

    def next(self) -> float | None:
        """Return the forecast, a logarithm; None before the first value."""
        level = self._level()
        return None if level is None else level.mean + _dot(self.weights, self._row(level))

    def heard(self, facts: RadioFacts) -> Self:
        """Take what the radio says from now on; of that the technology alone unless informed."""
        return replace(self, technology=facts.technology, told=features(facts) if self.informed else UNKNOWN)

    def updated(self, value: float) -> Self:
        """Learn from the newest value, a logarithm."""
        level = self._level()
        weights, variances = (self.weights, self.variances) if level is None else self._learnt(level, value)
        there = self.levels.get(self.technology)
        now = Level(value, value, self.told, self.told) if there is None else there.updated(value, self.told)
        return replace(
            self,
            levels={**self.levels, self.technology: now},
            newest=self.technology,
            weights=weights,
            variances=variances,
        )

    def _level(self) -> Level | None:
        return self.levels.get(self.technology) or self.levels.get(self.newest)

    def _row(self, level: Level) -> Row:
        """Return what the weights count; a fact that is unknown now or then has not changed."""
        if not self.informed:
            return (level.last - level.mean,)
        hold = min(max(self.weights[0], 0.0), 1.0)
        changed = (
            0.0 if now is None or last is None or mean is None else now - (mean + hold * (last - mean))
            for now, last, mean in zip(self.told, level.last_told, level.mean_told, strict=True)
        )
        return (level.last - level.mean, *changed)

    def _learnt(self, level: Level, value: float) -> tuple[Row, tuple[Row, ...]]:
        row = self._row(level)
        error = min(max(value - level.mean - _dot(self.weights, row), -OUTLIER), OUTLIER)
        known = tuple(_dot(each, row) for each in self.variances)
        scale = 1 / (1 + _dot(row, known))
        forgets = sum(self.variances[index][index] for index in range(len(row))) < MOST_VARIANCE
        kept = FORGETTING if forgets else 1.0
        variances = tuple(
            tuple((cell - scale * here * there) / kept for cell, there in zip(cells, known, strict=True))
            for cells, here in zip(self.variances, known, strict=True)
        )
        weights = tuple(weight + scale * each * error for weight, each in zip(self.weights, known, strict=True))
        return weights, variances


def _dot(left: Row, right: Row) -> float:
    return float(sum(map(operator.mul, left, right)))


@dataclass(frozen=True, slots=True, eq=False)
class Hedged:
    """A quantity's forecast with and without the signal, weighed by what their errors have been (Vovk 1990)."""

    least: float
    plain: Forecast
    informed: Forecast
    ahead: float = -HEDGE_START  # summed errors of the plain one over those of the informed one, with forgetting
    residuals: tuple[float, ...] = FIRST_RESIDUALS

    @classmethod
    def beginning(cls, least: float, hold: float = RATE_HOLD) -> Self:
        """Return a forecast that has seen nothing; what is below ``least`` will be taken for it."""
        return cls(least, Forecast.beginning(hold, informed=False), Forecast.beginning(hold, informed=True))

    @property
    def trust(self) -> float:
        """Return how much the signal counts, in [0, 1]."""
        return 1 / (1 + math.exp(-HEDGE * max(min(self.ahead, 50.0), -50.0)))

    def heard(self, facts: RadioFacts) -> Hedged:
        """Take what the radio says from now on."""
        return replace(self, plain=self.plain.heard(facts), informed=self.informed.heard(facts))

    def updated(self, value: float) -> Hedged:
        """Learn from the newest value, in the quantity's own unit. Raises ValueError unless it is finite."""
        if not math.isfinite(value):
            raise ValueError(f"{value} is no value of a link")
        newest = math.log(max(value, self.least))
        plain, informed = self.plain.next(), self.informed.next()
        ahead, residuals = self.ahead, self.residuals
        if plain is not None and informed is not None:
            gained = abs(newest - plain) - abs(newest - informed)
            ahead = HEDGE_MEMORY * (ahead + HEDGE_START) - HEDGE_START + gained
            residuals = (*residuals[-RESIDUALS + 1 :], newest - self._mixed(plain, informed))
        return replace(
            self,
            plain=self.plain.updated(newest),
            informed=self.informed.updated(newest),
            ahead=ahead,
            residuals=residuals,
        )

    def next(self, quantile: float = 0.5) -> float | None:
        """Return a quantile of the next second's value, in the quantity's own unit; None before the first value."""
        plain, informed = self.plain.next(), self.informed.next()
        if plain is None or informed is None:
            return None
        return math.exp(self._mixed(plain, informed) + _quantile(self.residuals, quantile))

    def _mixed(self, plain: float, informed: float) -> float:
        return plain + self.trust * (informed - plain)


def _quantile(values: tuple[float, ...], quantile: float) -> float:
    """Return a quantile by linear interpolation (Hyndman and Fan 1996, type 7). Raises ValueError outside [0, 1]."""
    if not 0 <= quantile <= 1:
        raise ValueError(f"{quantile} is no quantile")
    ranked = sorted(values)
    at = quantile * (len(ranked) - 1)
    below = int(at)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (at - below) * (ranked[above] - ranked[below])


@dataclass(frozen=True, slots=True)
class LinkSample:
    """What was seen of a link lately; None where it was not."""

    facts: RadioFacts | None = None
    round_trip_s: float | None = None
    up_bytes_s: float | None = None
    down_bytes_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LinkForecast:
    """The next second of a link."""

    round_trip_s: Hedged = field(default_factory=lambda: Hedged.beginning(LEAST_S, ROUND_TRIP_HOLD))
    up_bytes_s: Hedged = field(default_factory=lambda: Hedged.beginning(LEAST_BYTES_S))
    down_bytes_s: Hedged = field(default_factory=lambda: Hedged.beginning(LEAST_BYTES_S))

    def updated(self, sample: LinkSample) -> LinkForecast:
        """Learn from a sample: its values by what the radio said before, then what it says now.

        Raises ValueError on a value that is not finite.
        """
        return LinkForecast(
            _after(self.round_trip_s, sample.round_trip_s, sample.facts),
            _after(self.up_bytes_s, sample.up_bytes_s, sample.facts),
            _after(self.down_bytes_s, sample.down_bytes_s, sample.facts),
        )


def _after(forecast: Hedged, value: float | None, facts: RadioFacts | None) -> Hedged:
    learnt = forecast if value is None else forecast.updated(value)
    return learnt if facts is None else learnt.heard(facts)
