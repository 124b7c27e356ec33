"""What a generation came to, for machines and for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airdraft.core.session import DeviceSession
from airdraft.core.types import EXACT, Granted
from airdraft.wire.client import Traffic
from coordinator.policy.planner import Planner
from device_client.config import DeviceSettings
from device_client.generation import Costs


@dataclass(frozen=True, slots=True)
class Report:
    """What a generation came to."""

    settings: DeviceSettings
    model_name: str
    session: DeviceSession
    text: str
    traffic: Traffic
    costs: Costs
    first_text_s: float
    seconds: float
    reattached: int
    planner: Planner | None = None  # that made the plans; None: nothing was left to write
    granted: Granted = EXACT  # by the last edge

    def as_json(self) -> dict[str, Any]:
        """Return the report for machines; units stand in the names."""
        tally, traffic, session = self.session.tally, self.traffic, self.session
        history = self.planner.history if self.planner is not None else ()
        return {
            "text": self.text,
            "ids": list(session.ids[session.prompt_length :]),
            "stop": session.stop.name.lower() if session.stop else None,
            "seed": session.sampling.seed,
            "temperature": session.sampling.temperature,
            "model": self.model_name,
            "draft_model": self.settings.draft_model,
            "prompt_tokens": session.prompt_length,
            "tokens": tally.committed,
            "rounds": tally.rounds,
            "tokens_per_round": round(tally.tokens_per_round, 4),
            "drafted_tokens": tally.drafted,
            "accepted_tokens": tally.accepted,
            "acceptance": round(tally.acceptance, 4),
            "accept": "semantic" if self.granted.max_loss else "exact",
            "accept_rule": self.granted.rule or None,
            "max_quality_loss": self.granted.max_loss,
            "meaning_tokens": tally.meaning,
            "spent_risk": round(tally.spent, 6),
            "origins": {origin.name.lower(): count for origin, count in tally.by_origin.items()},
            "bytes_up": traffic.bytes_up,
            "bytes_down": traffic.bytes_down,
            "draft_frames": traffic.draft_frames,
            "draft_tokens": traffic.draft_tokens,
            "draft_bytes": traffic.draft_bytes,
            "first_text_ms": round(self.first_text_s * 1000, 3),
            "seconds": round(self.seconds, 6),
            "reattached": self.reattached,
            "device_seconds": round(self.costs.draft_s, 6),
            "edge_seconds": round(self.costs.pass_s, 6),
            "plans": [{"from_token": token, "plan": str(plan)} for token, plan in history],
        }

    def explained(self) -> list[str]:
        """Return which plans the text was written by, and what the last one was chosen among."""
        if self.planner is None:
            return ["no plan was made: the journal holds the whole text"]
        return [*(f"from token {token}: {plan}" for token, plan in self.planner.history), *self.planner.explained()]

    def as_line(self) -> str:
        """Return the report for people."""
        tally, traffic = self.session.tally, self.traffic
        tokens = len(self.session.ids) - self.session.prompt_length
        if tokens and not tally.rounds:
            return f"{tokens} tokens, all of them from the journal"
        return (
            f"{tally.committed} tokens · {tally.rounds} rounds · {tally.tokens_per_round:.2f} tokens a round · "
            f"{tally.acceptance:.0%} of {tally.drafted} drafted accepted{self._by_meaning()} · "
            f"{_size(traffic.bytes_up)} up · "
            f"{_size(traffic.bytes_down)} down · first text {self.first_text_s * 1000:.0f} ms · {self.seconds:.2f} s"
        )

    def _by_meaning(self) -> str:
        """Return what was accepted though the target had chosen another; nothing where nobody asked for that."""
        tally = self.session.tally
        if self.settings.accept == "exact":
            return ""
        return f", {tally.meaning} of them by meaning (risk {tally.spent:.2%})"


def _size(count: int) -> str:
    return f"{count} B" if count < 10_000 else f"{count / 1000:.1f} kB"
