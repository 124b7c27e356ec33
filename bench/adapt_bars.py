"""What the named figures of ``bench adapt`` have to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure's limits, either or both, and what it is in words."""

    about: str
    least: float = -math.inf
    most: float = math.inf

    def holds(self, value: float) -> bool:
        """Say whether a value is within the limits."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.most == math.inf else f"≤ {self.most:g}"


BARS: Mapping[str, Bar] = {
    "adaptive_over_hindsight_median": Bar("over the fastest fixed setting of each trace, the median trace", least=0.95),
    "adaptive_over_hindsight_min": Bar("the same, the lower end of the worst trace's interval", least=0.92),
    "adaptive_over_edge_min": Bar("over the edge alone, the worst trace", least=0.97),
    "adaptive_over_best_fixed_mix": Bar("over the best fixed setting of a mix of worlds, simulated", least=1.15),
    "edge_seconds_cut": Bar("edge seconds saved by the objective for them, simulated", least=0.20),
    "edge_seconds_latency_cost": Bar("the time per token that it takes instead, simulated", most=1.03),
    "rounds_to_adapt_channel_max": Bar(
        "simulated rounds until a plan is within 5 % of the best, after a channel's step", most=10
    ),
    "rounds_to_adapt_acceptance_max": Bar("the same after a step of acceptance", most=80),
    "decision_cpu_ms_p99": Bar("processor time of a decision, ms", most=0.2),
    "overload_p95_over_full": Bar("p95 time per token at twice the capacity over that at full load", most=1.5),
    "overload_starved": Bar("devices that got no text done there", most=0),
    "equal_text": Bar("1: every text is the target's own", least=1),
}
