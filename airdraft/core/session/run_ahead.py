"""Whether a session without a live draft goes ahead of its device by a token, or sits the step out (DESIGN §3B).

It sits out only where a live draft is expected and waiting for it pays, and waits on a purse: no longer, in all, than
drafts have saved this session, starting with one pass. So it is never more than a pass behind an edge that never waits.

In company nobody sits out: a step that others begin costs a token more nearly nothing. What is decided there is when a
step begins, and each session says how long it can wait: by its lead over an edge that gives every session one token in
every step and never waits. A step may take ``SPENT`` of the lead, so that the poorest session, which sets the pace,
settles where a step costs it what the step's drafts bring in. A part of what drafts save stays with its session as
speed (``Company.kept``): all of it where few share the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MEMORY = 0.9
"""What an estimate keeps of itself with each new sample."""

PRIOR_ACCEPTANCE = 0.7
PRIOR_TOKENS = 8.0
"""How many judged tokens the first guess of the acceptance is worth."""

LATE = 0.5
"""By what share of the usual gap between two frames one may be late before it is not waited for any longer."""

SPENT = 0.1
"""What share of a session's lead over a plain edge one step may be held back for."""

FEW = 2
"""So many sessions or fewer keep all that their drafts save: no step is held back."""

DRY = 16
"""After so many passes without a draft a session's lead is not spent: its device may have fallen silent."""

LEAST_KEPT = 0.02
"""Of a plain step: what every token saves its session at least, since an edge that holds steps back is busier."""

MOST_BEHIND = 16.0
MOST_AHEAD = 64.0
"""In plain steps: what a device lost by its own silence is not made up for, and no lead is spent for seconds on end."""


@dataclass(slots=True)
class Company:
    """The sessions that share an engine's steps; who puts the steps together keeps it true."""

    sessions: int = 1
    plain_s: float = 0.0  # a step that computes one token for each of them; 0: not known
    thrifty: bool = True  # what their drafts save is to be edge time, else speed

    @property
    def kept(self) -> float:
        """Return what share of a plain step each token must save before the rest counts as lead.

        Few sessions are to be fast, and many to leave the edge time: with 4 of them every session gets at least 1.33
        times the plain rate before steps are held back at all, with 8 of them 1.07 times, with 15 or more 1.02 times.
        """
        return min(1.0, max(LEAST_KEPT, (FEW / self.sessions) ** 2))


@dataclass(slots=True)
class Mean:
    """A running mean that forgets; None before the first sample."""

    value: float | None = None

    def add(self, sample: float) -> None:
        self.value = sample if self.value is None else MEMORY * self.value + (1 - MEMORY) * sample


class RunAhead:
    """What an edge knows of one device's drafting, and the purse that its waits are paid from."""

    def __init__(self, clock: Callable[[], float], company: Company | None = None) -> None:
        """Begin without knowing anything; ``clock`` gives seconds, and without ``company`` the engine is its own."""
        self._clock = clock
        self._company = company or Company()
        self._lead_s = 0.0  # over a plain edge
        self._committed_s: float | None = None  # when the last pass ended that committed anything
        self._dry = 0  # passes since one had something of the device to verify
        self._pass_s = Mean()  # of passes without a draft
        self._gap_s = Mean()  # between two frames of one line
        self._saved_s = 0.0
        self._sitting_since_s: float | None = None
        self._line_end = 0  # length at the end of the last frame that agreed with the text
        self._frame_tokens = 0
        self._last_frame_s: float | None = None
        self._known_from = 0  # the device drafts in vain until it has acked this length
        self._judged, self._accepted = PRIOR_TOKENS, PRIOR_TOKENS * PRIOR_ACCEPTANCE

    @property
    def acceptance(self) -> float:
        """Return the estimated chance that one more drafted token is the target's own."""
        return self._accepted / self._judged

    @property
    def purse_s(self) -> float:
        """Return for how long this session may still wait, a wait under way taken off."""
        sitting_s = 0.0 if self._sitting_since_s is None else self._clock() - self._sitting_since_s
        return (self._pass_s.value or 0.0) + self._saved_s - sitting_s

    @property
    def lead_s(self) -> float:
        """Return by how much the session is ahead of a plain edge, its company's share taken off."""
        return self._lead_s

    @property
    def probes(self) -> bool:
        """Return whether a draft is verified though it is not worth its place: the text may have become easier."""
        return self._dry > 0 and self._dry % DRY == 0

    def begins_by(self, step_s: float) -> float | None:
        """Return until when a step of ``step_s`` that it joins may be held back for others; None: not at all."""
        plain_s = self._company.plain_s
        if self._committed_s is None or not plain_s or not self._company.thrifty:
            return None
        spent_s = SPENT * max(0.0, self._lead_s) if self._dry < DRY else 0.0
        return self._committed_s + plain_s + spent_s - step_s

    # ---- events ----

    def attached(self) -> None:
        """A new stream: when its frames come is not known yet."""
        self._committed_s = None
        self._sitting_since_s = None  # what passed without a device was no wait for its draft
        self._gap_s, self._last_frame_s = Mean(), None
        self._line_end = self._known_from = 0

    def framed(self, acked: int, end: int, tokens: int, *, agrees: bool, length: int) -> None:
        """A frame of ``tokens`` came that ends at length ``end``, where ``length`` are committed, ``acked`` known.

        ``agrees``: no committed token contradicts it.
        """
        now_s = self._clock()
        if not agrees:
            self._last_frame_s = None
            if acked >= self._known_from:  # not one of those that were under way when the line broke
                self._known_from = length
            return
        if self._last_frame_s is not None:
            self._gap_s.add(now_s - self._last_frame_s)
        self._last_frame_s, self._line_end, self._frame_tokens = now_s, end, tokens

    def passed(
        self,
        pass_s: float,
        *,
        nodes: int,
        accepted: int,
        committed: int,
        length: int,
        live: bool,
        alone: bool = True,
    ) -> None:
        """A pass over ``nodes`` nodes of the device, of which ``accepted`` were right, committed up to ``length``.

        live   what was received last goes on from there, or ends there
        alone  it computed no rows of a prompt or of a replay, which take their own time
        """
        self._dry = 0 if nodes else self._dry + 1
        if nodes and alone:
            token_s = self._pass_s.value if self._pass_s.value is not None else pass_s
            self._saved_s += committed * token_s - pass_s
        if nodes:
            self._judged = MEMORY * self._judged + min(accepted + 1, nodes)
            self._accepted = MEMORY * self._accepted + accepted
        elif alone:
            self._pass_s.add(pass_s / committed)
        if self._line_end >= length and not live:
            self._last_frame_s, self._known_from = None, length
        self._keep_pace(committed)

    def agreed(self, tokens: int) -> None:
        """The device drafted so many tokens just as the edge had decoded them already."""
        self._dry = 0
        self._judged = MEMORY * self._judged + tokens
        self._accepted = MEMORY * self._accepted + tokens

    def _keep_pace(self, committed: int) -> None:
        """Take a commit into the lead: what a plain edge would have needed for it, less what it took."""
        now_s, plain_s = self._clock(), self._company.plain_s
        if self._company.kept >= 1:
            self._lead_s = 0.0  # what drafts save is all its own: neither lead nor debt
        elif self._committed_s is not None:
            won_s = committed * plain_s * (1 - self._company.kept) - (now_s - self._committed_s)
            self._lead_s = max(-MOST_BEHIND * plain_s, min(self._lead_s + won_s, MOST_AHEAD * plain_s))
        self._committed_s = now_s

    def goes_on(self) -> None:
        """The session joins a step: a wait, if there was one, is over and paid for."""
        if self._sitting_since_s is not None:
            self._saved_s -= self._clock() - self._sitting_since_s
            self._sitting_since_s = None

    # ---- the decision ----

    def sits_out(self, length: int, acked: int) -> float | None:
        """Return until when a session without a live draft waits for one; None where it goes ahead by a token.

        length  committed
        acked   what the device knows of it
        """
        if self._company.sessions > 1:
            return None
        now_s = self._clock()
        until_s = self._worth_until(now_s, length, acked)
        if until_s is None:
            return None
        until_s = min(until_s, now_s + self.purse_s)
        if until_s <= now_s:
            return None
        if self._sitting_since_s is None:
            self._sitting_since_s = now_s
        return until_s

    def _worth_until(self, now_s: float, length: int, acked: int) -> float | None:
        """Return until when waiting is worth it, whoever pays."""
        gap_s, pass_s, last_s = self._gap_s.value, self._pass_s.value, self._last_frame_s
        if gap_s is None or pass_s is None or last_s is None or acked < self._known_from:
            return None
        reach = self._line_end + self._frame_tokens - length
        if reach <= 0:
            return None
        due_s = last_s + gap_s
        if now_s >= due_s + LATE * gap_s:
            return None
        behind = max(0, length - self._line_end)
        live = self.acceptance**behind
        tokens = sum(self.acceptance**index for index in range(min(reach, self._frame_tokens) + 1))
        wait_s = max(0.0, due_s - now_s)
        if live * tokens * pass_s <= wait_s + pass_s:
            return None
        return due_s + LATE * gap_s
