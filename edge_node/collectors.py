"""Two collectors that prometheus_client lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class PositionCounter(Collector):
    """A counter for each position of a draft. An event counts at all positions before an end, and is one addition."""

    def __init__(self, name: str, says: str) -> None:
        """Begin at zero; ``says`` is the help text."""
        self._name, self._says = name, says
        self._ends: list[int] = []  # how many events ended at each position

    def add(self, end: int) -> None:
        """Count one at each of the positions 0 to ``end`` - 1."""
        while len(self._ends) < end:
            self._ends.append(0)
        self._ends[end - 1] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the counters."""
        family = CounterMetricFamily(self._name, self._says, labels=["position"])
        ends = self._ends[:]
        for position in range(len(ends)):
            family.add_metric([str(position)], sum(ends[position:]))
        yield family


class Labelled(Collector):
    """All of a registry, under more labels; the times at which counters were made are left out."""

    def __init__(self, source: CollectorRegistry, labels: Callable[[], dict[str, str]]) -> None:
        """Put ``labels()`` of the moment on whatever ``source`` holds."""
        self._source, self._labels = source, labels

    def collect(self) -> Iterator[Metric]:
        """Yield what the registry yields."""
        labels = self._labels()
        for metric in self._source.collect():
            metric.samples = [
                sample._replace(labels=labels | sample.labels)
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ]
            yield metric
