"""What the bench asks of a device process, and what it gets back: one text an order. Free of torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from airdraft.core.types import Plan

MAX_TOKENS = 96
"""More than any answer to a word problem has; a text that reaches it ends there, in every schedule."""

NOISE_SEED = 20260
"""Of the noisy copies, at either end: which paths they err at."""

NOBODY_DRAFTS = Plan(0)


@dataclass(frozen=True, slots=True)
class TextOrder:
    """One text to be written over a link."""

    edge: str  # where to connect: a relay
    prompt: str
    drafter: str = "none"  # none, demo, or noisy:ACCEPTANCE
    plan: Plan = NOBODY_DRAFTS
    draft_s: float | None = None  # a drafted token; None is the drafter's own pace
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = MAX_TOKENS
    max_loss: float = 0.0  # above it the text may be accepted by meaning, with this cap
    hidden: str = "target-only"  # which states go up then: a name of ``device_client.meaning.HIDDEN``
    state_width: int = 0  # to which states are filled up with zeros; 0: as the drafter's are
    channel: tuple[float, float] | None = None  # round trip in s and bytes/s up, as the device tells them then
    objective: str = ""  # of coordinator.policy.plan: the device plans by it, and ``plan`` counts for nothing
    memory: str = ""  # what a device that plans has learnt before, as a text brought it (``bench.planner_memory``)


@dataclass(frozen=True, slots=True)
class MatchOrder:
    """The question which tokens of an answer the drafter would have written, given all before them."""

    prompt: str
    answer: tuple[int, ...]
    drafter: str
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Matches:
    """The answer to a ``MatchOrder``: what a simulator and the bound need of a text."""

    prompt: tuple[int, ...]
    matched: tuple[bool, ...]  # one a token of the answer
    stop_ids: tuple[int, ...]


@dataclass(slots=True)
class Text:
    """One text as the device saw it; seconds count from the prompt's sending."""

    ids: list[int] = field(default_factory=list)  # the answer
    arrivals_s: list[float] = field(default_factory=list)  # of each commit
    commit_tokens: list[int] = field(default_factory=list)  # of each commit
    bytes_up: int = 0  # protobuf messages
    bytes_down: int = 0
    draft_s: float = 0.0  # the device's drafter at work
    pass_s: float = 0.0  # of the edge's passes that committed something, its own drafts included
    drafted: int = 0
    accepted: int = 0
    reattached: int = 0
    draft_late_s: list[float] = field(default_factory=list)  # by which paced steps ended late
    pass_late_s: list[float] = field(default_factory=list)  # the edge's; filled in by who asks the edge
    edge_s: float = 0.0  # for which the edge's models were at work, whatever came of it; filled in likewise
    link_bytes: tuple[int, int] = (0, 0)  # up and down on the link, connection and gRPC's framing included
    runs: int = 1  # how often it was written until the pace held
    memory: str = ""  # what a device that plans knows at its end
    plan: str = ""  # the one that it ended by
    meant: int = 0  # tokens accepted by meaning
    granted: float = 0.0  # the cap that the edge granted

    @property
    def seconds(self) -> float:
        """Return the time from the first commit shown to the last one."""
        return self.arrivals_s[-1] - self.arrivals_s[0]

    @property
    def timed_tokens(self) -> int:
        """Return the tokens that these seconds brought."""
        return len(self.ids) - self.commit_tokens[0]

    @property
    def s_per_token(self) -> float:
        """Return the seconds that each of these tokens took."""
        return self.seconds / self.timed_tokens


Order = TextOrder | MatchOrder


def order_line(order: Order) -> str:
    """Return an order as a line."""
    return json.dumps({"order": type(order).__name__, **asdict(order)}) + "\n"


def order_of(line: str) -> Order:
    """Return the order of a line."""
    content: dict[str, Any] = json.loads(line)
    if content.pop("order") == MatchOrder.__name__:
        return MatchOrder(**content | {"answer": tuple(content["answer"])})
    return TextOrder(**content | {"plan": Plan(**content["plan"])})


def answer_line(answer: Text | Matches) -> str:
    """Return an answer as a line."""
    return json.dumps(asdict(answer))


def text_of(line: str) -> Text:
    """Return the text of a line."""
    content: dict[str, Any] = json.loads(line)
    return Text(**content | {"link_bytes": tuple(content["link_bytes"])})


def matches_of(line: str) -> Matches:
    """Return the matches of a line."""
    content: dict[str, Any] = json.loads(line)
    return Matches(**{name: tuple(values) for name, values in content.items()})
