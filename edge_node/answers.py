"""When a device's next draft is due, from how soon the last ones followed a commit."""

from __future__ import annotations

from dataclasses import dataclass

ANSWER_GAIN = 0.2
"""How much the latest answer counts in a device's mean and deviation."""

DEVIATIONS = 1.0
"""An answer is due this many mean deviations past the mean: more wait longer for few."""


@dataclass(slots=True)
class Answers:
    """How soon a device drafts again after a commit."""

    owed_since: float | None = None  # when the commit went that no draft has followed
    mean_s: float | None = None
    deviation_s: float = 0.0

    @property
    def due(self) -> float | None:
        """Return when the draft that is owed should be here; None where none is, or nothing is known."""
        if self.owed_since is None or self.mean_s is None:
            return None
        return self.owed_since + self.mean_s + DEVIATIONS * self.deviation_s

    def came(self, now: float) -> None:
        """Take the time of a draft."""
        if self.owed_since is None:
            return
        took_s, self.owed_since = now - self.owed_since, None
        if self.mean_s is None:
            self.mean_s = took_s
            return
        off_s = took_s - self.mean_s
        self.mean_s += ANSWER_GAIN * off_s
        self.deviation_s += ANSWER_GAIN * (abs(off_s) - self.deviation_s)
