"""What an edge counts of acceptance by meaning; ``docs/metrics.md`` explains every name.

Labels are closed sets. Nothing of a text is counted but how many tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, StrEnum
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from airdraft.core.types import HiddenProtocol
from edge_node.granting import Decision

_E = TypeVar("_E", bound=Enum)


class Audited(StrEnum):
    """What became of a sampled swap."""

    HARMLESS = "harmless"
    HARMFUL = "harmful"
    UNDECIDED = "undecided"  # the model's own wording led to no answer that could be compared
    DROPPED = "dropped"  # too many waited, or the engine died


class MeaningMetrics:
    """The counters of one edge that tell of acceptance by meaning."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        """Begin at zero, with every name in ``registry`` behind ``prefix``."""
        self._registry, self._prefix = registry, prefix
        self._wishes = self._counters(
            "semantic_sessions", "Sessions that asked, by what was granted.", "granted", Decision
        )
        self._protocols = self._counters(
            "semantic_protocols", "Sessions granted, by protocol of states.", "protocol", HiddenProtocol
        )
        self._risk = self._counter("meaning_risk", "Estimated risks of tokens accepted by meaning, summed.")
        self._asked = self._counter("hidden_waits", "Passes whose result waited for states of the device.")
        self._asked_nodes = self._counter("hidden_wait_nodes", "Draft tokens whose states they waited for.")
        self._late = self._counter("hidden_waits_late", "Those that ended without the states.")
        self._provisional = self._counter(
            "provisional_dropped_tokens", "Tokens of the edge's own that drafts replaced."
        )
        self._audits = self._counters("semantic_audits", "Sampled swaps, by what became of them.", "outcome", Audited)
        self._audits_waiting = self._gauge("semantic_audits_waiting", "Sampled swaps that wait or are at work.")
        self._strictness = self._gauge("semantic_strictness", "Least factor on a threshold; below 1 audits found harm.")

    def asked(self, decision: Decision, protocol: HiddenProtocol) -> None:
        """Count a new session that asked for acceptance by meaning."""
        self._wishes[decision].inc()
        if not decision.exact:
            self._protocols[protocol].inc()

    def accepted(self, risks: Iterable[float]) -> None:
        """Take the estimated risks of tokens that were accepted by meaning."""
        self._risk.inc(sum(risks))

    def waits_for_states(self, nodes: int) -> None:
        """Count a result that waits for the states of so many draft tokens."""
        self._asked.inc()
        self._asked_nodes.inc(nodes)

    def states_came_late(self) -> None:
        """Count a wait that its deadline ended."""
        self._late.inc()

    def dropped_provisional(self, tokens: int) -> None:
        """Count tokens of the edge's own that were never committed."""
        self._provisional.inc(tokens)

    def audited(self, outcome: Audited) -> None:
        """Count a sampled swap whose audit is over."""
        self._audits[outcome].inc()

    def watch(self, waiting: Callable[[], float], strictness: Callable[[], float]) -> None:
        """Show what these return whenever somebody looks."""
        self._audits_waiting.set_function(waiting)
        self._strictness.set_function(strictness)

    def _counter(self, name: str, says: str) -> Counter:
        return Counter(self._prefix + name, says, registry=self._registry)

    def _counters(self, name: str, says: str, label: str, members: type[_E]) -> dict[_E, Counter]:
        family = Counter(self._prefix + name, says, [label], registry=self._registry)
        return {member: family.labels(member.name.lower()) for member in members}

    def _gauge(self, name: str, says: str) -> Gauge:
        return Gauge(self._prefix + name, says, registry=self._registry)
