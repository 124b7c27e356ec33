"""Which heads an edge serves with, and that a file that is none ends the start with one line."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from airdraft.checkpoint import DEMO_FOLDERS
from edge_node import server
from edge_node.audit_checks import same_by
from edge_node.config import EdgeSettings
from edge_node.heads import HeadRefused, save_head
from edge_node.server import EdgeServer, head_files, load_of
from tests.heads import head_by_gap


def test_the_demo_model_brings_its_heads_and_another_model_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "heads").mkdir()
    for name in ("b", "a"):
        save_head(tmp_path / "heads" / f"{name}.safetensors", head_by_gap(name))
    shipped = [tmp_path / "heads" / "a.safetensors", tmp_path / "heads" / "b.safetensors"]
    monkeypatch.setattr(server, "DEMO_FOLDERS", (tmp_path,))
    assert head_files(EdgeSettings()) == shipped
    assert head_files(EdgeSettings(model="org/other")) == []
    assert head_files(EdgeSettings(model="org/other", head=("demo",))) == shipped
    assert head_files(EdgeSettings(head=("none",))) == []
    assert head_files(EdgeSettings(semantic=False)) == []
    both = EdgeSettings(head=("demo", "own.safetensors"))
    assert head_files(both) == [*shipped, Path("own.safetensors")]
    assert load_of(both, head_files(both)).heads == (*map(str, shipped), "own.safetensors")


def test_an_installation_without_demo_heads_says_so_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server, "DEMO_FOLDERS", (tmp_path,))
    assert head_files(EdgeSettings()) == []
    with pytest.raises(HeadRefused, match="no heads of the demo model"):
        head_files(EdgeSettings(head=("demo",)))


def test_a_broken_head_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_head(path, head_by_gap())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HeadRefused, match=r"cut\.safetensors") as caught:
        EdgeServer(EdgeSettings(head=(str(path),)), lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_head_with_numbers_that_are_none_is_refused(tmp_path: Path) -> None:
    head = head_by_gap()
    head.target[0, 0] = np.nan
    save_head(tmp_path / "nan.safetensors", head)
    with pytest.raises(HeadRefused, match="not finite"):
        EdgeServer(EdgeSettings(head=(str(tmp_path / "nan.safetensors"),)), lambda line: None)


async def test_a_head_of_another_model_ends_the_start(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the edge's packages")
    save_head(tmp_path / "other.safetensors", head_by_gap(target_width=128))
    settings = EdgeSettings(port=0, head=(str(tmp_path / "other.safetensors"),), edge_draft_model="none")
    async with asyncio.timeout(60):
        with pytest.raises((HeadRefused, ValueError), match="another") as caught:
            await EdgeServer(settings, lambda line: None).serve(lambda address: None)
    assert "\n" not in str(caught.value)


def test_a_refused_head_is_exit_code_2_and_one_line(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the edge's packages")
    command = [sys.executable, "-m", "edge_node", "serve", "--head", str(tmp_path / "nowhere.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "nowhere.safetensors" in line


@pytest.mark.parametrize(("name", "value"), [("most_loss", 1.0), ("most_loss", -0.1), ("audit_share", 1.1)])
def test_settings_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        EdgeSettings.model_validate({name: value})


def test_heads_in_a_variable_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRDRAFT_EDGE_HEAD", "demo, own.safetensors")
    assert EdgeSettings.load({}).head == ("demo", "own.safetensors")


def test_answers_are_compared_by_their_number_where_the_target_gave_one() -> None:
    tokenizer = Tokenizer.from_file(str(DEMO_FOLDERS[0] / "target" / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text).ids
        return found

    number, exact, score = (same_by(check, tokenizer.decode) for check in ("number", "exact", "own-score"))
    ours = ids("Tom has 7 apples.\n#### 12")
    assert number(ours, ids("So there are 7.\n#### 12")) is True
    assert number(ours, ids("Tom has 7 apples.\n#### 13")) is False
    assert number(ours, ids("Tom has 7 apples.")) is False
    assert number(ids("Tom has"), ours) is None
    assert exact(ours, ours) is True
    assert exact(ours, ids("Tom")) is False
    assert score(ours, ours) is None
