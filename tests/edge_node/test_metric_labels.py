"""Labels come from closed sets: whatever devices, tenants and models are called, there is not a series more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from random import Random

import pytest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

pytest.importorskip("torch", reason="needs the edge's packages")

from airdraft.core.errors import SpecError
from airdraft.core.session import PASS_NODES
from airdraft.core.types import HiddenProtocol, Limits, Open, Origin, RefusalCode, Sampling, Semantic, Work
from bench.stub_edge import VOCABULARY, StubEngine
from edge_node.engine.runner import StepRunner
from edge_node.granting import Decision, Granting
from edge_node.metrics import Drafter, EdgeMetrics, Ended
from edge_node.metrics_meaning import Audited
from tests.edge_node.traffic import IDENTITY, Asked, Traffic

CLOSED: dict[str, type[Enum]] = {
    "work": Work,
    "origin": Origin,
    "drafter": Drafter,
    "finished_reason": Ended,
    "code": RefusalCode,
    "granted": Decision,
    "protocol": HiddenProtocol,
    "outcome": Audited,
}
"""The members of a label's set are all there is of it."""


def series(metrics: EdgeMetrics) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for metric in metrics.registry.collect()
        for sample in metric.samples
    }


def strangers(metrics: EdgeMetrics) -> Iterator[str]:
    """Yield the labels whose value is in no set that is known beforehand."""
    for name, labels in series(metrics):
        for label, value in labels:
            if label in CLOSED:
                known = value in {member.name.lower() for member in CLOSED[label]}
            elif label == "position":
                known = value in map(str, range(PASS_NODES))
            elif label == "le":
                known = not math.isnan(float(value))  # buckets are the code's own
            else:
                known = (label, value) == ("model_name", metrics.model_name)
            if not known:
                yield f"{name} {label}={value}"


def opened(chance: Random) -> Open:
    """Return a wish in which every field that is free is a surprise."""
    semantic = Semantic(chance.random() / 10, chance.choice(("typical", "x" * 9)), chance.choice(list(HiddenProtocol)))
    return Open(
        chance.randbytes(16), 1, IDENTITY, Sampling(), (), 4, 3, 3, chance.randbytes(32), 0,
        semantic=chance.choice((None, semantic)),
    )  # fmt: skip


@pytest.mark.parametrize("tenants", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_tenants_and_sessions_add_no_series(tenants: int) -> None:
    chance, runner = Random(1), StepRunner(StubEngine(0.0, 0.0, 4096), VOCABULARY)
    traffic = Traffic(runner, 4096, chance, vocabulary=VOCABULARY)
    traffic.sessions.granting = Granting()
    for number in range(40):  # passes, drafts deep and shallow, ends of all kinds
        prompt = tuple(chance.randrange(VOCABULARY) for _ in range(20))
        device = traffic.arrives(Asked(prompt, Sampling(), 12, f"tenant {number}"))
        for _ in range(12):
            if device.entry is None or device.done:
                break
            traffic.drafts(device, [*device.ids, *chance.choices(range(VOCABULARY), k=40)], 0.5)
            traffic.steps()
            chance.choice((traffic.idles, traffic.reads, traffic.leaves, traffic.cancels))(device)
    for code in RefusalCode:
        traffic.metrics.refused(code)
    before = series(traffic.metrics)
    for number in range(tenants):
        wish, tenant = opened(chance), f"tenant {chance.random()} {number}"
        try:
            entry = traffic.sessions.admit(wish, Limits(192), tenant)
            traffic.sessions.attach(entry, wish)
        except SpecError as error:
            traffic.metrics.refused(error.code or RefusalCode.MALFORMED)
            continue
        if entry.grant is not None:
            traffic.metrics.meaning.asked(entry.grant.decision, entry.grant.granted.protocol)
        traffic.sessions.forget(entry, chance.choice(list(Ended)))
    assert series(traffic.metrics) == before
    assert len(before) < 500
    assert sorted(strangers(traffic.metrics)) == []


def test_a_stranger_among_the_labels_is_found() -> None:
    metrics = EdgeMetrics("model")
    assert list(strangers(metrics)) == []
    metrics._own.register(_Leaky())
    assert list(strangers(metrics)) == ["leaky_total tenant=house"]


class _Leaky(Collector):
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily("leaky", "x", labels=["tenant"])
        family.add_metric(["house"], 1.0)
        yield family
