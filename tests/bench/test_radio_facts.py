"""The bench of radio facts: it measures what it says, and does without recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from airdraft.core.radio_facts import RadioFacts
from airdraft.link.radio_facts import RecordedSecond, ucc_5g_seconds
from bench.radio_facts import rate_errors, round_trip_errors, run, synthetic
from tests.data import recorded
from tests.link.test_traces import UCC_HEADER, ucc_row


def world(follows: float, seconds: int = 900) -> list[RecordedSecond]:
    """Return a link whose rate follows its signal to a share."""
    chance = np.random.default_rng(4)
    sinr_db = 12 + 8 * np.sin(np.arange(seconds) / 9) + chance.standard_normal(seconds)
    rates = 1e6 * np.exp(follows * sinr_db / 5 + 0.05 * chance.standard_normal(seconds))
    return [
        RecordedSecond(float(index), RadioFacts(sinr_db=float(sinr_db[index])), float(rates[index]), 0.02)
        for index in range(seconds)
    ]


def test_facts_gain_where_the_rate_follows_them_and_only_there() -> None:
    gain, low, _ = rate_errors(world(1.0), 10).gain()
    assert gain > 0.15
    assert low > 0.05
    gain, _, high = rate_errors(world(0.0), 10).gain()
    assert abs(gain) < 0.03
    assert high < 0.1
    assert round_trip_errors(world(1.0)).mean() == pytest.approx((0.0, 0.0), abs=1e-9)


def test_the_synthetic_walk_says_something_of_its_rate() -> None:
    assert rate_errors(synthetic(), 10).gain()[0] > 0
    assert synthetic()[0].facts.technology == "nr"


def test_without_recordings_the_walk_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRDRAFT_DATA", str(tmp_path))
    result = run(quick=True)
    assert "only the synthetic walk" in capsys.readouterr().err
    assert {name.split("s_")[0] for name in result.figures if name.startswith("rate")} == {
        "rate_1",
        "rate_10",
        "rate_60",
    }
    assert not any("recorded" in name for name in result.figures)


def test_seconds_beside_a_ping_have_no_rate_and_times_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = [ucc_row(f"10.00.{second:02d}", down=f"{second}000") for second in range(8)]
    rows[4] = ucc_row("10.00.04", ping="70").replace(",70,-,-,-,-,", ",70,68,75,2,0,")
    path.write_text("\n".join([UCC_HEADER, *rows, ucc_row("10.00.07", down="9000", rsrp="-")]) + "\n")
    seconds = ucc_5g_seconds(path)
    assert [second.down_bytes_s for second in seconds] == [0.0, 125e3, None, None, None, None, None, 1125e3]
    assert [second.round_trip_s for second in seconds if second.round_trip_s] == [0.07]
    assert (seconds[0].facts.technology, seconds[0].facts.rsrp_dbm, seconds[7].facts.rsrp_dbm) == ("lte", -90.0, None)
    path.write_text("\n".join([UCC_HEADER, rows[3], rows[2]]) + "\n")
    with pytest.raises(ValueError, match=r"trace\.csv:3: time runs backwards"):
        ucc_5g_seconds(path)


def test_recorded_traces_have_facts_rates_and_pings() -> None:
    for path in sorted(recorded("traces/ucc_5g").glob("*.csv")):
        seconds = ucc_5g_seconds(path)
        assert sum(second.round_trip_s is not None for second in seconds) >= 28
        assert 0.4 < np.mean([second.down_bytes_s is not None for second in seconds]) < 0.8
        technologies = {second.facts.technology for second in seconds}
        assert technologies in ({"umts"}, {"nr"}, {"nr", "lte"})
        assert all(second.facts.rsrp_dbm is not None for second in seconds)
        assert any(second.facts.sinr_db is not None for second in seconds) == (technologies != {"umts"})
