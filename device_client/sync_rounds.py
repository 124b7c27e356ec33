"""The rounds of a device that drafts a frame, sends it and waits: how far each goes, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

from airdraft.core.session import DeviceSession, Tally
from airdraft.core.types import DraftWork, Plan
from coordinator.policy.costs import PassCost
from coordinator.policy.planner import Planner
from coordinator.policy.rounds import LONGEST, Drafting, Outcome
from coordinator.policy.train import log_line
from device_client.draft_stop import Frame, FramePolicy


class SyncRounds:
    """Ends frames by a draft-length policy, and writes a log that such a policy can be trained from.

    Without a policy frames are as long as the plan has them.
    """

    def __init__(
        self,
        planner: Planner,
        policy: FramePolicy | None,
        log: TextIO | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Begin; ``planner`` knows what rounds cost, and ``clock`` times them for the log."""
        self._planner, self._policy, self._log, self._clock = planner, policy, log, clock
        self._frame: Frame | None = None
        self._before: Drafting | None = None  # what was known when the round began
        self._began_s = 0.0
        self._drafted = self._accepted = 0  # of the tally, before this round

    def conduct(self, plan: Plan) -> Plan:
        """Return a plan whose synchronous frames the policy may end where it likes."""
        if self._policy is None or plan.outstanding != 1 or not plan.draft_length:
            return plan
        return replace(plan, draft_length=LONGEST)

    def begins(self, session: DeviceSession, work: DraftWork) -> Frame | None:
        """The drafter is given work; return what ends it, None: its count alone."""
        if session.plan.outstanding != 1 or session.live_nodes:
            return None
        written = len(work.path) - len(session.ids)
        known = self._known()
        if not written or self._before is None:
            self._before, self._began_s = known, self._clock()
            self._drafted, self._accepted = session.tally.drafted, session.tally.accepted
        self._frame = None if self._policy is None else self._policy.frame(known, written)
        return self._frame

    def answered(self, session: DeviceSession) -> None:
        """A commit came: the round is over once nothing of it is on its way."""
        tally = session.tally
        if self._before is None or session.live_nodes or tally.drafted == self._drafted:
            return
        outcome = self._outcome(tally)
        if self._policy is not None:
            self._policy.saw(outcome)
        if self._log is not None and outcome.drafted <= LONGEST:  # of longer ones no policy learns
            self._log.write(log_line(self._before, outcome, self._clock() - self._began_s) + "\n")
        self._before = None

    def lost(self) -> None:
        """The stream is gone with what was on its way: that round tells nothing, and what goes again is another one."""
        self._before = None

    def _outcome(self, tally: Tally) -> Outcome:
        drafted, accepted = tally.drafted - self._drafted, tally.accepted - self._accepted
        sure = self._frame.confidences if self._frame is not None else ()
        return Outcome(drafted, min(accepted, drafted), sure if len(sure) == drafted else ())

    def _known(self) -> Drafting | None:
        quote = self._planner.quote
        quoted = PassCost(quote.fixed_s, quote.per_position_s) if quote and quote.fixed_s else None
        time = self._planner.estimates.round_time(quoted)
        return None if time is None else Drafting(time, self._planner.estimates.acceptance)
