"""One device's planning: what it believes, the plan that stands, and when another one is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from airdraft.core.types import EXACT, Granted, Quote
from coordinator.policy.acceptance import place
from coordinator.policy.costs import PassCost
from coordinator.policy.estimates import Estimates, Judged, Sample
from coordinator.policy.expected import ALIKE, Setting
from coordinator.policy.model_error import ModelError
from coordinator.policy.plan import Decision, Objective, Offer, Plan, candidates, plan
from coordinator.policy.provisional import miss_s

PLACE_OF = tuple(place(before) for before in range(17))
"""Of the tokens of a stretch whose chances differ: the last place begins there (``AcceptanceByPosition``)."""

WIDE_BYTES_S = 25_000.0
"""An uplink that carries so much keeps no draft waiting; how much more it carries is not known from short frames."""

MOST_HISTORY = 64
"""Plans of a session that are told of afterwards."""

PATIENCE_TOKENS = 8
"""Of a text, in which a drafter at work should have finished a draft of its own before the edge went past it."""

LATE = 0.9
"""The quantile of round trips that a provisional token waits for."""

GUESSED_DRAFT = 0.25
"""Of a pass: a drafted token, where the device has not drafted yet."""

PROBE_EVERY_TOKENS = 32
"""Where nothing is drafted nothing is learnt of the acceptance: after so many tokens a stretch is drafted again."""

MOST_PROBE_EVERY = 512
"""Where the edge waits for a probe it costs up to a round trip: each that changed nothing doubles the wait for another.
An edge that goes ahead loses nothing by it."""

BEST_ACCEPTANCE = 0.95
"""What acceptance may have become: where drafting would not pay even then, nothing is tried."""

OPENING_COMMITS = 3
"""By which a text's first stretch is over, or as good as any."""

PROBE_TOKENS = 8
PROBE_COMMITS = 8
"""A probe ends with so many judged tokens, or commits, whichever comes first."""


class Planner:
    """Estimates in, plans out. It reads no clock, and outlives sessions: the next one begins with what is known."""

    def __init__(
        self,
        objective: Objective,
        start: Plan,
        *,
        estimates: Estimates | None = None,
        live_nodes: int = 64,
        drafts: bool | None = None,
        keeps: bool = False,
    ) -> None:
        """Begin with a plan; another one is made once round trip, drafter and passes are known.

        start       also says whether frames are padded
        live_nodes  the device's credits
        drafts      the device can; None: as it begins
        keeps       to the plan that it begins with, whatever comes
        """
        self.objective, self.plan = objective, start
        self.estimates = estimates or Estimates()
        self.errors = ModelError()
        self.quote: Quote | None = None
        self.granted = EXACT
        self.decision: Decision | None = None
        self._seen: Setting | None = None  # what was known when the last plan was made
        self.live_nodes = live_nodes
        self.history: list[tuple[int, Plan]] = [(0, start)]  # from which committed token of the session which plan held
        self._tokens = 0  # committed in this session
        self._start, self._keeps = start, keeps
        self._drafts = start.drafts if drafts is None else drafts
        self._expected_s: float | None = None  # of the plan that stands, by the model alone
        self._switched = True  # the plan changed since the last commit: its time is no plan's own
        self._unjudged = 0  # committed tokens since the last one that a draft was judged by
        self._probe_every = PROBE_EVERY_TOKENS
        self._probing = 0  # commits that the probe at work may still take; 0: there is none
        self._probed = 0  # tokens that it has judged

    # ---- what comes in ----

    def begins(self) -> None:
        """A new session begins, by the plan that stands."""
        self._tokens = 0
        if self._start.drafts and not self._keeps and not self.plan.drafts and self.offer().runs_ahead:
            # While ``Open`` is in the air drafting costs no user anything, and each text tells of its acceptance.
            self.plan, self._probing, self._probed = self._start, OPENING_COMMITS, 0
        self.history = [(0, self.plan)]

    def quoted(self, quote: Quote | None) -> None:
        """Take the edge's word; None: it gives none, or there is no edge."""
        self.quote = quote

    def grants(self, granted: Granted) -> None:
        """Take what the edge lets stand by meaning."""
        self.granted = granted

    def sampled(self, sample: Sample) -> None:
        """Take what was seen."""
        self.estimates = self.estimates.updated(sample)
        if sample.judged is not None and sample.judged.drafted:
            self._unjudged = 0
            self._probed += sample.judged.drafted

    def committed(self, tokens: int, seconds: float | None, *, at_s: float, right: int) -> None:
        """Take a commit of ``tokens``, so long after the one before; None: there was none on this stream.

        right  drafted tokens that were right since the last miss
        """
        self._unjudged += tokens
        self._tokens += tokens
        if self._probing:
            self._probing -= 1
            if not self._probing and right:  # a probe that met no miss tells of no stretch that ended
                self.sampled(Sample(at_s, judged=Judged(right, right)))
        if seconds is not None and tokens and not self._switched and self._expected_s:
            self.errors = self.errors.updated(self.plan.way, tokens, seconds, self._expected_s)
        self._switched = False

    # ---- what goes out ----

    def decide(self) -> Decision | None:
        """Make a plan of what is known now; None while too little is known, and then the plan stands."""
        setting = self._seen = self.setting() if not self._keeps or self.granted.max_loss else None
        if setting is None or self._keeps:
            return None
        offer, factors = self.offer(), self.errors.factors()
        among = self._dressed(candidates(setting, offer, self.objective, drafts=self._drafts))
        decision = plan(setting, self.objective, offer, current=self.plan, among=among, errors=factors)
        decision = self._probed_too(decision, setting, offer)
        self.decision = decision
        self._stand(decision.plan)
        self._expected_s = next((one.expected.seconds for one in decision.weighed if one.plan == decision.plan), None)
        if self._expected_s is not None:
            self._expected_s /= factors.get(self.plan.way, 1.0)
        return decision

    def setting(self) -> Setting | None:
        """Return what plans are weighed by; None while the round trip, the drafter or the pass is not known."""
        known, quote = self.estimates, self.quote
        round_trip_s, draft_s = known.round_trip.median_s, known.draft.step_s
        target = PassCost(quote.fixed_s, quote.per_position_s) if quote and quote.fixed_s else known.passes.cost
        if round_trip_s is None or target is None:
            return None
        if draft_s is None:
            if self.plan.drafts and self._tokens < PATIENCE_TOKENS:
                return None
            # One that could not finish a token so far is slow; one that was not asked is tried if this looks good.
            draft_s = target.fixed_s * (1.0 if self.plan.drafts else GUESSED_DRAFT)
        own_chance = quote.own_acceptance if quote and quote.own_draft_tokens else None
        chances, harmless = self._chances(own_chance), self._harmless
        sharers = max(1.0, quote.step_sessions) if quote else 1.0
        return Setting(
            round_trip_s,
            draft_s,
            target,
            chances,
            own_draft_s=quote.own_draft_s if quote else 0.0,
            up_bytes_s=known.rates.up.bytes_s,
            live_nodes=self.live_nodes,
            own_chance=own_chance,
            sharers=sharers,
            others=quote.step_positions * (1 - 1 / sharers) if quote else 0.0,
            harmless=harmless,
            late_round_trip_s=known.round_trip.quantile_s(LATE) or 0.0,
        )

    @property
    def _harmless(self) -> float:
        return self.estimates.harmless.share if self.granted.max_loss else 0.0

    def _chances(self, own_chance: float | None) -> tuple[float, ...]:
        """Return the chances that drafted tokens stand, by how many before them did."""
        known, harmless = self.estimates, self._harmless
        places = known.acceptance.chances()
        if own_chance is not None and not self.plan.drafts and own_chance >= ALIKE * places[0]:
            # The edge's drafts are judged meanwhile, the device's are not; its own never stand by meaning.
            return (own_chance + (1 - own_chance) * harmless,) * len(PLACE_OF)
        if harmless:
            places = tuple([known.harmless.lifted(chance) for chance in places])
        return tuple([places[here] for here in PLACE_OF])

    def offer(self) -> Offer:
        """Return what the edge offers, by its quote."""
        quote = self.quote
        if quote is None:
            return Offer(runs_ahead=False)
        price, meaning = max(1.0, quote.edge_second_price), self.granted.max_loss > 0
        return Offer(quote.runs_ahead, quote.own_draft_tokens, price, meaning)

    @property
    def miss_s(self) -> float | None:
        """Return what a miss costs this session by the plan that stands; None while that is not known."""
        if self._seen is None:
            return None
        return miss_s(self._seen, self.plan.frame_tokens if self.plan.drafts else 0)

    def explained(self) -> list[str]:
        """Return what is believed, and what was weighed, for people."""
        known, quote = self.estimates, self.quote or Quote()
        trip_s, draft_s, up = known.round_trip.median_s, known.draft.step_s, known.rates.up.bytes_s
        lines = [
            f"round trip {_ms(trip_s)} (9 of 10 below {_ms(known.round_trip.quantile_s(0.9))}), "
            f"a drafted token {_ms(draft_s)}, acceptance {known.acceptance.acceptance:.2f}, "
            f"uplink {f'{up / 125:.0f} kbit/s' if up < WIDE_BYTES_S else 'not the limit'}",
            f"edge: a pass {_ms(quote.fixed_s or None)} and {quote.per_position_s * 1e3:.2f} ms a position, "
            f"{max(1.0, quote.step_sessions):.1f} sessions a step, price {max(1.0, quote.edge_second_price):.1f}, "
            f"{'goes ahead' if quote.runs_ahead else 'waits'}, drafts {quote.own_draft_tokens} itself",
        ]
        if self.granted.max_loss:
            lines.append(
                f"by meaning: {self.granted.max_loss:.2%} of answers may get worse, {known.harmless.share:.2f} of the "
                f"misses stand, one that does not costs {_ms(self.miss_s)}"
            )
        if self.decision is None:
            why = "the settings ask for it" if self._keeps else "too little is known for another plan"
            return [*lines, f"{self.plan}: {why}"]
        return [*lines, *self.decision.explained()]

    def _stand(self, chosen: Plan) -> None:
        if chosen == self.plan:
            return
        self.plan, self._switched = chosen, True
        del self.history[MOST_HISTORY:]
        self.history.append((self._tokens, chosen))

    def _dressed(self, plans: Sequence[Plan]) -> Sequence[Plan]:
        """Return plans with what is not weighed."""
        pad, tolerance = self._start.pad, self._start.tolerance
        return [replace(one, pad=pad, tolerance=tolerance) for one in plans] if pad or tolerance else plans

    def _probed_too(self, decision: Decision, setting: Setting, offer: Offer) -> Decision:
        """Let a stretch be drafted now and then where no plan drafts: the text may have become easier."""
        if not self._drafts:
            return decision
        if decision.plan.drafts:
            self._probing, self._probe_every = 0, PROBE_EVERY_TOKENS
            return decision
        if self._probing and self._probed >= PROBE_TOKENS:
            self._probing = 0
        if not self._probing and self._unjudged >= self._probe_every and self._may_pay(setting, offer):
            self._probing, self._probed, self._unjudged = PROBE_COMMITS, 0, 0
            self._probe_every = min(MOST_PROBE_EVERY, 2 * self._probe_every)
        if not self._probing:
            return decision
        ways = [one.plan for one in decision.weighed if one.plan.drafts]
        if not ways:
            return decision
        probe = next((way for way in ways if not way.waits), None)
        if probe is not None:
            self._probe_every = PROBE_EVERY_TOKENS
        return replace(decision, plan=probe or ways[0])

    def _may_pay(self, setting: Setting, offer: Offer) -> bool:
        """Return whether drafting would be the best plan if nearly all that is drafted were right."""
        if setting.own_chance is not None and setting.alike:
            return False  # the edge's own drafter tells of it
        hopeful = replace(setting, chances=(BEST_ACCEPTANCE,))
        return plan(hopeful, self.objective, offer).plan.drafts


def _ms(seconds: float | None) -> str:
    return "not known" if seconds is None else f"{seconds * 1e3:.1f} ms"
