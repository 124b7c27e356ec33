"""Who is compared in ``bench semantic``: ways to judge a draft, and what each sends up for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from airdraft.core.meaning import RULES, Rule
from airdraft.core.meaning.rules import KlJudge, LookAhead, Typical
from airdraft.core.types import HiddenProtocol

HeadKind = Literal["", "target-only", "full", "full-no-channel"]
"""Which of a drafter's heads; none for rules without training."""

MAX_LOSS = 0.0075
"""The cap that every semantic session asks for: ``--max-quality-loss 0.0075``."""

LENGTHS = (16, 24)
"""Draft lengths of the figures; the paper has 10 to 64."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to judge drafts that are not the target's own choice."""

    about: str
    label: str
    rule: str = ""  # of RULES; empty is exact
    protocol: HiddenProtocol = HiddenProtocol.TARGET_ONLY
    head: HeadKind = ""
    tells_q: bool = False


CONTESTANTS: dict[str, Contestant] = {
    "exact": Contestant(
        "greedy speculative decoding: a drafted token stands where it is the target's own", "greedy SD"
    ),
    "typical": Contestant("Medusa's typical acceptance (arXiv 2401.10774)", "typical", "typical"),
    "kl_judge": Contestant(
        "JuDi (arXiv 2601.04766): strict where the target is sure, else by KL(p‖q); q goes up",
        "KL judge",
        "kl-judge",
        tells_q=True,
    ),
    "look_ahead": Contestant(
        "FLy (arXiv 2511.22972): the target agrees again after the mismatch", "look-ahead", "look-ahead"
    ),
    "full_hidden": Contestant(
        "WISV (arXiv 2604.17701): every state goes up with the draft",
        "full-hidden (WISV)",
        "head",
        HiddenProtocol.FULL_HIDDEN,
        "full",
    ),
    "mismatch_first": Contestant(
        "WISV's selective upload: states of mismatches, when the edge asks",
        "mismatch-first (WISV)",
        "head",
        HiddenProtocol.MISMATCH_FIRST,
        "full",
    ),
    "target_only": Contestant(
        "ours: the target's own state tells, nothing more goes up", "target-only (ours)", "head", head="target-only"
    ),
}
"""By the name in the figures. Rejection sampling is not of a session's rules: ``bench.semantic_rejection``."""

WITH_BARS = ("exact", "full_hidden", "mismatch_first", "target_only")
UNTRAINED = ("typical", "kl_judge", "look_ahead")


@dataclass(frozen=True, slots=True)
class Channel:
    """The link that sessions report; off the wire it only tells heads and prices."""

    round_trip_s: float = 0.05
    up_bytes_s: float = 20e6 / 8


MIDDLING = Channel()


@dataclass(frozen=True, slots=True)
class Setting:
    """How one text of a problem is written."""

    contestant: str
    length: int
    max_loss: float = MAX_LOSS  # 0: asked for a cap so small that no table grants anything
    channel: Channel | None = MIDDLING  # None: the device reports none
    threshold: float | None = None  # instead of the table's
    rule: Rule | None = None  # instead of the contestant's own settings of it
    head: HeadKind = ""  # instead of the contestant's
    miss_s: float | None = None  # what the device says that a miss costs it
    tag: str = ""  # tells settings of one contestant apart in the figures

    @property
    def who(self) -> Contestant:
        """Return the contestant."""
        return CONTESTANTS[self.contestant]

    @property
    def head_kind(self) -> HeadKind:
        """Return which head judges."""
        return self.head or self.who.head

    @property
    def judging_rule(self) -> Rule:
        """Return the rule with its settings."""
        return self.rule or RULES[self.who.rule]


def named(lengths: tuple[int, ...], contestants: tuple[str, ...]) -> list[Setting]:
    """Return the settings of the table: every contestant with every draft length."""
    return [Setting(contestant, length) for length in lengths for contestant in contestants]


def swept(length: int) -> list[Setting]:
    """Return the settings of the Pareto drawing: each rule from strict to lax."""
    thresholds = (0.002, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)
    heads = [
        Setting(name, length, threshold=threshold, tag=f"risk {threshold:g}")
        for name in ("target_only", "full_hidden")
        for threshold in thresholds
    ]
    rules: list[tuple[str, str, Rule]] = [
        *(("typical", f"epsilon {value:g}", Typical(value, 1.0)) for value in (0.01, 0.03, 0.09, 0.2, 0.3)),
        *(("kl_judge", f"tau {value:g}", KlJudge(tau=value)) for value in (0.5, 1.0, 2.0, 4.0, 8.0)),
        *(("look_ahead", f"window {value}", LookAhead(0.1, window=value)) for value in (2, 4, 6, 8)),
    ]
    return [*heads, *(Setting(name, length, rule=rule, tag=tag) for name, tag, rule in rules)]


def by_channel(length: int, kind: HeadKind) -> list[Setting]:
    """Return the settings of the channel sweep under WISV's head, best link first; one where it reads no channel."""
    base = Setting("full_hidden", length, head=kind)
    if kind == "full-no-channel":
        return [replace(base, tag="no channel")]
    return [replace(base, channel=channel, tag=name) for name, channel in CHANNELS.items()]


def by_price(length: int) -> list[Setting]:
    """Return the same for ours, whose head reads no channel: the device tells what a miss costs it there."""
    return [
        Setting("target_only", length, channel=channel, miss_s=channel.round_trip_s + PASS_S, tag=name)
        for name, channel in CHANNELS.items()
    ]


PASS_S = 0.03
"""Of the paced setting."""

CHANNELS: dict[str, Channel] = {
    "5 ms, 500 Mbit/s": Channel(0.005, 500e6 / 8),
    "20 ms, 100 Mbit/s": Channel(0.020, 100e6 / 8),
    "50 ms, 20 Mbit/s": MIDDLING,
    "100 ms, 5 Mbit/s": Channel(0.100, 5e6 / 8),
    "300 ms, 1 Mbit/s": Channel(0.300, 1e6 / 8),
}
"""From good to bad; the paper's are 5 to 50 ms and 20 to 500 Mbit/s."""
