"""Sources of radio facts: parsers on outputs written by hand after the tools' formats, and what a failing tool does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.core.radio_facts import RSRP_DBM, RadioFacts, known
from device_client.radio import SOURCES, opened, watch
from device_client.radio.commands import SourceFailed, output
from device_client.radio.iw import Iw, default_interface
from device_client.radio.iw import parsed as iw_parsed
from device_client.radio.modem_manager import ModemManager
from device_client.radio.modem_manager import parsed as modem_parsed
from device_client.radio.recorded import Recorded
from device_client.radio.termux import Termux, cells_parsed, wifi_parsed
from tests.link.test_traces import UCC_HEADER, ucc_row

LINK = """Connected to 02:00:5e:10:00:0a (on wlan0)
\tSSID: signal: hall
\tfreq: 5220.0
\tRX: 91234 bytes (310 packets)
\tTX: 4400 bytes (61 packets)
\tsignal: -61 dBm
\ttx bitrate: 260.0 MBit/s VHT-MCS 3 80MHz VHT-NSS 2

\tbss flags:\tshort-slot-time
"""
STATIONS = """Station 02:00:5e:10:00:0a (on wlan0)
\tinactive time:\t12 ms
\tsignal:  \t-60 [-63, -62] dBm
\ttx bitrate:\t234.0 MBit/s
\trx bitrate:\t390.0 MBit/s VHT-MCS 4 80MHz VHT-NSS 2
\tLink 0:
\t\tsignal: -20 dBm
\t\trx bitrate: 6.0 MBit/s
"""
LTE = {
    "modem": {
        "signal": {
            "5g": {"rsrp": "--", "rsrq": "--", "snr": "--"},
            "gsm": {"rssi": "--"},
            "lte": {"rsrp": "-101.00", "rsrq": "-13,50", "rssi": "-72.00", "snr": "7.20", "error-rate": "--"},
            "umts": {"ecio": "--", "rscp": "--", "rssi": "--"},
            "refresh": {"rate": "5"},
        }
    }
}
WIFI = {
    "bssid": "02:00:5e:10:00:0a",
    "frequency_mhz": 5220,
    "link_speed_mbps": 400,
    "rssi": -58,
    "supplicant_state": "COMPLETED",
}
UNAVAILABLE = 2**31 - 1


# ---- numbers ----


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ("-95.00", -95.0),
        ("-95,5", -95.5),
        ("\N{MINUS SIGN}95 dBm", -95.0),
        ("-60 [-63, -62] dBm", -60.0),
        (-80, -80.0),
        ("--", None),
        ("", None),
        ("NaN", None),
        ("-inf", None),
        ("dBm", None),
        (UNAVAILABLE, None),
        (-200, None),
        (True, None),
        (None, None),
        ([-80], None),
        (10**400, None),
    ],
)
def test_a_number_is_read_as_tools_print_it_or_is_unknown(printed: object, value: float | None) -> None:
    assert known(printed, RSRP_DBM) == value


# ---- parsers ----


def test_iw_gives_signal_and_both_rates() -> None:
    facts = iw_parsed(LINK, STATIONS)
    assert facts == RadioFacts(
        technology="wifi",
        rssi_dbm=-61.0,
        up_link_bytes_s=32_500_000.0,
        down_link_bytes_s=48_750_000.0,
        cell=0x02005E10000A,
    )
    assert iw_parsed(LINK).down_link_bytes_s is None
    assert iw_parsed("Not connected.\n", STATIONS).silent
    assert iw_parsed("").silent


def test_the_default_route_of_the_least_metric_counts() -> None:
    routes = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0
lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
"""
    assert default_interface(routes) == "wlan0"
    assert default_interface(routes.replace("600", "800")) == "wwan0"
    assert default_interface("Iface\nbroken line\n") is None
    assert default_interface("") is None


def test_modem_manager_gives_the_technology_that_answers() -> None:
    location = {"modem": {"location": {"3gpp": {"cid": "01A2B3C4", "tac": "00FE"}}}}
    facts = modem_parsed(LTE, location)
    assert facts == RadioFacts(
        technology="lte", rsrp_dbm=-101.0, rsrq_db=-13.5, sinr_db=7.2, rssi_dbm=-72.0, cell=0x01A2B3C4
    )
    both = {"modem": {"signal": {**LTE["modem"]["signal"], "5g": {"rsrp": "-88.00", "snr": "21.00"}}}}
    assert modem_parsed(both) == RadioFacts(technology="nr", rsrp_dbm=-88.0, sinr_db=21.0)
    umts = {"modem": {"signal": {"umts": {"rscp": "-91.00", "ecio": "-7.50", "rssi": "-83.00"}}}}
    assert modem_parsed(umts) == RadioFacts(technology="umts", rsrp_dbm=-91.0, rsrq_db=-7.5, rssi_dbm=-83.0)


@pytest.mark.parametrize("content", [None, [], {}, {"modem": None}, {"modem": {"signal": {"lte": "none"}}}])
def test_a_silent_modem_is_silent(content: object) -> None:
    assert modem_parsed(content).silent
    assert modem_parsed(LTE, content).cell is None


def test_termux_gives_wifi_where_it_is_connected() -> None:
    facts = wifi_parsed(WIFI)
    assert facts == RadioFacts(technology="wifi", rssi_dbm=-58.0, up_link_bytes_s=50_000_000.0, cell=0x02005E10000A)
    off = WIFI | {"supplicant_state": "DISCONNECTED", "rssi": -127, "link_speed_mbps": -1, "bssid": None}
    assert wifi_parsed(off).silent
    joining = WIFI | {"rssi": -127, "link_speed_mbps": -1, "bssid": "<unknown>"}
    assert wifi_parsed(joining) == RadioFacts(technology="wifi")


def test_termux_gives_the_serving_cell_of_the_fastest_technology() -> None:
    lte = {"type": "lte", "registered": True, "dbm": -97, "ci": 812345, "rsrp": -97, "rsrq": -11, "rssi": -65}
    nr = {"type": "nr", "registered": True, "dbm": -90, "nci": 2**34 + 5, "ss_rsrp": -90, "ss_sinr": 14}
    other = {"type": "nr", "registered": False, "ss_rsrp": -70}
    assert cells_parsed([other, lte]) == RadioFacts(
        technology="lte", rsrp_dbm=-97.0, rsrq_db=-11.0, rssi_dbm=-65.0, cell=812345
    )
    assert cells_parsed([other, lte, nr]) == RadioFacts(technology="nr", rsrp_dbm=-90.0, sinr_db=14.0, cell=2**34 + 5)
    old = {"type": "lte", "registered": True, "dbm": -99, "ci": UNAVAILABLE, "rsrq": UNAVAILABLE}
    assert cells_parsed([old]) == RadioFacts(technology="lte", rsrp_dbm=-99.0)
    assert cells_parsed([{"type": "wcdma", "registered": True, "dbm": -95}]).rsrp_dbm == -95.0
    assert cells_parsed([{"type": "gsm", "registered": True, "dbm": -79}]).rssi_dbm == -79.0
    assert cells_parsed([]).silent
    assert cells_parsed([None, {"registered": True}]).silent


def test_a_refusal_of_termux_says_why() -> None:
    with pytest.raises(SourceFailed, match="location"):
        cells_parsed({"API_ERROR": "no permission for location"})
    with pytest.raises(SourceFailed, match="no object"):
        wifi_parsed([])
    with pytest.raises(SourceFailed, match="no list"):
        cells_parsed({})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["modem", "signal", "lte", "rsrp", "type", "registered", "bssid", "rssi", "supplicant_state"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(content=json_values, text=st.text(max_size=200))
def test_whatever_a_tool_prints_no_parser_falls_over(content: object, text: str) -> None:
    parsers: Sequence[Callable[[], RadioFacts]] = (
        lambda: modem_parsed(content, content),
        lambda: wifi_parsed(content),
        lambda: wifi_parsed(WIFI | {"bssid": content, "rssi": content, "link_speed_mbps": content}),
        lambda: cells_parsed(content),
        lambda: cells_parsed([{"type": "lte", "registered": True, "rsrp": content, "ci": content}]),
        lambda: iw_parsed("Connected to " + text, text),
    )
    for parse in parsers:
        try:
            facts = parse()
        except SourceFailed:
            continue
        assert facts.rsrp_dbm is None or RSRP_DBM[0] <= facts.rsrp_dbm <= RSRP_DBM[1]


# ---- commands ----


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return how a program of a name and a shell script comes to be; no other program of those names is there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr("device_client.radio.commands.BEHIND_PATH", ())

    def make(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


Tools = Callable[[str, str], Path]


async def test_a_command_answers_in_the_c_locale(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    tools("say", 'echo "$LC_ALL $1"')
    assert await output(("say", "it")) == "C it\n"


async def test_a_command_that_fails_says_why_in_one_line(tools: Tools) -> None:
    tools("say", "echo first >&2; echo 'couldn'\"'\"'t find modem' >&2; exit 1")
    with pytest.raises(SourceFailed, match=r"^say ended with status 1: couldn't find modem$"):
        await output(("say",))
    with pytest.raises(SourceFailed, match="not installed"):
        await output(("never-installed",))
    tools("slow", "sleep 600")
    with pytest.raises(SourceFailed, match=r"did not answer within 0\.05 s"):
        await output(("slow",), timeout_s=0.05)


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - another process has no event to wait on
        await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
async def test_what_a_command_started_ends_with_it(tools: Tools, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    tools("slow", f"sleep 600 & echo $! > {pid}.part; mv {pid}.part {pid}; wait")
    asking = asyncio.create_task(output(("slow",), timeout_s=600))
    await _until(pid.exists)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    started = int(pid.read_text())
    await _until(lambda: not _runs(started))


# ---- sources ----


async def test_iw_asks_the_interface_of_the_default_route(tools: Tools, tmp_path: Path) -> None:
    network, routes = tmp_path / "net", tmp_path / "route"
    for name in ("wlan0", "wlan1"):
        (network / name / "phy80211").mkdir(parents=True)
    iw = Iw(network=network, routes=routes)
    assert iw.missing() == "iw is not installed"
    tools("iw", f'[ "$3" = link ] && [ "$2" = wlan1 ] && cat {tmp_path / "link"}')
    (tmp_path / "link").write_text(LINK)
    assert iw.missing() is None
    assert Iw(network=tmp_path / "none").missing() == "no Wi-Fi interface"
    routes.write_text("head\nwlan1 00000000 0 0003 0 0 600 00000000 0 0 0\n")
    facts = await iw.read()
    assert (facts.rssi_dbm, facts.down_link_bytes_s) == (-61.0, None), "a refused station dump costs its rate alone"
    routes.write_text("head\nwwan0 00000000 0 0003 0 0 600 00000000 0 0 0\n")
    assert (await iw.read()).silent
    assert (await Iw("wlan1", network=network, routes=routes).read()).rssi_dbm == -61.0


MMCLI = """
echo "$*" >> {folder}/asked
case "$3" in
--signal-get) cat {folder}/signal;;
--signal-setup=*) {setup};;
*) exit 1;;
esac
"""


async def test_a_modem_is_polled_while_somebody_watches(tools: Tools, tmp_path: Path) -> None:
    unpolled = {"modem": {"signal": {"lte": {"rsrp": "--"}, "refresh": {"rate": "0"}}}}
    (tmp_path / "signal").write_text(json.dumps(unpolled))
    (tmp_path / "polled").write_text(json.dumps(LTE))
    setup = f'[ "$3" = --signal-setup=0 ] || cp {tmp_path / "polled"} {tmp_path / "signal"}'
    modem = ModemManager(every_s=2.4)
    assert modem.missing() == "mmcli is not installed"
    tools("mmcli", MMCLI.format(folder=tmp_path, setup=setup))
    assert modem.missing() is None
    assert (await modem.read()).rsrp_dbm == -101.0
    assert (await modem.read()).cell is None
    await modem.close()
    await modem.close()
    asked = [line.removeprefix("-m any ") for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == [
        "--signal-get -J",
        "--signal-setup=2",
        "--signal-get -J",
        "--location-get -J",
        "--signal-get -J",
        "--signal-setup=0",
    ]


async def test_a_modem_that_only_an_administrator_may_poll_says_the_command(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "signal").write_text(json.dumps({"modem": {"signal": {"refresh": {"rate": "0"}}}}))
    tools("mmcli", MMCLI.format(folder=tmp_path, setup="exit 1"))
    modem = ModemManager("3")
    with pytest.raises(SourceFailed, match="run sudo mmcli -m 3 --signal-setup=1"):
        await modem.read()
    await modem.close()
    assert "--signal-setup=0" not in (tmp_path / "asked").read_text(), "what it did not set it does not take back"


async def test_termux_asks_for_cells_where_wifi_is_off(tools: Tools, tmp_path: Path) -> None:
    assert Termux().missing() is not None
    tools("termux-wifi-connectioninfo", f"cat {tmp_path / 'wifi'}")
    tools("termux-telephony-cellinfo", """echo '[{"type": "lte", "registered": true, "dbm": -97}]'""")
    (tmp_path / "wifi").write_text(json.dumps(WIFI))
    assert (await Termux().read()).technology == "wifi"
    (tmp_path / "wifi").write_text('{"supplicant_state": "UNINITIALIZED"}')
    assert await Termux().read() == RadioFacts(technology="lte", rsrp_dbm=-97.0)
    (tmp_path / "wifi").write_text("")
    with pytest.raises(SourceFailed, match="printed no JSON"):
        await Termux().read()


async def test_a_recording_plays_by_the_clock_and_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [ucc_row("10.00.00", rsrp="-90"), ucc_row("10.00.01", rsrp="-91"), ucc_row("10.00.03", rsrp="-93")]
    path.write_text("\n".join([UCC_HEADER, *rows]) + "\n")
    now_s = [500.0]
    recorded = Recorded(str(path), clock=lambda: now_s[0])
    assert recorded.missing() is None
    seen = []
    for now_s[0] in (500.0, 501.9, 502.5, 503.0, 504.0):
        seen.append((await recorded.read()).rsrp_dbm)
    assert seen == [-90.0, -91.0, -91.0, -93.0, -90.0]
    assert Recorded("").missing() is not None
    path.write_text("no,trace\n1,2\n")
    with pytest.raises(SourceFailed, match="no column"):
        await Recorded(str(path)).read()


def test_the_table_names_its_sources(tools: Tools) -> None:
    assert opened("none", 1.0) == []
    assert opened("auto", 1.0) == [], "no tool is there"
    tools("termux-wifi-connectioninfo", "exit 1")
    tools("mmcli", "exit 1")
    assert [source.name for source in opened("auto", 1.0)] == ["termux", "modem-manager"]
    with pytest.raises(ValueError, match="choose one of none, auto, termux, iw"):
        opened("wifi", 1.0)
    for name in SOURCES:
        (source,) = opened(name, 1.0)
        assert source.name == name
    assert opened("iw:wlan1", 1.0) == [Iw("wlan1")]


# ---- watching ----


@dataclass(slots=True)
class Scripted:
    """A source that says what it is told to, then fails."""

    name: str
    says: list[RadioFacts | str]
    absent: str | None = None
    closed: int = field(default=0)

    def missing(self) -> str | None:
        return self.absent

    async def read(self) -> RadioFacts:
        said = self.says.pop(0) if self.says else "gone"
        if isinstance(said, str):
            raise SourceFailed(said)
        return said

    async def close(self) -> None:
        self.closed += 1
        raise SourceFailed("nor can it be closed")


WEAK, STRONG = RadioFacts(rsrp_dbm=-110.0), RadioFacts(rsrp_dbm=-70.0)


async def _all(facts: AsyncIterator[RadioFacts]) -> list[float | None]:
    return [each.rsrp_dbm async for each in facts]


async def test_a_source_that_fails_says_so_once_and_is_dropped() -> None:
    said: list[str] = []
    source = Scripted("modem", [WEAK, "busy", STRONG, "busy", "busy", "gone", STRONG])
    assert await _all(watch([source], 0.0, say=said.append)) == [-110.0, -70.0]
    assert said == ["no more radio facts from modem: gone"]
    assert source.closed == 1


async def test_the_first_source_that_is_not_silent_counts_each_time_anew() -> None:
    said: list[str] = []
    first = Scripted("first", [STRONG, RadioFacts(), RadioFacts(), STRONG, *["lost"] * 3])
    second = Scripted("second", [WEAK, RadioFacts(), WEAK, "x", WEAK, *["lost"] * 3])
    facts = await _all(watch([first, second], 0.0, say=said.append))
    assert facts == [-70.0, -110.0, None, -70.0, -110.0, -110.0]
    assert said == ["no more radio facts from first: lost", "no more radio facts from second: lost"]


async def test_a_source_that_is_not_there_is_said_and_nothing_else_comes() -> None:
    said: list[str] = []
    assert await _all(watch([Scripted("iw", [WEAK], "no Wi-Fi interface")], say=said.append)) == []
    assert said == ["no radio facts from iw: no Wi-Fi interface"]
    assert await _all(watch("none", say=said.append)) == []
    with pytest.raises(ValueError, match="no source of radio facts"):
        await _all(watch("nine"))


async def test_facts_are_dated_and_a_reader_that_leaves_closes_the_source() -> None:
    source = Scripted("iw", [WEAK, WEAK])
    async with aclosing(watch([source], 0.0, clock=iter([3.0, 3.0, 4.0]).__next__)) as facts:
        async for each in facts:
            assert each.when_s == 3.0
            break
    assert source.closed == 1


def test_the_command_prints_a_line_a_reading(tmp_path: Path) -> None:
    """A recording in place of a radio; an unknown source is a usage error of one line."""
    recording = tmp_path / "walk.csv"
    rows = [ucc_row(second) for second in ("10.00.00", "10.00.01", "10.00.02")]
    recording.write_text("\n".join([UCC_HEADER, *rows]) + "\n")
    arguments = ["--every-seconds", "0.1", "--count", "2"]

    def radio(source: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "device_client", "radio", "--source", source, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = radio(f"recorded:{recording}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2
    assert all("when_s" in line and None not in line.values() for line in lines)
    failed = radio("semaphore")
    assert failed.returncode == 2
    assert "semaphore" in failed.stderr
