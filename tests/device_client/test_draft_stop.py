"""Where frames end: between two tokens, by a snapshot of the policy; the session sends what is there and goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from airdraft.core.drafting import NgramDrafter, confidences_of
from airdraft.core.paths import HashedPath, root_hash
from airdraft.core.session import DeviceSession, Overtaking
from airdraft.core.types import Commit, Draft, Limits, Opened, Origin
from airdraft.link.pacing import NoisyDrafter, PacedDrafter, Pacer
from coordinator.policy.acceptance import AcceptanceByPosition
from coordinator.policy.costs import PassCost
from coordinator.policy.draft_length import (
    ARMS,
    POLICIES,
    USUAL_LENGTH,
    Bandit,
    Confidence,
    MaxGoodput,
    Network,
    SpecDecPlusPlus,
)
from coordinator.policy.mlp import shipped
from coordinator.policy.rounds import LONGEST, Drafting, Outcome, RoundTime
from device_client.draft_stop import Frame, FramePolicy, policy_of
from tests.core.worlds import IDENTITY, make_device

KNOWN = Drafting(RoundTime(0.06, 0.008, PassCost(0.03, 0.0003)), AcceptanceByPosition())
SURE = (0.9, 0.8, 0.3, 0.9, 0.9, 0.9, 0.9, 0.9)


def never() -> bool:
    return False


@dataclass
class SureDrafter:
    """Writes the path's length at each position; as sure as it is told; asks four times in the midst of a token."""

    sure: Sequence[float] = SURE
    confidences: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # what it was asked for

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        self.counts.append(count)
        self.confidences, written = [], list(path)
        while len(written) < len(path) + count and not cancelled():
            if any(cancelled() for _ in range(4)):
                break
            written.append(len(written))
            self.confidences.append(self.sure[len(self.confidences) % len(self.sure)])
        return written[len(path) :]

    def learn(self, ids: Sequence[int]) -> None:
        pass


class ListedDrafter:
    """Writes all that it is asked for at once, and never says how sure it is."""

    def propose(self, path: Sequence[int], count: int, cancelled: Callable[[], bool]) -> list[int]:
        return list(range(len(path), len(path) + count))

    def learn(self, ids: Sequence[int]) -> None:
        pass


@dataclass
class Asked:
    """A policy that ends a draft at ``most`` tokens and keeps what it was asked."""

    most: int
    asked: list[Drafting] = field(default_factory=list)

    def length(self, now: Drafting) -> int:
        self.asked.append(now)
        return min(now.drafted + 1, self.most)

    def saw(self, outcome: Outcome) -> None:
        pass


def test_a_frame_ends_behind_the_first_doubt() -> None:
    drafter = SureDrafter()
    frame = FramePolicy(Confidence(0.6), drafter).frame(KNOWN)
    assert frame.propose(drafter, [7, 7], 8, never) == [2, 3, 4]
    assert frame.confidences == (0.9, 0.8, 0.3)


def test_the_policy_is_asked_once_a_token_however_often_the_drafter_asks() -> None:
    policy, drafter = Asked(4), SureDrafter()
    frame = Frame(policy, KNOWN, confident=True)
    assert frame.propose(drafter, [7], 8, never) == [1, 2, 3, 4]
    assert [now.drafted for now in policy.asked] == [0, 1, 2, 3, 4]
    assert policy.asked[-1].confidences == SURE[:4]


def test_void_work_ends_in_the_midst_of_a_token() -> None:
    times, drafter = count(), SureDrafter()
    frame = Frame(Asked(8), KNOWN, confident=True)
    assert frame.propose(drafter, [7], 8, lambda: next(times) >= 12) == [1, 2]
    assert frame.confidences == SURE[:2]


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_drafts_more_than_was_asked_for(name: str) -> None:
    drafter = SureDrafter((1.0,))
    assert len(FramePolicy(POLICIES[name](), drafter).frame(KNOWN).propose(drafter, [7], 2, never)) == 2


@pytest.mark.parametrize("name", ["fixed", "max-goodput", "bandit", "mlp"])
def test_where_confidences_are_not_looked_at_the_drafter_having_them_changes_nothing(name: str) -> None:
    drafted = [
        len(FramePolicy(POLICIES[name](), drafter).frame(KNOWN).propose(drafter, [7], LONGEST, never))
        for drafter in (SureDrafter(), ListedDrafter())
    ]
    assert drafted == [POLICIES[name]().length(KNOWN)] * 2


def test_a_drafter_that_never_says_how_sure_it_is_is_told_the_length_beforehand() -> None:
    for policy, length in ((Confidence(), USUAL_LENGTH), (SpecDecPlusPlus(), MaxGoodput().length(KNOWN))):
        drafter = ListedDrafter()
        frame = FramePolicy(policy, drafter).frame(KNOWN)
        assert frame.length == length
        assert len(frame.propose(drafter, [7], LONGEST, never)) == length
        assert frame.confidences == ()


def test_before_costs_are_known_a_frame_has_the_usual_length() -> None:
    drafter = SureDrafter()
    frame = FramePolicy(SpecDecPlusPlus(), drafter).frame(None)
    assert len(frame.propose(drafter, [7], LONGEST, never)) == USUAL_LENGTH
    assert frame.confidences == SURE[:USUAL_LENGTH]


def test_the_rest_of_a_frame_counts_what_it_has_already() -> None:
    """A commit cut the drafting and agreed with a part of it: of five tokens written two are left to send."""
    drafter = SureDrafter((0.9, 0.8, 0.9, 0.7, 0.95))
    policy = FramePolicy(Confidence(0.6), drafter)
    policy.frame(KNOWN).propose(drafter, [7], 5, never)
    rest = policy.frame(KNOWN, written=2)
    drafter.sure = (0.9, 0.2, 0.9)
    assert rest.propose(drafter, [7, 1, 2, 3, 4, 5], 8, never) == [6, 7]
    assert rest.confidences == (0.7, 0.95, 0.9, 0.2)
    doubted = policy.frame(KNOWN, written=4)
    assert doubted.propose(drafter, [7], 8, never) == []
    strange = policy.frame(KNOWN, written=6)  # more than it knows of
    assert len(strange.propose(drafter, [7], 8, never)) == 0
    assert strange.confidences == ()


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_learnt_meanwhile_does_not_reach_a_frame_at_work(name: str) -> None:
    taught, untaught = POLICIES[name](), POLICIES[name]()
    policy, drafters = FramePolicy(taught, SureDrafter()), (SureDrafter(), SureDrafter())
    frame, alone = policy.frame(KNOWN), FramePolicy(untaught, drafters[1]).frame(KNOWN)
    for _ in range(100):
        policy.saw(Outcome(8, 0, (0.9,) * 8))
    drafted = [len(one.propose(drafter, [7], 8, never)) for one, drafter in zip((frame, alone), drafters, strict=True)]
    assert drafted[0] == drafted[1]


def test_what_is_learnt_reaches_the_next_frame() -> None:
    for policy in (FramePolicy(SpecDecPlusPlus(), SureDrafter()), FramePolicy(Bandit(), NgramDrafter())):
        before = policy.frame(KNOWN)
        for _ in range(100):
            policy.saw(Outcome(8, 0, (0.9,) * 8))
        after = policy.frame(KNOWN)
        assert not before.stops((0.9,))
        assert after.stops((0.9,))


def test_wrapped_drafters_pass_on_how_sure_they_are() -> None:
    clock = count()
    pacer = Pacer(lambda: float(next(clock)), lambda seconds: None)
    inner = SureDrafter((0.9, 0.8, 0.7))
    for wrapped in (PacedDrafter(inner, 0.5, pacer), NoisyDrafter(inner, 0.5, 3, 64)):
        assert len(wrapped.propose([7], 3, never)) == 3
        assert confidences_of(wrapped) == [0.9] * 3  # the inner one is asked for a token at a time
        frame = FramePolicy(Asked(2), wrapped).frame(KNOWN)
        assert len(frame.propose(wrapped, [7], 8, never)) == 2
        assert frame.confidences == (0.9, 0.9)
    assert confidences_of(PacedDrafter(NgramDrafter(), 0.5, pacer)) is None
    assert confidences_of(NoisyDrafter(NgramDrafter(), 0.5, 3, 64)) is None


# ---- in a session ----


def committed(session: DeviceSession, ids: Sequence[int], *origins: Origin) -> Commit:
    path = HashedPath(root_hash(IDENTITY))
    path.extend([*session.ids, *ids])
    base = len(session.ids)
    return Commit(session.epoch, base, tuple(ids), base + len(ids), path.end, 0, origins)


def drafted(session: DeviceSession, policy: FramePolicy, drafter: SureDrafter) -> list[Draft]:
    """Let one work of the session's be done; return the drafts that leave."""
    work = session.draft_work()
    assert work is not None
    tokens = policy.frame(KNOWN, len(session.ahead)).propose(drafter, work.path, work.count, never)
    return [frame for frame in session.drafted(work, tokens) if isinstance(frame, Draft)]


@pytest.mark.parametrize("agreed", [0, 1, 2, 3])
def test_a_frame_that_the_policy_ended_is_sent_and_the_next_one_drafted_as_ever(agreed: int) -> None:
    drafter = SureDrafter()
    policy = FramePolicy(Confidence(0.6), drafter)
    session = make_device(draft_length=LONGEST, max_tokens=200)
    session.attach(1, with_prefix=False)
    session.received(Opened(1, 3, 3, Limits(context_tokens=4096)))
    for turn in range(3):
        (frame,) = drafted(session, policy, drafter)
        start = len(session.ids)
        assert frame.ids == (start, start + 1, start + 2), turn
        assert session.draft_work() is None, "it waits for the answer"
        answer = [*frame.ids[:agreed], 49]
        assert not any(
            isinstance(output, Draft) and output.ids
            for output in session.received(
                committed(
                    session, answer, *[Origin.ACCEPTED] * agreed, Origin.RECOVERED if agreed < 3 else Origin.BONUS
                )
            )
        )
    assert session.tally.frames == 3
    assert drafter.counts == [LONGEST] * 3


def test_what_a_frame_that_the_policy_ended_took_is_the_drafters_pace() -> None:
    """Without it a plan would never be made: the session asks for more than any policy lets it have."""
    drafter, now_s = SureDrafter(), 0.0
    session = make_device(draft_length=LONGEST)
    session.overtaking = Overtaking(lambda: now_s, lambda: None)
    policy = FramePolicy(Confidence(0.6), drafter)
    session.attach(1, with_prefix=False)
    work = session.draft_work()
    assert work is not None
    tokens = policy.frame(KNOWN).propose(drafter, work.path, work.count, never)
    now_s += 0.06
    session.drafted(work, tokens)
    session.received(committed(session, [*tokens, 49], *[Origin.ACCEPTED] * 3, Origin.BONUS))
    work = session.draft_work()
    assert work is not None
    tokens = policy.frame(KNOWN).propose(drafter, work.path, work.count, never)
    now_s += 0.03
    session.drafted(work, tokens)
    assert session.overtaking.last_draft is not None
    assert session.overtaking.last_draft == pytest.approx((3, 0.03))


# ---- by name ----


def test_policies_by_name_are_each_sessions_own() -> None:
    for name, kind in POLICIES.items():
        assert type(policy_of(name)) is kind
    assert policy_of("bandit") is not policy_of("bandit")


def test_a_network_of_ones_own_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    mlp = copy.deepcopy(shipped())
    mlp.out[:] = 0.0
    file.write_text(mlp.to_json())
    own = policy_of(f"mlp:{file}")
    assert isinstance(own, Network)
    assert own.length(KNOWN) == Network(mlp).length(KNOWN) in ARMS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{}", "are not weights"),
        ("[1, 2]", "are not weights"),
        ("{", "are not weights"),
        ('{"features": ["acceptance"], "hidden": [], "bias": [], "out": []}', "train them again"),
    ],
)
def test_a_file_that_holds_no_network_is_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "weights.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=f"^draft policy mlp:{file}: .*{said}[^\n]*$"):
        policy_of(f"mlp:{file}")


def test_an_unknown_policy_names_the_ones_there_are() -> None:
    with pytest.raises(ValueError, match=r"^draft policy sure is none of fixed, .*, mlp:FILE$"):
        policy_of("sure")
