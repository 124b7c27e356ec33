"""Where a synchronous frame ends: the session's draft-length policy, asked between two tokens of the drafter's.

The policy lives on the event loop, where it learns; the drafter works on its own thread. So that they share nothing, a
frame takes a copy of the policy when its work begins, and asks that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

from airdraft.core.drafting import Drafter, confidences_of
from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.costs import PassCost
from coordinator.policy.draft_length import POLICIES, DraftLength, Fixed, Network
from coordinator.policy.mlp import from_json
from coordinator.policy.rounds import LONGEST, Drafting, Outcome, RoundTime

_TRAINED = "mlp:"
_NOTHING_KNOWN = Drafting(RoundTime(0.0, 0.0, PassCost(0.0)), AcceptanceByPosition())  # ``Fixed`` looks at none of it


def policy_of(name: str) -> DraftLength:
    """Return a new policy of this name, or for ``mlp:FILE`` a network of one's own, as ``train-draft-length`` wrote it.

    Raises ValueError where the name is none or the file cannot be read, saying what would do.
    """
    if name.startswith(_TRAINED):
        path = name.removeprefix(_TRAINED)
        try:
            with open(path, encoding="utf-8") as file:
                return Network(from_json(file.read()))
        except OSError as error:
            raise ValueError(f"draft policy {name}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"draft policy {name}: {error}") from None
    if name not in POLICIES:
        raise ValueError(f"draft policy {name} is none of {', '.join(POLICIES)}, {_TRAINED}FILE")
    return POLICIES[name]()


class Frame:
    """One frame in the making, or the rest of it: how far it is drafted. A snapshot; nothing reaches it from outside.

    ``propose`` is called once, on the drafter's thread; ``confidences`` are read when it is done.
    """

    def __init__(self, policy: DraftLength, known: Drafting, *, confident: bool) -> None:
        """Begin or go on with a frame.

        policy     asked by this frame alone
        known      what is known now; ``drafted`` and ``confidences`` are of what the frame has already
        confident  the drafter says how sure it is, and said it of those
        """
        self._policy, self._known, self._confident = policy, known, confident
        # Some policies decide when a draft begins and stand by it. Where nothing is learnt between two tokens, the
        # length of all is known before the first: not every drafter asks between them.
        self.length = self._asked_beforehand() if not confident else LONGEST if self._begun() else 0
        self.confidences = known.confidences if confident else ()

    def propose(self, drafter: Drafter, path: Sequence[int], count: int, void: Callable[[], bool]) -> list[int]:
        """Return up to ``count`` further tokens of the frame: ``drafter.propose``, ended where the policy says so.

        ``void`` is the work's own ``cancelled``. Fewer tokens than asked for end the frame, as those of a drafter that
        has no more to say: ``DeviceSession.drafted`` sends them.
        """
        most = min(count, self.length - self._known.drafted)
        if most < 1 or self.stops(()):
            return []
        if not self._confident:
            return drafter.propose(path, most, void)
        written = drafter.propose(path, most, self._cancelled(drafter, void))
        sure = confidences_of(drafter) or ()
        self.confidences = (*self._known.confidences, *sure[: len(written)])
        return written

    def stops(self, confidences: Sequence[float]) -> bool:
        """Say whether the policy ends the frame behind tokens of these confidences, which came since this was made."""
        known = self._known
        drafted = known.drafted + len(confidences)
        if not drafted:
            return False  # whether to draft at all is the plan's
        now = replace(known, drafted=drafted, confidences=(*known.confidences, *confidences))
        return self._policy.length(now) <= drafted

    def _cancelled(self, drafter: Drafter, void: Callable[[], bool]) -> Callable[[], bool]:
        """Return what the proposal asks whether to end: ``void`` each time, the policy once for each token.

        A drafter asks in the midst of a token too. Then no further confidence is there, and the policy is not asked: it
        ends a proposal between two tokens, never in one.
        """
        asked, ended = 0, False

        def cancelled() -> bool:
            nonlocal asked, ended
            sure = confidences_of(drafter) or ()
            if len(sure) > asked:
                asked, ended = len(sure), ended or self.stops(sure)
            return ended or void()

        return cancelled

    def _begun(self) -> Drafting:
        now = replace(self._known, drafted=0, confidences=())
        self._policy.length(now)
        return now

    def _asked_beforehand(self) -> int:
        now = self._begun()
        while now.drafted < (length := self._policy.length(now)):
            now = replace(now, drafted=length)
        return now.drafted


class FramePolicy:
    """A session's draft-length policy, on the event loop: one frame after the other, and what became of each."""

    def __init__(self, policy: DraftLength, drafter: Drafter) -> None:
        """Let ``policy``, this session's own, say how far ``drafter`` drafts."""
        self._policy, self._drafter = policy, drafter
        self._frame: Frame | None = None

    def frame(self, known: Drafting | None, written: int = 0) -> Frame:
        """Return the frame that is begun now, or gone on with.

        known    costs and acceptance as estimated; None while they are not: ``USUAL_LENGTH`` tokens
        written  tokens that the frame in the making has already: a commit may cut its drafting short and agree with it
        """
        before = self._frame.confidences[-written:] if self._frame is not None and written else ()
        confident = confidences_of(self._drafter) is not None and len(before) == written
        begun = replace(known or _NOTHING_KNOWN, drafted=written, confidences=before if confident else ())
        policy = Fixed() if known is None else copy.copy(self._policy)
        self._frame = Frame(policy, begun, confident=confident)
        return self._frame

    def saw(self, outcome: Outcome) -> None:
        """Learn from a frame that was judged; ``Frame.confidences`` are what was known of its tokens."""
        self._policy.saw(outcome)


__all__ = ["Frame", "FramePolicy", "policy_of"]
