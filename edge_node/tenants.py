"""What each tenant uses of this edge, and how much it may: streams, attaches, prefill, positions, and reading.

A tenant is a name that a credential gave; what it may use is its credential's allowance, and where that says nothing,
the edge's. Nobody has to say who they are on an edge without authentication: all of them are the tenant "", which is no
tenant of its own, so that neither a bound on streams nor one on attaches a second holds for it.

A tenant of whom nothing is left to know, without a stream and with every bucket full, is forgotten: it begins anew as
it was. So the table holds those that were here lately, and never more than ``MOST_TENANTS``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from airdraft.core.callers import EVERYBODY, Allowance, Caller
from airdraft.core.errors import LimitReached
from airdraft.core.limits import TokenBucket

MOST_TENANTS = 4096

BURST_S = 2.0
"""So many seconds of an allowance may be used at once."""

OPENS_S, OPENS_BURST = 16.0, 64.0
"""Streams that a tenant may open a second, and at once: phones that come out of a tunnel, not a loop that opens."""

STREAMS = 64
"""Streams of a tenant at once where neither its credential nor the operator says."""

FRAME_S, ID_S = 150e-6, 6e-6
"""About what it takes to read a frame and act on it, and for each of its ids: a path hash, mostly."""

READING_SHARE, LEAST_READING, READING_BURST_S = 0.5, 0.02, 0.05
"""Of the time, what all tenants together may have this process read; the least for each; and seconds of it at once."""

OPEN_S = 1e-3
"""About what a stream takes to open, be it refused."""

LEAST_HOLD_S, MOST_HOLD_S = 0.5, 5.0
"""How long a stream that is one too many is held before it is told so, in its own slot of the connection."""

SPEAKING_S = 1.0
"""A tenant counts among those that speak for so long after a frame."""

_COUNTED_S = 0.25

_LOOKED_AT = 4
"""Tenants that are looked at whenever a new one comes: were all forgettable, the table would shrink."""


@dataclass(slots=True, eq=False)
class Tenant:
    """One tenant's use of this edge; None for a bucket sets no bound."""

    name: str
    allowance: Allowance
    positions: TokenBucket | None = None
    prefill: TokenBucket | None = None
    opens: TokenBucket | None = None
    reading: TokenBucket = field(default_factory=lambda: TokenBucket(READING_SHARE, READING_BURST_S))  # seconds
    streams: int = 0
    spoke_s: float = -math.inf

    def forgettable(self, now_s: float) -> bool:
        """Return whether a new entry would say the same."""
        buckets = (self.positions, self.prefill, self.opens, self.reading)
        return not self.streams and all(bucket is None or bucket.full(now_s) for bucket in buckets)

    def may_prefill(self, now_s: float) -> None:
        """Raise LimitReached while earlier prompts and replays of this tenant are not paid for."""
        wait_s = 0.0 if self.prefill is None else self.prefill.wait_s(now_s)
        if wait_s > 0:
            raise LimitReached(
                f"this tenant's {self.allowance.prefill_s:g} positions a second of prompts and replays are used up; "
                f"try again in {wait_s:.1f} s",
                retry_after_s=wait_s,
            )

    def prefills(self, positions: int, now_s: float) -> None:
        """Charge a prompt or a replay, whole."""
        if self.prefill is not None and positions > 0:
            self.prefill.charge(positions, now_s)

    def found(self, positions: int, now_s: float) -> None:
        """Give back what need not be computed: the cache had it."""
        if self.prefill is not None:
            self.prefill.give(positions, now_s)


class Tenants:
    """The tenants that are or were here."""

    def __init__(
        self,
        allowance: Allowance | None = None,
        *,
        opens_s: float = OPENS_S,
        opens_burst: float = OPENS_BURST,
        most: int = MOST_TENANTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nobody; ``allowance`` is that of whoever has none, ``most`` how many are known at once."""
        self._allowance = Allowance(streams=STREAMS) if allowance is None else allowance
        self._most, self._clock = most, clock
        self._opens_s, self._opens_burst = opens_s, opens_burst
        self._tenants: dict[str, Tenant] = {}
        self._speaking, self._counted_s = 0, -math.inf

    def __len__(self) -> int:
        return len(self._tenants)

    def get(self, name: str) -> Tenant | None:
        """Return a tenant that is known; None for one that was forgotten, and uses nothing."""
        return self._tenants.get(name)

    def of(self, caller: Caller) -> Tenant:
        """Return a caller's tenant, with the allowance of the latest credential. Raises LimitReached, past ``most``."""
        tenant = self._tenants.pop(caller.tenant, None) or self._new(caller.tenant)
        self._tenants[caller.tenant] = tenant
        allowance = self._allowed(caller)
        if tenant.allowance != allowance:
            tenant.allowance = allowance
            tenant.positions = _bucket(tenant.positions, allowance.positions_s)
            tenant.prefill = _bucket(tenant.prefill, allowance.prefill_s)
        return tenant

    @contextmanager
    def stream(self, caller: Caller) -> Iterator[Tenant]:
        """Count a stream of a caller as long as the block lasts. Raises LimitReached where it is one too many."""
        tenant, now_s = self.of(caller), self._clock()
        self._works(tenant, OPEN_S)
        most = tenant.allowance.streams
        if most and tenant.streams >= most:
            raise LimitReached(f"this tenant has {most} streams open, as many as it may", retry_after_s=1.0)
        wait_s = 0.0 if tenant.opens is None else tenant.opens.take(1, now_s)
        if wait_s > 0:
            raise LimitReached(
                f"this tenant opens more than {self._opens_s:g} streams a second", retry_after_s=max(1.0, wait_s)
            )
        tenant.streams += 1
        try:
            yield tenant
        finally:
            tenant.streams -= 1

    def reads(self, tenant: Tenant, ids: int) -> float:
        """Charge a tenant for a frame with so many ids; return for how long to put it off, and the stream's next ones.

        One process reads for all. A tenant that is alone may keep it busy, and one of several no more than its share:
        what it says beyond waits in its own buffers.
        """
        self._works(tenant, FRAME_S + ids * ID_S)
        return 0.0 if self._alone(tenant) else tenant.reading.wait_s(self._clock())

    def hold_s(self, caller: Caller) -> float:
        """Return how long to hold a stream that was refused: the longer, the more this tenant gives to do."""
        tenant = self.get(caller.tenant)
        busy_s = 0.0 if tenant is None else tenant.reading.wait_s(self._clock())
        return min(MOST_HOLD_S, max(LEAST_HOLD_S, busy_s))

    def _alone(self, tenant: Tenant) -> bool:
        return self._speaking < 2 or tenant.name == EVERYBODY.tenant

    def _works(self, tenant: Tenant, seconds: float) -> None:
        """Charge a tenant for work of this process, where it is not alone."""
        now_s = self._clock()
        tenant.spoke_s = now_s
        if now_s - self._counted_s >= _COUNTED_S:
            self._counted_s = now_s
            self._speaking = sum(now_s - one.spoke_s < SPEAKING_S for one in self._tenants.values())
        if not self._alone(tenant):
            tenant.reading.set(max(LEAST_READING, READING_SHARE / self._speaking), READING_BURST_S)
            tenant.reading.charge(seconds, now_s)

    def _allowed(self, caller: Caller) -> Allowance:
        own, edge = caller.allowance or Allowance(), self._allowance
        streams = own.streams or (0 if caller.tenant == EVERYBODY.tenant else edge.streams)
        return Allowance(
            own.positions_s or edge.positions_s, own.prefill_s or edge.prefill_s, own.sessions or edge.sessions, streams
        )

    def _new(self, name: str) -> Tenant:
        now_s = self._clock()
        for old in list(islice(self._tenants, _LOOKED_AT)):
            tenant = self._tenants.pop(old)
            if not tenant.forgettable(now_s):
                self._tenants[old] = tenant
        if len(self._tenants) >= self._most:
            raise LimitReached("this edge serves as many tenants as it can; try again soon", retry_after_s=1.0)
        opens = None if name == EVERYBODY.tenant else TokenBucket(self._opens_s, self._opens_burst)
        return Tenant(name, Allowance(), opens=opens)


def _bucket(bucket: TokenBucket | None, rate: float) -> TokenBucket | None:
    """Return the bucket of a new rate, with what the old one had been used."""
    if rate <= 0:
        return None
    burst = max(1.0, BURST_S * rate)
    if bucket is None:
        return TokenBucket(rate, burst)
    bucket.set(rate, burst)
    return bucket
