"""What an edge counts, for Prometheus to read; ``docs/metrics.md`` explains every name.

A registry of its own and nothing global: two edges in one process count apart. Names that vLLM and llama.cpp share keep
their suffix under our prefix. The service reports events; any thread may read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from airdraft.core.types import Commit, EdgeFrame, Origin, Pass, RefusalCode, StopReason, Timing, Work
from coordinator.policy.costs import PassCost
from edge_node.collectors import Labelled, PositionCounter
from edge_node.metrics_meaning import MeaningMetrics
from edge_node.metrics_port import pages, serving
from edge_node.step import StepDone

PREFIX = "airdraft:"
PASS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
HOST_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
QUEUE_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
ADMISSION_BUCKETS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)

Health = Literal["loading", "serving", "draining"]

_E = TypeVar("_E", bound=Enum)


class Ended(StrEnum):
    """Why a session is over; vLLM's words where it has them."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"  # the device stopped before the text had ended
    EXPIRED = "expired"  # the device was away for too long, or gave way to others
    ERROR = "error"

    @classmethod
    def of(cls, stop: StopReason | None) -> Ended:
        """Return the reason of a session that its device finished with this stop."""
        return {None: cls.ABORT, StopReason.STOP_TOKEN: cls.STOP, StopReason.MAX_TOKENS: cls.LENGTH}[stop]


class Drafter(StrEnum):
    """Who wrote a draft."""

    DEVICE = "device"
    EDGE = "edge"


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Who and what an edge holds right now."""

    running: int = 0  # sessions in the step at work
    waiting: int = 0  # sessions with work for the next one
    sessions: int = 0
    streams: int = 0
    kv_rows: int = 0  # of the whole pool
    kv_reserved_rows: int = 0  # of all sessions' extents
    kv_prefix_rows: int = 0  # of prefixes that ended sessions left


def draft_depth(work: Pass) -> int:
    """Return how many tokens of a pass's draft nodes lie on its longest path."""
    parents = work.span.parents
    if parents is None:
        return work.nodes
    first = len(work.span.tokens) - work.nodes
    depths: list[int] = []
    for parent in parents[first:]:
        depths.append(1 + (depths[parent - first] if parent >= first else 0))
    return max(depths, default=0)


class EdgeMetrics:
    """The counters of one edge; each method is an event in the service's words."""

    def __init__(self, model_name: str = "") -> None:
        """Begin at zero. ``model_name`` labels everything and may be set later, when the model is known."""
        self.model_name = model_name
        self.health: Health = "loading"
        self.registry = CollectorRegistry()
        self._own = CollectorRegistry()
        self.registry.register(Labelled(self._own, lambda: {"model_name": self.model_name}))
        self._count_speculation()
        self._count_passes()
        self._count_sessions()
        self._count_load()
        self._count_rows()
        self.meaning = MeaningMetrics(self._own, PREFIX)

    def _count_speculation(self) -> None:
        self._drafts = self._counter("spec_decode_num_drafts", "Drafts that a pass verified.")
        self._draft_tokens = self._counter("spec_decode_num_draft_tokens", "Draft tokens that a pass verified.")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Draft tokens that became text.")
        self._accepted_at = self._by_position(
            "spec_decode_num_accepted_tokens_per_pos", "Drafts of which the token at this place became text."
        )
        self._drafted_at = self._by_position(
            "spec_decode_num_draft_tokens_per_pos", "Drafts that had a token at this place."
        )
        self._by_drafter = self._counters("drafter_tokens", "Draft tokens by who wrote them.", "drafter", Drafter)
        self._by_origin = self._counters("committed_tokens", "Committed tokens by their origin.", "origin", Origin)

    def _count_passes(self) -> None:
        self._passes = self._counter("passes", "Forward passes of the target.")
        self._positions = self._counter("pass_positions", "Positions that passes were asked for.")
        self._computed = self._counter("pass_computed_positions", "Positions that passes computed, with padding.")
        self._session_passes = self._counters("session_passes", "Sessions' parts of passes, by work.", "work", Work)
        self._work_positions = self._counters("session_positions", "Positions of those parts, by work.", "work", Work)
        self._failures = self._counter("pass_failures", "Sessions' parts of passes that failed.")
        self._isolation = self._counter("isolation_faults", "Parts and copies refused: the rows were not their own.")
        self._near_ties = self._counter("near_ties", "Choices of the target that rounding could have turned.")
        self._pass_s = self._histogram("pass_seconds", "The model and the choice of tokens, a pass.", PASS_BUCKETS)
        self._host_s = self._histogram("host_seconds", "All else in the engine, a pass.", HOST_BUCKETS)
        self._queue_s = self._histogram("queue_seconds", "A session's wait for its pass.", QUEUE_BUCKETS)
        self._fixed_s = self._gauge("cost_line_fixed_seconds", "A pass of one position, as quoted.")
        self._per_position_s = self._gauge("cost_line_per_position_seconds", "Each further position, as quoted.")
        self._restarts = self._counter("engine_restarts", "Engine processes that died and were replaced.")

    def _count_sessions(self) -> None:
        self._running = self._gauge("num_requests_running", "Sessions in the step at work.")
        self._waiting = self._gauge("num_requests_waiting", "Sessions with work for the next step.")
        self._sessions = self._gauge("sessions", "Sessions held, with and without a device.")
        self._streams = self._gauge("streams", "Streams attached.")
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of admitted sessions.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens committed.")
        self._first_token_s = self._histogram(
            "time_to_first_token_seconds", "From Open to the first commit.", FIRST_TOKEN_BUCKETS
        )
        self._ended = self._counters("request_success", "Sessions that are over, by reason.", "finished_reason", Ended)
        self._refusals = self._counters("refusals", "Refusals, by code.", "code", RefusalCode)

    def _count_load(self) -> None:
        self._utilisation = self._gauge("utilisation", "Share of the time that the engine was at work, lately.")
        self._price = self._gauge("edge_second_price", "Users' seconds that a second of the engine costs, as quoted.")
        self._turns = self._gauge("admission_waiting", "Devices that wait for a place.")
        self._lost_turns = self._counter("admission_lost_turns", "Turns of devices that did not come back.")
        self._admission_s = self._histogram(
            "admission_seconds", "From a new session's first attempt to its place.", ADMISSION_BUCKETS
        )

    def _count_rows(self) -> None:
        self._kv_usage = self._gauge("kv_cache_usage_perc", "Reserved share of the KV pool; 1 is all of it.")
        self._kv_rows = self._gauge("kv_rows", "Rows of the KV pool.")
        self._prefix_rows = self._gauge("kv_prefix_rows", "Rows of prefixes that ended sessions left.")
        self._prefix_queries = self._counter("prefix_cache_queries", "Tokens looked up in the prefix cache.")
        self._prefix_hits = self._counter("prefix_cache_hits", "Tokens found there.")
        self._evictions = self._counter("evictions", "Sessions that lost their rows to others.")
        self._replayed = self._counter("replayed_positions", "Positions computed again after an eviction.")

    # ---- passes ----

    def stepped(self, done: StepDone, cost: PassCost | None = None) -> None:
        """Count a step, and show the cost line that is quoted from now on."""
        self._passes.inc()
        self._positions.inc(done.positions)
        self._computed.inc(done.computed)
        self._pass_s.observe(done.pass_s)
        self._host_s.observe(done.host_s)
        failures = sum(1 for outcome in done.outcomes if outcome.failure)
        if failures:
            self._failures.inc(failures)
        if done.isolation_faults:
            self._isolation.inc(done.isolation_faults)
        if cost is not None:
            self._fixed_s.set(cost.fixed_s)
            self._per_position_s.set(cost.per_position_s)

    def passed(self, work: Pass, timing: Timing, frames: Sequence[EdgeFrame], *, near_ties: Sequence[int]) -> None:
        """Count a session's part of a step: its positions, its wait, and what the frames that came of it commit.

        ``near_ties`` are the indices of the target's choices that rounding could have turned.
        """
        self._session_passes[work.work].inc()
        self._work_positions[work.work].inc(len(work.span.tokens))
        self._queue_s.observe(timing.queue_s)
        if near_ties:
            self._near_ties.inc(len(near_ties))
        self.committed(work, frames)

    def committed(self, work: Pass | None, frames: Sequence[EdgeFrame]) -> None:
        """Count what frames commit, of a pass's outcome or of tokens that were held back (None)."""
        for frame in frames:
            if isinstance(frame, Commit):
                self._committed(work, frame.origins)

    def _committed(self, work: Pass | None, origins: Sequence[Origin]) -> None:
        self._generation_tokens.inc(len(origins))
        for origin, counter in self._by_origin.items():
            if count := origins.count(origin):
                counter.inc(count)
        if work is None or not work.nodes:
            return
        self._drafts.inc()
        self._draft_tokens.inc(work.nodes)
        self._by_drafter[Drafter.EDGE].inc(work.own)
        self._by_drafter[Drafter.DEVICE].inc(work.nodes - work.own)
        self._drafted_at.add(draft_depth(work))
        accepted = sum(origins.count(origin) for origin in (Origin.ACCEPTED, Origin.MEANING, Origin.EDGE_DRAFT))
        if accepted:
            self._accepted.inc(accepted)
            self._accepted_at.add(accepted)

    def engine_died(self) -> None:
        """Count an engine that died; another one takes its place."""
        self._restarts.inc()

    # ---- sessions ----

    def admitted(self, prompt_tokens: int) -> None:
        """Count a new session."""
        self._prompt_tokens.inc(prompt_tokens)

    def refused(self, code: RefusalCode) -> None:
        """Count a refusal, whether or not it ended a stream."""
        self._refusals[code].inc()

    def first_token(self, waited_s: float) -> None:
        """Take the seconds from a new session's Open to its first commit."""
        self._first_token_s.observe(waited_s)

    def ended(self, reason: Ended) -> None:
        """Count a session that is forgotten."""
        self._ended[reason].inc()

    def occupied(self, now: Occupancy) -> None:
        """Show whom and what the edge holds from now on."""
        self._running.set(now.running)
        self._waiting.set(now.waiting)
        self._sessions.set(now.sessions)
        self._streams.set(now.streams)
        self._kv_rows.set(now.kv_rows)
        self._kv_usage.set(now.kv_reserved_rows / now.kv_rows if now.kv_rows else 0.0)
        self._prefix_rows.set(now.kv_prefix_rows)

    # ---- load ----

    def watch(self, utilisation: Callable[[], float], price: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Show what these return whenever somebody looks, on whichever thread; ``waiting`` counts turns for a place."""
        self._utilisation.set_function(utilisation)
        self._price.set_function(price)
        self._turns.set_function(waiting)

    def lost_turns(self, devices: int) -> None:
        """Count devices that did not come back for their place."""
        self._lost_turns.inc(devices)

    def placed(self, waited_s: float) -> None:
        """Take how long a new session's device waited for its place; 0 where it was there at once."""
        self._admission_s.observe(waited_s)

    # ---- rows ----

    def prefix_looked_up(self, tokens: int, found: int) -> None:
        """Count a text of ``tokens`` of which the prefix cache held the first ``found``."""
        self._prefix_queries.inc(tokens)
        self._prefix_hits.inc(found)

    def evicted(self) -> None:
        """Count a session that lost its rows."""
        self._evictions.inc()

    def replayed(self, positions: int) -> None:
        """Count positions that are computed again."""
        self._replayed.inc(positions)

    # ---- kinds of metrics ----

    def _counter(self, name: str, says: str) -> Counter:
        return Counter(PREFIX + name, says, registry=self._own)

    def _counters(self, name: str, says: str, label: str, members: type[_E]) -> dict[_E, Counter]:
        family = Counter(PREFIX + name, says, [label], registry=self._own)
        return {member: family.labels(member.name.lower()) for member in members}

    def _gauge(self, name: str, says: str) -> Gauge:
        return Gauge(PREFIX + name, says, registry=self._own)

    def _histogram(self, name: str, says: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(PREFIX + name, says, buckets=buckets, registry=self._own)

    def _by_position(self, name: str, says: str) -> PositionCounter:
        counter = PositionCounter(PREFIX + name, says)
        self._own.register(counter)
        return counter


@contextmanager
def serve_metrics(metrics: EdgeMetrics, host: str, port: int) -> Iterator[int]:
    """Serve an edge's ``/metrics`` and probes as long as the block lasts; give the port, a free one where it is 0.

    ``/health`` and ``/readyz`` answer 200 while the edge is serving and 503 else, ``/livez`` 200 always.
    Raises MetricsPortTaken.
    """
    with serving(pages(metrics.registry, lambda: metrics.health), host, port) as bound:
        yield bound
