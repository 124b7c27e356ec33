"""From the frames of a session to samples, and from plans to how the device drafts: a ``Planner`` at the wheel.

The pump of a session, real or simulated, tells what it sent, received and drafted, and when; it gets back how to draft
from now on. One object serves a device's sessions one after the other, so that the next one begins with what is known.
"""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.session import Tally
from airdraft.core.types import Commit, DeviceFrame, Draft, EdgeFrame, NeedHidden, Open, Opened, Origin, Plan
from coordinator.policy.estimates import Drafted, Judged, Passed, Sample, Transfer
from coordinator.policy.harmless import Misses
from coordinator.policy.planner import WIDE_BYTES_S, Planner

MOST_UNTOLD = 1
"""Commits that may tell nothing of the round trip before a ping asks: 22 bytes. A step of the round trip is then known
some four pings later, though nothing is on its way: a plan for 200 ms is within 5 % of the best one for 20 ms after 6
commits, and after 9 where two commits may tell nothing (``bench.adapt_steps``)."""

MOST_REMEMBERED = 512
"""Frames on their way of which the time is kept; credits bound them below that."""


@dataclass(frozen=True, slots=True)
class _Sent:
    at_s: float
    size_bytes: int


class Steering:
    """Tells a planner what happens on one session after the other."""

    def __init__(self, planner: Planner) -> None:
        """Steer by this planner."""
        self.planner = planner
        self._opened: _Sent | None = None
        self._epoch = 0  # of the stream that it opened
        self._drafts: dict[int, _Sent] = {}  # by seq, of this epoch
        self._answered = 0  # the last seq that a commit was chosen behind
        self._asked = False  # the edge waits for states before it commits
        self._committed_s: float | None = None  # when the last commit of this stream came
        self._stretches = 0  # of the tally, that were told
        self._missed = 0  # likewise
        self._untold = 0  # commits since the last round trip that was seen
        self._pinging = False

    @property
    def conduct(self) -> Plan:
        """Return how to draft now."""
        return self.planner.plan.conduct

    def begins(self) -> None:
        """A new session begins."""
        self._stretches = self._missed = 0
        self._detached()
        self.planner.begins()

    def _detached(self) -> None:
        self._opened, self._committed_s, self._answered = None, None, 0
        self._drafts.clear()
        self._untold, self._pinging, self._asked = 0, False, False

    @property
    def wants_ping(self) -> bool:
        """Return whether nothing has told the round trip for a while: no frames go, or none that a commit answers."""
        return self._untold >= MOST_UNTOLD and not self._pinging

    @property
    def channel(self) -> tuple[float | None, float | None, float | None]:
        """Return what a semantic session tells its edge, None each where it is not known.

        They are seconds that a miss costs by the plan that stands, seconds of a round trip, and bytes a second up.
        """
        known = self.planner.estimates
        up_bytes_s = known.rates.up.bytes_s
        return self.planner.miss_s, known.round_trip.median_s or None, up_bytes_s if up_bytes_s < WIDE_BYTES_S else None

    # ---- events ----

    def sent(self, frame: DeviceFrame, size_bytes: int, at_s: float) -> None:
        """A frame of so many bytes was given to the link."""
        if isinstance(frame, Open):
            self._detached()
            self._opened, self._epoch = _Sent(at_s, size_bytes), frame.epoch
        elif isinstance(frame, Draft) and frame.ids:
            self._drafts[frame.seq] = _Sent(at_s, size_bytes)
            if len(self._drafts) > MOST_REMEMBERED:
                del self._drafts[next(iter(self._drafts))]

    def drafted(self, tokens: int, seconds: float, at_s: float) -> None:
        """The drafter wrote ``tokens`` and had nothing to read first."""
        self.planner.sampled(Sample(at_s, drafted=Drafted(tokens, seconds)))

    def pings(self) -> None:
        """A ping goes."""
        self._pinging = True

    def pinged(self, round_trip_s: float | None, at_s: float) -> None:
        """A ping was answered; None: too late to tell anything."""
        self._untold, self._pinging = 0, False
        if round_trip_s is None:
            return
        self.planner.sampled(Sample(at_s, round_trip_s=round_trip_s))

    def received(self, frame: EdgeFrame, tally: Tally, at_s: float) -> Plan | None:
        """Take a frame that the session has taken; return how to draft from now on, None: as before."""
        before = self.planner.plan.conduct
        match frame:
            case Opened():
                self.planner.quoted(frame.quote)
                self.planner.grants(frame.granted)
                self.planner.live_nodes = frame.limits.live_nodes
                if self._opened is not None and self._epoch == frame.epoch:
                    # Of its size nothing follows: what a session and a connection take to begin is in it too.
                    self._trip(at_s - self._opened.at_s, None, at_s)
            case Commit():
                if frame.quote is not None:
                    self.planner.quoted(frame.quote)
                self._commit(frame, tally, at_s)
            case NeedHidden():
                self._asked = True
                return None
            case _:
                return None
        self.planner.decide()
        after = self.planner.plan.conduct
        return None if after == before else after

    # ---- samples ----

    def _trip(self, seconds: float, size_bytes: int | None, at_s: float) -> None:
        if seconds >= 0:
            self._untold = 0
            up = None if size_bytes is None else Transfer(size_bytes, seconds)
            self.planner.sampled(Sample(at_s, seconds, up=up))

    def _commit(self, commit: Commit, tally: Tally, at_s: float) -> None:
        planner, passed_s = self.planner, commit.timing.pass_s
        if passed_s and (planner.quote is None or not planner.quote.fixed_s):
            planner.sampled(Sample(at_s, passed=Passed(1, passed_s)))
        self._untold += 1
        self._answers(commit, at_s)
        ended = tally.stretches[self._stretches :]
        for length in ended:
            planner.sampled(Sample(at_s, judged=Judged(length + 1, length)))
        self._stretches = len(tally.stretches)
        if planner.granted.max_loss:
            self._judged(commit, tally.missed, at_s)
        since_s = None if self._committed_s is None else at_s - self._committed_s
        planner.committed(len(commit.ids), since_s, at_s=at_s, right=tally.stretch)
        self._committed_s = at_s

    def _judged(self, commit: Commit, missed: int, at_s: float) -> None:
        """Learn what becomes of drafted tokens that are not the target's own."""
        contradicted, self._missed = missed - self._missed, missed
        stood = commit.origins.count(Origin.MEANING)
        replaced = commit.origins.count(Origin.RECOVERED) if contradicted else 0
        if stood or contradicted:
            misses = Misses(stood, min(replaced, contradicted), max(0, contradicted - replaced))
            self.planner.sampled(Sample(at_s, misses=misses))

    def _answers(self, commit: Commit, at_s: float) -> None:
        """Learn the round trip from a commit whose pass was the first to know of a frame.

        What is left of the time since that frame went, less the pass and its wait for the pass. The edge says how long
        work had been waiting; where it went ahead that was not for this frame, which then waited for no longer than
        until the next one, that came too late: half of that on average. A commit that waited for states tells nothing:
        another round trip is in it.
        """
        seq = commit.last_seq
        sent = self._drafts.get(seq)
        tells = seq > self._answered and not self._asked
        self._answered, self._asked = max(self._answered, seq), False
        if sent is None or not tells:
            return
        after = self._drafts.get(seq + 1)
        queue_s = commit.timing.queue_s
        if after is not None:
            queue_s = min(queue_s, (after.at_s - sent.at_s) / 2)
        elif not self.planner.plan.waits and self.planner.offer().runs_ahead:
            return  # it may have lain there for most of the pass before
        self._trip(at_s - sent.at_s - commit.timing.pass_s - queue_s, sent.size_bytes, at_s)
        for known in [known for known in self._drafts if known <= seq]:
            del self._drafts[known]
