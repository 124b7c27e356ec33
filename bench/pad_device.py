"""A device process for the padding bench: a line of JSON asks for a session, a line answers it.

It runs what ``device_client generate`` runs, with a drafter that is loaded once and no stop ids, so that all answers
have the same number of tokens.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from airdraft.core.cells import Padding
from airdraft.wire import client as client_module
from airdraft.wire.padding import PaddedCall
from device_client import generate as command_module
from device_client.config import DeviceSettings

PADDINGS = {"plain": None, "sized": Padding(interval_s=0.0), "padded": Padding()}
"""The arms: what is said as it is, in cells that leave when there is something to say, and in cells at a pace."""


def main() -> None:
    """Answer requests until the input ends."""
    torch.set_num_threads(1)
    client: Any = client_module
    command: Any = command_module
    load, opened = command.load_drafter, command.open_session
    kept: dict[str, Any] = {}

    def loaded(reference: str, *more: Any) -> Any:
        if reference not in kept:
            kept[reference] = load(reference, *more)
        return kept[reference]

    def unending(ids: Any, description: Any, *more: Any) -> Any:
        return opened(ids, replace(description, stop_ids=()), *more)

    command.load_drafter, command.open_session = loaded, unending
    for line in sys.stdin:
        request = json.loads(line)
        padding = PADDINGS[request["arm"]]
        if padding is not None:
            client.PaddedCall = partial(PaddedCall, padding=padding)
        settings = DeviceSettings(
            edge=(request["edge"],),
            draft_model="demo",
            max_tokens=request["tokens"],
            schedule="sync",  # rounds, from which an observer learns most
            pad=padding is not None,
        )
        report = asyncio.run(command.generate(request["prompt"], settings, Path(request["cache"]), quiet=True))
        session = report.session
        print(json.dumps({"ids": list(session.ids[session.prompt_length :]), "seconds": report.seconds}), flush=True)


if __name__ == "__main__":
    main()
