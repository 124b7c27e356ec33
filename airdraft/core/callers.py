"""Who calls, and what of an edge is theirs to use: values that authentication makes and everything behind it reads.

How a caller is known is ``airdraft.identity``'s business; how a call without one is turned away, ``airdraft.wire``'s.
A *tenant* is whoever limits, fairness, receipts and cached prefixes are counted by: one household, one company.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Scope(StrEnum):
    """What a credential may be used for; a method of a service needs one of them, or nobody may call it."""

    DESCRIBE = "describe"  # what an edge serves
    GENERATE = "generate"  # sessions
    HEALTH = "health"  # probes
    REFLECT = "reflect"  # which services there are


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a tenant may use of one edge; 0 sets no limit of its own."""

    positions_s: float = 0.0  # positions a second, of passes that verify or decode
    prefill_s: float = 0.0  # positions a second, of prefill and of replays that a device brought about
    sessions: int = 0  # held at once
    streams: int = 0  # open at once


@dataclass(frozen=True, slots=True)
class Caller:
    """One who was let in."""

    tenant: str
    scopes: frozenset[Scope] = frozenset(Scope)
    allowance: Allowance | None = None  # None: the edge's own for everybody
    until_s: float = math.inf  # seconds since 1970, by the clock of the edge: when the credential ends


EVERYBODY = Caller("")
"""Who calls where nobody has to say who they are: on loopback, or with ``--insecure``."""


class Gatekeeper(Protocol):
    """Tells callers by what they present."""

    def admit(self, bearer: str, certificate: bytes) -> Caller:
        """Return who presents this bearer credential over a connection with this client certificate.

        bearer       what follows ``Bearer`` in the call's ``authorization``; empty where there was none
        certificate  PEM, verified by TLS; empty where the client showed none

        Raises Unauthenticated, whose text does not tell which of a credential's parts was wrong.
        """
        ...
