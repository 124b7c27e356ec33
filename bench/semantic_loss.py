"""What meaning has cost: accuracy against exact decoding of the same problems, in points, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Z_95 = 1.959963984540054


class Loss(NamedTuple):
    """Points of accuracy lost, and its 95 % interval."""

    points: float
    low: float
    high: float


def paired_loss(lost: int, won: int, problems: int) -> Loss:
    """Return the loss where exact decoding alone was right ``lost`` times, and the other alone ``won`` times.

    The interval is Tango's score interval for a difference of paired proportions (Statistics in Medicine 17, 1998),
    which holds where few pairs differ or none does; a bootstrap of no difference has no width.

    Raises ValueError without problems.
    """
    if problems <= 0 or lost < 0 or won < 0 or lost + won > problems:
        raise ValueError(f"{lost} lost and {won} won of {problems} problems")
    found = (lost - won) / problems
    low = _end(lost, won, problems, -1.0, found)
    high = _end(lost, won, problems, 1.0, found)
    return Loss(100 * found, 100 * low, 100 * high)


def loss_of(exact: Sequence[bool], other: Sequence[bool]) -> Loss:
    """Return the loss of one way to write against exact decoding, problem by problem."""
    lost = sum(first and not second for first, second in zip(exact, other, strict=True))
    won = sum(second and not first for first, second in zip(exact, other, strict=True))
    return paired_loss(lost, won, len(exact))


def _end(lost: int, won: int, problems: int, far: float, found: float) -> float:
    """Return where the score statistic reaches the 95 % quantile, between what was found and ``far``."""
    inside, outside = found, far
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(_score(lost, won, problems, middle)) <= Z_95:
            inside = middle
        else:
            outside = middle
    return inside


def _score(lost: int, won: int, problems: int, difference: float) -> float:
    """Return how many standard errors what was found is from a true ``difference``; Tango 1998, formula 5."""
    off = lost - won - problems * difference
    spread = difference * (1 - difference)
    a, b = 2 * problems, -lost - won + (2 * problems - lost + won) * difference
    share = (math.sqrt(max(0.0, b * b + 4 * a * won * spread)) - b) / (2 * a)  # of ``won``, under that difference
    variance = problems * (2 * share + spread)
    if variance <= 0:
        return 0.0 if off == 0 else math.copysign(math.inf, off)
    return off / math.sqrt(variance)
