"""One text from every schedule that the bench compares, over every channel, whatever is killed on the way.

In virtual time, by the fault world: its history checks each token that an edge commits or a user is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from random import Random

import pytest

from airdraft.core.types import Origin
from airdraft.link.channels import CHANNELS, constant
from airdraft.link.shaping import Air, Shape, Stream
from airdraft.link.timeline import Channel, Direction
from airdraft.link.virtual_time import Agenda, Delay
from bench.schedules import SCHEDULES
from tests.link.faults_actions import Step, happen
from tests.link.faults_trial import Setting, Trial, target
from tests.link.faults_wires import protobuf

LENGTH = 40
DRAFT_LENGTH = 4
FRAME_BYTES = 40
COURSE_S = 60.0
"""How much of a channel there is before it repeats."""

LINKS: dict[str, Callable[[int, float], Channel]] = CHANNELS | {
    "no link": partial(constant, rtt_s=0.0),
    "jittered": partial(constant, rtt_s=0.03, jitter_s=0.01),
    "long": partial(constant, rtt_s=0.3),
}

KILLS = {
    "nothing": (),
    "link": (Step("cut", pause=40), Step("cut amid a flight", pause=30, a=1, b=1, share=0.4)),
    "silent link": (Step("black hole", pause=40, share=0.3), Step("outage", pause=60, share=0.5)),
    "edge": (Step("kill edge", pause=40, b=1, share=0.2), Step("kill edge", pause=50, b=2, share=0.2)),
    "device": (Step("kill device", pause=40), Step("kill device", pause=30, b=3)),
}
"""What befalls a text, by name; a pause is events."""

SAMPLINGS = (0, 3)  # of the world's: greedy, and seeded with every penalty


def setting_of(name: str, sampling: int, seed: int) -> Setting:
    """Return a world in which device and edges follow a schedule of the bench."""
    schedule = SCHEDULES[name]
    plan = schedule.plan(DRAFT_LENGTH)
    return Setting(
        seed=seed,
        sampling=sampling,
        draft_length=plan.draft_length,
        outstanding=plan.outstanding,
        ahead=plan.ahead,
        first_alone=plan.first_alone,
        split=schedule.split,
        acceptance=0.8,
        max_tokens=LENGTH,
        pass_s=0.06,
        own_draft_tokens=schedule.own_length(DRAFT_LENGTH),
        own_lookup=schedule.edge_drafter == "ngram",
        run_ahead=schedule.run_ahead,
        bonus=schedule.bonus,
        rests=schedule.run_ahead,
    )


@cache
def channel_of(link: str, seed: int) -> Channel:
    return LINKS[link](seed, COURSE_S)


def delays(channel: Channel, random: Random, agenda: Agenda) -> tuple[Delay, Delay]:
    """Return what a frame takes over a link of its own on this channel, up and down."""

    def delay(way: Direction) -> Delay:
        stream = Stream(Shape(way), Air(way), random)
        return lambda: stream.arrival_s(agenda.now, FRAME_BYTES) - agenda.now

    return delay(channel.up), delay(channel.down)


@cache
def alone(sampling: int, seed: int) -> tuple[int, ...]:
    """Return prompt and answer as the target writes them by itself."""
    wish = Trial(setting_of("edge", sampling, seed)).world.scene.wish
    ids = list(wish.prompt)
    while len(ids) < len(wish.prompt) + LENGTH:
        ids.append(target(ids, wish.sampling, ids))
    return tuple(ids)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_text_is_the_targets_own(schedule: str, link: str) -> None:
    hit: Counter[str] = Counter()
    origins: Counter[Origin] = Counter()
    drawn = 0
    for seed, (sampling, kill) in enumerate(product(SAMPLINGS, KILLS)):
        channel, random = channel_of(link, seed), Random(seed)
        trial = Trial(setting_of(schedule, sampling, seed), protobuf(), ways=partial(delays, channel, random))
        for step in KILLS[kill]:
            hit[kill] += happen(trial, step)
        trial.settle()
        assert tuple(trial.world.devices[-1].session.ids) == alone(sampling, seed), kill
        for device in trial.world.devices:
            origins.update(device.session.tally.by_origin)
            drawn += device.session.tally.drawn
    assert set(+hit) == set(KILLS) - {"nothing"}, "each befell a text in the making"
    table = SCHEDULES[schedule]
    assert (origins[Origin.ACCEPTED] > 0) == table.device_drafts
    if table.edge_drafter != "ngram":  # these texts hardly repeat themselves
        assert (origins[Origin.EDGE_DRAFT] > 0) == (table.edge_drafter == "model")
    alone_there = origins[Origin.RUN_AHEAD] + origins[Origin.EDGE_DRAFT]  # without the device, first tokens included
    assert (alone_there > 4 * len(KILLS) * len(SAMPLINGS)) == (table.run_ahead or not table.device_drafts)
    assert (drawn > 0) == table.split
