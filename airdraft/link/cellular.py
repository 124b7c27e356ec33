"""Synthetic cellular channels: an LTE link that moves between rate states, and a walk between two cells.

The walk is computed from geometry, so that its radio facts predict its rate as they do outdoors: path loss and
shadowing give the received powers, these the serving cell and the signal to interference ratio, and that the rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.link.random_processes import (
    dwelling,
    gauss_markov,
    lognormal,
    neighbouring,
    repetitions,
    smoothed,
)
from airdraft.link.timeline import MBIT_S, Channel, Direction, Radio, Series, steps_in

HARQ_ROUND_TRIP_S = 0.008  # of an LTE repetition, FDD (3GPP TS 36.321)
GRANT_CYCLE_S = 0.010  # a device waits up to this for its next chance to ask for an uplink grant
BLOCK_ERROR = 0.1  # first transmissions that link adaptation lets fail (3GPP TS 36.213, section 7.2.3)

LTE_DOWN_BYTES_S = tuple(rate * MBIT_S for rate in (0.0, 2.0, 8.0, 20.0, 40.0))
LTE_UP_BYTES_S = tuple(rate * MBIT_S for rate in (0.0, 0.5, 2.5, 8.0, 16.0))
LTE_BASE_RTT_S = (0.090, 0.090, 0.060, 0.045, 0.038)
LTE_DWELL_S = (0.3, 2.0, 4.0, 5.0, 4.0)


def markov_lte(seed: int, duration_s: float, *, step_s: float = 0.01) -> Channel:
    """Return an LTE link that moves up and down five rate states, the lowest of them out.

    States are a birth-death process with exponential dwell times (finite-state Markov channel: Wang and Moayeri, IEEE
    Trans. Vehicular Technology 44, 1995). Within a state the rate is lognormal, 15 % about its mean, correlated over
    0.2 s. Delays add HARQ repetitions of 8 ms at 10 % block errors, and on the way up 0 to 10 ms for a grant. Rates
    and base round trips are round figures for a loaded 10 MHz carrier.
    """
    count = steps_in(duration_s, step_s)
    states_chance, fade_chance, up_chance, down_chance = np.random.default_rng(seed).spawn(4)
    states = dwelling(
        states_chance,
        count,
        step_s,
        dwell_s=LTE_DWELL_S,
        jump=neighbouring(len(LTE_DWELL_S)),
        start=len(LTE_DWELL_S) // 2,
    )
    fade = lognormal(gauss_markov(fade_chance, count, step_s, 0.2), 1.0, 0.15)
    base_s = np.array(LTE_BASE_RTT_S)[states] / 2
    return Channel(
        name="markov-lte",
        up=Direction(step_s, np.array(LTE_UP_BYTES_S)[states] * fade, base_s + _up_wait_s(up_chance, count)),
        down=Direction(step_s, np.array(LTE_DOWN_BYTES_S)[states] * fade, base_s + _harq_s(down_chance, count)),
        seed=seed,
    )


def _harq_s(chance: np.random.Generator, count: int, error: float | Series = BLOCK_ERROR) -> Series:
    return HARQ_ROUND_TRIP_S * repetitions(chance, count, error)


def _up_wait_s(chance: np.random.Generator, count: int, error: float | Series = BLOCK_ERROR) -> Series:
    grant_chance, harq_chance = chance.spawn(2)
    return grant_chance.uniform(0, GRANT_CYCLE_S, count) + _harq_s(harq_chance, count, error)


@dataclass(frozen=True, slots=True)
class Street:
    """Two small cells over one street, and the radio between them and a phone that passes below.

    Path loss: 3GPP TR 38.901, table 7.4.1-1, UMi street canyon without line of sight; shadowing of 7.82 dB with a
    correlation distance of 13 m (table 7.5-6) and an exponential correlation (Gudmundson, Electronics Letters 27,
    1991), half of it common to both sites (TR 36.942). Carrier: 20 MHz in band n78, 106 blocks of 12 subcarriers.
    """

    spacing_m: float = 200.0
    offset_m: float = 10.0  # of the masts from the walker's line
    mast_m: float = 10.0
    phone_m: float = 1.5
    carrier_ghz: float = 3.5
    bandwidth_hz: float = 20e6
    blocks: int = 106  # resource blocks of 180 kHz
    mast_dbm: float = 44.0  # of the whole carrier
    phone_dbm: float = 23.0  # power class 3
    gain_db: float = 8.0
    shadow_db: float = 7.82
    shadow_m: float = 13.0
    site_correlation: float = 0.5
    neighbour_load: float = 0.5  # share of the other cell's subcarriers in use
    noise_figure_db: float = 9.0
    error_vector: float = 0.035  # of the mast's signal: what it distorts itself (3GPP TS 38.104, 256QAM)
    fading_db: float = 2.0  # what scheduling and diversity leave of fast fading
    down_share: float = 0.4  # of the carrier: the downlink part of the frame times this phone's part of it
    up_share: float = 0.2

    def path_loss_db(self, along_m: Series) -> Series:
        """Return the loss, [T], to a mast that stands ``along_m`` [T] away along the street."""
        distance_m = np.sqrt(along_m**2 + self.offset_m**2 + (self.mast_m - self.phone_m) ** 2)
        return np.asarray(35.3 * np.log10(distance_m) + 22.4 + 21.3 * math.log10(self.carrier_ghz))

    def up_sinr_db(self, loss_db: Series) -> Series:
        """Return the mast's signal to noise ratio, [T], under open-loop power control.

        3GPP TS 36.213, section 5.1.1.1: P0 = -90 dBm a block, 80 % of the loss made up for; 5 dB noise figure of the
        mast, 6 dB of interference over noise.
        """
        used_db = 10 * math.log10(self.up_share * self.blocks)
        sent_dbm = np.minimum(-90 + 0.8 * loss_db, self.phone_dbm - used_db)
        return np.asarray(sent_dbm + self.gain_db - loss_db - (_noise_dbm(180e3) + 5 + 6))


@dataclass(frozen=True, slots=True)
class HandOver:
    """When the serving cell changes (3GPP TS 36.331, section 5.5.4.4, event A3), and the gap that it costs."""

    offset_db: float = 0.0
    hysteresis_db: float = 3.0
    time_to_trigger_s: float = 0.16
    filter_s: float = 0.3  # time constant of the measurement filter: layer 3, k = 4, 200 ms
    gap_s: tuple[float, float] = (0.05, 0.3)  # shortest and longest; uniform between

    def serving(self, rsrp_dbm: Series, step_s: float) -> NDArray[np.int64]:
        """Return the serving cell, 0 or 1, [T], from the received powers [2, T] of both."""
        measured = [smoothed(row, step_s, self.filter_s).tolist() for row in rsrp_dbm]
        needed = max(1, round(self.time_to_trigger_s / step_s))
        cell, entered, cells = int(measured[1][0] > measured[0][0]), 0, []
        for here, there in zip(*measured, strict=True):
            own, other = (here, there) if cell == 0 else (there, here)
            entered = entered + 1 if other - self.hysteresis_db > own + self.offset_db else 0
            if entered == needed:
                cell, entered = 1 - cell, 0
            cells.append(cell)
        return np.array(cells, dtype=np.int64)

    def gaps(self, chance: np.random.Generator, cells: NDArray[np.int64], step_s: float) -> NDArray[np.bool_]:
        """Tell, [T], when the link is out because the serving cell [T] has just changed."""
        out = np.zeros(len(cells), dtype=np.bool_)
        for change in np.flatnonzero(np.diff(cells)) + 1:
            out[change : change + steps_in(float(chance.uniform(*self.gap_s)), step_s)] = True
        return out


def truncated_shannon(sinr_db: Series, *, attenuation: float, ceiling: float) -> Series:
    """Return bits per second per hertz, [T]: Shannon's bound, attenuated, capped, and 0 below -10 dB.

    Source: 3GPP TR 36.942, annex A.2: attenuation 0.6 and ceiling 4.4 down, 0.4 and 2.0 up.
    """
    bound = attenuation * np.log2(1 + 10 ** (sinr_db / 10))
    return np.where(sinr_db < -10, 0.0, np.minimum(bound, ceiling))


def walk(
    seed: int,
    duration_s: float,
    *,
    speed_m_s: float = 1.4,
    street: Street = Street(),
    hand_over: HandOver = HandOver(),
    base_rtt_s: float = 0.02,
    step_s: float = 0.01,
) -> Channel:
    """Return a walk along a street from one cell to the other, with hand-overs and what the radio reports.

    A walk shorter than the street has the border half way; a longer one turns below each mast. Powers, rates and
    hand-overs: see ``Street``, ``truncated_shannon`` and ``HandOver``. Fast fading is lognormal with the coherence
    time 0.423 / Doppler shift of Clarke's model. Delays: as for LTE, with every second block lost below -6 dB, where
    link adaptation has nothing left to give.
    """
    count = steps_in(duration_s, step_s)
    shadow_chance, fade_chance, gap_chance, up_chance, down_chance = np.random.default_rng(seed).spawn(5)
    loss_db = _losses_db(shadow_chance, street, _along_m(street, count, step_s, speed_m_s), speed_m_s * step_s)
    power_dbm = street.mast_dbm + street.gain_db - 10 * math.log10(12 * street.blocks) - loss_db
    cells = hand_over.serving(power_dbm, step_s)
    out = hand_over.gaps(gap_chance, cells, step_s)
    coherence_s = 0.423 / (speed_m_s * street.carrier_ghz * 1e9 / 299_792_458)
    fading_db = street.fading_db * gauss_markov(fade_chance, count, step_s, coherence_s)
    radio = _radio(street, power_dbm, cells, fading_db, speed_m_s, step_s)
    up_sinr_db = street.up_sinr_db(_serving(loss_db, cells)) + fading_db
    down = truncated_shannon(radio.sinr_db, attenuation=0.6, ceiling=4.4) * street.down_share
    up = truncated_shannon(up_sinr_db, attenuation=0.4, ceiling=2.0) * street.up_share
    carried = np.where(out, 0.0, street.bandwidth_hz / 8)
    up_wait_s = _up_wait_s(up_chance, count, _block_error(up_sinr_db))
    down_wait_s = _harq_s(down_chance, count, _block_error(radio.sinr_db))
    return Channel(
        name="walk",
        up=Direction(step_s, up * carried, base_rtt_s / 2 + up_wait_s),
        down=Direction(step_s, down * carried, base_rtt_s / 2 + down_wait_s),
        radio=radio,
        seed=seed,
    )


def _along_m(street: Street, count: int, step_s: float, speed_m_s: float) -> Series:
    """Return where the walker is, [T], in metres from the first mast."""
    start_m = max(0.0, (street.spacing_m - speed_m_s * count * step_s) / 2)
    walked_m = start_m + speed_m_s * step_s * np.arange(count)
    return np.asarray(street.spacing_m - np.abs(walked_m % (2 * street.spacing_m) - street.spacing_m))


def _losses_db(chance: np.random.Generator, street: Street, along_m: Series, step_m: float) -> Series:
    """Return path loss and shadowing to both masts, [2, T]."""
    both, first, second = (gauss_markov(own, len(along_m), step_m, street.shadow_m) for own in chance.spawn(3))
    common, private = math.sqrt(street.site_correlation), math.sqrt(1 - street.site_correlation)
    shadows_db = street.shadow_db * np.stack([common * both + private * first, common * both + private * second])
    return np.asarray(
        np.stack([street.path_loss_db(along_m), street.path_loss_db(street.spacing_m - along_m)]) + shadows_db
    )


def _serving(of_both: NDArray[Any], cells: NDArray[np.int64]) -> NDArray[Any]:
    """Return the serving cell's row, [T], of values [2, T]."""
    return np.asarray(of_both[cells, np.arange(len(cells))])


def _radio(
    street: Street, power_dbm: Series, cells: NDArray[np.int64], fading_db: Series, speed_m_s: float, step_s: float
) -> Radio:
    """Return what the phone reports; RSRQ as a carrier in full use has it (3GPP TS 36.214, section 5.1.3)."""
    own_dbm, other_dbm = _serving(power_dbm, cells), _serving(power_dbm, 1 - cells)
    noise_mw = 10 ** ((_noise_dbm(15e3) + street.noise_figure_db) / 10)
    against_mw = street.neighbour_load * 10 ** (other_dbm / 10) + noise_mw
    signal_mw = 10 ** ((own_dbm + fading_db) / 10)
    distortion_mw = street.error_vector**2 * signal_mw
    return Radio(
        step_s=step_s,
        rsrp_dbm=own_dbm,
        rsrq_db=10 * np.log10(10 ** (own_dbm / 10) / (12 * (10 ** (own_dbm / 10) + against_mw))),
        sinr_db=10 * np.log10(signal_mw / (against_mw + distortion_mw)),
        neighbour_rsrp_dbm=other_dbm,
        cell=cells + 1,
        speed_m_s=np.full(len(cells), speed_m_s),
    )


def _block_error(sinr_db: Series) -> Series:
    return np.where(sinr_db < -6, 0.5, BLOCK_ERROR)


def _noise_dbm(bandwidth_hz: float) -> float:
    return -174 + 10 * math.log10(bandwidth_hz)
