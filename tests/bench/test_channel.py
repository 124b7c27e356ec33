"""Drawings of channels: what stands in them, and that the same drawing is the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the bench's packages")

from bench.channel import Assumed, run


@pytest.mark.parametrize("name", ["walk", "leo-satellite"])
def test_a_channel_is_drawn_with_its_command(name: str, tmp_path: Path) -> None:
    drawing, picture = run(name, tmp_path, seed=3, seconds=20.0)
    text = drawing.read_text()
    for words in (f"python -m bench channel {name} --seed 3 --seconds 20", "seed 3", "Mbit/s", "ms", "Time (s)"):
        assert words in text
    assert ("RSRP (dBm)" in text) == (name == "walk")
    assert picture.read_bytes().startswith(b"\x89PNG")
    again, _ = run(name, tmp_path / "again", seed=3, seconds=20.0)
    assert again.read_text() == text


def test_a_recording_is_drawn_by_its_folder_and_says_what_it_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "lumos5g"
    folder.mkdir()
    (folder / "trace").write_text("0 5\n1 7\n2 0\n3 8\n")
    drawing, _ = run(str(folder / "trace"), tmp_path / "out", assumed=Assumed(rtt_s=0.07))
    text = drawing.read_text()
    assert "uplink 10 Mbit/s, round trip 70 ms" in text
    assert "--rtt-ms 70" in text
    with pytest.raises(ValueError, match="of what format"):
        run(str(drawing), tmp_path / "out")
    with pytest.raises(ValueError, match="neither a file nor one of"):
        run("wlak", tmp_path / "out")
