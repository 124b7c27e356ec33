"""A row of the target's logits on its way to a device that draws from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FULL_BYTES = 4
HALF_BYTES = 2


@dataclass(frozen=True, slots=True)
class TargetRow:
    """The target's logits at one position, of every id of the vocabulary."""

    data: bytes  # [V], a logit after the other, little end first: float32, or with ``half`` float16
    half: bool = False

    @classmethod
    def of(cls, logits: NDArray[np.float32] | NDArray[np.float16]) -> TargetRow:
        """Return the row of the logits [V], in their own type."""
        half = logits.dtype == np.float16
        return cls(logits.astype("<f2" if half else "<f4").tobytes(), half)

    @property
    def logits(self) -> NDArray[np.float32]:
        """Return the logits [V]."""
        return np.frombuffer(self.data, "<f2" if self.half else "<f4").astype(np.float32)
