"""All estimates together: a sample changes what it tells of and nothing else, and rounds cost what they cost."""

from __future__ import annotations

import random
from dataclasses import fields, replace

import pytest

from coordinator.policy.costs import PassCost
from coordinator.policy.estimates import (
    FRAME_BYTES,
    ID_BYTES,
    Drafted,
    DraftStep,
    Estimates,
    Judged,
    Passed,
    PassLine,
    Sample,
    Transfer,
)


@pytest.mark.parametrize(
    ("sample", "changed"),
    [
        (Sample(1.0), set()),
        (Sample(1.0, round_trip_s=0.05), {"round_trip"}),
        (Sample(1.0, up=Transfer(50, 0.02)), {"rates"}),
        (Sample(1.0, down=Transfer(50, 0.02)), {"rates"}),
        (Sample(1.0, lost=False), {"loss"}),
        (Sample(1.0, drafted=Drafted(4, 0.03)), {"draft"}),
        (Sample(1.0, passed=Passed(5, 0.03)), {"passes"}),
        (Sample(1.0, judged=Judged(4, 2)), {"acceptance"}),
    ],
)
def test_a_sample_changes_what_it_tells_of(sample: Sample, changed: set[str]) -> None:
    before = Estimates()
    after = before.updated(sample)
    assert {field.name for field in fields(Estimates) if getattr(before, field.name) != getattr(after, field.name)} == (
        changed
    )


def test_a_value_stays_what_it_was() -> None:
    line = PassLine().updated(1, 0.03)
    assert line.updated(9, 0.05).cost != line.cost
    assert line.cost == PassCost(0.03)
    assert PassLine().cost is None


def test_a_round_is_not_known_before_all_three_parts_are() -> None:
    whole = Sample(0.0, 0.05, drafted=Drafted(2, 0.016), passed=Passed(3, 0.03))
    for part in (replace(whole, round_trip_s=None), replace(whole, drafted=None), replace(whole, passed=None)):
        assert Estimates().updated(part).round_time() is None
    time = Estimates().updated(whole).round_time()
    assert time is not None
    assert (time.round_trip_s, time.draft_s, time.target) == (0.05, 0.008, PassCost(0.03))


def test_an_edges_own_line_comes_first() -> None:
    quoted = PassCost(0.02, 0.001)
    known = Estimates().updated(Sample(0.0, 0.05, drafted=Drafted(2, 0.016), passed=Passed(3, 0.03)))
    time = known.round_time(quoted)
    assert time is not None
    assert time.target == quoted


def test_serialisation_is_told_from_propagation() -> None:
    """50 kbit/s up: each id adds 0.64 ms to a round, whatever the length of the drafts that were sampled."""
    chance, known = random.Random(2), Estimates()
    for index in range(40):
        drafted = chance.randint(1, 16)
        up = Transfer(FRAME_BYTES + ID_BYTES * drafted, (FRAME_BYTES + ID_BYTES * drafted) / 6250)
        trip_s = 0.06 + up.seconds + chance.gauss(0, 0.0005)
        sample = Sample(0.2 * index, trip_s, up._replace(seconds=trip_s), drafted=Drafted(drafted, 0.008 * drafted))
        known = known.updated(replace(sample, passed=Passed(drafted + 1, 0.03)))
    time = known.round_time()
    assert time is not None
    assert time.id_s == pytest.approx(4 / 6250, rel=0.1)
    assert time.round_trip_s == pytest.approx(0.06 + FRAME_BYTES / 6250, rel=0.05)
    assert time.seconds(10) == pytest.approx(0.06 + (FRAME_BYTES + 40) / 6250 + 0.08 + 0.03, rel=0.03)


def test_a_cautious_round_trip_is_longer() -> None:
    known = Estimates().updated(Sample(0.0, drafted=Drafted(1, 0.008), passed=Passed(1, 0.03)))
    for index in range(30):
        known = known.updated(Sample(0.01 * index, 0.05 + 0.001 * (index % 10)))
    usual, cautious = known.round_time(), known.round_time(quantile=0.9)
    assert usual is not None
    assert cautious is not None
    assert cautious.round_trip_s > usual.round_trip_s + 0.002


def test_a_draft_step_shrugs_off_spikes() -> None:
    step = DraftStep()
    for index in range(30):
        step = step.updated(4, 0.2 if index % 7 == 3 else 0.032, 0.1 * index)
    assert step.step_s == pytest.approx(0.008)
    with pytest.raises(ValueError, match="are none"):
        step.updated(0, 0.1, 4.0)
