"""One cell of a comparison: a schedule on a link with two models of stated cost, and what was measured there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from coordinator.policy.costs import PassCost, RoundCost


@dataclass(frozen=True, slots=True)
class Link:
    """An emulated link; a channel's name, where given, stands for rate, delay and jitter of both directions."""

    round_trip_s: float = 0.0
    jitter_s: float = 0.0  # one way, largest
    up_bytes_s: float = math.inf
    down_bytes_s: float = math.inf
    channel: str | None = None  # of airdraft.link.channels.CHANNELS, or a recording's path
    channel_seed: int = 1


PASS = PassCost(0.030, 0.0003)
"""The pass of the paced setting: 30 ms, 1 % more for each further position."""


DEMO_ACCEPTANCE = 0.8
"""Of the demo pair on its word problems, greedy."""


@dataclass(frozen=True, slots=True)
class Models:
    """What the two models cost and how well the drafter drafts; paced unless ``target`` is None."""

    drafter: str = "demo"  # of models/, or "noisy:0.8": a noisy copy of the target with this acceptance
    draft_s: float = 0.008  # a drafted token
    target: PassCost | None = PASS  # a pass; None is the model's own pace
    temperature: float = 0.0
    vocabulary: int = 819  # ids of the tokenizer: what a row of the target's takes

    @property
    def acceptance(self) -> float:
        """Return the acceptance to expect: the noisy copy's setting, or what the demo pair's texts have."""
        return float(self.drafter.removeprefix("noisy:")) if self.drafter.startswith("noisy:") else DEMO_ACCEPTANCE


@dataclass(frozen=True, slots=True)
class Cell:
    """Everything that a measurement or a simulation needs to know but the prompts and their seeds."""

    schedule: str  # of bench.schedules.SCHEDULES
    draft_length: int
    link: Link = Link()
    models: Models = Models()
    # Of a frame where several fly. One: every token leaves when it is drafted, none waits for company.
    frame_tokens: int = 1

    @property
    def cost(self) -> RoundCost:
        """Return the cell's costs for the models of DESIGN §3B, with the acceptance to expect."""
        assert self.models.target is not None
        return RoundCost(self.link.round_trip_s, self.models.draft_s, self.models.target, self.models.acceptance)


@dataclass(slots=True)
class Measured:
    """What one cell came to; lists run over the same prompts and seeds in every schedule."""

    cell: Cell
    tokens: list[int] = field(default_factory=list)  # a text
    seconds: list[float] = field(default_factory=list)  # a text, from its first committed token to its last
    first_token_s: list[float] = field(default_factory=list)  # a text, from the prompt sent to the first token shown
    arrivals_s: list[list[float]] = field(default_factory=list)  # a text: when each commit was shown, from its start
    bytes_up: int = 0
    bytes_down: int = 0
    draft_s: float = 0.0  # device seconds of drafting
    pass_s: float = 0.0  # edge seconds, its own drafting included
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Return tokens after the first of each text, over the seconds that they took: start-up is not in it."""
        return sum(count - 1 for count in self.tokens) / sum(self.seconds)

    @property
    def s_per_token(self) -> float:
        """Return the inverse of ``tokens_per_s``."""
        return 1 / self.tokens_per_s
