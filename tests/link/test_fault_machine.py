"""The fault machine: whatever befalls links, edges and devices, the user sees the target's text, once, to its end.

The rules are faults and the passing of time, in virtual time; ``faults_history`` looks at every frame as it is sent and
at all that is shown. The bench ``faults`` draws thousands of such schedules from the same actions.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airdraft.core.session import EdgeSession
from tests.core.worlds import VOCABULARY
from tests.link.faults_actions import FAULTS, Step, happen
from tests.link.faults_history import Caught
from tests.link.faults_meaning import PROTOCOLS
from tests.link.faults_schedules import Schedule, draw, play, shrunk
from tests.link.faults_trial import Setting, Trial
from tests.link.faults_wires import protobuf

OF_LINKS = ("cut", "cut amid a flight", "no way", "black hole", "outage", "slice", "half-close", "replay", "thief")
OF_EDGES = ("kill edge", "zombie edge", "evict rows", "evict ids", "refuse frame", "drain", "stop edge", "lie")
OF_DEVICES = ("kill device", "stop device", "twin", "replan")
OF_JOURNALS = ("roll journal back", "lose journal")

CREDITS = st.sampled_from([1, 2, 3, 8, 256])
NUMBERS: dict[str, Any] = {
    "a": st.integers(0, 7),
    "b": st.integers(0, 11),
    "share": st.integers(0, 16).map(lambda sixteenth: sixteenth / 16),
    "pause": st.sampled_from([0, 1, 2, 4, 8, 16, 32]),
}
SETTINGS = st.builds(
    Setting,
    seed=st.integers(0, 2**32),
    edges=st.integers(2, 3),
    keys=st.integers(0, 2),
    draft_length=st.integers(0, 12),
    outstanding=st.sampled_from([1, 2, 3, 4, 64]),
    ahead=st.integers(0, 2),
    first_alone=st.booleans(),
    bonus=st.booleans(),
    split=st.booleans(),
    rests=st.booleans(),
    acceptance=st.sampled_from([0.0, 0.3, 0.7, 0.9, 1.0]),
    mute_every=st.sampled_from([0, 2, 5]),
    live_nodes=CREDITS,
    live_nodes_elsewhere=CREDITS,
    ahead_tokens=st.sampled_from([1, 2, 5, 64]),
    chunk=st.sampled_from([1, 3, 64]),
    prompt=st.integers(1, 40),
    max_tokens=st.integers(0, 60),
    stops=st.lists(st.integers(0, VOCABULARY - 1), max_size=2).map(tuple),
    delay_s=st.sampled_from([0.005, 0.02, 0.1]),
    pass_s=st.sampled_from([0.01, 0.3]),
    clock_offset_s=st.sampled_from([0.0, 1e6]),
    give_up_s=st.sampled_from([1e9, 20.0, 0.0]),
    own_draft_tokens=st.sampled_from([0, 1, 4]),
    near_ties=st.sampled_from([0.0, 0.0, 0.1]),
    dies=st.booleans(),
    siblings=st.booleans(),
    run_ahead=st.booleans(),
    meaning=st.sampled_from(["", "", *PROTOCOLS]),
    harmless=st.sampled_from([0.0, 0.5, 1.0]),
    stateless=st.sampled_from([0.0, 0.3]),
    strictness=st.sampled_from([1.0, 1.0, 0.0]),
    provisional_s=st.sampled_from([0.0, 0.05, 0.3, 5.0]),
).filter(lambda setting: not (setting.meaning and setting.siblings and setting.near_ties))
"""At a near tie a proxy's sibling may stand by meaning, which no device has drafted."""


class FaultMachine(RuleBasedStateMachine):
    """A generation under faults; its teardown stops them, and the text must be finished."""

    samplings = st.just(0)

    def __init__(self) -> None:
        super().__init__()
        self.trial: Trial | None = None
        self.caught = False

    @initialize(data=st.data(), setting=SETTINGS, on_the_wire=st.booleans())
    def begin(self, data: st.DataObject, setting: Setting, on_the_wire: bool) -> None:
        setting = replace(setting, sampling=data.draw(self.samplings))
        self.trial = Trial(setting, protobuf() if on_the_wire else None)

    @property
    def going_on(self) -> bool:
        """Return whether there is still a text to be disturbed."""
        return self.trial is not None and not self.trial.world.finished

    def happens(self, kind: str, **numbers: float) -> None:
        assert self.trial is not None
        try:
            happen(self.trial, Step(kind, **numbers))  # type: ignore[arg-type]
        except Caught:
            self.caught = True
            raise

    @precondition(lambda self: self.going_on)
    @rule(kind=st.sampled_from(OF_LINKS), **NUMBERS)
    def a_link_fails(self, kind: str, **numbers: float) -> None:
        self.happens(kind, **numbers)

    @precondition(lambda self: self.going_on)
    @rule(kind=st.sampled_from(OF_EDGES), **NUMBERS)
    def an_edge_fails(self, kind: str, **numbers: float) -> None:
        self.happens(kind, **numbers)

    @precondition(lambda self: self.going_on)
    @rule(kind=st.sampled_from(OF_DEVICES), **NUMBERS)
    def a_device_fails(self, kind: str, **numbers: float) -> None:
        self.happens(kind, **numbers)

    @precondition(lambda self: self.going_on)
    @rule(kind=st.sampled_from(OF_JOURNALS), **NUMBERS)
    def a_journal_fails(self, kind: str, **numbers: float) -> None:
        self.happens(kind, **numbers)

    @precondition(lambda self: self.going_on)
    @rule(**NUMBERS)
    def time_passes(self, **numbers: float) -> None:
        self.happens("wait", **numbers)

    @precondition(lambda self: self.trial is not None and self.trial.world.finished)
    @rule()
    def another_text_begins(self) -> None:
        assert self.trial is not None
        self.trial.settle()
        self.trial = Trial(replace(self.trial.setting, seed=self.trial.setting.seed + 1))

    @invariant()
    def what_a_device_holds_is_right(self) -> None:
        if self.trial is not None:
            model = self.trial.history.model
            for device in self.trial.world.running:
                model.follows(model.prompt, device.session.ids[len(model.prompt) :])

    @invariant()
    def credits_are_kept(self) -> None:
        if self.trial is not None:
            for edge, entry in self.trial.world.entries:
                assert entry.session.live_nodes <= edge.limits.live_nodes or not entry.session.attached

    def teardown(self) -> None:
        if self.trial is not None and not self.caught:
            self.trial.settle()


class SeededFaultMachine(FaultMachine):
    """The same at other temperatures than 0."""

    samplings = st.integers(1, 3)


LIMITS = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestGreedyText = FaultMachine.TestCase
TestGreedyText.settings = LIMITS
TestSeededText = SeededFaultMachine.TestCase
TestSeededText.settings = LIMITS


def test_every_fault_is_in_a_rule() -> None:
    assert sorted([*OF_LINKS, *OF_EDGES, *OF_DEVICES, *OF_JOURNALS, "wait"]) == sorted(FAULTS)


def test_every_fault_befalls_a_text_in_the_making() -> None:
    applied: Counter[str] = Counter()
    for seed in range(100):
        applied += play(draw(seed, seeded=bool(seed % 2))).applied
    assert set(applied) == set(FAULTS) - {"wait"}


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_gives_the_same_history_each_time(seed: int) -> None:
    schedule = draw(seed, seeded=bool(seed % 2))
    first, second = play(schedule), play(schedule, protobuf())
    assert (first.applied, first.finish_s) == (second.applied, second.finish_s)


def test_a_failing_list_of_steps_is_made_short() -> None:
    class Forgetful(EdgeSession):
        def evicted(self, *, ids_too: bool = False) -> list[object]:  # type: ignore[override]
            self._rows.length = 0 if ids_too else self._rows.length
            return []

    schedules = (draw(seed, seeded=False) for seed in range(1000))
    schedule = next(one for one in schedules if _check(one, Forgetful) == "crash")
    short = shrunk(schedule, "crash", core=Forgetful)
    assert len(short.steps) < len(schedule.steps)
    assert _check(short, Forgetful) == "crash"
    for index in range(len(short.steps)):
        assert _check(Schedule(short.setting, _without(short.steps, index)), Forgetful) != "crash"


def _check(schedule: Schedule, core: type[EdgeSession]) -> str | None:
    caught = play(schedule, core=core).caught
    return caught.check if caught is not None else None


def _without(steps: tuple[Step, ...], index: int) -> tuple[Step, ...]:
    return tuple(chain(steps[:index], steps[index + 1 :]))


def test_clocks_start_anywhere() -> None:
    """The two ends share no clock: a world gives the same text whatever their clocks say."""
    chance = random.Random(0)
    for _ in range(20):
        schedule = draw(chance.getrandbits(32), seeded=False)
        for offset_s in (0.0, 1e6):
            assert play(replace(schedule, setting=replace(schedule.setting, clock_offset_s=offset_s))).caught is None


@pytest.mark.parametrize("own_draft_tokens", [0, 4])
def test_in_ten_minutes_of_silence_nothing_grows(own_draft_tokens: int) -> None:
    """Whoever drafts on stops at its bound, and so does whoever runs ahead; then the text goes on."""
    setting = Setting(draft_length=1, outstanding=64, run_ahead=True, max_tokens=60, own_draft_tokens=own_draft_tokens)
    trial = Trial(replace(setting, live_nodes=8, live_nodes_elsewhere=8, ahead_tokens=16))
    world = trial.world
    world.agenda.run(events=60)
    (device,), sizes = world.devices, []
    for name in world.edges:
        world.darken(device.name, name, 600.0, lost=False)
    for _ in range(10):
        world.agenda.run(seconds=50.0)
        (entry,) = [entry for _, entry in world.entries]
        assert len(device.session.ahead) <= 8
        assert entry.session.committed_length - entry.session._drafts.acked <= 16
        sizes.append((entry.session.committed_length, len(device.session.ahead), len(device.journal.ids)))
    assert not world.finished
    assert len(set(sizes)) == 1
    trial.settle()
