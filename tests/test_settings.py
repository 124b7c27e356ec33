"""Command line over environment over file over default; unknown keys fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from airdraft.settings import SettingsError
from device_client.config import DeviceSettings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text("[device_client]\nedge = 'file:1'\nmax_tokens = 7\ndraft_length = 9\n[edge_node]\nport = 1\n")
    monkeypatch.setenv("AIRDRAFT_DEVICE_MAX_TOKENS", "8")
    monkeypatch.setenv("AIRDRAFT_DEVICE_EDGE", "environment:1")
    return path


def test_the_order_of_sources(config: Path) -> None:
    settings = DeviceSettings.load({"edge": "line:1", "max_tokens": None}, config)
    assert settings.edge == ("line:1",)
    assert settings.max_tokens == 8
    assert settings.draft_length == 9
    assert settings.draft_model == "ngram"


def test_the_file_may_be_named_by_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRDRAFT_CONFIG", str(config))
    assert DeviceSettings.load({}).draft_length == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[device_client]\nedgee = 'x'\n", "unknown key 'edgee' in .*known: .*edge"),
        ("[device_client]\ndraft_length = 'x'\n", "draft-length: .*got 'x'"),
        ("[device_client", "is not TOML"),
        (f"x = {'[' * 3000}", "is not TOML: it is nested too deep"),
        ("x = 2026-02-30", "is not TOML"),
        ("device_client = 3", "must be a table"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        DeviceSettings.load({}, path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(b"[device_client]\n# \xff\n")
    with pytest.raises(SettingsError, match="is not TOML: it is no text"):
        DeviceSettings.load({}, path)


def test_a_misspelt_variable_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRDRAFT_DEVICE_EGDE", "x")
    with pytest.raises(SettingsError, match="unknown variable AIRDRAFT_DEVICE_EGDE"):
        DeviceSettings.load({})
