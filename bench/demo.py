"""``python -m bench demo``: the main job on one machine. An edge node and a device, text over gRPC on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench.processes import ONE_THREAD, edge_node
from bench.prompts import held_out


def run() -> int:
    """Start an edge node, ask it one question through a drafting device, stop it; return the device's exit code."""
    prompt = held_out(8)[-1]
    print("airdraft demo: an edge node and a device on this machine, over gRPC on loopback.")
    print("Drafted words are dim until the target has confirmed them. (Demo models: a test instrument, no chatbot.)\n")
    with edge_node(["--model", "demo"]) as address:
        print(f"\nprompt: {prompt}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "device_client", "generate", "-", "--edge", address, "--draft-model", "demo"],
            input=prompt,
            text=True,
            env=os.environ | ONE_THREAD,
            check=False,
        )
    commands = os.path.relpath(Path(sys.executable).parent)
    print(f"\nTry your own: {commands}/edge_node serve --model demo, and in another shell")
    print(f"{commands}/device_client generate --draft-model demo 'Tom has 3 pens. He buys 4 more. How many now?'")
    return done.returncode
