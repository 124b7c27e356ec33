"""The sequential test behind audits: whether accepted tokens have been as harmless as their risk said (DESIGN §6).

Each audited token has a claimed risk r, and turned out harmful or not. The test is a CUSUM of log likelihood ratios
(Page 1954) of "the odds of harm are ``ODDS`` times what is claimed" against "they are as claimed". It alarms as soon as
the sum passes log(1 / FALSE_ALARM): then thresholds are scaled at once by what was seen since the sum last was 0, which
is Page's estimate of when the change came: claimed over harmful, at most one half. They are doubled again, up to where
they were, only after a clean window; where that proves too soon, the next window is twice as long.
"""

from __future__ import annotations

import math

ODDS = 3.0
FALSE_ALARM = 0.01
LEAST_RISK = 0.005
"""A token that claims less is taken to claim this: a single harmful one of a thousand must not be an alarm."""

STEP = 0.5
FLOOR = 1 / 64
"""Below this strictness nothing is accepted by meaning."""

CLEAN_AUDITS = 200
MOST_CLEAN_AUDITS = 3200


class AuditTest:
    """Outcomes of audits in, a strictness out."""

    def __init__(self) -> None:
        """Begin as the risk table says."""
        self.strictness = 1.0  # in [0, 1]: what thresholds are multiplied by
        self.audits = 0
        self.alarms = 0
        self._sum = 0.0
        self._claimed = self._harmful = 0.0  # since the sum last was 0: risks added up, and what turned out harmful
        self._clean = 0  # audits since the last alarm or loosening
        self._window = CLEAN_AUDITS
        self._loosened = False  # the last change was a loosening

    def audited(self, risk: float, *, harmful: bool) -> float:
        """Take one outcome; return the strictness from now on.

        Raises ValueError for a risk outside [0, 1].
        """
        if not 0 <= risk <= 1:
            raise ValueError(f"a risk lies in [0, 1], not {risk}")
        self.audits += 1
        self._clean += 1
        self._sum = max(0.0, self._sum + log_ratio(risk, harmful=harmful))
        self._claimed, self._harmful = self._claimed + max(risk, LEAST_RISK), self._harmful + harmful
        if not self._sum:
            self._claimed = self._harmful = 0.0
        if self._sum >= -math.log(FALSE_ALARM):
            self._alarm()
        elif self._clean >= self._window and self.strictness < 1:
            self._loosen()
        return self.strictness

    def _alarm(self) -> None:
        if self._loosened:
            self._window = min(2 * self._window, MOST_CLEAN_AUDITS)
        self.alarms += 1
        tighter = self.strictness * min(STEP, self._claimed / self._harmful)
        self.strictness = tighter if tighter >= FLOOR else 0.0
        self._changed(loosened=False)

    def _loosen(self) -> None:
        self.strictness = min(1.0, max(FLOOR, self.strictness / STEP))
        self._changed(loosened=True)

    def _changed(self, *, loosened: bool) -> None:
        self._sum, self._claimed, self._harmful = 0.0, 0.0, 0.0
        self._clean, self._loosened = 0, loosened


def log_ratio(risk: float, *, harmful: bool) -> float:
    """Return by how much one outcome speaks for odds of harm ``ODDS`` times those of ``risk``, in nats."""
    claimed = min(max(risk, LEAST_RISK), 1 - LEAST_RISK)
    shifted = ODDS * claimed / (1 - claimed + ODDS * claimed)
    return math.log(shifted / claimed) if harmful else math.log((1 - shifted) / (1 - claimed))
