"""Labels whose tolerance follows the channel: our reading of WISV's cost-aware supervision (arXiv 2604.17701).

The paper trains its head on labels that are relaxed by a Lagrangian: where a round is dear, more is harmless. How
exactly is not public; here a swap is harmful at channel c where harm > lambda * cost(c), with cost(c) the time of
another round there, and lambda the greatest with which accepting all that is then harmless costs no more answers than
the budget where a round is the dearest. What is harmful in every ending is harmful on every channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airdraft.core.meaning.head import CHANNEL_REACH, Channel

ROUND_TRIP_S = (0.005, 0.3)
UP_BYTES_S = (0.5e6 / 8, 500e6 / 8)
"""The channels of training, each drawn evenly on a logarithmic scale."""

_STATE_BYTES = 2  # of one number as WISV sends it up: float16

_ROUNDING = 1e-6  # the dearest channel tolerates what it was priced by
_NEVER = 1 - _ROUNDING  # harm that no channel tolerates

_LOW, _HIGH = (np.log([ROUND_TRIP_S[at], UP_BYTES_S[at]]) for at in (0, 1))
CHANNEL_MEAN = ((_LOW + _HIGH) / 2).astype(np.float32)
CHANNEL_SCALE = ((_HIGH - _LOW) / np.sqrt(12)).astype(np.float32)
"""Of an even distribution; [2], log of seconds and of bytes a second."""


def drawn_channels(count: int, chance: np.random.Generator) -> NDArray[np.float32]:
    """Return standardised channels [count, 2]: round trip and rate up."""
    logs = chance.uniform(_LOW, _HIGH, size=(count, 2))
    channels: NDArray[np.float32] = ((logs - CHANNEL_MEAN) / CHANNEL_SCALE).astype(np.float32)
    return channels


def corners() -> list[tuple[Channel, NDArray[np.float32]]]:
    """Return the four channels at the reach of what a device may say, and each one standardised [2]."""
    found = []
    for signs in ((1, -1), (1, 1), (-1, -1), (-1, 1)):
        standard = CHANNEL_REACH * np.array(signs, dtype=np.float32)
        round_trip_s, up_bytes_s = np.exp(standard * CHANNEL_SCALE + CHANNEL_MEAN).tolist()
        found.append((Channel(round_trip_s, up_bytes_s), standard))
    return found


@dataclass(frozen=True, slots=True)
class Relabelling:
    """How harm becomes a label."""

    price: float  # lambda: share of harm that a second may cost
    round_bytes: float  # that go up in a round

    def labels(self, harms: NDArray[np.float32], channels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return 1 where a swap of this harm [n] is harmful at this standardised channel [n, 2], else 0."""
        tolerated = self.price * round_cost_s(channels, self.round_bytes) * (1 + _ROUNDING)
        return (harms > np.minimum(tolerated, _NEVER)).astype(np.float32)


def round_cost_s(channels: NDArray[np.float32], round_bytes: float) -> NDArray[np.float64]:
    """Return what another round takes on standardised channels [n, 2]: the round trip, and what goes up."""
    logs = channels * CHANNEL_SCALE.astype(np.float64) + CHANNEL_MEAN
    cost: NDArray[np.float64] = np.exp(logs[:, 0]) + round_bytes / np.exp(logs[:, 1])
    return cost


def round_bytes(draft_length: int, draft_width: int) -> float:
    """Return what a round sends up: four bytes a token, and the drafter's states where the head reads them."""
    return draft_length * (4.0 + _STATE_BYTES * draft_width)


def relabelling(
    harms: NDArray[np.float32], problems: NDArray[np.int32], sent_bytes: float, budget: float
) -> Relabelling:
    """Return the relabelling that spends the budget: share of answers lost on the dearest channel.

    harms     [n]  of the training labels
    problems  [n]  which problem each is of
    """
    dearest_s = ROUND_TRIP_S[1] + sent_bytes / UP_BYTES_S[0]
    tolerable = [harm for harm in np.unique(harms[harms < 1]).tolist() if _lost(harms, problems, harm) <= budget]
    return Relabelling(max(tolerable, default=0.0) / dearest_s, sent_bytes)


def _lost(harms: NDArray[np.float32], problems: NDArray[np.int32], tolerated: float) -> float:
    """Return the share of problems lost where all swaps of at most this harm are accepted."""
    kept = np.where(harms <= tolerated, harms, 0).astype(np.float64)
    logs = np.log1p(-np.minimum(kept, 1 - 1e-9))
    _, where = np.unique(problems, return_inverse=True)
    return float(1 - np.exp(np.bincount(where, weights=logs)).mean())
