"""The history of a world under faults, checked as it happens against a ten-line autoregressive model.

A broken promise raises ``Caught`` with the name of the check, so that a planted bug must be caught by the right one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airdraft.core.errors import (
    BadReceipt,
    Draining,
    EdgeFault,
    EdgeUnreachable,
    Overloaded,
    SpecError,
    StaleEpoch,
    Superseded,
)
from airdraft.core.session import Committed, EdgeSession
from airdraft.core.session.judging import HIDDEN_WAIT_S
from airdraft.core.types import (
    Commit,
    DeviceFrame,
    Draft,
    DraftWork,
    Finish,
    Open,
    Origin,
    Pass,
    Span,
    StopReason,
)
from airdraft.link.virtual_device import DeviceProcess
from airdraft.link.virtual_edge import EdgeProcess, Entry
from airdraft.link.virtual_stream import Stream

CHECKS = (
    "text",  # what is committed and shown is the target's own, or drafted and as good where that was granted
    "meaning",  # what stands by meaning is told as such, and costs what it costs
    "order",  # shown once, without a gap, never taken back
    "stop",  # it ends where the text ends, for the right reason
    "journal first",  # shown, acked and attached only with what is journalled
    "epochs",  # each used once, above any that was named
    "acks",  # never fall
    "credits",  # never more live nodes than granted, nor drafted tokens
    "ahead",  # an edge goes no further past what its device has acked than it may
    "waits",  # an edge that waits for a draft wakes up, not too late, and does not spin
    "refusals",  # an honest device is refused only for what befell it
    "faults",  # an honest edge is never taken for a liar
    "fence",  # a superseded stream gets no text, a superseded device opens none
    "receipts",  # accepted where the text was written by the fleet, and nowhere else
    "acceptance",  # a perfect drafter is never contradicted
    "crash",  # nothing but expected conditions is raised
    "finishes",  # once faults stop, the text is finished in time
)

USUAL = (StaleEpoch, Superseded, Draining, Overloaded, EdgeUnreachable, EdgeFault)
"""What may befall an honest device."""


MOST_ASKED = 8
"""How often a session that waits for a draft is asked again at most before a frame comes or a pass runs."""

THIEF = b"thief" + bytes(11)
"""The session id under which a proxy presents what was signed for another."""


class Caught(AssertionError):
    """A promise was broken."""

    def __init__(self, check: str, message: str) -> None:
        assert check in CHECKS
        super().__init__(f"{check}: {message}")
        self.check = check


def must(holds: bool, check: str, message: str) -> None:
    """Raise Caught unless it holds."""
    if not holds:
        raise Caught(check, message)


Text = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """What text is right, token by token: a target, a prompt and an end."""

    prompt: Text
    stop_ids: frozenset[int]
    max_tokens: int
    choices: Callable[[Text], Sequence[int]]  # the right next tokens: one, but for near ties
    near_ties: bool = False
    stands: Callable[[Text], bool] | None = None  # whether a path's last id was drafted and is as good; None: none is

    def stop(self, text: Text) -> StopReason | None:
        """Return why a text has ended, None where it has not."""
        if len(text) > len(self.prompt) and text[-1] in self.stop_ids:
            return StopReason.STOP_TOKEN
        return StopReason.MAX_TOKENS if len(text) >= len(self.prompt) + self.max_tokens else None

    def follows(self, text: Text, ids: Sequence[int]) -> None:
        """Check that ``ids`` are a right continuation of a text. Raises Caught."""
        for token in ids:
            must(self.stop(text) is None, "stop", f"{token} after the end, at {len(text)}")
            right, path = self.choices(text), (*text, token)
            stands = token in right or (self.stands is not None and self.stands(path))
            must(stands, "text", f"{token} at {len(text)}, {right} is right")
            text = path

    def told(self, text: Text, ids: Sequence[int], origins: Sequence[Origin]) -> None:
        """Check that of a fresh continuation what is not the target's own is told as such. Raises Caught."""
        for token, origin in zip(ids, origins, strict=True):
            must(
                (token in self.choices(text)) != (origin is Origin.MEANING), "meaning", f"{origin.name} at {len(text)}"
            )
            text = (*text, token)


def _lengths(span: Span) -> list[int]:
    """Return the length of the path up to and with each token of a span."""
    lengths: list[int] = []
    for index in range(len(span.tokens)):
        parent = index - 1 if span.parents is None else span.parents[index]
        lengths.append((lengths[parent] if parent >= 0 else span.start) + 1)
    return lengths


def _may_go_ahead(session: EdgeSession) -> bool:
    """Say whether a session could run a pass without its device, and whether nothing is under way that it waits for."""
    text = session._text
    state = session._state
    waits = session.in_flight or state.own._work is not None or state.held is not None
    ready = session.attached and not session.finished and text.stop is None and text.complete and not waits
    runs = session.idle or not session.waits
    ahead = state.line_length - state.drafts.acked
    return ready and runs and not state.line_ended and ahead < session.limits.ahead_tokens


class History:
    """Sees every frame and all that the user is shown; implements ``virtual_world.Witness``."""

    def __init__(self, model: Model, *, perfect: bool, longest_pass_s: float) -> None:
        """Take the model that the text must follow, and whether the drafter always agrees with it."""
        self.model, self.perfect, self.longest_pass_s = model, perfect, longest_pass_s
        self.prompt_length = len(model.prompt)
        self.frames_refused = False  # an edge refused single frames, which are then drafted again
        self.liars: set[str] = set()  # edges that may lie
        self.twins = False  # a second process may use the session's epochs
        self._shown: dict[DeviceProcess, Text] = {}
        self._texts: dict[int, Text] = {}  # the last that was shown, by journal
        self._sent: dict[Stream, int] = {}  # length at the end of the last draft
        self._acked: dict[Stream, int] = {}
        self._used: defaultdict[int, set[int]] = defaultdict(set)  # epochs, by journal
        self._named: dict[DeviceProcess, int] = {}  # highest epoch that a refusal named
        self._superseded: set[DeviceProcess] = set()
        self._signed: dict[tuple[bytes, bytes], int] = {}  # length, by key and session
        self._receipts: dict[tuple[bytes, bytes], int] = {}  # length, by key and receipt
        self._began: dict[Entry, int] = {}  # committed at its last attach
        self._beside: dict[Entry, int] = {}  # tokens held back beside the line that its last pass judges
        self._spent: dict[Entry, float] = {}
        self._sitting: dict[Entry, tuple[float, int]] = {}  # since when, and how often asked without an event

    # ---- the device ----

    def started(self, device: DeviceProcess) -> None:
        """Check what a new process shows first: all that the same journal ever held."""
        text = self._journalled(device)
        before = self._texts.get(id(device.journal), self.model.prompt)
        must(text[: len(before)] == before, "order", f"{len(before)} tokens were shown, {len(text)} are journalled")
        must(tuple(device.session.ids) == text, "order", f"the session goes on from {len(device.session.ids)} tokens")
        self.model.follows(self.model.prompt, text[self.prompt_length :])
        self._shown[device] = text

    def shown(self, device: DeviceProcess, committed: Committed) -> None:
        """Check what the user is shown."""
        text = self._shown[device]
        must(committed.base == len(text), "order", f"text at {committed.base} shown where {len(text)} was due")
        self.model.follows(text, committed.ids)
        text = (*text, *committed.ids)
        right = self.model.stop(text)
        must(committed.stop == right, "stop", f"{committed.stop} at {len(text)}, {right} is right")
        must(text == self._journalled(device), "journal first", f"{len(text)} tokens shown, but not journalled")
        self._shown[device] = self._texts[id(device.journal)] = text

    def _journalled(self, device: DeviceProcess) -> Text:
        commits = [record for record in device.journal.records if isinstance(record, Committed)]
        return (*self.model.prompt, *(token for commit in commits for token in commit.ids))

    def device_says(self, device: DeviceProcess, frame: DeviceFrame) -> None:
        """Check a frame that a device sends."""
        stream = device.stream
        assert stream is not None
        if isinstance(frame, Open):
            self._opens(device, frame)
        acked = {Open: "length", Draft: "acked", Finish: "length"}.get(type(frame))
        if acked is not None:
            length = getattr(frame, acked)
            journalled = len(self._journalled(device))
            must(length <= journalled, "journal first", f"{length} acked, {journalled} journalled")
            must(length >= self._acked.get(stream, 0), "acks", f"ack fell to {length}")
            self._acked[stream] = length
        if isinstance(frame, Draft) and frame.ids:
            again = self.perfect and not self.frames_refused and frame.base < self._sent.get(stream, 0)
            must(not again, "acceptance", "what was drafted rightly is drafted again")
            self._sent[stream] = frame.base + len(frame.ids)
        live, granted = device.session.live_nodes, device.session.limits.live_nodes
        must(live <= granted, "credits", f"the device has {live} live nodes, {granted} granted")
        flying = device.session._ahead.frames_flying
        must(flying <= live, "credits", f"{flying} frames in flight hold {live} live nodes")

    def device_drafts(self, device: DeviceProcess, work: DraftWork) -> None:
        """Check that a device drafts no more than it may send."""
        drafted, granted = len(device.session.ahead) + work.count, device.session.limits.live_nodes
        must(drafted <= granted, "credits", f"the device drafts {drafted} tokens, {granted} granted")

    def _opens(self, device: DeviceProcess, opened: Open) -> None:
        must(device not in self._superseded, "fence", "a superseded device opens another stream")
        journalled = max(record for record in (0, *device.journal.records) if isinstance(record, int))
        must(opened.epoch <= journalled, "journal first", f"epoch {opened.epoch} is not journalled")
        used = self._used[id(device.journal)]
        must(opened.epoch > max(used, default=0), "epochs", f"epoch {opened.epoch} after {max(used, default=0)}")
        named = self._named.get(device, 0)
        must(opened.epoch > named, "epochs", f"epoch {opened.epoch} though {named} was named")
        used.add(opened.epoch)

    def failed(self, device: DeviceProcess, edge: str, error: SpecError) -> None:
        """Check why an attempt or a stream failed."""
        must(not isinstance(error, BadReceipt), "receipts", f"{edge} refused an honest receipt")
        must(isinstance(error, USUAL), "refusals", f"{edge} refused an honest device: {error!r}")
        if isinstance(error, EdgeFault):
            must(edge in self.liars, "faults", f"honest {edge} is accused: {error}")
        if isinstance(error, StaleEpoch):
            self._named[device] = max(self._named.get(device, 0), error.highest_epoch)
        if isinstance(error, Superseded):
            must(self.twins, "fence", "superseded without a twin")
            self._superseded.add(device)

    # ---- the edge ----

    def edge_took(self, edge: EdgeProcess, stream: Stream, entry: Entry, frame: DeviceFrame) -> None:
        """Check a session after it took a frame."""
        live, granted = entry.session.live_nodes, edge.limits.live_nodes
        must(
            live <= granted or not entry.session.attached,
            "credits",
            f"{edge.name} counts {live} live nodes, {granted} granted",
        )
        self._sitting.pop(entry, None)
        if isinstance(frame, Open):
            self._began[entry] = entry.session.committed_length
        if isinstance(frame, Open) and edge.receipts is not None:
            self._presented(edge.receipts.name, stream, entry, frame)

    def _presented(self, key: bytes, stream: Stream, entry: Entry, opened: Open) -> None:
        """An answer is attested where this fleet wrote all of it, and if its receipt says so to one that is new."""
        if opened.session_id == THIEF:
            must(not opened.receipt.startswith(key), "receipts", "a receipt of another session was taken")
        fresh = entry.opened is opened
        if not self.model.near_ties and entry.session.attested and opened.length > self.prompt_length:
            written = self._signed.get((key, opened.session_id), 0)
            must(opened.length <= written, "receipts", f"{opened.length} attested, {written} written by the fleet")
        if fresh and not stream.proxied and self._receipts.get((key, opened.receipt)) == opened.length:
            must(entry.session.attested, "receipts", "a receipt of the fleet's own does not count")

    def edge_commits(self, edge: EdgeProcess, entry: Entry, commit: Commit) -> None:
        """Check text that an edge commits."""
        text = tuple(entry.session._text.ids[: commit.base])
        self.model.follows(text, commit.ids)
        must(commit.epoch == entry.session.epoch, "fence", f"text for epoch {commit.epoch}")
        if not self.model.near_ties and commit.base >= self._began[entry]:
            self.model.told(text, commit.ids, commit.origins)
        overruled = commit.origins[:1] == (Origin.RECOVERED,) and len(commit.ids) > self._beside.get(entry, 0) > 0
        if commit.base >= self._began[entry] and overruled:
            ahead = commit.length - entry.session._drafts.acked
            must(ahead <= edge.limits.ahead_tokens, "ahead", f"{ahead} ahead with what was held back")
        must(commit.spent >= self._spent.get(entry, 0.0), "meaning", "a risk that was spent is had back")
        self._spent[entry] = commit.spent
        if self.perfect:
            must(Origin.RECOVERED not in commit.origins, "acceptance", "a perfect draft was contradicted")
        if edge.receipts is None:
            return
        key, session_id = edge.receipts.name, entry.opened.session_id
        must(bool(commit.receipt) == entry.session.attested, "receipts", "receipts go with attested text")
        if commit.receipt:
            self._signed[key, session_id] = max(self._signed.get((key, session_id), 0), commit.length)
            self._receipts[key, commit.receipt] = commit.length

    def edge_runs(self, edge: EdgeProcess, entry: Entry, work: Pass) -> None:
        """Check that what a pass adds to the text without the device ends within what the edge may go ahead."""
        session = entry.session
        self._sitting.pop(entry, None)
        self._beside[entry] = len(session._state.provisional) if session._state.branches else 0
        if not work.span.wanted or session._state.token_due or (work.nodes and not work.own) or self._beside[entry]:
            return  # beside a branch the token behind what is held back counts when it is committed
        lengths = _lengths(work.span)[len(work.span.tokens) - work.own :] or [session._state.line_length]
        ahead = max(lengths) + 1 - session._drafts.acked
        must(ahead <= edge.limits.ahead_tokens, "ahead", f"{ahead} ahead, {edge.limits.ahead_tokens} granted")

    def edge_rests(self, edge: EdgeProcess, entry: Entry) -> None:
        """Check that a session has a reason to rest, and a wait for a draft.

        A wait ends, and takes no longer than what drafts can have saved, beginning with a pass.
        """
        session = entry.session
        self._deadlines(edge, session)
        until_s = session._state.sits_until_s
        may = session.wakes_s is None and _may_go_ahead(session)
        must(not may, "waits", "nothing will ever wake a session that could go ahead")
        if until_s is None or session.wakes_s is None:
            return
        since_s, asked = self._sitting.get(entry, (edge.now, 0))
        self._sitting[entry] = since_s, asked + 1
        must(until_s > edge.now, "waits", f"it is to wake at {until_s}, and it is {edge.now}")
        must(asked < MOST_ASKED, "waits", f"asked {asked} times, and nothing happened")
        most_s = (1 + session.committed_length - self.prompt_length) * self.longest_pass_s
        must(until_s - since_s <= most_s + 1e-6, "waits", f"it waits {until_s - since_s} s, {most_s} s at the most")

    def _deadlines(self, edge: EdgeProcess, session: EdgeSession) -> None:
        """Check that what a session holds back has a deadline ahead of it, no later than was agreed."""
        state = session._state
        if not session.attached or (state.held is None and not state.provisional.tokens):
            return
        agreed_s = HIDDEN_WAIT_S if state.held is not None else state.asked.provisional_s
        told = state.held is None and (session.in_flight or state.drafts.tree.nodes)
        until_s = session.wakes_s
        if until_s is None:
            must(bool(told), "waits", "nothing will ever release what is held back")
            return
        must(until_s <= edge.now + agreed_s + 1e-6 or bool(told), "waits", f"held back for {until_s - edge.now} s")
        must(until_s > edge.now, "waits", f"due since {until_s}, and it is {edge.now}")

    # ---- the end ----

    def over(self, devices: Sequence[DeviceProcess]) -> None:
        """Check what is left when nothing happens any more."""
        for device in devices:
            if device.over:
                must(self.model.stop(self._shown[device]) is not None, "order", "the end came before the last token")
            if self.perfect:
                must(device.session.tally.missed == 0, "acceptance", "a perfect draft was taken for a miss")
