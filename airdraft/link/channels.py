"""The synthetic channels that ship with the project, by name.

Each is a function of a seed and a duration; its docstring names where its form comes from. Their figures are round
ones for the kind of link, no operator's. All but ``walk``, which fits its path to the duration, only grow at the end
when the duration does.
"""

from __future__ import annotations

import numpy as np

from airdraft.core.radio_facts import RadioFacts
from airdraft.link.cellular import markov_lte, walk
from airdraft.link.random_processes import dwelling, gauss_markov, lognormal, neighbouring, repetitions
from airdraft.link.timeline import (
    MBIT_S,
    NO_CELL,
    Channel,
    Constructor,
    Direction,
    Radio,
    Series,
    steps_in,
)

__all__ = [
    "CHANNELS",
    "MBIT_S",
    "NO_CELL",
    "Channel",
    "Direction",
    "Radio",
    "RadioFacts",
    "constant",
    "geo_satellite",
    "gilbert_elliott",
    "leo_satellite",
    "markov_lte",
    "walk",
    "wifi",
]

SWAP = ((0.0, 1.0), (1.0, 0.0))  # jump chances of two states


def constant(
    seed: int,
    duration_s: float,
    *,
    up_rate_bytes_s: float = 10 * MBIT_S,
    down_rate_bytes_s: float = 50 * MBIT_S,
    rtt_s: float = 0.04,
    jitter_s: float = 0.0,
    step_s: float = 0.01,
) -> Channel:
    """Return a link that does not change but for jitter: half the round trip each way, and an exponential excess.

    ``jitter_s`` is mean and standard deviation of the excess each way, as a queue of random arrivals has it.
    """
    count = steps_in(duration_s, step_s)
    up_chance, down_chance = np.random.default_rng(seed).spawn(2)
    return Channel(
        name="constant",
        up=Direction(step_s, np.full(count, up_rate_bytes_s), rtt_s / 2 + up_chance.exponential(jitter_s, count)),
        down=Direction(step_s, np.full(count, down_rate_bytes_s), rtt_s / 2 + down_chance.exponential(jitter_s, count)),
        seed=seed,
    )


def gilbert_elliott(
    seed: int,
    duration_s: float,
    *,
    good_s: float = 4.0,
    bad_s: float = 0.3,
    good_loss: float = 0.01,
    bad_loss: float = 1.0,
    up_rate_bytes_s: float = 5 * MBIT_S,
    down_rate_bytes_s: float = 20 * MBIT_S,
    rtt_s: float = 0.05,
    repeat_s: float = 0.008,
    step_s: float = 0.01,
) -> Channel:
    """Return a link with bursts of loss: good and bad states of exponential dwell, both directions alike.

    Source: Gilbert 1960 (a bad state that loses all, the default) and Elliott 1963 (a loss of its own in each state),
    Bell System Technical Journal 39 and 42. The link repeats what it loses: loss takes its share of the rate, all of
    it at 1, and each repetition costs ``repeat_s``. Starts in the good state.
    """
    count = steps_in(duration_s, step_s)
    states_chance, up_chance, down_chance = np.random.default_rng(seed).spawn(3)
    bad = dwelling(states_chance, count, step_s, dwell_s=(good_s, bad_s), jump=SWAP) == 1
    loss = np.where(bad, bad_loss, good_loss)
    repeated = np.where(loss < 1, loss, 0.0)  # where all is lost, nothing arrives to be late
    return Channel(
        name="gilbert-elliott",
        up=Direction(
            step_s, up_rate_bytes_s * (1 - loss), rtt_s / 2 + repeat_s * repetitions(up_chance, count, repeated)
        ),
        down=Direction(
            step_s, down_rate_bytes_s * (1 - loss), rtt_s / 2 + repeat_s * repetitions(down_chance, count, repeated)
        ),
        seed=seed,
    )


CONTENDERS = (0, 1, 2, 4)  # other stations with something to send
CONTENDERS_DWELL_S = (6.0, 4.0, 3.0, 2.0)
FRAME_S = 0.0025  # one aggregated frame on the air
SLOT_S = 9e-6
WINDOW = 16  # slots, IEEE 802.11 CWmin + 1


def wifi(
    seed: int,
    duration_s: float,
    *,
    up_rate_bytes_s: float = 80 * MBIT_S,
    down_rate_bytes_s: float = 100 * MBIT_S,
    base_rtt_s: float = 0.012,
    clear_s: float = 15.0,
    stall_s: float = 0.15,
    step_s: float = 0.01,
) -> Channel:
    """Return a Wi-Fi link that shares its air with 0 to 4 stations and stalls now and then.

    Every station has the same chance to send (IEEE 802.11 distributed coordination): the rate is divided among them,
    and a frame waits for a part of each one's frame, its own back-off, and a frame and a doubled window for each
    collision; the chance of one is that of Bianchi (IEEE JSAC 18, 2000) without doubling. The rate fades by 10 % over
    0.5 s. Stalls (a scan of other frequencies, an interfering burst) come after exponential times of mean
    ``clear_s`` and last exponential times of mean ``stall_s``; both directions stall.
    """
    count = steps_in(duration_s, step_s)
    air, stalls, fades, up_chance, down_chance = np.random.default_rng(seed).spawn(5)
    states = dwelling(air, count, step_s, dwell_s=CONTENDERS_DWELL_S, jump=neighbouring(len(CONTENDERS)))
    others = np.array(CONTENDERS, dtype=np.float64)[states]
    clear = dwelling(stalls, count, step_s, dwell_s=(clear_s, stall_s), jump=SWAP) == 0
    share = clear * lognormal(gauss_markov(fades, count, step_s, 0.5), 1.0, 0.1) / (1 + others)
    return Channel(
        name="wifi",
        up=Direction(step_s, up_rate_bytes_s * share, base_rtt_s / 2 + _contention_s(up_chance, others)),
        down=Direction(step_s, down_rate_bytes_s * share, base_rtt_s / 2 + _contention_s(down_chance, others)),
        seed=seed,
    )


def _contention_s(chance: np.random.Generator, others: Series) -> Series:
    """Return what a frame waits for the air, [T], beside so many other stations, [T]."""
    wait, backoff, collisions = chance.spawn(3)
    sends = 2 / (WINDOW + 1)
    collided = repetitions(collisions, len(others), 1 - (1 - sends) ** others).clip(max=6)
    window_s = SLOT_S * WINDOW * 2.0**collided
    return (
        FRAME_S * others * wait.random(len(others))
        + window_s * backoff.random(len(others))
        + FRAME_S * collided
        + FRAME_S
    )


SLOT_OF_LEO_S = 15.0


def leo_satellite(
    seed: int,
    duration_s: float,
    *,
    up_rate_bytes_s: float = 15 * MBIT_S,
    down_rate_bytes_s: float = 150 * MBIT_S,
    rtt_s: tuple[float, float] = (0.036, 0.054),
    gap_chance: float = 0.5,
    gap_s: tuple[float, float] = (0.05, 0.15),
    step_s: float = 0.01,
) -> Channel:
    """Return a link over satellites in low orbit that is assigned anew every 15 s.

    Each slot has a round trip of its own, uniform in ``rtt_s``, drifting by up to 2 ms, and a rate of its own,
    lognormal, 30 % about the mean; with ``gap_chance`` it opens with an outage, uniform in ``gap_s``. Exponential
    frame waits of 3 ms up and 2 ms down come on top. The 15 s: Tanveer and others, CoNEXT 2023; Mohan and others,
    WWW 2024. The phase is drawn.
    """
    count = steps_in(duration_s, step_s)
    phase, base, drift, gap, pace, up_chance, down_chance = np.random.default_rng(seed).spawn(7)
    slot, within = np.divmod(np.arange(count) * step_s + phase.uniform(0, SLOT_OF_LEO_S), SLOT_OF_LEO_S)
    slots = slot.astype(np.int64)
    total = int(slots[-1]) + 1
    drift_s = drift.uniform(-0.001, 0.001, total)[slots] * (within / SLOT_OF_LEO_S * 2 - 1)
    each_way_s = base.uniform(*rtt_s, total)[slots] / 2 + drift_s / 2
    opens, lasts_s = np.array([(gap.random(), gap.uniform(*gap_s)) for _ in range(total)]).T
    out = (opens < gap_chance)[slots] & (within < lasts_s[slots])
    rate = np.where(out, 0.0, lognormal(pace.standard_normal(total), 1.0, 0.3)[slots])
    return Channel(
        name="leo-satellite",
        up=Direction(step_s, up_rate_bytes_s * rate, each_way_s + up_chance.exponential(0.003, count)),
        down=Direction(step_s, down_rate_bytes_s * rate, each_way_s + down_chance.exponential(0.002, count)),
        seed=seed,
    )


def geo_satellite(
    seed: int,
    duration_s: float,
    *,
    up_rate_bytes_s: float = 3 * MBIT_S,
    down_rate_bytes_s: float = 25 * MBIT_S,
    rtt_s: float = 0.58,
    step_s: float = 0.01,
) -> Channel:
    """Return a link over a geostationary satellite.

    A round trip crosses some 38,000 km of slant range four times, 507 ms at the speed of light; the rest of ``rtt_s``
    is coding, gateways and ground. Up waits an exponential 15 ms for its place in the shared return channel (demand
    assignment, ETSI EN 301 545-2), down 5 ms. Weather moves the rate by 20 %, correlated over 60 s.
    """
    count = steps_in(duration_s, step_s)
    weather_chance, up_chance, down_chance = np.random.default_rng(seed).spawn(3)
    weather = lognormal(gauss_markov(weather_chance, count, step_s, 60.0), 1.0, 0.2)
    return Channel(
        name="geo-satellite",
        up=Direction(step_s, up_rate_bytes_s * weather, rtt_s / 2 + up_chance.exponential(0.015, count)),
        down=Direction(step_s, down_rate_bytes_s * weather, rtt_s / 2 + down_chance.exponential(0.005, count)),
        seed=seed,
    )


CHANNELS: dict[str, Constructor] = {
    "constant": constant,
    "gilbert-elliott": gilbert_elliott,
    "markov-lte": markov_lte,
    "wifi": wifi,
    "leo-satellite": leo_satellite,
    "geo-satellite": geo_satellite,
    "walk": walk,
}
