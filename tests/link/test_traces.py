"""Loaders of recordings: the laws of each format on small samples, then the recorded files where they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.link.channels import MBIT_S, Channel
from airdraft.link.profiles import errant_profiles, rrc_probe
from airdraft.link.traces import lumos5g, mahimahi, solis_wifi, telerobot_rtt, ucc_5g
from tests.data import recorded

RATE = 8 * MBIT_S
UCC_HEADER = (
    "Timestamp,Longitude,Latitude,Speed,Operatorname,CellID,NetworkMode,RSRP,RSRQ,SNR,CQI,RSSI,DL_bitrate,UL_bitrate,"
    "State,PINGAVG,PINGMIN,PINGMAX,PINGSTDEV,PINGLOSS,CELLHEX,NODEHEX,LACHEX,RAWCELLID,NRxRSRP,NRxRSRQ"
)
ERRANT_HEADER = "operator,country,rat,signal_quality,download_kbps,upload_kbps,latency_ms_avg,latency_ms_stdev"
RRC_HEADER = "enabled_radio_type,carrier,interval,RTT1,RTT2,active_radio_type,KeepOrDrop"

Load = Callable[[Path], object]
LOADERS: dict[str, Load] = {
    "mahimahi": lambda path: mahimahi(path, rtt_s=0.05),
    "lumos5g": lambda path: lumos5g(path, up_rate_bytes_s=RATE, rtt_s=0.05),
    "solis_wifi": lambda path: solis_wifi(path, up_rate_bytes_s=RATE, rtt_s=0.05),
    "ucc_5g": lambda path: ucc_5g(path, up_rate_bytes_s=RATE),
    "telerobot_rtt": lambda path: telerobot_rtt(path, up_rate_bytes_s=RATE, down_rate_bytes_s=RATE, interval_s=0.1),
    "errant": errant_profiles,
    "rrc_probe": rrc_probe,
}


def ucc_row(second: str, *, down: str = "8000", ping: str = "-", rsrp: str = "-90", cell: str = "77") -> str:
    start = f"2020.02.14_{second},-8.5,51.8,36,B,1,LTE,{rsrp},-11,1.5,10,-89"
    return f"{start},{down},33,D,{ping},-,-,-,-,1,2,3,{cell},-95.0,-13.0"


def pair(folder: Path, up: str, down: str) -> Path:
    (folder / "trace.down").write_text(down)
    path = folder / "trace.up"
    path.write_text(up)
    return path


def rates_mbit_s(channel: Channel) -> list[float]:
    return [float(rate) for rate in channel.down.rates_bytes_s / MBIT_S]


# ---- mahimahi ----


def test_each_line_of_a_mahimahi_trace_is_a_packet(tmp_path: Path) -> None:
    path = pair(tmp_path, up="0\n100\n", down="0\n5\n5\n150\n200\n")
    channel = mahimahi(path, rtt_s=0.08)
    assert channel.down.rates_bytes_s == pytest.approx([45_000, 30_000])  # the line at the very end is in the last step
    assert channel.up.rates_bytes_s == pytest.approx([30_000])
    assert (channel.up.duration_s, channel.down.duration_s) == (0.1, 0.2)
    assert (channel.up.delay_s(0.0), channel.down.delay_s(0.1)) == (0.04, 0.04)
    assert channel.assumed == ("round trip 80 ms",)
    assert mahimahi(path.with_suffix(".down"), rtt_s=0.08).name == channel.name == "trace"


def test_a_step_without_packets_is_an_outage(tmp_path: Path) -> None:
    channel = mahimahi(pair(tmp_path, up="1\n", down="10\n350\n"), rtt_s=0.05)
    assert np.ravel(channel.down.outages_s()) == pytest.approx([0.1, 0.3])


@given(times_ms=st.lists(st.integers(0, 3000), min_size=1, max_size=300), step_ms=st.sampled_from([1, 20, 100, 700]))
def test_a_mahimahi_trace_carries_all_its_packets(
    times_ms: list[int], step_ms: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = "".join(f"{time_ms}\n" for time_ms in sorted(times_ms))
    down = mahimahi(pair(tmp_path_factory.mktemp("pair"), up="1\n", down=text), rtt_s=0.05, step_s=step_ms / 1000).down
    assert down.mean_rate_bytes_s * down.duration_s == pytest.approx(1500 * len(times_ms))
    assert 0 <= down.duration_s * 1000 - max(times_ms) < step_ms or max(times_ms) == 0


def test_a_mahimahi_trace_needs_its_twin_and_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "lone.up").write_text("1\n")
    with pytest.raises(FileNotFoundError):
        mahimahi(tmp_path / "lone.up", rtt_s=0.05)
    with pytest.raises(ValueError, match=r"\.up or NAME\.down"):
        mahimahi(tmp_path / "lone.csv", rtt_s=0.05)
    with pytest.raises(ValueError, match="whole milliseconds"):
        mahimahi(pair(tmp_path, "1\n", "1\n"), rtt_s=0.05, step_s=0.0001)


# ---- time and rate ----


def test_a_row_of_time_and_rate_is_in_force_until_the_next(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("1.0\t40.0\n2.0\t0.0\n2\t8.5\n4.0\t16\n")
    channel = lumos5g(path, up_rate_bytes_s=RATE, rtt_s=0.05)
    assert rates_mbit_s(channel) == [40.0, 8.5, 8.5, 16.0]  # the last of one second; a missing second holds
    assert channel.up.rate_bytes_s(2.0) == RATE
    assert channel.assumed == ("uplink 8 Mbit/s", "round trip 50 ms")


def test_a_late_row_of_wifi_is_late_by_as_much(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("0.0 10\n1.41 20\n2.0 30\n")
    rates = rates_mbit_s(solis_wifi(path, up_rate_bytes_s=RATE, rtt_s=0.05))
    assert rates == [10.0] * 15 + [20.0] * 5 + [30.0]


# ---- UCC 5G ----


def test_ucc_rows_give_rate_delay_and_radio(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [
        ucc_row("09.59.58", down="1000"),
        ucc_row("09.59.59", ping="80.0"),
        ucc_row("10.00.01", down="3000", rsrp="-", cell="-"),
        ucc_row("10.00.01", down="4000", cell="78"),
        ucc_row("10.00.02", down="5000", ping="60"),
    ]
    path.write_text("\n".join([UCC_HEADER, *rows]) + "\n")
    channel = ucc_5g(path, up_rate_bytes_s=RATE, bridged_rows=None)
    assert rates_mbit_s(channel) == [1.0, 8.0, 8.0, 4.0, 5.0]
    assert channel.down.delays_s == pytest.approx([0.04, 0.04, 0.04, 0.04, 0.03])
    assert np.array_equal(channel.up.delays_s, channel.down.delays_s)
    assert channel.up.rate_bytes_s(3.0) == RATE, "UL_bitrate is no capacity"
    assert channel.radio is not None
    facts = channel.radio.at(0.0)
    assert (facts.rsrp_dbm, facts.rsrq_db, facts.sinr_db, facts.neighbour_rsrp_dbm) == (-90.0, -11.0, 1.5, -95.0)
    assert facts.cell == 77
    assert facts.speed_m_s == pytest.approx(10.0)
    assert channel.radio.hand_overs_s() == [3.0, 4.0]
    assert channel.assumed == ("uplink 8 Mbit/s",)
    fixed = ucc_5g(path, up_rate_bytes_s=RATE, rtt_s=0.1, bridged_rows=None)
    assert np.all(fixed.down.delays_s == 0.05)
    assert fixed.assumed == ("uplink 8 Mbit/s", "round trip 100 ms")


def test_the_pause_for_a_ping_is_bridged_and_said(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    downs = ["9000", "700", "1", "1", "2000", "8000"]
    rows = [ucc_row(f"10.00.0{index}", down=down, ping="70" if index == 2 else "-") for index, down in enumerate(downs)]
    path.write_text("\n".join([UCC_HEADER, *rows]))
    bridged = ucc_5g(path, up_rate_bytes_s=RATE, bridged_rows=(1, 2))
    assert rates_mbit_s(bridged) == [9.0, 9.0, 9.0, 9.0, 9.0, 8.0]
    assert "downlink across pings" in bridged.assumed
    assert rates_mbit_s(ucc_5g(path, up_rate_bytes_s=RATE, bridged_rows=(0, 0))) == [9.0, 0.7, 0.7, 0.001, 2.0, 8.0]
    with pytest.raises(ValueError, match="bridge fewer"):
        ucc_5g(path, up_rate_bytes_s=RATE, bridged_rows=(5, 5))


def test_without_a_ping_a_ucc_trace_has_no_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{UCC_HEADER}\n{ucc_row('10.00.00')}\n")
    with pytest.raises(ValueError, match="give rtt_s"):
        ucc_5g(path, up_rate_bytes_s=RATE)
    assert ucc_5g(path, up_rate_bytes_s=RATE, rtt_s=0.05).down.rate_bytes_s(0.0) == 8 * MBIT_S


# ---- round trips, profiles, probes ----


def test_round_trips_are_halved_and_spaced_as_told(tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    path.write_text("215\n92.5\n")
    channel = telerobot_rtt(path, up_rate_bytes_s=RATE, down_rate_bytes_s=2 * RATE, interval_s=0.25)
    assert channel.up.delays_s == pytest.approx([0.1075, 0.04625])
    assert channel.round_trip_s(0.3) == pytest.approx(0.0925)
    assert (channel.down.rate_bytes_s(0.0), channel.duration_s) == (2 * RATE, 0.5)
    assert channel.assumed == ("uplink 8 Mbit/s", "downlink 16 Mbit/s", "a sample every 0.25 s")


def test_a_profile_becomes_a_channel_of_its_means(tmp_path: Path) -> None:
    path = tmp_path / "profiles.csv"
    path.write_text(f"{ERRANT_HEADER}\ntelia,sweden,4G,good,50000,20000,90,45\n3,sweden,3G,bad,3000,900,145,90\n")
    profiles = errant_profiles(path)
    assert list(profiles) == ["telia-sweden-4G-good", "3-sweden-3G-bad"]
    channel = profiles["telia-sweden-4G-good"].channel(1, 2000.0, correlation_s=0.5)
    assert (channel.up.rate_bytes_s(7.0), channel.down.rate_bytes_s(7.0)) == (20 * MBIT_S, 50 * MBIT_S)
    round_trips_s = channel.up.delays_s + channel.down.delays_s
    assert np.mean(round_trips_s) == pytest.approx(0.09, rel=0.05)
    assert np.std(round_trips_s) == pytest.approx(0.045, rel=0.1)
    assert round_trips_s.min() > 0
    assert np.corrcoef(round_trips_s[:-50], round_trips_s[50:])[0, 1] == pytest.approx(math.exp(-1), abs=0.1)
    again = profiles["telia-sweden-4G-good"].channel(1, 2000.0, correlation_s=0.5)
    assert np.array_equal(channel.up.delays_s, again.up.delays_s)


def test_a_probe_gives_round_trips_by_idle_time_without_dropped_rows(tmp_path: Path) -> None:
    path = tmp_path / "probe.csv"
    rows = ["10,1000,1001,4,OUT", "0,50,51,5,YEP", "10.4,300,301,4,YEP", "0.1,9999,9999,5,BAD", "0.2,70,69,5,YEP"]
    path.write_text("\n".join([RRC_HEADER, *(f"4G-LTE,Verizon,{row}" for row in rows)]))
    probe = rrc_probe(path)
    assert probe.idle_s.tolist() == [0.0, 0.2, 10.0, 10.4]
    assert probe.quantile_s(0.5, 0.0) == pytest.approx(0.06)
    assert probe.quantile_s(1.0, 10.0) == pytest.approx(1.0)
    assert len(rrc_probe(path, dropped=("BAD", "OUT")).rtts_s) == 3
    with pytest.raises(ValueError, match="no packet"):
        probe.quantile_s(0.5, 5.0)
    with pytest.raises(ValueError, match="no row is kept"):
        rrc_probe(path, dropped=("BAD", "OUT", "YEP"))


# ---- malformed ----

UCC_GOOD = f"{UCC_HEADER}\n{ucc_row('10.00.00', ping='70')}\n"
MALFORMED = [
    ("mahimahi", "1\nx\n", 2),
    ("mahimahi", "1\n-2\n", 2),
    ("mahimahi", "1\n2.5\n", 2),
    ("mahimahi", "1\n\n3\n", 2),
    ("mahimahi", "5\n4\n", 2),
    ("mahimahi", "٣\n", 1),
    ("mahimahi", "1\n99999999999999999999\n", 2),
    ("mahimahi", "", 1),
    ("lumos5g", "0 1\n1e12 1\n", 2),
    ("lumos5g", "0 1\n1\n", 2),
    ("lumos5g", "0 1\n1 2 3\n", 2),
    ("lumos5g", "0 1\n1 nan\n", 2),
    ("lumos5g", "0 1\n1 -4\n", 2),
    ("lumos5g", "5 1\n6 1\n5.5 1\n", 3),
    ("solis_wifi", "0 1\ninf 1\n", 2),
    ("solis_wifi", "0,1\n", 1),
    ("ucc_5g", "", 1),
    ("ucc_5g", "a,b\n1,2\n", 1),
    ("ucc_5g", UCC_HEADER, 1),
    ("ucc_5g", UCC_GOOD + "a,b\n", 3),
    ("ucc_5g", UCC_GOOD + ucc_row("10.00.61"), 3),
    ("ucc_5g", UCC_GOOD + ucc_row("09.00.00"), 3),
    ("ucc_5g", UCC_GOOD + ucc_row("10.00.01", down="-"), 3),
    ("ucc_5g", UCC_GOOD + ucc_row("10.00.01", down="-5"), 3),
    ("ucc_5g", UCC_GOOD + ucc_row("10.00.01", rsrp="low"), 3),
    ("ucc_5g", UCC_GOOD + ucc_row("10.00.01", ping="-7"), 3),
    ("telerobot_rtt", "12\n13 14\n", 2),
    ("telerobot_rtt", "12\n-1\n", 2),
    ("errant", f"{ERRANT_HEADER}\na,b,4G,good,1,1,0,1\n", 2),
    ("errant", f"{ERRANT_HEADER}\na,b,4G,good,1,1,9,1\na,b,4G,good,1,1,9,1\n", 3),
    ("errant", f"{ERRANT_HEADER}\na,b,4G,good,1,much,9,1\n", 2),
    ("rrc_probe", f"{RRC_HEADER}\n4G,V,soon,1,1,4,YEP\n", 2),
    ("rrc_probe", f"{RRC_HEADER}\n4G,V,1,1,1,4\n", 2),
]


@pytest.mark.parametrize(("kind", "text", "line"), MALFORMED)
def test_a_malformed_line_is_named_by_file_and_line(kind: str, text: str, line: int, tmp_path: Path) -> None:
    path = pair(tmp_path, up=text, down="1\n") if kind == "mahimahi" else tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{path.name}:{line}: "):
        LOADERS[kind](path)


@given(content=st.binary(max_size=200))
@pytest.mark.parametrize("kind", sorted(LOADERS))
def test_any_bytes_load_or_raise_value_error(
    kind: str, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.up"
    path.write_bytes(content)
    path.with_suffix(".down").write_text("1\n")
    try:
        LOADERS[kind](path)
    except ValueError as error:
        assert "any.up" in str(error)  # noqa: PT017


# ---- recorded ----


@pytest.mark.parametrize(
    ("name", "up_mbit_s", "down_mbit_s"),
    [("ATT-LTE-driving-2016", 1.91, 4.56), ("TMobile-LTE-short", 13.32, 16.70), ("TMobile-UMTS-driving", 0.943, 2.02)],
)
def test_recorded_mahimahi_traces_have_their_mean_rates(name: str, up_mbit_s: float, down_mbit_s: float) -> None:
    channel = mahimahi(recorded("traces/mahimahi") / f"{name}.down", rtt_s=0.05)
    assert channel.up.mean_rate_bytes_s / MBIT_S == pytest.approx(up_mbit_s, rel=0.005)
    assert channel.down.mean_rate_bytes_s / MBIT_S == pytest.approx(down_mbit_s, rel=0.005)


def test_recorded_ucc_traces_pause_for_their_pings() -> None:
    for path in sorted(recorded("traces/ucc_5g").glob("*.csv")):
        raw, bridged = (ucc_5g(path, up_rate_bytes_s=RATE, bridged_rows=rows) for rows in (None, (2, 2)))
        silent, bridged_silent = (np.mean(down.rates_bytes_s < 0.1 * MBIT_S) for down in (raw.down, bridged.down))
        assert silent > 0.04
        assert bridged_silent < 0.75 * silent  # what is left is the network's
        assert bridged.down.mean_rate_bytes_s > 1.1 * raw.down.mean_rate_bytes_s
        assert 0.06 < np.median(raw.up.delays_s + raw.down.delays_s) < 0.15
        assert raw.radio is not None
        assert np.all((raw.radio.rsrp_dbm < -40) & (raw.radio.rsrp_dbm > -130))
        assert bool(raw.radio.hand_overs_s()) == path.name.startswith("Driving")


@pytest.mark.parametrize(("kind", "folder"), [("lumos5g", "sigcomm21_5g/lumos5g"), ("solis_wifi", "solis_wifi")])
def test_recorded_rates_keep_their_mean_and_length(kind: str, folder: str) -> None:
    for path in sorted(recorded(f"traces/{folder}").iterdir()):
        channel = LOADERS[kind](path)
        assert isinstance(channel, Channel)
        times_s, rates = np.loadtxt(path).T
        span_s = times_s[-1] - times_s[0]
        assert span_s < channel.duration_s <= span_s + 1.0
        held = np.repeat(rates[:-1], np.round(np.diff(times_s) * 1000).astype(int))  # by the millisecond
        assert channel.down.mean_rate_bytes_s / MBIT_S == pytest.approx(held.mean(), rel=0.02, abs=0.5)


def test_recorded_round_trips_keep_their_median() -> None:
    for path in sorted(recorded("traces/telerobot_rtt").glob("*.csv")):
        channel = telerobot_rtt(path, up_rate_bytes_s=RATE, down_rate_bytes_s=RATE, interval_s=0.1)
        assert np.median(2000 * channel.up.delays_s) == pytest.approx(np.median(np.loadtxt(path)))


def test_recorded_profiles_are_twenty_six() -> None:
    profiles = errant_profiles(recorded("traces/errant/profiles.csv"))
    assert len(profiles) == 26
    best = profiles["telia-sweden-4G-good"]
    assert best.down_rate_bytes_s / MBIT_S == pytest.approx(53.95, abs=0.01)
    assert [best.rtt_s, best.rtt_deviation_s] == pytest.approx([0.0919, 0.0459], abs=1e-4)


def test_recorded_probes_show_what_waking_the_radio_costs() -> None:
    for path in sorted(recorded("traces/sigcomm21_5g/rrc_probe").iterdir()):
        probe = rrc_probe(path)
        assert len(probe.rtts_s) > 900
        assert probe.quantile_s(0.5, 18.0, 2.0) > probe.quantile_s(0.5, 2.0, 2.0) + 0.3
