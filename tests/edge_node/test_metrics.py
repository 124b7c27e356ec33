"""An edge's counters say what happened, over HTTP and under the names that the table in the docs gives."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from airdraft.core.types import (
    Commit,
    EdgeFrame,
    NeedPrefix,
    Origin,
    Pass,
    RefusalCode,
    Sampling,
    Span,
    StopReason,
    Timing,
    Work,
)
from coordinator.policy.costs import PassCost
from edge_node.collectors import PositionCounter
from edge_node.metrics import EdgeMetrics, Ended, Occupancy, draft_depth, serve_metrics
from edge_node.metrics_port import MetricsPortTaken
from edge_node.step import Outcome, StepDone

A, R, B, AHEAD, OWN = Origin.ACCEPTED, Origin.RECOVERED, Origin.BONUS, Origin.RUN_AHEAD, Origin.EDGE_DRAFT
NAMES = Path(__file__).parents[2] / "docs" / "metrics.md"
LOCAL = "127.0.0.1"


def a_pass(nodes: int = 0, parents: tuple[int, ...] | None = None, work: Work = Work.VERIFY, own: int = 0) -> Pass:
    span = Span(9, (1,) * (1 + nodes), parents, tuple(range(1 + nodes)))
    return Pass(1, 10, b"h" * 8, span, Sampling(), 3, nodes, range(10), own, work)


def commit(*origins: Origin) -> Commit:
    return Commit(1, 10, (1,) * len(origins), 10 + len(origins), b"h" * 8, 3, origins)


def passed(metrics: EdgeMetrics, work: Pass, *frames: EdgeFrame, near_ties: Sequence[int] = ()) -> None:
    metrics.passed(work, Timing(0.003, 0.030), frames, near_ties=near_ties)


def value(metrics: EdgeMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"airdraft:{name}", {"model_name": metrics.model_name} | labels)


def ask(port: int, path: str, method: str = "GET", host: str = LOCAL) -> tuple[int, str]:
    connection = HTTPConnection(host, port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def scrape(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    status, text = ask(port, "/metrics")
    assert status == 200
    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_scripted_run_reads_back_over_http() -> None:
    metrics = EdgeMetrics("demo")
    metrics.admitted(prompt_tokens=12)
    metrics.prefix_looked_up(12, 8)
    metrics.occupied(Occupancy(running=2, waiting=3, sessions=5, streams=4, kv_rows=400, kv_reserved_rows=100))
    passed(metrics, a_pass(work=Work.PREFILL), commit(AHEAD))
    metrics.first_token(0.25)
    passed(metrics, a_pass(4), commit(A, A, R), near_ties=(0, 2))
    passed(metrics, a_pass(2), commit(A, A, B))
    passed(metrics, a_pass(3, own=3, work=Work.RUN_AHEAD), commit(OWN, R))
    passed(metrics, a_pass(work=Work.RUN_AHEAD), NeedPrefix(1, 0), commit(AHEAD))
    done = StepDone(1, (Outcome((1,)), Outcome(failure="no")), positions=14, computed=16, pass_s=0.028, host_s=0.001)
    metrics.stepped(done, PassCost(0.028, 0.00015))
    metrics.refused(RefusalCode.RETRY_LATER)
    metrics.refused(RefusalCode.RETRY_LATER)
    metrics.evicted()
    metrics.replayed(17)
    metrics.engine_died()
    metrics.ended(Ended.STOP)
    metrics.watch(lambda: 0.75, lambda: 3.5, lambda: 2)
    metrics.lost_turns(3)
    metrics.placed(0.0)
    metrics.placed(1.5)
    with serve_metrics(metrics, LOCAL, 0) as port:
        samples = scrape(port)

    def read(name: str, **labels: str) -> float:
        return samples[f"airdraft:{name}", frozenset({("model_name", "demo"), *labels.items()})]

    assert read("spec_decode_num_drafts_total") == 3
    assert read("spec_decode_num_draft_tokens_total") == 9
    assert read("spec_decode_num_accepted_tokens_total") == 5
    drafted = [read("spec_decode_num_draft_tokens_per_pos_total", position=str(at)) for at in range(4)]
    assert drafted == [3, 3, 2, 1]
    accepted = [read("spec_decode_num_accepted_tokens_per_pos_total", position=str(at)) for at in range(2)]
    assert accepted == [3, 2]
    assert read("drafter_tokens_total", drafter="device") == 6
    assert read("drafter_tokens_total", drafter="edge") == 3
    origins = {origin: read("committed_tokens_total", origin=origin.name.lower()) for origin in Origin}
    assert origins == {A: 4, R: 2, B: 1, AHEAD: 2, OWN: 1, Origin.MEANING: 0}
    assert read("generation_tokens_total") == 10
    assert read("prompt_tokens_total") == 12
    assert read("prefix_cache_queries_total") == 12
    assert read("prefix_cache_hits_total") == 8
    assert read("num_requests_running") == 2
    assert read("num_requests_waiting") == 3
    assert (read("sessions"), read("streams"), read("kv_rows"), read("kv_prefix_rows")) == (5, 4, 400, 0)
    assert read("kv_cache_usage_perc") == 0.25
    assert read("passes_total") == 1
    assert (read("pass_positions_total"), read("pass_computed_positions_total")) == (14, 16)
    assert read("pass_failures_total") == 1
    assert {work: read("session_passes_total", work=work.name.lower()) for work in Work} == {
        Work.VERIFY: 2,
        Work.DECODE: 0,
        Work.PREFILL: 1,
        Work.RUN_AHEAD: 2,
    }
    assert read("session_positions_total", work="verify") == 5 + 3
    assert read("session_positions_total", work="run_ahead") == 4 + 1
    assert read("near_ties_total") == 2
    assert read("queue_seconds_count") == 5
    assert read("queue_seconds_sum") == pytest.approx(0.015)
    assert read("pass_seconds_bucket", le="0.02") == 0
    assert read("pass_seconds_bucket", le="0.03") == 1
    assert read("host_seconds_sum") == 0.001
    assert read("time_to_first_token_seconds_sum") == 0.25
    assert read("cost_line_fixed_seconds") == 0.028
    assert read("cost_line_per_position_seconds") == 0.00015
    assert read("refusals_total", code="retry_later") == 2
    assert read("refusals_total", code="draining") == 0
    assert read("request_success_total", finished_reason="stop") == 1
    assert (read("utilisation"), read("edge_second_price")) == (0.75, 3.5)
    assert (read("admission_waiting"), read("admission_lost_turns_total")) == (2, 3)
    assert (read("admission_seconds_bucket", le="0.0"), read("admission_seconds_sum")) == (1, 1.5)
    assert (read("evictions_total"), read("replayed_positions_total"), read("engine_restarts_total")) == (1, 17, 1)


def test_a_draft_of_which_nothing_matched_has_places_and_none_accepted() -> None:
    metrics = EdgeMetrics("demo")
    passed(metrics, a_pass(3), commit(R))
    assert value(metrics, "spec_decode_num_accepted_tokens_total") == 0
    assert value(metrics, "spec_decode_num_draft_tokens_per_pos_total", position="2") == 1
    assert value(metrics, "spec_decode_num_accepted_tokens_per_pos_total", position="0") is None


def test_a_pass_that_committed_nothing_is_no_draft_verified() -> None:
    """Its stream was superseded while it was at work: positions were spent, and nothing was judged."""
    metrics = EdgeMetrics("demo")
    passed(metrics, a_pass(3))
    assert value(metrics, "spec_decode_num_drafts_total") == 0
    assert value(metrics, "session_positions_total", work="verify") == 4


@pytest.mark.parametrize(
    ("nodes", "parents", "depth"),
    [
        (0, None, 0),
        (5, None, 5),
        (3, (-1, 0, 0, 0), 1),  # one committed row, then three siblings
        (4, (-1, 0, 0, 1, 3), 3),
        (1, (-1, 0, 1, 2), 1),  # three committed rows before the only node
        (2, (-1, 0, 1, 1), 1),
    ],
)
def test_the_depth_of_a_draft(nodes: int, parents: tuple[int, ...] | None, depth: int) -> None:
    tokens = 1 + nodes if parents is None else len(parents)
    work = Pass(1, 10, b"h" * 8, Span(9, (1,) * tokens, parents), Sampling(), 3, nodes, range(10))
    assert draft_depth(work) == depth


@given(st.lists(st.integers(1, 70), max_size=30))
def test_a_counter_by_position_counts_at_every_place_before_the_end(ends: list[int]) -> None:
    counter = PositionCounter("places", "…")
    for end in ends:
        counter.add(end)
    registry = CollectorRegistry()
    registry.register(counter)
    counted = [registry.get_sample_value("places_total", {"position": str(place)}) for place in range(71)]
    assert counted == [sum(end > place for end in ends) or None for place in range(71)]


def test_tokens_accepted_by_meaning_are_accepted_and_counted_apart() -> None:
    metrics = EdgeMetrics()
    passed(metrics, a_pass(4), commit(A, Origin.MEANING, A, R))
    assert value(metrics, "spec_decode_num_accepted_tokens_total") == 3
    assert value(metrics, "committed_tokens_total", origin="meaning") == 1
    metrics.meaning.accepted((0.01, 0.25))
    assert value(metrics, "meaning_risk_total") == pytest.approx(0.26)


def test_a_result_that_waited_is_counted_when_it_is_committed() -> None:
    metrics, held = EdgeMetrics(), a_pass(2)
    passed(metrics, held)
    assert value(metrics, "spec_decode_num_drafts_total") == 0
    metrics.committed(held, [commit(A, R)])
    assert value(metrics, "spec_decode_num_drafts_total") == 1
    assert value(metrics, "spec_decode_num_accepted_tokens_total") == 1
    assert value(metrics, "session_passes_total", work="verify") == 1


def test_the_docs_name_every_metric_and_no_other() -> None:
    """With their kinds and labels: what the table says is what a scrape shows."""
    metrics = EdgeMetrics("demo")
    passed(metrics, a_pass(1), commit(A, B))
    shown = set()
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        labels = {name for sample in family.samples for name in sample.labels} - {"model_name", "le"}
        suffix = "_total" if family.type == "counter" else ""
        shown.add((family.name + suffix, family.type, *labels))
    rows = re.findall(
        r"^\| `(airdraft:\w+)` \| (\w+)(?:, `(\w+)`)? \|", NAMES.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {tuple(filter(None, row)) for row in rows} == shown
    assert len(rows) == len(shown)


def test_every_sample_names_the_model_even_one_known_late() -> None:
    metrics = EdgeMetrics()
    metrics.admitted(3)
    metrics.model_name = "late"
    passed(metrics, a_pass(1), commit(A, B))
    families = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    assert {sample.labels["model_name"] for family in families for sample in family.samples} == {"late"}
    assert value(metrics, "prompt_tokens_total") == 3


def test_two_edges_in_one_process_count_apart() -> None:
    one, other = EdgeMetrics("one"), EdgeMetrics("other")
    one.admitted(3)
    assert (value(one, "prompt_tokens_total"), value(other, "prompt_tokens_total")) == (3, 0)


def test_every_stop_is_a_reason() -> None:
    assert [Ended.of(stop) for stop in (None, *StopReason)] == [Ended.ABORT, Ended.STOP, Ended.LENGTH]


def test_an_edge_without_a_pool_uses_none_of_it() -> None:
    metrics = EdgeMetrics("demo")
    metrics.occupied(Occupancy())
    assert value(metrics, "kv_cache_usage_perc") == 0


# ---- the port ----


def test_probes_follow_the_edges_life() -> None:
    metrics = EdgeMetrics("demo")
    with serve_metrics(metrics, LOCAL, 0) as port:
        assert ask(port, "/health") == ask(port, "/readyz") == (503, "loading\n")
        metrics.health = "serving"
        assert ask(port, "/health") == ask(port, "/readyz") == (200, "serving\n")
        assert ask(port, "/health", "HEAD") == (200, "")
        metrics.health = "draining"
        assert ask(port, "/health") == (503, "draining\n")
        assert ask(port, "/livez") == (200, "alive\n")
        assert ask(port, "/metrics")[0] == 200
        assert ask(port, "/") == (404, "here are /metrics, /health, /readyz and /livez\n")


def test_a_taken_port_is_one_clear_error_and_free_again_afterwards() -> None:
    with serve_metrics(EdgeMetrics("one"), LOCAL, 0) as port:
        with pytest.raises(MetricsPortTaken, match=rf"127\.0\.0\.1:{port}, .*; choose another --metrics-port"):
            serving(EdgeMetrics("other"), port)
        assert ask(port, "/livez")[0] == 200
    with serve_metrics(EdgeMetrics("other"), LOCAL, port) as again:
        assert again == port
        assert ask(again, "/livez")[0] == 200


def serving(metrics: EdgeMetrics, port: int, host: str = LOCAL) -> None:
    with serve_metrics(metrics, host, port):
        pass


def test_an_address_of_another_machine_is_the_same_error() -> None:
    with pytest.raises(MetricsPortTaken, match="choose another"):
        serving(EdgeMetrics("demo"), 0, host="192.0.2.1")


def test_an_address_in_brackets_is_one_of_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serve_metrics(EdgeMetrics("demo"), "[::1]", 0) as port:
        assert ask(port, "/livez", host="::1")[0] == 200


def test_a_client_that_says_nothing_holds_nobody_up() -> None:
    with ExitStack() as held:
        with serve_metrics(EdgeMetrics("demo"), LOCAL, 0) as port:
            held.enter_context(socket.create_connection((LOCAL, port)))
            assert ask(port, "/metrics")[0] == 200
        with serve_metrics(EdgeMetrics("demo"), LOCAL, port) as again:
            assert ask(again, "/livez")[0] == 200


def test_the_thread_ends_with_the_block() -> None:
    def at_it() -> bool:
        return any(thread.name == "metrics" for thread in threading.enumerate())

    with serve_metrics(EdgeMetrics("demo"), LOCAL, 0):
        assert at_it()
    assert not at_it()


@contextmanager
def at_work(metrics: EdgeMetrics) -> Iterator[None]:
    """Count on another thread as long as the block lasts."""
    enough = threading.Event()

    def work() -> None:
        nodes = 0
        while not enough.is_set():
            nodes = nodes % 64 + 1
            passed(metrics, a_pass(nodes), commit(*[A] * nodes, B))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_a_scrape_among_events_is_whole() -> None:
    metrics = EdgeMetrics("demo")
    with serve_metrics(metrics, LOCAL, 0) as port, at_work(metrics):
        for _ in range(20):
            samples = scrape(port)
            places = [count for (name, _), count in samples.items() if name.endswith("accepted_tokens_per_pos_total")]
            assert places == sorted(places, reverse=True)
