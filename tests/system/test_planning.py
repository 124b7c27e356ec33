"""Plans as a user meets them: explained, chosen by an objective, ended by a policy, and logged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

from bench.processes import edge_node
from coordinator.policy.train import row_of
from models.wordproblems import word_problem

PROMPT = word_problem("held-out", 3).prompt


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with edge_node() as running:
        yield running


def device(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "device_client", "generate", PROMPT, *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def report(*arguments: str) -> dict[str, Any]:
    done = device("--json", *arguments)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.fixture(scope="module")
def alone(address: str) -> list[int]:
    ids: list[int] = report("--edge", address, "--draft-length", "0")["ids"]
    return ids


@pytest.mark.parametrize("objective", ["device-seconds", "user=1,edge=0.5"])
def test_whatever_is_to_be_saved_the_text_is_the_same(address: str, alone: list[int], objective: str) -> None:
    read = report("--edge", address, "--draft-model", "demo", "--objective", objective)
    assert read["ids"] == alone
    assert read["plans"][0]["from_token"] == 0
    if objective == "device-seconds":
        assert read["plans"][0]["plan"] == "edge"


def test_a_plan_explains_itself(address: str) -> None:
    done = device("--edge", address, "--draft-model", "demo", "--explain-plan")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert "tokens a round" in lines[0], "first what it cost"
    assert lines[1].startswith("from token 0: split")
    told = "\n".join(lines)
    for word in ("round trip", "a drafted token", "acceptance", "edge: a pass", "price"):
        assert word in told
    table = lines[next(index for index, line in enumerate(lines) if line.startswith("plan ")) :]
    assert sum(line.endswith("<- taken") for line in table) == 1
    assert {line.split()[0].rstrip(",") for line in table[1:]} >= {"edge", "split"}


def test_a_plan_of_the_settings_says_so(address: str) -> None:
    done = device("--edge", address, "--schedule", "sync", "--explain-plan")
    assert "the settings ask for it" in done.stderr.splitlines()[-1]
    assert "from token 0: split, frames of 4, one at a time" in done.stderr


@pytest.mark.parametrize("policy", ["specdec++", "bandit"])  # one that stops by confidence, one by rounds
@pytest.mark.slow
def test_a_policy_that_ends_frames_leaves_the_text_as_it_is(address: str, alone: list[int], policy: str) -> None:
    sync = ("--edge", address, "--draft-model", "demo", "--schedule", "sync")
    read = report(*sync, "--draft-policy", policy)
    assert read["ids"] == alone
    assert read["drafted_tokens"] > 0


def test_rounds_are_logged_as_the_training_reads_them(address: str, tmp_path: Path) -> None:
    log, weights = tmp_path / "rounds.jsonl", tmp_path / "mine.json"
    for length in ("1", "4"):
        report("--edge", address, "--draft-model", "demo", "--schedule", "sync", "--draft-length", length,
               "--round-log", str(log))  # fmt: skip
    rows = [row_of(line) for line in log.read_text().splitlines()]
    assert len(rows) >= 6
    assert {row[-3] for row in rows} >= {1.0, 4.0}, "the drafts' lengths"
    train = [sys.executable, "-m", "coordinator", "train-draft-length", str(log), "--out", str(weights)]
    done = subprocess.run(train, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, "too few to learn from"
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objective", "speed"], "objective speed is none of latency, edge-seconds, device-seconds"),
        (["--draft-policy", "guess"], "draft policy guess is none of fixed, confidence"),
        (["--draft-policy", "mlp:nowhere.json"], "draft policy mlp:nowhere.json: No such file"),
        (["--round-log", "/nowhere/rounds"], "round log /nowhere/rounds cannot be written"),
    ],
)
def test_what_cannot_be_planned_by_is_refused_in_one_line(address: str, arguments: list[str], words: str) -> None:
    done = device("--edge", address, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
