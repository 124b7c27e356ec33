"""A device install alone: no torch, no transformers, the n-gram drafter, and an edge node in another environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

EDGE_PYTHON = "AIRDRAFT_TEST_EDGE_PYTHON"


def test_nothing_heavy_is_installed() -> None:
    assert find_spec("torch") is None
    assert find_spec("transformers") is None
    assert find_spec("airdraft") is not None


def test_a_device_without_torch_drafts_and_gets_the_targets_text(tmp_path: Path) -> None:
    home = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    edge = subprocess.Popen(
        [os.environ[EDGE_PYTHON], "-m", "edge_node", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert edge.stdout is not None
        address = edge.stdout.readline().split()[1]
        answers = {}
        options = ("--edge", address, "--json")
        prompt = "Tom has 3 pens. Tom gets 4 more pens. Tom gets 4 more pens. How many pens does Tom have?\n"
        for length in (0, 1, 6):
            done = subprocess.run(
                [sys.executable, "-m", "device_client", "generate", prompt, *options, f"--draft-length={length}"],
                capture_output=True, text=True, env=home, timeout=60, check=True,
            )  # fmt: skip
            answers[length] = json.loads(done.stdout)
        assert answers[0]["drafted_tokens"] == 0
        assert answers[6]["drafted_tokens"] > 0
        assert answers[1]["ids"] == answers[6]["ids"] == answers[0]["ids"]
        assert answers[0]["tokens"] > 10
        refused = subprocess.run(
            [sys.executable, "-m", "device_client", "generate", "x", "--edge", address, "--draft-model", "demo"],
            capture_output=True, text=True, env=home, timeout=60, check=False,
        )  # fmt: skip
        assert refused.returncode == 2
        assert "pip install 'airdraft[device-torch]'" in refused.stderr
    finally:
        edge.terminate()
        edge.communicate(timeout=60)
